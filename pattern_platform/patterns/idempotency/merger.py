"""Merger: a run brings changes, and each updates, inserts or deletes the row with its key.

Problem: a data set arrives as changes, not whole, so a run cannot replace a partition; and a rerun must neither repeat
its inserts nor lose what the batch does not mention.

Guarantee: after the run the table holds every upsert of the batch by its key and no row that the batch soft-deletes;
rows without a change stay as they are. One commit a batch; a single run over several partitions merges them in order,
one commit each, where ``partition_expr`` tells their rows apart. The same batch again leaves the same table. With
``sequence_by`` the highest sequence of a key wins in the batch, and a stored row outlasts an older change.

Limits: the batch is held in memory, the table is not. Replaying *old* batches passes the table through states that it
never had: a deleted row comes back until its delete is replayed, and stays if it is not (see ``stateful_merger``). A
deleted key is forgotten with its sequence. A key is unique in the whole table; with ``partition_by`` on the partition
column it is unique within its partition, and only that partition is read.

Shown by: ``clean/users`` (hourly changes of the blog's users).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import polars as pl

from pattern_platform.errors import InvalidMetadataError
from pattern_platform.lake.changes import REASON, refuse_declaration
from pattern_platform.lake.checks import listed
from pattern_platform.lake.commit import Commit, commit, ready_table
from pattern_platform.lake.declarations import MergerDeclaration, TableDeclaration
from pattern_platform.lake.io_manager import DeltaIOManager, Durability
from pattern_platform.lake.partitions import in_order
from pattern_platform.lake.side_table import replace_rows
from pattern_platform.lake.snapshot import open_table
from pattern_platform.lake.window import Bound, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pattern_platform.lake.batch import Part
    from pattern_platform.lake.changeset import ChangeSet
    from pattern_platform.lake.object_path import AnyLakePath
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.write import Write

_PARTITION, _RUN, _REASON = "_partition", "_run_id", "_reason"


class MergerIOManager(DeltaIOManager):
    """Upsert and soft-delete by ``merge_keys``."""

    declaration: ClassVar[type[TableDeclaration]] = MergerDeclaration
    needs_partition_expr: ClassVar[bool] = False

    def write(self, write: Write) -> list[Commit]:
        """Check the whole batch, set its bad rows aside, then merge it, partition by partition."""
        declared, given = write.merger, write.batch.schema
        refuse_declaration(declared, given, write.name)
        if declared.bad_rows == "quarantine":
            _refuse_reserved(given, write.name)
        commits: list[Commit] = []
        with write.batch.changes(write, _parts(write)) as parts:
            self.refuse_run(write)
            if declared.bad_rows == "quarantine":
                for part in parts:
                    _quarantine(part, durable=self.durability is Durability.FSYNC)
            for part in parts:
                snapshot = ready_table(
                    write.table,
                    open_table(write.table) if commits else write.snapshot,
                    write.schema,
                    partition_by=declared.partition_by,
                    properties=self.properties,
                )
                commits.append(self.merge(part, snapshot))
        return commits

    def refuse_run(self, write: Write) -> None:
        """Refuse a run by the state of its table, before anything is changed."""

    def merge(self, part: Part, snapshot: Snapshot) -> Commit:
        """Commit the changes of one partition, or of an asset without partitions."""
        durable, write = self.durability is Durability.FSYNC, part.write
        window = bounds(write)

        def plan(current: Snapshot) -> ChangeSet:
            merged = write.batch.plan_merge(current, current.files, part.changes, window, durable=durable)
            return replace(merged, rows={**merged.rows, "quarantined": part.bad_rows})

        return commit(
            snapshot,
            window,
            plan,
            metadata={"pattern": "merger", **write.metadata},
            app_ids=write.app_ids,
            durable=durable,
        )

    def counted(self, write: Write, commits: Sequence[Commit]) -> dict[str, Any]:
        """What became of the changes; the rows are those of the whole table, a run owns none of them."""
        metadata = super().counted(write, commits)
        metadata.pop("dagster/partition_row_count", None)
        rewritten = sum(cast("int", commit.change_set.metadata["files_rewritten"]) for commit in commits)
        return {**metadata, "dagster/row_count": commits[-1].rows, "delta/files_rewritten": rewritten}


def quarantine_of(table: AnyLakePath) -> AnyLakePath:
    """Directory of the table that holds the bad rows of a table."""
    return cast("AnyLakePath", table.with_name(f"{table.name}__quarantine"))


def bounds(write: Write) -> Window:
    """The rows among which a key is unique: its physical partition, where the run's partition is one."""
    return write.window if set(write.window.columns) <= set(write.declaration.partition_by) else Window()


def _parts(write: Write) -> list[Write]:
    """The write of each partition, in the order of the partitions; one where no column tells them apart."""
    if write.window.is_whole_table or write.keys is None:
        return [write]
    return [
        replace(
            write,
            keys=[key],
            window=Window(write.window.columns, {key: write.window.pieces[key]}),
            metadata={**write.metadata, "partition_keys": [key]},
        )
        for key in in_order(write.keys, write.definition)
    ]


def _refuse_reserved(given: pl.Schema, name: str) -> None:
    if reserved := [column for column in (_PARTITION, _RUN, _REASON) if column in given]:
        raise InvalidMetadataError(
            f"column(s) {listed(reserved)} of asset {name!r} were refused",
            why="the quarantine, which the asset asks for, says with them where a row comes from",
            mend="rename them in the asset",
        )


def _quarantine(part: Part, *, durable: bool) -> None:
    """Replace what an earlier run of the partition set aside; without partitions every run is one of its own.

    Where no column tells the rows of several partitions apart, they are set aside under the first.
    """
    write, table = part.write, quarantine_of(part.write.table)
    if not part.bad_rows and open_table(table) is None:
        return
    keys = write.keys or [str(write.metadata["run_id"])]
    rows = part.bad.rename({REASON: _REASON}).with_columns(
        pl.lit(keys[0]).alias(_PARTITION), pl.lit(write.metadata["run_id"]).alias(_RUN)
    )
    replace_rows(
        table,
        lambda: (rows, {}),
        Window({_PARTITION: pl.String()}, {key: (Bound(key),) for key in keys}),
        metadata={"pattern": "quarantine", **write.metadata},
        partition_by=[_PARTITION],
        durable=durable,
    )
