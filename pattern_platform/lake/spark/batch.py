"""A batch whose rows a Spark server computes. Of rows, this process sees counts, file footers and partition values."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
from pyspark.sql.connect.functions import builtin as F  # noqa: N812 - as everybody calls it

from pattern_platform.lake.batch import Part
from pattern_platform.lake.checks import outside_refusal, refuse_nulls_of_files
from pattern_platform.lake.spark.changes import classified
from pattern_platform.lake.spark.files import MOST_ROWS, PART, ROWS, Layout, counted, place, staging, write_parts
from pattern_platform.lake.spark.merge import plan_merge
from pattern_platform.lake.spark.types import column, polars_schema, spark_type
from pattern_platform.lake.spark.window import with_piece

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from pyspark.sql import DataFrame

    from pattern_platform.lake.changeset import ChangeSet
    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.spark.changes import SparkChanges
    from pattern_platform.lake.window import Window
    from pattern_platform.lake.write import Write


@dataclass(frozen=True)
class SparkBatch:
    """Rows that a Spark server computes.

    Args:
        rows: The rows.
    """

    rows: DataFrame

    @property
    def schema(self) -> pl.Schema:
        """As of every batch."""
        return polars_schema(self.rows.schema)

    def fitted(self, casts: Sequence[pl.Expr], schema: pl.Schema, more: Sequence[str]) -> SparkBatch:  # noqa: ARG002
        """As of every batch; the casts are made anew from the types, which were found to lose nothing."""
        given = self.schema
        wanted = {**schema, **{name: given[name] for name in more}}
        cast = (column(c) if given[c] == t else column(c).cast(spark_type(t)).alias(c) for c, t in wanted.items())
        return SparkBatch(self.rows.select(*cast))

    def checked(self, window: Window) -> bool:  # noqa: ARG002 - of every batch
        """The rows outside are counted before any is written."""
        return True

    def write_files(self, write: Write, *, durable: bool) -> list[DataFile]:
        """As of every batch. The frame is computed twice: once to be counted, and once to be written."""
        with staging(write.table) as folder:
            layout = Layout(write.schema, MOST_ROWS, write.declaration.partition_by)
            parts = self._written(write, folder, layout)
            return place(write.table, [file for files in parts.values() for file in files], durable=durable)

    @contextmanager
    def changes(self, write: Write, parts: Sequence[Write]) -> Generator[list[Part]]:
        """As of every batch. The batch is kept in files on their way until it is merged, and so is computed twice."""
        session = self.rows.sparkSession
        with staging(write.table) as folder:
            files = self._written(write, folder, Layout(self.schema, MOST_ROWS))
            numbers = {key: number for number, key in enumerate(write.window.pieces)}
            made = []
            for part in parts:
                number = numbers[part.keys[0]] if part.keys and len(parts) > 1 else 0
                changes, bad = classified(session, part, folder, files.get(number, []), self.schema)
                required = write.snapshot.required if write.snapshot else frozenset()
                refuse_nulls_of_files(changes.upserts, required, write.table, write.schema)
                made.append(Part(part, changes, bad.rows, bad.count))
            yield made

    def plan_merge(
        self, snapshot: Snapshot, files: pl.DataFrame, changes: SparkChanges, window: Window, *, durable: bool
    ) -> ChangeSet:
        """As of every batch."""
        return plan_merge(snapshot, files, changes, window, durable=durable)

    def _written(self, write: Write, folder: LakePath, layout: Layout) -> dict[int, list[DataFile]]:
        """The rows in files, by piece of the window."""
        rows = with_piece(self.rows, write.window, PART)
        expected = counted(rows, [PART, *layout.partition_by], layout.schema)
        if outside := int(expected.filter(pl.col(PART).is_null())[ROWS].sum()):
            raise outside_refusal(outside, write.window)
        return write_parts(
            rows.withColumn(PART, F.coalesce(column(PART), F.lit(-1))), write.table, folder, layout, expected
        )
