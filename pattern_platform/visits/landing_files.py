"""What the generators of landing files share: compressed lines, the start of an hour, repeatable draws."""

from __future__ import annotations

import gzip
import hashlib
from datetime import UTC
from typing import TYPE_CHECKING

import numpy as np

from pattern_platform.lake.whole_file import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path


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
