"""Personal data at the door: who was erased stays away, what is past its retention is not read, samples are masked."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest

from pattern_platform.ingestion.erased import ErasedSubjects
from pattern_platform.ingestion.landing_zone import LandingZone
from pattern_platform.ingestion.personal_data import samples
from pattern_platform_tests.ingestion.events import CONTRACT as EVENTS
from pattern_platform_tests.ingestion.events import Events
from pattern_platform_tests.ingestion.onboarding import DAILY, DAY, INCREMENTAL, Onboarded, onboard
from pattern_platform_tests.ingestion.server import page, serving
from pattern_platform_tests.platform import errors, told

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ANNA, BERT = "anna-000017", "bert-000018"
CONTRACT = """\
description: One sale.
columns:
  id: {type: text, key: true, description: Number of the sale.}
  at: {type: timestamp, description: When it was.}
  buyer: {type: text, optional: true, description: Who bought.}
  ip: {type: text, optional: true, description: From where.}
"""
NESTED = CONTRACT.replace("buyer: {", "buyer: {source: context.user.login, ").replace(
    "ip: {", "ip: {source: context.ip, "
)
PERSONAL = {"personal_data": "buyer|ip", "retention_days": "36500", "ends": ""}
AT = f"{DAY}T10:00:00Z"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


def jsonl(*buyers: str, at: str = AT) -> str:
    records = [{"id": f"s{n}", "at": at, "buyer": buyer, "ip": "192.0.2.1"} for n, buyer in enumerate(buyers)]
    return "".join(json.dumps(record) + "\n" for record in records)


def nested(*buyers: str, at: str = AT) -> str:
    records = [
        {"id": f"s{n}", "at": at, "context": {"ip": "192.0.2.1", "user": {"login": buyer, "plan": "free"}}}
        for n, buyer in enumerate(buyers)
    ]
    return "".join(json.dumps(record) + "\n" for record in records)


def csv(*buyers: str, at: str = AT) -> str:
    return "id,at,buyer,ip\n" + "".join(f"s{n},{at},{buyer},192.0.2.1\n" for n, buyer in enumerate(buyers))


def parquet(*buyers: str, at: str = AT) -> pl.DataFrame:
    rows = [(f"s{n}", datetime.fromisoformat(at), buyer, "192.0.2.1") for n, buyer in enumerate(buyers)]
    return pl.DataFrame(rows, ["id", "at", "buyer", "ip"], orient="row")


FORMATS: dict[str, tuple[dict[str, str], str, Any]] = {
    "jsonl": ({"format": "jsonl"}, CONTRACT, jsonl),
    "jsonl with objects": ({"format": "jsonl", "new_columns": "ignore"}, NESTED, nested),
    "csv": ({"format": "csv"}, CONTRACT, csv),
    "csv kept whole": ({"format": "csv", "new_columns": "keep"}, CONTRACT, csv),
    "parquet": ({"format": "parquet"}, CONTRACT, parquet),
    "parquet kept whole": ({"format": "parquet", "new_columns": "keep"}, CONTRACT, parquet),
}


def sales(folder: Path, form: str, **cells: str) -> Onboarded:
    """A data set of a format, behind a list of erased persons that is empty yet."""
    row, contract, _ = FORMATS[form]
    ending = row["format"]
    source = {"source": f"sales/date=%Y-%m-%d/*.{ending}"}
    platform = onboard(
        folder, {**DAILY, **PERSONAL, **source, **row, **cells}, contracts={"contracts/sales.yaml": contract}
    )
    return behind_a_list(platform)


def behind_a_list(platform: Onboarded) -> Onboarded:
    platform.resources["landing"] = LandingZone(root=str(platform.landing), erased=str(erased(platform).path))
    return platform


def erased(platform: Onboarded) -> ErasedSubjects:
    return ErasedSubjects(platform.folder / "erasures" / "erased.json")


def deliver(platform: Onboarded, form: str, *buyers: str, at: str = AT) -> None:
    row, _, content = FORMATS[form]
    platform.land(f"sales/date={at[:10]}/sales.{row['format']}", content(*buyers, at=at))


def everything(platform: Onboarded) -> str:
    """All rows of all tables, as text."""
    tables = sorted(path.parent for path in platform.lake.rglob("_delta_log"))
    return "\n".join(json.dumps(pl.read_delta(str(table)).to_dicts(), default=str) for table in tables)


# Erased persons -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_an_erased_person_stays_away_whatever_brings_them(tmp_path: Path, form: str) -> None:
    """Of others all is there: their data is within its retention."""
    platform = sales(tmp_path, form, retention_days="30")
    day = f"{YESTERDAY:%Y-%m-%d}"
    deliver(platform, form, ANNA, BERT, ANNA, at=f"{day}T10:00:00+00:00")
    erased(platform).add(ANNA, ("buyer", "login"))
    platform.ingest(day)
    assert platform.of("clean").select("buyer", "ip").rows() == [(BERT, "192.0.2.1")]
    assert platform.of("raw")["source_row"].to_list() == [2]  # as it was in its file
    assert ANNA not in everything(platform)


def test_who_is_not_on_the_list_comes_back(tmp_path: Path) -> None:
    """The negative control."""
    platform = sales(tmp_path, "jsonl")
    erased(platform).add(BERT, ("buyer",))
    deliver(platform, "jsonl", ANNA, BERT)
    platform.ingest(DAY)
    assert platform.of("clean")["buyer"].to_list() == [ANNA]


def test_lines_that_cannot_be_read_stay_away_too(tmp_path: Path) -> None:
    platform = sales(tmp_path, "jsonl")
    erased(platform).add(ANNA, ("buyer",))
    cut = jsonl(ANNA).strip()[:-20]
    platform.land(f"sales/date={DAY}/sales.jsonl", f"{jsonl(BERT)}{cut}\nnot json\n[{jsonl(ANNA).strip()}]\n")
    platform.ingest(DAY)
    assert platform.rejects() == {("sales.jsonl", 3): ["malformed record"]}
    assert ANNA not in everything(platform)


def test_a_source_that_is_fetched_again_does_not_bring_them(tmp_path: Path) -> None:
    with serving() as server:
        server.script("/sales", page(jsonl(ANNA, BERT)))
        row = {**DAILY, **PERSONAL, "source": f"{server.url}/sales?d={{start}}", "format": "jsonl"}
        platform = behind_a_list(onboard(tmp_path, row, contracts={"contracts/sales.yaml": CONTRACT}))
        erased(platform).add(ANNA, ("buyer",))
        platform.ingest(DAY)
        result = platform.run(dg.AssetSelection.assets(["raw", "sales"]), DAY, config={"raw__sales": {"again": True}})
        assert result.success, errors(result)
        assert len(server.requests) == 2
    assert platform.of("clean")["buyer"].to_list() == [BERT]
    assert ANNA not in everything(platform)


def test_a_load_of_what_is_new_does_not_bring_them(tmp_path: Path) -> None:
    row = {
        **INCREMENTAL,
        "personal_data": "buyer",
        "source": "sales/*.jsonl",
        "format": "jsonl",
    }
    platform = behind_a_list(onboard(tmp_path, row, contracts={"contracts/sales.yaml": CONTRACT}))
    erased(platform).add(ANNA, ("buyer",))
    platform.land("sales/1.jsonl", jsonl(BERT, ANNA))
    platform.ingest()
    assert platform.of("clean")["buyer"].to_list() == [BERT]
    assert ANNA not in everything(platform)


def test_what_arrives_late_does_not_bring_them(tmp_path: Path) -> None:
    contract = EVENTS + "  who: {type: text, optional: true, description: Who did it.}\n"
    events = Events(tmp_path, {"personal_data": "who", "retention_days": "36500"}, contract)
    behind_a_list(events.platform)
    records = [{"id": n, "at": f"{DAY}T03:0{n}:00Z", "got": AT, "who": who} for n, who in enumerate((ANNA, BERT))]
    events.arrive(3)
    erased(events.platform).add(ANNA, ("who",))
    events.arrive(4, *(json.dumps({**record, "id": str(record["id"])}) for record in records))
    events.follow()
    assert events.platform.rows("clean", "events")["who"].to_list() == [BERT]
    assert ANNA not in everything(events.platform)


@pytest.mark.parametrize("text", ['{"Käufer":"anna"}', '{"K\\u00e4ufer": "anna"}', '{"Käufer" : "\\u0061nna"}'])
def test_a_field_may_have_any_name(tmp_path: Path, text: str) -> None:
    subjects = ErasedSubjects(tmp_path / "erased.json")
    subjects.add("anna", ("Käufer",))
    assert subjects.drop(pl.DataFrame({"payload": [text, "{}"]}))["payload"].to_list() == ["{}"]


def test_a_damaged_list_stops_the_landing(tmp_path: Path) -> None:
    platform = sales(tmp_path, "jsonl")
    deliver(platform, "jsonl", ANNA, BERT)
    erased(platform).add(ANNA, ("buyer",))
    erased(platform).path.write_text("{}")
    error = platform.refusal(DAY)
    assert "DamagedListError" in error
    assert "bring it back from a backup" in error
    assert not platform.lake.exists()


# Retention ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_past_its_retention_personal_data_is_not_read_again(tmp_path: Path, form: str) -> None:
    platform = sales(tmp_path, form, retention_days="30")
    deliver(platform, form, ANNA, BERT)
    platform.ingest(DAY)
    clean = platform.of("clean")
    assert clean.select("buyer", "ip").rows() == [(None, None)] * 2
    assert clean["id"].to_list() == ["s0", "s1"]  # what is not personal stays, and so does its count
    told = everything(platform)
    assert ANNA not in told
    assert "192.0.2.1" not in told


def test_without_personal_data_nothing_is_blanked(tmp_path: Path) -> None:
    platform = sales(tmp_path, "jsonl", personal_data="", retention_days="")
    deliver(platform, "jsonl", ANNA)
    platform.ingest(DAY)
    assert platform.of("clean")["buyer"].to_list() == [ANNA]


LINES = {
    "cut off": '{"id": "s1", "at": "2024-05-06T10:00:00Z", "context": {"user": {"login": "anna-000017',
    "no JSON": "s1;anna-000017;192.0.2.1",
    "an array": '[{"context": {"user": {"login": "anna-000017"}}}]',
    "a text": '"anna-000017"',
    "no object where one is declared": '{"id": "s1", "context": {"user": "anna-000017"}}',
    "an array where an object is declared": '{"id": "s1", "context": {"user": [{"login": "anna-000017"}]}}',
    "an object where a text is declared": '{"id": "s1", "context": {"user": {"login": {"name": "anna-000017"}}}}',
    "an array where a text is declared": '{"id": "s1", "context": {"user": {"login": ["anna-000017"]}}}',
    "twice": '{"id": "s1", "context": {"user": {"login": "anna-000017", "login": 5}}}',
    "nested without end": '{"id": "s1", "context": {"user": {"login": "anna-000017"}}, "at": '
    + "[" * 100_000
    + "]" * 100_000
    + "}",
    "half a character": '{"id": "s1", "at": "\\ud800", "context": {"user": {"login": "anna-000017"}}}',
}


def test_past_its_retention_lines_that_are_wrong_say_nothing_personal(tmp_path: Path) -> None:
    platform = sales(tmp_path, "jsonl with objects", retention_days="30")
    platform.land(f"sales/date={DAY}/sales.jsonl", nested(BERT) + "".join(f"{line}\n" for line in LINES.values()))
    platform.ingest(DAY)
    assert platform.of("raw").height == 1 + len(LINES)
    assert platform.of("clean").height == 1
    assert platform.of("quarantine").height == len(LINES)
    assert ANNA not in everything(platform)


def test_past_its_retention_all_else_is_as_it_came(tmp_path: Path) -> None:
    platform = sales(tmp_path, "jsonl with objects", retention_days="30", new_columns="keep")
    more = '"ratio": 1.5, "big": 12345678901234567890, "name": "Kåre \\u00e9", "no": null, "list": [1, {"a": 2}]'
    user = f'{{"user": {{"login": "{ANNA}", "plan": "free"}}}}'
    platform.land(f"sales/date={DAY}/sales.jsonl", f'{{"id": "s1", "at": "{AT}", "context": {user}, {more}}}\n')
    platform.ingest(DAY)
    (payload,) = platform.of("raw")["payload"]
    expected = {"id": "s1", "at": AT, "context": {"user": {"plan": "free"}}}
    assert json.loads(payload) == {**expected, **json.loads(f"{{{more}}}")}


# Samples --------------------------------------------------------------------------------------------------------------


def sampled(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The samples of the quarantine, by their reason."""
    assert result.success, errors(result)
    made = {
        event.materialization.asset_key: event.materialization for event in result.get_asset_materialization_events()
    }
    table = made[dg.AssetKey(["quarantine", "sales"])].metadata["sample"]
    assert isinstance(table, dg.TableMetadataValue)
    return {str(row.data["reason"]): str(row.data["record"]) for row in table.records}


