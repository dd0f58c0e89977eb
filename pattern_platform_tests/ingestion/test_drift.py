"""A source that changes: what is new, what is gone, what is of another type; refused, kept or ignored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

from pattern_platform.ingestion.registry.contract_diff import contract_diff
from pattern_platform.ingestion.registry.contract_file import parse_contract
from pattern_platform.lake.schema_history import schema_history
from pattern_platform_tests.ingestion.onboarding import CONTRACT, DAILY, DAY, INCREMENTAL, Onboarded, onboard

if TYPE_CHECKING:
    from pathlib import Path

NEXT = "2024-05-07"
NESTED = """\
description: One sale.
columns:
  id: {type: text, key: true, description: Number of the sale.}
  at: {type: timestamp, description: When it was.}
  euros: {type: number, optional: true, source: paid.euros, description: What was paid.}
  network: {type: text, optional: true, source: context.network, description: How it was sent.}
"""
JSONL = {**DAILY, "source": "sales/date=%Y-%m-%d/*.jsonl", "format": "jsonl"}
PARQUET = {**DAILY, "source": "sales/date=%Y-%m-%d/*.parquet", "format": "parquet"}


def of(folder: Path, row: dict[str, str], new_columns: str, contract: str = CONTRACT) -> Onboarded:
    return onboard(folder, {**row, "new_columns": new_columns}, contracts={"contracts/sales.yaml": contract})


def land_csv(platform: Onboarded, day: str, *lines: str) -> None:
    platform.land(f"sales/date={day}/a.csv", "".join(line + "\n" for line in lines))


def land_jsonl(platform: Onboarded, day: str, *records: object) -> None:
    platform.land(f"sales/date={day}/a.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def sale(number: int, **others: object) -> dict[str, object]:
    return {"id": str(number), "at": f"{DAY}T01:00:00Z", "paid": {"euros": 1.5}, **others}


# csv ------------------------------------------------------------------------------------------------------------------


def test_csv_refused(tmp_path: Path) -> None:
    platform = of(tmp_path, DAILY, "refuse")
    land_csv(platform, DAY, "id,at,euros,note", f"1,{DAY}T01:00:00Z,1,hello")
    land_csv(platform, NEXT, "id,at,euros", f"1,{NEXT}T01:00:00Z,1")
    error = platform.refusal(DAY)
    assert "WrongHeaderError" in error
    assert "its header is with note" in error
    assert f"partition {DAY}" in error
    assert "hello" not in error
    platform.ingest(NEXT)
    assert platform.of("clean").height == 1


def test_csv_kept_as_text_and_older_partitions_are_replayed(tmp_path: Path) -> None:
    platform = of(tmp_path, DAILY, "keep")
    land_csv(platform, DAY, "id,at,euros", f"1,{DAY}T01:00:00Z,1")
    platform.ingest(DAY)
    land_csv(platform, NEXT, "id,note,at,euros", f"2,7,{NEXT}T01:00:00Z,2")
    platform.ingest(NEXT)
    wanted = [{"id": "1", "euros": 1.0, "note": None}, {"id": "2", "euros": 2.0, "note": "7"}]
    for again in (DAY, NEXT):
        assert platform.of("clean").select("id", "euros", "note").to_dicts() == wanted
        platform.ingest(again)
    assert platform.of("clean").schema["note"] == pl.String
    assert [set(made.schema) for made in schema_history(platform.lake / "clean/sales")] == [
        {"id", "at", "euros"},
        {"id", "at", "euros", "note"},
    ]


def test_a_range_over_the_day_on_which_a_column_came(tmp_path: Path) -> None:
    platform = of(tmp_path, DAILY, "keep")
    land_csv(platform, DAY, "id,at,euros,old", f"1,{DAY}T01:00:00Z,1,a")
    land_csv(platform, NEXT, "id,at,euros,new", f"2,{NEXT}T01:00:00Z,2,b")
    result = platform.run_range(platform.selected(), DAY, NEXT)
    assert result.success
    assert platform.of("clean").select("id", "old", "new").to_dicts() == [
        {"id": "1", "old": "a", "new": None},
        {"id": "2", "old": None, "new": "b"},
    ]


def test_csv_ignored_in_whatever_order(tmp_path: Path) -> None:
    platform = of(tmp_path, DAILY, "ignore")
    land_csv(platform, DAY, "note,euros,at,id", f"x,1,{DAY}T01:00:00Z,1")
    platform.ingest(DAY)
    assert platform.of("clean").columns == ["id", "at", "euros"]
    assert platform.of("clean")["id"].to_list() == ["1"]


@pytest.mark.parametrize("new_columns", ["refuse", "keep", "ignore"])
def test_csv_without_a_column_that_must_be_there(tmp_path: Path, new_columns: str) -> None:
    platform = of(tmp_path, DAILY, new_columns)
    land_csv(platform, DAY, "id,euros", "1,1")
    error = platform.refusal(DAY)
    assert "without at" in error or "\n          - at" in error


def test_csv_that_keeps_may_lack_an_optional_column(tmp_path: Path) -> None:
    platform = of(tmp_path, DAILY, "keep")
    land_csv(platform, DAY, "id,at", f"1,{DAY}T01:00:00Z")
    platform.ingest(DAY)
    assert platform.of("clean").to_dicts()[0]["euros"] is None


def test_a_column_of_another_type_stops_the_partition_and_one_bad_row_does_not(tmp_path: Path) -> None:
    platform = of(tmp_path, DAILY, "refuse")
    lines = [f"{number},{DAY}T01:00:00Z" for number in range(20)]
    land_csv(platform, DAY, "id,at,euros", *(f"{line},EUR 1" for line in lines))
    land_csv(platform, NEXT, "id,at,euros", *(f"{line.replace(DAY, NEXT)},EUR 1" for line in lines[:9]))
    error = platform.refusal(DAY)
    assert "ChangedSourceError" in error
    assert "~ euros: no value is a Float64" in error
    assert "pattern-platform schema diff" in error
    platform.ingest(NEXT)
    assert set(map(tuple, platform.rejects().values())) == {("euros: not a number",)}
    land_csv(platform, DAY, "id,at,euros", f"{lines[0]},1", *(f"{line},EUR 1" for line in lines[1:]))
    platform.ingest(DAY)
    assert platform.of("clean")["id"].to_list() == ["0"]
    assert platform.of("quarantine").height == 19 + 9


# jsonl ----------------------------------------------------------------------------------------------------------------

FIELDS = {
    "field": ({"note": "x"}, ["note"]),
    "two": ({"b": 1, "a": 2}, ["a", "b"]),
    "beside a nested one": ({"paid": {"euros": 1, "cents": 2}}, ["paid.cents"]),
    "object": ({"more": {"a": {"b": 1}}}, ["more"]),
    "null": ({"note": None}, ["note"]),
    "list": ({"tags": ["a"]}, ["tags"]),
}


@pytest.mark.parametrize(("others", "told"), FIELDS.values(), ids=FIELDS)
def test_a_new_field_of_one_record_is_told_with_its_path(
    tmp_path: Path, others: dict[str, object], told: list[str]
) -> None:
    platform = of(tmp_path, JSONL, "refuse", NESTED)
    land_jsonl(platform, DAY, sale(1), sale(2, **others), sale(3))
    error = platform.refusal(DAY)
    assert [line.strip() for line in error.splitlines() if line.startswith("          ")] == [
        f"+ {field}" for field in told
    ]
    assert 'new_columns "keep" or "ignore"' in error


def test_what_the_contract_knows_is_not_new(tmp_path: Path) -> None:
    """The negative control of the test above."""
    platform = of(tmp_path, JSONL, "refuse", NESTED)
    land_jsonl(platform, DAY, sale(1), sale(2, context={"network": "LAN"}), sale(3, context=None))
    platform.ingest(DAY)
    assert platform.of("clean")["network"].to_list() == [None, "LAN", None]


def test_new_fields_are_kept_as_text(tmp_path: Path) -> None:
    platform = of(tmp_path, JSONL, "keep", NESTED)
    records = [
        sale(1, note="x", count=7, share=0.1, ok=True, tags=["a", 1], more={"b": None}, unit_price=1),
        sale(2, paid={"euros": 1.5, "cents": 12345678901234567890}),
    ]
    land_jsonl(platform, DAY, *records)
    platform.ingest(DAY)
    first, second = platform.of("clean").to_dicts()
    assert {name: first[name] for name in ("note", "count", "share", "ok", "tags", "more")} == {
        "note": "x",
        "count": "7",
        "share": "0.1",
        "ok": "true",
        "tags": '["a",1]',
        "more": '{"b":null}',
    }
    assert (first["paid_cents"], second["paid_cents"]) == (None, "12345678901234567890")
    assert second["note"] is None


def test_a_new_field_never_takes_the_place_of_a_column_of_the_contract(tmp_path: Path) -> None:
    platform = of(tmp_path, JSONL, "keep", NESTED)
    land_jsonl(platform, DAY, sale(1, network="WRONG", context={"network": "LAN"}))
    result = platform.run(platform.selected(), DAY)
    if result.success:
        assert platform.of("clean")["network"].to_list() == ["LAN"]
    else:
        assert "network" in platform.refusal(DAY)


@pytest.mark.parametrize(
    "others", [{"note.text": "x"}, {"ID": "x"}, {"note": 1, "Note": 2}, {"a_b": 1, "a": 2, "a.b": 3}]
)
def test_new_fields_with_awkward_names_are_kept_or_refused_by_name(tmp_path: Path, others: dict[str, object]) -> None:
    """Never lost without a word, and never an error of an engine."""
    platform = of(tmp_path, JSONL, "keep", NESTED)
    land_jsonl(platform, DAY, sale(1, **others))
    if platform.run(platform.selected(), DAY).success:
        (row,) = platform.of("clean").to_dicts()
        kept = {value for name, value in row.items() if name not in ("id", "at", "euros", "network")}
        assert kept >= {str(value) for value in others.values()}
    else:
        assert any(name in platform.refusal(DAY) for name in others)


def test_new_fields_that_would_be_one_column_are_told_both(tmp_path: Path) -> None:
    platform = of(tmp_path, JSONL, "keep", NESTED)
    land_jsonl(platform, DAY, sale(1, **{"a-b": 1, "a b": 2, "c": 3}))
    error = platform.refusal(DAY)
    assert "+ a-b (its column has the name of another)" in error
    assert "+ a b (its column has the name of another)" in error
    assert "+ c" not in error


def test_quotes_in_the_name_of_an_object_are_part_of_the_name(tmp_path: Path) -> None:
    name = 'it\'s "so" \\'
    contract = NESTED.replace("context.network", json.dumps(f"{name}.network"))
    platform = of(tmp_path, JSONL, "keep", contract)
    land_jsonl(platform, DAY, sale(1, **{name: {"network": "LAN"}}), sale(2, **{name: 7}))
    assert platform.run(platform.selected(), DAY).success
    assert platform.of("clean")["network"].to_list() == ["LAN"]
    assert [*platform.rejects().values()] == [[f"{name}: not an object"]]


@pytest.mark.parametrize("others", [{"note": "x"}, {"ID": "x"}, {"at.": 1}, {"paid": {"euros": 2, "Euros": 3}}])
def test_new_fields_are_ignored_whatever_they_are_called(tmp_path: Path, others: dict[str, object]) -> None:
    platform = of(tmp_path, JSONL, "ignore", NESTED)
    land_jsonl(platform, DAY, sale(1), sale(2, **others))
    platform.ingest(DAY)
    clean = platform.of("clean")
    assert clean.columns == ["id", "at", "euros", "network"]
    assert clean["id"].to_list() == ["1", "2"]
    assert clean["euros"].to_list() == [1.5, 2.0 if "paid" in others else 1.5]


@pytest.mark.parametrize("new_columns", ["refuse", "keep", "ignore"])
def test_a_required_field_that_is_in_no_record_stops_the_partition(tmp_path: Path, new_columns: str) -> None:
    platform = of(tmp_path, JSONL, new_columns, NESTED)
    land_jsonl(platform, DAY, *({"id": str(number), "time": f"{DAY}T01:00:00Z"} for number in range(3)))
    error = platform.refusal(DAY)
    assert "- at" in error
    assert ("+ time" in error) is (new_columns == "refuse")


def test_lines_that_are_no_records_are_no_matter_of_the_source(tmp_path: Path) -> None:
    platform = of(tmp_path, JSONL, "refuse", NESTED)
    platform.land(f"sales/date={DAY}/a.jsonl", '{"id": \n[]\n')
    platform.ingest(DAY)
    assert platform.rejects() == {("a.jsonl", 1): ["malformed record"], ("a.jsonl", 2): ["malformed record"]}


# parquet, and loads of what is new ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("new_columns", "told"), [("refuse", "with note"), ("keep", None), ("ignore", None)], ids=str)
def test_a_new_column_of_parquet(tmp_path: Path, new_columns: str, told: str | None) -> None:
    platform = of(tmp_path, PARQUET, new_columns)
    frame = pl.DataFrame({"id": ["1"], "at": [f"{DAY}T01:00:00Z"], "euros": [1.5], "note": [7]})
    platform.land(f"sales/date={DAY}/a.parquet", frame)
    if told:
        assert told in platform.refusal(DAY)
        return
    platform.ingest(DAY)
    assert platform.of("clean").columns == ["id", "at", "euros", *(["note"] if new_columns == "keep" else [])]
    assert platform.of("clean").row(0)[3:] == (("7",) if new_columns == "keep" else ())


def test_a_load_of_what_is_new_may_bring_a_column(tmp_path: Path) -> None:
    platform = of(tmp_path, INCREMENTAL, "keep")
    platform.land("sales/a.csv", f"id,at,euros\n1,{DAY}T01:00:00Z,1\n2,{DAY}T02:00:00Z,2\n")
    platform.ingest()
    platform.land("sales/b.csv", f"id,at,euros,note\n2,{DAY}T03:00:00Z,20,x\n")
    platform.ingest()
    platform.land("sales/c.csv", f"id,at,euros\n3,{DAY}T04:00:00Z,3\n")
    platform.ingest()
    assert platform.of("clean").select("id", "euros", "note").rows() == [
        ("1", 1.0, None),
        ("2", 20.0, "x"),
        ("3", 3.0, None),
    ]


# A contract that changes ----------------------------------------------------------------------------------------------

NOTE = "  note: {type: text, optional: true, description: A remark.}\n"
COMPATIBLE: dict[str, tuple[dict[str, str], str, str]] = {
    "jsonl": (
        JSONL,
        f'{{"id": "1", "at": "{DAY}T01:00:00Z", "euros": 1}}\n',
        f'{{"id": "2", "at": "{NEXT}T01:00:00Z", "euros": 2, "note": "x"}}\n',
    ),
    "csv": (DAILY, f"id,at,euros\n1,{DAY}T01:00:00Z,1\n", f"id,at,euros,note\n2,{NEXT}T01:00:00Z,2,x\n"),
}


@pytest.mark.parametrize(("row", "before", "after"), COMPATIBLE.values(), ids=COMPATIBLE)
def test_a_change_that_is_called_compatible_needs_no_more_than_the_contract(
    tmp_path: Path, row: dict[str, str], before: str, after: str
) -> None:
    """A new optional column, with days before and behind it; the day before is replayed too."""
    old, new = (parse_contract(text, "sales.yaml") for text in (CONTRACT, CONTRACT + NOTE))
    assert all(difference.is_compatible for difference in contract_diff(old, new))
    platform = onboard(tmp_path, row)
    platform.land(f"sales/date={DAY}/a.{row['format']}", before)
    platform.ingest(DAY)
    platform = onboard(tmp_path, row, contracts={"contracts/sales.yaml": CONTRACT + NOTE})
    platform.land(f"sales/date={NEXT}/a.{row['format']}", after)
    for day in (NEXT, DAY):
        platform.ingest(day)
        assert platform.of("clean").select("id", "euros", "note").rows() == [("1", 1.0, None), ("2", 2.0, "x")]


def test_a_required_column_is_not_taken_for_granted(tmp_path: Path) -> None:
    """The negative control: what is called not compatible stops what was landed before."""
    platform = onboard(
        tmp_path, DAILY, contracts={"contracts/sales.yaml": CONTRACT + NOTE.replace("optional: true, ", "")}
    )
    land_csv(platform, DAY, "id,at,euros", f"1,{DAY}T01:00:00Z,1")
    assert "without note" in platform.refusal(DAY)
