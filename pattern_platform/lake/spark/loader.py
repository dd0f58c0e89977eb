"""Inputs as Spark frames: the files of the window, named one by one and counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.errors import UnsupportedTableError
from pattern_platform.lake.frames import as_narwhals
from pattern_platform.lake.spark.scan import counted_rows, refuse_other_count, scan
from pattern_platform.lake.spark.types import column, spark_schema
from pattern_platform.lake.spark.window import inside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame, SparkSession

    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.window import Window


@dataclass(frozen=True)
class SparkLoader:
    """Frames of a Spark server.

    Args:
        session: The server.
        generic: Whether they are given as ``narwhals.LazyFrame``.
    """

    session: SparkSession
    generic: bool

    def empty(self, schema: pl.Schema) -> object:
        """As of every loader."""
        return self._as_asked(self.session.createDataFrame([], spark_schema(schema)))

    def rows(
        self,
        snapshot: Snapshot,
        window: Window,
        files: tuple[pl.DataFrame, pl.DataFrame],
        columns: Sequence[str] | None,
    ) -> object:
        """As of every loader.

        Raises:
            UnsupportedTableError: The table's files alone do not say what its rows are.
            EngineFaultError: The server does not see the files, or not all of them.
        """
        if not snapshot.is_plain:
            raise UnsupportedTableError(
                f"reading table {snapshot.table.name!r} as a Spark frame was refused",
                why="it uses column mapping or deletion vectors, so that its files alone do not say what its rows are",
                mend="annotate the parameter with polars.LazyFrame, or read the table with spark.read.format('delta')",
            )
        whole, part = (
            scan(self.session, snapshot.table, which, snapshot.schema, snapshot.partition_columns) for which in files
        )
        there = pl.concat(files)
        refuse_other_count(snapshot.table.name, whole.union(part).count(), counted_rows(there, snapshot.table))
        rows = whole if files[1].is_empty() else whole.union(part.filter(inside(window)))
        return self._as_asked(rows if columns is None else rows.select(*map(column, columns)))

    def _as_asked(self, rows: DataFrame) -> object:
        return as_narwhals(rows) if self.generic else rows