def assert_nothing_personal_is_told(platform: Onboarded, result: dg.ExecuteInProcessResult) -> None:
    told = "\n".join(map(str, platform.instance.all_logs(result.run_id)))
    assert "quarantine" in told
    assert ANNA not in told
    assert "192.0.2.1" not in told


@pytest.mark.parametrize("form", FORMATS)
def test_a_sample_shows_a_rejected_record_without_the_person(tmp_path: Path, form: str) -> None:
    platform = sales(tmp_path, form)
    deliver(platform, form, ANNA, at="2024-05-07T10:00:00+00:00")
    (platform.landing / "sales/date=2024-05-07").rename(platform.landing / f"sales/date={DAY}")
    result = platform.run(dg.AssetSelection.all(), DAY)
    (record,) = sampled(result).values()
    assert record.count("***") == 2
    assert '"s0"' in record
    assert ANNA in platform.of("quarantine")["record"].item()  # where it is mended
    assert_nothing_personal_is_told(platform, result)


@pytest.fixture(scope="module")
def nested_sales(tmp_path_factory: pytest.TempPathFactory) -> Onboarded:
    return sales(tmp_path_factory.mktemp("sales"), "jsonl with objects")


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_sample_of_a_line_that_is_wrong_shows_nothing_personal(nested_sales: Onboarded, line: str) -> None:
    (sample,) = samples(nested_sales.dataset, pl.DataFrame({"reasons": [["wrong"]], "record": [line]}))
    assert sample["reason"] == "wrong"
    assert ANNA not in sample["record"]
    assert "***" in sample["record"] or "not shown" in sample["record"]


