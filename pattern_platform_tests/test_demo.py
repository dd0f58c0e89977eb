"""The demo as a newcomer runs it, on one day whose hour 13 has not arrived."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import polars as pl

from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

DAY = "2024-05-07"
LATE = f"{DAY}-13:00"


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
            "PATTERN_PLATFORM_VISITS_FROM": DAY,
            "PATTERN_PLATFORM_VISITS_DAYS": "1",
            "PATTERN_PLATFORM_FLIGHTS_DAYS": "1",
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == exit_code, ran.stdout + ran.stderr
    return ran.stdout


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    found = {}
    for log in sorted((folder / "lake").glob("*/*/_delta_log")):
        rows = pl.read_delta(str(log.parent))
        # Versions, runs and times are another matter each time.
        columns = sorted({*rows.columns} - {"table_version", "base", "run_id", "recorded_at"})
        found[log.parent.relative_to(folder).as_posix()] = rows.select(columns).sort(
            pl.exclude(pl.List), nulls_last=True
        )
    return found


def test_the_demo_withholds_the_day_until_its_last_hour_arrives(tmp_path: Path) -> None:
    for source, day in (("visits", DAY), ("flights", "2013-01-01"), ("user_changes", DAY)):
        landed = f"landing/{source}/date={day}"
        late = shutil.ignore_patterns("hour=13") if source == "visits" else None
        shutil.copytree(CHECKOUT / "data" / landed, tmp_path / landed, ignore=late)
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
    assert before["lake/clean/users"]["user_id"].is_unique().all()

    demo(tmp_path)
    after = tables(tmp_path)
    assert after.keys() == before.keys()
    assert all(after[name].equals(before[name]) for name in before)

    completed = demo(tmp_path, "--land", LATE)
    assert "withheld" not in completed
    cube = tables(tmp_path)["lake/aggregated/visits_cube"]
    total = cube.filter(pl.col("page").is_null() & pl.col("user_id").is_null())["visits"].item()
    assert total == tables(tmp_path)["lake/clean/visits"].height


def test_the_demo_fails_when_something_fails_that_could_have_run(tmp_path: Path) -> None:
    """The negative control: no visits have arrived, which is no failure, and the flights have a wrong header."""
    flights = tmp_path / "landing/flights/date=2013-01-01/flights.csv"
    flights.parent.mkdir(parents=True)
    flights.write_text("year,month\n2013,1\n")
    said = demo(tmp_path, exit_code=1)
    assert "raw__flights, partition 2013-01-01" in said
    assert "WrongHeaderError" in said
    assert f"withheld the cube of {DAY}" in said
