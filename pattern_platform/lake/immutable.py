"""Delta tables that are written once and never changed: append-only by their protocol, read-only on the disk.

Append-only alone would let appends and restores through; no writer of the platform takes an append-only table at all.
"""

from __future__ import annotations

import shutil
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from deltalake import CommitProperties, PostCommitHookProperties, Schema
from deltalake.transaction import AddAction, create_table_with_add_actions

from pattern_platform.errors import MissingTableError
from pattern_platform.lake.commit import COMMIT_METADATA
from pattern_platform.lake.files import remove_files, write_files
from pattern_platform.lake.log import commit_path
from pattern_platform.lake.object_path import ObjectPath
from pattern_platform.lake.snapshot import open_table

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    import polars as pl

    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.snapshot import Snapshot

_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def write_once(rows: pl.LazyFrame, table: Path, *, metadata: Mapping[str, object]) -> Snapshot:
    """Write a table whole, in its first and only commit.

    Args:
        rows: Its rows, with types that Delta Lake keeps.
        table: A directory of its own. A table that is there already is left as it is.
        metadata: Kept in the commit, with names under ``pattern_platform.``.

    Raises:
        MissingTableError: It was removed at the same time.
    """
    if open_table(table) is None:
        table.mkdir(parents=True, exist_ok=True)
        files = write_files(rows, table, keys={})
        try:
            create_table_with_add_actions(
                str(table),
                Schema.from_arrow(rows.collect_schema()),
                [AddAction(f.path, f.size, f.partition_values, f.modified, True, f.delta_stats()) for f in files],  # noqa: FBT003 - a positional argument of delta-rs
                mode="error",
                configuration={"delta.appendOnly": "true"},
                commit_properties=CommitProperties(
                    custom_metadata={COMMIT_METADATA + key: str(value) for key, value in metadata.items()}
                ),
                post_commithook_properties=PostCommitHookProperties(
                    create_checkpoint=False, cleanup_expired_logs=False
                ),
            )
        except BaseException:
            # An error after the log was written (a full disk, an interrupt) must not remove what is now the table.
            if not commit_path(table, 0).exists():
                remove_files(table, files)
            raise
    _set_writable(table, writable=False)
    snapshot = open_table(table)
    if snapshot is None:
        raise MissingTableError(
            f"table {table.name!r} was not written", why="it was removed at the same time", mend="run again"
        )
    return snapshot


@contextmanager
def unsealed(table: LakePath) -> Generator[None]:
    """Let files of a table that was written once be replaced, by an erasure alone; afterwards it is read-only again.

    Any other table is left as it is.
    """
    if isinstance(table, ObjectPath):
        yield
        return
    first = commit_path(table, 0)
    # A file tells, not a folder: an erasure that was killed leaves folders open.
    if not first.exists() or first.stat().st_mode & _WRITE:
        yield
        return
    for path in (table, *table.rglob("*")):
        if path.is_dir() or path.suffix == ".lock":
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    try:
        yield
    finally:
        _set_writable(table, writable=False)


def remove_table(table: Path) -> None:
    """Remove a table that was written once, or what an interrupted write left of one."""
    if table.exists():
        _set_writable(table, writable=True)
        shutil.rmtree(table)


def _set_writable(table: Path, *, writable: bool) -> None:
    paths = [table, *table.rglob("*")] if writable else [*table.rglob("*"), table]
    for path in paths:
        mode = path.stat().st_mode
        if not writable:
            path.chmod(mode & ~_WRITE)
        elif path.is_dir():  # a file may be another namespace's too, by a hard link, and is removed without
            path.chmod(mode | stat.S_IWUSR)