def test_lines_that_are_wrong_are_sampled_without_the_person(nested_sales: Onboarded) -> None:
    nested_sales.land(f"sales/date={DAY}/sales.jsonl", "".join(f"{line}\n" for line in LINES.values()))
    result = nested_sales.run(dg.AssetSelection.all(), DAY)
    assert sampled(result)
    assert_nothing_personal_is_told(nested_sales, result)


def test_samples_are_few_and_short_and_of_each_reason(tmp_path: Path) -> None:
    platform = sales(tmp_path, "jsonl")
    wrong: list[Mapping[str, Any]] = [
        {"id": "s1"},
        *[{"id": f"t{n}", "at": "noon", "buyer": "x" * 1000} for n in range(20)],
        {"id": "s3", "at": AT, "buyer": 5},
        {"id": "s4", "at": AT, "ip": 5},
        {"at": AT},
        {"id": "s5", "at": "2025-05-06T10:00:00Z"},
        {"id": 6, "at": AT},
    ]
    platform.land(f"sales/date={DAY}/sales.jsonl", jsonl(BERT) + "".join(json.dumps(each) + "\n" for each in wrong))
    result = platform.run(dg.AssetSelection.all(), DAY)
    found = sampled(result)
    assert len(found) == 5
    assert next(iter(found)) == "at: not a timestamp"  # the most frequent first
    assert all(len(record) <= 300 for record in found.values())
    assert json.loads(found["at: not a timestamp"])["buyer"] == "***"


def test_without_rejects_there_is_no_sample(tmp_path: Path) -> None:
    platform = sales(tmp_path, "jsonl")
    deliver(platform, "jsonl", ANNA)
    result = platform.run(dg.AssetSelection.all(), DAY)
    assert "sample" not in told(result, dg.AssetKey(["quarantine", "sales"]))
    assert_nothing_personal_is_told(platform, result)
