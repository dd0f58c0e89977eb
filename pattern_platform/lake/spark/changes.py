"""Changes by key, in Spark: the rules of ``lake/changes.py``, one pass over the batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import polars as pl
from pyspark.sql.connect.functions import builtin as F  # noqa: N812 - as everybody calls it
from pyspark.sql.connect.window import Window as Over

from pattern_platform.lake.changes import DUPLICATE, NULL, REASON, decisive, refusal_of
from pattern_platform.lake.files import scan_files, statistics_frame
from pattern_platform.lake.spark.files import MOST_ROWS, PART, ROWS, Layout, counted, write_parts
from pattern_platform.lake.spark.scan import scan_made
from pattern_platform.lake.spark.types import column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import Column, DataFrame, SparkSession

    from pattern_platform.lake.declarations import MergerDeclaration
    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.write import Write

# What a row of the batch is; every column that may be absent in a bad one follows.
_UPSERT, _DELETE, _VOID, _TIED, _ABSENT = range(5)
_BAD, _TOP, _TWIN, _LAST = (f"{name}_{uuid4().hex}" for name in ("bad", "top", "twin", "last"))


@dataclass(frozen=True)
class SparkChanges:
    """At most one change a key, in files on their way: :class:`changes.Changes`, in Spark.

    Args:
        session: The server.
        folder: Where files on their way are.
        upserts: Files of rows to update or insert, with the table's columns.
        deletes: Files of rows whose key leaves the table, with the table's columns.
        schema: The table's columns.
        keys: Key columns.
        sequence: Column that orders the changes of a key.
        dropped_duplicates: Rows of the batch that a later row of the same key made void.
    """

    session: SparkSession
    folder: LakePath
    upserts: list[DataFile]
    deletes: list[DataFile]
    schema: pl.Schema
    keys: tuple[str, ...]
    sequence: str | None
    dropped_duplicates: int


class Bad(NamedTuple):
    """The rows that say nothing sure, with their reason, and their number."""

    rows: pl.LazyFrame
    count: int


def classified(
    session: SparkSession, write: Write, folder: LakePath, batch: Sequence[DataFile], given: pl.Schema
) -> tuple[SparkChanges, Bad]:
    """What the rows of a partition say of each key.

    Args:
        session: The server.
        write: Of the partition.
        folder: Where files on their way are.
        batch: Files of the rows.
        given: Columns of the rows: the table's, and the soft-delete column where one is declared.

    Raises:
        NullKeyError: As :func:`changes.changes_of`.
        DuplicateKeyError: Likewise.
    """
    declared = write.merger
    kinds = _with_kind(scan_made(session, write.table, batch, given), given, declared)
    expected = counted(kinds, [PART], given) if batch else pl.DataFrame(schema={PART: pl.Int32, ROWS: pl.Int64})
    rows: dict[int, int] = dict(expected.iter_rows())
    reasons = {_TIED: DUPLICATE} | {_ABSENT + n: NULL.format(c) for n, c in enumerate(decisive(declared))}
    bad = {kind: reasons[kind] for kind in rows if kind in reasons}
    if bad and declared.bad_rows == "refuse":
        raise refusal_of({reason: rows[kind] for kind, reason in bad.items()}, declared)
    files = write_parts(kinds, write.table, folder, Layout(given, MOST_ROWS), expected)
    parts = [
        scan_files(write.table, statistics_frame(files[kind], {}), given).with_columns(pl.lit(reason).alias(REASON))
        for kind, reason in bad.items()
    ]
    changes = SparkChanges(
        session=session,
        folder=folder,
        upserts=files.get(_UPSERT, []),
        deletes=files.get(_DELETE, []),
        schema=write.schema,
        keys=declared.merge_keys,
        sequence=declared.sequence_by,
        dropped_duplicates=rows.get(_VOID, 0),
    )
    return changes, Bad(
        pl.concat(parts) if parts else pl.LazyFrame(schema={**given, REASON: pl.String()}),
        sum(rows[kind] for kind in bad),
    )


def _with_kind(rows: DataFrame, given: pl.Schema, declared: MergerDeclaration) -> DataFrame:
    """Rows with what each is, in :data:`PART`."""
    keys = [column(c) for c in declared.merge_keys]
    absent = [_absent(c, given) for c in decisive(declared)]
    kind = F.when(column(declared.soft_delete), F.lit(_DELETE)) if declared.soft_delete else None
    last = kind.otherwise(F.lit(_UPSERT)) if kind is not None else F.lit(_UPSERT)
    bad = reduce(or_, absent)
    of_key = Over.partitionBy(column(_BAD), *keys)  # a bad row decides nothing about the others of its key
    marked = rows.withColumn(_BAD, bad)
    if sequence := declared.sequence_by:
        # Rows that are the same in everything are one: the first of them is the last change.
        twins = Over.partitionBy(column(_BAD), *(column(c) for c in given)).orderBy(*keys)
        marked = marked.withColumn(_TOP, F.max(column(sequence)).over(of_key))
        marked = marked.withColumn(_TWIN, F.row_number().over(twins))
        is_last = (column(sequence) == column(_TOP)) & (column(_TWIN) == 1)
    else:
        is_last = F.lit(col=True)
    marked = marked.withColumn(_LAST, F.sum(F.when(is_last, F.lit(1)).otherwise(F.lit(0))).over(of_key))
    what = F.when(absent[0], F.lit(_ABSENT))
    for number, one in enumerate(absent[1:], 1):
        what = what.when(one, F.lit(_ABSENT + number))
    what = what.when(column(_LAST) > 1, F.lit(_TIED)).when(is_last, last).otherwise(F.lit(_VOID))
    return marked.select(*(column(c) for c in given), what.alias(PART))


def _absent(name: str, given: pl.Schema) -> Column:
    """Null; and NaN in a float sequence or key, which has no place in any order."""
    value = column(name)
    return F.isnull(value) | F.isnan(value) if given[name].is_float() else F.isnull(value)
