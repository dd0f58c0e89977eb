"""A Spark frame -> Parquet files of a table.

What an engine does in silence is looked for here. Sail writes a null partition as 0, notes the time zone of its session
in the files, and does not tell how many rows a query wrote. So nothing is partitioned by a null, and what was written
is compared with what was asked for: rows by count, columns by type.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import polars as pl
from pyspark.sql.connect.functions import builtin as F  # noqa: N812 - as everybody calls it
from pyspark.sql.connect.window import Window as Over

from pattern_platform.errors import EngineFaultError
from pattern_platform.lake.files import described, partition_folder
from pattern_platform.lake.spark.scan import refuse_patterns
from pattern_platform.lake.spark.types import column, literal
from pattern_platform.lake.statistics import read_footer

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from pyspark.sql import Column, DataFrame

    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.object_path import LakePath

PART, ROWS = (f"{name}_{uuid4().hex}" for name in ("part", "rows"))  # names that no column of a table has
_SLOT, _FIRST, _FILES, _PLACE, _OF = (f"{name}_{uuid4().hex}" for name in ("slot", "first", "files", "place", "of"))
MOST_ROWS = 2_000_000  # of a file that is not rewritten by key; each is written by one task


class Layout(NamedTuple):
    """How rows become files.

    Args:
        schema: Columns of the rows.
        most_rows: Of a file.
        partition_by: Physical partition columns, left out of the files.
        order: Columns by which files of one part cover ranges that do not overlap; none for any order.
    """

    schema: pl.Schema
    most_rows: int
    partition_by: Sequence[str] = ()
    order: Sequence[str] = ()


@contextmanager
def staging(table: LakePath) -> Generator[LakePath]:
    """A folder in the table for files on their way; whatever is in it at the end is removed.

    What a killed process leaves there is an orphan like any other: no version names it.
    """
    refuse_patterns(table)
    folder = table / f"spark-{uuid4().hex}"
    try:
        yield folder
    finally:
        if isinstance(folder, Path):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            for path in folder.objects():
                (folder / path).unlink(missing_ok=True)


def counted(rows: DataFrame, columns: Sequence[str], schema: pl.Schema) -> pl.DataFrame:
    """How many rows there are of each value of some columns, null included, as :data:`ROWS`.

    Args:
        rows: Asked for all of their values.
        columns: Among them :data:`PART`.
        schema: Types of the columns but that.
    """
    found = pl.DataFrame(rows.groupBy(*map(column, columns)).agg(F.count(F.lit(1)).alias(ROWS)).toArrow())
    types = pl.Schema({PART: pl.Int32(), ROWS: pl.Int64()} | {c: schema[c] for c in columns if c != PART})
    return found.cast(types).select(*columns, ROWS).sort(columns)


def write_parts(
    rows: DataFrame, table: LakePath, folder: LakePath, layout: Layout, expected: pl.DataFrame
) -> dict[int, list[DataFile]]:
    """Write rows into new files, those of different parts and physical partitions into different ones.

    Args:
        rows: With the columns of the layout, and :data:`PART`, never null.
        table: Directory of the table.
        folder: A folder of :func:`staging`, where the files stay.
        layout: How rows become files.
        expected: What :func:`counted` says of the part and the physical partition columns.

    Returns:
        The files by part.

    Raises:
        EngineFaultError: The files do not hold the rows or the types that were asked for.
        UnsafePartitionKeyError: A physical partition value is no folder's name.
    """
    by = [PART, *layout.partition_by]
    for values in expected.select(layout.partition_by).iter_rows(named=True):
        for name, value in values.items():
            partition_folder(name, value)
    if expected.is_empty():
        return {}
    wanted = expected[ROWS].to_list()
    files = [max(1, round(n / layout.most_rows) if layout.order else ceil(n / layout.most_rows)) for n in wanted]
    slots = expected.select(by).with_columns(
        pl.Series(_FIRST, [sum(files[:place]) for place in range(len(files))], dtype=pl.Int32),
        pl.Series(_FILES, files, dtype=pl.Int32),
    )
    stored = pl.Schema({c: t for c, t in layout.schema.items() if c not in layout.partition_by})
    written = _written(
        _with_slots(rows, slots, wanted, layout).select(*map(column, stored), column(_SLOT)),
        table,
        folder / uuid4().hex,
        sum(files),
        layout,
    )
    parts: dict[int, list[DataFile]] = {}
    for slot, count in zip(slots.iter_rows(named=True), wanted, strict=True):
        values = {c: slot[c] for c in layout.partition_by}
        paths = [p for place in range(slot[_FILES]) for p in written.pop(slot[_FIRST] + place, [])]
        made = [described(table, path, values, stored) for path in paths]
        for path in paths:
            _refuse_types(table / path, stored)
        _refuse_count(table, sum(file.rows for file in made), count)
        parts.setdefault(slot[PART], []).extend(made)
    _refuse_count(table, sum(map(len, written.values())), 0)
    return parts


def place(table: LakePath, files: Sequence[DataFile], *, durable: bool) -> list[DataFile]:
    """Move files of :func:`write_parts` to where the files of a table are. An error takes back what was moved."""
    moved: list[DataFile] = []
    try:
        for file in files:
            folders = [partition_folder(c, file.statistics[c].minimum) for c in file.partition_values]
            target = "/".join([*folders, f"part-{uuid4().hex}.parquet"])
            (table / target).parent.mkdir(parents=True, exist_ok=True)
            (table / file.path).replace(table / target)  # ty: ignore[invalid-argument-type] - both are of one kind
            moved.append(replace(file, path=target))
            if durable and isinstance(table, Path):
                _sync(table / target)
    except BaseException:
        # BaseException: an interrupt must not leave files behind either.
        for file in moved:
            (table / file.path).unlink(missing_ok=True)
        raise
    return moved


def _with_slots(rows: DataFrame, slots: pl.DataFrame, wanted: Sequence[int], layout: Layout) -> DataFrame:
    """Rows with the number of the file that each goes into."""
    by = [PART, *layout.partition_by]
    if slots.height == 1:
        slotted = rows.select("*", F.lit(0).alias(_FIRST), F.lit(slots[_FILES][0]).alias(_FILES))
    else:
        right = slots.rename({c: f"{_OF}.{c}" for c in by}).to_arrow()
        known = rows.sparkSession.createDataFrame(right)
        same = [column(c).eqNullSafe(column(f"{_OF}.{c}")) for c in by]
        joined = rows.join(F.broadcast(known), same, "left")
        slotted = joined.select(*map(column, [*layout.schema, PART, _FIRST, _FILES]))
    if not layout.order:
        salt = [column(c) for c, t in layout.schema.items() if not t.is_nested()] or [F.lit(0)]
        return slotted.withColumn(_SLOT, (column(_FIRST) + F.pmod(F.xxhash64(*salt), column(_FILES))).cast("int"))
    position: Column = F.lit(0)
    for slot, count in zip(slots.iter_rows(named=True), wanted, strict=True):
        if slot[_FILES] > 1:
            starts = _starts(slotted.filter(column(_FIRST) == slot[_FIRST]), ceil(count / slot[_FILES]), layout)
            passed = [F.when(_from(start, layout), F.lit(1)).otherwise(F.lit(0)) for start in starts.iter_rows()]
            position = F.when(column(_FIRST) == slot[_FIRST], sum(passed, F.lit(0))).otherwise(position)
    return slotted.withColumn(_SLOT, (column(_FIRST) + position).cast("int"))


def _starts(rows: DataFrame, size: int, layout: Layout) -> pl.DataFrame:
    """The first keys of the second and each later file."""
    keys = [column(c) for c in layout.order]
    numbered = rows.select(*keys, F.row_number().over(Over.orderBy(*keys)).alias(_PLACE))
    chosen = numbered.filter((column(_PLACE) > size) & (F.pmod(column(_PLACE), F.lit(size)) == 1)).orderBy(_PLACE)
    types = pl.Schema({c: layout.schema[c] for c in layout.order})
    return pl.DataFrame(chosen.select(*keys).toArrow()).cast(types)


def _from(start: Sequence[object], layout: Layout) -> Column:
    """Whether a row's key is not before a key, as tuples are compared."""
    at = F.lit(col=True)
    for name, value in reversed(list(zip(layout.order, start, strict=True))):
        bound = literal(value, layout.schema[name])
        at = (column(name) > bound) | ((column(name) == bound) & at)
    return at


