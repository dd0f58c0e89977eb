"""Isolated sequencer: two code locations, one after the other, by data and by task, and neither knows the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pytest

from pattern_platform.patterns.data_flow.isolated_sequencer import UPSTREAM_RUN
from pattern_platform_tests.daemon.flow import DAY, OTHER_DAY

if TYPE_CHECKING:
    from pattern_platform_tests.daemon.flow import Flow
    from pattern_platform_tests.daemon.stack import Stack

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("daemon")]
SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


def test_a_consumer_runs_by_itself_after_each_run_of_the_provider(stack: Stack, flow: Flow) -> None:
    runs = flow.steps["the day was backfilled"]
    assert {stack.partition(run) for run in runs["report"]} == {DAY}
    assert {stack.tags(run)["dagster/code_location"] for run in runs["report"]} == {"consumer"}
    for day, report in zip(runs["day"], runs["report"], strict=True):
        assert stack.started(report) > stack.ended(day)


def test_a_day_that_is_backfilled_reaches_the_consumer(flow: Flow) -> None:
    before, after = flow.steps["a part was corrected"], flow.steps["the day was backfilled"]
    assert len(after["day"]) == len(before["day"]) + 1
    assert len(after["report"]) == len(before["report"]) + 1


def test_a_consumer_that_fails_leaves_its_provider_as_it_was(stack: Stack, flow: Flow) -> None:
    runs = flow.steps["the day was backfilled"]
    assert [stack.status(run) for run in runs["report"]] == [SUCCESS, SUCCESS, FAILURE]
    assert stack.status(runs["day"][-1]) == SUCCESS


def test_after_a_job_the_other_job_runs_once_for_its_partition(stack: Stack, flow: Flow) -> None:
    (run,) = flow.consumed
    assert stack.partition(run) == DAY
    assert stack.tags(run)[UPSTREAM_RUN] == flow.produced[DAY]
    assert stack.tags(run)["dagster/code_location"] == "consumer"
    stack.wait_for([run], SUCCESS)


def test_after_a_failed_run_nothing_runs_until_it_is_repaired(stack: Stack, flow: Flow) -> None:
    assert stack.status(flow.produced[OTHER_DAY]) == FAILURE
    stack.wait_for([flow.repaired], SUCCESS)
    _, run = stack.wait_for_runs(2, job="consume")
    assert (stack.partition(run), stack.tags(run)[UPSTREAM_RUN]) == (OTHER_DAY, flow.repaired)
    stack.wait_for([run], SUCCESS)
    assert stack.files.executions("taken") == [DAY, OTHER_DAY]
