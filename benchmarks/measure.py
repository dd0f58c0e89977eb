"""Samples taken side by side, and the ratios between them.

A shared machine is sometimes twice as slow as a minute before. So the cases of a comparison take turns, and the ratio
is the median of the ratios within the rounds, not the ratio of two medians.
"""

from __future__ import annotations

import gc
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.peers import Peer

A = TypeVar("A")
R = TypeVar("R")
NOISY_LOAD = 1.5  # load average over cores


@dataclass(frozen=True)
class Sample:
    """One measurement.

    Args:
        value: Milliseconds of wall time, or megabytes.
        cpu: Milliseconds of processor time of all threads; 0 where memory is measured.
    """

    value: float
    cpu: float = 0.0


@dataclass(frozen=True)
class Bench:
    """What a case needs.

    Args:
        folder: Where it puts its tables.
        rounds: How often each side is measured.
        quick: Whether fewer and smaller comparisons will do.
        peer: The official IO manager in a process of its own; None where it cannot be installed.
    """

    folder: Path
    rounds: int
    quick: bool
    peer: Peer | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        case: What is measured.
        against: What it is compared with.
        ours: Samples of the platform, by round.
        base: Samples of the other, by round; empty where there is none.
        goal: The ratio that is not to be passed; None where nothing is promised.
        unit: Of the samples.
        note: Said in place of the ratio where ``base`` is empty.
    """

    case: str
    against: str
    ours: Sequence[Sample] = ()
    base: Sequence[Sample] = ()
    goal: float | None = None
    unit: str = "ms"
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Ours to the other, by round."""
        return [a.value / b.value for a, b in zip(self.ours, self.base, strict=False)]

    @property
    def ratio(self) -> float | None:
        """Median of the ratios."""
        return median(self.ratios) if self.ratios else None

    @property
    def cpu_ratio(self) -> float | None:
        """Median of the ratios of processor time, which other programs disturb less."""
        pairs = [a.cpu / b.cpu for a, b in zip(self.ours, self.base, strict=False) if b.cpu]
        return median(pairs) if pairs else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        return None if self.goal is None or self.ratio is None else self.ratio <= self.goal


@dataclass
class Load:
    """The 1-minute load average before and after, and whether it makes the wall times doubtful."""

    start: float = field(default_factory=lambda: os.getloadavg()[0])
    end: float = 0.0

    def stop(self) -> None:
        """Note the load at the end."""
        self.end = os.getloadavg()[0]

    def __str__(self) -> str:
        cores = os.cpu_count() or 1
        text = f"1-minute load average {self.start:.1f} at the start, {self.end:.1f} at the end, {cores} cores"
        noisy = max(self.start, self.end) > NOISY_LOAD * cores
        return text + (": NOISY, trust the CPU ratios and run again when the machine is quiet" if noisy else "")


def timed(step: Callable[[A], object], prepare: Callable[[int], A]) -> Callable[[int], Sample]:
    """A case that times a step, without what prepares it and without the release of its result.

    Args:
        step: What is timed.
        prepare: From the number of the round to the argument of the step.
    """

    def case(number: int) -> Sample:
        argument = prepare(number)
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        result = step(argument)
        sample = Sample((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3)
        del result
        return sample

    return case


def alternate(cases: Mapping[str, Callable[[int], Sample]], rounds: int, warm_ups: int = 1) -> dict[str, list[Sample]]:
    """Run every case once a round, in turns; each round begins with another case.

    Args:
        cases: From the number of the round to a sample.
        rounds: Number of rounds.
        warm_ups: Rounds before them that do not count.
    """
    names = list(cases)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(-warm_ups, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            sample = cases[name](number + warm_ups)
            if number >= 0:
                samples[name].append(sample)
    return samples


def in_new_thread(step: Callable[..., R], *arguments: Any) -> R:  # noqa: ANN401 - whatever the step takes
    """Run a step as the first of a process: the platform keeps its open tables by thread, and a new one has none."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(step, *arguments).result()
