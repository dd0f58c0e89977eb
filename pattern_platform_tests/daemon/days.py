"""Days that run one at a time, of three assets: launched all at once, some of them twice, one of them broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from pattern_platform_tests.daemon.stack import Stack

DAYS = [f"2024-03-{day:02}" for day in range(1, 6)]


def launch(stack: Stack) -> dict[str, list[str]]:
    """Launch them; returns the backfills by asset. They go on by themselves: runs wait for each other, not tests."""
    stack.files.hold("trend")
    stack.files.hold("contended")
    stack.files.release("contended", DAYS[0])
    stack.files.break_("repaired", DAYS[1])
    found = {
        "trend": [stack.backfill(["trend"], DAYS)],
        "repaired": [stack.backfill(["repaired"], DAYS[:4])],
        "contended": [stack.backfill(["contended"], DAYS[:3])],
    }
    (first,) = stack.wait_for_runs(1, asset="trend")
    stack.wait_for([first], dg.DagsterRunStatus.STARTED)
    by_hand = [stack.launch("trend", partition=day) for day in DAYS[:2]]
    stack.wait_for(by_hand, dg.DagsterRunStatus.QUEUED)
    stack.files.release("trend")
    stack.wait(lambda: stack.files.executions("contended") == DAYS[:2], "the second day")
    found["contended"].append(stack.backfill(["contended"], DAYS[:3]))
    stack.wait_for_runs(3, asset="contended")
    stack.files.release("contended")
    return found
