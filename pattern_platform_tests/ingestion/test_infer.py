"""Drafts for files that nobody has described: what they say, and that they are taken as they are."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import yaml

from pattern_platform.errors import UnreadableFileError
from pattern_platform.ingestion.registry.infer import Draft, infer
from pattern_platform.ingestion.registry.rows import read_registry
from pattern_platform_tests.ingestion.onboarding import DAY, Onboarded, land

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2024, 5, 6, tzinfo=UTC)


def drafted(folder: Path, name: str, content: str | bytes | pl.DataFrame) -> Draft:
    return infer(land(folder, name, content), folder / "landing", name="new", owner="team:shop")


def cells(draft: Draft) -> dict[str, str]:
    (row,) = csv.DictReader(io.StringIO(draft.row))
    return {name: value for name, value in row.items() if value}


def columns(draft: Draft) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load(draft.contract)["columns"]
    return {name: {k: v for k, v in about.items() if k != "description"} for name, about in found.items()}


def taken(folder: Path, draft: Draft) -> Onboarded:
    """The draft as it is, put where it says, with not a character changed."""
    (folder / draft.contract_name).parent.mkdir(parents=True, exist_ok=True)
    (folder / draft.contract_name).write_text(draft.contract)
    (folder / "registry.csv").write_text(draft.row)
    (dataset,) = read_registry(folder / "registry.csv", retention_days=30).values()
    return Onboarded(folder, dataset)


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def sales(count: int) -> str:
    """More rows than it takes to tell a category from a text."""
    rows = [f"{n},2024-05-06T{n % 24:02}:00:00Z,{n / 4},{'web' if n % 3 else 'shop'}" for n in range(count)]
    return "number,at,euros,kind\n" + "".join(row + "\n" for row in rows)


ERP = f"""\
No.,Booked at,Amount EUR,Zip,Phone
A1,{DAY} 08:00:00,NULL,01234,+33612345678
A2,{DAY} 09:00:00,3.5,75001,+33612345679
"""
FILES: dict[str, tuple[str, str | bytes | pl.DataFrame, str, int]] = {
    "csv a day": (f"sales/date={DAY}/a.csv", sales(40), DAY, 40),
    "jsonl a day": (
        f"weather/{DAY}.jsonl",
        lines(
            {"id": "a", "at": f"{DAY}T01:00:00Z", "air": {"celsius": 11.5, "wet": {"share": 1}}, "ok": True},
            {"id": "b", "at": f"{DAY}T02:00:00+02:00", "air": {"celsius": None, "wet": None}, "ok": False, "note": "x"},
        ),
        DAY,
        2,
    ),
    "jsonl an hour": (f"h/date={DAY}/hour=05/a.jsonl", lines({"id": "1", "at": f"{DAY}T05:01:00Z"}), f"{DAY}-05:00", 1),
    "compressed": (
        f"sensors/date={DAY}/a.csv.gz",
        gzip.compress(f"id,at,v\n1,{DAY}T00:00:00Z,0.1\n2,{DAY}T01:00:00Z,7\n".encode()),
        DAY,
        2,
    ),
    "dimension": ("reference/countries.csv", "code,name\nFR,France\nDE,Germany\n", "", 2),
    "beside others": ("countries.csv", "code,name\nFR,France\nDE,Germany\n", "", 2),
    "parquet": (
        f"trips/date={DAY}/a.parquet",
        pl.DataFrame(
            {
                "trip": [1, 2],
                "at": [START, START.replace(hour=1)],
                "day": [date(2024, 5, 6)] * 2,
                "miles": [0.5, None],
                "ok": [True, False],
                "note": ["", "x"],
            }
        ),
        DAY,
        2,
    ),
    "erp": (
        f"erp/BOOKINGS_{DAY}.csv",
        ERP,
        DAY,
        2,
    ),
    "days alone": (f"rates/date={DAY}/a.csv", f"currency,day,rate\nEUR,{DAY},1\nUSD,{DAY},1.08\n", DAY, 2),
    "epochs": (
        f"pings/date={DAY}/a.csv",
        f"id,ts\n1,{int(START.timestamp()) * 1000}\n2,{int(START.timestamp()) * 1000 + 1}\n",
        DAY,
        2,
    ),
    "lists": (
        f"orders/date={DAY}/a.jsonl",
        lines({"id": "1", "at": f"{DAY}T01:00:00Z", "tags": ["a"], "of": [{"a": 1}]}),
        DAY,
        1,
    ),
    "empty objects": (
        f"e/date={DAY}/a.jsonl",
        lines({"id": "1", "at": f"{DAY}T01:00:00Z", "o": {}, "n": None}),
        DAY,
        1,
    ),
    "odd names": (
        "odd/a.csv",
        "id,2m temp,température,a.b,a_b,filter,reasons\n1,2,3,4,5,6,7\n",
        "",
        1,
    ),
    "long numbers": ("ids/a.csv", "id,n\n12345678901234567890,1\n12345678901234567891,2\n", "", 2),
}


@pytest.mark.parametrize(("name", "content", "partition", "clean"), FILES.values(), ids=FILES)
def test_a_draft_is_taken_as_it_is(
    tmp_path: Path, name: str, content: str | bytes | pl.DataFrame, partition: str, clean: int
) -> None:
    """The registry takes it, and each row of the file becomes clean."""
    draft = drafted(tmp_path, name, content)
    platform = taken(tmp_path, draft)
    if platform.dataset.partitions is None:
        partition = ""
    platform.ingest(partition)
    assert platform.rejects() == {}
    assert platform.of("clean").height == clean


def test_what_is_drafted_for_csv(tmp_path: Path) -> None:
    draft = drafted(tmp_path, f"sales/date={DAY}/a.csv", sales(40))
    assert cells(draft) == {
        "name": "new",
        "description": "Records of new.",
        "owner": "team:shop",
        "source": "sales/date=%Y-%m-%d/*.csv",
        "format": "csv",
        "stage": "clean",
        "primary_key": "number",
        "incremental_field": "at",
        "partition_field": "at",
        "granularity": "day",
        "ingestion_style": "incremental",
        "starts": DAY,
        "contract": "contracts/new.yaml",
        "new_columns": "refuse",
    }
    assert columns(draft) == {
        "number": {"type": "integer", "key": True},
        "at": {"type": "timestamp"},
        "euros": {"type": "number"},
        "kind": {"type": "category", "values": ["shop", "web"]},
    }


def test_what_is_drafted_for_nested_objects(tmp_path: Path) -> None:
    _, content, _, _ = FILES["jsonl a day"]
    found = columns(drafted(tmp_path, f"weather/{DAY}.jsonl", content))
    assert found == {
        "id": {"type": "text", "key": True},
        "at": {"type": "timestamp"},
        "air_celsius": {"type": "number", "optional": True, "source": "air.celsius"},
        "air_wet_share": {"type": "integer", "optional": True, "source": "air.wet.share"},
        "ok": {"type": "boolean"},
        "note": {"type": "text", "optional": True},
    }


def test_what_is_drafted_for_hours(tmp_path: Path) -> None:
    name, content, _, _ = FILES["jsonl an hour"]
    found = cells(drafted(tmp_path, name, content))
    assert (found["granularity"], found["source"]) == ("hour", "h/date=%Y-%m-%d/hour=%H/*.jsonl")


@pytest.mark.parametrize(
    ("values", "about"),
    [
        (["1", "2"], {"type": "integer"}),
        (["1", "2.5"], {"type": "number"}),
        (["1e-3", "-2"], {"type": "number"}),
        (["true", "false"], {"type": "boolean"}),
        (["yes", "no"], {"type": "text"}),
        (["01234", "75001"], {"type": "text"}),
        (["+33612345678", "+33612345679"], {"type": "text"}),
        (["12345678901234567890", "1"], {"type": "text"}),
        (["2024-05-06", "2024-05-07"], {"type": "date"}),
        (["2024-05-06T01:00:00Z", "2024-05-06T01:00:00+02:00"], {"type": "timestamp"}),
        (["2024-05-06 01:00:00", "2024-05-06 02:00:00.5"], {"type": "timestamp"}),
        (["06/05/2024", "07/05/2024"], {"type": "text"}),
        (["1", ""], {"type": "integer", "optional": True}),
        (["1", "NULL"], {"type": "integer", "optional": True}),
        (["x", "NA"], {"type": "text"}),
        (["", ""], {"type": "text", "optional": True}),
        (["0", "1"], {"type": "integer"}),
        (["1,5", "2"], {"type": "text"}),
    ],
)
def test_what_a_column_of_csv_is(tmp_path: Path, values: list[str], about: dict[str, Any]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("id", "v"), *((f"k{n}", value) for n, value in enumerate(values))])
    assert columns(drafted(tmp_path, "new/a.csv", text.getvalue()))["v"] == about


DOUBTS = {
    "always": ("new/a.csv", "id,v\n1,2\n", "every description is a placeholder"),
    "no key": ("new/a.csv", "k,v\na,1\na,2\nb,1\nb,1\n", "no column is unique"),
    "no zone": (f"new/{DAY}.csv", f"id,at\n1,{DAY} 01:00:00\n", "at does not say its time zone: UTC was proposed"),
    "nothing": ("new/a.csv", "id,v\n1,NULL\n2,3\n", "NULL was taken for a missing value"),
    "no partition": ("new/a.csv", f"id,at\n1,{DAY}T01:00:00Z\n", "a full load was proposed"),
    "no time": (f"new/{DAY}.csv", "id,v\na,b\n", "timestamp"),
}


@pytest.mark.parametrize(("name", "content", "told"), DOUBTS.values(), ids=DOUBTS)
def test_what_a_person_must_look_at_is_said(tmp_path: Path, name: str, content: str, told: str) -> None:
    assert any(told in doubt for doubt in drafted(tmp_path, name, content).doubts)


def test_what_is_certain_is_not_doubted(tmp_path: Path) -> None:
    """The negative control of the test above."""
    assert len(drafted(tmp_path, f"sales/date={DAY}/a.csv", sales(40)).doubts) == 1


def test_a_file_elsewhere_is_doubted(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,v\n1,2\n")
    draft = infer(file, tmp_path / "landing", name="new", owner="team:shop")
    assert any("not below the landing folder" in doubt for doubt in draft.doubts)


def test_a_key_is_called_so_before_others(tmp_path: Path) -> None:
    draft = drafted(tmp_path, "new/a.csv", "line,sale_id,euros\n1,a,1.5\n2,b,2.5\n")
    assert cells(draft)["primary_key"] == "sale_id"


def test_a_file_beside_others_is_named_alone(tmp_path: Path) -> None:
    land(tmp_path, "customers.csv", "other,columns\n1,2\n")
    draft = drafted(tmp_path, "countries.csv", "code,name\nFR,France\n")
    platform = taken(tmp_path, draft)
    platform.ingest()
    assert platform.of("clean").height == 1


REFUSED: dict[str, tuple[str, str | bytes | None, str]] = {
    "not there": ("new/a.csv", None, "not there"),
    "of a spreadsheet": ("new/a.xlsx", b"PK\x03\x04", "ends in none of .csv, .jsonl"),
    "without rows": ("new/a.csv", "id,v\n", "no rows"),
    "empty": ("new/a.csv", "", "csv"),
    "cut off": ("new/a.jsonl", '{"id": 1}\n{"id": ', "jsonl"),
    "no text": ("new/a.csv", b"id,v\n\xff\xfe,1\n", "csv"),
    "no parquet": ("new/a.parquet", "id,v\n", "parquet"),
    "not compressed": ("new/a.csv.gz", b"\x1f\x8bid,v\n", "csv"),
    "semicolons": ("new/a.csv", "id;at;euros\n1;2024-05-06;1,5\n", "separated"),
    "semicolons alone": ("new/a.csv", "id;at;euros\n1;2024-05-06;1\n", "separated"),
}


@pytest.mark.parametrize(("name", "content", "told"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_tells_nothing_is_refused(
    tmp_path: Path, name: str, content: str | bytes | None, told: str
) -> None:
    file = tmp_path / "landing" / name
    if content is not None:
        land(tmp_path, name, content)
    with pytest.raises(UnreadableFileError) as refused:
        infer(file, tmp_path / "landing", name="new", owner="team:shop")
    assert told in refused.value.why
    assert file.name in refused.value.what


def test_lists_of_parquet_are_refused_or_doubted(tmp_path: Path) -> None:
    """They are refused when the file is read."""
    frame = pl.DataFrame({"id": [1], "at": [START], "tags": [["a", "b"]]})
    told = []
    try:
        told = drafted(tmp_path, f"new/{DAY}.parquet", frame).doubts
    except UnreadableFileError as error:
        told = [error.why]
    assert any("tags" in sentence for sentence in told)
