"""Backfills in few runs: partitions in stretches, submitted straight to the run queue of a running Dagster.

Dagster's own backfills wait for a loop of 30 s at both ends, and pay for a process for each partition. Here a run takes
as many partitions as the assets allow, so that a run that is killed repeats no more than these; tags and limits bind as
for every launch. A stretch that fails is repeated one partition at a time, so that only what is broken stays behind.

Each stretch has a key that follows from what it is, so an interrupted backfill finds its own runs and goes on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pattern_platform.errors import BackfillError
from pattern_platform.lake.checks import listed
from pattern_platform.orchestration.partition_tags import partition_tags
from pattern_platform.orchestration.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pattern_platform.orchestration.graphql.webserver import Asset, Run, Webserver

MOST_PER_RUN = 24
BACKFILL, ROUND, STRETCH = (f"pattern_platform/{name}" for name in ("backfill", "backfill_round", "stretch"))
_BEHIND_WHAT_LANDS = {"dagster/priority": "-1"}
_FAILED = {"FAILURE", "CANCELED"}
_DONE, _WAITING = "SUCCESS", "WAITING"


@dataclass(frozen=True)
class Stretch(Task):
    """Partitions that follow each other, in one run.

    Args:
        assets: Keys of the assets.
        first: The first partition.
        last: The last one.
    """

    assets: tuple[str, ...]
    first: str
    last: str

    @property
    def tags(self) -> dict[str, str]:
        """What tells Dagster the partitions, and the backfill the stretch."""
        return {**partition_tags(self.first, self.last), STRETCH: self.key}


@dataclass(frozen=True)
class Standing:
    """How far a backfill is.

    Args:
        partitions: Number of partitions by status: ``SUCCESS``, ``STARTED``, ``QUEUED`` and so on; ``WAITING`` for
            those that are not submitted yet.
        failed: Partitions that failed by themselves, or were canceled.
    """

    partitions: Mapping[str, int]
    failed: tuple[str, ...]
    is_over: bool


class Backfill:
    """Partitions of some assets, from one to another.

    Args:
        webserver: Of the Dagster whose queue takes the runs.
        select: Keys of the assets, which one run materializes together.
        first: The first partition.
        last: The last one.
        again: Whether runs of an earlier backfill of the same partitions count for nothing.

    Raises:
        BackfillError: The assets cannot run together, or there are no such partitions.
    """

    def __init__(
        self, webserver: Webserver, select: Sequence[str], first: str, last: str, *, again: bool = False
    ) -> None:
        self._webserver = webserver
        self.assets = [webserver.asset(key) for key in select]
        self._keys = _between(self.assets, first, last)
        self._per_run = min(asset.per_run or MOST_PER_RUN for asset in self.assets)
        self._is_ordered = any(asset.rests_on_itself for asset in self.assets)
        self._names = tuple(asset.key for asset in self.assets)
        self._tags = {BACKFILL: Stretch(self._names, self._keys[0], self._keys[-1]).key, **_BEHIND_WHAT_LANDS}
        rounds = {int(run.tags[ROUND]) for run in webserver.runs(self._tags)}
        self._tags[ROUND] = str(max(rounds, default=1 - again) + again)
        self._tried_before = {run.run_id for run in self._newest().values() if run.status in _FAILED}

    @property
    def size(self) -> int:
        """Number of partitions."""
        return len(self._keys)

    def advance(self) -> Standing:
        """Submit what can be submitted now, and say how far the backfill is.

        Partitions that rest on each other are submitted one stretch after the other, and none after a failure.
        """
        newest, standing, failed = self._newest(), Counter[str](), list[str]()
        for stretch, keys in self._stretches(newest):
            run = newest.get(stretch.key)
            is_open = run is None or run.run_id in self._tried_before
            if is_open and self._is_ordered and set(standing) - {_DONE}:
                status = _WAITING
            elif is_open:
                self._webserver.launch(self.assets, {**self._tags, **stretch.tags})
                status = "QUEUED"
            else:
                status = run.status
            standing[status] += len(keys)
            failed += keys if status in _FAILED else []
        is_over = not set(standing) - {_DONE, *_FAILED, _WAITING}
        return Standing(standing, tuple(failed), is_over)

    def _stretches(self, newest: Mapping[str, Run]) -> Iterator[tuple[Stretch, list[str]]]:
        """Stretches of the size of a run; one that failed as a whole is each of its partitions."""
        for start in range(0, len(self._keys), self._per_run):
            keys = self._keys[start : start + self._per_run]
            stretch = Stretch(self._names, keys[0], keys[-1])
            run = newest.get(stretch.key)
            if run and run.status == "FAILURE" and len(keys) > 1:
                yield from ((Stretch(self._names, key, key), [key]) for key in keys)
            else:
                yield stretch, keys

    def _newest(self) -> dict[str, Run]:
        """The newest run of each stretch."""
        newest: dict[str, Run] = {}
        for run in self._webserver.runs(self._tags):
            newest.setdefault(run.tags[STRETCH], run)
        return newest


def _between(assets: Sequence[Asset], first: str, last: str) -> list[str]:
    partitions = assets[0].partitions
    if any(asset.partitions != partitions or asset.location != assets[0].location for asset in assets):
        raise BackfillError(
            f"a backfill of {listed([asset.key for asset in assets])} was refused",
            why="they have different partitions, or are in different code locations, so no run can take them together",
            mend="run a backfill for each",
        )
    if unknown := [key for key in (first, last) if key not in partitions]:
        raise BackfillError(
            f"a backfill from {first} to {last} was refused",
            why=f"{assets[0].key!r} has no partition {listed(unknown)}"
            + (f"; it has {partitions[0]} to {partitions[-1]}" if partitions else ""),
            mend="name the first and the last partition as the UI shows them",
        )
    begin, end = partitions.index(first), partitions.index(last)
    if begin > end:
        raise BackfillError(
            f"a backfill from {first} to {last} was refused", why="the last is before the first", mend="turn them round"
        )
    return partitions[begin : end + 1]
