"""A place on an object store, as the lake uses it: what of ``pathlib.Path`` makes sense there, over ``obstore``.

So a table is a path wherever it is, and brings along how it is reached. ``obstore`` is the library that delta-rs and
Polars are built on, and takes the options that they take. ``universal-pathlib`` was not taken: it goes through one file
system for all of a process, whose listings are cached, and a log is no place for an old listing.

An object appears whole or not at all, and a folder is there while an object is in it.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar
from uuid import uuid4

import obstore
from dagster_deltalake.config import ClientConfig
from deltalake import DeltaTable
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from pattern_platform.errors import StorageAccessError, UnsupportedStorageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from datetime import datetime

    from obstore import ObjectMeta
    from obstore.store import ObjectStore

_FOOTER_BYTES = 64 * 1024
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


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A place on an object store.

    Args:
        uri: Such as ``s3://bucket/folder/table``.
        options: How the store is reached, as delta-rs and Polars take it; it holds secrets and is never shown.
    """

    uri: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, uri: str, options: Mapping[str, str]) -> ObjectPath:
        """A place, from a URI as a person writes it."""
        return cls(uri.rstrip("/"), tuple(sorted(options.items())))

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, part: str | PurePosixPath) -> ObjectPath:
        return ObjectPath(f"{self.uri}/{part}".rstrip("/"), self.options)

    # Names ------------------------------------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return self.uri.split("/", 3)[3] if self.uri.count("/") > 2 else ""  # noqa: PLR2004 - scheme://bucket

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self._key).name

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot on."""
        return PurePosixPath(self._key).suffix

    @property
    def parent(self) -> ObjectPath:
        """The folder that it is in; that of a bucket is the bucket."""
        return ObjectPath(self.uri.rpartition("/")[0], self.options) if self._key else self

    @property
    def parents(self) -> tuple[ObjectPath, ...]:
        """The folders that it is in, the nearest first, the bucket last."""
        return (self.parent, *self.parent.parents) if self._key else ()

    def with_name(self, name: str) -> ObjectPath:
        """Its neighbour of another name."""
        return self.parent / name

    def joinpath(self, *parts: str) -> ObjectPath:
        """A place below."""
        return self / "/".join(parts)

    def relative_to(self, other: ObjectPath) -> PurePosixPath:
        """The way from a folder above."""
        return PurePosixPath(self.uri.removeprefix(f"{other.uri}/"))

    # Objects ----------------------------------------------------------------------------------------------------------

    @property
    def bucket(self) -> str:
        """The URI of the bucket that it is in."""
        return "/".join(self.uri.split("/", 3)[:3])

    @property
    def _store(self) -> ObjectStore:
        return _store(self.bucket, self.options)

    def stat(self) -> ObjectStat:
        """What is there.

        Raises:
            FileNotFoundError: There is no object.
        """
        with _as_os_error():
            return _stat(obstore.head(self._store, self._key))

    def exists(self) -> bool:
        """Whether there is an object, or a folder with one in it."""
        try:
            self.stat()
        except FileNotFoundError:
            return self.is_dir()
        return True

    def is_dir(self) -> bool:
        """Whether there is an object below."""
        return next(iter(self._below(chunk_size=1)), None) is not None

    def read_bytes(self) -> bytes:
        """The content.

        Raises:
            FileNotFoundError: There is no object.
        """
        with _as_os_error():
            return bytes(obstore.get(self._store, self._key).bytes())

    def read_text(self) -> str:
        """The content, as UTF-8."""
        return self.read_bytes().decode()

    def footer(self) -> bytes:
        """The end of the content, that holds the footer of a Parquet file."""
        wanted = _FOOTER_BYTES
        while True:
            with _as_os_error():
                found = obstore.get(self._store, self._key, options={"range": {"suffix": wanted}})
                end = bytes(found.bytes())
            needed = int.from_bytes(end[-8:-4], "little") + 8
            if needed <= len(end) or len(end) == found.meta["size"]:
                return end
            wanted = needed

    def put(self, content: bytes | Path, *, if_absent: bool = False) -> None:
        """Write the object, whole.

        Args:
            content: The content, or a local file that holds it.
            if_absent: Whether one that is there is left, and an error raised.

        Raises:
            FileExistsError: It is there.
        """
        with _as_os_error():
            obstore.put(self._store, self._key, content, mode="create" if if_absent else "overwrite")

    def replace(self, target: ObjectPath) -> None:
        """Move the object within its bucket, over what is there: the store copies it, and removes it here."""
        with _as_os_error():
            obstore.rename(self._store, self._key, target._key)

    def copy(self, target: ObjectPath) -> None:
        """Copy the object within its bucket, in the store itself."""
        with _as_os_error():
            obstore.copy(self._store, self._key, target._key)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the object."""
        if not missing_ok:
            self.stat()
        with suppress(FileNotFoundError), _as_os_error():  # only some stores say that it was not there
            obstore.delete(self._store, self._key)

    # Folders ----------------------------------------------------------------------------------------------------------

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there with its first object."""

    def iterdir(self) -> Iterator[ObjectPath]:
        """What is in the folder; of folders in it their names alone."""
        with _as_os_error():
            found = obstore.list_with_delimiter(self._store, self._key)
        names = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        return (self / PurePosixPath(name).name for name in names)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """What is in the folder, by a pattern of its name."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern.rstrip("/")))

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        """Whatever is below, folders included, by a pattern of its name."""
        seen = set()
        for path in self.objects():
            for place in (path, *(PurePosixPath(p) for p in path.parents if p.name)):
                if place not in seen and fnmatchcase(place.name, pattern):
                    seen.add(place)
                    yield self / place

    def objects(self) -> dict[PurePosixPath, ObjectStat]:
        """All objects below, by their way from here: one request for a thousand of them."""
        prefix = f"{self._key}/" if self._key else ""
        return {PurePosixPath(e["path"].removeprefix(prefix)): _stat(e) for e in self._below()}

    def _below(self, chunk_size: int = 1000) -> Iterator[ObjectMeta]:
        with _as_os_error():
            for chunk in obstore.list(self._store, f"{self._key}/" if self._key else None, chunk_size=chunk_size):
                yield from chunk


