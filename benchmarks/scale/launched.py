"""Runs as the daemon launches them, a process each: how long they wait, start and work, by how many may run at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import dagster as dg

from benchmarks.contexts import hour
from benchmarks.scale import hours
from benchmarks.scale.points import measured_point
from pattern_platform_tests.daemon.stack import FINISHED, STOCK, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.scale.points import Point
    from pattern_platform_tests.daemon.stack import Program

RUNS = 12
PER_RUN = 24  # partitions of the run that holds a day
DEQUEUE_SECONDS = 1
AT_ONCE = "runs at once"
ALL, START, WORK, WORK_OF_A_DAY, CPU_OF_RUN, CPU_OF_DAY, CPU_OF_LAUNCH = (
    f"{RUNS} runs, from the first request to the last end",
    "a run, from its launch to its first step",
    "a run of an hour, from its start to its end",
    f"a run of {PER_RUN} hours, from its start to its end",
    "processor time of a run of an hour, its process alone",
    f"processor time of a run of {PER_RUN} hours, its process alone",
    "processor time of daemon and code server, for each run",
)
_SECONDS = 600.0


def by_concurrency(folder: Path, sizes: Sequence[int], rounds: int) -> Iterator[Point]:  # noqa: ARG001 - one round each
    """Launch runs at once, with the stock daemon and launcher, and read what the event log says of them.

    Args:
        folder: Where the instance and the table are.
        sizes: ``max_concurrent_runs``.
        rounds: Each is launched once: there are twelve runs.
    """
    os.environ[hours.LAKE] = str(folder / "lake")
    for size in sizes:
        limits = {"config": {"max_concurrent_runs": size, "dequeue_interval_seconds": DEQUEUE_SECONDS}}
        place, settings = folder / f"at_once_{size}", {"run_coordinator": limits}
        with Stack(place, STOCK, settings, {"hours": "benchmarks.scale.hours"}) as stack:
            begun = _processor_times(stack)
            day = stack.launch("hour", span=(hour(100), hour(100 + PER_RUN - 1)), location="hours")
            _finish(stack, [day])
            between = _processor_times(stack)
            runs = [stack.launch("hour", partition=hour(number), location="hours") for number in range(RUNS)]
            _finish(stack, runs)
            ended = _processor_times(stack)
            times = [_Times.of(stack, run) for run in runs]
            long = _Times.of(stack, day)
        seconds = {
            ALL: max(run.ended for run in times) - min(run.queued for run in times),
            START: median(run.started - run.launched for run in times),
            WORK: median(run.ended - run.started for run in times),
            WORK_OF_A_DAY: long.ended - long.started,
            CPU_OF_RUN: (ended[0] - between[0]) / RUNS,
            CPU_OF_DAY: between[0] - begun[0],
            CPU_OF_LAUNCH: (ended[1] - between[1]) / RUNS,
        }
        for curve, value in seconds.items():
            yield measured_point(curve, AT_ONCE, size, value, "s")


@dataclass(frozen=True)
class _Times:
    """When a run was queued, was launched, started its first step and ended, in seconds since the epoch."""

    queued: float
    launched: float
    started: float
    ended: float

    @classmethod
    def of(cls, stack: Stack, run: str) -> _Times:
        stats = stack.instance.get_run_stats(run)
        times = (stats.enqueued_time, stats.launch_time, stats.start_time, stats.end_time)
        return cls(*(time for time in times if time is not None))


def _processor_times(stack: Stack) -> tuple[float, float]:
    """Seconds of the runs that have ended, which are children of the code server; and of code server and daemon."""
    ticks = os.sysconf("SC_CLK_TCK")
    of_runs, of_servers = 0.0, 0.0
    for program in (stack.servers["hours"], stack.daemon):
        fields = Path(f"/proc/{_pid(program)}/stat").read_text().rpartition(")")[2].split()
        own, children = (sum(map(int, fields[first : first + 2])) / ticks for first in (11, 13))
        of_servers += own
        of_runs += children
    return of_runs, of_servers


def _pid(program: Program) -> int:
    assert program._process  # noqa: S101 - it was started
    return program._process.pid


def _are_reaped(server: int) -> bool:
    """Whether the time of all its runs is counted as that of its children: none of them is left but Python's helper."""
    threads = Path(f"/proc/{server}/task").glob("*/children")
    children = [child for of_one in threads for child in of_one.read_text().split()]
    return all(b"resource_tracker" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


def _finish(stack: Stack, runs: Sequence[str]) -> None:
    def ended() -> list[dg.DagsterRunStatus]:
        records = stack.instance.get_run_records(dg.RunsFilter(run_ids=list(runs)))
        statuses = [record.dagster_run.status for record in records]
        return statuses if set(statuses) <= FINISHED else []

    statuses = stack.wait(ended, "the end of the runs", _SECONDS)
    stack.wait(lambda: _are_reaped(_pid(stack.servers["hours"])), "the end of their processes")
    if set(statuses) != {dg.DagsterRunStatus.SUCCESS}:
        message = f"of {len(runs)} runs, some failed"
        raise RuntimeError(message)
