"""A namespace made as a shallow clone of another one: its tables at their versions, and none of its bytes.

The data files of Delta tables never change, so the clone has a second name for each (a hard link) and a log of its own.
What one namespace writes, merges or vacuums adds and removes names of its own; the bytes go with the last name. So
an erasure of rows reaches one namespace, and is repeated in every clone that has them. Where links are not possible,
bytes are copied. DuckDB files, exports and what else changes in place are always copied. Paths that they keep (views
over files, the registry of versions, manifests) are moved to the clone.

Locks, files that no version names and logs stay. So do the runs, unless they are asked for: then no partition is known
to the Dagster of the clone until it is materialized there. Its rows can be read at once, by a run that is launched for
what is downstream; automation and self-dependencies, which ask Dagster and not the tables, wait or begin anew.

Each table is whole. Two tables that are written meanwhile may be of different moments, as they are for any reader;
DuckDB files come first, so that what their registries name is there.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pattern_platform.errors import NamespaceInUseError, UnsupportedTableError
from pattern_platform.lake.lock import table_lock
from pattern_platform.lake.maintenance import orphans
from pattern_platform.lake.snapshot import open_table
from pattern_platform.operations.namespaces.databases import Move, copy_database, move_paths
from pattern_platform.operations.namespaces.folders import Mark, appearing, refuse_unknown, write_mark
from pattern_platform.operations.namespaces.runs import copy_runs

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pattern_platform.orchestration.namespace import Namespace

_TAKEN = ("lake", "exports", "archive", "erasures")  # besides DuckDB files
_OF_RUNS = ("steps",)  # which only a retry of their run goes on from
_LOG, _MANIFEST, _LOCK_SUFFIX = "_delta_log", "_symlink_format_manifest", ".lock"
_NOT_LINKED = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True)
class Taken:
    """How much a clone took, and how.

    Args:
        linked: Files that got a second name.
        linked_bytes: Their bytes, which no disk holds twice.
        copied: Files that were copied.
        copied_bytes: Their bytes.
    """

    linked: int
    linked_bytes: int
    copied: int
    copied_bytes: int

    @classmethod
    def of(cls, folder: Path) -> Taken:
        """Count the files of a clone."""
        found = [path.lstat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        linked = [file.st_size for file in found if file.st_nlink > 1]
        copied = [file.st_size for file in found if file.st_nlink == 1]
        return cls(len(linked), sum(linked), len(copied), sum(copied))


def clone(
    source: Namespace, target: Namespace, *, branch: str | None = None, copy: bool = False, with_runs: bool = False
) -> tuple[Mark, Taken]:
    """Make a namespace that holds what another one holds now.

    Args:
        source: The other one.
        target: The one that is made.
        branch: The git branch that it is for.
        copy: Whether the bytes of tables are copied too.
        with_runs: Whether its Dagster begins with the runs of the other one.

    Returns:
        Its mark, with the version of each table, and what was linked and copied.

    Raises:
        UnknownNamespaceError: There is no such source.
        NamespaceExistsError: There is something under the name of the target.
        NamespaceInUseError: Another command is at work, files went at this moment, or runs that were asked for are
            under way.
        UnsupportedStorageError: Runs were asked for that are not in SQLite files.
        UnsupportedTableError: A table, a link or a registry leads out of the source.
        DatabaseLockedError, TableLockedError: Someone held a file of the source for too long.
    """
    refuse_unknown(source)
    move = Move(source.root.absolute(), target.root.absolute())
    with appearing(target) as folder:
        if with_runs:  # before the tables: what a run says that it wrote is there
            copy_runs(source.dagster_home, folder / "dagster_home")
        cloning = _Cloning(move, copy)
        warehouse = folder / "warehouse"
        warehouse.mkdir()
        files = sorted((source.root / "warehouse").glob("*.duckdb"))
        with_paths = [file.name for file in files if copy_database(file, warehouse / file.name, move)]
        try:
            for part in (*_TAKEN, *_OF_RUNS) if with_runs else _TAKEN:
                if (source.root / part).is_dir():
                    cloning.tree(move.source / part, folder / part)
        except FileNotFoundError as error:
            raise NamespaceInUseError(
                f"a clone of namespace {source.name!r} was given up",
                why="files of it were removed at this moment, by a retention or by another engine",
                mend="try again",
            ) from error
        about = {
            "namespace": source.name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "tables": dict(sorted(cloning.versions.items())),
        }
        mark = Mark(target.name, target.kind, branch, cloned_from=about)
        taken = Taken.of(folder)
        write_mark(folder, mark)
        # DuckDB makes no view over files that are not there: for this moment the clone has its name by a link.
        target.root.symlink_to(folder.name)
        for name in with_paths:
            move_paths(warehouse / name, move)
    return mark, taken


@dataclass
class _Cloning:
    """The work on the files of one clone.

    Args:
        move: From the namespace to the clone.
        copy: Whether the bytes of tables are copied.
        versions: The version of each table, by its path below the lake.
    """

    move: Move
    copy: bool
    versions: dict[str, int] = field(default_factory=dict)

    def tree(self, source: Path, target: Path) -> None:
        """Take a folder, of which parts may be tables.

        Raises:
            UnsupportedTableError: As of :func:`clone`.
        """
        target.mkdir()
        with _held(source):
            if (source / _LOG).is_dir():
                self._table(source, target)
            else:
                self._folder(source, target)
        shutil.copystat(source, target)  # also that a table is read-only

    def _folder(self, source: Path, target: Path) -> None:
        """Take what is in a folder. What is hidden is unfinished, unless a link beside it shows it."""
        entries = sorted(source.iterdir())
        links = {entry.name: self._link(entry) for entry in entries if entry.is_symlink()}
        for entry in entries:
            if entry.name in links:
                (target / entry.name).symlink_to(links[entry.name])
            elif entry.name.startswith(".") and entry.name not in links.values():
                continue
            elif entry.is_dir():
                self.tree(entry, target / entry.name)
            else:
                self._file(entry, target / entry.name)

    def _table(self, source: Path, target: Path) -> None:
        """Take a table at its newest version: first its log, then the files, which are written before a log names them.

        Raises:
            UnsupportedTableError: It needs files that are not in its folder.
        """
        shutil.copytree(source / _LOG, target / _LOG, ignore=_unfinished)
        for entry in sorted(source.iterdir()):
            if entry.name == _LOG or entry.name.startswith("."):
                continue
            if entry.is_dir():
                self.tree(entry, target / entry.name)  # of a physical partition
            else:
                self._file(entry, target / entry.name)
        snapshot = open_table(target)
        if snapshot is None:
            return
        for orphan in orphans(target, older_than=timedelta())["path"]:
            (target / orphan).unlink()
        name = source.relative_to(self.move.source / "lake").as_posix()
        if lost := [path for path in snapshot.files["path"] if not _is_below(target, path)]:
            raise UnsupportedTableError(
                f"a clone of table {name!r} was refused",
                why=f"its log names {len(lost)} file(s) that are not in its folder",
                mend="let the engine that made it copy it whole, so that it needs no files of others; then clone again",
            )
        self.versions[name] = snapshot.version

    def _file(self, source: Path, target: Path) -> None:
        """Take a file: a data file of a table by a second name where that is possible, any other as a copy."""
        if source.suffix == _LOCK_SUFFIX:
            return
        if source.parent.name == _MANIFEST:
            paths = (self.move.path(line, of=str(source)) for line in source.read_text().splitlines())
            target.write_text("".join(f"{path}\n" for path in paths))
        elif self.copy or not self._is_data(source) or not _linked(source, target):
            shutil.copy2(source, target)

    def _is_data(self, file: Path) -> bool:
        """Whether it is a file that nobody changes: of a Delta table, not of an export."""
        return file.suffix == ".parquet" and file.is_relative_to(self.move.source / "lake")

    def _link(self, link: Path) -> str:
        """What a link names, beside itself.

        Raises:
            UnsupportedTableError: It leads elsewhere.
        """
        named = os.fspath(link.readlink())
        if Path(named).name != named:
            raise UnsupportedTableError(
                f"a clone of {link.relative_to(self.move.source)} was refused",
                why="it is a link that leads out of its folder, and both namespaces would write to what it names",
                mend="put the folder in the place of the link, or mount it there; then clone again",
            )
        return named


def _linked(source: Path, target: Path) -> bool:
    """Give a file a second name; False where the file system does not."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NOT_LINKED:
            raise
        return False
    return True


def _held(folder: Path) -> AbstractContextManager[None]:
    """The lock of a folder whose writers take one: it has been taken before. What is read-only has no writers."""
    return table_lock(folder) if os.access(folder / "_commit.lock", os.W_OK) else nullcontext()


def _unfinished(_: str, names: list[str]) -> list[str]:
    """What writers of a log leave when they are killed."""
    return [name for name in names if name.startswith(".") or name.endswith(".tmp") or "#" in name]


def _is_below(table: Path, path: str) -> bool:
    """Whether a file of a log is there, in the folder of its table."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts and (table / path).is_file()
