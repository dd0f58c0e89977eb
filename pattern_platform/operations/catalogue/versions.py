"""The last versions of a Delta table, from its log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pattern_platform.errors import MissingVersionError
from pattern_platform.lake.lineage import read_commits
from pattern_platform.lake.snapshot import open_table, open_version

if TYPE_CHECKING:
    from pattern_platform.lake.object_path import LakePath

_MOST = 5


@dataclass(frozen=True)
class Version:
    """A version of a table.

    Args:
        version: Its number.
        at: When it was committed, in UTC.
        rows: Rows of the whole table; None where files of other writers count none, or the log before it is gone.
        run_id: The run that made it; empty for upkeep and for other writers.
        changes_rows: Whether it changed rows; compaction, for one, does not.
    """

    version: int
    at: datetime
    rows: int | None
    run_id: str
    changes_rows: bool


def last_versions(table: LakePath) -> tuple[Version, ...]:
    """The last five versions of a table, the newest first; none where there is no table.

    Args:
        table: Directory of the table.

    Raises:
        UnreadableLogError: The log is damaged.
        TornCommitError: A commit file is empty.
    """
    snapshot = open_table(table)
    if snapshot is None:
        return ()
    newest = snapshot.version
    return tuple(
        Version(
            version=version,
            at=datetime.fromtimestamp(metadata["timestamp"] / 1000, UTC),
            rows=_rows(table, version),
            run_id=str(metadata.get("run_id", "")),
            changes_rows=changed,
        )
        for version, metadata, changed in reversed(list(read_commits(table, max(newest - _MOST, -1), newest)))
    )


def _rows(table: LakePath, version: int) -> int | None:
    try:
        files = open_version(table, version).files
    except MissingVersionError:
        return None
    return None if files["num_records"].has_nulls() else int(files["num_records"].sum())
