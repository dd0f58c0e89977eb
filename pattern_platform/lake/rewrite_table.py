"""Rewrite rows in every version of a table: in the newest by a commit, in older ones and in the log in place.

A file of the newest version leaves the table by a commit like any other, under a new name, so that writers at work
plan again. A file that only older versions name is replaced under its own name, and the log is brought in line with its
new size: versions keep their numbers, so what a partition recorded, a replay restores or a view shows is as before,
without the rows. (To commit each older version again instead would let readers, and a writer after a crash, see the
table as it was long ago.) A file that no version names is removed.

A crash loses nothing: what is not rewritten yet is found again, and sizes that do not fit are mended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.errors import CommitConflictError
from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.commit import checkpoint_if_due, commit
from pattern_platform.lake.files import write_files, written_for
from pattern_platform.lake.rewrite import APPEND_ONLY, live_files, opened, rewritten_rows, touched_files
from pattern_platform.lake.rewrite_history import history_of, kept_in_log, rewrite_history
from pattern_platform.lake.window import Window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pattern_platform.lake.commit import Commit
    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.rewrite import Rewrite
    from pattern_platform.lake.snapshot import Snapshot

_MOST_ATTEMPTS = 10


@dataclass(frozen=True)
class Rewritten:
    """What was, or would be, rewritten.

    Args:
        rows: Rows of the newest version that changed.
        files: Data files that held such rows, of any version or of none.
        log_files: Files of the log that kept something of them.
        commits: The commits to the newest version; more than one where others wrote meanwhile.
    """

    rows: int
    files: frozenset[str]
    log_files: int
    commits: tuple[Commit, ...] = ()


def find(table: LakePath, rewrite: Rewrite) -> Rewritten:
    """What a rewrite would do; nothing is written. Raises as :func:`rewrite_everywhere`."""
    snapshot = opened(table)
    live = touched_files(snapshot, rewrite)
    history = history_of(snapshot, rewrite, live={*snapshot.files["path"]})
    return Rewritten(sum(live.values()), frozenset({*live, *history}), kept_in_log(table, rewrite))


def rewrite_everywhere(table: LakePath, rewrite: Rewrite, *, metadata: Mapping[str, object]) -> Rewritten:
    """Rewrite rows in every version of a table, and what the log keeps of them.

    Args:
        table: Directory of the table.
        rewrite: What, and how.
        metadata: Kept in the commit.

    Raises:
        MissingTableError: There is no table.
        UnsupportedTableError: The platform does not write such tables, or cannot rewrite their files.
        InvalidErasureError: A file of the newest version cannot be read.
        UnreadableLogError: The log is damaged.
        CommitConflictError: Other writers won every race.
    """
    append_only = opened(table).properties.get(APPEND_ONLY) == "true"
    rows, files, commits = 0, frozenset[str](), []
    for _ in range(_MOST_ATTEMPTS):
        if not append_only and (made := _commit(opened(table), rewrite, metadata)):
            commits.append(made)
            rows += made.change_set.rows["rewritten"]
            files |= {*made.change_set.remove["path"]}
        history = rewrite_history(opened(table), rewrite, append_only=append_only)
        if history:
            for made in commits[-1:]:
                checkpoint_if_due(made)
            return Rewritten(rows + history.rows, files | history.files, history.log_files, tuple(commits))
    raise CommitConflictError(
        f"a rewrite of table {table.name!r} was given up",
        why=f"others wrote to it {_MOST_ATTEMPTS} times in a row while it was read",
        mend="run again; if it stays so, let no run write this table meanwhile",
    )


def _commit(snapshot: Snapshot, rewrite: Rewrite, metadata: Mapping[str, object]) -> Commit | None:
    """Rewrite the live files that hold touched rows, in one commit; None where there are none."""
    touched = touched_files(snapshot, rewrite)
    if not touched:
        return None

    def plan(current: Snapshot) -> ChangeSet:
        return _plan(current, rewrite, touched if current is snapshot else touched_files(current, rewrite))

    return commit(snapshot, Window(), plan, metadata=metadata)


def _plan(snapshot: Snapshot, rewrite: Rewrite, touched: Mapping[str, int]) -> ChangeSet:
    live = live_files(snapshot)
    with written_for(snapshot.table) as written:
        for path in touched:
            written.extend(_written(snapshot, path, live[path], rewrite))
    return ChangeSet(
        add=written,
        remove=snapshot.files.filter(pl.col("path").is_in(list(touched))),
        written=written,
        rows={"rewritten": sum(touched.values())},
        metadata={"files_rewritten": len(touched)},
    )


def _written(snapshot: Snapshot, path: str, values: Mapping[str, str | None], rewrite: Rewrite) -> list[DataFile]:
    """A file as it shall be, beside itself; none where no row is left."""
    folder = path.rpartition("/")[0]
    files = write_files(rewritten_rows(snapshot, path, values, rewrite), snapshot.table / folder, keys={})
    return [replace(f, path=f"{folder}/{f.path}" if folder else f.path, partition_values=values) for f in files]
