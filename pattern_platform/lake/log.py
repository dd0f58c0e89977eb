"""The files of a table's log, and what may be wrong with them after a power loss or by hand."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from deltalake.exceptions import DeltaError, TableNotFoundError

from pattern_platform.errors import TornCommitError, UnreadableLogError

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from pattern_platform.lake.object_path import AnyLakePath, LakePath

_DIGITS = 20  # of a version in a file's name
_OF_THE_SYSTEM = "(os error "  # with its number, in what an engine says of a read that failed


def commit_path(table: AnyLakePath, version: int) -> AnyLakePath:
    """The file of the log that makes a version."""
    return cast("AnyLakePath", table / "_delta_log" / f"{version:0{_DIGITS}}.json")


def commit_file(table: LakePath, version: int) -> tuple[int | str, int] | None:
    """Identity of a commit file, inode or a store's tag, and time; None once it was cleaned up."""
    try:
        written = commit_path(table, version).stat()
    except FileNotFoundError:
        return None
    if not written.st_size:
        raise TornCommitError(
            f"table {table.name!r} was refused",
            why=f"commit {version} is an empty file, as a power loss leaves it; going on would hide that it is lost",
            mend=f"remove _delta_log/{version:020}.json of the table, then materialize the partition again",
        )
    return written.st_ino, written.st_mtime_ns


def refuse_torn(table: LakePath, after: int, to: int) -> None:
    """Refuse empty commits: an engine reads on over them, and what they brought is silently gone."""
    for version in range(after + 1, to + 1) if isinstance(table, Path) else ():  # an object is put whole or not at all
        commit_file(table, version)


@contextmanager
def readable(table: LakePath) -> Generator[None]:
    """Name the table and the remedy where an engine finds its log damaged.

    An error of the operating system says nothing of what is in the log: it passes as it is, and a retry may help.

    Raises:
        UnreadableLogError: In place of the engine's error.
    """
    try:
        yield
    except TableNotFoundError:
        raise
    except DeltaError as error:
        if _OF_THE_SYSTEM in str(error):
            raise
        raise UnreadableLogError(
            f"table {table.name!r} was refused",
            why="its log is damaged: a commit is cut or missing, or a checkpoint is",
            mend=f"see the error below this one; bring {table.name}/_delta_log back from a backup, or remove the last "
            "commit where it is cut, and materialize its partition again",
        ) from error


def checkpoint_version(table: LakePath) -> int:
    """The version from which a log is read; -1 where that is its beginning."""
    try:
        return int(json.loads((table / "_delta_log" / "_last_checkpoint").read_bytes())["version"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return -1  # engines do without it, and so does this check


def is_in_log(version: int, names: Collection[str]) -> bool:
    """Whether a version can be read from a log: all commits up to it are there, or those after a checkpoint.

    Args:
        version: The version.
        names: The names of the files of the log.
    """
    checkpoints = [int(name[:_DIGITS]) for name in names if ".checkpoint." in name and name[:_DIGITS].isdecimal()]
    start = max((checkpoint + 1 for checkpoint in checkpoints if checkpoint <= version), default=0)
    return version >= 0 and all(f"{commit:0{_DIGITS}}.json" in names for commit in range(start, version + 1))
