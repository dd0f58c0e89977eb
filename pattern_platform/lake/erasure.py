"""The right to be forgotten, for Delta tables: whatever wrote them, the versions that they keep, and their log.

Guarantee: afterwards no file below the table holds the person, and :func:`left_in_table` proves it from them. Every
version that could be read can still be read, under its number, without the rows of the person: a replay of a middle
partition does not bring them back, and a view of an older version shows the files that it showed. Erasing twice is
harmless; after a crash, run again.

Limits: what is being written meanwhile is not seen before its file is whole; a whole file that no version names yet is
removed, and its run fails, to be run again. A reader that opened an older version before must open it again: files have
other sizes. Copies elsewhere are not looked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pattern_platform.lake.files import scan_file
from pattern_platform.lake.log_scrub import log_files, read_actions, without_bounds
from pattern_platform.lake.object_path import files_below, folders_below
from pattern_platform.lake.rewrite import data_files, is_readable, opened
from pattern_platform.lake.rewrite_table import find, rewrite_everywhere
from pattern_platform.lake.subject import TEXT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import polars as pl

    from pattern_platform.lake.log_scrub import Action
    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.rewrite_table import Rewritten
    from pattern_platform.lake.subject import Subject

_ABOUT_THE_COMMAND = ("operationParameters", "userMetadata")  # of a commit: what was asked for, which no reader needs


@dataclass(frozen=True)
class TableErasure:
    """What was, or would be, erased from a table.

    Versions keep their numbers and files of older versions their paths: what a registry, a view or a version table says
    of them stays true, but for their numbers of rows. (An erased file of the newest version gets another path.)

    Args:
        table: Directory of the table.
        rows: Rows of the newest version that are erased.
        versions: The versions that were committed; none for a dry run, for an append-only table, and where only older
            versions held the person.
        files: Data files that held the person, of any version or of none; none of them is on disk any more.
        log_files: Files of the log that held it.
    """

    table: LakePath
    rows: int
    versions: Sequence[int]
    files: int
    log_files: int


def find_in_table(table: LakePath, subject: Subject) -> TableErasure:
    """A dry run: what :func:`erase_from_table` would do. Writes nothing, and raises the same refusals."""
    return _told(table, find(table, _Erasure(subject)))


def erase_from_table(table: LakePath, subject: Subject, *, metadata: Mapping[str, object]) -> TableErasure:
    """Erase a person from every version of a table, and from its log.

    Args:
        table: Directory of the table.
        subject: Who.
        metadata: Kept in the commit, such as the number of a receipt; never the key.

    Raises:
        MissingTableError: There is no table.
        UnsupportedTableError: The platform does not write such tables, or cannot rewrite their files.
        InvalidErasureError: A file of the newest version cannot be read.
        UnreadableLogError: The log is damaged.
        CommitConflictError: Other writers won every race.
    """
    recorded = {**metadata, "pattern": "erasure", "phase": "erasure"}
    return _told(table, rewrite_everywhere(table, _Erasure(subject), metadata=recorded))


def left_in_table(table: LakePath, subject: Subject) -> list[str]:
    """The files and folders below a table that mention a person, or cannot be read; none where it is clean.

    It reads the files, not the log: live or not, orphans, checkpoints, commits and what else is there.

    Args:
        table: Directory of the table.
        subject: Who.

    Returns:
        Paths below the table.
    """
    opened(table)
    erasure, data, log = _Erasure(subject), set(data_files(table)), set(log_files(table))
    left = []
    for name in [*folders_below(table), *files_below(table)]:
        path = table / name
        if name.endswith("/"):
            held = erasure.is_gone(name)
        elif name in data:
            held = erasure.is_gone(name) or not is_readable(path) or _mentions(path, subject)
        elif path in log:
            held = any(_keeps(action, erasure, table) for action in read_actions(path))
        else:
            held = erasure.is_said_in(path.read_bytes().decode(errors="replace"))
        left += [name.rstrip("/")] if held else []
    return sorted(left)


def _told(table: LakePath, done: Rewritten) -> TableErasure:
    versions = [made.version for made in done.commits]
    return TableErasure(table, done.rows, versions, len(done.files), done.log_files)


@dataclass(frozen=True)
class _Erasure:
    """The rewrite that leaves a person out."""

    subject: Subject

    def touched(self, schema: pl.Schema) -> pl.Expr:
        return self.subject.in_row(schema)

    def rewritten(self, rows: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
        return rows.filter(~self.subject.in_row(schema))

    def is_gone(self, path: str) -> bool:
        folders = (unquote(folder).partition("=") for folder in path.split("/")[:-1])
        return any(name in self.subject.columns and value == self.subject.key for name, _, value in folders)

    def scrubbed(self, action: Action, table: LakePath) -> Action | None:  # noqa: ARG002 - by the path alone
        kind, body = next(iter(action.items()))
        if kind == "commitInfo":
            return {kind: {k: v for k, v in body.items() if k not in _ABOUT_THE_COMMAND or not self.is_said_in(v)}}
        if kind not in ("add", "remove"):
            return action
        values = body.get("partitionValues") or {}
        if self.is_gone(unquote(body["path"])) or any(values.get(c) == self.subject.key for c in self.subject.columns):
            return None
        if not body.get("stats"):
            return action
        stats = without_bounds(body["stats"], self._is_bound)
        parsed = {"stats_parsed": None} if "stats_parsed" in body and stats != body["stats"] else {}
        return {kind: {**body, "stats": stats, **parsed}}

    def is_said_in(self, value: Any) -> bool:  # noqa: ANN401 - a JSON value
        """Whether a text in it says the key."""
        return any(self.subject.is_said_in(text) for text in _texts(value))

    def _is_bound(self, place: Sequence[str], bound: object) -> bool:
        """Whether a bound is the key: whole, in a text, or cut short as engines do with a long text."""
        key = self.subject.key
        if not isinstance(bound, str):
            return str(bound) == key and not set(place).isdisjoint(self.subject.columns)
        in_line = place[-1] in TEXT_COLUMNS and self.subject.is_word_of(bound)  # a line cut short is no JSON any more
        return in_line or self.subject.is_said_in(bound) or self._is_cut_in(bound)

    def _is_cut_in(self, bound: str) -> bool:
        """Whether a text ends within the key: engines cut bounds short, and raise or append a last character."""
        key = self.subject.key
        start = key[: min(_TELLING, max(_TELLING // 2, len(key) // 2))]  # less of it may be anybody's
        place = bound.find(start)
        tail = bound[place:]
        return place >= 0 and len(bound) >= _TELLING and len(tail) < len(key) and key.startswith(tail[:-1])


_TELLING = 31  # characters: engines cut after 32 at the earliest


def _mentions(file: LakePath, subject: Subject) -> bool:
    rows = scan_file(file)
    mentioned = subject.mentioned(rows.collect_schema())
    return bool(rows.select(mentioned.any()).collect(engine="streaming").item())


def _keeps(action: Action, erasure: _Erasure, table: LakePath) -> bool:
    if erasure.scrubbed(action, table) != action:
        return True
    return not {"add", "remove"} & action.keys() and erasure.is_said_in(action)


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - a JSON value
    """The texts in a JSON value, at any depth; not the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for element in value.values() if isinstance(value, dict) else value:
            yield from _texts(element)
