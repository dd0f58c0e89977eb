"""How a test tells assets what to do, and learns what they did: files, for the assets run in other processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "DAEMON_TEST_FILES"
_SECONDS = 240.0  # after which a held asset gives up, so that no test leaves it behind


class HeldTooLongError(Exception):
    """Nobody let the asset go on."""


class BrokenOnPurposeError(Exception):
    """The test wanted the asset to fail."""


class Files:
    """The folder that the tests and the assets share.

    Args:
        root: The folder; the one that the environment names, unless told.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root or Path(os.environ.get(VARIABLE, "/nowhere"))

    def hold(self, asset: str) -> None:
        """Let executions of the asset wait once they have begun."""
        self._path("hold", asset).touch()

    def release(self, asset: str, *partitions: str) -> None:
        """Let executions of some partitions end; those of all without any."""
        for partition in partitions:
            self._path("go", asset, partition).touch()
        if not partitions:
            self._path("hold", asset).unlink(missing_ok=True)

    def break_(self, asset: str, partition: str) -> None:
        """Let executions of a partition fail."""
        self._path("fail", asset, partition).touch()

    def mend(self, asset: str, partition: str) -> None:
        """Let them succeed again."""
        self._path("fail", asset, partition).unlink()

    def ask(self, what: str) -> None:
        """Let a schedule or a sensor request a run, once."""
        self._path("ask", what).touch()

    def is_asked(self, what: str) -> bool:
        """Whether it is to."""
        return self._path("ask", what).exists()

    def executions(self, asset: str) -> list[str]:
        """The partitions that were begun, in their order."""
        return self._lines("begun", asset)

    def results(self, asset: str) -> dict[str, str]:
        """What was made, by partition."""
        return {path.name: path.read_text() for path in sorted(self._path("made", asset, ".").iterdir())}

    def work(self, asset: str, partition: str = "all", after: str | None = None) -> None:
        """What an asset does: it says that it began, waits if it is held, fails if it is to, and leaves a result.

        Args:
            asset: Name of the asset.
            partition: Key of the partition.
            after: The partition it rests on; the result is one more than that one's, or 1.

        Raises:
            HeldTooLongError: The test forgot it.
            BrokenOnPurposeError: The test wanted this.
        """
        with self._path("begun", asset).open("a") as log:
            log.write(f"{partition}\n")
        deadline = time.monotonic() + _SECONDS
        while self._path("hold", asset).exists() and not self._path("go", asset, partition).exists():
            if time.monotonic() > deadline:
                raise HeldTooLongError(f"{asset} {partition}")
            time.sleep(0.02)
        if self._path("fail", asset, partition).exists():
            raise BrokenOnPurposeError(f"{asset} {partition}")
        before = int(self._path("made", asset, after).read_text()) if after else 0
        self._path("made", asset, partition).write_text(str(before + 1))

    def _lines(self, *parts: str) -> list[str]:
        path = self._path(*parts)
        return path.read_text().splitlines() if path.exists() else []

    def _path(self, *parts: str) -> Path:
        path = self._root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
