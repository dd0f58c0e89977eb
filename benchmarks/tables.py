"""Tables of many small partitions, built by the platform's own writer in ranges, and what is in their log."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import polars as pl
from deltalake import DeltaTable

from benchmarks.contexts import PREFIX, day, hour, output
from benchmarks.data import HOUR, START, daily, visits

if TYPE_CHECKING:
    from pathlib import Path

    from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager

_PARTITIONS_PER_RUN = 100


def build_hours(manager: DataOverwriteIOManager, table: str, hours: int, rows: int) -> None:
    """Write hours in runs of a hundred, so that the log has the checkpoints that many runs leave.

    Args:
        manager: Its root is where the table is made.
        table: Name of the table.
        hours: Number of partitions.
        rows: Rows of each.
    """
    for first in range(0, hours, _PARTITIONS_PER_RUN):
        count = min(_PARTITIONS_PER_RUN, hours - first)
        frame = visits(rows * count, START + first * HOUR, count * HOUR)
        manager.handle_output(output(table, hour(first), hour(first + count - 1)), frame)


def build_days(manager: DataOverwriteIOManager, table: str, days: int, rows: int) -> None:
    """Write days in the same way; see :func:`build_hours`."""
    for first in range(0, days, _PARTITIONS_PER_RUN):
        count = min(_PARTITIONS_PER_RUN, days - first)
        frame = daily(rows * count, START + dt.timedelta(days=first), count)
        manager.handle_output(output(table, day(first), day(first + count - 1)), frame)


def files_of(root: Path, table: str, first: int, count: int = 1) -> list[Path]:
    """The files of some hours, found by their statistics; what a reader that knows them already would be given."""
    folder = root / PREFIX / table
    files = pl.DataFrame(DeltaTable(folder).get_add_actions(flatten=True))
    start = START + first * HOUR
    inside = files.filter(pl.col("min.ts") >= start, pl.col("min.ts") < start + count * HOUR).sort("min.ts")
    return [folder / path for path in inside["path"]]
