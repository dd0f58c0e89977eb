"""The races and kills of the harness on an object store, where there is no lock: the log alone arbitrates.

Nothing tells what happens in the store, so a writer is killed at a random moment of a usual write.
"""

from __future__ import annotations

import os
import random
import select
import time
from typing import TYPE_CHECKING, Any

import pytest

from pattern_platform_tests.harness.model import WRITERS, Violation
from pattern_platform_tests.harness.processes import Writer, Zygote, needs_linux
from pattern_platform_tests.harness.test_kill import Table, kill_loop
from pattern_platform_tests.harness.test_race import race

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pattern_platform_tests.services.stores import ObjectStore

pytestmark = [needs_linux, pytest.mark.xdist_group("stores")]
_ENOUGH = 30  # kills, to reach every stage


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


class Unwatched:
    """In place of the events of a folder."""

    def drain(self) -> None:
        pass

    def close(self) -> None:
        pass


class StoredTable(Table):
    """A table on an object store: moments are chosen by the clock."""

    seconds = 0.3  # of an operation

    def _watch(self) -> Any:
        return Unwatched()

    def _until(self, writer: Writer, nth: int) -> dict[str, Any] | None:
        began = time.monotonic()
        if nth != 10**9:
            end = began + self.rng.uniform(0, 1.2 * self.seconds)
            while (left := end - time.monotonic()) > 0 and not any("done" in m for m in writer.messages):
                if select.select([writer], [], [], left)[0]:
                    writer.pump()
            return None
        while "done" not in (message := writer.receive()):
            writer.note(message)
        self.seconds = (self.seconds + time.monotonic() - began) / 2
        return message

    def check_lock(self) -> None:
        """There is none."""


def kill(zygote: Zygote, store: ObjectStore, kind: str, kills: int, seed: int) -> None:
    try:
        happened, reads = kill_loop(zygote, store.path, kind, kills, random.Random(seed), StoredTable)
    except Violation as error:
        raise Violation(f"seed {seed}: {error}") from error
    print(f"{kind}, seed {seed}: {happened.total()} kills, {dict(happened)}, {reads} reads")  # noqa: T201
    assert reads
    if kills >= _ENOUGH:
        assert {"nothing yet", "files, not committed", "committed, not acknowledged"} <= set(happened), happened


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_acknowledged_is_there_exactly_once(zygote: Zygote, object_store: ObjectStore, kind: str) -> None:
    race(zygote, object_store.path, kind, rounds=2 if kind == "stateful" else 1, seed=1)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_killed_writer_leaves_the_old_table_or_the_new(zygote: Zygote, object_store: ObjectStore, kind: str) -> None:
    kill(zygote, object_store, kind, kills=3, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_acknowledged_is_there_exactly_once_many_times(
    zygote: Zygote, object_store: ObjectStore, kind: str
) -> None:
    race(zygote, object_store.path, kind, rounds=_soak(), seed=random.randrange(10**6))


@pytest.mark.soak
@pytest.mark.parametrize("kind", [*WRITERS, "compact"])
def test_a_writer_killed_many_times(zygote: Zygote, object_store: ObjectStore, kind: str) -> None:
    kill(zygote, object_store, kind, kills=_soak(), seed=random.randrange(10**6))


def _soak() -> int:
    return int(os.environ.get("SOAK", "500")) // 10  # a write takes ten times as long as on a disk
