"""Late data on a running daemon: hours and their day are made again once a batch, and a burst holds up nobody."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest

from pattern_platform_tests.daemon.late import CLEAN, PAUSED
from pattern_platform_tests.daemon.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("daemon")]
SUCCESS, QUEUED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.QUEUED
SENSORS = [("late", "events__routing"), ("late", "automation")]
DAY, NEXT = "2024-03-05", "2024-03-06"
EVENING = range(18, 24)  # the hours of the first day
BURST = [19, 21]  # hours of it, apart from each other: a run each


def hour(day: str, number: int) -> str:
    return f"{day}-{number:02}:00"


@dataclass
class Hours:
    """What happened, step by step."""

    stack: Stack

    def arrive(self, day: str, hours: Mapping[int, Sequence[str]]) -> None:
        """Land hours that follow each other, with moments of events beside one of each hour, and read them at once."""
        paused = self.stack.folder / "files" / PAUSED
        paused.touch()
        for number, moments in hours.items():
            at = [f"{day}T{number:02}:00:00Z", *moments]
            file = self.stack.folder / f"files/landing/events/date={day}/hour={number:02}/events.jsonl"
            file.parent.mkdir(parents=True)
            file.write_text(
                "".join(json.dumps({"id": f"{day} {number} {n}", "at": m}) + "\n" for n, m in enumerate(at))
            )
        first, last = hour(day, min(hours)), hour(day, max(hours))
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        one = first == last
        run = self.stack.launch_job(
            "ingest", partition=first if one else None, tags=None if one else tags, location="late"
        )
        self.stack.wait_for([run], SUCCESS)
        paused.unlink()

    def cleans(self) -> dict[str, list[str]]:
        """Runs that clean hours, by the first hour of each."""
        found: dict[str, list[str]] = {}
        for record in self.stack.instance.get_run_records(ascending=True):
            run = record.dagster_run
            if CLEAN in (run.asset_selection or ()):
                first = run.tags.get("dagster/partition") or run.tags["dagster/asset_partition_range_start"]
                found.setdefault(first, []).append(run.run_id)
        return found

    def settle(self, cleans: int, days: int, ticks: int) -> None:
        """Wait for as many runs in all, until they have succeeded, and for ticks: what else may be asked for."""
        self.stack.wait(lambda: sum(map(len, self.cleans().values())) >= cleans, f"{cleans} runs of clean")
        self.stack.wait_for([run for runs in self.cleans().values() for run in runs], SUCCESS)
        self.stack.wait_for(self.stack.wait_for_runs(days, asset="day"), SUCCESS)
        self.stack.wait_for_ticks(ticks, *SENSORS)

    def count(self) -> tuple[int, list[str]]:
        """How many runs of clean there were in all, and the days that were made."""
        return sum(map(len, self.cleans().values())), self.stack.files.executions("day")


@dataclass
class Told:
    """What there was after each step."""

    hours: Hours
    on_time: tuple[int, list[str]]
    late: tuple[int, list[str]]
    burst: tuple[int, list[str]]
    waiting: list[dg.DagsterRunStatus]  # of late runs, once the current hour was done


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(locations={"late": "pattern_platform_tests.daemon.late"}) as stack:
        yield stack


@pytest.fixture(scope="module")
def told(stack: Stack) -> Told:
    hours = Hours(stack)
    hours.arrive(DAY, {number: [] for number in EVENING})
    hours.settle(cleans=1, days=1, ticks=0)
    on_time = hours.count()

    late = [f"{DAY}T23:30:00Z"]
    hours.arrive(NEXT, {0: late, 1: late, 2: late})
    hours.settle(cleans=3, days=2, ticks=1)
    batch = hours.count()

    stack.files.hold("clean")
    stack.files.release("clean", hour(NEXT, 3), hour(NEXT, 4))
    hours.arrive(NEXT, {3: [f"{DAY}T{number:02}:30:00Z" for number in BURST]})
    stack.wait(lambda: stack.files.executions("clean").count(hour(DAY, BURST[0])) == 2, "the first late hour, again")
    hours.arrive(NEXT, {4: []})
    stack.wait(lambda: hour(NEXT, 4) in hours.cleans(), "the request of the current hour")
    stack.wait_for(hours.cleans()[hour(NEXT, 4)], SUCCESS)
    waiting = [stack.status(hours.cleans()[hour(DAY, number)][-1]) for number in BURST]
    stack.files.release("clean")
    hours.settle(cleans=5 + len(BURST), days=3, ticks=2)
    return Told(hours, on_time, batch, hours.count(), waiting)


def test_hours_on_time_are_cleaned_in_one_run_and_make_one_day(told: Told) -> None:
    assert told.on_time == (1, [DAY])


def test_a_batch_of_late_rows_makes_their_hour_and_its_day_once(told: Told) -> None:
    """Three hours brought late rows of one hour: it is one run, the hours that brought them are the other."""
    assert told.late == (3, [DAY, DAY])
    (late,) = told.hours.cleans()[hour(DAY, 23)]
    tags = told.hours.stack.tags(late)
    assert (tags["concurrent_runner/late_data"], tags["dagster/priority"]) == ("1", "-1")


def test_a_burst_makes_each_hour_once_and_their_day_once(told: Told) -> None:
    assert told.burst == (5 + len(BURST), [DAY] * 3)
    cleans = told.hours.cleans()
    assert all(len(cleans[hour(DAY, number)]) == 1 for number in BURST)


def test_a_current_hour_passes_a_burst(stack: Stack, told: Told) -> None:
    cleans = told.hours.cleans()
    (current,) = cleans[hour(NEXT, 4)]
    first, *others = (cleans[hour(DAY, number)][0] for number in BURST)
    assert told.waiting == [dg.DagsterRunStatus.STARTED, *[QUEUED] * len(others)]
    assert stack.ended(current) < stack.ended(first)
    assert all(stack.started(other) > stack.ended(current) for other in others)
    assert "dagster/priority" not in stack.tags(current)


def test_late_hours_of_a_burst_run_one_at_a_time(stack: Stack, told: Told) -> None:
    cleans = told.hours.cleans()
    assert stack.overlap(cleans[hour(DAY, number)][0] for number in BURST) == 1


def test_each_event_is_in_its_hour(stack: Stack, told: Told) -> None:
    assert told.burst[0]
    rows = pl.read_delta(str(stack.folder / "files/lake/clean/events"))
    counted = dict(rows.group_by(pl.col("at").dt.strftime("%Y-%m-%d-%H:00")).len().iter_rows())
    expected = {hour(DAY, number): 1 + (number in BURST) + 3 * (number == 23) for number in EVENING}
    assert counted == {**expected, **{hour(NEXT, number): 1 for number in range(5)}}


def test_the_checks_are_run_with_each_request(stack: Stack, told: Told) -> None:
    (late,) = told.hours.cleans()[hour(DAY, 23)]
    events = stack.instance.all_logs(late, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [entry.dagster_event.event_specific_data for entry in events if entry.dagster_event]
    names = {told.check_name for told in found if isinstance(told, dg.AssetCheckEvaluation)}
    assert names == {"keeps_the_contract", "unique_id", "accounts_for_every_row", "nothing_too_late"}
