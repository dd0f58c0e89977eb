"""Concurrent Runner: independent partitions side by side, up to a limit, however they are launched.

Problem: fifty sources are to be ingested. One after the other takes too long, all at once takes the machine from
everyone else, and a limit that binds only the backfill is escaped by whoever presses "Materialize".

Guarantee: with :class:`~pattern_platform.AssetTagRunCoordinator` at most ``limit`` runs of the assets that carry the
tag are started at a time, from the UI, backfills, schedules, sensors, conditions, GraphQL and the command line alike;
the others wait in the queue. A partition that fails stops no other. The runner of a tenant, beside that of the work, is
its fair share: assets carry the tags of both. A run with a higher ``dagster/priority`` is dequeued first.

Limits: the limit itself stands in ``dagster.yaml``; the tag's value states it, and a test of the project compares the
two. The queue is asked when runs are launched, not by ``dg.materialize`` or ``dg launch``, which execute in their own
process. Nothing is shared between partitions: what they write must be safe side by side, as the IO managers here are.

Shown by: ``raw/page_speed``, measured in many regions, two of which are ingested at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pattern_platform.errors import InvalidMetadataError

PREFIX = "concurrent_runner/"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")


@dataclass(frozen=True)
class ConcurrentRunner:
    """Runs that count under one limit.

    Args:
        name: What the limit is called.
        limit: How many runs may be started at a time.
    """

    name: str
    limit: int

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its assets: the key is the one of the limit in ``dagster.yaml``, the value states the limit."""
        return {f"{PREFIX}{self.name}": str(self.limit)}


def concurrent_runner(name: str, limit: int) -> ConcurrentRunner:
    """Let at most ``limit`` runs of some assets be started at a time.

    Args:
        name: What the limit is called, the same for all assets that share it: letters, digits, ``_``, ``-``, ``.``.
        limit: How many runs.

    Raises:
        InvalidMetadataError: The name is none, or nothing could ever run.
    """
    refuse_name(name)
    if limit < 1:
        raise InvalidMetadataError(
            f"limit {limit} of concurrent runner {name!r} was refused",
            why="no run could ever start",
            mend="give a limit of 1 or more",
        )
    return ConcurrentRunner(name, limit)


def refuse_name(name: str) -> None:
    """Refuse what Dagster would not take as the key of a tag.

    Raises:
        InvalidMetadataError: It would not.
    """
    if not _NAME.fullmatch(name):
        raise InvalidMetadataError(
            f"runner {name!r} was refused",
            why="its name is part of a tag",
            mend="use 1 to 63 letters, digits, underscores, hyphens and dots",
        )
