"""A visitor is erased from the blog: from every table that was made of the visits, and from what they were made of."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.datasets import DATASETS, FIRST_DAY
from pattern_platform.ingestion.erased import ErasedSubjects
from pattern_platform.ingestion.landing import read_landed
from pattern_platform.visits import (
    assets,
    billing,
    catalogue,
    devices,
    hourly_sessions,
    sessions,
    users,
    warehouse,
)
from pattern_platform.visits.user_changes import write_hours
from pattern_platform_tests.visits.blog import MONDAY, copied, ingest, run, succeeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pattern_platform_tests.platform import Platform

PARTS = (assets, users, sessions, hourly_sessions, warehouse, billing, catalogue, devices)
DAILY = [
    assets.visits_cube.key,
    warehouse.visits_by_week.key,
    warehouse.visits_cube.key,
    warehouse.exported_hours.key,
    sessions.sessions.key,
    sessions.exported_sessions.key,
    billing.billing.key,
    billing.ad_impressions.key,
]
USERS = [
    dg.AssetKey(key) for key in (["raw", "user_changes"], ["clean", "user_changes"], ["quarantine", "user_changes"])
]
Tables = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Erased:
    """The blog after an erasure.

    Args:
        blog: The blog.
        user: Who was erased.
        before: The tables as they were.
        backup: The landed files as they were.
        said: What the command said.
    """

    blog: Platform
    user: str
    before: Tables
    backup: Path
    said: str

    @property
    def root(self) -> Path:
        return self.blog.lake.parent


def delta_tables(blog: Platform) -> Iterator[tuple[str, Path]]:
    for log in sorted(blog.lake.rglob("_delta_log")):
        yield log.parent.relative_to(blog.lake).as_posix(), log.parent


def tables(blog: Platform) -> Tables:
    """Every table, as delta-rs and DuckDB read it, and every export."""
    found = {name: pl.DataFrame(DeltaTable(path).to_pyarrow_table()) for name, path in delta_tables(blog)}
    for file in sorted(blog.warehouse.glob("*.duckdb")):
        with duckdb.connect(str(file), config={"custom_user_agent": "dagster"}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for schema, name in connection.execute(
                "SELECT table_schema, table_name FROM information_schema.tables"
            ).fetchall():
                found[f"{file.stem}:{schema}.{name}"] = connection.table(f'"{schema}"."{name}"').pl()
    exports = blog.lake.parent / "exports"
    found |= {file.name: pl.read_csv(file, infer_schema=False) for file in exports.rglob("*.csv")}
    return found | {str(link.name): pl.read_parquet(link / "*.parquet") for link in exports.rglob("partition=*")}


@pytest.fixture(scope="module")
def erased(_ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Erased:
    blog = copied(_ingested, tmp_path_factory.mktemp("erased"), PARTS)
    write_hours(blog.landing, FIRST_DAY, days=1, seed=11)
    succeeded(blog.run_range([*USERS, users.users.key], f"{MONDAY}-00:00", f"{MONDAY}-03:00"))
    succeeded(blog.run_range([hourly_sessions.sessions_by_hour.key], f"{MONDAY}-00:00", f"{MONDAY}-23:00"))
    run(blog, DAILY, MONDAY)
    succeeded(blog.run([catalogue.PUBLISHED_CUBE.key]))
    known = blog.rows("clean", "users")["user_id"]
    visits = blog.rows("clean", "visits").filter(
        pl.col("user_id").is_in(known.to_list()), pl.col("append_time").dt.date() == FIRST_DAY
    )
    user = visits["user_id"].value_counts().sort("count", "user_id").item(-1, "user_id")
    before = tables(blog)
    backup = Path(shutil.copytree(blog.landing, tmp_path_factory.mktemp("backup") / "landing"))
    environment = {"PATTERN_PLATFORM_DATA": str(blog.folder), "COLUMNS": "200"}
    result = CliRunner().invoke(app, ["erase", "--subject", user, "--yes", "--reason", "case 1"], env=environment)
    assert result.exit_code == 0, result.output
    return Erased(blog, user, before, backup, result.output)


def of_user(rows: pl.DataFrame, user: str) -> pl.Series:
    """Whether a row has the user anywhere in it."""
    return pl.Series([f"'{user}'" in str(row) or f'"{user}"' in str(row) for row in rows.iter_rows()], dtype=pl.Boolean)


def test_they_were_nearly_everywhere(erased: Erased) -> None:
    """The negative control."""
    held = {name for name, rows in erased.before.items() if of_user(rows, erased.user).any()}
    assert held >= {
        "raw/visits",
        "raw/user_changes",
        "clean/visits",
        "clean/user_changes",
        "clean/users",
        "aggregated/visits_by_hour",
        "aggregated/visits_cube",
        "aggregated/sessions_by_hour",
        "visits:warehouse.visits_by_week",
        "cubes:warehouse.visits_cube",
        "catalogue:published.visits_cube",
        "sessions:main.sessions",
        f"{MONDAY}.csv",
        f"partition={MONDAY}",
    }


def test_every_table_is_free_of_them_in_every_version(erased: Erased) -> None:
    for name, rows in tables(erased.blog).items():
        assert not of_user(rows, erased.user).any(), name
    for name, path in delta_tables(erased.blog):
        for version in range(DeltaTable(path).version() + 1):
            rows = pl.DataFrame(DeltaTable(path, version=version).to_pyarrow_table())
            assert not of_user(rows, erased.user).any(), (name, version)


def test_the_rows_of_others_are_the_same_in_every_table(erased: Erased) -> None:
    after = tables(erased.blog)
    assert after.keys() == erased.before.keys()
    counts = {name for name in after if name.endswith(("__loads", "visits_cube__versions"))}
    for name in after.keys() - counts:
        kept = erased.before[name].filter(~of_user(erased.before[name], erased.user))
        assert_frame_equal(after[name], kept, check_row_order=False)


def test_totals_stay_and_what_lost_rows_is_told(erased: Erased) -> None:
    cube = erased.blog.rows("aggregated", "visits_cube")
    total = cube.filter(pl.col("page").is_null(), pl.col("user_id").is_null())["visits"].item()
    of_day = pl.col("append_time").dt.date() == FIRST_DAY
    before, after = erased.before["clean/visits"], erased.blog.rows("clean", "visits")
    assert total == before.filter(of_day).height > after.filter(of_day).height
    (told,) = [json.loads(file.read_text()) for file in (erased.root / "erasures").glob("2*.json")]
    assert {"lake/clean/visits", "lake/aggregated/visits_cube", "lake/clean/users"} <= set(told["lost_rows"])
    assert told["proof"]["complete"]
    assert erased.user not in json.dumps(told)


def test_the_registries_and_the_published_view_agree_with_the_tables(erased: Erased) -> None:
    shown = erased.blog.sql("catalogue", "FROM published.visits_cube")
    assert_frame_equal(shown, erased.blog.rows("aggregated", "visits_cube"), check_row_order=False)
    assert erased.blog.evaluate(catalogue.CHECKS[-1]).passed  # the view shows its version, whole
    assert erased.blog.evaluate(warehouse.CHECKS[0], MONDAY).passed  # units add up
    loads = erased.blog.sql("sessions", "SELECT partition, rows FROM main.sessions__loads ORDER BY ALL")
    assert loads["rows"].sum() == erased.blog.sql("sessions", "FROM main.sessions").height


def test_a_landed_file_from_a_backup_does_not_bring_them_back(erased: Erased) -> None:
    subjects = ErasedSubjects.of(erased.root)
    for hour in range(24):
        key = f"{MONDAY}-{hour:02}:00"
        old = read_landed(DATASETS["visits"], erased.backup, key)
        kept, again = subjects.drop(old), read_landed(DATASETS["visits"], erased.blog.landing, key)
        assert not kept["payload"].str.contains(f'"user_id":"{erased.user}"', literal=True).any()
        assert kept["payload"].to_list() == again["payload"].to_list()  # what the erasure left of the file


def test_replays_of_partitions_in_the_middle_work_and_bring_nobody_back(erased: Erased) -> None:
    ingest(erased.blog, f"{MONDAY}-10:00", f"{MONDAY}-20:00")
    succeeded(erased.blog.run_range([*USERS, users.users.key], f"{MONDAY}-02:00", f"{MONDAY}-03:00"))
    run(erased.blog, [key for key in DAILY if key != warehouse.visits_by_week.key], MONDAY)
    succeeded(erased.blog.run_range([hourly_sessions.sessions_by_hour.key], f"{MONDAY}-10:00", f"{MONDAY}-23:00"))
    for name, rows in tables(erased.blog).items():
        assert not of_user(rows, erased.user).any(), name
    cube = erased.blog.rows("aggregated", "visits_cube").filter(pl.col("day") == FIRST_DAY)
    total = cube.filter(pl.col("page").is_null(), pl.col("user_id").is_null())["visits"].item()
    visits = erased.blog.rows("clean", "visits")
    assert total == visits.filter(pl.col("append_time").dt.date() == FIRST_DAY).height
