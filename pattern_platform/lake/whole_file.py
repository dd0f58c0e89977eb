"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

from pattern_platform.lake.object_path import ObjectPath

if TYPE_CHECKING:
    from collections.abc import Generator

    from pattern_platform.lake.object_path import LakePath


def replace_whole(path: LakePath, unfinished: LakePath) -> None:
    """Put a finished file in the place of another, which keeps its mode."""
    if isinstance(path, Path) and isinstance(unfinished, Path):
        shutil.copymode(path, unfinished)
        os.replace(unfinished, path)  # noqa: PTH105 - a link is replaced too, not what it names
    elif isinstance(path, ObjectPath) and isinstance(unfinished, ObjectPath):
        unfinished.replace(path)


@contextmanager
def whole_file(path: LakePath) -> Generator[Path]:
    """A local path to write to, which becomes the file at the end; an error before leaves the file as it was.

    Args:
        path: The file; its folder is made.
    """
    if isinstance(path, ObjectPath):
        with TemporaryDirectory() as folder:
            unfinished = Path(folder, path.name)
            yield unfinished
            path.put(unfinished)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.{uuid4().hex}"  # hidden from whoever looks for files of its name
    try:
        yield unfinished
        os.replace(unfinished, path)  # noqa: PTH105 - a link is replaced too, not what it names
    finally:
        unfinished.unlink(missing_ok=True)
