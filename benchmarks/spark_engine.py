"""One day out of 24 hours, and changes by key into a table: through Spark Connect on Sail, and by Polars."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.measure import Bench, Row, Sample
from benchmarks.spark_engine_program import HOURS, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROWS, _QUICK_ROWS = 1_000_000, 50_000
_MOST_ROUNDS = 3  # each takes seconds, of fresh processes


def run(bench: Bench) -> Iterator[Row]:
    """Compare fresh processes, each of which does one job and has, for Spark, a server of its own."""
    rows = _QUICK_ROWS if bench.quick else _ROWS
    base = bench.folder / "spark"
    prepare(str(base), rows)
    jobs = {"day": f"{HOURS} x {rows:,} rows to a day", "merge": f"{rows:,} changes into {10 * rows:,} rows"}
    for job, title in jobs.items():
        told: dict[str, list[dict[str, float]]] = {"spark": [], "polars": []}
        for number in range(min(bench.rounds, _MOST_ROUNDS)):
            for engine in ("spark", "polars") if number % 2 else ("polars", "spark"):
                told[engine].append(_told(base, engine, job))
        ours, theirs = told["spark"], told["polars"]
        if [t["check"] for t in ours] != [t["check"] for t in theirs]:
            message = f"{title}: the engines leave other rows"
            raise AssertionError(message)
        times, peaks = (
            partial(map, lambda t: Sample(t["seconds"] * 1e3, t["cpu"] * 1e3)),
            partial(map, lambda t: Sample(t["peak_mb"])),
        )
        yield Row(f"{title}, Spark Connect (Sail)", "Polars", [*times(ours)], [*times(theirs)])
        yield Row(f"{title}, peak memory, server included", "Polars", [*peaks(ours)], [*peaks(theirs)], unit="MB")


def _told(base: Path, engine: str, job: str) -> dict[str, float]:
    """What a process says of its job on a copy of the tables."""
    copy = base.with_name(f"spark-{engine}")
    shutil.copytree(base, copy, copy_function=_linked)
    try:
        command = [sys.executable, "-m", "benchmarks.spark_engine_program", engine, job, str(copy)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    finally:
        shutil.rmtree(copy)
    return json.loads(done.stdout.splitlines()[-1])


def _linked(source: str, target: str) -> None:
    """Data files never change, so that a link is a copy."""
    (os.link if source.endswith(".parquet") else shutil.copy2)(source, target)
