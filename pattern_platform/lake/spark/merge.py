"""Changes by key -> a change set, in Spark: as ``lake/merge.py``, whose rules about files and ranges it asks for.

The rows of changes and of touched files stay with the server. This process learns how many rows of each file change,
and says into which files the others go.
"""

from __future__ import annotations

from functools import reduce
from operator import and_
from typing import TYPE_CHECKING
from uuid import uuid4

import polars as pl
from pyspark.sql.connect.functions import builtin as F  # noqa: N812 - as everybody calls it

from pattern_platform.lake import merge
from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.files import statistics_frame
from pattern_platform.lake.spark.files import MOST_ROWS, PART, ROWS, Layout, counted, place, write_parts
from pattern_platform.lake.spark.scan import counted_rows, refuse_other_count, scan, scan_made
from pattern_platform.lake.spark.types import column, literal
from pattern_platform.lake.spark.window import inside
from pattern_platform.lake.statistics import has_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import Column, DataFrame

    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.merge import Group
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.spark.changes import SparkChanges
    from pattern_platform.lake.window import Window

_FILE, _OLDER, _DELETED, _STORED, _CHANGED = (
    f"{name}_{uuid4().hex}" for name in ("file", "older", "deleted", "stored", "changed")
)
_ALONE = -1  # the part of new rows that join no group of files


def plan_merge(
    snapshot: Snapshot, files: pl.DataFrame, changes: SparkChanges, window: Window, *, durable: bool
) -> ChangeSet:
    """Update, insert and delete by key: as :func:`merge.plan_merge`.

    Raises:
        DuplicateKeyInTableError: The table holds a touched key twice.
        EngineFaultError: Files of the table could not be read whole, or those made do not hold what they should.
    """
    upserts, deletes = (sum(file.rows for file in made) for made in (changes.upserts, changes.deletes))
    live = pl.concat(window.split(files)).with_row_index(_FILE).with_columns(pl.col(_FILE).cast(pl.Int32))
    found = _lookup(snapshot, _candidates(live, changes), changes, window)
    effects = _effects(changes, found)
    changed = dict(_sums(effects.filter(~pl.col(_OLDER)), [_FILE]))
    rows = {(older, deleted): n for older, deleted, n in _sums(effects, [_OLDER, _DELETED])}
    touched = live.filter(pl.col(_FILE).is_in(list(changed)))
    updated, deleted, ignored = (rows.get(which, 0) for which in ((False, False), (False, True), (True, False)))
    effective = upserts - ignored
    written = (
        _rewritten(snapshot, touched, live, changes, found, changed, durable=durable)
        if touched.height or effective
        else []
    )
    return ChangeSet(
        add=written,
        remove=files.join(touched, on="path", how="semi"),
        written=written,
        rows={
            "inserted": effective - updated,
            "updated": updated,
            "deleted": deleted,
            "ignored": upserts + deletes - effective - deleted,
            "dropped_duplicates": changes.dropped_duplicates,
        },
        metadata={"files_rewritten": touched.height},
    )


# Which files ----------------------------------------------------------------------------------------------------------


def _candidates(live: pl.DataFrame, changes: SparkChanges) -> pl.DataFrame:
    """The files whose bounds meet those of the changed keys; unknown bounds meet all."""
    types = {key: changes.schema[key] for key in changes.keys}
    given = statistics_frame([*changes.upserts, *changes.deletes], types)
    if given.is_empty():
        return live.clear()
    meets = []
    for key, dtype in types.items():
        low, high = given[f"min.{key}"], given[f"max.{key}"]
        if f"min.{key}" not in live.columns or not has_bounds(dtype) or low.has_nulls() or high.has_nulls():
            continue
        least, greatest = merge.bounds_of(live, key, dtype)
        meets.append(least.is_null() | greatest.is_null() | ((least <= high.max()) & (greatest >= low.min())))
    return live.filter(reduce(and_, meets)) if meets else live


def _lookup(snapshot: Snapshot, candidates: pl.DataFrame, changes: SparkChanges, window: Window) -> list[DataFile]:
    """The stored rows of changed keys, in files on their way: key, number of the file, and what becomes of them."""
    if candidates.is_empty():
        return []
    stored = scan(
        changes.session, snapshot.table, candidates, snapshot.schema, snapshot.partition_columns, number=_FILE
    )
    whole = counted_rows(candidates, snapshot.table)
    refuse_other_count(snapshot.table.name, stored.count(), whole)
    sequence = [column(changes.sequence)] if changes.sequence else []
    known = [*map(column, changes.keys), column(_FILE), *(c.alias(_STORED) for c in sequence)]
    given = _given(changes).select(*(column(c).alias(_of(c)) for c in changes.keys), column(_DELETED), *sequence)
    met = stored.filter(inside(window)).select(*known).join(given, _same(changes.keys))
    older: Column = F.lit(col=False)
    if changes.sequence:
        there = column(_STORED)
        if changes.schema[changes.sequence].is_float():
            there = F.when(~F.isnan(there), there)
        older = F.coalesce(column(changes.sequence) < there, F.lit(col=False))
    rows = met.select(*map(column, [*changes.keys, _FILE, _DELETED]), older.alias(_OLDER), F.lit(0).alias(PART))
    schema = _found_schema(changes)
    files = write_parts(
        rows, snapshot.table, changes.folder, Layout(schema, MOST_ROWS), counted(rows, [PART], schema)
    ).get(0, [])
    keys = scan_made(changes.session, snapshot.table, files, schema).groupBy(*map(column, changes.keys))
    if keys.agg(F.count(F.lit(1)).alias(ROWS)).filter(column(ROWS) > 1).limit(1).count():
        raise merge.duplicate_in_table(snapshot, changes.keys)
    return files


