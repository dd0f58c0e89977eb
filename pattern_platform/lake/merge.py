"""Changes by key -> a change set: only files that hold a touched key are rewritten.

Files are found in three steps, each reading less than the table: by partition, by the bounds of their keys, and by
reading the key columns alone. Rewritten files stay clustered: rows go back into the range of keys that they came from,
and new keys join the range that holds them.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import reduce
from math import ceil
from operator import and_
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl

from pattern_platform.errors import DuplicateKeyInTableError
from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.files import scan_files, write_files, written_for
from pattern_platform.lake.statistics import has_bounds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pattern_platform.lake.changes import Changes
    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.window import Window

ROWS_PER_FILE = 1_000_000  # a touched key costs the rewriting of its file: 0.1 s
MOST_ROWS = ROWS_PER_FILE * 5 // 4  # of files that are rewritten together; one that is larger by half is split
# Names that no column of a table has.
_PATH, _FILE, _STORED, _GROUP = (f"_{name}_{uuid4().hex}" for name in ("path", "file", "stored", "group"))
_MILLISECOND = dt.timedelta(milliseconds=1)


def plan_merge(
    snapshot: Snapshot, files: pl.DataFrame, changes: Changes, window: Window, *, durable: bool = False
) -> ChangeSet:
    """Update, insert and delete by key.

    Args:
        snapshot: The table.
        files: The live files to merge into: those of the snapshot, or of an older version of the table.
        changes: At most one change a key.
        window: The rows among which keys are looked up; the whole table where keys are unique in the whole table.
        durable: Whether files are synced to the disk.

    Raises:
        DuplicateKeyInTableError: The table holds a touched key twice.
    """
    inside = pl.concat(window.split(files))
    found = _lookup(snapshot, _candidates(inside, changes), changes, window)
    changed, ignored = _effective(changes, found)
    upserts = (
        changes.upserts.join(ignored, on=changes.keys, how="anti", maintain_order="left")
        if ignored.height
        else changes.upserts
    )
    touched = files.join(changed, left_on="path", right_on=_FILE, how="semi")
    with written_for(snapshot.table) as written:
        groups = grouped(touched, changes.keys[0], snapshot.partition_columns)
        for group, rows in _assigned(upserts, changed, groups, inside, changes):
            written.extend(_written(snapshot, group, rows, changed, changes, durable=durable))
    deleted = changed.join(changes.upserts, on=changes.keys, how="anti").height
    updated = changed.height - deleted
    return ChangeSet(
        add=written,
        remove=touched,
        written=written,
        rows={
            "inserted": upserts.height - updated,
            "updated": updated,
            "deleted": deleted,
            "ignored": changes.upserts.height + changes.deletes.height - upserts.height - deleted,
            "dropped_duplicates": changes.dropped_duplicates,
        },
        metadata={"files_rewritten": touched.height},
    )


# Which files --------------------------------------------------------------------------------------------------------


def _candidates(files: pl.DataFrame, changes: Changes) -> pl.DataFrame:
    """The files whose bounds allow one of the keys; unknown bounds allow every key."""
    may_hold = []
    for key in changes.keys:
        values = pl.concat([changes.upserts[key], changes.deletes[key]]).unique().sort()
        if f"min.{key}" not in files.columns or not has_bounds(values.dtype):
            continue
        low, high = bounds_of(files, key, values.dtype)
        unknown = low.is_null() | high.is_null()
        may_hold.append(unknown | (values.search_sorted(high, side="right") > values.search_sorted(low, side="left")))
    return files.filter(reduce(and_, may_hold)) if may_hold else files


def bounds_of(files: pl.DataFrame, key: str, dtype: pl.DataType) -> tuple[pl.Series, pl.Series]:
    """The least and the greatest value of a key that each file may hold."""
    low, high = (files[f"{bound}.{key}"].cast(dtype) for bound in ("min", "max"))
    # Other writers cut to milliseconds.
    return low, high + _MILLISECOND if isinstance(dtype, pl.Datetime) else high


def _lookup(snapshot: Snapshot, candidates: pl.DataFrame, changes: Changes, window: Window) -> pl.DataFrame:
    """The stored rows of changed keys: key, path of the file, and sequence. Reads these columns alone."""
    keys, sequence = list(changes.keys), [changes.sequence] if changes.sequence else []
    stored = scan_files(snapshot.table, candidates, snapshot.schema, snapshot.partition_columns, path_column=_PATH)
    wanted = pl.concat([changes.upserts.select(keys), changes.deletes.select(keys)])
    found = (
        stored.filter(window.rows)
        .select(*keys, _PATH, *(pl.col(c).alias(_STORED) for c in sequence))
        .join(wanted.lazy(), on=keys)
        .collect(engine="streaming")
    )
    if found.select(keys).is_duplicated().any():
        raise duplicate_in_table(snapshot, keys)
    paths = candidates.select(pl.col("path").alias(_FILE), (str(snapshot.table) + "/" + pl.col("path")).alias(_PATH))
    return found.join(paths, on=_PATH).drop(_PATH)


def duplicate_in_table(snapshot: Snapshot, keys: Sequence[str]) -> DuplicateKeyInTableError:
    """The refusal of a merge into a table that holds a key of the batch more than once."""
    return DuplicateKeyInTableError(
        f"the merge into table {snapshot.table.name!r} was refused",
        why=f"the table holds a key of the batch more than once: {', '.join(keys)} do not identify its rows",
        mend="declare the columns that do in merge_keys, or remove the duplicates from the table",
    )


def _effective(changes: Changes, found: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The stored keys that really change, with the path of their file; and the keys whose stored row is newer."""
    if changes.sequence is None:
        return found, found.clear().select(changes.keys)
    given = pl.concat([frame.select(*changes.keys, changes.sequence) for frame in (changes.upserts, changes.deletes)])
    stored = pl.col(_STORED).fill_nan(None) if found.schema[_STORED].is_float() else pl.col(_STORED)
    older = (pl.col(changes.sequence) < stored).fill_null(value=False)
    ignored = found.join(given, on=changes.keys).filter(older).select(changes.keys)
    return found.join(ignored, on=changes.keys, how="anti"), ignored


