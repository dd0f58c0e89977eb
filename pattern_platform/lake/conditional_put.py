"""Whether an object store keeps "only if absent", by which commits are told apart."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING
from uuid import uuid4

from pattern_platform.errors import StorageAccessError, UnsupportedStorageError
from pattern_platform.lake.object_path import ObjectPath

if TYPE_CHECKING:
    from pattern_platform.lake.object_path import LakePath


def refuse_unconditional(path: LakePath) -> None:
    """Refuse a store that ignores "only if absent": two writers would both be told that they made a version.

    It is tried once a process, with an object that is removed again: a store that ignores the header says nothing.

    Args:
        path: A table; it is tried beside it, for a policy may allow no more than the folder of the tables.

    Raises:
        UnsupportedStorageError: The store overwrote an object that it was asked to leave.
        StorageAccessError: The store cannot be reached, or nothing may be written there.
    """
    if isinstance(path, ObjectPath):
        _try_conditional_put(path.parent)


@cache
def _try_conditional_put(folder: ObjectPath) -> None:
    tried = folder / f"_conditional-put-{uuid4().hex}"
    try:
        tried.put(b"first", if_absent=True)
        tried.put(b"second", if_absent=True)
    except FileExistsError:
        tried.unlink(missing_ok=True)
        return
    except OSError as error:
        raise StorageAccessError(
            f"a write to {folder} was given up",
            why=f"the object store refuses it, or does not answer: {error}",
            mend="see that the bucket is there, that storage names its endpoint and region (one of http:// needs "
            "client_options with allow_http), and that the key may read, write, list and delete there; then run again",
        ) from error
    tried.unlink(missing_ok=True)
    raise UnsupportedStorageError(
        f"the object store of {folder} was refused",
        why="it ignores If-None-Match: two runs that commit at once are both told that it worked, and one is lost",
        mend="use a store that keeps conditional puts, such as AWS S3, Azure, GCS, MinIO, SeaweedFS or Ceph",
    )
