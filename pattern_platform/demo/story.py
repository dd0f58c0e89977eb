"""From landed files to dashboards, in the order in which a day happens."""

from __future__ import annotations

from itertools import groupby, takewhile
from typing import TYPE_CHECKING

import dagster as dg

from pattern_platform.dashboards import assets as dashboards
from pattern_platform.dashboards.partner import write_prices
from pattern_platform.demo.runs import Runs, progress_of
from pattern_platform.flights import assets as flights
from pattern_platform.lake.version_table import read_version_table
from pattern_platform.settings import SAMPLE_ROWS_PER_HOUR, SAMPLE_SEED, Settings
from pattern_platform.visits import (
    archive,
    billing,
    catalogue,
    comments,
    device_updates,
    devices,
    estimate,
    hourly_sessions,
    likes,
    migration,
    page_speed,
    page_speed_files,
    sessions,
    users,
    warehouse,
)
from pattern_platform.visits import assets as visits
from pattern_platform.visits.generator import rows_in_hour, write_hour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from rich.console import Console


def _keys(*parts: Iterable[dg.AssetsDefinition]) -> list[dg.AssetKey]:
    return [spec.key for part in parts for definition in part for spec in definition.specs]


_CUBE, _WEEKS = visits.visits_cube.key, warehouse.visits_by_week.key
_INGESTED = [key for key in _keys(visits.ASSETS) if key != _CUBE]
_DERIVED = _keys(warehouse.ASSETS, billing.ASSETS, sessions.ASSETS, migration.ASSETS, archive.ASSETS)
_DAYS = [_CUBE, *(key for key in _DERIVED if key != _WEEKS)]
_ESTIMATE, _OPEN_SESSIONS = _keys(estimate.ASSETS), _keys(hourly_sessions.ASSETS)
_FLIGHTS, _USERS, _LIKES = _keys(flights.ASSETS), _keys(users.ASSETS), _keys(likes.ASSETS)
_DEVICES, _REGIONS = _keys(devices.ASSETS), _keys(page_speed.ASSETS)
_RAW_COMMENTS, *_CLEAN_COMMENTS, _COMMENTED = _keys(comments.ASSETS)
_MERGED_DEVICES = [devices.devices.key, devices.VERSIONS.key, devices.served_devices.key]
_CATALOGUE = [catalogue.device_catalogue.key, catalogue.PUBLISHED_CATALOGUE.key]
_PUBLISHED_CUBE = catalogue.PUBLISHED_CUBE.key
_TOP_PAGES, _REVENUE, _ARRIVALS = _keys(dashboards.ASSETS)
_SHOWN = [
    *(*_INGESTED, *_ESTIMATE, *_OPEN_SESSIONS, *_DAYS, _WEEKS, _PUBLISHED_CUBE, *_FLIGHTS, *_USERS, *_DEVICES),
    *(*_CATALOGUE, *_LIKES, _RAW_COMMENTS, *_CLEAN_COMMENTS, _COMMENTED, *_REGIONS, _TOP_PAGES, _REVENUE, _ARRIVALS),
]


def run_demo(console: Console, *, land: datetime | None) -> int:
    """Run the demo.

    Args:
        console: Where to draw.
        land: A late hour to land first; only it and what waits for it are run then.

    Returns:
        The exit code: 0, or 1 when something failed that could have run.
    """
    settings = Settings()
    hours, days = visits.HOURS.get_partition_keys(), visits.DAYS.get_partition_keys()
    if land:
        write_hour(settings.landing, land, rows=rows_in_hour(land, SAMPLE_ROWS_PER_HOUR), seed=SAMPLE_SEED)
        hours, days = [land.strftime(visits.HOURS.fmt)], [land.date().isoformat()]
    with dg.DagsterInstance.get() as instance, progress_of(console) as progress:
        runs = Runs(instance, progress)
        runs.each(_INGESTED, hours)
        landed = instance.get_materialized_partitions(visits.visits_by_hour.key) - set(runs.report.not_arrived)
        runs.each(_ESTIMATE, days)
        _carry_sessions(runs, landed, start=hours[0])
        if not land:
            _other_sources(console, runs, settings)
        _complete_days(runs, days, landed)
    console.print(runs.report.table(_SHOWN, settings.lake))
    for failure in runs.report.failures:
        console.print(f"[red]failed[/] {failure}")
    for day in days:
        if missing := _missing_hours(day, landed):
            console.print(
                f"[yellow]withheld[/] the cube of {day}, as it should be: {', '.join(missing)} has not arrived; "
                "its estimate says so. "
                f"Let it arrive, and the day completes:\n    .venv/bin/pattern-platform demo --land {missing[0]}",
                soft_wrap=True,
            )
    console.print(
        f"Look around: [bold]make dev[/], then http://127.0.0.1:3000. The tables are in {settings.lake}", soft_wrap=True
    )
    return 1 if runs.report.failures else 0


