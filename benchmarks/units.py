"""A day that is thrown away and loaded again, by how many days there are: as a unit of its own, and by its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.contexts import day, output
from benchmarks.data import START
from benchmarks.measure import Bench, Row, alternate, timed
from pattern_platform.patterns.idempotency.data_overwrite_duckdb import WarehouseOverwriteIOManager
from pattern_platform.patterns.idempotency.fast_metadata_cleaner import FastMetadataCleanerIOManager
from pattern_platform.warehouse.database import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.measure import Sample
    from pattern_platform.warehouse.io_manager import DuckDBIOManager

_ROWS_A_DAY = 50_000
_SIZES = (10, 500)
_DAYS_A_RUN = 10
_GOAL_GROWTH = 1.5
_BY_ROWS = ("rows by day", "rows by user")  # in the order in which they come, where a day is found by its place, or not


def _rows(first: int, days: int) -> pl.DataFrame:
    """Visits of some days, the same for the same days."""
    number = np.arange(days * _ROWS_A_DAY)
    start = pl.date(START.year, START.month, START.day)
    return pl.DataFrame({"number": number}).select(
        day=start + pl.duration(days=first + pl.col("number") // _ROWS_A_DAY),
        visit_id=pl.col("number") + first * _ROWS_A_DAY,
        user_id=pl.format("user {}", pl.col("number") % 997),
        page=pl.format("page {}", pl.col("number") % 31),
        seconds=(pl.col("number") % 601) / 7,
    )


def run(bench: Bench) -> Iterator[Row]:
    """Reload the last day of tables of 10 and of 500 days, kept in units and as one table."""
    managers: dict[str, Callable[[str], DuckDBIOManager]] = {
        "drop": lambda path: FastMetadataCleanerIOManager(database=path, unit="day"),
        "truncate": lambda path: FastMetadataCleanerIOManager(database=path, unit="day", method="truncate"),
        "rows by day": lambda path: WarehouseOverwriteIOManager(database=path),
        "rows by user": lambda path: WarehouseOverwriteIOManager(database=path),
    }
    cases: dict[str, Callable[[int], Sample]] = {}
    for name, made in managers.items():
        for size in _SIZES:
            manager = made(str(bench.folder / f"{name}_{size}.duckdb"))
            for first in range(0, size, _DAYS_A_RUN):
                context = output("visits", day(first), day(first + _DAYS_A_RUN - 1))
                manager.handle_output(context, _rows(first, _DAYS_A_RUN))
            if name == "rows by user":
                with transaction(manager.database) as connection:
                    connection.execute("CREATE TABLE bench.sorted AS FROM bench.visits ORDER BY user_id")
                    connection.execute("DROP TABLE bench.visits; ALTER TABLE bench.sorted RENAME TO visits")
            cases[f"{name} {size}"] = _reload(manager, size - 1)
    samples = alternate(cases, bench.rounds)
    small, large = _SIZES
    for name in managers:
        goal = None if name in _BY_ROWS else _GOAL_GROWTH
        how = f"DELETE and INSERT, {name}" if name in _BY_ROWS else name
        what = f"reload a day of {_ROWS_A_DAY:,} rows out of {large}, {how}"
        yield Row(what, f"out of {small}", samples[f"{name} {large}"], samples[f"{name} {small}"], goal=goal)
    for name in ("drop", "truncate"):
        for size in _SIZES:
            what = f"reload a day of {_ROWS_A_DAY:,} rows out of {size}, {name}"
            for other in _BY_ROWS:
                yield Row(what, f"DELETE and INSERT, {other}", samples[f"{name} {size}"], samples[f"{other} {size}"])


def _reload(manager: DuckDBIOManager, last: int) -> Callable[[int], Sample]:
    rows = _rows(last, 1)
    return timed(
        lambda context: manager.handle_output(context, rows),
        lambda _: output("visits", day(last)),
    )
