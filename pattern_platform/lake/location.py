"""Where the table of an asset is: its key, part by part, below the root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pattern_platform.errors import UnsafeAssetKeyError, UnsupportedStorageError

if TYPE_CHECKING:
    import dagster as dg

_KEY_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def location_of(key: dg.AssetKey, root_uri: str) -> Path:
    """Directory of an asset's table.

    Args:
        key: The asset.
        root_uri: Folder of all tables.

    Raises:
        UnsafeAssetKeyError: A part of the key leaves the root, hides the table, or the table would be inside another
            table.
        UnsupportedStorageError: The root is on an object store, or engines do not agree on where it is.
    """
    if "://" in root_uri.removeprefix("file://"):
        raise unsupported_storage(root_uri, "local")
    root = Path(root_uri.removeprefix("file://")).absolute()
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
    for outer in table.parents[: len(key.path) - 1]:
        if (outer / "_delta_log").exists():
            raise UnsafeAssetKeyError(
                f"asset key {key.to_user_string()!r} was refused",
                why=f"{outer.name!r} is a table itself, and its clean-up would remove the files of a table inside",
                mend="give the two assets keys of which none begins with the other",
            )
    return table


def unsupported_storage(root_uri: str, provider: str) -> UnsupportedStorageError:
    """The error for a root that is no folder."""
    return UnsupportedStorageError(
        f"root_uri {root_uri!r} with storage {provider!r} was refused",
        why="this version writes to local and mounted file systems only",
        mend="set root_uri to a folder and leave storage at its default",
    )


def refuse_around(table: Path, name: str) -> None:
    """Refuse a new table in a folder that holds another further inside.

    Raises:
        UnsafeAssetKeyError: Names the table inside.
    """
    if inner := next(table.glob("*/**/_delta_log"), None):  # its own may just be made by another run
        raise UnsafeAssetKeyError(
            f"asset key {name!r} was refused",
            why=f"there is a table inside already, {inner.parent.relative_to(table.parent)}; "
            "a clean-up of the outer one would remove its files",
            mend="give the two assets keys of which none begins with the other",
        )
