"""Upkeep of a table: compaction, vacuum, checkpoints, and a report of files that no version names.

delta-rs' own compaction doubles every row when two of them meet, and brings overwritten rows back. Here compaction is a
change set like any other, under the lock, planned again when the table moved. Vacuum keeps every version that a
partition recorded, and never removes a file that a run may still be about to commit.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import polars as pl
from deltalake.exceptions import CommitFailedError

from pattern_platform.errors import CommitConflictError, RetentionError, RowCountError
from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.commit import Commit, commit
from pattern_platform.lake.files import row_count, scan_files, write_files, written_for
from pattern_platform.lake.lineage import VERSIONS_KEPT
from pattern_platform.lake.lock import table_lock
from pattern_platform.lake.log import commit_path, is_in_log
from pattern_platform.lake.merge import grouped
from pattern_platform.lake.object_path import delta_table
from pattern_platform.lake.pins import pinned
from pattern_platform.lake.snapshot import open_table, refuse_unwritable
from pattern_platform.lake.version_table import read_lineage, version_table_of
from pattern_platform.lake.window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.snapshot import Snapshot

_MOST_ATTEMPTS = 10
_ORPHAN = pl.Schema({"path": pl.String, "size_bytes": pl.Int64, "modified": pl.Datetime("us", "UTC")})


def compact(table: LakePath, *, sort_by: Sequence[str] = (), durable: bool = False) -> list[Commit]:
    """Rewrite small files as fewer larger ones; no row changes, and readers of changes see none.

    Each commit rewrites files of up to about a million rows, so that it is short and meets few other writers.

    Args:
        table: Directory of the table.
        sort_by: Columns that its rows are looked up by.
        durable: Whether files and commits are synced to the disk.

    Returns:
        The commits; none where there is nothing to compact.

    Raises:
        RowCountError: The rewritten files do not hold as many rows as the log says; nothing is committed.
        CommitConflictError: As of every commit.
    """
    snapshot = open_table(table)
    if snapshot is None:
        return []
    refuse_unwritable(snapshot)
    groups = grouped(snapshot.files, sort_by[0] if sort_by else "path", snapshot.partition_columns)
    return [
        commit(
            _opened(snapshot),
            Window(),
            partial(_rewritten, group=group.files, sort_by=sort_by, durable=durable),
            metadata={"pattern": "compaction"},
            durable=durable,
        )
        for group in groups
        if group.files.height > 1
    ]


def _opened(snapshot: Snapshot) -> Snapshot:
    """The newest version; the known one where the table was removed meanwhile, for the commit to refuse."""
    return open_table(snapshot.table) or snapshot


def _rewritten(snapshot: Snapshot, group: pl.DataFrame, sort_by: Sequence[str], *, durable: bool) -> ChangeSet:
    """The files of a group that are still live, as one."""
    files = snapshot.files.join(group, on="path", how="semi", maintain_order="left")
    rows = scan_files(snapshot.table, files, snapshot.schema, snapshot.partition_columns)
    expected = sum(row_count(f, snapshot.table / p) for p, f in files.select("path", "num_records").iter_rows())
    with written_for(snapshot.table) as written:
        written.extend(
            write_files(
                rows.sort(sort_by) if sort_by else rows,
                snapshot.table,
                keys={},
                partition_by=snapshot.partition_columns,
                durable=durable,
            )
        )
        _refuse_other_count(snapshot, sum(file.rows for file in written), expected)
    return ChangeSet(add=written, remove=files, written=written, data_change=False)


def vacuum(table: LakePath, *, retention: timedelta, longest_run: timedelta) -> list[str]:
    """Remove files that left the table longer ago than the retention, except those of recorded versions.

    Args:
        table: Directory of the table.
        retention: How long a removed file is kept for readers of older versions.
        longest_run: The longest that a run, or a reader, may take.

    Returns:
        The removed files.

    Raises:
        RetentionError: The retention is shorter than the longest run, or it is not known which versions were recorded.
        CommitConflictError: On an object store, runs won every race.
    """
    if retention < longest_run:
        raise RetentionError(
            f"a vacuum of table {table.name!r} with a retention of {retention} was refused",
            why=f"a run of up to {longest_run} may still read the files that it would remove",
            mend="let the retention be at least the longest run (run_monitoring.max_runtime_seconds of dagster.yaml)",
        )
    snapshot = open_table(table)
    if snapshot is None:
        return []
    refuse_unwritable(snapshot)
    _refuse_unknown_versions(snapshot)
    for _ in range(_MOST_ATTEMPTS):
        # delta-rs commits what a vacuum does; without a lock, on an object store, a run may be faster.
        with table_lock(table), suppress(CommitFailedError):
            return _vacuum(_opened(snapshot), retention_hours=ceil(retention.total_seconds() / 3600), dry_run=False)
    raise CommitConflictError(
        f"a vacuum of table {table.name!r} was given up",
        why=f"runs committed first {_MOST_ATTEMPTS} times in a row",
        mend="run it again when fewer runs write the table; what it has removed already was not needed",
    )


def checkpoint(table: LakePath) -> None:
    """Write a checkpoint of the newest version, from which the table is opened faster, and clean the log before it.

    What is older than the property ``delta.logRetentionDuration`` goes, 30 days unless told; that of a stateful merger
    stays for ten years. Otherwise checkpoints, which name all files, add up to 1.2 GB for a year of hours. A table
    whose older versions are shown elsewhere keeps its log, as it names their files.
    """
    if snapshot := open_table(table):
        refuse_unwritable(snapshot)
    with table_lock(table):
        opened = delta_table(table)
        opened.create_checkpoint()
        if not pinned(table):
            opened.cleanup_metadata()


def orphans(table: LakePath, *, older_than: timedelta) -> pl.DataFrame:
    """The files that no version names, as interrupted runs leave them. Nothing is removed.

    Args:
        table: Directory of the table.
        older_than: Younger files may belong to a run that is about to commit; give at least the longest run.

    Returns:
        A row for each file: ``path`` below the table, ``size_bytes``, ``modified`` in UTC.
    """
    rows: list[tuple[str, int, datetime]] = []
    snapshot = open_table(table)
    if snapshot is None:
        return pl.DataFrame(rows, schema=_ORPHAN, orient="row")
    named = set(_vacuum(snapshot, retention_hours=0, dry_run=True, keep=False))
    known = _vacuum(snapshot, retention_hours=0, dry_run=True, full=True, keep=False)
    before = datetime.now(UTC) - older_than
    for path in sorted(set(known) - named):
        with suppress(FileNotFoundError):  # its run has just given up
            found = (table / path).stat()
            modified = datetime.fromtimestamp(found.st_mtime, UTC)
            rows += [(path, found.st_size, modified)] if modified < before else []
    return pl.DataFrame(rows, schema=_ORPHAN, orient="row")


def _vacuum(
    snapshot: Snapshot, *, retention_hours: int, dry_run: bool, full: bool = False, keep: bool = True
) -> list[str]:
    return delta_table(snapshot.table).vacuum(
        retention_hours,
        dry_run=dry_run,
        enforce_retention_duration=False,  # the property asks for ten years, so that other engines keep everything
        full=full,
        keep_versions=_recorded_versions(snapshot) if keep else None,
    )


def _recorded_versions(snapshot: Snapshot) -> list[int]:
    """The versions that a partition may be merged into again, or that a view shows, and that the log still holds."""
    lineage = read_lineage(snapshot)
    recorded = [lineage.root, *(record.version for record in lineage.records.values()), *pinned(snapshot.table)]
    versions = [version for version in recorded if version is not None]
    # Listed, not tried: a version that cannot be opened just now is needed all the same, and stops the vacuum.
    log = {path.name for path in (snapshot.table / "_delta_log").iterdir()}
    return [version for version in versions if is_in_log(version, log)]


def _refuse_unknown_versions(snapshot: Snapshot) -> None:
    """Refuse where the log was cleaned up although the table keeps versions, and the version table is gone too."""
    keeps_versions = VERSIONS_KEPT.items() <= snapshot.properties.items()
    if keeps_versions and not commit_path(snapshot.table, 0).exists() and not read_lineage(snapshot).root_known:
        raise RetentionError(
            f"a vacuum of table {snapshot.table.name!r} was refused",
            why="its log was cleaned up and its version table is gone, so it is not known which versions are needed",
            mend=f"bring back {version_table_of(snapshot.table).name} from a backup",
        )


def _refuse_other_count(snapshot: Snapshot, written: int, expected: int) -> None:
    if written != expected:
        raise RowCountError(
            f"a compaction of table {snapshot.table.name!r} was refused",
            why=f"the rewritten files hold {written} rows, the log says {expected}: it, or a file, was altered by hand",
            mend="compare the files of the table with its log before anything is removed",
        )