# Where rows go ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Files that are rewritten together: neighbours by key, so that merges leave fewer small files, not more."""

    files: pl.DataFrame
    rows: int


def grouped(touched: pl.DataFrame, key: str, partition_columns: Sequence[str]) -> list[Group]:
    """Neighbours by key whose rows fit into one file together.

    Args:
        touched: Live files.
        key: The column by which they are neighbours.
        partition_columns: Physical partition columns; files of different partitions are never neighbours.
    """
    order = [f"min.{c}" for c in (*partition_columns, key) if f"min.{c}" in touched.columns]
    files = touched.sort(order) if order else touched
    counted = files["num_records"].fill_null(ROWS_PER_FILE).to_list()
    partitions = (
        files.select(f"min.{c}" for c in partition_columns).rows() if partition_columns else [()] * files.height
    )
    starts, rows = [], 0
    for place, count in enumerate(counted):
        if not place or rows + count > MOST_ROWS or partitions[place] != partitions[place - 1]:
            starts.append(place)
            rows = 0
        rows += count
    ends = [*starts[1:], files.height]
    return [Group(files[start:end], sum(counted[start:end])) for start, end in zip(starts, ends, strict=False)]


def _assigned(
    upserts: pl.DataFrame, changed: pl.DataFrame, groups: list[Group], live: pl.DataFrame, changes: Changes
) -> Iterator[tuple[Group | None, pl.DataFrame]]:
    """The rows that each group takes in, and those that go into files of their own."""
    paths = {path: number for number, group in enumerate(groups) for path in group.files["path"]}
    updated = changed.select(*changes.keys, pl.col(_FILE).replace_strict(paths, return_dtype=pl.Int64).alias(_GROUP))
    placed = upserts.join(updated, on=changes.keys, how="left", maintain_order="left")
    for number, group in enumerate(groups):
        joins = (pl.col(_GROUP) == number).fill_null(value=False)
        new = pl.col(_GROUP).is_null() & _in_range(group, live, changes.keys[0])
        yield group, placed.filter(joins | new).drop(_GROUP)
        placed = placed.filter(~(joins | new))
    if placed.height:
        yield None, placed.drop(_GROUP)


def key_range(group: Group, live: pl.DataFrame, key: str) -> tuple[Any, Any] | None:
    """The least and the greatest new key that a group takes in; the first and the last of the live files are open.

    Args:
        group: Files that are rewritten together.
        live: The live files of its window.
        key: The first key column.

    Returns:
        The bounds, None for an open one; None where the range is not known.
    """
    low, high = f"min.{key}", f"max.{key}"
    if low not in live.columns or group.files.select(pl.col(low, high).null_count().sum()).row(0) != (0, 0):
        return None
    start, end = group.files[low].min(), group.files[high].max()
    return None if start == live[low].min() else start, None if end == live[high].max() else end


def _in_range(group: Group, live: pl.DataFrame, key: str) -> pl.Expr:
    """Whether a new key is in the range of a group."""
    bounds = key_range(group, live, key)
    if bounds is None:
        return pl.lit(value=False)
    start, end = bounds
    above = pl.lit(value=True) if start is None else pl.col(key) >= start
    below = pl.lit(value=True) if end is None else pl.col(key) <= end
    return above & below


def _written(
    snapshot: Snapshot,
    group: Group | None,
    rows: pl.DataFrame,
    changed: pl.DataFrame,
    changes: Changes,
    *,
    durable: bool,
) -> list[DataFile]:
    """Write the rows of a group that did not change, and the rows that it takes in."""
    frame, total = rows.lazy(), rows.height
    if group:
        gone = changed.join(group.files, left_on=_FILE, right_on="path", how="semi").select(changes.keys)
        before = scan_files(snapshot.table, group.files, snapshot.schema, snapshot.partition_columns)
        kept = before.join(gone.lazy(), on=changes.keys, how="anti", maintain_order="left")
        frame, total = pl.concat([kept, frame]), total + group.rows - gone.height
    files = max(1, round(total / ROWS_PER_FILE))
    if group is None or files > 1:
        frame = frame.sort(changes.keys)  # so that the files cover ranges of keys that do not overlap
    return write_files(
        frame,
        snapshot.table,
        keys={},
        partition_by=snapshot.partition_columns,
        max_rows=max(1, ceil(total / files)),
        durable=durable,
    )
