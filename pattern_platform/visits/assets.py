"""Blog visits: hourly events become daily cubes.

landing/visits -> raw/visits -> clean/visits -> aggregated/visits_by_hour -> aggregated/visits_cube
-> quarantine/visits
"""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import polars as pl

from pattern_platform.ingested import INGESTED, LOOKBACK
from pattern_platform.ingestion.stages import PARTITIONS_PER_RUN
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import contract_check, totals_check, unique_check
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.settings import Settings
from pattern_platform.visits.contract import VisitsCube
from pattern_platform.warehouse.query import query

VISITS = INGESTED["visits"]
HOURS = VISITS.partitions
DAYS = dg.DailyPartitionsDefinition(HOURS.start, end_date=HOURS.end)
_STALE_AFTER = timedelta(hours=Settings().thresholds.stale_after_hours)

BY_HOUR = described(
    hour="Start of the hour in which the visits reached the log, in UTC.",
    page="Which page.",
    user_id="Who opened it.",
    visits="Number of visits.",
)
CUBE_COLUMNS = {name: column.description or "" for name, column in VisitsCube.columns().items()}
CUBE = described(**CUBE_COLUMNS)


@dg.asset(
    key=["aggregated", "visits_by_hour"],
    description="Visits of an hour, by page and user. The hour is the one in which they reached the log.",
    group_name="aggregated",
    owners=["team:web"],
    tags={"pattern_platform/pattern": "data_overwrite"},
    kinds={"polars", "deltalake"},
    code_version="1",
    partitions_def=HOURS,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=PARTITIONS_PER_RUN),
    ins={
        "visits": dg.AssetIn(["clean", "visits"], metadata={"columns": ["append_time", "page", "user_id"]}),
    },
    io_manager_key="data_overwrite",
    metadata={
        "partition_expr": "hour",
        "dagster/column_schema": BY_HOUR,
    },
    automation_condition=aligned_fan_in(LOOKBACK),
)
def visits_by_hour(visits: pl.LazyFrame) -> pl.LazyFrame:
    """Count the visits."""
    hour = pl.col("append_time").dt.truncate("1h").alias("hour")
    return visits.group_by(hour, "page", "user_id").agg(pl.len().cast(pl.Int64).alias("visits")).sort(pl.all())


@dg.asset(
    key=["aggregated", "visits_cube"],
    description="Visits of a day by page, by user, by both, and in all; null stands for all.",
    group_name="aggregated",
    owners=["team:web"],
    tags={"pattern_platform/pattern": "aligned_fan_in"},
    kinds={"duckdb", "deltalake"},
    code_version="1",
    partitions_def=DAYS,
    ins={"hours": dg.AssetIn(["aggregated", "visits_by_hour"])},
    io_manager_key="data_overwrite_shown",
    metadata={
        "partition_expr": "day",
        "dagster/column_schema": CUBE,
    },
    automation_condition=aligned_fan_in(LOOKBACK),
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=_STALE_AFTER, warn_window=_STALE_AFTER / 2),
)
def visits_cube(hours: pl.DataFrame) -> pl.DataFrame:
    """Cube the hours of the day."""
    return cube_of(hours)


def cube_of(hours: pl.DataFrame) -> pl.DataFrame:
    """Cube the hours of days. A day without visits has an empty cube, not a total of nothing.

    Args:
        hours: Rows of ``aggregated/visits_by_hour``.
    """
    return query(
        """
        SELECT CAST(hour AS DATE) AS day, page, user_id, CAST(sum(visits) AS BIGINT) AS visits
        FROM hours GROUP BY day, CUBE (page, user_id) ORDER BY ALL
        """,
        {"hours": hours.with_columns(pl.col("hour").dt.replace_time_zone(None))},  # a day of visits is a day in UTC
    )


ASSETS = [*VISITS.assets, visits_by_hour, visits_cube]
CHECKS = [
    *VISITS.checks,
    contract_check(visits_cube.key, VisitsCube, DAYS),
    unique_check(visits_by_hour.key, ["hour", "page", "user_id"], HOURS),
    totals_check(
        visits_cube.key,
        visits_by_hour.key,
        "visits",
        pl.col("page").is_null() & pl.col("user_id").is_null(),
        DAYS,
    ),
]
