"""What the generators of landing files share: a file that appears whole, the start of an hour, repeatable draws."""

from __future__ import annotations

import gzip
import hashlib
from contextlib import contextmanager
from datetime import UTC
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from datetime import datetime
    from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """Give a path to write to; what is there in the end takes the place of the file, unless an error comes before.

    Args:
        path: The file; its folder is made where there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_gzip_lines(path: Path, batches: Iterable[Iterable[str]]) -> None:
    """Write a compressed file of lines, whole or not at all; the same lines are the same bytes.

    Args:
        path: As of :func:`whole_file`.
        batches: The lines; a batch at a time is in memory.
    """
    # Neither a time nor a name goes into the gzip header.
    with (
        whole_file(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=raw, mtime=0) as file,
    ):
        for lines in batches:
            file.write("".join(f"{line}\n" for line in lines).encode())


def start_of_utc_hour(hour: datetime) -> datetime:
    """The start of an hour, in UTC.

    Raises:
        ValueError: `hour` has no timezone or is not the start of an hour.
    """
    if hour.tzinfo is None or hour.astimezone(UTC) != hour.astimezone(UTC).replace(minute=0, second=0, microsecond=0):
        message = f"expected the start of a UTC hour, with a timezone, got {hour.isoformat()}"
        raise ValueError(message)
    return hour.astimezone(UTC)


def random_of(*key: object) -> np.random.RandomState:
    """Draws that follow from a key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32))
