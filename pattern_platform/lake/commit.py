"""One atomic commit for every writer: plan outside the lock, commit inside it, plan again when the table moved.

The lock is a kernel file lock in the table's folder, so a killed process never leaves it locked. It is held for the
commit alone. Writers that do not know the lock (other engines), and all of them on an object store, are met by the log
itself: the next version is created only if nobody else created it, and whoever loses plans again.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from pattern_platform.errors import CommitConflictError, InvalidMetadataError, UnknownCommitError
from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.files import remove_files, sizes_of
from pattern_platform.lake.lock import table_lock
from pattern_platform.lake.log import commit_path
from pattern_platform.lake.object_path import ObjectPath, delta_table, storage_options
from pattern_platform.lake.snapshot import Snapshot, open_table, refuse_unwritable, unwritable_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    import polars as pl

    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.window import Window

COMMIT_METADATA = "pattern_platform."  # prefix of what the platform keeps in a commit
_MOST_ATTEMPTS = 25
_READYING_COMMITS = 3  # create, add columns, set properties
_DEFAULT_PROPERTIES = {
    "delta.checkpointInterval": "20",  # opening costs 0.3 ms for each commit after a checkpoint
    # A checkpoint forgets removed files that are older, and a vacuum no longer finds them: longer than its retention.
    "delta.deletedFileRetentionDuration": "interval 30 days",
}


@dataclass(frozen=True)
class Commit:
    """A change set that is part of the table.

    Args:
        version: The version that this commit, and no other, made.
        change_set: What it did.
        base: The version that it was committed onto.
    """

    version: int
    change_set: ChangeSet
    base: Snapshot

    @property
    def rows(self) -> int:
        """Rows of the table after the commit; files of other writers that count none count as empty."""
        removed = int(self.change_set.remove["num_records"].sum())
        return int(self.base.files["num_records"].sum()) - removed + sum(file.rows for file in self.change_set.add)


def ready_table(
    table: LakePath,
    snapshot: Snapshot | None,
    schema: pl.Schema,
    *,
    partition_by: Sequence[str],
    properties: Mapping[str, str],
) -> Snapshot:
    """Bring a table to the schema of a batch: create it without rows, or add columns, in a commit without data.

    Two first writes at once create one table, and neither replaces the other.

    Args:
        table: Directory of the table.
        snapshot: The table as it was found; None where there is none.
        schema: Columns of the batch: those of the table, and new ones at the end.
        partition_by: Physical partition columns.
        properties: Table properties; those of an existing table are brought in line.

    Raises:
        CommitConflictError: Another writer made or changed the table meanwhile, and the batch does not fit any more.
        UnsupportedTableError: As :func:`refuse_unwritable`.
    """
    if unwritable := unwritable_properties(properties):
        raise InvalidMetadataError(
            f"table_properties of table {table.name!r} were refused",
            why=f"{', '.join(unwritable)}: this writer would not honour them",
            mend="leave them out",
        )
    if unknown := [key for key in properties if not key.startswith("delta.")]:
        raise InvalidMetadataError(
            f"table_properties of table {table.name!r} were refused",
            why=f"{', '.join(unknown)}: engines know properties that begin with 'delta.' alone",
            mend="leave them out, or declare them as metadata of the asset",
        )
    expected = snapshot.schema if snapshot else schema
    if snapshot is None:
        table.mkdir(parents=True, exist_ok=True)
        with table_lock(table), _left_to_the_faster():
            DeltaTable.create(
                str(table),
                Schema.from_arrow(schema),
                mode="ignore",
                partition_by=list(partition_by),
                configuration={**_DEFAULT_PROPERTIES, **properties},
                storage_options=storage_options(table),
            )
    elif snapshot.schema == schema and not _changed(snapshot, properties):
        return snapshot
    with table_lock(table):
        snapshot = _opened(table)
        refuse_unwritable(snapshot)
        if snapshot.schema not in (expected, schema) or snapshot.partition_columns != tuple(partition_by):
            raise _changed_under_way(table)  # before anything is altered for a batch that does not fit any more
        new = [f for f in Schema.from_arrow(schema).fields if f.name not in snapshot.schema]
        with _left_to_the_faster():
            if new:
                delta_table(table).alter.add_columns(new)
            if _changed(snapshot, properties):
                delta_table(table).alter.set_table_properties(dict(properties))
        ready = _opened(table)
    if ready.schema != schema:
        raise _changed_under_way(table)
    return ready


@contextmanager
def _left_to_the_faster() -> Generator[None]:
    """Who does not hold the lock, for there is none, may make the same change first: what it left is looked at next."""
    with suppress(CommitFailedError):
        yield


def _changed(snapshot: Snapshot, properties: Mapping[str, str]) -> bool:
    return any(snapshot.properties.get(key) != value for key, value in properties.items())


def _opened(table: LakePath) -> Snapshot:
    snapshot = open_table(table)
    if snapshot is None:
        raise _changed_under_way(table)
    return snapshot


def commit(
    snapshot: Snapshot,
    window: Window | None,
    plan: Callable[[Snapshot], ChangeSet],
    *,
    batch: Sequence[DataFile] = (),
    metadata: Mapping[str, object],
    app_ids: Sequence[str] = (),
    durable: bool = False,
) -> Commit:
    """Plan a change set and commit it once. When it fails, every file that was written for it is removed.

    Args:
        snapshot: The table as the batch was checked against.
        window: What the plan reads: when other commits touched files of it, the plan is made again. None for a plan
            that reads the log too: any other commit makes it anew.
        plan: Pure function from a snapshot to a change set. It may write files for rows that it moves.
        batch: Files that were written for the plan already.
        metadata: Kept in the commit, with names under ``pattern_platform.``, beside what the plan records.
        app_ids: Application transaction ids to record, such as the partitions that the commit completes.
        durable: Whether the commit is synced to the disk before it is reported.

    Raises:
        CommitConflictError: Other engines won every race.
        TableLockedError: Another process kept the lock.
        UnknownCommitError: An object store did not say what became of it; the files are left.
    """
    commit_id = uuid4().hex
    change_set = ChangeSet(add=batch, remove=snapshot.files.clear())
    try:
        change_set = plan(snapshot)
        for attempt in range(_MOST_ATTEMPTS):
            with table_lock(snapshot.table):
                current = _opened(snapshot.table)
                refuse_unwritable(current)
                if not current.same_shape(snapshot):
                    raise _changed_under_way(snapshot.table)
                if current.version != snapshot.version and (not window or _touched(window, snapshot, current)):
                    remove_files(snapshot.table, change_set.written)
                    change_set = ChangeSet(add=batch, remove=current.files.clear())
                    change_set = plan(current)
                snapshot = current
                _refuse_gone(snapshot.table, change_set)
                recorded = {**metadata, **change_set.metadata, "commit_id": commit_id}
                conflict = _conflict_of(snapshot, change_set, commit_id, metadata=recorded, app_ids=app_ids)
                if conflict is None:
                    break
            # A writer that does not know the lock was faster. Jitter keeps two such writers from meeting for ever.
            time.sleep(random.uniform(0, 0.02 * 2 ** min(attempt, 6)))  # noqa: S311 - no secret
        else:
            raise CommitConflictError(
                f"the commit to table {snapshot.table.name!r} was given up",
                why=f"other engines committed first {_MOST_ATTEMPTS} times in a row",
                mend="run again; if it stays so, let one engine at a time write this table",
            ) from conflict
    except UnknownCommitError:
        raise  # a commit that comes true later needs its files; until then a report of orphans names them
    except BaseException:
        # An error after the log was written (a full disk, an interrupt) must not remove files that are now the table.
        # What the change set adds besides is not its own: a restore names files of an older version again.
        if not _landed(snapshot, commit_id):
            remove_files(snapshot.table, [*batch, *change_set.written])
        raise
    version = snapshot.version + 1
    if durable and isinstance(snapshot.table, Path):  # what an object store took is kept
        _sync(snapshot.table, version, change_set)
    return Commit(version, change_set, snapshot)


def checkpoint_if_due(commit: Commit) -> None:
    """Write a checkpoint after every N-th commit, so that opening a table of many partitions stays cheap.

    Args:
        commit: The commit; N is the table's ``delta.checkpointInterval``.
    """
    interval = commit.base.properties.get("delta.checkpointInterval", "100")
    if not interval.isdecimal() or int(interval) == 0:
        return  # delta-rs takes any text; one that is no number of commits means no checkpoints
    if commit.version % int(interval) == 0 and (snapshot := open_table(commit.base.table)):
        snapshot.handle.create_checkpoint()


def _refuse_gone(table: LakePath, change_set: ChangeSet) -> None:
    """Refuse where a file is gone: a full vacuum of someone else, a table made anew, an erasure from an older file."""
    written = {file.path: file.size for file in change_set.add}
    if sizes_of(table, written) != written:
        raise _changed_under_way(table)


def _touched(window: Window, planned: Snapshot, current: Snapshot) -> bool:
    before, after = ({*a["path"], *b["path"]} for a, b in map(window.split, (planned.files, current.files)))
    return before != after


def _conflict_of(
    snapshot: Snapshot, change_set: ChangeSet, commit_id: str, *, metadata: Mapping[str, object], app_ids: Sequence[str]
) -> CommitFailedError | None:
    """Commit a change set: None where it is part of the table, else what says that it never will be."""
    try:
        _append(snapshot, change_set, metadata=metadata, app_ids=app_ids)
    except (DeltaError, OSError) as error:
        if _is_there(snapshot, commit_id, error):
            return None
        if isinstance(error, CommitFailedError):
            return error
        if isinstance(snapshot.table, ObjectPath):  # a put that nobody answered may still come true
            raise _unknown(snapshot.table) from error
        raise
    return None


def _is_there(snapshot: Snapshot, commit_id: str, error: Exception) -> bool:
    """Whether a commit is part of the table, although an error was reported."""
    try:
        return _landed(snapshot, commit_id)
    except OSError:
        raise _unknown(snapshot.table) from error


def _append(
    snapshot: Snapshot, change_set: ChangeSet, *, metadata: Mapping[str, object], app_ids: Sequence[str]
) -> None:
    now, data_change = int(time.time() * 1000), change_set.data_change
    removed = change_set.remove.select("path", "size_bytes").iter_rows()
    snapshot.handle.create_write_transaction(
        [
            *(RemoveAction(path, data_change=data_change, deletion_timestamp=now, size=size) for path, size in removed),
            *(
                AddAction(
                    f.path, f.size, f.partition_values, f.modified, data_change=data_change, stats=f.delta_stats()
                )
                for f in change_set.add
            ),
        ],
        mode="append",  # the mode that takes explicit removes; "overwrite" would derive them from partition filters
        schema=snapshot.handle.schema(),
        partition_by=list(snapshot.partition_columns),
        commit_properties=CommitProperties(
            custom_metadata={COMMIT_METADATA + key: value for key, value in metadata.items()},
            max_commit_retries=0,
            app_transactions=[Transaction(app_id, snapshot.version + 1, now) for app_id in app_ids],
        ),
        # A hook that fails would report a commit as failed that is part of the table: checkpoints come after it.
        post_commithook_properties=PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False),
    )


def _landed(snapshot: Snapshot, commit_id: str) -> bool:
    try:
        return commit_id in commit_path(snapshot.table, snapshot.version + 1).read_text()
    except FileNotFoundError:
        return False


def _unknown(table: LakePath) -> UnknownCommitError:
    return UnknownCommitError(
        f"the commit to table {table.name!r} was given up",
        why="its storage does not answer: it may be part of the table, or become that later, whole",
        mend="run again, when the storage is back: the partition is then written once more, over what is there",
    )


def _changed_under_way(table: LakePath) -> CommitConflictError:
    return CommitConflictError(
        f"the commit to table {table.name!r} was given up",
        why="another writer made it, changed its schema or removed it while the batch was written",
        mend="run again: the batch is then checked against the table as it is",
    )


def _sync(table: Path, version: int, change_set: ChangeSet) -> None:
    """Sync a commit, those that made the table ready for it, and every folder between its files and the root."""
    log = [commit_path(table, v) for v in range(max(version - _READYING_COMMITS, 0), version + 1)]
    folders = {table.parent, table, table / "_delta_log"}
    for file in change_set.add:
        folders.update(table / folder for folder in Path(file.path).parents)
    for path in (*(commit for commit in log if commit.exists()), *folders):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
