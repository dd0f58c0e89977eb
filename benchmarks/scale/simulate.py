"""A queue and its workers, simulated: how long a backfill takes by workers, limits and partitions of a run.

The daemon looks at its queue once an interval and launches, one after the other, what the limits allow. A run waits for
a free slot of a worker, starts (a process and its imports), works, and commits under the lock of its table. Start and
work need a core; the slots of a host share its cores. What is not simulated: retries, the network, and what the runs
ask of the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import simpy

if TYPE_CHECKING:
    from collections.abc import Generator

_SLICE = 1.0  # seconds after which a run gives its core to the next


@dataclass(frozen=True)
class Costs:
    """What a run costs, in seconds of one core that it has to itself.

    Args:
        launch: Of the daemon, for each run.
        start: Of the run, until its first step.
        run: Beside its partitions.
        partition: Of each partition.
        commit: Under the lock of the table, once a run.
    """

    launch: float
    start: float
    run: float
    partition: float
    commit: float = 0.02


@dataclass(frozen=True)
class Fleet:
    """The hosts of the workers.

    Args:
        hosts: How many.
        slots: Runs at a time of each.
        cores: Of each.
    """

    hosts: int
    slots: int
    cores: int


@dataclass(frozen=True)
class Queue:
    """The run queue.

    Args:
        at_once: ``max_concurrent_runs``.
        of_tag: The limit of the tag that all runs of the backfill carry; None for none.
        interval: ``dequeue_interval_seconds``.
    """

    at_once: int
    of_tag: int | None = None
    interval: float = 1.0

    @property
    def limit(self) -> int:
        """How many runs of the backfill there are at a time."""
        return min(self.at_once, self.of_tag or self.at_once)


def backfill_seconds(partitions: int, per_run: int, costs: Costs, fleet: Fleet, queue: Queue) -> float:
    """From the moment that all runs of a backfill are queued to the end of the last.

    Args:
        partitions: Of one table.
        per_run: Partitions of a run.
        costs: Of a run.
        fleet: Where runs are executed.
        queue: What lets them go.
    """
    environment = simpy.Environment()
    hosts = [
        (simpy.Resource(environment, fleet.slots), simpy.Resource(environment, fleet.cores)) for _ in range(fleet.hosts)
    ]
    lock = simpy.Resource(environment)
    waiting = [min(per_run, partitions - first) for first in range(0, partitions, per_run)]
    running: set[simpy.Process] = set()

    def compute(cores: simpy.Resource, seconds: float) -> Generator[simpy.Event]:
        for _ in range(ceil(seconds / _SLICE)):
            with cores.request() as core:
                yield core
                yield environment.timeout(seconds / ceil(seconds / _SLICE))

    def run(count: int) -> Generator[simpy.Event]:
        slots, cores = min(hosts, key=lambda host: len(host[0].users) + len(host[0].queue))
        with slots.request() as slot:
            yield slot
            yield from compute(cores, costs.start + costs.run + costs.partition * count)
            with lock.request() as mine:
                yield mine
                yield environment.timeout(costs.commit)

    def daemon() -> Generator[simpy.Event]:
        while waiting:
            for _ in range(min(queue.limit - len(running), len(waiting))):
                yield environment.timeout(costs.launch)
                launched = environment.process(run(waiting.pop()))
                running.add(launched)
                launched.callbacks.append(running.discard)
            yield environment.timeout(queue.interval)
        while running:
            yield next(iter(running))

    environment.run(environment.process(daemon()))
    return float(environment.now)
