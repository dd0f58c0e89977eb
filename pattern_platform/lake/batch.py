"""A batch on its way into a table, wherever its rows are computed. Who makes the files does not commit them.

Polars computes in this process. A frame of Spark Connect is computed by its server; see ``lake/spark``.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl
import pyarrow as pa

from pattern_platform.errors import UnsupportedFrameError
from pattern_platform.lake.changes import changes_of
from pattern_platform.lake.checks import refuse_nulls, refuse_outside
from pattern_platform.lake.files import write_files
from pattern_platform.lake.frames import IN_PROCESS, native, to_lazy
from pattern_platform.lake.merge import plan_merge
from pattern_platform.lake.spark.connect import is_frame

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from contextlib import AbstractContextManager

    from pattern_platform.lake.changes import Changes
    from pattern_platform.lake.changeset import ChangeSet
    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.window import Window
    from pattern_platform.lake.write import Write


@dataclass(frozen=True)
class Part:
    """What a batch says of the keys of one partition, or of an asset without partitions.

    Args:
        write: The write of this partition.
        changes: At most one change a key, as the batch's own engine keeps them.
        bad: The rows that say nothing sure, with the reason in :data:`changes.REASON`.
        bad_rows: Their number.
    """

    write: Write
    changes: Any
    bad: pl.LazyFrame
    bad_rows: int


class Batch(Protocol):
    """Rows that an asset returned, and what their engine does with them."""

    @property
    def schema(self) -> pl.Schema:
        """Columns of the rows."""
        ...

    def fitted(self, casts: Sequence[pl.Expr], schema: pl.Schema, more: Sequence[str]) -> Batch:
        """The rows with the columns and types of a table.

        Args:
            casts: What :func:`schema.casts_to` gives: no cast of them loses anything.
            schema: What they make.
            more: Columns that are kept as they are.
        """
        ...

    def checked(self, window: Window) -> bool:
        """Refuse rows outside of a window now or before they are written, and say whether that is so."""
        ...

    def write_files(self, write: Write, *, durable: bool) -> list[DataFile]:
        """Write the rows into new files of the table, those of each piece of the window into files of their own."""
        ...

    def changes(self, write: Write, parts: Sequence[Write]) -> AbstractContextManager[list[Part]]:
        """What the rows say of each key, by partition; bad rows and rows outside are refused as it is declared.

        Args:
            write: A merge of all rows.
            parts: The same for each partition, in the order in which they are merged.
        """
        ...

    def plan_merge(
        self,
        snapshot: Snapshot,
        files: pl.DataFrame,
        changes: Any,  # noqa: ANN401 - those of its own parts
        window: Window,
        *,
        durable: bool,
    ) -> ChangeSet:
        """Update, insert and delete by key, as :func:`merge.plan_merge`."""
        ...


@dataclass(frozen=True)
class PolarsBatch:
    """Rows that Polars computes.

    Args:
        rows: The rows.
        in_memory: Whether looking at them costs nothing.
    """

    rows: pl.LazyFrame
    in_memory: bool

    @property
    def schema(self) -> pl.Schema:
        """As of every batch."""
        return self.rows.collect_schema()

    def fitted(self, casts: Sequence[pl.Expr], schema: pl.Schema, more: Sequence[str]) -> PolarsBatch:
        """As of every batch."""
        given = self.schema
        if given == schema and given.names() == schema.names():
            return self
        return replace(self, rows=self.rows.select(*casts, *more))

    def checked(self, window: Window) -> bool:
        """Look at rows in memory; lazy ones are known only once they are written."""
        if self.in_memory:
            refuse_outside(self.rows, window)
        return self.in_memory

    def write_files(self, write: Write, *, durable: bool) -> list[DataFile]:
        """As of every batch, streaming."""
        return write_files(
            self.rows,
            write.table,
            keys=write.window.piece_keys(),
            partition_by=write.declaration.partition_by,
            durable=durable,
        )

    @contextmanager
    def changes(self, write: Write, parts: Sequence[Write]) -> Generator[list[Part]]:
        """As of every batch; all of it is held in memory."""
        batch = self.rows.collect(engine="streaming")
        if not write.rows_are_checked:
            refuse_outside(batch.lazy(), write.window)
        made = []
        for part in parts:
            rows = batch.filter(part.window.rows) if len(parts) > 1 else batch
            changes, bad = changes_of(rows, part.merger)
            refuse_nulls(changes.upserts, write.snapshot.required if write.snapshot else frozenset())
            made.append(Part(part, changes, bad.lazy(), bad.height))
        yield made

    def plan_merge(
        self, snapshot: Snapshot, files: pl.DataFrame, changes: Changes, window: Window, *, durable: bool
    ) -> ChangeSet:
        """As of every batch."""
        return plan_merge(snapshot, files, changes, window, durable=durable)


def in_process(batch: Batch) -> pl.LazyFrame:
    """The rows of a batch, for a pattern that no other engine makes files for.

    Raises:
        UnsupportedFrameError: The batch is of another engine.
    """
    if not isinstance(batch, PolarsBatch):
        raise UnsupportedFrameError(
            "a Spark frame was refused",
            why="DataOverwriteIOManager, MergerIOManager and StatefulMergerIOManager take it, and no other IO manager",
            mend=IN_PROCESS,
        )
    return batch.rows


def batch_of(value: object) -> Batch:
    """What an asset returned, as a batch.

    Raises:
        UnsupportedFrameError: The value is no frame.
    """
    value = native(value)
    if is_frame(value):
        from pattern_platform.lake.spark.batch import SparkBatch  # noqa: PLC0415 - Spark, where it is used

        return SparkBatch(value)
    return PolarsBatch(to_lazy(value), in_memory=isinstance(value, pl.DataFrame | pa.Table))
