"""What the platform and Dagster add around the work: imports, partitions of one run, runs of one backfill."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from benchmarks.measure import Bench, Row, Sample, alternate, timed
from pattern_platform.orchestration.partition_tags import partition_tags
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager
from pattern_platform.visits.generator import write_days

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_FIRST, _DAYS, _ROWS_AN_HOUR = date(2024, 5, 6), 7, 20
_HOURS, _PER_RUN = _DAYS * 24, 24
_GOAL_IMPORTS, _GOAL_BACKFILL = 1.15, 1 / 20
_BUDGET_MS = 10.0  # a partition
_LOCATIONS = {
    "pattern_platform": "pattern_platform.definitions",
    "dashboards": "pattern_platform.dashboards.definitions",
}
_CHECKOUT = Path(__file__).resolve().parents[1]


def run(bench: Bench) -> Iterator[Row]:
    """Import each code location; run a week of hours at once; backfill them in runs of a day, and hour by hour."""
    landing = bench.folder / "data" / "landing"
    write_days(landing, _FIRST, days=_DAYS, rows_per_hour=_ROWS_AN_HOUR, seed=1)
    home = bench.folder / "home"
    home.mkdir()
    shutil.copy(_CHECKOUT / "dagster.yaml", home)
    program = _Program(
        {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "PATTERN_PLATFORM_DATA": str(bench.folder / "data"),
            "PATTERN_PLATFORM_REGISTRY": str(_registry(bench.folder)),
        }
    )
    imports = alternate(
        {
            "bare": lambda _: program("import"),
            "dataframely": lambda _: program("import", "dataframely"),
            **{name: lambda _, module=module: program("import", module) for name, module in _LOCATIONS.items()},
        },
        bench.rounds,
    )
    libraries = "dagster, polars, deltalake, duckdb, dagster_deltalake"
    for name in _LOCATIONS:
        what = f"import the code location {name}"
        yield Row(what, f"import {libraries}", imports[name], imports["bare"], _GOAL_IMPORTS)
        yield Row(what, "these, and dataframely with SQLAlchemy", imports[name], imports["dataframely"])

    at_once = alternate(_week_at_once(bench.folder, landing), bench.rounds)
    added = [
        Sample((ours.value - bare.value) / _HOURS, (ours.cpu - bare.cpu) / _HOURS)
        for ours, bare in zip(at_once["ours"], at_once["bare"], strict=True)
    ]
    budget = [Sample(_BUDGET_MS, _BUDGET_MS)] * len(added)
    yield Row(f"added to an hour, {_HOURS} hours in one run", f"a budget of {_BUDGET_MS:.0f} ms", added, budget, goal=1)

    day, hour = (f"{_FIRST}-00:00", f"{_FIRST}-23:00"), (f"{_FIRST}-00:00", f"{_FIRST}-00:00")
    runs = alternate({"day": lambda _: program("run", *day), "hour": lambda _: program("run", *hour)}, bench.rounds)
    ours, base = ([_times(s, count) for s in runs[name]] for name, count in (("day", _DAYS), ("hour", _HOURS)))
    yield Row(
        f"backfill of {_HOURS} hours in runs of {_PER_RUN} (one measured)",
        "a run an hour (one measured)",
        [Sample(sample.cpu, sample.cpu) for sample in ours],
        [Sample(sample.cpu, sample.cpu) for sample in base],
        _GOAL_BACKFILL,
        unit="ms of CPU",
    )


def _registry(folder: Path) -> Path:
    """The sample's registry, for a week of the blog."""
    sample = _CHECKOUT / "data"
    shutil.copytree(sample / "contracts", folder / "contracts")
    path = folder / "registry.csv"
    week = (_FIRST + timedelta(days=_DAYS)).isoformat()
    path.write_text((sample / "registry.csv").read_text().replace(",2024-05-08,", f",{week},"))
    return path


class _Program:
    """Processes that are measured from their start to their end."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def __call__(self, *arguments: str) -> Sample:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.runs_program", *arguments], env=self._environment, cwd=_CHECKOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        if status:
            message = f"benchmarks.runs_program {' '.join(arguments)} failed"
            raise RuntimeError(message)
        return Sample((time.perf_counter() - started) * 1e3, (used.ru_utime + used.ru_stime) * 1e3)


def _week_at_once(folder: Path, landing: Path) -> dict[str, Callable[[int], Sample]]:
    """One run over all hours in an instance in memory; and the work alone: read the files, write their rows."""
    files = sorted(landing.glob("visits/*/*/*.gz"))
    hours = dg.HourlyPartitionsDefinition(f"{_FIRST}-00:00")

    @dg.asset(partitions_def=hours, io_manager_key="lake", metadata={"partition_expr": "hour"})
    def week() -> pl.DataFrame:
        return _read(files)

    tags = partition_tags(f"{_FIRST}-00:00", f"{_FIRST + timedelta(days=_DAYS - 1)}-23:00")
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

    def materialized(number: int) -> None:
        lake = DataOverwriteIOManager(root_uri=str(folder / f"lake_{number}"))
        dg.materialize([week], tags=tags, resources={"lake": lake}, run_config=quiet)

    return {
        "ours": timed(materialized, lambda number: number),
        "bare": timed(lambda number: _read(files).write_parquet(folder / f"bare_{number}.parquet"), lambda n: n),
    }


def _read(files: list[Path]) -> pl.DataFrame:
    """The landed lines, each with its hour."""
    start = datetime(_FIRST.year, _FIRST.month, _FIRST.day, tzinfo=UTC)
    return pl.concat(
        pl.read_lines(file).with_columns(hour=pl.lit(start + timedelta(hours=n), pl.Datetime("us", "UTC")))
        for n, file in enumerate(files)
    )


def _times(sample: Sample, count: int) -> Sample:
    return Sample(sample.value * count, sample.cpu * count)
