"""Landed files -> raw -> clean and quarantine: what is kept, what is refused, and that no row is lost."""

from __future__ import annotations

import gzip
import json
import shutil
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest

from pattern_platform.flights import assets as flights
from pattern_platform.visits import assets as visits
from pattern_platform.visits import devices, users
from pattern_platform_tests.platform import DAY, Platform, errors, visit
from pattern_platform_tests.test_demo import assert_the_same_tables, tables
from pattern_platform_tests.test_structure import CHECKOUT
from pattern_platform_tests.visits.blog import assets_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOUR = f"{DAY}-05:00"
INGESTED, FLIGHTS = (
    dg.AssetSelection.assets(*(dg.AssetKey([stage, name]) for stage in ("raw", "clean", "quarantine")))
    for name in ("visits", "flights")
)
HEADER = ",".join(flights.FLIGHTS.dataset.header)
FLIGHT = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path, [*visits.ASSETS, *visits.CHECKS, *flights.ASSETS, *flights.CHECKS])


def changed(**changes: object) -> str:
    return json.dumps({**visit(5, 1, "u1", "home"), **changes})


def without(field: str) -> str:
    return json.dumps({name: value for name, value in visit(5, 1, "u1", "home").items() if name != field})


REJECTS = {
    "malformed": ('{"visit_id": "a", "event_', ["malformed record"]),
    "no object": ('["visit"]', ["malformed record"]),
    "no field": (without("user_id"), ["user_id: missing"]),
    "null": (changed(page=None), ["page: missing"]),
    "empty text": (changed(page=""), ["page: min length"]),
    "number for text": (changed(user_id=12), ["user_id: not a text"]),
    "object for text": (changed(user_id={"id": 12}), ["user_id: not a text"]),
    "no timestamp": (changed(event_time="yesterday"), ["event_time: not a timestamp"]),
    "timestamp without zone": (changed(event_time=f"{DAY}T05:01:00"), ["event_time: not a timestamp"]),
    "text for truth value": (changed(keep_private="maybe"), ["keep_private: not a truth value"]),
    "text for object": (changed(context="none"), ["context: not an object"]),
    "list for inner object": (changed(context={"user": []}), ["context.user: not an object"]),
    "another day": (changed(event_time="2024-05-05T05:01:00Z"), ["event of the day it arrived"]),
    "future": (changed(event_time=f"{DAY}T06:01:00Z"), ["event before it arrived"]),
    "another hour": (changed(append_time=f"{DAY}T06:01:00Z"), ["append_time: outside the landed partition"]),
}


@pytest.mark.parametrize(("line", "reasons"), REJECTS.values(), ids=REJECTS)
def test_a_reject_is_kept_with_its_reason(platform: Platform, line: str, reasons: list[str]) -> None:
    good = json.dumps(visit(5, 0, "u1", "home"))
    platform.land_lines(5, [good, line])
    assert platform.run(INGESTED, HOUR).success
    assert platform.rows("clean", "visits").height == 1
    (reject,) = platform.rows("quarantine", "visits").to_dicts()
    assert reject["reasons"] == reasons
    assert reject["record"] == line
    assert (reject["source_file"], reject["source_row"]) == (f"visits/date={DAY}/hour=05/visits.jsonl.gz", 2)
    assert platform.rows("raw", "visits").sort("source_row")["payload"].to_list() == [good, line]


def test_duplicates_leave_one_clean_row_and_are_accounted_for(platform: Platform) -> None:
    line = changed()
    platform.land_lines(5, [line, line, line])
    assert platform.run(INGESTED, HOUR).success
    assert platform.rows("clean", "visits").height == 1
    assert platform.rows("quarantine", "visits")["reasons"].to_list() == [["duplicate of an earlier row"]] * 2


def test_rows_that_contradict_each_other_are_both_rejected(platform: Platform) -> None:
    platform.land_lines(5, [changed(page="home"), changed(page="about")])
    assert platform.run(INGESTED, HOUR).success
    assert platform.rows("clean", "visits").is_empty()
    assert platform.rows("quarantine", "visits")["reasons"].to_list() == [["primary key"]] * 2


def test_late_events_are_clean(platform: Platform) -> None:
    platform.land_lines(5, [changed(event_time=f"{DAY}T03:59:00Z")])
    assert platform.run(INGESTED, HOUR).success
    assert platform.rows("clean", "visits").height == 1


def test_optional_fields_may_be_absent(platform: Platform) -> None:
    platform.land_lines(5, [without("context")])
    assert platform.run(INGESTED, HOUR).success
    assert platform.rows("clean", "visits")["browser"].to_list() == [None]


def test_an_hour_may_land_in_several_files_and_again(platform: Platform) -> None:
    first = platform.land_visits(5, [("u1", "home")])
    second = first.parent / "more.jsonl.gz"
    second.write_bytes(gzip.compress(json.dumps(visit(5, 7, "u2", "about")).encode()))
    for _ in range(2):
        assert platform.run(INGESTED, HOUR).success
        assert sorted(platform.rows("clean", "visits")["user_id"]) == ["u1", "u2"]
    second.unlink()
    assert platform.run(INGESTED, HOUR).success
    assert platform.rows("clean", "visits")["user_id"].to_list() == ["u1"]


def break_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-12])


def not_compressed(file: Path) -> None:
    file.write_text("visit_id\n")


def no_text(file: Path) -> None:
    file.write_bytes(gzip.compress(b"\xff\xfe\n"))


