"""How an object store is reached, what it says of an object, and its errors as those of files."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from dagster_deltalake.config import ClientConfig
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from datetime import datetime

    from obstore import ObjectMeta
    from obstore.store import ObjectStore

# Options that are none of the store's: delta-rs alone knows the last.
_NOT_OF_THE_STORE = {"provider", "allow_unsafe_rename", "copy_if_not_exists"}
_OF_THE_CLIENT = set(ClientConfig.model_fields)
_AS_OS_ERROR: Mapping[type[Exception], type[OSError]] = {
    AlreadyExistsError: FileExistsError,
    FileNotFoundError: FileNotFoundError,  # by obstore's choice
    PermissionDeniedError: PermissionError,
    UnauthenticatedError: PermissionError,
}


class ObjectStat(NamedTuple):
    """What a store says of an object, by the names of ``os.stat_result``.

    Args:
        st_size: Bytes.
        st_mtime: When it was put, in seconds since the epoch.
        st_mtime_ns: The same in nanoseconds.
        st_ino: The store's tag of its content.
    """

    st_size: int
    st_mtime: float
    st_mtime_ns: int
    st_ino: str


@contextmanager
def as_os_error() -> Generator[None]:
    """Errors of a store as those of files, for whoever catches these; what obstore adds for its developers is cut."""
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        kind = _AS_OS_ERROR.get(type(error), OSError)
        raise kind(str(error).partition("\n\nDebug source")[0]) from None


def stat_of(meta: ObjectMeta) -> ObjectStat:
    """What a store says of an object."""
    put: datetime = meta["last_modified"]
    seconds = put.timestamp()
    return ObjectStat(meta["size"], seconds, int(seconds * 1_000_000) * 1000, meta["e_tag"] or f"{seconds}")


@cache
def store_of(bucket: str, options: tuple[tuple[str, str], ...]) -> ObjectStore:
    """A bucket, opened once a process.

    Args:
        bucket: Its URI.
        options: How it is reached, as delta-rs and Polars take it.
    """
    given = {key: value for key, value in options if key not in _NOT_OF_THE_STORE}
    config: Any = {key: value for key, value in given.items() if key not in _OF_THE_CLIENT}
    client: Any = {key: _flag(value) for key, value in given.items() if key in _OF_THE_CLIENT}
    return from_url(bucket, config=config, client_options=client)


def _flag(value: str) -> bool | str:
    return {"true": True, "false": False}.get(value.lower(), value)
