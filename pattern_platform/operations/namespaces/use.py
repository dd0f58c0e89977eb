"""Who is at work in a namespace: runs of its Dagster, holders of its DuckDB files, writers of its tables."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import dagster as dg
import duckdb
import filelock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pattern_platform.orchestration.namespace import Namespace

_OVER = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
UNFINISHED = [status for status in dg.DagsterRunStatus if status not in _OVER]
_MOST_NAMED = 5
_HELD = "Could not set lock on file"  # what DuckDB says of a file that another process has open


def users_of(namespace: Namespace) -> list[str]:
    """Who is at work, each in words; nobody where the list is empty."""
    users = [f"run {run} is {status}" for run, status in unfinished_runs(namespace.dagster_home)]
    users += [f"{file.name} is open in another process" for file in _held_databases(namespace.root / "warehouse")]
    users += [f"a writer holds {lock.parent.name}" for lock in _held_locks(namespace.root)]
    return users


def unfinished_runs(dagster_home: Path) -> list[tuple[str, str]]:
    """The runs of an instance of Dagster that are not over, a few of them, each with its status.

    Args:
        dagster_home: Folder of the instance.
    """
    if not (dagster_home / "dagster.yaml").exists() and not (dagster_home / "history").exists():
        return []  # nothing ran here, and asking would make an instance
    before = os.environ.get("DAGSTER_HOME")
    os.environ["DAGSTER_HOME"] = str(dagster_home.absolute())
    try:
        with dg.DagsterInstance.get() as instance:  # the only public way to an instance that is configured
            records = instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED), limit=_MOST_NAMED)
    finally:
        if before is None:
            del os.environ["DAGSTER_HOME"]
        else:
            os.environ["DAGSTER_HOME"] = before
    return [(record.dagster_run.run_id, record.dagster_run.status.value) for record in records]


def _held_databases(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*.duckdb")):
        try:
            duckdb.connect(str(file), config={"custom_user_agent": "dagster"}).close()
        except duckdb.Error as error:
            if _HELD in str(error):
                yield file  # any other error is of a file that nobody can use


def _held_locks(root: Path) -> Iterator[Path]:
    for file in sorted(root.rglob("*.lock")):
        if not os.access(file, os.W_OK):
            continue  # of a table that is read-only
        try:
            with filelock.FileLock(file, timeout=0):
                pass
        except filelock.Timeout:
            yield file