def _effects(changes: SparkChanges, found: Sequence[DataFile]) -> pl.DataFrame:
    """How many stored rows of each file are updated, deleted, or newer than their change."""
    schema = _found_schema(changes)
    rows = scan_made(changes.session, changes.folder.parent, found, schema).withColumn(PART, F.lit(0))
    return counted(rows, [_FILE, _OLDER, _DELETED, PART], schema)


def _found_schema(changes: SparkChanges) -> pl.Schema:
    keys = {key: changes.schema[key] for key in changes.keys}
    return pl.Schema({**keys, _FILE: pl.Int32(), _DELETED: pl.Boolean(), _OLDER: pl.Boolean()})


def _sums(effects: pl.DataFrame, by: list[str]) -> list[tuple]:
    return effects.group_by(by).agg(pl.col(ROWS).sum()).rows()


# Where rows go --------------------------------------------------------------------------------------------------------


def _rewritten(
    snapshot: Snapshot,
    touched: pl.DataFrame,
    live: pl.DataFrame,
    changes: SparkChanges,
    found: Sequence[DataFile],
    changed: dict[int, int],
    *,
    durable: bool,
) -> list[DataFile]:
    """Write the rows of touched files that did not change, and the rows that they take in."""
    table, schema, columns = snapshot.table, snapshot.schema, snapshot.partition_columns
    groups = merge.grouped(touched, changes.keys[0], columns)
    of_group = {n: place for place, group in enumerate(groups) for n in group.files[_FILE]}
    met = scan_made(changes.session, table, found, _found_schema(changes))
    gone, ignored = (
        met.filter(which).select(*(column(c).alias(_of(c)) for c in changes.keys), column(_FILE).alias(_of(_FILE)))
        for which in (~column(_OLDER), column(_OLDER))
    )
    numbered = touched.with_columns(pl.col(_FILE).replace_strict(of_group, return_dtype=pl.Int32).alias(PART))
    before = scan(changes.session, table, numbered, schema, columns, number=PART)
    kept = before.join(gone, _same(changes.keys), "left_anti")
    taken = scan_made(changes.session, table, changes.upserts, schema).join(ignored, _same(changes.keys), "left_anti")
    taken = taken.join(gone, _same(changes.keys), "left")
    part = F.coalesce(_mapped(of_group), _range_of(groups, live, changes), F.lit(_ALONE))
    taken = taken.select(*map(column, schema), part.cast("int").alias(PART))
    counts = [counted(taken, [PART, *columns], schema)]
    for place_of, group in enumerate(groups):
        left = counted_rows(group.files, table) - sum(changed[n] for n in group.files[_FILE])
        values = [group.files.select(pl.col(f"min.{c}").alias(c) for c in columns).head(1)] if columns else []
        here = pl.DataFrame({PART: [place_of], ROWS: [left]}, schema={PART: pl.Int32, ROWS: pl.Int64})
        counts.append(
            pl.concat([here, *values], how="horizontal").select(counts[0].columns).cast(dict(counts[0].schema))
        )
    expected = pl.concat(counts).group_by(PART, *columns).agg(pl.col(ROWS).sum()).filter(pl.col(ROWS) > 0).sort(PART)
    layout = Layout(schema, merge.ROWS_PER_FILE, columns, order=changes.keys)
    parts = write_parts(kept.union(taken), table, changes.folder, layout, expected)
    return place(table, [file for files in parts.values() for file in files], durable=durable)


def _mapped(of_group: dict[int, int]) -> Column:
    """The group of the file that a row's key was found in."""
    group_of = F.when(F.lit(col=False), F.lit(_ALONE))
    for number, group in of_group.items():
        group_of = group_of.when(column(_of(_FILE)) == number, F.lit(group))
    return group_of


def _range_of(groups: Sequence[Group], live: pl.DataFrame, changes: SparkChanges) -> Column:
    """The first group whose range of keys holds a new key."""
    key, first = changes.keys[0], F.when(F.lit(col=False), F.lit(_ALONE))
    for number, group in enumerate(groups):
        if bounds := merge.key_range(group, live, key):
            start, end = (literal(bound, changes.schema[key]) for bound in bounds)
            above = F.lit(col=True) if bounds[0] is None else column(key) >= start
            below = F.lit(col=True) if bounds[1] is None else column(key) <= end
            first = first.when(above & below, F.lit(number))
    return first


def _given(changes: SparkChanges) -> DataFrame:
    """All changes, with whether each is a delete."""
    return reduce(
        lambda a, b: a.union(b),
        (
            scan_made(changes.session, changes.folder.parent, files, changes.schema).withColumn(
                _DELETED, F.lit(deleted)
            )
            for files, deleted in ((changes.upserts, False), (changes.deletes, True))
        ),
    )


def _of(name: str) -> str:
    return f"{_CHANGED}.{name}"


def _same(keys: Sequence[str]) -> Column:
    """Whether a row has the key of a change."""
    return reduce(and_, (column(key) == column(_of(key)) for key in keys))
