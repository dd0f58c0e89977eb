"""Visits for readers in SQL, and for readers of files.

clean/visits -> warehouse/visits_by_week
aggregated/visits_cube -> warehouse/visits_cube
aggregated/visits_by_hour -> exports/visits_by_hour
"""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl

from pattern_platform.ingested import LOOKBACK
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import totals_check, unique_check
from pattern_platform.orchestration.unit_tables import freezing_asset, unit_schema_asset, units_check, waiting_check
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.visits.assets import BY_HOUR, CUBE, DAYS, visits_by_hour

_DAILY: dict[str, Any] = {
    "owners": ["team:web"],
    "code_version": "1",
    "partitions_def": DAYS,
    "automation_condition": aligned_fan_in(LOOKBACK),
}
_UPKEEP: dict[str, Any] = {
    "group_name": "maintenance",
    "owners": ["team:platform"],
    "kinds": {"duckdb"},
    "code_version": "1",
}


@dg.asset(
    key=["warehouse", "visits_by_week"],
    description="Every clean visit, kept week by week: a replay throws a week away, not its rows. A corrected day is "
    "replayed with its week.",
    group_name="warehouse",
    tags={"pattern_platform/pattern": "fast_metadata_cleaner"},
    kinds={"polars", "duckdb"},
    backfill_policy=dg.BackfillPolicy.single_run(),
    ins={
        "visits": dg.AssetIn(
            ["clean", "visits"], metadata={"columns": ["visit_id", "append_time", "event_time", "user_id", "page"]}
        )
    },
    io_manager_key="fast_metadata_cleaner",
    metadata={
        "partition_expr": "append_time",
        "schema_evolution": "add_columns",
        "dagster/column_schema": described(
            visit_id="Identity of the page view.",
            append_time="When it reached the log.",
            event_time="When the page was opened.",
            user_id="Who opened it.",
            page="Which page.",
        ),
    },
    **_DAILY,
)
def visits_by_week(visits: pl.LazyFrame) -> pl.LazyFrame:
    """Take the visits of the day as they are."""
    return visits


@dg.asset(
    key=["warehouse", "visits_cube"],
    description="The cube of the visits, where dashboards query it in SQL.",
    group_name="warehouse",
    tags={"pattern_platform/pattern": "data_overwrite_duckdb"},
    kinds={"polars", "duckdb"},
    ins={"cube": dg.AssetIn(["aggregated", "visits_cube"])},
    io_manager_key="data_overwrite_duckdb",
    metadata={
        "partition_expr": "day",
        "dagster/column_schema": CUBE,
    },
    **_DAILY,
)
def visits_cube(cube: pl.LazyFrame) -> pl.LazyFrame:
    """Take the cube as it is."""
    return cube


@dg.asset(
    key=["exports", "visits_by_hour"],
    description="Visits by hour as directories of Parquet files, for readers that know no table format.",
    group_name="exports",
    tags={"pattern_platform/pattern": "data_overwrite_directory"},
    kinds={"polars", "parquet"},
    ins={"hours": dg.AssetIn(["aggregated", "visits_by_hour"])},
    io_manager_key="data_overwrite_directory",
    metadata={
        "partition_expr": "hour",
        "dagster/column_schema": BY_HOUR,
    },
    **_DAILY,
)
def exported_hours(hours: pl.LazyFrame) -> pl.LazyFrame:
    """Take the hours of the day as they are."""
    return hours


ASSETS = [visits_by_week, visits_cube, exported_hours]
MAINTENANCE = [
    freezing_asset(
        visits_by_week.key, "fast_metadata_cleaner", key=["maintenance", "frozen_visits_by_week"], **_UPKEEP
    ),
    unit_schema_asset(
        visits_by_week.key, "fast_metadata_cleaner", key=["maintenance", "visits_by_week_schema"], **_UPKEEP
    ),
]
CHECKS = [
    units_check(visits_by_week.key, ["visit_id"], "fast_metadata_cleaner"),
    waiting_check(visits_by_week.key, "fast_metadata_cleaner"),
    totals_check(
        visits_cube.key,
        visits_by_hour.key,
        "visits",
        pl.col("page").is_null() & pl.col("user_id").is_null(),
        DAYS,
    ),
    unique_check(exported_hours.key, ["hour", "page", "user_id"], DAYS),
]
