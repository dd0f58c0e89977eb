"""The files that only older versions of a table name, or none; and the log."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from uuid import uuid4

from pattern_platform.lake.files import remove_files, scan_file
from pattern_platform.lake.immutable import unsealed
from pattern_platform.lake.lock import table_lock
from pattern_platform.lake.log_scrub import edit_log, log_files, named_files, read_actions
from pattern_platform.lake.object_path import LakePath, folders_below, storage_options
from pattern_platform.lake.rewrite import (
    count_touched,
    data_files,
    is_at_work,
    is_readable,
    opened,
    rewritten_rows,
    touched_files,
)
from pattern_platform.lake.statistics import delta_stats, footer_statistics
from pattern_platform.lake.whole_file import replace_whole

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pattern_platform.lake.log_scrub import Action
    from pattern_platform.lake.rewrite import Rewrite
    from pattern_platform.lake.snapshot import Snapshot

History = dict[str, "Mapping[str, str | None] | None"]


@dataclass(frozen=True)
class RewrittenHistory:
    """What was rewritten in place.

    Args:
        rows: Rows of the newest version, of an append-only table.
        files: Data files that held such rows.
        log_files: Files of the log that kept something of them.
    """

    rows: int
    files: frozenset[str]
    log_files: int


def rewrite_history(snapshot: Snapshot, rewrite: Rewrite, *, append_only: bool) -> RewrittenHistory | None:
    """Rewrite the files that are not live, and the log; None where the table moved on meanwhile.

    Of an append-only table the live files are rewritten so too: nobody removes them meanwhile.
    """
    table, new, read = snapshot.table, dict[LakePath, LakePath](), dict[LakePath, tuple[int | str, int] | None]()
    live = set() if append_only else {*snapshot.files["path"]}
    with unsealed(table):
        try:
            rows = sum(touched_files(snapshot, rewrite).values()) if append_only else 0
            history = history_of(snapshot, rewrite, live=live)
            for path, values in history.items():
                if values is not None:
                    file = table / path
                    read[file] = _identity(file)
                    new[file] = file.with_name(f".{uuid4().hex}")
                    rewritten_rows(snapshot, path, values, rewrite).sink_parquet(
                        str(new[file]), compression="zstd", storage_options=storage_options(table)
                    )
            with table_lock(table):
                # Another rewrite in place makes no version: what was read for this one must still be there.
                if opened(table).version != snapshot.version or any(_identity(f) != read[f] for f in new):
                    return None
                for file, unfinished in new.items():
                    replace_whole(file, unfinished)
                kept = kept_in_log(table, rewrite)
                edit_log(table, partial(_edited, table=table, rewrite=rewrite, replaced=history))
                remove_files(table, [path for path, values in history.items() if values is None])
                _remove_folders(table, rewrite)
        finally:
            for unfinished in new.values():
                unfinished.unlink(missing_ok=True)
    return RewrittenHistory(rows, frozenset(history), kept)


def _identity(file: LakePath) -> tuple[int | str, int] | None:
    """Inode (or a store's tag) and time of a file; None once a vacuum has removed it."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def history_of(snapshot: Snapshot, rewrite: Rewrite, *, live: Collection[str]) -> History:
    """The files on disk that hold touched rows and are not live, with their partition values; None to remove them."""
    named = named_files(snapshot.table)
    found: History = {}
    for path in data_files(snapshot.table):
        file = snapshot.table / path
        with suppress(FileNotFoundError):  # a vacuum has removed it just now, or the run that gave up
            if path in live:
                continue
            if rewrite.is_gone(path):
                found[path] = None
            elif not is_readable(file) or file.name.startswith("."):
                # No version can be read with it, or a rewrite left it; but a run may be writing it just now.
                if not is_at_work(file):
                    found[path] = None
            elif count_touched(snapshot, path, named.get(path, {}), rewrite):
                found[path] = named.get(path)
    return found


def kept_in_log(table: LakePath, rewrite: Rewrite) -> int:
    """How many files of the log keep something of touched rows."""
    return sum(any(rewrite.scrubbed(a, table) != a for a in read_actions(file)) for file in log_files(table))


def _edited(action: Action, table: LakePath, rewrite: Rewrite, replaced: Collection[str]) -> Action | None:
    """An action with the size that its file has now, and without what it keeps of touched rows."""
    if "add" in action:
        action = {"add": _in_line(action["add"], table, replaced)}
    return rewrite.scrubbed(action, table)


def _in_line(add: dict[str, Any], table: LakePath, replaced: Collection[str]) -> dict[str, Any]:
    path = unquote(add["path"])
    file = table / path
    # Those that a rewrite replaced before it was killed are known by their sizes.
    is_new = file.exists() and (path in replaced or file.stat().st_size != add["size"])
    if not is_new or not is_readable(file):
        return add
    stats = delta_stats(*footer_statistics(file, scan_file(file).collect_schema()))
    parsed = {"stats_parsed": None} if "stats_parsed" in add else {}
    return {**add, "size": file.stat().st_size, "stats": stats, **parsed}


def _remove_folders(table: LakePath, rewrite: Rewrite) -> None:
    """Remove the folders of partitions that are gone."""
    for name in reversed(folders_below(table)):
        folder = Path(f"{table}/{name}")
        if rewrite.is_gone(name) and not any(folder.iterdir()):
            folder.rmdir()
