"""Versions of a table that something outside it still shows: a vacuum keeps their files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pattern_platform.lake.whole_file import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pattern_platform.lake.object_path import LakePath

_FILE = "_pinned_versions.json"  # names that begin with an underscore are no data to any reader, nor to vacuum


def pin(table: LakePath, versions: Iterable[int]) -> None:
    """Replace the versions of a table that are kept."""
    with whole_file(table / _FILE) as unfinished:
        unfinished.write_text(json.dumps(sorted(versions)))


def pinned(table: LakePath) -> list[int]:
    """The versions of a table that are kept."""
    path = table / _FILE
    return json.loads(path.read_text()) if path.exists() else []
