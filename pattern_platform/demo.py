"""``make demo``: the example platform from landed files to cubes, and a table of what came out.

Hours run one by one, as a schedule would launch them, and a day follows once all of its hours are there.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import dagster as dg
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pattern_platform.definitions import defs
from pattern_platform.errors import FileNotArrivedError
from pattern_platform.flights import assets as flights
from pattern_platform.lake.snapshot import open_table
from pattern_platform.lake.version_table import read_version_table
from pattern_platform.settings import SAMPLE_ROWS_PER_HOUR, SAMPLE_SEED, Settings
from pattern_platform.visits import assets as visits
from pattern_platform.visits import billing, catalogue, device_updates, devices, sessions, users, warehouse
from pattern_platform.visits.generator import rows_in_hour, write_hour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from rich.console import Console

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_CUBE = visits.visits_cube.key
_INGESTED = [spec.key for definition in visits.ASSETS for spec in definition.specs if spec.key != _CUBE]
_FLIGHTS = [spec.key for definition in flights.ASSETS for spec in definition.specs]
_USERS = [spec.key for definition in users.ASSETS for spec in definition.specs]
_WEEKS = warehouse.visits_by_week.key
_DAYS = [
    _CUBE,
    *(
        spec.key
        for part in (warehouse, billing, sessions)
        for definition in part.ASSETS
        for spec in definition.specs
        if spec.key != _WEEKS
    ),
]
_CATALOGUE = [catalogue.device_catalogue.key, catalogue.PUBLISHED_CATALOGUE.key]
_MERGED_DEVICES = [devices.devices.key, devices.VERSIONS.key, devices.served_devices.key]
_DEVICES = [spec.key for definition in devices.ASSETS for spec in definition.specs]

_EVERYTHING = defs.resolve_implicit_global_asset_job_def()


@dataclass
class _Report:
    """What the runs did, by asset."""

    partitions: dict[dg.AssetKey, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[dg.AssetKey, float] = field(default_factory=lambda: defaultdict(float))
    rows: dict[dg.AssetKey, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    passed: dict[dg.AssetKey, int] = field(default_factory=lambda: defaultdict(int))
    checks: dict[dg.AssetKey, int] = field(default_factory=lambda: defaultdict(int))
    not_arrived: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, result: dg.ExecuteInProcessResult, partition: str) -> None:
        """Take in one run."""
        made = defaultdict(list)
        for event in result.get_asset_materialization_events():
            self.partitions[event.materialization.asset_key] += 1
            made[event.step_key].append(event.materialization.asset_key)
            self._count(event.materialization, partition)
        for event in result.get_step_success_events():
            for key in made[event.step_key]:
                self.seconds[key] += event.step_success_data.duration_ms / 1000 / len(made[event.step_key])
        for check in result.get_asset_check_evaluations():
            self.checks[check.asset_key] += 1
            self.passed[check.asset_key] += check.passed
        for event in result.get_step_failure_events():
            error = event.step_failure_data.error
            if error and error.cls_name == FileNotArrivedError.__name__:
                self.not_arrived.append(partition)
            elif error:
                self.failures.append(f"{event.step_key}, partition {partition}: {error.message.strip()}")

    def _count(self, made: dg.AssetMaterialization, partition: str) -> None:
        """Note the rows of a table, or of one of its partitions."""
        for name, place in (("dagster/row_count", ""), ("dagster/partition_row_count", partition)):
            if name in made.metadata:
                self.rows[made.asset_key][place] = int(str(made.metadata[name].value))


def run_demo(console: Console, *, land: datetime | None) -> int:
    """Run the demo.

    Args:
        console: Where to draw.
        land: A late hour to land first; only it and its day are run then.

    Returns:
        The exit code: 0, or 1 when something failed that could have run.
    """
    settings = Settings()
    hours, days = visits.HOURS.get_partition_keys(), visits.DAYS.get_partition_keys()
    flight_days = flights.DAYS.get_partition_keys()
    if land:
        write_hour(settings.landing, land, rows=rows_in_hour(land, SAMPLE_ROWS_PER_HOUR), seed=SAMPLE_SEED)
        hours, days, flight_days = [land.strftime(visits.HOURS.fmt)], [land.date().isoformat()], []
    report = _Report()
    with dg.DagsterInstance.get() as instance, _progress(console) as progress:
        for partition in _tracked(progress, report, _INGESTED, hours):
            report.add(_run(instance, _INGESTED, partition), partition)
        landed = instance.get_materialized_partitions(visits.visits_by_hour.key) - set(report.not_arrived)
        _run_days(progress, report, instance, days, landed)
        for day in _tracked(progress, report, _FLIGHTS, flight_days):
            report.add(_run(instance, _FLIGHTS, day), day)
        if not land:
            for day in _tracked(progress, report, _USERS, days, each=24):
                report.add(_run_hours(instance, _USERS, day), day)
            _correct_devices(console, progress, report, instance, settings)
    console.print(_table(report, settings))
    for failure in report.failures:
        console.print(f"[red]failed[/] {failure}")
    for day in days:
        if missing := _missing_hours(day, landed):
            console.print(
                f"[yellow]withheld[/] the cube of {day}, as it should be: {', '.join(missing)} has not arrived. "
                f"Let it arrive, and the day completes:\n    .venv/bin/pattern-platform demo --land {missing[0]}",
                soft_wrap=True,
            )
    console.print(
        f"Look around: [bold]make dev[/], then http://127.0.0.1:3000. The tables are in {settings.lake}", soft_wrap=True
    )
    return 1 if report.failures else 0


def _run(
    instance: dg.DagsterInstance, assets: Sequence[dg.AssetKey], partition: str | None = None
) -> dg.ExecuteInProcessResult:
    return _EVERYTHING.execute_in_process(
        asset_selection=list(assets),
        partition_key=partition,
        instance=instance,
        raise_on_error=False,
        run_config=_QUIET,
    )


def _run_hours(instance: dg.DagsterInstance, assets: Sequence[dg.AssetKey], day: str) -> dg.ExecuteInProcessResult:
    """All hours of a day in one run."""
    window = visits.DAYS.time_window_for_partition_key(day)
    return _run_range(instance, assets, visits.HOURS.get_partition_keys_in_time_window(window))


def _run_range(
    instance: dg.DagsterInstance, assets: Sequence[dg.AssetKey], keys: Sequence[str]
) -> dg.ExecuteInProcessResult:
    """Partitions that follow each other in one run, as a backfill of a single run does."""
    return _EVERYTHING.execute_in_process(
        asset_selection=list(assets),
        tags={"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]},
        instance=instance,
        raise_on_error=False,
        run_config=_QUIET,
    )


def _run_days(
    progress: Progress, report: _Report, instance: dg.DagsterInstance, days: Sequence[str], landed: set[str]
) -> None:
    """What follows from a day whose hours have all landed."""
    complete = [day for day in days if not _missing_hours(day, landed)]
    for day in _tracked(progress, report, _DAYS, complete):
        report.add(_run(instance, _DAYS, day), day)
    every_day = visits.DAYS.get_partition_keys()
    for stretch in _stretches(every_day, lambda day: not _missing_hours(day, landed)):
        report.add(_run_range(instance, [_WEEKS], stretch), stretch[-1])  # a day is replayed with its week
    if complete:
        report.add(_run(instance, [catalogue.PUBLISHED_CUBE.key]), "")


def _correct_devices(
    console: Console, progress: Progress, report: _Report, instance: dg.DagsterInstance, settings: Settings
) -> None:
    """Merge every day, then a correction of one in the middle, then replay the days that it superseded."""
    device_updates.write_days(settings.landing)
    days = [day.isoformat() for day in device_updates.DAYS]
    for day in _tracked(progress, report, _DEVICES, days):
        report.add(_run(instance, _DEVICES, day), day)
    report.add(_run(instance, _CATALOGUE), "")
    corrected = device_updates.CORRECTED_DAY.isoformat()
    device_updates.write_correction(settings.landing)
    report.add(_run(instance, _DEVICES, corrected), corrected)
    table = str(settings.lake.joinpath(*devices.devices.key.path))
    superseded = read_version_table(table).filter(status="superseded")["execution_time"].to_list()
    console.print(f"{corrected} of clean/devices was corrected: {', '.join(superseded)} are superseded, and replayed")
    for day in superseded:
        report.add(_run(instance, _MERGED_DEVICES, day), day)
    report.add(_run(instance, _CATALOGUE), "")
    versions = read_version_table(table)
    shown = ", ".join(f"{day} v{version}" for day, version in versions.select(versions.columns[:2]).iter_rows())
    console.print(f"versions of clean/devices: {shown}", soft_wrap=True)


def _missing_hours(day: str, landed: set[str]) -> list[str]:
    window = visits.DAYS.time_window_for_partition_key(day)
    return [hour for hour in visits.HOURS.get_partition_keys_in_time_window(window) if hour not in landed]


def _stretches(days: Sequence[str], complete: Callable[[str], bool]) -> list[list[str]]:
    """The complete days, those that follow each other together."""
    return [list(stretch) for is_complete, stretch in groupby(days, complete) if is_complete]


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _tracked(
    progress: Progress, report: _Report, assets: Sequence[dg.AssetKey], partitions: Sequence[str], *, each: int = 1
) -> Iterator[str]:
    """The partitions, with a bar for each asset that grows as it is materialized, ``each`` times a partition."""
    bars = {key: progress.add_task(key.to_user_string(), total=len(partitions) * each) for key in assets}
    for partition in partitions:
        yield partition
        for key, bar in bars.items():
            progress.update(bar, completed=report.partitions[key])


def _table(report: _Report, settings: Settings) -> Table:
    table = Table("asset", "partitions", "rows", "checks passed", "seconds", title="What there is now")
    for column in table.columns[1:]:
        column.justify = "right"
    derived = (_WEEKS, catalogue.PUBLISHED_CUBE.key)
    for key in (*_INGESTED, *_DAYS, *derived, *_FLIGHTS, *_USERS, *_DEVICES, *_CATALOGUE):
        if not report.partitions[key]:
            continue
        snapshot = open_table(settings.lake.joinpath(*key.path))
        counted = int(snapshot.files["num_records"].sum()) if snapshot else sum(report.rows[key].values())
        rows = f"{counted:,}" if snapshot or report.rows[key] else "-"
        checks = f"{report.passed[key]} of {report.checks[key]}" if report.checks[key] else "-"
        table.add_row(key.to_user_string(), str(report.partitions[key]), rows, checks, f"{report.seconds[key]:.1f}")
    return table
