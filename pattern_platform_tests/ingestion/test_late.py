"""Late data: which hour an event belongs to, who asks for that hour anew and how often, and that no event is lost."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pattern_platform.ingestion import assets as ingestion
from pattern_platform.ingestion.late import routing_sensor
from pattern_platform.ingestion.routing import routed
from pattern_platform.visits import comments
from pattern_platform_tests.ingestion.events import (
    CONTRACT,
    DAYS,
    HOURLY,
    LATE_DATA,
    LATENESS,
    Events,
    asked,
    hour,
    line,
    names,
)
from pattern_platform_tests.ingestion.onboarding import DAY, onboard
from pattern_platform_tests.platform import Platform, errors, told
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from pattern_platform.ingestion.dataset import Dataset


@pytest.fixture
def events(tmp_path: Path) -> Events:
    return Events(tmp_path)


def starts(dataset: Dataset, partition: str, *moments: str) -> list[str | None]:
    """Where events that arrive in a partition belong to, as the start of that in UTC."""
    start = dataset.window(partition)
    assert start
    raw = pl.DataFrame({"payload": [line(f"e{number}", moment) for number, moment in enumerate(moments)]}).with_columns(
        partition_start=pl.lit(start.start).dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    )
    found = routed(dataset, raw, partition)
    assert found.schema["routed_to"] == pl.Datetime("us", "UTC")
    return [start and start.strftime("%d %H:%M") for start in found["routed_to"]]


# Where an event belongs to --------------------------------------------------------------------------------------------


ARRIVED_AT_FIVE = {
    "the first moment of its hour": ("05:00", "05:00"),
    "its last": (f"{DAY}T05:59:59.999999Z", "05:00"),
    "an hour late, the last moment": (f"{DAY}T04:59:59.999999Z", "04:00"),
    "as late as allowed, the first moment": ("03:00", "03:00"),
    "a moment too late": (f"{DAY}T02:59:59.999999Z", None),
    "a day too late": ("2024-05-05T05:00:00Z", None),
    "with an offset": (f"{DAY}T06:30:00+02:00", "04:00"),
    "the next hour": ("06:00", "05:00"),
    "the next year": ("2025-05-06T05:00:00Z", "05:00"),
    "unreadable": ("yesterday noon", "05:00"),
    "a day alone": (DAY, "05:00"),
}


@pytest.fixture(scope="module")
def arrived_at_five(tmp_path_factory: pytest.TempPathFactory) -> Events:
    events = Events(tmp_path_factory.mktemp("events"))
    lines = [line(name, at) for name, (at, _) in ARRIVED_AT_FIVE.items()]
    events.arrive(5, *lines, json.dumps({"id": "without a time"}), json.dumps({"id": "a number", "at": 5}))
    for earlier in (3, 4):
        events.arrive(earlier)
    assert events.clean(3, 4, 5).success
    return events


@pytest.mark.parametrize("name", ARRIVED_AT_FIVE)
def test_an_event_belongs_to_the_hour_in_which_it_happened(arrived_at_five: Events, name: str) -> None:
    assert arrived_at_five.routed()[name] == ARRIVED_AT_FIVE[name][1]


def test_what_cannot_be_placed_is_rejected_where_it_arrived(arrived_at_five: Events) -> None:
    rejects = arrived_at_five.platform.rows("quarantine", "events")
    found = {json.loads(record)["id"]: reasons for record, reasons in rejects.select("record", "reasons").iter_rows()}
    assert found == {
        "the next hour": ["at: outside the landed partition"],
        "the next year": ["at: outside the landed partition"],
        "unreadable": ["at: not a timestamp"],
        "a day alone": ["at: not a timestamp"],
        "without a time": ["at: missing", "got: missing"],
        "a number": ["at: not a timestamp"],
    }
    assert rejects["partition_start"].dt.hour().unique().to_list() == [5]


def test_what_is_too_late_is_kept_where_it_arrived_with_its_time(arrived_at_five: Events) -> None:
    late = arrived_at_five.platform.rows("late", "events").sort("event_time")
    assert names(late) == ["a day too late", "a moment too late"]
    assert late["event_time"].dt.strftime("%d %H:%M:%S%.6f").to_list() == ["05 05:00:00.000000", "06 02:59:59.999999"]
    assert late["partition_start"].dt.hour().unique().to_list() == [5]
    assert late["source_row"].is_not_null().all()


def test_every_row_is_clean_or_rejected_or_late(arrived_at_five: Events) -> None:
    placed = Counter(name for stage in ("clean", "quarantine", "late") for name in arrived_at_five.names(stage))
    assert placed == Counter(arrived_at_five.routed().keys())


def test_too_late_is_told_and_stops_nothing(arrived_at_five: Events) -> None:
    result = arrived_at_five.clean(5)
    assert result.success
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "nothing_too_late"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["rows_too_late"].value == 2
    assert told(result, dg.AssetKey(["late", "events"]))["too_late"] == 2
    (check,) = [c for c in arrived_at_five.clean(4).get_asset_check_evaluations() if c.check_name == "nothing_too_late"]
    assert check.passed  # what is too late is told where it arrived


def test_before_the_first_partition_all_is_too_late(events: Events) -> None:
    assert starts(events.dataset, hour(0), "00:00", "2024-05-05T23:59:59Z", "2024-05-04T00:00:00Z") == [
        "06 00:00",
        None,
        None,
    ]
    assert starts(events.dataset, hour(1), "00:59", "2024-05-05T23:59:59Z") == ["06 00:00", None]


def test_days_of_a_zone_begin_where_its_clocks_say(tmp_path: Path) -> None:
    """The day of the change has 23 hours."""
    row = {**DAYS, "time_zone": "Europe/Paris", "starts": "2024-03-28", "ends": "2024-04-03"}
    dataset = Events(tmp_path, row).dataset
    moments = ["2024-03-30T23:00:00Z", "2024-03-30T22:59:59Z", "2024-03-31T21:59:59Z", "2024-03-31T22:00:00Z"]
    expected = ["30 23:00", "29 23:00", "30 23:00", "31 22:00"]
    assert starts(dataset, "2024-04-01", *moments) == expected
    assert starts(dataset, "2024-04-02", *moments) == ["30 23:00", None, "30 23:00", "31 22:00"]
    # A moment without offset is the zone's; in an hour that the change skips it is none.
    assert starts(dataset, "2024-03-31", "2024-03-31T00:30:00", "2024-03-30T23:30:00", "2024-03-31T02:30:00") == [
        "30 23:00",
        "29 23:00",
        "30 23:00",
    ]


def test_the_hour_that_a_clock_change_repeats_is_two(tmp_path: Path) -> None:
    landed = "events/at=%Y-%m-%dT%H%z/*.jsonl"
    row = {"source": landed, "time_zone": "Europe/Paris", "starts": "2024-10-27", "ends": "2024-10-28"}
    dataset = Events(tmp_path, row).dataset
    assert dataset.partitions
    keys = dataset.partitions.get_partition_keys()
    assert len(keys) == 25
    moments = ["2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z", "2024-10-27T02:30:00Z"]
    assert starts(dataset, keys[4], *moments) == ["27 00:00", "27 01:00", "27 02:00"]
    assert starts(dataset, keys[3], *moments) == ["27 00:00", "27 01:00", "27 01:00"]
    assert starts(dataset, keys[5], *moments) == [None, "27 01:00", "27 02:00"]


def test_hours_of_a_zone_of_half_an_hour(tmp_path: Path) -> None:
    dataset = Events(tmp_path, {"time_zone": "Asia/Kolkata"}).dataset
    moments = ["2024-05-06T00:29:59Z", "2024-05-06T00:30:00Z", "2024-05-05T22:30:00Z", "2024-05-05T22:29:59Z"]
    assert starts(dataset, hour(6), *moments) == ["05 23:30", "06 00:30", "05 22:30", None]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC"])
def test_a_day_of_a_zone_may_be_told_by_a_date(tmp_path: Path, zone: str) -> None:
    events = Events(tmp_path, {**DAYS, "time_zone": zone}, CONTRACT.replace("at: {type: timestamp", "at: {type: date"))
    events.platform.land("events/date=2024-05-06/e.jsonl", "")
    events.platform.land("events/date=2024-05-07/e.jsonl", f"{line('a', '2024-05-07')}\n{line('b', '2024-05-06')}\n")
    assert events.platform.run_range([events.raw], "2024-05-06", "2024-05-07").success
    result = events.platform.run_range(events.made, "2024-05-06", "2024-05-07")
    assert result.success, errors(result)
    assert events.names() == ["a", "b"]
    assert events.names("quarantine") == []


def test_without_lateness_allowed_each_earlier_event_is_too_late(tmp_path: Path) -> None:
    events = Events(tmp_path, {"allowed_lateness": "0"})
    events.arrive(5, line("on time", "05:00"), line("late", "04:59"))
    assert events.clean(5).success
    assert (events.names(), events.names("late")) == (["on time"], ["late"])


def test_how_late_the_latest_row_of_an_hour_came_is_told(events: Events) -> None:
    events.arrive(3, line("a", "03:00"))
    events.arrive(5, line("b", "03:30"), line("c", "03:15"), line("d", "05:00"))
    found = {number: told(events.clean(number), dg.AssetKey(["late", "events"])) for number in (3, 5)}
    assert {number: of["lateness_seconds"] for number, of in found.items()} == {3: 1.75 * 3600, 5: 0}


# The sensor -----------------------------------------------------------------------------------------------------------


def test_an_hour_that_arrives_is_asked_for_at_once(events: Events) -> None:
    events.arrive(5, line("a", "05:00"))
    assert asked(events.tick()) == [("05:00", "05:00", False)]


def test_late_rows_of_one_batch_ask_for_their_hour_once(events: Events) -> None:
    events.arrive(3, line("a", "03:00"))
    assert asked(events.tick()) == [("03:00", "03:00", False)]
    events.arrive(4, line("b", "03:01"))
    events.arrive(5, line("c", "03:02"))
    events.arrive(4, line("b", "03:01"), line("d", "03:03"))
    assert asked(events.tick()) == [("04:00", "05:00", False), ("03:00", "03:00", True)]
    assert asked(events.tick()) == []


def test_a_request_is_for_all_but_raw_and_its_run_key_is_its_own(events: Events) -> None:
    events.arrive(3)
    (first,) = events.tick()
    assert first.asset_selection == events.made
    events.arrive(3)
    (second,) = events.tick()
    assert first.run_key != second.run_key


def test_late_rows_of_hours_in_a_row_share_a_run_of_a_day_at_most(events: Events) -> None:
    for number in (0, 1, 3):
        events.arrive(number)
    events.tick()
    events.arrive(2, line("a", "00:00"), line("b", "01:00"))
    events.arrive(4, line("c", "03:00"))
    assert asked(events.tick()) == [
        ("02:00", "02:00", False),
        ("04:00", "04:00", False),
        ("00:00", "01:00", True),
        ("03:00", "03:00", True),
    ]


def test_an_hour_that_has_not_arrived_is_not_asked_for_until_it_does(events: Events) -> None:
    events.arrive(5, line("a", "05:00"), line("b", "04:00"))
    assert asked(events.tick()) == [("05:00", "05:00", False)]
    events.follow()
    events.arrive(4, line("c", "04:01"))
    assert asked(events.tick()) == [("04:00", "04:00", False)]
    assert events.clean(4).success
    assert events.names() == ["b", "c"]


def test_the_sensor_goes_on_from_its_cursor_and_from_nothing_else(events: Events) -> None:
    events.arrive(3)
    events.tick()
    events.arrive(4, line("a", "03:00"))
    before = events.cursor
    first = asked(events.tick())
    events.sensor, events.cursor = routing_sensor(events.dataset, LATE_DATA), before  # a daemon that starts anew
    again = events.tick()
    assert asked(again) == first == [("04:00", "04:00", False), ("03:00", "03:00", True)]
    assert events.tick() == []
    events.cursor = None  # all that has arrived, as on the first day
    assert asked(events.tick()) == [("03:00", "04:00", False)]


def test_failed_arrivals_ask_for_nothing(events: Events) -> None:
    assert not events.platform.run([events.raw], hour(3)).success
    assert events.tick() == []


def test_a_replay_of_the_same_file_asks_again_and_changes_nothing(events: Events) -> None:
    events.arrive(3, line("a", "03:00"))
    events.arrive(4, line("b", "04:00"), line("c", "03:01"), line("d", "01:00"))
    events.follow()
    stages = ("raw", "clean", "quarantine", "late")
    before = {stage: events.platform.of(stage) for stage in stages}
    assert before["clean"].height == 3
    events.platform.run([events.raw], hour(4))
    assert asked(events.tick()) == [("04:00", "04:00", False), ("03:00", "03:00", True)]
    events.cursor = None
    events.follow()
    for stage in stages:
        assert_frame_equal(events.platform.of(stage), before[stage])


def test_a_replay_of_an_hour_that_was_read_with_others_asks_for_no_other(events: Events) -> None:
    for number in (3, 4, 5):
        events.deliver(number, line(f"e{number}", f"{number:02}:00"))
    assert events.platform.run_range([events.raw], hour(3), hour(5)).success
    events.follow()
    assert events.platform.run([events.raw], hour(5)).success
    assert asked(events.tick()) == [("05:00", "05:00", False)]


def test_a_late_row_that_a_corrected_file_no_longer_has_goes_from_its_hour(events: Events) -> None:
    events.arrive(3, line("a", "03:00"))
    events.arrive(4, line("b", "04:00"), line("c", "03:01"))
    events.follow()
    assert events.names() == ["a", "b", "c"]
    events.arrive(4, line("b", "04:00"))
    events.follow()
    assert events.names() == ["a", "b"]


def test_a_late_row_that_a_corrected_file_moves_is_in_one_hour(events: Events) -> None:
    events.arrive(3)
    events.arrive(4)
    events.arrive(5, line("a", "03:01"))
    events.follow()
    events.arrive(5, line("a", "04:01"))
    events.follow()
    assert events.platform.rows("clean", "events")["at"].dt.hour().to_list() == [4]


def test_an_hour_whose_replay_failed_still_gets_its_late_rows(events: Events) -> None:
    events.arrive(3, line("a", "03:00"))
    events.follow()
    file = events.platform.landing / f"events/date={DAY}/hour=03/events.jsonl"
    good = file.read_bytes()
    file.write_bytes(b"\xff\xfe\n")
    assert not events.platform.run([events.raw], hour(3)).success
    file.write_bytes(good)
    events.arrive(4, line("b", "03:01"))
    events.follow()
    assert events.names() == ["a", "b"]


def test_an_hour_that_is_no_longer_a_partition_is_not_asked_for(events: Events) -> None:
    events.arrive(3, line("a", "03:00"))
    events.arrive(4, line("b", "03:01"))
    later = replace(events.dataset, partitions=dg.HourlyPartitionsDefinition(hour(4), end_date="2024-05-07-00:00"))
    events.sensor = routing_sensor(later, LATE_DATA)
    assert asked(events.tick()) == [("04:00", "04:00", False)]


# Cleaning -------------------------------------------------------------------------------------------------------------


def test_an_hour_of_which_late_rows_alone_are_there_is_refused(events: Events) -> None:
    events.arrive(5, line("a", "05:00"), line("b", "04:00"))
    (error,) = errors(events.clean(4))
    assert "MissingPartitionsError" in error
    assert hour(4) in error
    assert "materialize raw/events first" in error
    (error,) = errors(events.clean(4, 5))  # it would pass for the whole of the hour
    assert "MissingPartitionsError" in error
    assert not (events.platform.lake / "clean").exists()
    assert events.clean(5).success


def test_what_comes_twice_is_clean_once_whenever_it_comes(events: Events) -> None:
    twice = line("a", "03:00")
    events.arrive(3, twice)
    events.arrive(4, twice, line("b", "03:30"))
    events.arrive(5, twice)
    events.arrive(6, twice)
    events.follow(checks=True)
    assert events.names() == ["a", "b"]
    rejects = events.platform.rows("quarantine", "events")
    assert rejects["reasons"].to_list() == [["duplicate of an earlier row"]] * 2
    assert rejects["partition_start"].dt.hour().unique().to_list() == [3]  # of the hour that they belong to
    assert events.names("late") == ["a"]


def test_arrivals_that_contradict_each_other_are_all_rejected(events: Events) -> None:
    events.arrive(3, line("a", "03:00"))
    events.arrive(4, line("a", "03:01"))
    events.follow()
    assert events.names() == []
    assert events.platform.rows("quarantine", "events")["reasons"].to_list() == [["primary key"]] * 2


def test_a_late_row_that_breaks_the_contract_is_rejected_in_its_hour(events: Events) -> None:
    events.arrive(3)
    events.arrive(4, json.dumps({"id": "a", "at": f"{DAY}T03:00:00Z", "got": None}))
    events.follow()
    (reject,) = events.platform.rows("quarantine", "events").to_dicts()
    assert reject["reasons"] == ["got: missing"]
    assert reject["partition_start"].hour == 3
    assert reject["source_file"] == f"events/date={DAY}/hour=04/events.jsonl"


def test_hours_at_once_are_as_hours_one_by_one(tmp_path: Path) -> None:
    found = []
    for name in ("single", "range"):
        events = Events(tmp_path / name)
        arrivals = {
            3: [line("a", "03:00"), line("x", "not a time")],
            4: [line("b", "03:01"), line("c", "04:00"), line("a", "03:00")],
            5: [line("d", "03:59"), line("e", "04:59"), line("f", "05:00"), line("g", "01:00"), line("h", "06:00")],
        }
        for number, lines in arrivals.items():
            events.deliver(number, *lines)
        if name == "single":
            assert all(events.platform.run([events.raw], hour(number)).success for number in arrivals)
            assert all(events.clean(number).success for number in arrivals)
        else:
            assert events.platform.run_range([events.raw], hour(3), hour(5)).success
            result = events.clean(3, 4, 5)
            assert {c.check_name for c in result.get_asset_check_evaluations() if not c.passed} == {"nothing_too_late"}
        found.append({stage: events.platform.of(stage) for stage in ("raw", "clean", "quarantine", "late")})
    for stage, rows in found[0].items():
        assert rows.height > 0
        assert_frame_equal(rows, found[1][stage])


def test_the_last_hours_of_a_data_set_have_no_later_ones(events: Events) -> None:
    events.arrive(22, line("a", "22:00"))
    events.arrive(23, line("b", "23:00"), line("c", "22:59"))
    events.follow()
    assert events.names() == ["a", "b", "c"]


# The check that every row is accounted for ----------------------------------------------------------------------------


def accounts(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (found,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "accounts_for_every_row"]
    return found


def test_rows_that_are_gone_from_the_clean_table_are_noticed(events: Events) -> None:
    """The negative control."""
    events.arrive(3, line("a", "03:00"))
    events.arrive(4, line("b", "03:01"), line("c", "04:00"))
    events.follow()
    table = str(events.platform.lake / "clean/events")
    pl.read_delta(table).filter(pl.col("id") != "b").write_delta(table, mode="overwrite")
    checks = dg.AssetSelection.checks_for_assets(dg.AssetKey(["quarantine", "events"]))
    found = accounts(events.platform.run(checks, hour(3)))
    assert not found.passed
    assert {n: v.value for n, v in found.metadata.items()} == {
        "raw": 2,
        "clean": 1,
        "rejected": 0,
        "without_reason": 0,
    }
    assert accounts(events.platform.run(checks, hour(4))).passed


def test_late_rows_that_arrive_while_their_hour_is_cleaned_fail_nothing(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    events.arrive(3, line("a", "03:00"))
    clean_rows = ingestion.clean_rows

    def meanwhile(*arguments: object) -> object:
        monkeypatch.undo()
        events.arrive(4, line("b", "03:01"), line("c", "04:00"))
        return clean_rows(*arguments)  # ty: ignore[invalid-argument-type]

    monkeypatch.setattr(ingestion, "clean_rows", meanwhile)
    result = events.clean(3)
    assert result.success, errors(result)
    assert accounts(result).passed
    events.follow()
    assert events.names() == ["a", "b", "c"]


# Any order ------------------------------------------------------------------------------------------------------------


HOURS = range(3, 6)
MOMENTS = [f"{number:02}:{minute}" for number in HOURS for minute in ("00", "59")]


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[dict[int, list[str]], list[list[int]]]:
    """Events in the hours in which they arrive, none too late; and the hours in the order in which they are read."""
    files: dict[int, list[str]] = {number: [] for number in HOURS}
    for number, at in enumerate(draw(st.lists(st.sampled_from(MOMENTS), min_size=4, max_size=10))):
        delay = draw(st.lists(st.integers(0, LATENESS), min_size=1, max_size=2))  # in two files: it comes twice
        for hours in delay:
            files[min(int(at[:2]) + hours, HOURS[-1])].append(line(f"e{number}", at))
    order = draw(st.permutations([*HOURS, *draw(st.lists(st.sampled_from(HOURS), max_size=2))]))
    batches: list[list[int]] = [[]]
    for number in order:
        batches[-1].append(number)
        if draw(st.booleans()):
            batches.append([])
    return files, [batch for batch in batches if batch]


@given(arrived=arrivals())
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
def test_in_whatever_order_events_arrive_the_clean_rows_are_those_of_events_on_time(
    arrived: tuple[dict[int, list[str]], list[list[int]]],
) -> None:
    files, batches = arrived
    with TemporaryDirectory() as folder:
        events = Events(Path(folder))
        for batch in batches:
            for number in batch:
                events.arrive(number, *files[number])
            events.follow()
        unique = {json.loads(each)["id"]: each for lines in files.values() for each in lines}
        expected = sorted((json.loads(each)["id"], json.loads(each)["at"]) for each in unique.values())
        clean = events.platform.of("clean")
        assert list(zip(clean["id"], clean["at"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"), strict=True)) == expected
        assert Counter(name for stage in ("clean", "quarantine", "late") for name in events.names(stage)) == Counter(
            json.loads(each)["id"] for lines in files.values() for each in lines
        )


def test_without_asking_again_late_rows_are_missing(events: Events) -> None:
    """The negative control: it is the sensor that brings them."""
    for number in HOURS:
        events.arrive(number, line(f"on time {number}", f"{number:02}:00"))
        assert events.clean(number).success
    events.arrive(5, line("on time 5", "05:00"), line("late", "04:00"))
    assert events.clean(5).success
    assert "late" not in events.names()
    events.follow()
    assert "late" in events.names()


# What is declared -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"incremental_field": ""}, "it tells when an event arrived"),
        ({"incremental_field": "at"}, "another than partition_field"),
        ({"allowed_lateness": "-1"}, "greater than or equal to 0"),
        ({"allowed_lateness": "six"}, "valid integer"),
        ({"allowed_lateness": "6h"}, "valid integer"),
        (
            {"granularity": "none", "source": "events/*.jsonl", "starts": "", "ends": "", "partition_field": ""},
            "leave it empty",
        ),
        ({"incremental_field": "arrived"}, "the contract has no column"),
        ({"partition_field": "id"}, "it must be a timestamp"),
        ({"incremental_field": "id"}, "it must be a timestamp"),
    ],
)
def test_a_lateness_that_means_nothing_is_refused(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    with pytest.raises(Exception, match="was refused") as refused:
        onboard(tmp_path, {**HOURLY, **cells}, contracts={"contracts/events.yaml": CONTRACT})
    assert message in str(refused.value)
    assert "registry validate" in str(refused.value)


def test_the_sample_comments_are_all_accounted_for(tmp_path: Path) -> None:
    platform = Platform(tmp_path, [*comments.ASSETS, *comments.CHECKS])
    shutil.copytree(CHECKOUT / f"data/landing/comments/date={DAY}", platform.landing / f"comments/date={DAY}")
    raw = dg.AssetKey(["raw", "comments"])
    made = [dg.AssetKey([stage, "comments"]) for stage in ("clean", "quarantine", "late")]
    assert platform.run_range([raw], hour(0), hour(23)).success
    result = platform.run_range(made, hour(0), hour(23))
    assert result.success, errors(result)
    assert {c.check_name for c in result.get_asset_check_evaluations() if not c.passed} <= {"nothing_too_late"}
    rows = {stage: platform.rows(stage, "comments").height for stage in ("raw", "clean", "quarantine", "late")}
    assert rows["raw"] == rows["clean"] + rows["quarantine"] + rows["late"]
    came_late = platform.rows("raw", "comments").filter(pl.col("routed_to") < pl.col("partition_start"))
    assert came_late.height > 0
    result = platform.run(dg.AssetSelection.assets(["aggregated", "comments_by_post"]), DAY)
    assert result.success, errors(result)
    assert platform.rows("aggregated", "comments_by_post")["comments"].sum() == rows["clean"]
