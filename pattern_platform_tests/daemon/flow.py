"""One day of four parts, from the first part to a report of another team, with what goes wrong on the way.

The tests of the fan-ins and those of the two locations look at the same runs: each costs seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from pattern_platform_tests.daemon.stack import Stack

DAY, OTHER_DAY = "2024-03-05", "2024-03-06"
PARTS = [f"{DAY}-{hour:02}:00" for hour in (0, 6, 12, 18)]
SENSORS = [("producer", "automation"), ("consumer", "automation")]
_SUCCESS, _FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


@dataclass
class Flow:
    """Runs of the assets after each step, by the name of the step."""

    stack: Stack
    steps: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    produced: dict[str, str] = field(default_factory=dict)  # run of the job by day
    consumed: list[str] = field(default_factory=list)  # runs of the job that follows, before the repair
    repaired: str = ""

    def settle(self, step: str, ticks: int = 0, **counts: int) -> None:
        """Wait for as many runs of the assets in all, until they have ended, and for ticks; note what there is."""
        for asset, count in counts.items():
            runs = self.stack.wait_for_runs(count, asset=asset)
            self.stack.wait_for(runs)
        self.stack.wait_for_ticks(ticks, *SENSORS)
        self.steps[step] = {asset: self.stack.runs(asset=asset) for asset in ("parts", "day", "estimate", "report")}

    def count(self, step: str) -> dict[str, int]:
        """How many runs there were after a step, in all."""
        return {asset: len(runs) for asset, runs in self.steps[step].items() if asset != "parts"}


def run(stack: Stack) -> Flow:
    """Let the day happen."""
    flow = Flow(stack)
    stack.files.break_("handed", OTHER_DAY)
    flow.produced = {day: stack.launch_job("produce", partition=day) for day in (DAY, OTHER_DAY)}

    stack.files.break_("parts", PARTS[3])
    three, fourth = stack.launch("parts", span=(PARTS[0], PARTS[2])), stack.launch("parts", partition=PARTS[3])
    stack.wait_for([three], _SUCCESS)
    stack.wait_for([fourth], _FAILURE)
    flow.settle("a part failed", estimate=1, ticks=2)

    stack.files.mend("parts", PARTS[3])
    stack.wait_for([stack.launch("parts", partition=PARTS[3])], _SUCCESS)
    flow.settle("the part was repaired", day=1, estimate=2, report=1)

    stack.wait_for([flow.produced[OTHER_DAY]], _FAILURE)
    stack.wait_for_runs(1, job="consume")  # the sensor has seen the failed run with the other one
    flow.consumed = stack.runs(job="consume")
    stack.files.mend("handed", OTHER_DAY)
    flow.repaired = stack.launch_job("produce", partition=OTHER_DAY)

    stack.wait_for([stack.launch("parts", partition=PARTS[1])], _SUCCESS)
    flow.settle("a part was corrected", day=2, estimate=3, report=2)

    stack.files.break_("report", DAY)
    assert stack.wait_for_backfill(stack.backfill(["day"], [DAY])) == ["COMPLETED_SUCCESS"]
    flow.settle("the day was backfilled", day=3, report=3, ticks=3)  # what came twice on the way is seen here
    return flow
