"""What an output cost: CPU seconds of its process, and bytes of the files that were read and written for it.

A process is metered from output to output, so that each second and each byte counts once, whatever a step does between
its inputs and its outputs. The first output of a process pays for its imports; what a failed step used up is paid by
the next output. Of a file that is read in part, its whole size counts.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars as pl

    from pattern_platform.lake.commit import Commit
    from pattern_platform.lake.files import DataFile

CPU_SECONDS, BYTES_READ, BYTES_WRITTEN = "cost/cpu_seconds", "cost/bytes_read", "cost/bytes_written"


class _Meter:
    """What this process used since its last output."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cpu_seconds, self._bytes_read = 0.0, 0

    def note_read(self, files: Iterable[pl.DataFrame]) -> None:
        """Count the files of an input."""
        size = sum(int(part["size_bytes"].sum()) for part in files)
        with self._lock:
            self._bytes_read += size

    def settle(self, commits: Iterable[Commit]) -> dict[str, float | int]:
        """The cost of an output, as metadata; from here on the next one is metered.

        Args:
            commits: What it did to its table.
        """
        written = sum(file.size for made in commits for file in _written(made))
        now = time.process_time()
        with self._lock:
            cost = {CPU_SECONDS: round(now - self._cpu_seconds, 3), BYTES_READ: self._bytes_read}
            self._cpu_seconds, self._bytes_read = now, 0
        return {**cost, BYTES_WRITTEN: written}


meter = _Meter()


def _written(made: Commit) -> Iterable[DataFile]:
    """The new files of a commit; a restore also names files again that were there."""
    is_restore = made.change_set.metadata.get("restored_to") is not None
    return made.change_set.written if is_restore else made.change_set.add
