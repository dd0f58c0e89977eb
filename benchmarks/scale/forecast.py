"""What the simulator says: beside what was measured, and for more hosts than there were."""

from __future__ import annotations

from dataclasses import replace
from statistics import linear_regression
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from benchmarks.scale.hours import ROWS
from benchmarks.scale.launched import ALL, CPU_OF_DAY, CPU_OF_LAUNCH, CPU_OF_RUN, PER_RUN, RUNS, START, WORK
from benchmarks.scale.simulate import Costs, Fleet, Queue, backfill_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.scale.points import Point

HOURS_OF_A_YEAR, TABLES = 8_760, 1_000
HOST = Fleet(hosts=1, slots=4, cores=4)
_HERE = Fleet(hosts=1, slots=4, cores=2)
# A trivial asset on a quiet machine of two cores: 2.9 s of processor time for each further run, of which 0.18 s in the
# run; 168 partitions in 1.44 s and 24 in 0.29 s. Eight runs of it, two at once, took 17.1 s.
_QUIET = Costs(launch=0.17, start=2.55, run=0.17, partition=0.008)
# A million rows an hour onto a store on the same two cores, four processes that took the runs from a queue: 70.5 s.
_FLEET_RUNS, _FLEET_SECONDS, _FLEET_ROWS = 24, 70.5, 1_000_000


def calibrated(points: Sequence[Point]) -> Costs:
    """The costs of a run by its processor time, which a busy machine disturbs least.

    What daemon and code server use grows with the time that they are there, and with the runs: the runs' share is where
    the line through the points begins.

    Args:
        points: Of ``launched``. Of the runs, those are used that were alone.
    """
    alone = {point.curve: point.median for point in points if point.size == 1}
    partition = max(alone[CPU_OF_DAY] - alone[CPU_OF_RUN], 0) / (PER_RUN - 1)
    in_run = alone[WORK] / (alone[START] + alone[WORK])  # of the time of its process
    run = max(alone[CPU_OF_RUN] * in_run - partition, 0)
    seconds, used = ([point.median for point in points if point.curve == curve] for curve in (ALL, CPU_OF_LAUNCH))
    launch = max(linear_regression([each / RUNS for each in seconds], used).intercept, 0)
    return Costs(launch, alone[CPU_OF_RUN] * (1 - in_run), run, partition)


def compared(points: Sequence[Point]) -> Table:
    """Measured and simulated, side by side."""
    table = Table(
        "runs", "at once", "measured s", "simulated s", "ratio", title="The simulator checked", box=box.MARKDOWN
    )
    cases = [
        (calibrated(points), RUNS, point.size, point.median, f"load {point.load}")
        for point in points
        if point.curve == ALL
    ]
    rows = replace(calibrated(points), partition=calibrated(points).partition * _FLEET_ROWS / ROWS)
    cases += [
        (_QUIET, 8, 2, 17.1, "trivial asset, quiet"),
        (rows, _FLEET_RUNS, 4, _FLEET_SECONDS, "Celery workers, 1 M rows each onto S3"),
    ]
    for costs, runs, at_once, measured, note in cases:
        simulated = backfill_seconds(runs, 1, costs, _HERE, Queue(at_once))
        ratio = f"{simulated / measured:.2f} {note}".strip()
        table.add_row(str(runs), str(at_once), f"{measured:.1f}", f"{simulated:.1f}", ratio)
    return table


def forecasts(costs: Costs) -> Iterator[Table]:
    """A year of hours of one table, and an hour of a thousand tables, by hosts.

    Args:
        costs: Of a run.
    """
    title = f"{HOURS_OF_A_YEAR:,} hours of one table, minutes; hosts of {HOST.slots} slots and {HOST.cores} cores"
    table = Table("hosts", "max_concurrent_runs", "tag limit", title=title, box=box.MARKDOWN)
    batches = (1, PER_RUN, 7 * PER_RUN)
    for batch in batches:
        table.add_column(f"{batch} hours a run", justify="right")
    for hosts, limit in ((1, None), (2, None), (4, None), (8, None), (8, 3), (16, None)):
        queue = Queue(hosts * HOST.slots, limit)
        minutes = (_minutes(HOURS_OF_A_YEAR, batch, costs, hosts, queue) for batch in batches)
        table.add_row(str(hosts), str(queue.at_once), str(limit or ""), *minutes)
    yield table
    title = f"The newest hour of {TABLES:,} tables, minutes: 60 are all there are"
    table = Table("hosts", "max_concurrent_runs", title=title, box=box.MARKDOWN)
    counts = (1, 10)
    for count in counts:
        table.add_column(f"{count} tables a run", justify="right")
    apart = replace(costs, commit=0)  # a lock of each table
    for hosts in (1, 2, 4, 8, 16):
        queue = Queue(hosts * HOST.slots)
        table.add_row(str(hosts), str(queue.at_once), *(_minutes(TABLES, n, apart, hosts, queue) for n in counts))
    yield table


def _minutes(partitions: int, per_run: int, costs: Costs, hosts: int, queue: Queue) -> str:
    fleet = replace(HOST, hosts=hosts)
    return f"{backfill_seconds(partitions, per_run, costs, fleet, queue) / 60:.1f}"