def _written(rows: DataFrame, table: LakePath, folder: LakePath, slots: int, layout: Layout) -> dict[int, list[str]]:
    """Write rows, a file a slot, and say which are there."""
    rows.sparkSession.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")  # Spark's default is INT96
    divided = rows.repartition(slots, column(_SLOT))
    if layout.order:
        divided = divided.sortWithinPartitions(column(_SLOT), *map(column, layout.order))
    # Sail would note the time zone of its session beside each timestamp, and Polars take the column for another.
    written = divided.write.option("compression", "zstd").option("skip_arrow_metadata", "true")
    written.partitionBy(_SLOT).parquet(str(folder))
    found: dict[int, list[str]] = {}
    for path in folder.rglob("*.parquet"):
        below = path.relative_to(table).as_posix()  # ty: ignore[invalid-argument-type] - both are of one kind
        found.setdefault(int(path.parent.name.rpartition("=")[2]), []).append(below)
    return found


def _refuse_types(file: LakePath, schema: pl.Schema) -> None:
    found = pl.Schema(read_footer(file).schema.to_arrow_schema())
    if wrong := [c for c, t in schema.items() if found.get(c) != t] or [c for c in found if c not in schema]:
        raise EngineFaultError(
            f"files of the Spark engine with column {wrong[0]!r} were refused",
            why=f"they hold it as {found.get(wrong[0])}, and it is {schema.get(wrong[0])}",
            mend="compare the settings of the server for Parquet with Spark's defaults, then run again",
        )


def _refuse_count(table: LakePath, found: int, wanted: int) -> None:
    if found != wanted:
        raise EngineFaultError(
            f"files of the Spark engine for table {table.name!r} were refused",
            why=f"they hold {found} rows where its query counted {wanted}: the frame gives other rows each time that "
            "it is computed, or the engine lost some; or the server and this run do not see the same files",
            mend="make the frame deterministic (no rand(), no growing source), see that both reach the table by the "
            "same path, and run again",
        )


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
