"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """A path to write to, which becomes the file at the end; an error before leaves the file as it was.

    Args:
        path: The file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.{uuid4().hex}"  # hidden from whoever looks for files of its name
    try:
        yield unfinished
        os.replace(unfinished, path)  # noqa: PTH105 - a link is replaced too, not what it names
    finally:
        unfinished.unlink(missing_ok=True)
