"""Transactional Writer on Delta Lake: a partition is appended once, in one commit, whatever is retried.

Problem: an append that is retried after it was committed leaves its rows twice. Delta Lake records application
transaction ids for this, but delta-rs only records them: nobody looks whether one is there already.

Guarantee: a partition is one transaction. Its files, however many, become part of the table in ONE commit that records
the partition's id; inside the commit's lock, before every try, the platform looks for that id. A run whose partition is
there already, by an earlier run or by one at the same time, changes nothing and says so. A run that dies before its
commit leaves files that no version names: readers of the table never see them, readers that glob for Parquet files do
(a dirty read).

Limits: idempotency ends with the transaction. What was appended stays: a corrected partition is skipped like any other,
and is corrected through ``data_overwrite`` or a merger; ids outlive a ``RESTORE``, and what it took away is skipped
too. An asset without partitions has no transaction to name. Two tables are two commits: see ``transactional_writer``
and ``proxy``.

Shown by: ``ledger/ad_impressions`` (daily).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pattern_platform.errors import CommitConflictError, InvalidMetadataError
from pattern_platform.lake.batch import in_process
from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.checks import listed, refuse_unfit
from pattern_platform.lake.commit import Commit, commit, ready_table
from pattern_platform.lake.completeness import partition_app_id
from pattern_platform.lake.files import write_files, written_for
from pattern_platform.lake.io_manager import DeltaIOManager, Durability
from pattern_platform.lake.partitions import window_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dagster as dg

    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.window import Window
    from pattern_platform.lake.write import Write

_SKIPPED = "skipped_partitions"


class TransactionalAppendIOManager(DeltaIOManager):
    """Append each partition once, in one commit with the others of its run."""

    def refuse_spec(self, spec: dg.AssetSpec) -> None:
        """Refuse an asset that could not be stored, by its declaration alone."""
        super().refuse_spec(spec)
        if spec.partitions_def is None:
            raise _without_transaction(spec.key.to_user_string())

    def write(self, write: Write) -> list[Commit]:
        """Append the partitions that are not there yet."""
        if write.keys is None:
            raise _without_transaction(write.name)
        snapshot = write.snapshot
        if snapshot is None or _not_recorded(snapshot, write.keys):
            try:
                return [self._appended(write, _not_recorded(snapshot, write.keys))]
            except _RecordedMeanwhileError as meanwhile:
                snapshot = meanwhile.snapshot
                if rest := _not_recorded(snapshot, write.keys):
                    raise CommitConflictError(
                        f"the commit to table {write.table.name!r} was given up",
                        why=f"another run appended some partitions of this one meanwhile, and not {listed(rest)}",
                        mend="run again: what is there is then left out",
                    ) from meanwhile
        skipped = ChangeSet(add=(), remove=snapshot.files.clear(), metadata={_SKIPPED: list(write.keys)})
        return [Commit(snapshot.version, skipped, snapshot)]

    def counted(self, write: Write, commits: Sequence[Commit]) -> dict[str, Any]:
        """What the commit did, and which partitions were there already."""
        (made,) = commits
        skipped = made.change_set.metadata[_SKIPPED]
        counted = {k: v for k, v in super().counted(write, commits).items() if k != "dagster/partition_row_count"}
        return {**counted, "delta/skipped_partitions": skipped}

    def after_commit(self, context: dg.OutputContext, write: Write, commits: Sequence[Commit]) -> None:
        """Say what was not written again."""
        if skipped := commits[-1].change_set.metadata[_SKIPPED]:
            context.log.warning("%s: partition(s) %s are there already, and stay as they are", write.name, skipped)

    def _appended(self, write: Write, keys: Sequence[str]) -> Commit:
        """Append the rows of some partitions.

        Raises:
            _RecordedMeanwhileError: Another run appended one of them since.
        """
        durable = self.durability is Durability.FSYNC
        rows, window = in_process(write.batch), self._window_of(write, keys)
        if skipped := [key for key in write.keys or () if key not in keys]:
            rows = rows.filter(~self._window_of(write, skipped).rows)  # what is in no partition stays, and is refused
        with written_for(write.table) as batch:
            batch.extend(
                write_files(
                    rows,
                    write.table,
                    keys=window.piece_keys(),
                    partition_by=write.declaration.partition_by,
                    durable=durable,
                )
            )
            refuse_unfit(batch, write)
            snapshot = ready_table(
                write.table,
                write.snapshot,
                write.schema,
                partition_by=write.declaration.partition_by,
                properties=self.properties,
            )
        app_ids = [partition_app_id(key) for key in keys]
        return commit(
            snapshot,
            None,
            partial(plan, batch=batch, app_ids=app_ids, skipped=skipped),
            batch=batch,
            metadata={"pattern": "transactional_writer_delta", **write.metadata},
            app_ids=app_ids,
            durable=durable,
        )

    def _window_of(self, write: Write, keys: Sequence[str]) -> Window:
        """The rows of some partitions of a run."""
        column = write.declaration.partition_expr
        return window_of(keys, write.partitions, column, write.schema) if column else write.window


class _RecordedMeanwhileError(Exception):
    """A transaction id is in the log, of which this run did not know."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot


def plan(snapshot: Snapshot, batch: Sequence[DataFile], app_ids: Sequence[str], skipped: Sequence[str]) -> ChangeSet:
    """Add the batch, if none of its transactions is recorded.

    Args:
        snapshot: The table, as it is inside the lock.
        batch: New files.
        app_ids: The transactions that the commit is.
        skipped: Partitions of the run that were there before.

    Raises:
        _RecordedMeanwhileError: One of them is recorded.
    """
    if any(snapshot.recorded(app_id) for app_id in app_ids):
        raise _RecordedMeanwhileError(snapshot)
    return ChangeSet(
        add=batch,
        remove=snapshot.files.clear(),
        rows={"inserted": sum(file.rows for file in batch)},
        metadata={_SKIPPED: list(skipped)},
    )


def _not_recorded(snapshot: Snapshot | None, keys: Sequence[str]) -> list[str]:
    """The partitions of a run whose transaction is not in the log."""
    return [key for key in keys if snapshot is None or not snapshot.recorded(partition_app_id(key))]


def _without_transaction(name: str) -> InvalidMetadataError:
    return InvalidMetadataError(
        f"asset {name!r} was refused",
        why="it has no partitions, and the partition is what names a transaction: a retry could not be told",
        mend="partition it, or store it with DataOverwriteIOManager",
    )
