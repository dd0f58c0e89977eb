"""Where the table of an asset is: its key, part by part, below the root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, overload

from dagster_deltalake import LocalConfig

from pattern_platform.errors import UnsafeAssetKeyError, UnsupportedStorageError
from pattern_platform.lake.object_path import ObjectPath

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import dagster as dg
    from dagster_deltalake import AzureConfig, GcsConfig, S3Config
    from dagster_deltalake.config import ClientConfig

    from pattern_platform.lake.object_path import LakePath

_KEY_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@overload
def location_of(key: dg.AssetKey, root_uri: str, options: None = None) -> Path: ...
@overload
def location_of(key: dg.AssetKey, root_uri: str, options: Mapping[str, str] | None) -> LakePath: ...
def location_of(key: dg.AssetKey, root_uri: str, options: Mapping[str, str] | None = None) -> LakePath:
    """Directory of an asset's table.

    Args:
        key: The asset.
        root_uri: Folder of all tables, or the URI of one on an object store.
        options: How the object store is reached.

    Raises:
        UnsafeAssetKeyError: A part of the key leaves the root, hides the table, or the table would be inside another
            table.
        UnsupportedStorageError: Root and options are not of one kind of storage, or engines do not agree on where
            the root is.
    """
    root = root_of(root_uri, options)
    if not str(root).isprintable() or set("%\\") & set(str(root)):
        raise UnsupportedStorageError(
            f"root_uri {root_uri!r} was refused",
            why="engines read '%' and '\\' in a path as escapes, and would write in one place and read in another",
            mend="choose a folder without '%', '\\' and control characters",
        )
    if unsafe := [part for part in key.path if not _KEY_PART.fullmatch(part)]:
        raise UnsafeAssetKeyError(
            f"asset key {key.to_user_string()!r} was refused",
            why=f"part {unsafe[0]!r} is no folder name that stays inside {root}",
            mend="use letters, digits, '_', '-' and '.', beginning with a letter or digit",
        )
    table = root.joinpath(*key.path)
    if isinstance(table, Path):  # an object store is asked by a write alone: definitions load without it
        _refuse_inside(table.parents[: len(key.path) - 1], key.to_user_string())
    return table


def _refuse_inside(outers: Sequence[LakePath], name: str) -> None:
    for outer in outers:
        if (outer / "_delta_log").exists():
            raise UnsafeAssetKeyError(
                f"asset key {name!r} was refused",
                why=f"{outer.name!r} is a table itself, and its clean-up would remove the files of a table inside",
                mend="give the two assets keys of which none begins with the other",
            )


def options_of(
    storage: LocalConfig | S3Config | AzureConfig | GcsConfig, client: ClientConfig | None = None
) -> dict[str, str] | None:
    """How a storage is reached, as engines take it; None for a local one.

    Args:
        storage: One of the config classes of ``dagster_deltalake``.
        client: How requests are made, such as without TLS.
    """
    if isinstance(storage, LocalConfig):
        return None
    options = {**storage.model_dump(), **(client.model_dump() if client else {})}
    return {key: str(value) for key, value in options.items() if value is not None and key != "provider"}


def root_of(root_uri: str, options: Mapping[str, str] | None = None) -> LakePath:
    """The folder of all tables.

    Args:
        root_uri: A local folder, or a URI such as ``s3://bucket/folder``.
        options: How the object store is reached; None for a local folder.

    Raises:
        UnsupportedStorageError: The root is local and the storage is not, or the other way round.
    """
    local = root_uri.removeprefix("file://")
    if options is None and "://" not in local:
        return Path(local).absolute()
    if options is None or "://" not in local or "?" in root_uri or "#" in root_uri:
        raise UnsupportedStorageError(
            f"root_uri {root_uri!r} was refused",
            why="a folder goes with local storage, and a URI with the storage that it is on",
            mend="give a folder without storage, or a URI such as s3://bucket/folder with S3Config, AzureConfig or "
            "GcsConfig",
        )
    return ObjectPath.of(root_uri, options)


def unsupported_storage(root_uri: str, provider: str) -> UnsupportedStorageError:
    """The error for a root that is no folder."""
    return UnsupportedStorageError(
        f"root_uri {root_uri!r} with storage {provider!r} was refused",
        why="this version writes to local and mounted file systems only",
        mend="set root_uri to a folder and leave storage at its default",
    )


def refuse_around(table: LakePath, name: str) -> None:
    """Refuse a new table in a folder that holds another further inside; on an object store also one inside another.

    Raises:
        UnsafeAssetKeyError: Names the other table.
    """
    if isinstance(table, ObjectPath):
        _refuse_inside(table.parents, name)
    logs = (log for log in table.rglob("_delta_log") if log.parent != table)  # its own may just be made by another run
    if inner := next(logs, None):
        raise UnsafeAssetKeyError(
            f"asset key {name!r} was refused",
            why=f"there is a table inside already, {str(inner.parent).removeprefix(f'{table.parent}/')}; "
            "a clean-up of the outer one would remove its files",
            mend="give the two assets keys of which none begins with the other",
        )
