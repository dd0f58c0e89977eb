"""The runs of a namespace in its clone: what its Dagster knows, copied from SQLite file to SQLite file."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from pattern_platform.errors import NamespaceInUseError, UnsupportedStorageError
from pattern_platform.operations.namespaces.use import unfinished_runs

if TYPE_CHECKING:
    from pathlib import Path


def copy_runs(source: Path, target: Path) -> None:
    """Copy an instance of Dagster: its settings, runs, events, and what its sensors and schedules remember.

    Output that steps printed stays.

    Args:
        source: Folder of the instance.
        target: Folder of the new one.

    Raises:
        UnsupportedStorageError: It keeps its runs elsewhere, or there are none.
        NamespaceInUseError: Runs are under way: the new one would never see their end.
    """
    databases = sorted(source.rglob("*.db"))
    if not databases:
        raise UnsupportedStorageError(
            f"a copy of the runs of {source} was refused",
            why="they are not in SQLite files there: none ran, or its dagster.yaml names a server",
            mend="leave --with-runs out",
        )
    for file in databases:
        copied = target / file.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file)) as before, closing(sqlite3.connect(copied)) as after:
            before.backup(after)
    if (source / "dagster.yaml").exists():
        shutil.copy2(source / "dagster.yaml", target)
    if under_way := unfinished_runs(target):  # asked of the copy, which no run reaches any more
        raise NamespaceInUseError(
            f"a copy of the runs of {source} was refused",
            why=f"run {under_way[0][0]} is {under_way[0][1]}, and the copy would never see its end",
            mend="wait for the runs or cancel them, then try again; or leave --with-runs out",
        )
