"""Upkeep of a table: compaction, vacuum, checkpoints, and a report of files that no version names.

delta-rs' own compaction doubles every row when two of them meet, and brings overwritten rows back. Here compaction is a
change set like any other, under the lock, planned again when the table moved. Vacuum keeps every version that a
partition recorded, and never removes a file that a run may still be about to commit.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING

import polars as pl
from deltalake import DeltaTable

from pattern_platform.errors import MissingVersionError, RetentionError, RowCountError
from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.commit import Commit, commit
from pattern_platform.lake.files import scan_files, write_files, written_for
from pattern_platform.lake.lock import table_lock
from pattern_platform.lake.merge import grouped
from pattern_platform.lake.snapshot import open_table, open_version, refuse_unwritable
from pattern_platform.lake.version_table import read_lineage
from pattern_platform.lake.window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from pathlib import Path

    from pattern_platform.lake.snapshot import Snapshot

_ORPHAN = pl.Schema({"path": pl.String, "size_bytes": pl.Int64, "modified": pl.Datetime("us", "UTC")})


def compact(table: Path, *, sort_by: Sequence[str] = (), durable: bool = False) -> list[Commit]:
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

    def plan(snapshot: Snapshot) -> ChangeSet:
        files = _next_group(snapshot, sort_by)
        if files is None:
            return ChangeSet(add=[], remove=snapshot.files.clear(), data_change=False)
        rows = scan_files(snapshot.table, files, snapshot.schema, snapshot.partition_columns)
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
            _refuse_other_count(snapshot, sum(file.rows for file in written), int(files["num_records"].sum()))
        return ChangeSet(add=written, remove=files, written=written, data_change=False)

    commits: list[Commit] = []
    while (snapshot := open_table(table)) and _next_group(snapshot, sort_by) is not None:
        refuse_unwritable(snapshot)
        commits.append(commit(snapshot, Window(), plan, metadata={"pattern": "compaction"}, durable=durable))
    return commits


def vacuum(table: Path, *, retention: timedelta, longest_run: timedelta) -> list[str]:
    """Remove files that left the table longer ago than the retention, except those of recorded versions.

    Args:
        table: Directory of the table.
        retention: How long a removed file is kept for readers of older versions.
        longest_run: The longest that a run, or a reader, may take.

    Returns:
        The removed files.

    Raises:
        RetentionError: The retention is shorter than the longest run.
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
    with table_lock(table):
        current = open_table(table) or snapshot
        return _vacuum(current, retention_hours=ceil(retention.total_seconds() / 3600), dry_run=False)


def checkpoint(table: Path) -> None:
    """Write a checkpoint of the newest version, from which the table is opened faster."""
    with table_lock(table):
        DeltaTable(table).create_checkpoint()


def orphans(table: Path, *, older_than: timedelta) -> pl.DataFrame:
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


def _next_group(snapshot: Snapshot, sort_by: Sequence[str]) -> pl.DataFrame | None:
    """The first neighbours that fit into one file together."""
    groups = grouped(snapshot.files, sort_by[0] if sort_by else "path", snapshot.partition_columns)
    return next((group.files for group in groups if group.files.height > 1), None)


def _vacuum(
    snapshot: Snapshot, *, retention_hours: int, dry_run: bool, full: bool = False, keep: bool = True
) -> list[str]:
    return DeltaTable(snapshot.table).vacuum(
        retention_hours,
        dry_run=dry_run,
        enforce_retention_duration=False,  # the property asks for ten years, so that other engines keep everything
        full=full,
        keep_versions=_recorded_versions(snapshot) if keep else None,
    )


def _recorded_versions(snapshot: Snapshot) -> list[int]:
    """The versions that a partition may be merged into again, and that can still be opened."""
    lineage = read_lineage(snapshot)
    recorded = [lineage.root, *(record.version for record in lineage.records.values())]
    versions = []
    for version in recorded:
        with suppress(MissingVersionError):
            versions += [open_version(snapshot.table, version).version] if version is not None else []
    return versions


def _refuse_other_count(snapshot: Snapshot, written: int, expected: int) -> None:
    if written != expected:
        raise RowCountError(
            f"a compaction of table {snapshot.table.name!r} was refused",
            why=f"the rewritten files hold {written} rows, the log says {expected}: it, or a file, was altered by hand",
            mend="compare the files of the table with its log before anything is removed",
        )
