"""Files of a table as a Spark frame, named one by one, and counted.

Sail reads a file that is not there as no rows, takes a pattern for the files that match it, and does not know the file
of a row: none of it is left to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.errors import EngineFaultError, UnsupportedStorageError
from pattern_platform.lake.files import row_count, statistics_frame
from pattern_platform.lake.spark.types import column, literal, spark_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame, SparkSession

    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.object_path import LakePath

_PATTERN = set("*?[]{}")  # what engines take for a pattern of several files


def scan(
    session: SparkSession,
    table: LakePath,
    files: pl.DataFrame,
    schema: pl.Schema,
    partition_columns: Sequence[str] = (),
    *,
    number: str | None = None,
) -> DataFrame:
    """Scan some files of a table as one frame with the table's schema.

    Args:
        session: The server that reads.
        table: Directory of the table.
        files: Rows of :attr:`Snapshot.files`.
        schema: Schema of the table. Columns that were added after a file was written are null.
        partition_columns: Physical partition columns.
        number: An integer column of ``files`` that each row gets from its file.
    """
    refuse_patterns(table)
    added = {c: schema[c] for c in partition_columns} | ({number: pl.Int32()} if number else {})
    names = [*schema, *([number] if number else [])]
    if files.is_empty():
        return session.createDataFrame([], spark_schema(pl.Schema({**schema, **added})))
    in_file = spark_schema(pl.Schema({c: t for c, t in schema.items() if c not in partition_columns}))
    by = [*(f"min.{c}" for c in partition_columns), *([number] if number else [])]
    groups = files.partition_by(by, maintain_order=True) if by else [files]
    parts = []
    for group in groups:
        rows = session.read.schema(in_file).parquet(*(_name(table, path) for path in group["path"]))
        values = {name: literal(group[key][0], added[name]).alias(name) for name, key in zip(added, by, strict=True)}
        parts.append(rows.select(*(values.get(name, column(name)) for name in names)))
    while len(parts) > 1:  # a balanced tree: a plan is walked by recursion
        parts = [a.union(b[0]) if b else a for a, *b in (parts[i : i + 2] for i in range(0, len(parts), 2))]
    return parts[0]


def _name(table: LakePath, path: str) -> str:
    """A file as Sail asks for it: what it takes for a URL, it decodes once; of a local path it takes every letter."""
    return f"{table}/{path if isinstance(table, Path) else path.replace('%', '%25')}"


def scan_made(session: SparkSession, table: LakePath, files: Sequence[DataFile], schema: pl.Schema) -> DataFrame:
    """Scan files that were just made."""
    return scan(session, table, statistics_frame(files, {}), schema)


def counted_rows(files: pl.DataFrame, table: LakePath) -> int:
    """The rows of live files, as the log counts them."""
    return sum(row_count(rows, table / path) for path, rows in files.select("path", "num_records").iter_rows())


def refuse_other_count(name: str, found: int, wanted: int) -> None:
    """Refuse files of a table that were not read whole: Sail takes a file that it does not see for an empty one.

    Raises:
        EngineFaultError: The numbers of rows differ.
    """
    if found != wanted:
        raise EngineFaultError(
            f"what the Spark engine read of table {name!r} was refused",
            why=f"it found {found} rows where the log counts {wanted}",
            mend="see that the server and this run reach the table by the same path, on one host or an object store",
        )


def refuse_patterns(table: LakePath) -> None:
    """Refuse a table in a folder whose name an engine would read as a pattern, and so find other files.

    Raises:
        UnsupportedStorageError: Names the characters.
    """
    if found := sorted(_PATTERN & set(str(table))):
        raise UnsupportedStorageError(
            f"table {table.name!r} was refused by the Spark engine",
            why=f"its path has {' '.join(found)}, which engines take for a pattern of several files",
            mend="give the table a root and an asset key without them, or write it as a Polars frame",
        )
