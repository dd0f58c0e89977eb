"""The namespaces of a data folder: made, listed and dropped."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pattern_platform.errors import NamespaceInUseError, ProtectedNamespaceError
from pattern_platform.operations.namespaces.folders import (
    PARTS,
    Mark,
    alone,
    appearing,
    disappear,
    mark_of,
    marked,
    refuse_unknown,
    sweep,
    write_mark,
)
from pattern_platform.operations.namespaces.use import users_of
from pattern_platform.orchestration.namespace import MAIN, Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Standing:
    """A namespace as it is on the disk.

    Args:
        namespace: Which.
        mark: What its folder says; ``main`` needs none.
        tables: Number of Delta tables.
        size: Bytes of its files.
        shared: Bytes among them that another namespace holds too, by hard links.
        last_write: When a file of it was written last, in UTC; None without files.
    """

    namespace: Namespace
    mark: Mark | None
    tables: int
    size: int
    shared: int
    last_write: datetime | None


def opened(namespace: Namespace, branch: str | None) -> Mark | None:
    """The mark of a namespace, whose folder is made and marked where it is not; ``main`` needs none.

    Args:
        namespace: Which.
        branch: The git branch that it belongs to.
    """
    if namespace.name == MAIN:
        return None
    if (mark := mark_of(namespace)) is None:
        mark = Mark(namespace.name, namespace.kind, branch)
        write_mark(namespace.root, mark)
    return mark


def create(namespace: Namespace, branch: str | None = None) -> Mark:
    """Make an empty namespace.

    Args:
        namespace: Which.
        branch: The git branch that it is for.

    Raises:
        NamespaceExistsError: There is something under its name.
        NamespaceInUseError: Another command is at work.
    """
    mark = Mark(namespace.name, namespace.kind, branch)
    with appearing(namespace) as folder:
        write_mark(folder, mark)
    return mark


def standings(data: Path) -> list[Standing]:
    """All namespaces of a data folder, ``main`` first. What killed commands left is removed.

    Args:
        data: Folder of landed files and of all namespaces.
    """
    with suppress(NamespaceInUseError), alone(data):  # what looks like a leftover may be another command's work
        sweep(data)
    main = Namespace(MAIN, data)
    return [_standing(main, None), *(_standing(n, mark_of(n)) for n in marked(data))]


def drop(namespace: Namespace) -> None:
    """Delete a namespace with all that it keeps.

    Args:
        namespace: Which.

    Raises:
        ProtectedNamespaceError: It serves others.
        UnknownNamespaceError: There is none of this name, or its folder is not marked.
        NamespaceInUseError: Runs or writers are at work in it, or another command is.
    """
    if namespace.kind == "serving":
        raise ProtectedNamespaceError(
            f"dropping namespace {namespace.name!r} was refused",
            why="it serves others: main, master, and the branches of releases do",
            mend="drop another one; a release that nobody reads any more is removed by hand",
        )
    with alone(namespace.data):
        sweep(namespace.data)
        refuse_unknown(namespace)
        if users := users_of(namespace):
            raise NamespaceInUseError(
                f"dropping namespace {namespace.name!r} was refused",
                why=f"it is in use: {'; '.join(users)}",
                mend="let the runs end, or cancel them; stop its Dagster and whatever reads its DuckDB files; "
                "then drop it again",
            )
        disappear(namespace)


def _tables_below(folder: Path) -> Iterator[Path]:
    """The Delta tables below a folder; links are not followed."""
    for path, folders, _ in os.walk(folder):
        if "_delta_log" in folders:
            folders.clear()
            yield Path(path)
        folders.sort()


def _standing(namespace: Namespace, mark: Mark | None) -> Standing:
    tables, size, shared, newest = 0, 0, 0, 0.0
    tables = sum(1 for _ in _tables_below(namespace.root / "lake"))
    for folder in (*(namespace.root / part for part in PARTS), namespace.dagster_home):
        for path, _, files in os.walk(folder):
            for name in files:
                found = os.lstat(os.path.join(path, name))  # noqa: PTH118 - as os.walk has it
                size += found.st_size
                shared += found.st_size if found.st_nlink > 1 else 0
                newest = max(newest, found.st_mtime)
    last_write = datetime.fromtimestamp(newest, UTC) if newest else None
    return Standing(namespace, mark, tables, size, shared, last_write)
