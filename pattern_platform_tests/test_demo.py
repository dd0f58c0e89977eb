"""The demo as a newcomer runs it, on one day whose hour 13 has not arrived."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pytest

from pattern_platform_tests.registry import registry_of
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

DAY = "2024-05-07"
LATE = f"{DAY}-13:00"
THE_DAY = {  # what there is only when all hours of a day have arrived
    "lake/aggregated/visits_cube",
    "lake/ledger/ad_impressions",
    "warehouse/billing/warehouse/billing__impressions",
    "warehouse/billing/warehouse/billing__loads",
    "warehouse/billing/warehouse/billing__totals",
    "warehouse/catalogue/published/visits_cube",
    "warehouse/cubes/warehouse/visits_cube",
    "warehouse/cubes/warehouse/visits_cube__loads",
    "warehouse/sessions/main/sessions",
    "warehouse/sessions/main/sessions__loads",
    "warehouse/visits/warehouse/visits_by_week",
    "warehouse/visits/warehouse/visits_by_week__20240506",
    "warehouse/visits/warehouse/visits_by_week__loads",
    "lake/archive/referrals_delta",
    "lake/dashboards/ad_revenue",
    "lake/dashboards/top_pages",
    "lake/serving/visits",
    f"exports/sessions/{DAY}.csv",
    f"exports/visits/{DAY}.csv",
    f"exports/visits_by_hour/partition={DAY}",
}


def demo(folder: Path, *arguments: str, exit_code: int = 0) -> str:
    """Run the command in a folder of its own."""
    home = folder / "dagster"
    home.mkdir(exist_ok=True)
    shutil.copy(CHECKOUT / "dagster.yaml", home)
    ran = subprocess.run(
        [sys.executable, "-m", "pattern_platform.cli", "demo", *arguments],
        env={
            **os.environ,
            "DAGSTER_HOME": str(home),
            "PATTERN_PLATFORM_DATA": str(folder),
            "PATTERN_PLATFORM_REGISTRY": str(registry_of(folder, DAY, 1)),
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == exit_code, ran.stdout + ran.stderr
    return ran.stdout


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    """What readers find, in the lake, in the DuckDB files and in the exported files; without versions, runs and times,
    which are another matter each time."""
    found: dict[str, pl.DataFrame] = {}
    for log in sorted((folder / "lake").glob("*/*/_delta_log")):
        found[log.parent.relative_to(folder).as_posix()] = pl.read_delta(str(log.parent))
    for database in sorted((folder / "warehouse").glob("*.duckdb")):
        with duckdb.connect(str(database), read_only=True) as connection:
            for schema, name in connection.execute("SELECT schema, name FROM (SHOW ALL TABLES)").fetchall():
                rows = connection.table(f'"{database.stem}"."{schema}"."{name}"').pl()
                if not name.endswith(("__versions", "__publications")):  # each load is one more
                    found[f"warehouse/{database.stem}/{schema}/{name}"] = rows
    for file in sorted((folder / "exports").glob("**/*.csv")):
        found[file.relative_to(folder).as_posix()] = pl.read_csv(file)
    for partition in sorted((folder / "exports").glob("**/partition=*")):
        rows = pl.read_parquet(partition / "*.parquet", hive_partitioning=False)
        found[partition.relative_to(folder).as_posix()] = rows
    another_each_time = {"table_version", "base", "run_id", "recorded_at", "loaded_at", "ingestion_time"}
    return {
        name: rows.select(sorted({*rows.columns} - another_each_time)).sort(pl.exclude(pl.List), nulls_last=True)
        for name, rows in found.items()
    }


def land_all_but_an_hour(folder: Path) -> None:
    """What the demo is run on: a day of each source, and hour 13 of the visits is late."""
    for source, day in (("visits", DAY), ("flights", "2013-01-01"), ("user_changes", DAY), ("comments", DAY)):
        landed = f"landing/{source}/date={day}"
        late = shutil.ignore_patterns("hour=13") if source == "visits" else None
        shutil.copytree(CHECKOUT / "data" / landed, folder / landed, ignore=late)


def assert_the_same_tables(now: dict[str, pl.DataFrame], before: dict[str, pl.DataFrame]) -> None:
    assert now.keys() == before.keys()
    assert not [name for name in now if not now[name].equals(before[name])]


def test_the_demo_withholds_the_day_until_its_last_hour_arrives(tmp_path: Path) -> None:
    land_all_but_an_hour(tmp_path)
    first = demo(tmp_path)
    assert f"withheld the cube of {DAY}" in first
    assert f"demo --land {LATE}" in first
    before = tables(tmp_path)
    assert "lake/aggregated/visits_cube" not in before
    assert before["lake/raw/flights"].height == 842
    assert "2024-05-08 of clean/devices was corrected: 2024-05-09, 2024-05-10 are superseded" in first
    assert "versions of clean/devices: 2024-05-06 v1, 2024-05-07 v2, 2024-05-08 v6, 2024-05-09 v7" in first
    assert set(before["lake/clean/devices__versions"]["status"]) == {"current"}
    assert "iphone-15" not in before["lake/clean/devices"]["id"]  # the correction left it out
    shown, loaded = before["warehouse/catalogue/published/device_catalogue"], before["lake/clean/devices"]
    assert sorted(shown["id"]) == sorted(loaded["id"])
    assert before["warehouse/devices/serving/devices"]["id"].sort().equals(loaded["id"].sort())
    assert not THE_DAY & before.keys()
    assert before["lake/clean/users"]["user_id"].is_unique().all()

    completed = demo(tmp_path, "--land", LATE)
    assert "withheld" not in completed
    whole = tables(tmp_path)
    assert {name for name in whole if name not in before} == THE_DAY
    visits = whole["lake/clean/visits"]
    cube = whole["lake/aggregated/visits_cube"]
    total = cube.filter(pl.col("page").is_null() & pl.col("user_id").is_null())["visits"].item()
    assert total == visits.height
    assert whole["warehouse/visits/warehouse/visits_by_week"]["visit_id"].sort().equals(visits["visit_id"].sort())
    for copy in ("warehouse/cubes/warehouse/visits_cube", "warehouse/catalogue/published/visits_cube"):
        assert whole[copy].equals(cube)
    hours = whole[f"exports/visits_by_hour/partition={DAY}"]
    assert hours.equals(whole["lake/aggregated/visits_by_hour"])
    sessions = whole["warehouse/sessions/main/sessions"]
    assert sessions["visits"].sum() == visits.height
    assert whole[f"exports/sessions/{DAY}.csv"]["session_id"].sort().equals(sessions["session_id"].sort())
    impressions = whole["warehouse/billing/warehouse/billing__impressions"]
    assert impressions.height == visits["ad_id"].drop_nulls().len()
    assert impressions["cents"].sum() == whole["warehouse/billing/warehouse/billing__totals"]["cents"].sum()
    assert whole["lake/ledger/ad_impressions"].equals(impressions.select(whole["lake/ledger/ad_impressions"].columns))
    grown = [name for name in before if "visits" in name or name.endswith("/sessions_by_hour")]
    assert all(whole[name].equals(before[name]) for name in before if name not in grown)
    shares = [
        tables_of["lake/aggregated/visits_estimate"]["completeness"].unique().to_list() for tables_of in (before, whole)
    ]
    assert shares == [[23 / 24], [1.0]]

    # The hour and all that follows from it once more. The sources whole, all over again, are for the soak.
    demo(tmp_path, "--land", LATE)
    assert_the_same_tables(tables(tmp_path), whole)


@pytest.mark.soak
def test_the_demo_again_leaves_the_same_tables(tmp_path: Path) -> None:
    """X-2 of everything at once; in the default suite the assets are run twice in the tests of their own."""
    land_all_but_an_hour(tmp_path)
    demo(tmp_path)
    demo(tmp_path, "--land", LATE)
    whole = tables(tmp_path)
    demo(tmp_path)
    assert_the_same_tables(tables(tmp_path), whole)


def test_the_demo_fails_when_something_fails_that_could_have_run(tmp_path: Path) -> None:
    """The negative control: no visits have arrived, which is no failure, and the flights have a wrong header."""
    flights = tmp_path / "landing/flights/date=2013-01-01/flights.csv"
    flights.parent.mkdir(parents=True)
    flights.write_text("year,month\n2013,1\n")
    said = demo(tmp_path, exit_code=1)
    assert "raw__flights, partition 2013-01-01" in said
    assert "WrongHeaderError" in said
    assert f"withheld the cube of {DAY}" in said
