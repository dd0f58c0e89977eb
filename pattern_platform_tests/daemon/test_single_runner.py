"""Single runner: one day at a time, in their order, and none after one that failed, whoever launches what."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from pattern_platform_tests.daemon.days import DAYS

if TYPE_CHECKING:
    from pattern_platform_tests.daemon.stack import Stack

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("daemon"), pytest.mark.usefixtures("backfills")]
SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


def test_a_day_that_failed_stops_the_rest_until_it_is_repaired(stack: Stack, backfills: dict[str, list[str]]) -> None:
    assert stack.wait_for_backfill(*backfills["repaired"]) == ["COMPLETED_FAILED"]
    assert [stack.partition(run) for run in stack.runs(asset="repaired")] == DAYS[:2]
    assert stack.files.results("repaired") == {DAYS[0]: "1"}

    out_of_turn = stack.launch("repaired", partition=DAYS[2])
    stack.wait_for([out_of_turn], FAILURE)
    assert f"partition {DAYS[2]} of 'repaired' was refused" in stack.failure(out_of_turn)
    assert stack.files.results("repaired") == {DAYS[0]: "1"}

    stack.files.mend("repaired", DAYS[1])
    assert stack.wait_for_backfill(stack.backfill(["repaired"], DAYS[1:4])) == ["COMPLETED_SUCCESS"]
    assert stack.files.results("repaired") == dict(zip(DAYS[:4], "1234", strict=True))
    assert stack.files.executions("repaired") == [DAYS[0], DAYS[1], *DAYS[1:4]]


def test_days_launched_at_once_run_one_at_a_time_in_their_order(stack: Stack, backfills: dict[str, list[str]]) -> None:
    assert stack.wait_for_backfill(*backfills["trend"]) == ["COMPLETED_SUCCESS"]
    runs = sorted(stack.runs(asset="trend"), key=stack.started)
    assert stack.overlap(runs) == 1
    assert all(stack.started(later) >= stack.ended(earlier) for earlier, later in pairwise(runs))
    days = [str(stack.partition(run)) for run in runs]
    assert days == sorted(days)
    assert set(days) == set(DAYS)


def test_a_day_that_is_launched_twice_runs_twice_one_after_the_other(stack: Stack) -> None:
    executions = stack.files.executions("trend")
    assert [executions.count(day) for day in DAYS] == [2, 2, 1, 1, 1]
    assert stack.files.results("trend") == dict(zip(DAYS, "12345", strict=True))


def test_the_times_of_a_run_are_those_of_its_events(stack: Stack) -> None:
    run, *_ = stack.runs(asset="trend")
    record = stack.record(run)
    assert (record.start_time, record.end_time) == pytest.approx((stack.started(run), stack.ended(run)), abs=1e-3)


def test_two_backfills_of_the_same_days_leave_one_clean_result(stack: Stack, backfills: dict[str, list[str]]) -> None:
    assert stack.wait_for_backfill(*backfills["contended"]) == ["COMPLETED_SUCCESS", "COMPLETED_SUCCESS"]
    runs = stack.runs(asset="contended")
    assert stack.overlap(runs) == 1
    assert {stack.status(run) for run in runs} == {SUCCESS}
    assert stack.files.results("contended") == dict(zip(DAYS[:3], "123", strict=True))