def _carry_sessions(runs: Runs, landed: set[str], *, start: str) -> None:
    """Hours that follow each other, up to the first that has not arrived."""
    every_hour = visits.HOURS.get_partition_keys()
    if stretch := list(takewhile(landed.__contains__, every_hour[every_hour.index(start) :])):
        runs.run_range(_OPEN_SESSIONS, stretch)


def _complete_days(runs: Runs, days: Sequence[str], landed: set[str]) -> None:
    """What follows from a day whose hours have all landed."""
    complete = [day for day in days if not _missing_hours(day, landed)]
    runs.each(_DAYS, complete)
    every_day = visits.DAYS.get_partition_keys()
    stretches = _stretches(every_day, lambda day: not _missing_hours(day, landed))
    for stretch in stretches:
        runs.run_range([_WEEKS], stretch)  # a day is replayed with its week
    if complete:
        runs.run([_PUBLISHED_CUBE])
    runs.each([_TOP_PAGES], complete)
    if stretches == [every_day]:
        runs.run([_REVENUE])


def _other_sources(console: Console, runs: Runs, settings: Settings) -> None:
    for day in runs.tracked([*_FLIGHTS, _ARRIVALS], flights.DAYS.get_partition_keys()):
        runs.run(_FLIGHTS, day)
        runs.run([_ARRIVALS], day)
    for day in runs.tracked(_USERS, visits.DAYS.get_partition_keys(), each=24):
        window = visits.DAYS.time_window_for_partition_key(day)
        runs.run_range(_USERS, visits.HOURS.get_partition_keys_in_time_window(window))
    _correct_devices(console, runs, settings)
    runs.each(_LIKES, likes.LIKES.partitions.get_partition_keys())
    _late_comments(runs)
    regions = [file.stem for file in page_speed_files.write_regions(settings.landing)]
    runs.instance.add_dynamic_partitions(str(page_speed.REGIONS.name), regions)
    runs.each(_REGIONS, regions)
    write_prices(str(settings.lake), storage_options=settings.storage.options)
    partner = dg.AssetMaterialization(dashboards.AD_PRICES.key, description="written by a partner")
    runs.instance.report_runless_asset_event(partner)


def _late_comments(runs: Runs) -> None:
    """All hours arrive; then each is made of what was written in it, however late that came."""
    days = visits.DAYS.get_partition_keys()
    for keys in ([_RAW_COMMENTS], _CLEAN_COMMENTS):
        for day in runs.tracked(keys, days, each=24):
            window = visits.DAYS.time_window_for_partition_key(day)
            runs.run_range(keys, comments.COMMENTS.partitions.get_partition_keys_in_time_window(window))
    runs.each([_COMMENTED], days)


def _correct_devices(console: Console, runs: Runs, settings: Settings) -> None:
    """Merge every day, then a correction of one in the middle, then replay the days that it superseded."""
    device_updates.write_days(settings.landing)
    runs.each(_DEVICES, [day.isoformat() for day in device_updates.DAYS])
    runs.run(_CATALOGUE)
    corrected = device_updates.CORRECTED_DAY.isoformat()
    device_updates.write_correction(settings.landing)
    runs.run(_DEVICES, corrected)
    table = str(settings.lake.joinpath(*devices.devices.key.path))
    options = settings.storage.options
    superseded = read_version_table(table, options).filter(status="superseded")["execution_time"].to_list()
    console.print(f"{corrected} of clean/devices was corrected: {', '.join(superseded)} are superseded, and replayed")
    for day in superseded:
        runs.run(_MERGED_DEVICES, day)
    runs.run(_CATALOGUE)
    versions = read_version_table(table, options)
    shown = ", ".join(f"{day} v{version}" for day, version in versions.select(versions.columns[:2]).iter_rows())
    console.print(f"versions of clean/devices: {shown}", soft_wrap=True)


def _missing_hours(day: str, landed: set[str]) -> list[str]:
    window = visits.DAYS.time_window_for_partition_key(day)
    return [hour for hour in visits.HOURS.get_partition_keys_in_time_window(window) if hour not in landed]


def _stretches(days: Sequence[str], complete: Callable[[str], bool]) -> list[list[str]]:
    """The complete days, those that follow each other together."""
    return [list(stretch) for is_complete, stretch in groupby(days, complete) if is_complete]
