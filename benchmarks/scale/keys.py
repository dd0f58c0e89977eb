"""A merge by key: planning it and writing its files, by the keys of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import polars as pl

from benchmarks.scale.points import timed_point
from pattern_platform.lake.changes import Changes
from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.commit import commit, ready_table
from pattern_platform.lake.files import remove_files, write_files
from pattern_platform.lake.merge import plan_merge
from pattern_platform.lake.snapshot import open_table
from pattern_platform.lake.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.scale.points import Point
    from pattern_platform.lake.snapshot import Snapshot

_CHANGES = 1_000
_KEYS = "keys"
_SMALL, _LARGE = 10_000, 1_000_000  # rows of a file: as single runs leave them, and as compaction does


def by_keys(folder: Path, sizes: Sequence[int], rounds: int) -> Iterator[Point]:
    """Tables of unique keys and a value, clustered by key; a thousand updates of neighbours, and of keys everywhere.

    Args:
        folder: Where the tables are made.
        sizes: Numbers of keys.
        rounds: How often each point is measured.
    """
    for rows in (_SMALL, _LARGE):
        for size in sizes:
            snapshot = _made(folder / f"keys_{size}_{rows}", size, rows)
            for where, keys in (
                ("neighbours", pl.int_range(size // 2, size // 2 + _CHANGES, eager=True)),
                ("keys everywhere", pl.int_range(0, size, max(size // _CHANGES, 1), eager=True).head(_CHANGES)),
            ):
                yield timed_point(
                    f"merge {_CHANGES:,} {where}, {rows:,} rows a file",
                    _KEYS,
                    size,
                    lambda changes, s=snapshot: _merge(s, changes),
                    lambda _, k=keys: _updates(k),
                    rounds,
                )


def _made(table: Path, keys: int, rows: int) -> Snapshot:
    key = pl.int_range(keys, dtype=pl.Int64)
    frame = pl.LazyFrame().select(id=key, value=key % 1_000)
    snapshot = ready_table(table, None, frame.collect_schema(), partition_by=(), properties={})
    files = write_files(frame, table, keys={"file": pl.col("id") // rows})
    commit(
        snapshot,
        None,
        lambda current: ChangeSet(add=files, remove=current.files.clear()),
        batch=files,
        metadata={"pattern": "merger"},
    )
    return cast("Snapshot", open_table(table))


def _updates(keys: pl.Series) -> Changes:
    upserts = pl.DataFrame({"id": keys}).with_columns(value=pl.lit(0, pl.Int64))
    return Changes(upserts=upserts, deletes=upserts.clear(), keys=("id",), sequence=None)


def _merge(snapshot: Snapshot, changes: Changes) -> None:
    """Plan it, which writes the files, and leave the table as it is."""
    planned = plan_merge(snapshot, snapshot.files, changes, Window())
    remove_files(snapshot.table, planned.written)
