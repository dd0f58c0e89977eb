"""Fan-ins on a running daemon: a day of four parts, of which one fails, is repaired, and another is corrected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pytest

from pattern_platform_tests.daemon.flow import DAY

if TYPE_CHECKING:
    from pattern_platform_tests.daemon.flow import Flow
    from pattern_platform_tests.daemon.stack import Stack

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("daemon")]


def test_with_a_failed_part_the_estimate_is_made_once_and_the_day_waits(flow: Flow) -> None:
    assert flow.count("a part failed") == {"day": 0, "estimate": 1, "report": 0}


def test_once_the_last_part_lands_the_day_is_made_once_and_the_estimate_again(flow: Flow) -> None:
    assert flow.count("the part was repaired") == {"day": 1, "estimate": 2, "report": 1}


def test_a_correction_propagates_once(flow: Flow) -> None:
    assert flow.count("a part was corrected") == {"day": 2, "estimate": 3, "report": 2}


def test_what_is_run_by_hand_is_not_run_again(flow: Flow) -> None:
    assert flow.count("the day was backfilled") == {"day": 3, "estimate": 3, "report": 3}


def test_every_run_is_of_the_day_whose_parts_changed(stack: Stack, flow: Flow) -> None:
    last = flow.steps["the day was backfilled"]
    runs = [run for asset in ("day", "estimate") for run in last[asset]]
    assert {stack.partition(run) for run in runs} == {DAY}
    assert {stack.status(run) for run in runs} == {dg.DagsterRunStatus.SUCCESS}


def test_nothing_starts_before_what_it_rests_on_has_ended(stack: Stack, flow: Flow) -> None:
    parts, days = (flow.steps["a part was corrected"][asset] for asset in ("parts", "day"))
    assert stack.started(days[0]) > stack.ended(parts[2])
    assert stack.started(days[1]) > stack.ended(parts[3])
