"""``python -m benchmarks.scale``: the curves of docs/scale.md, and the simulator that is calibrated with them."""

from __future__ import annotations

import os
import tempfile
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from benchmarks.measure import NOISY_LOAD
from benchmarks.scale import keys, launched, logs, storage, versions
from benchmarks.scale.forecast import calibrated, compared, forecasts
from benchmarks.scale.points import read_points, table_of, write_points

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.scale.points import Point

_PARTS: dict[str, tuple[Callable[[Path, Sequence[int], int], Iterator[Point]], tuple[int, ...]]] = {
    "files": (logs.by_live_files, (100, 1_000, 10_000, 100_000)),
    "commits": (logs.by_commits, (100, 1_000, 10_000, 100_000)),
    "keys": (keys.by_keys, (10_000, 100_000, 1_000_000, 10_000_000)),
    "versions": (versions.by_partitions, (100, 1_000, 10_000, 100_000)),
    "sqlite": (storage.in_sqlite, (100, 1_000, 10_000, 100_000)),
    "postgres": (storage.in_postgres, (100, 1_000, 10_000, 100_000)),
    "launched": (launched.by_concurrency, (1, 2, 4)),
}
_WIDTH = 150
_MEASURED = Path(__file__).resolve().parents[2] / "docs" / "scale"

Part = Enum("Part", {name: name for name in _PARTS})
app = typer.Typer(add_completion=False)


@app.command()
def measure(
    parts: Annotated[list[Part] | None, typer.Argument(help="Which curves; all unless told.")] = None,
    *,
    sizes: Annotated[int, typer.Option(min=1, max=4, help="How many of the sizes, smallest first.")] = 4,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    directory: Annotated[Path | None, typer.Option(help="Where temporary tables go.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder that keeps the points, a CSV file a part.")] = None,
) -> None:
    """Measure how the cost grows."""
    console = Console(width=_WIDTH)
    for part in parts or Part:
        curves, known = _PARTS[part.value]
        with tempfile.TemporaryDirectory(prefix="pattern-platform-scale-", dir=directory) as folder:
            points = list(curves(Path(folder), known[:sizes], rounds))
        console.print(table_of(points, part.value))
        busy = [point for point in points if point.load > NOISY_LOAD * (os.cpu_count() or 1)]
        if busy:
            console.print(f"{len(busy)} of {len(points)} points on a busy machine: trust the CPU time")
        if output:
            write_points(points, output / f"{part.value}.csv")


@app.command()
def simulate(
    measured: Annotated[Path, typer.Argument(help="Points of the part `launched`.")] = _MEASURED / "launched.csv",
) -> None:
    """Check the simulator against what was measured, and let it say how long backfills take."""
    console = Console(width=_WIDTH)
    points = read_points(measured)
    console.print(compared(points))
    console.print(f"Calibrated by the runs that were alone: {calibrated(points)}")
    for table in forecasts(calibrated(points)):
        console.print(table)


if __name__ == "__main__":
    app()
