"""Namespaces: where the tables and runs of a git branch are, so that two branches never touch.

``main`` lives in the data folder itself, every other namespace in ``namespaces/<name>`` below it; landed files are for
all. The name is made from the branch, and everything else from the name. Nothing here runs git.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pattern_platform.errors import InvalidNamespaceError

if TYPE_CHECKING:
    from pathlib import Path

MAIN = "main"
NAMESPACES = "namespaces"  # folder of all but main, below the data folder
LONGEST_NAME = 48  # a run's tag holds it, with 63 characters at most, and so does a folder
Kind = Literal["serving", "research", "end_to_end"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_HASH_DIGITS = 10
_HASHED = re.compile(rf".*-[0-9a-f]{{{_HASH_DIGITS}}}")
_REPLACED = re.compile(r"[^a-z0-9._]+")
_BRANCHES = "refs/heads/"
_NO_FILES = ".invalid"  # the branch that HEAD names where the refs are in a format without files (reftable)


@dataclass(frozen=True)
class Namespace:
    """Tables and runs of their own.

    Args:
        name: Of the folder, and of the tag of every run.
        data: Folder of landed files and of all namespaces.

    Raises:
        InvalidNamespaceError: The name is no folder name that stays inside, or too long.
    """

    name: str
    data: Path

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > LONGEST_NAME:
            raise InvalidNamespaceError(
                f"namespace {self.name!r} was refused",
                why=f"it is empty, longer than {LONGEST_NAME} characters, or no folder name",
                mend="use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit",
            )

    @property
    def kind(self) -> Kind:
        """What it is for: ``serving`` is read by others, ``end_to_end`` is of tests, all else is ``research``."""
        if self.name in (MAIN, "master") or self.name.startswith("release-"):
            return "serving"
        return "end_to_end" if self.name.startswith("e2e") else "research"

    @property
    def root(self) -> Path:
        """Folder of what it keeps: ``lake``, ``warehouse``, ``exports`` and so on."""
        return self.data if self.name == MAIN else self.data / NAMESPACES / self.name

    @property
    def dagster_home(self) -> Path:
        """Folder of its Dagster instance."""
        return self.data.parent / ".dagster_home" if self.name == MAIN else self.root / "dagster_home"


def namespace_of_branch(branch: str) -> str:
    """The name of a branch's namespace: the branch, where that is a folder name on every system.

    Otherwise what is in the way is replaced, and a hash of the branch keeps the name apart from all others.

    Args:
        branch: Name of the branch, such as ``feature/sessions``.

    Raises:
        InvalidNamespaceError: It is empty.
    """
    if not branch:
        raise InvalidNamespaceError(
            "a namespace for a branch without name was refused",
            why="the name of a namespace is made from it",
            mend="name the branch, or leave it out",
        )
    if _NAME.fullmatch(branch) and len(branch) <= LONGEST_NAME and not _HASHED.fullmatch(branch):
        return branch
    readable = _REPLACED.sub("-", branch.lower()).strip("-._")[: LONGEST_NAME - _HASH_DIGITS - 1]
    digest = hashlib.sha256(branch.encode()).hexdigest()[:_HASH_DIGITS]
    return f"{readable or 'branch'}-{digest}"


def current_branch(checkout: Path) -> str | None:
    """The branch that is checked out; None on no branch, or where there is no checkout.

    Args:
        checkout: Its top folder.
    """
    git = _git_folder(checkout)
    if git is None or not (git / "HEAD").is_file():
        return None
    reference = (git / "HEAD").read_text().strip().removeprefix("ref:").strip()
    branch = reference.removeprefix(_BRANCHES)
    return None if branch in (reference, _NO_FILES) else branch


def local_branches(checkout: Path) -> set[str] | None:
    """The branches of a checkout, also the one that has no commit yet; None where they cannot be read.

    Args:
        checkout: Its top folder.
    """
    git = _git_folder(checkout)
    if git is None or not (git / "HEAD").is_file():
        return None
    shared = git / "commondir"  # of a worktree: the folder of the checkout that it was made from
    folder = git / shared.read_text().strip() if shared.is_file() else git
    if (folder / "reftable").is_dir():
        return None
    heads, packed = folder / "refs" / "heads", folder / "packed-refs"
    found = {file.relative_to(heads).as_posix() for file in heads.rglob("*") if file.is_file()}
    for line in packed.read_text().splitlines() if packed.is_file() else ():
        _, _, reference = line.partition(" ")
        if reference.startswith(_BRANCHES):
            found.add(reference.removeprefix(_BRANCHES))
    return {name for name in found if not name.endswith(".lock")} | {b for b in [current_branch(checkout)] if b}


def _git_folder(checkout: Path) -> Path | None:
    """The folder of git: ``.git`` itself, or where the file ``.git`` of a worktree or a submodule says."""
    git = checkout / ".git"
    if git.is_file():
        return checkout / git.read_text().strip().removeprefix("gitdir:").strip()
    return git if git.is_dir() else None
