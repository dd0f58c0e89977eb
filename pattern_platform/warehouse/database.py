"""DuckDB files: connections as short as their statements, one transaction for what belongs together.

DuckDB lets one process hold a file at a time, and readers count. So nobody keeps a connection: whoever finds the file
taken waits, up to a limit. Inside a process one transaction at a time writes, and readers see the one before it.

DuckDB 2.0 reads the header of a file before it locks it, and never again: whoever opens a file while another process
closes it may work on what was there before the other's last checkpoint, and write that back. So the processes of the
platform open and close a file one at a time, by a lock file beside it. Other programs know no such lock: they may read
a file, best read-only, and are not to write to it while the platform does.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import filelock

from pattern_platform.errors import DatabaseLockedError, UnsupportedStorageError
from pattern_platform.lake.whole_file import whole_file

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

WAIT_SECONDS = 120.0
_PAUSE_SECONDS = 0.05
_NEW = "pattern_platform_new"
# By another process; in this one, set up otherwise, or by a thread that is closing it.
_TAKEN = ("Could not set lock on file", "different configuration", "Unique file handle conflict")
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "custom_user_agent": "dagster"
}  # as of DuckDBResource: within a process a file has one configuration

_turns: dict[Path, threading.Lock] = {}


@contextmanager
def connected(database: str, *, read_only: bool = False) -> Generator[duckdb.DuckDBPyConnection]:
    """Hold a database for some statements; times come back in UTC.

    Args:
        database: Path of the file; it is made where there is none, with its folder.
        read_only: Whether the statements read alone, for who may not write to the file.

    Raises:
        DatabaseLockedError: Someone else held it for longer than the limit.
        UnsupportedStorageError: The database is not a file.
    """
    path = path_of(database)
    connection = _opened(path, read_only=read_only)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        try:
            with _gate(path, read_only=read_only):
                connection.close()  # what was not committed is rolled back
        finally:
            connection.close()  # also where the gate could not be had


@contextmanager
def transaction(database: str) -> Generator[duckdb.DuckDBPyConnection]:
    """Do all of it or nothing: commit at the end, and leave the database as it was where an error comes before.

    Args:
        database: As of :func:`connected`.

    Raises:
        DatabaseLockedError: As of :func:`connected`, or because of another thread.
        UnsupportedStorageError: As of :func:`connected`.
    """
    with _turn(path_of(database)), connected(database) as connection:
        connection.begin()
        yield connection
        connection.commit()


@contextmanager
def rewritten(database: str) -> Generator[tuple[duckdb.DuckDBPyConnection, str]]:
    """Put a new file in the place of a database: what was deleted stays in the blocks of the old one.

    Both are held meanwhile, so nobody writes to the old one. An error before the end leaves it as it was.

    Args:
        database: As of :func:`connected`.

    Yields:
        A connection, and the name under which the new file is attached, which is empty.

    Raises:
        DatabaseLockedError: As of :func:`transaction`.
        UnsupportedStorageError: As of :func:`connected`.
    """
    path = path_of(database)
    with _turn(path), connected(database) as connection:
        connection.execute("CHECKPOINT")  # a log of the old file would be taken for one of the new
        with ExitStack() as gate, whole_file(path) as unfinished:
            escaped = str(unfinished).replace("'", "''")
            held = connection.execute("SELECT current_database()").fetchall()[0][0].replace('"', '""')
            connection.execute(f"ATTACH '{escaped}' AS {_NEW}")
            try:
                yield connection, _NEW
            finally:
                connection.execute(f'USE "{held}"; DETACH {_NEW}')  # the log of the new file is folded in
            shutil.copymode(path, unfinished)
            gate.enter_context(_gate(path))  # nobody opens it while it is replaced
        # Another program that opened the old file before that tries to lock it now, finds it taken, and opens the new.
        time.sleep(_PAUSE_SECONDS)


@contextmanager
def _turn(path: Path) -> Generator[None]:
    """One writer at a time inside this process."""
    turn = _turns.setdefault(path, threading.Lock())
    if not turn.acquire(timeout=WAIT_SECONDS):
        raise _locked(path, "another thread of this process writes to it")
    try:
        yield
    finally:
        turn.release()


def path_of(database: str) -> Path:
    """The file of a database.

    Raises:
        UnsupportedStorageError: It is in memory, where nothing outlives a statement, or at a server.
    """
    if not database or database.startswith((":memory:", "md:", "motherduck:")):
        raise UnsupportedStorageError(
            f"database {database!r} was refused",
            why="a connection is as short as its statements, and this is not a file",
            mend="give the path of a DuckDB file",
        )
    return Path(database).absolute()


def _opened(path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    if not path.exists():
        _make(path)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            with _gate(path, read_only=read_only):
                return duckdb.connect(str(path), read_only=read_only, config=_CONFIG)
        except duckdb.Error as error:
            if not any(reason in str(error) for reason in _TAKEN):
                raise
            if time.monotonic() > deadline:
                raise _locked(path, str(error).split("See also")[0].strip()) from error
        time.sleep(_PAUSE_SECONDS)


def _make(path: Path) -> None:
    """Make an empty database that appears whole: two processes may make it at once, and one may die meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _gate(path):
        if not path.exists():
            with whole_file(path) as unfinished:
                duckdb.connect(str(unfinished)).close()


def _gate(path: Path, *, read_only: bool = False) -> AbstractContextManager[object]:
    """What one process at a time passes: to make a file, to open it, to close it, to put another in its place.

    Who only reads leaves no file behind, and passes where there is no lock, or none that it may take.
    """
    file = path.with_name(f".{path.name}.lock")
    if read_only and not os.access(file, os.W_OK):
        return nullcontext()
    return _locked_gate(path, filelock.FileLock(file, is_singleton=True))  # who passes it already may do so again


@contextmanager
def _locked_gate(path: Path, lock: filelock.BaseFileLock) -> Generator[None]:
    try:
        lock.acquire(timeout=WAIT_SECONDS, poll_interval=0.01)
    except filelock.Timeout as error:
        raise _locked(path, f"another one has held {lock.lock_file} as long") from error
    try:
        yield
    finally:
        lock.release()


def _locked(path: Path, holder: str) -> DatabaseLockedError:
    return DatabaseLockedError(
        f"database {str(path)!r} was given up after {WAIT_SECONDS:g} s",
        why=f"one process holds a DuckDB file at a time, readers included: {holder}",
        mend="end that process, or let it open the file for its statements alone; then run again",
    )
