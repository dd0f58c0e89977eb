"""One measured point of a curve, and the file and the table that points are kept in."""

from __future__ import annotations

import csv
import os
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import TYPE_CHECKING, TypeVar

from rich import box
from rich.table import Table

from benchmarks.measure import timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

A = TypeVar("A")
_TYPES: dict[str, type] = {"str": str, "int": int, "float": float}


@dataclass(frozen=True)
class Point:
    """What something costs at a size.

    Args:
        curve: What is measured.
        grows: What the size counts.
        size: The size.
        median: Over the rounds, in ``unit``.
        least: Of the rounds.
        most: Of the rounds.
        cpu: Milliseconds of processor time, median; 0 where no time is measured.
        unit: ``ms``, ``MB`` or another.
        rounds: How often it was measured.
        load: 1-minute load average of the machine, just after.
    """

    curve: str
    grows: str
    size: int
    median: float
    least: float
    most: float
    cpu: float
    unit: str
    rounds: int
    load: float


def timed_point(
    curve: str,
    grows: str,
    size: int,
    step: Callable[[A], object],
    prepare: Callable[[int], A],
    rounds: int,
) -> Point:
    """A point of milliseconds.

    Args:
        curve: What is measured.
        grows: What the size counts.
        size: The size.
        step: What is timed.
        prepare: From the number of the round to the argument of the step; not timed.
        rounds: How often.
    """
    case = timed(step, prepare)
    samples = [case(number) for number in range(rounds)]
    times = [sample.value for sample in samples]
    cpu = median(sample.cpu for sample in samples)
    return _point(curve, grows, size, times, "ms", cpu)


def measured_point(curve: str, grows: str, size: int, value: float, unit: str) -> Point:
    """A point that is counted once, such as a size on the disk."""
    return _point(curve, grows, size, [value], unit)


def _point(curve: str, grows: str, size: int, values: list[float], unit: str, cpu: float = 0) -> Point:
    return Point(
        curve,
        grows,
        size,
        *(round(value, 3) for value in (median(values), min(values), max(values), cpu)),
        unit,
        len(values),
        round(os.getloadavg()[0], 1),
    )


def folder_megabytes(folder: Path) -> float:
    """What the files below a folder hold."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def write_points(points: Iterable[Point], file: Path) -> None:
    """Keep points in a CSV file; those of another run are replaced."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, [field.name for field in fields(Point)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)


def read_points(file: Path) -> list[Point]:
    """The points of a CSV file."""
    with file.open(newline="") as opened:
        return [
            Point(**{field.name: _TYPES[str(field.type)](row[field.name]) for field in fields(Point)})
            for row in csv.DictReader(opened)
        ]


def table_of(points: Iterable[Point], title: str) -> Table:
    """Points as a table: a line for each curve, a column for each size."""
    points = list(points)
    sizes = sorted({point.size for point in points})
    table = Table("curve", "unit", "grows with", title=title, box=box.MARKDOWN)
    for size in sizes:
        table.add_column(f"{size:,}", justify="right")
    curves = dict.fromkeys((point.curve, point.unit, point.grows) for point in points)
    for curve in curves:
        found = {p.size: f"{p.median:,.4g}" for p in points if (p.curve, p.unit, p.grows) == curve}
        table.add_row(*curve, *(found.get(size, "") for size in sizes))
    return table
