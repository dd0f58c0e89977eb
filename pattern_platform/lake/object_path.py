"""A place on an object store, as the lake uses it: what of ``pathlib.Path`` makes sense there, over ``obstore``.

So a table is a path wherever it is, and brings along how it is reached. ``obstore`` is the library that delta-rs and
Polars are built on, and takes the options that they take. ``universal-pathlib`` was not taken: it goes through one file
system for all of a process, whose listings are cached, and a log is no place for an old listing.

An object appears whole or not at all, and a folder is there while an object is in it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import obstore
from deltalake import DeltaTable

from pattern_platform.lake.object_store import ObjectStat, as_os_error, stat_of, store_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from obstore import ObjectMeta
    from obstore.store import ObjectStore

_FOOTER_BYTES = 64 * 1024


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
        return store_of(self.bucket, self.options)

    def stat(self) -> ObjectStat:
        """What is there.

        Raises:
            FileNotFoundError: There is no object.
        """
        with as_os_error():
            return stat_of(obstore.head(self._store, self._key))

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
        with as_os_error():
            return bytes(obstore.get(self._store, self._key).bytes())

    def read_text(self) -> str:
        """The content, as UTF-8."""
        return self.read_bytes().decode()

    def footer(self) -> bytes:
        """The end of the content, that holds the footer of a Parquet file."""
        wanted = _FOOTER_BYTES
        while True:
            with as_os_error():
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
        with as_os_error():
            obstore.put(self._store, self._key, content, mode="create" if if_absent else "overwrite")

    def replace(self, target: ObjectPath) -> None:
        """Move the object within its bucket, over what is there: the store copies it, and removes it here."""
        with as_os_error():
            obstore.rename(self._store, self._key, target._key)

    def copy(self, target: ObjectPath) -> None:
        """Copy the object within its bucket, in the store itself."""
        with as_os_error():
            obstore.copy(self._store, self._key, target._key)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the object."""
        if not missing_ok:
            self.stat()
        with suppress(FileNotFoundError), as_os_error():  # only some stores say that it was not there
            obstore.delete(self._store, self._key)

    # Folders ----------------------------------------------------------------------------------------------------------

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there with its first object."""

    def iterdir(self) -> Iterator[ObjectPath]:
        """What is in the folder; of folders in it their names alone."""
        with as_os_error():
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
        return {PurePosixPath(e["path"].removeprefix(prefix)): stat_of(e) for e in self._below()}

    def _below(self, chunk_size: int = 1000) -> Iterator[ObjectMeta]:
        with as_os_error():
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
