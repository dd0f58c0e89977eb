"""One writer at a time: a kernel file lock in the table's folder, so a killed process never leaves it locked.

An object store has no such locks. There the log itself arbitrates: a version is put only if nobody put it before.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import filelock

from pattern_platform.errors import TableLockedError
from pattern_platform.lake.object_path import ObjectPath

if TYPE_CHECKING:
    from collections.abc import Generator

    from pattern_platform.lake.object_path import LakePath

_LOCK_FILE = "_commit.lock"  # names that begin with an underscore are no data to any reader, nor to vacuum
_LOCK_SECONDS = 120.0


@contextmanager
def table_lock(table: LakePath) -> Generator[None]:
    """Hold the table's lock; nothing on an object store.

    Raises:
        TableLockedError: Another process kept it for two minutes; a commit takes milliseconds.
    """
    if isinstance(table, ObjectPath):
        yield
        return
    lock = filelock.FileLock(table / _LOCK_FILE, timeout=_LOCK_SECONDS)
    try:
        with lock:
            yield
    except filelock.Timeout as error:
        raise TableLockedError(
            f"the commit to table {table.name!r} was given up",
            why=f"another process has held its lock for {_LOCK_SECONDS:.0f} s",
            mend=f"see which process holds {table / _LOCK_FILE} (lsof), end it, and run again",
        ) from error
