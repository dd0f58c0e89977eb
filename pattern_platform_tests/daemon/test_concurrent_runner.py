"""Concurrent runner: as many at a time as the limit says, no more and no fewer, and nobody else waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from pattern_platform_tests.daemon.stack import STOCK, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("daemon")]
LIMIT, ALL_SLOTS = 3, 4
REGIONS = [f"r{number:02}" for number in range(8)]
BROKEN = REGIONS[2]
QUEUED, STARTED = dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED
SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


@dataclass
class Rush:
    """What was seen while a backfill of regions had its slots full."""

    backfill: str
    waiting: set[dg.DagsterRunStatus]  # of the other regions, while a slot of the queue was free
    rush: str
    usual: str
    urgent: str


@pytest.fixture(scope="module")
def rush(stack: Stack) -> Rush:
    """A backfill fills its limit; then come a run of another runner, which takes the last slot, and two that wait."""
    for asset in ("regions", "rush"):
        stack.files.hold(asset)
    stack.files.break_("regions", BROKEN)
    backfill = stack.backfill(["regions"], REGIONS)
    stack.wait(lambda: len(stack.files.executions("regions")) == LIMIT, "the limit of the regions")

    first = stack.launch("rush")
    stack.wait_for([first], STARTED)  # the regions are held: it did not wait for them
    regions = stack.runs(asset="regions")
    waiting = {stack.status(run) for run in regions if stack.status(run) != STARTED}

    usual, urgent = stack.launch("usual", tags={"by": "usual"}), stack.launch_job("urgent_job")
    assert {stack.status(usual), stack.status(urgent)} == {QUEUED}
    stack.files.release("rush")
    stack.wait_for([first, usual, urgent], SUCCESS)  # one after the other in the slot that was free
    stack.files.release("regions")
    stack.wait_for_backfill(backfill)
    return Rush(backfill, waiting, first, usual, urgent)


def test_the_limit_is_reached_and_not_passed(stack: Stack, rush: Rush) -> None:
    runs = stack.runs(dagster__backfill=rush.backfill)
    assert len(runs) == len(REGIONS)
    assert stack.overlap(runs) == LIMIT
    assert rush.waiting == {QUEUED}


def test_a_region_that_fails_stops_no_other_and_is_repaired_alone(stack: Stack, rush: Rush) -> None:
    assert stack.backfill_status(rush.backfill) == "COMPLETED_FAILED"
    others = set(REGIONS) - {BROKEN}
    assert set(stack.files.results("regions")) == others
    stack.files.mend("regions", BROKEN)
    stack.wait_for([stack.launch("regions", partition=BROKEN)], SUCCESS)
    assert stack.files.results("regions") == dict.fromkeys(REGIONS, "1")
    assert sorted(stack.files.executions("regions")) == sorted([*REGIONS, BROKEN])


def test_the_run_of_another_runner_does_not_wait_for_a_full_limit(stack: Stack, rush: Rush) -> None:
    held = [run for run in stack.runs(dagster__backfill=rush.backfill) if stack.started(run) < stack.started(rush.rush)]
    assert len(held) == LIMIT
    assert all(stack.ended(run) > stack.ended(rush.rush) for run in held)


def test_in_a_full_queue_the_higher_priority_goes_first(stack: Stack, rush: Rush) -> None:
    runs = [*stack.runs(dagster__backfill=rush.backfill), rush.rush, rush.usual, rush.urgent]
    assert stack.overlap(runs) == ALL_SLOTS
    assert stack.started(rush.urgent) < stack.started(rush.usual)
    assert stack.tags(rush.urgent)["dagster/priority"] == "10"


@pytest.fixture
def stock() -> Iterator[Stack]:
    settings = {"run_coordinator": {"config": {"max_concurrent_runs": 10, "dequeue_interval_seconds": 1}}}
    with Stack(daemon=STOCK, settings=settings) as stack:
        yield stack


@pytest.mark.soak
def test_fifty_regions_go_five_at_a_time_with_the_daemon_as_it_is(stock: Stack) -> None:
    regions = [f"r{number:02}" for number in range(50)]
    stock.files.hold("many_regions")
    backfill = stock.backfill(["many_regions"], regions)
    stock.wait(lambda: len(stock.files.executions("many_regions")) == 5, "the limit of the regions")
    stock.files.release("many_regions")
    stock.wait_for_runs(len(regions), asset="many_regions")
    runs = stock.runs(asset="many_regions")
    stock.wait_for(runs, SUCCESS, seconds=900)
    assert stock.wait_for_backfill(backfill) == ["COMPLETED_SUCCESS"]
    assert stock.files.results("many_regions") == dict.fromkeys(regions, "1")
    assert sorted(stock.files.executions("many_regions")) == regions
    assert stock.overlap(runs) == 5
