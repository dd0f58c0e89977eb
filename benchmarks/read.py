"""Partitions loaded into a DataFrame: ours against Polars reading files that it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from benchmarks.contexts import hour, input_of
from benchmarks.measure import Bench, Row, alternate, in_new_thread, timed
from benchmarks.tables import build_hours, files_of
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_MANY = 5_000
_SMALL, _MEDIUM, _LARGE = 2_000, 100_000, 1_000_000
_DAY = 24


def run(bench: Bench) -> Iterator[Row]:
    """Compare readers of one large hour, and of 24 hours out of 5,000."""
    root = bench.folder / "read"
    manager = DataOverwriteIOManager(root_uri=str(root))
    build_hours(manager, "large", 3, _LARGE)
    yield from _compare(bench, manager, root, "large", f"{_LARGE // 1_000_000}M-row hour", first=1, count=1, goal=1.1)
    build_hours(manager, "small", _MANY, _SMALL)
    case = f"24 of {_MANY:,} hours, {_SMALL:,} rows each"
    yield from _compare(bench, manager, root, "small", case, first=2_400, count=_DAY, goal=1.5)
    build_hours(manager, "small", _DAY, _MEDIUM)
    case = f"24 of {_MANY:,} hours, {_MEDIUM:,} rows each"
    yield from _compare(bench, manager, root, "small", case, first=0, count=_DAY, goal=1.5)


def _compare(  # noqa: PLR0913 - each is a part of one comparison
    bench: Bench,
    manager: DataOverwriteIOManager,
    root: Path,
    table: str,
    case: str,
    *,
    first: int,
    count: int,
    goal: float,
) -> Iterator[Row]:
    paths = files_of(root, table, first, count)
    known = paths if count > 1 else paths[0]

    # Made once: making a context is a tenth of a second of Python, and would leave our side alone with cold caches.
    context = input_of(table, hour(first), hour(first + count - 1), kind=pl.DataFrame)

    # The order of files is not promised.
    expected, loaded = pl.read_parquet(known), manager.load_input(context)
    if not isinstance(loaded, pl.DataFrame) or not expected.sort("ts").equals(loaded.sort("ts")):
        message = f"{case}: not the same rows"
        raise AssertionError(message)
    del expected, loaded
    samples = alternate(
        {
            "ours": timed(manager.load_input, lambda _: context),
            "cold": timed(lambda c: in_new_thread(manager.load_input, c), lambda _: context),
            "floor": timed(lambda _: pl.read_parquet(known), lambda n: n),
        },
        bench.rounds,
    )
    yield Row(f"read {case}", "read_parquet of the files", samples["ours"], samples["floor"], goal=goal)
    yield Row(f"read {case}, first of a process", "read_parquet of the files", samples["cold"], samples["floor"])
