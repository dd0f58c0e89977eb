"""What dies is started again: a daemon goes on where it was, a run that was killed leaves its slot."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from pattern_platform_tests.daemon.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("daemon")]
DAYS = [f"2024-03-{day:02}" for day in range(1, 9)]
SOON = 30.0  # seconds in which a slot must be free again, on a machine that is busy with other things too
STARTED, SUCCESS, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


def test_a_backfill_goes_on_where_a_killed_daemon_left_it(stack: Stack) -> None:
    stack.files.hold("interrupted")
    backfill = stack.backfill(["interrupted"], DAYS[:3])
    stack.wait(lambda: stack.files.executions("interrupted") == DAYS[:1], "the first day")
    stack.daemon.kill()
    stack.files.release("interrupted")
    (first,) = stack.runs(asset="interrupted")
    stack.wait_for([first], SUCCESS)  # a run needs no daemon
    stack.restart_daemon()
    assert stack.wait_for_backfill(backfill) == ["COMPLETED_SUCCESS"]
    assert stack.files.executions("interrupted") == DAYS[:3]
    assert stack.files.results("interrupted") == dict(zip(DAYS[:3], "123", strict=True))


def test_a_killed_run_leaves_its_slot_at_once_and_is_tried_again(
    stack: Stack, record_property: Callable[[str, object], None]
) -> None:
    stack.files.hold("killed")
    killed = stack.launch("killed", partition=DAYS[0])
    stack.wait(lambda: stack.files.executions("killed"), "the run that is to be killed")
    waiting = stack.launch("killed", partition=DAYS[0])
    moment = stack.kill(killed)
    stack.wait_for([killed], FAILURE, seconds=SOON)
    record_property("seconds until the slot is free", round(stack.ended(killed) - moment, 2))
    stack.wait_for([waiting], STARTED, SUCCESS, seconds=SOON)
    record_property("seconds until the next run starts", round(stack.started(waiting) - moment, 2))

    stack.files.release("killed")
    (again,) = stack.wait_for_runs(1, asset="killed", dagster__parent_run_id=killed)
    stack.wait_for([waiting, again], SUCCESS)
    assert stack.overlap([killed, waiting, again]) == 1
    assert stack.files.results("killed") == {DAYS[0]: "1"}


@pytest.fixture
def quick_to_notice() -> Iterator[Stack]:
    with Stack(settings={"run_monitoring": {"poll_interval_seconds": 2}}) as stack:
        yield stack


@pytest.mark.soak
def test_a_machine_that_went_down_blocks_a_slot_no_longer_than_the_longest_run(
    quick_to_notice: Stack, record_property: Callable[[str, object], None]
) -> None:
    """With its code server gone, nobody knows that a run is dead: only its age tells."""
    stack, age = quick_to_notice, 15
    stack.files.hold("killed")
    lost = stack.launch("killed", partition=DAYS[0], tags={"dagster/max_runtime": str(age)})
    stack.wait(lambda: stack.files.executions("killed"), "the run that is to be lost")
    waiting = stack.launch("killed", partition=DAYS[0])
    stack.files.release("killed", DAYS[0])
    stack.restart_server("producer")
    stack.wait_for([lost], FAILURE, seconds=age + SOON)
    record_property("seconds until a lost run is noticed", round(stack.ended(lost) - stack.started(lost), 2))
    assert stack.ended(lost) - stack.started(lost) >= age
    stack.wait_for([waiting], SUCCESS, seconds=SOON)
    assert stack.files.results("killed") == {DAYS[0]: "1"}


@pytest.mark.soak
def test_a_backfill_survives_daemons_killed_at_any_moment(stack: Stack) -> None:
    rounds = max(1, int(os.environ.get("SOAK", "500")) // 100)
    for number in range(rounds):
        backfill = stack.backfill(["interrupted"], DAYS)
        for _ in range(4):
            end = time.monotonic() + random.uniform(0, 6)
            stack.wait(
                lambda end=end, backfill=backfill: (
                    time.monotonic() >= end or stack.backfill_status(backfill) != "REQUESTED"
                ),
                "the moment of a kill",
            )
            stack.restart_daemon()
        assert stack.wait_for_backfill(backfill) == ["COMPLETED_SUCCESS"], number
        runs = stack.runs(asset="interrupted", dagster__backfill=backfill)
        assert stack.overlap(runs) == 1
        assert stack.files.results("interrupted") == dict(zip(DAYS, "12345678", strict=True))