LakePath: TypeAlias = Path | ObjectPath
AnyLakePath = TypeVar("AnyLakePath", bound=LakePath)


def storage_options(path: LakePath) -> dict[str, str] | None:
    """How an engine reaches a path; None for a local one."""
    return dict(path.options) if isinstance(path, ObjectPath) else None


def files_below(folder: LakePath) -> list[str]:
    """All files below a folder, by path below it, in their order."""
    if isinstance(folder, ObjectPath):
        return sorted(str(path) for path in folder.objects())
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def folders_below(folder: LakePath) -> list[str]:
    """All folders below a folder, by path below it with a ``/`` behind, in their order; an object store has none."""
    if isinstance(folder, ObjectPath):
        return []
    return sorted(f"{path.relative_to(folder)}/" for path in folder.rglob("*") if path.is_dir())


def delta_table(path: LakePath, version: int | None = None) -> DeltaTable:
    """The table at a path, by delta-rs."""
    return DeltaTable(str(path), version=version, storage_options=storage_options(path))


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


@contextmanager
def _as_os_error() -> Generator[None]:
    """Errors of a store as those of files, for whoever catches these; what obstore adds for its developers is cut."""
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        kind = _AS_OS_ERROR.get(type(error), OSError)
        raise kind(str(error).partition("\n\nDebug source")[0]) from None


def _stat(meta: ObjectMeta) -> ObjectStat:
    put: datetime = meta["last_modified"]
    seconds = put.timestamp()
    return ObjectStat(meta["size"], seconds, int(seconds * 1_000_000) * 1000, meta["e_tag"] or f"{seconds}")


@cache
def _store(bucket: str, options: tuple[tuple[str, str], ...]) -> ObjectStore:
    given = {key: value for key, value in options if key not in _NOT_OF_THE_STORE}
    config: Any = {key: value for key, value in given.items() if key not in _OF_THE_CLIENT}
    client: Any = {key: _flag(value) for key, value in given.items() if key in _OF_THE_CLIENT}
    return from_url(bucket, config=config, client_options=client)


def _flag(value: str) -> bool | str:
    return {"true": True, "false": False}.get(value.lower(), value)
