"""One partition of a million rows, overwritten: ours against the Parquet writer alone and against delta-rs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
from deltalake import DeltaTable, write_deltalake

from benchmarks.contexts import PREFIX, hour, output
from benchmarks.data import HOUR, START, visits
from benchmarks.measure import Bench, Row, alternate, in_new_thread, timed
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROWS = 1_000_000
_NEIGHBOURS = 3
_TARGET = _NEIGHBOURS  # index of the hour that is overwritten
_FROM = START + _TARGET * HOUR
_PREDICATE = f"ts >= '{_FROM:%Y-%m-%dT%H}:00:00Z' AND ts < '{_FROM + HOUR:%Y-%m-%dT%H}:00:00Z'"
_HIVE_PREDICATE = f"hour = '{_FROM:%Y-%m-%d-%H}'"


def run(bench: Bench) -> Iterator[Row]:
    """Compare writers of the same partition, each into a table of its own that also has three other hours."""
    root = bench.folder / "write"
    root.mkdir()
    manager = DataOverwriteIOManager(root_uri=str(root))
    before = visits(_NEIGHBOURS * 1_000, START, _NEIGHBOURS * HOUR)
    batch = visits(_ROWS, _FROM)
    for table in ("hot", "cold"):
        manager.handle_output(output(table, hour(0), hour(_NEIGHBOURS - 1)), before)
    write_deltalake(root / "plain", before)
    hive = pl.col("ts").dt.truncate("1h").dt.to_string("%Y-%m-%d-%H").alias("hour")
    write_deltalake(root / "hive", before.with_columns(hive), partition_by=["hour"])
    hive_batch = batch.with_columns(hive)
    samples = alternate(
        {
            "ours": timed(
                lambda context: manager.handle_output(context, batch), lambda _: output("hot", hour(_TARGET))
            ),
            "ours cold": timed(
                lambda context: in_new_thread(manager.handle_output, context, batch),
                lambda _: output("cold", hour(_TARGET)),
            ),
            "floor": timed(
                lambda path: batch.write_parquet(path, compression="zstd", compression_level=1),
                lambda number: root / f"floor-{number}.parquet",
            ),
            "plain": timed(
                lambda _: write_deltalake(root / "plain", batch, mode="overwrite", predicate=_PREDICATE), lambda n: n
            ),
            "hive": timed(
                lambda _: write_deltalake(root / "hive", hive_batch, mode="overwrite", predicate=_HIVE_PREDICATE),
                lambda n: n,
            ),
        },
        bench.rounds,
    )
    for table in (root / PREFIX / "hot", root / PREFIX / "cold", root / "plain", root / "hive"):
        _check(table)
    case = "write 1M rows x 8 columns"
    ours, cold = samples["ours"], samples["ours cold"]
    yield Row(case, "write_parquet zstd 1", ours, samples["floor"], goal=1.25)
    yield Row(f"{case}, first of a process", "write_parquet zstd 1", cold, samples["floor"], goal=1.25)
    yield Row(case, "write_deltalake, same layout", ours, samples["plain"])
    yield Row(case, "write_deltalake, partition column", ours, samples["hive"], goal=0.35)


def _check(table: Path) -> None:
    rows = DeltaTable(table).count()
    if rows != _ROWS + _NEIGHBOURS * 1_000:
        message = f"{table.name} has {rows} rows, so it was not the same work"
        raise AssertionError(message)
