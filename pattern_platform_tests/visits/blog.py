"""What the tests of the blog's tables have in common: what runs, and what the visits say without the platform."""

from __future__ import annotations

import datetime as dt
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from deltalake import DeltaTable

from pattern_platform.visits import assets as visits
from pattern_platform_tests.platform import Platform, errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from types import ModuleType

MONDAY, TUESDAY = "2024-05-06", "2024-05-07"


def assets_of(parts: Iterable[ModuleType]) -> list[Any]:
    """What some modules of the platform define: assets, checks and upkeep."""
    names = ("ASSETS", "CHECKS", "MAINTENANCE")
    return [definition for part in parts for name in names for definition in getattr(part, name, [])]


def copied(folder: Path, to: Path, parts: Iterable[ModuleType]) -> Platform:
    """A platform to go on from, with what is in a folder; views that name their files by path are not carried over."""
    shutil.copytree(folder, to, dirs_exist_ok=True, symlinks=True)
    return Platform(to, assets_of(parts))


def both_days(folder: Path, to: Path, parts: Iterable[ModuleType], keys: Sequence[dg.AssetKey]) -> Path:
    """A folder to go on from, in which assets ran for both days, each in a run of its own."""
    blog = copied(folder, to, parts)
    for day in (MONDAY, TUESDAY):
        run(blog, keys, day)
    return blog.folder


def written_visits(partitions: dg.PartitionsDefinition, log: Callable[[], pl.DataFrame]) -> dg.AssetsDefinition:
    """Clean visits that a test puts into the log, in place of those that come in from files."""

    @dg.asset(
        key=["clean", "visits"],
        partitions_def=partitions,
        io_manager_key="data_overwrite",
        metadata={"partition_expr": "append_time"},
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def visits() -> pl.DataFrame:
        return log()

    return visits


def cube_by_hand(blog: Platform, day: str | None = None) -> Counter[tuple[Any, ...]]:
    """The cube of a day, or of all, counted one visit after the other."""
    counted: Counter[tuple[Any, ...]] = Counter()
    for row in clean(blog, day):
        for page in (row["page"], None):
            for user in (row["user_id"], None):
                counted[row["append_time"].date(), page, user] += 1
    return counted


HOURLY = [key for definition in visits.ASSETS for key in definition.keys if key != visits.visits_cube.key]


def ingest(blog: Platform, first: str = f"{MONDAY}-00:00", last: str = f"{TUESDAY}-23:00") -> None:
    """Let landed hours come in."""
    succeeded(blog.run_range(HOURLY, first, last))


def correct(
    blog: Platform, day: str, hour: int, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> None:
    """Land an hour again, and let it come in."""
    blog.land_again(hour, change, day)
    ingest(blog, f"{day}-{hour:02}:00", f"{day}-{hour:02}:00")


def fewer(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A correction: the first half of an hour never was."""
    return records[len(records) // 2 :]


def run(blog: Platform, keys: Sequence[dg.AssetKey], *days: str) -> dg.ExecuteInProcessResult:
    """A day of some assets, or several days at once."""
    return succeeded(blog.run(keys, days[0]) if len(days) == 1 else blog.run_range(keys, days[0], days[-1]))


def succeeded(result: dg.ExecuteInProcessResult) -> dg.ExecuteInProcessResult:
    assert result.success, errors(result)
    return result


def clean(blog: Platform, day: str | None = None) -> list[dict[str, Any]]:
    """The clean visits of a day, or all, as delta-rs hands them to PyArrow."""
    rows = DeltaTable(blog.lake / "clean/visits").to_pyarrow_table()
    found = [dict(zip(rows.column_names, row, strict=True)) for row in zip(*rows.to_pydict().values(), strict=True)]
    return [row for row in found if day is None or row["append_time"].date() == dt.date.fromisoformat(day)]
