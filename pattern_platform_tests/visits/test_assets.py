"""Aligned fan-in of visits, scenarios AF-1 to AF-6: 24 hours from landed files to the cube of their day."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest

from pattern_platform.visits import assets as visits
from pattern_platform_tests.platform import DAY, Platform, errors

if TYPE_CHECKING:
    from pathlib import Path

HOURLY = [key for definition in visits.ASSETS for key in definition.keys if key != visits.visits_cube.key]
NEXT_DAY = "2024-05-07"
CUBE = ("aggregated", "visits_cube")


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path, [*visits.ASSETS, *visits.CHECKS])


def ingest(platform: Platform, hour: int, *, day: str = DAY) -> dg.ExecuteInProcessResult:
    return platform.run(HOURLY, f"{day}-{hour:02}:00")


def ingest_hours(platform: Platform, first: int = 0, last: int = 23, *, day: str = DAY) -> None:
    """Hours in one run, where no test asks what each run did: of a run for each of them, Dagster is the most."""
    result = platform.run_range(HOURLY, f"{day}-{first:02}:00", f"{day}-{last:02}:00")
    assert result.success, errors(result)


def cube(platform: Platform, day: str = DAY) -> dg.ExecuteInProcessResult:
    return platform.run([visits.visits_cube.key], day)


def ten(hour: int) -> list[tuple[str, str]]:
    return [(f"u{number % 4}", f"page-{(number + hour) % 3}") for number in range(10)]


def grand_total(platform: Platform, day: str = DAY) -> list[int]:
    total = platform.rows(*CUBE).filter(
        pl.col("page").is_null() & pl.col("user_id").is_null() & (pl.col("day") == pl.lit(day).str.to_date())
    )
    return total["visits"].to_list()


def test_af_1_cube_of_three_visits(platform: Platform) -> None:
    platform.land_visits(0, [("u1", "home"), ("u2", "home")])
    platform.land_visits(1, [("u1", "about")])
    for hour in range(24):
        if hour > 1:
            platform.land_visits(hour, [])
    ingest_hours(platform)
    assert cube(platform).success
    rows = platform.rows(*CUBE).select("page", "user_id", "visits").rows()
    assert sorted(rows, key=str) == sorted(
        [
            *[("about", "u1", 1), ("about", None, 1), ("home", "u1", 1), ("home", "u2", 1)],
            *[("home", None, 2), (None, "u1", 2), (None, "u2", 1), (None, None, 3)],
        ],
        key=str,
    )


def test_af_2_to_5_days_add_up_and_a_failed_hour_is_replayed_alone(platform: Platform) -> None:
    for hour in range(24):
        if hour != 13:
            platform.land_visits(hour, ten(hour))
    ingest_hours(platform, 0, 11)
    results = {hour: ingest(platform, hour) for hour in (12, 13, 14)}
    ingest_hours(platform, 15, 23)

    # AF-3: hour 13 failed alone, with an error that names file and partition; the day is refused.
    assert [hour for hour, result in results.items() if not result.success] == [13]
    (error,) = errors(results[13])
    assert error.startswith("FileNotArrivedError")
    assert f"{DAY}-13:00" in error
    assert f"visits/date={DAY}/hour=13/*.jsonl.gz" in error
    (refusal,) = errors(cube(platform))
    assert refusal.startswith("MissingPartitionsError")
    assert f"'{DAY}-13:00'" in refusal
    assert not (platform.lake / "aggregated/visits_cube").exists()

    # AF-4 and AF-2: the hour arrives, only it and the cube run.
    platform.land_visits(13, ten(13))
    assert ingest(platform, 13).success
    assert cube(platform).success
    assert grand_total(platform) == [240]
    before = platform.rows(*CUBE)
    assert cube(platform).success
    assert platform.rows(*CUBE).sort(pl.all()).equals(before.sort(pl.all()))

    # AF-5: the next day has its own total.
    for hour in range(24):
        platform.land_visits(hour, ten(hour), day=NEXT_DAY)
    ingest_hours(platform, day=NEXT_DAY)
    assert cube(platform, NEXT_DAY).success
    assert grand_total(platform) == [240]
    assert grand_total(platform, NEXT_DAY) == [240]


def test_af_6_two_views_of_a_page_in_an_hour_are_two(platform: Platform) -> None:
    platform.land_visits(0, [("u1", "home"), ("u1", "home")])
    assert ingest(platform, 0).success
    assert platform.rows("aggregated", "visits_by_hour")["visits"].to_list() == [2]


def test_a_day_without_visits_has_an_empty_cube(platform: Platform) -> None:
    for hour in range(24):
        platform.land_visits(hour, [])
    ingest_hours(platform)
    assert cube(platform).success
    assert platform.rows(*CUBE).is_empty()


def test_the_sum_of_the_hours_is_checked(platform: Platform) -> None:
    """The negative control of adds_up: a cube that lost rows is found."""
    for hour in range(24):
        platform.land_visits(hour, [("u1", "home")])
    ingest_hours(platform)
    assert cube(platform).success
    total = pl.read_delta(str(platform.lake.joinpath(*CUBE))).with_columns(visits=pl.lit(1, dtype=pl.Int64))
    total.write_delta(str(platform.lake.joinpath(*CUBE)), mode="overwrite")
    result = platform.run(dg.AssetSelection.checks_for_assets(visits.visits_cube), DAY)
    (evaluation,) = [check for check in result.get_asset_check_evaluations() if check.check_name == "adds_up"]
    assert not evaluation.passed
    assert {name: value.value for name, value in evaluation.metadata.items()} == {"total": 1, "sum_of_parts": 24}