@pytest.mark.parametrize("damage", [break_off, not_compressed, no_text])
def test_an_unreadable_file_stops_its_hour_and_no_other(platform: Platform, damage: Callable[[Path], None]) -> None:
    damage(platform.land_visits(5, [("u1", "home")]))
    platform.land_visits(6, [("u1", "home")])
    (error,) = errors(platform.run(INGESTED, HOUR))
    assert error.startswith("UnreadableFileError")
    assert HOUR in error
    assert f"visits/date={DAY}/hour=05/visits.jsonl.gz" in error
    assert not platform.lake.exists()
    assert platform.run(INGESTED, f"{DAY}-06:00").success


def land_flights(platform: Platform, *lines: str) -> None:
    file = platform.landing / "flights/date=2013-01-01/flights.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line + "\n" for line in lines))


@pytest.mark.parametrize(
    ("header", "culprit"),
    [
        (HEADER.replace("tailnum", "tail"), "without tailnum and with tail"),
        (HEADER + ",extra", "with extra"),
        (HEADER.replace("year,month", "month,year"), "in another order"),
    ],
)
def test_a_wrong_header_is_its_own_error(platform: Platform, header: str, culprit: str) -> None:
    land_flights(platform, header)
    (error,) = errors(platform.run(FLIGHTS, "2013-01-01"))
    assert error.startswith("WrongHeaderError")
    assert culprit in error
    assert "2013-01-01" in error
    assert not platform.lake.exists()


def test_csv_keeps_quirks_raw_and_types_them_clean(platform: Platform) -> None:
    cancelled = FLIGHT.replace("517,515,2,830,819,11", "NA,515,NA,NA,819,NA").replace("1545", "1546")
    bad = FLIGHT.replace("IAH", "Houston").replace("1545", "x")
    land_flights(platform, HEADER, FLIGHT, cancelled, bad)
    assert platform.run(FLIGHTS, "2013-01-01").success
    assert platform.rows("raw", "flights").sort("source_row")["dep_time"].to_list() == ["517", "NA", "517"]
    clean = platform.rows("clean", "flights").sort("flight")
    assert clean["dep_time"].to_list() == [517, None]
    assert clean.schema["distance"] == pl.Int64
    (reject,) = platform.rows("quarantine", "flights").to_dicts()
    assert reject["reasons"] == ["flight: not a whole number"]
    assert json.loads(reject["record"])["flight"] == "x"


def test_the_contract_check_finds_what_someone_wrote_past_it(platform: Platform) -> None:
    """The negative control of the checks on clean rows."""
    platform.land_visits(5, [("u1", "home"), ("u2", "home")])
    assert platform.run(INGESTED, HOUR).success
    table = str(platform.lake / "clean/visits")
    damaged = pl.read_delta(table).with_columns(visit_id=pl.lit("same"), page=pl.lit(""))
    damaged.write_delta(table, mode="overwrite")
    result = platform.run(dg.AssetSelection.checks_for_assets(dg.AssetKey(["clean", "visits"])), HOUR)
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        "keeps_the_contract": False,
        "unique_visit_id": False,
    }


def test_a_range_is_cleaned_as_its_hours_are_one_by_one(platform: Platform) -> None:
    misplaced = json.dumps(visit(6, 9, "u9", "home"))
    platform.land_lines(5, [json.dumps(visit(5, 0, "u1", "home")), misplaced])
    platform.land_visits(6, [("u2", "home")])
    for hour in ("05", "06"):
        platform.run(INGESTED, f"{DAY}-{hour}:00")
    one_by_one = {stage: platform.rows(stage, "visits") for stage in ("clean", "quarantine")}
    assert one_by_one["quarantine"]["reasons"].to_list() == [["append_time: outside the landed partition"]]
    tags = {"dagster/asset_partition_range_start": f"{DAY}-05:00", "dagster/asset_partition_range_end": f"{DAY}-06:00"}
    assert platform.run(INGESTED, tags=tags).success
    for stage, rows in one_by_one.items():
        again = platform.rows(stage, "visits")
        assert again.sort(again.columns[0]).equals(rows.sort(rows.columns[0]))


TWICE = {
    "flights": (flights, "flights/date=2013-01-01", "2013-01-01", "2013-01-01"),
    "users": (users, f"user_changes/date={DAY}", f"{DAY}-00:00", f"{DAY}-05:00"),
    "devices": (devices, "device_updates", "2024-05-06", "2024-05-10"),
}


@pytest.mark.parametrize("source", TWICE)
def test_a_source_from_its_files_to_its_last_table_twice(tmp_path: Path, source: str) -> None:
    """X-2: row by row the same, but for versions and times; of the visits, the tests of their tables say so."""
    module, landed, first, last = TWICE[source]
    platform = Platform(tmp_path, assets_of([module]))
    shutil.copytree(CHECKOUT / "data/landing" / landed, platform.landing / landed)
    keys = [spec.key for definition in module.ASSETS for spec in definition.specs]
    assert platform.run_range(keys, first, last).success
    before = tables(tmp_path)
    assert len(before) >= 4
    assert before[f"lake/clean/{source}"].height > 5
    assert platform.run_range(keys, first, last).success
    assert_the_same_tables(tables(tmp_path), before)


def test_a_file_without_header_is_refused_without_quoting_it(platform: Platform) -> None:
    land_flights(platform, FLIGHT.replace("IAH", "SECRET"))
    (error,) = errors(platform.run(FLIGHTS, "2013-01-01"))
    assert error.startswith("WrongHeaderError")
    assert "SECRET" not in error
