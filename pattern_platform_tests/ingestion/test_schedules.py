"""When a data set is looked for, and what is asked for then."""

# ruff: noqa: DTZ001 - days of a local clock

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from pattern_platform.errors import InvalidSettingsError
from pattern_platform.ingestion.registry.rows import read_registry
from pattern_platform.ingestion.schedules import ingest
from pattern_platform_tests.ingestion.onboarding import DAILY, FULL, INCREMENTAL, onboard, write_registry
from pattern_platform_tests.lake.tables import shared_instance

if TYPE_CHECKING:
    from pathlib import Path

    from pattern_platform.ingestion.dataset import Dataset

HOURLY = {**DAILY, "granularity": "hour", "source": "sales/date=%Y-%m-%d/hour=%H/*.csv", "ends": ""}
OPEN = {**DAILY, "ends": ""}
URGENT = {"dagster/priority": "1"}


def of(folder: Path, row: dict[str, str]) -> Dataset:
    (dataset,) = read_registry(write_registry(folder, row), retention_days=30).values()
    return dataset


def requested(folder: Path, row: dict[str, str], word: str | None, at: datetime) -> tuple[str, list[dict[str, str]]]:
    """The cron of a data set's schedule, and the tags of the runs that it asks for at a moment."""
    platform = onboard(folder, row)
    jobs, (schedule,) = ingest(platform.dataset, word, URGENT)  # ty: ignore[invalid-argument-type]
    definitions = dg.Definitions(assets=platform.assets, jobs=jobs, schedules=[schedule], resources=platform.resources)
    repository = definitions.get_repository_def()
    resolved = repository.get_schedule_def("ingest_sales_schedule")
    context = dg.build_schedule_context(
        instance=shared_instance(), scheduled_execution_time=at, repository_def=repository
    )
    data = resolved.evaluate_tick(context)
    cron = resolved.cron_schedule
    assert isinstance(cron, str)
    return cron, [dict(request.tags) for request in data.run_requests or []]


def partition(tags: dict[str, str]) -> list[str]:
    named = [f"dagster/{name}" for name in ("partition", "asset_partition_range_start", "asset_partition_range_end")]
    return [tags[name] for name in named if name in tags]


@pytest.mark.parametrize("word", [None, "hourly"])
def test_hours_are_read_when_they_have_ended(tmp_path: Path, word: str | None) -> None:
    cron, (tags,) = requested(tmp_path, HOURLY, word, datetime(2024, 5, 7, 14, 10, tzinfo=UTC))
    assert cron == "10 * * * *"
    assert partition(tags) == ["2024-05-07-13:00"]


def test_days_are_read_in_the_morning_after(tmp_path: Path) -> None:
    for word in (None, "daily"):
        cron, (tags,) = requested(tmp_path / str(word), OPEN, word, datetime(2024, 5, 8, 6, 10, tzinfo=UTC))
        assert cron == "10 6 * * *"
        assert partition(tags) == ["2024-05-07"]


def test_hours_may_be_read_once_a_day(tmp_path: Path) -> None:
    cron, (tags,) = requested(tmp_path, HOURLY, "daily", datetime(2024, 5, 8, 6, 10, tzinfo=UTC))
    assert cron == "10 6 * * *"
    assert partition(tags) == ["2024-05-07-00:00", "2024-05-07-23:00"]


@pytest.mark.parametrize(
    ("day", "hours", "last"),
    [
        (datetime(2024, 3, 31), 23, "2024-03-31-23:00"),
        (datetime(2024, 10, 27), 25, "2024-10-27-23:00"),
        (datetime(2024, 5, 7), 24, "2024-05-07-23:00"),
    ],
    ids=["spring", "autumn", "any"],
)
def test_hours_of_a_day_on_which_the_clock_changes(tmp_path: Path, day: datetime, hours: int, last: str) -> None:
    row = {**HOURLY, "time_zone": "Europe/Paris", "starts": "2024-01-01"}
    morning = (day + timedelta(days=1)).replace(hour=6, minute=10, tzinfo=ZoneInfo("Europe/Paris"))
    _, (tags,) = requested(tmp_path, row, "daily", morning)
    first, until = partition(tags)
    assert (first, until) == (f"{day:%Y-%m-%d}-00:00", last)
    keys = of(tmp_path, row).partitions
    assert keys is not None
    every = keys.get_partition_keys(current_time=morning)
    assert every.index(until) - every.index(first) + 1 == hours


def test_before_the_first_partition_nothing_is_asked_for(tmp_path: Path) -> None:
    assert requested(tmp_path, HOURLY, "daily", datetime(2024, 5, 6, 6, 10, tzinfo=UTC))[1] == []


def test_the_first_day_may_be_a_part_of_what_is_asked_for(tmp_path: Path) -> None:
    row = {**HOURLY, "ends": "2024-05-08"}
    _, (tags,) = requested(tmp_path, row, "daily", datetime(2024, 5, 8, 6, 10, tzinfo=UTC))
    assert partition(tags) == ["2024-05-07-00:00", "2024-05-07-23:00"]
    assert requested(tmp_path, row, "daily", datetime(2024, 5, 9, 6, 10, tzinfo=UTC))[1] == []


@pytest.mark.parametrize("row", [FULL, INCREMENTAL], ids=["full", "incremental"])
@pytest.mark.parametrize(
    ("word", "cron"), [(None, "10 6 * * *"), ("daily", "10 6 * * *"), ("hourly", "10 * * * *")], ids=str
)
def test_what_has_no_partitions_is_looked_for_by_the_word(
    tmp_path: Path, row: dict[str, str], word: str | None, cron: str
) -> None:
    found, (tags,) = requested(tmp_path, row, word, datetime(2024, 5, 8, 6, 10, tzinfo=UTC))
    assert found == cron
    assert partition(tags) == []


@pytest.mark.parametrize("row", [HOURLY, OPEN, FULL, INCREMENTAL], ids=["hour", "day", "full", "new"])
def test_off_leaves_the_job_and_no_schedule(tmp_path: Path, row: dict[str, str]) -> None:
    jobs, schedules = ingest(of(tmp_path, row), "off", URGENT)
    assert [job.name for job in jobs] == ["ingest_sales"]
    assert schedules == []


def test_days_do_not_end_every_hour(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingsError) as refused:
        ingest(of(tmp_path, DAILY), "hourly", URGENT)
    assert "schedules.sales" in refused.value.what
    assert "daily or off" in refused.value.mend


@pytest.mark.parametrize(
    ("row", "stages"),
    [
        (DAILY, ["raw"]),
        (FULL, ["raw", "clean", "quarantine"]),
        (INCREMENTAL, ["raw", "clean", "quarantine"]),
        ({**FULL, "stage": "raw"}, ["raw"]),
    ],
    ids=["day", "full", "new", "raw alone"],
)
def test_what_the_job_makes(tmp_path: Path, row: dict[str, str], stages: list[str]) -> None:
    """Of partitions raw rows alone: the conditions of the assets ask for what follows."""
    platform = onboard(tmp_path, row)
    jobs, _ = ingest(platform.dataset, None, URGENT)
    definitions = dg.Definitions(assets=platform.assets, jobs=jobs, resources=platform.resources)
    made = definitions.resolve_job_def("ingest_sales")
    assert {key.path[0] for key in made.asset_layer.selected_asset_keys} == set(stages)
    assert made.tags["dagster/priority"] == "1"
