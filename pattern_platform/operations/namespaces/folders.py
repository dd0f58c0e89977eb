"""The folders of namespaces: how each is marked, appears whole and goes at once.

Each has a mark, ``namespace.json``, so that no other folder is taken for one. A namespace is made as
``.creating-<name>`` and renamed; it is renamed to ``.dropped-<name>`` and deleted. What a command that was killed left
of either is removed by the next one.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import filelock

from pattern_platform.errors import (
    InvalidNamespaceError,
    NamespaceExistsError,
    NamespaceInUseError,
    UnknownNamespaceError,
)
from pattern_platform.lake.whole_file import whole_file
from pattern_platform.orchestration.namespace import MAIN, NAMESPACES, Namespace

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

PARTS = ("lake", "warehouse", "exports", "steps", "archive", "logs")  # folders below the root of a namespace
_MARK = "namespace.json"
_LOCK = ".namespaces.lock"
_CREATING, _DROPPED = ".creating-", ".dropped-"


@dataclass(frozen=True)
class Mark:
    """What a namespace is, as its folder says.

    Args:
        name: Its name.
        kind: What it is for.
        branch: The git branch that it was made for; None where that is not known.
        created_at: When, in UTC.
        cloned_from: The namespace that it was cloned from, when, and the version that each table had; None where it
            began empty.
    """

    name: str
    kind: str
    branch: str | None
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    cloned_from: dict[str, Any] | None = None


@contextmanager
def appearing(namespace: Namespace) -> Generator[Path]:
    """A folder to fill, which becomes that of a namespace at the end; an error before leaves nothing.

    Args:
        namespace: The namespace that is made.

    Raises:
        NamespaceExistsError: There is something under its name.
        NamespaceInUseError: Another command is at work.
    """
    with alone(namespace.data):
        sweep(namespace.data)
        if namespace.name == MAIN or os.path.lexists(namespace.root):
            raise NamespaceExistsError(
                f"a new namespace {namespace.name!r} was refused",
                why="there is one of this name" if _is_known(namespace) else f"{namespace.root} is something else",
                mend="choose another name"
                if namespace.name == MAIN
                else f"choose another name, or drop it first: pattern-platform namespace drop {namespace.name}"
                if _is_known(namespace)
                else "choose another name, or move it away",
            )
        folder = namespace.root.with_name(f"{_CREATING}{namespace.name}")
        folder.mkdir()
        try:
            yield folder
            if namespace.root.is_symlink():  # by which its views were bound, see `clone`
                namespace.root.unlink()
            folder.rename(namespace.root)
        except BaseException:
            # BaseException: an interrupt leaves nothing half made either.
            sweep(namespace.data)
            raise


def refuse_unknown(namespace: Namespace) -> None:
    """Refuse what is no namespace.

    Raises:
        UnknownNamespaceError: Nothing has its name, or a folder that is not marked.
    """
    if not _is_known(namespace):
        others = ", ".join([MAIN, *(n.name for n in marked(namespace.data))])
        raise UnknownNamespaceError(
            f"namespace {namespace.name!r} was refused",
            why=f"{namespace.root} has no {_MARK} that names it"
            if os.path.lexists(namespace.root)
            else "there is none of this name",
            mend=f"choose one of {others}; a folder that you know to be one is marked by "
            f"`PATTERN_PLATFORM_NAMESPACE={namespace.name} pattern-platform namespace current --make`",
        )


def mark_of(namespace: Namespace) -> Mark | None:
    """What a folder says of itself; None where it is no namespace, or names another one."""
    if namespace.root.is_symlink() or not (namespace.root / _MARK).is_file():
        return None
    try:
        mark = Mark(**json.loads((namespace.root / _MARK).read_text()))
    except (ValueError, TypeError):
        return None
    return mark if mark.name == namespace.name else None


def write_mark(folder: Path, mark: Mark) -> None:
    """Write the mark of a namespace into its folder."""
    with whole_file(folder / _MARK) as unfinished:
        unfinished.write_text(json.dumps(asdict(mark), indent=2))


def disappear(namespace: Namespace) -> None:
    """Take the name from a namespace, then delete what it kept."""
    going = namespace.root.with_name(f"{_DROPPED}{namespace.name}")
    namespace.root.rename(going)
    _remove(going)


def _remove(folder: Path) -> None:
    """Remove a folder whole, also folders of it that are read-only. Links are removed, never followed.

    Files keep their mode: by a hard link they may be another namespace's too.
    """
    for path, folders, _ in os.walk(folder):
        for name in folders:
            inner = os.path.join(path, name)  # noqa: PTH118 - as os.walk has it
            if not os.path.islink(inner):  # noqa: PTH114
                os.chmod(inner, stat.S_IRWXU)  # noqa: PTH101
    shutil.rmtree(folder)


def _is_known(namespace: Namespace) -> bool:
    return namespace.name == MAIN or mark_of(namespace) is not None


def marked(data: Path) -> list[Namespace]:
    """The namespaces of a data folder that are marked, by name."""
    found = []
    for path in sorted((data / NAMESPACES).glob(f"*/{_MARK}")):
        with suppress(InvalidNamespaceError):  # not one of ours, whatever it holds
            found.append(Namespace(path.parent.name, data))
    return [namespace for namespace in found if mark_of(namespace)]


@contextmanager
def alone(data: Path) -> Generator[None]:
    """One command at a time.

    Raises:
        NamespaceInUseError: Another one is at work.
    """
    folder = data / NAMESPACES
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / _LOCK, timeout=0)
    try:
        with lock:
            yield
    except filelock.Timeout as error:
        raise NamespaceInUseError(
            f"a change of the namespaces of {data} was refused",
            why="another command is making or dropping one",
            mend="wait until it is done, then try again",
        ) from error


def sweep(data: Path) -> None:
    """Remove what commands left that were killed, while nobody else is at work."""
    for entry in (data / NAMESPACES).iterdir():
        if entry.is_symlink() and str(entry.readlink()).startswith(_CREATING):
            entry.unlink()
        elif entry.name.startswith((_CREATING, _DROPPED)):
            _remove(entry)
