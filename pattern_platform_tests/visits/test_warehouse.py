"""Visits for readers in SQL and for readers of files: contents, reruns, corrections, and what looks after the units."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest

from pattern_platform.visits import assets as visits
from pattern_platform.visits import warehouse as module
from pattern_platform.visits.warehouse import CHECKS, MAINTENANCE, exported_hours, visits_by_week, visits_cube
from pattern_platform_tests.platform import errors, told
from pattern_platform_tests.visits.blog import (
    MONDAY,
    TUESDAY,
    both_days,
    clean,
    copied,
    correct,
    cube_by_hand,
    fewer,
    ingest,
    run,
    succeeded,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pattern_platform_tests.platform import Platform

PARTS = (visits, module)
WEEK = "visits.warehouse.visits_by_week"
CUBE = "cubes.warehouse.visits_cube"
EVERYTHING = [visits.visits_cube.key, visits_cube.key, exported_hours.key]
FREEZING, SCHEMA = MAINTENANCE
ADDS_UP, NOBODY_WAITS, TOTAL, UNIQUE = CHECKS


@pytest.fixture(scope="module")
def _week(tmp_path_factory: pytest.TempPathFactory, _ingested: Path) -> Path:
    return both_days(_ingested, tmp_path_factory.mktemp("week"), PARTS, [visits_by_week.key])


@pytest.fixture
def week(tmp_path: Path, _week: Path) -> Platform:
    """Both days, each in a run of its own."""
    return copied(_week, tmp_path, PARTS)


@pytest.fixture(scope="module")
def _shown(tmp_path_factory: pytest.TempPathFactory, _ingested: Path) -> Path:
    return both_days(_ingested, tmp_path_factory.mktemp("shown"), PARTS, EVERYTHING)


@pytest.fixture
def shown(tmp_path: Path, _shown: Path) -> Platform:
    """Cube and files of both days, each in a run of its own."""
    return copied(_shown, tmp_path, PARTS)


# What the tables hold, and what they are to hold ----------------------------------------------------------------------


def in_week(blog: Platform) -> list[dict[str, Any]]:
    return blog.sql("visits", f"FROM {WEEK} ORDER BY visit_id").to_dicts()


def expected_week(blog: Platform, day: str | None = None) -> list[dict[str, Any]]:
    columns = ("visit_id", "append_time", "event_time", "user_id", "page")
    kept = [{column: row[column] for column in columns} for row in clean(blog, day)]
    return sorted(kept, key=lambda row: row["visit_id"])


def in_cube(blog: Platform) -> Counter[tuple[Any, ...]]:
    rows = blog.sql("cubes", f"FROM {CUBE}").select("day", "page", "user_id", "visits").rows()
    assert len({row[:3] for row in rows}) == len(rows)
    return Counter({row[:3]: row[3] for row in rows})


def in_files(blog: Platform, day: str) -> Counter[tuple[Any, ...]]:
    """As a reader finds them that knows no table format."""
    rows = pl.read_parquet(blog.folder / f"exports/visits_by_hour/partition={day}/*.parquet", hive_partitioning=False)
    assert rows.columns == ["hour", "page", "user_id", "visits"]
    assert not rows.select("hour", "page", "user_id").is_duplicated().any()
    return Counter({row[:3]: row[3] for row in rows.rows()})


def expected_files(blog: Platform, day: str) -> Counter[tuple[Any, ...]]:
    return Counter(
        (row["append_time"].replace(minute=0, second=0, microsecond=0), row["page"], row["user_id"])
        for row in clean(blog, day)
    )


def registry(blog: Platform) -> dict[str, int | None]:
    return dict(blog.sql("visits", f"FROM {WEEK}__loads SELECT partition, rows ORDER BY ALL").rows())


# Contents and reruns --------------------------------------------------------------------------------------------------


def test_the_week_is_the_clean_visits(week: Platform) -> None:
    expected = expected_week(week)
    assert len(expected) > 400
    assert in_week(week) == expected
    assert registry(week) == {day: len(expected_week(week, day)) for day in (MONDAY, TUESDAY)}
    units = week.sql("visits", "SELECT table_name FROM duckdb_tables() WHERE NOT ends_with(table_name, 'loads')")
    assert units["table_name"].to_list() == ["visits_by_week__20240506"]


def test_the_week_twice(week: Platform) -> None:
    """X-2, as days that follow each other and as a range in one run: row by row the same."""
    expected = in_week(week)
    run(week, [visits_by_week.key], MONDAY)
    assert in_week(week) == expected_week(week, MONDAY)
    run(week, [visits_by_week.key], TUESDAY)
    assert in_week(week) == expected
    for _ in range(2):
        result = run(week, [visits_by_week.key], MONDAY, TUESDAY)
        assert told(result, visits_by_week.key)["duckdb/units_reset"] == ["20240506"]
        assert in_week(week) == expected


def test_cube_and_files_twice(shown: Platform) -> None:
    """X-2: what is shown of two days, in any order of the days."""
    for days in ((), (TUESDAY, MONDAY)):
        for day in days:
            run(shown, EVERYTHING, day)
        assert in_cube(shown) == cube_by_hand(shown)
        for day in (MONDAY, TUESDAY):
            assert in_files(shown, day) == expected_files(shown, day)
            assert in_files(shown, day).total() == len(clean(shown, day))


def test_a_cube_of_a_day_that_was_never_made_is_refused(blog: Platform) -> None:
    result = blog.run([visits_cube.key], MONDAY)
    assert not result.success
    assert errors(result)[0].startswith("MissingTableError")
    run(blog, EVERYTHING, MONDAY)
    result = blog.run([visits_cube.key], TUESDAY)
    assert errors(result)[0].startswith("MissingPartitionsError")
    assert in_cube(blog) == cube_by_hand(blog, MONDAY)


# Corrections ----------------------------------------------------------------------------------------------------------


def test_a_corrected_day_changes_its_cube_and_its_files_alone(shown: Platform) -> None:
    tuesday = in_files(shown, TUESDAY)
    before = in_cube(shown)
    correct(shown, MONDAY, 10, fewer)
    run(shown, EVERYTHING, MONDAY)
    assert in_cube(shown) == cube_by_hand(shown) != before
    assert in_files(shown, MONDAY) == expected_files(shown, MONDAY)
    assert in_files(shown, TUESDAY) == tuesday


def test_a_corrected_day_is_refused_and_its_week_replayed(week: Platform) -> None:
    before = in_week(week)
    correct(week, TUESDAY, 10, fewer)
    result = week.run([visits_by_week.key], TUESDAY)
    assert not result.success
    (error,) = errors(result)
    assert error.startswith("ReplayUnitError")
    command = re.search(r"dg launch --assets (\S+) --partition-range (\S+)\.\.\.(\S+)", error)
    assert command
    assert in_week(week) == before

    asset, first, last = command.groups()
    succeeded(week.run_range([dg.AssetKey(asset.split("/"))], first, last))
    assert in_week(week) == expected_week(week) != before


def test_the_first_day_alone_leaves_the_others_waiting(week: Platform) -> None:
    correct(week, MONDAY, 10, fewer)
    assert week.evaluate(NOBODY_WAITS).passed
    result = run(week, [visits_by_week.key], MONDAY)
    assert told(result, visits_by_week.key)["duckdb/partitions_to_replay"] == [TUESDAY]
    assert in_week(week) == expected_week(week, MONDAY)
    assert registry(week)[TUESDAY] is None
    (waiting,) = [e for e in result.get_asset_check_evaluations() if not e.passed]
    assert waiting.check_name == "no_partition_waits"
    assert waiting.metadata["waiting"].value == [TUESDAY]
    run(week, [visits_by_week.key], TUESDAY)
    assert in_week(week) == expected_week(week)
    assert week.evaluate(NOBODY_WAITS).passed


# Checks, each with what it is there for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "planted",
    [
        "INSERT INTO {0}__20240506 FROM {0}__20240506 LIMIT 1",
        "DELETE FROM {0}__20240506 WHERE visit_id = (SELECT min(visit_id) FROM {0})",
        "UPDATE {0}__20240506 SET visit_id = 'twice' WHERE user_id <= 'user-000003'",
        "CREATE OR REPLACE VIEW {0} AS FROM {0}__20240506 LIMIT 5",
    ],
)
def test_units_that_do_not_add_up_are_found(week: Platform, planted: str) -> None:
    assert week.evaluate(ADDS_UP).passed
    week.execute("visits", planted.format(WEEK))
    assert not week.evaluate(ADDS_UP).passed


def test_a_cube_that_lost_a_visit_is_found(shown: Platform) -> None:
    assert shown.evaluate(TOTAL, MONDAY).passed
    shown.execute("cubes", f"UPDATE {CUBE} SET visits = visits - 1 WHERE page IS NULL AND user_id IS NULL")  # noqa: S608
    assert not shown.evaluate(TOTAL, MONDAY).passed


def test_an_hour_that_was_exported_twice_is_found(shown: Platform) -> None:
    assert shown.evaluate(UNIQUE, MONDAY).passed
    folder = shown.folder / f"exports/visits_by_hour/partition={MONDAY}"
    file = next(folder.glob("*.parquet"))
    (folder / "again.parquet").write_bytes(file.read_bytes())
    assert not shown.evaluate(UNIQUE, MONDAY).passed


# Upkeep, as a person launches it from the UI --------------------------------------------------------------------------


def test_freezing_asks_until_when(week: Platform) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="before"):
        week.run([FREEZING.key])


def test_weeks_are_frozen_by_config(week: Platform) -> None:
    shown = in_week(week)
    unchanged = week.run([FREEZING.key], config={FREEZING.op.name: {"before": "2024-05-31"}})
    assert told(unchanged, FREEZING.key)["duckdb/units"] == ["20240506"]
    for _ in range(2):
        frozen = week.run([FREEZING.key], config={FREEZING.op.name: {"into": "month", "before": "2024-06-03"}})
        assert told(frozen, FREEZING.key)["duckdb/units"] == ["frozen_202405"]
        assert in_week(week) == shown
        assert week.evaluate(ADDS_UP).passed
    result = week.run_range([visits_by_week.key], MONDAY, TUESDAY)
    assert errors(result)[0].startswith("FrozenUnitError")
    assert in_week(week) == shown


def test_a_week_with_a_day_that_waits_is_not_frozen(week: Platform) -> None:
    run(week, [visits_by_week.key], MONDAY)
    result = week.run([FREEZING.key], config={FREEZING.op.name: {"before": "2024-06-03"}})
    assert errors(result)[0].startswith("ReplayUnitError")
    assert TUESDAY in errors(result)[0]


def test_the_schema_is_changed_by_config(week: Platform) -> None:
    shown = in_week(week)
    assert told(week.run([SCHEMA.key]), SCHEMA.key)["duckdb/units_changed"] == []
    week.execute("visits", f"ALTER TABLE {WEEK}__20240506 ADD COLUMN depth SMALLINT")
    week.execute("visits", f"UPDATE {WEEK}__20240506 SET depth = 3")  # noqa: S608
    changed = week.run([SCHEMA.key], config={SCHEMA.op.name: {"types": {"depth": "BIGINT"}}})
    assert told(changed, SCHEMA.key)["duckdb/units_changed"] == ["20240506"]
    assert told(changed, SCHEMA.key)["columns"]["depth"] == "Int64"
    types = week.sql("visits", f"DESCRIBE {WEEK}").select("column_name", "column_type").rows()
    assert ("depth", "BIGINT") in types
    assert [{name: row[name] for name in shown[0]} for row in in_week(week)] == shown


@pytest.mark.parametrize(
    ("types", "error"),
    [
        ({"colour": "BIGINT"}, "InvalidMetadataError"),
        ({"page": "SMALLINT"}, "ChangedTypeError"),
        ({"page": "VARCHAR; DROP TABLE x"}, "InvalidMetadataError"),
    ],
)
def test_a_change_of_the_schema_that_cannot_be_is_refused(week: Platform, types: dict[str, str], error: str) -> None:
    result = week.run([SCHEMA.key], config={SCHEMA.op.name: {"types": types}})
    assert not result.success
    assert errors(result)[0].startswith(error)
    assert in_week(week) == expected_week(week)


def test_a_day_without_visits_is_a_day(blog: Platform) -> None:
    for hour in range(24):
        blog.land_lines(hour, [], day=TUESDAY)
    ingest(blog, f"{TUESDAY}-00:00", f"{TUESDAY}-23:00")
    for day in (MONDAY, TUESDAY):
        run(blog, [visits_by_week.key, *EVERYTHING], day)
    assert registry(blog)[TUESDAY] == 0
    assert in_week(blog) == expected_week(blog, MONDAY)
    assert not in_files(blog, TUESDAY)
    assert {day for day, *_ in in_cube(blog)} == {dt.date.fromisoformat(MONDAY)}
