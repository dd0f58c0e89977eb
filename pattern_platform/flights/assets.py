"""New York flights of 2013, real data that comes in by its description alone, a day of local time at a time."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import dagster as dg
import polars as pl

from pattern_platform.flights.contract import Flight
from pattern_platform.ingestion.assets import ingestion_assets, ingestion_checks
from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import totals_check, unique_check
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.runners import INGESTION, TEAM_FLIGHTS, URGENT
from pattern_platform.settings import Settings
from pattern_platform.warehouse.query import query

ZONE = "America/New_York"
_FIRST = date(2013, 1, 1)
DAYS = dg.DailyPartitionsDefinition(
    _FIRST.isoformat(), (_FIRST + timedelta(days=Settings().flights_days)).isoformat(), timezone=ZONE
)
LOOKBACK = timedelta(days=7)

FLIGHTS = Dataset(
    name="flights",
    description="Scheduled departures from New York.",
    owner="team:flights",
    landing="flights/date=%Y-%m-%d/*.csv",
    format="csv",
    partitions=DAYS,
    contract=Flight,
    time_column="time_hour",
    header=(
        *("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"),
        *("carrier", "flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute", "time_hour"),
    ),
    null_values=("", "NA"),
)
_MEASURES = {
    "origin": "Airport of departure.",
    "carrier": "Two-letter code of the airline.",
    "flights": "Number of flights.",
    "cancelled": "How many of them never departed.",
    "delay_minutes": "Sum of their delays of departure, in minutes; early departures count negative.",
}
_AGGREGATED: dict[str, Any] = {
    "group_name": "aggregated",
    "owners": ["team:flights"],
    "code_version": "1",
    "partitions_def": DAYS,
    "io_manager_key": "data_overwrite",
    "automation_condition": aligned_fan_in(LOOKBACK),
}


@dg.asset(
    key=["aggregated", "flights_by_hour"],
    description="Flights of a scheduled hour, by airport and airline, with those cancelled and their delays.",
    tags={"pattern_platform/pattern": "data_overwrite"},
    kinds={"polars", "deltalake"},
    ins={"flights": dg.AssetIn(["clean", "flights"])},
    metadata={
        "partition_expr": "hour",
        "dagster/column_schema": described(hour="Scheduled hour of departure, in UTC.", **_MEASURES),
    },
    **_AGGREGATED,
)
def flights_by_hour(flights: pl.LazyFrame) -> pl.LazyFrame:
    """Count the flights."""
    return (
        flights.group_by(pl.col("time_hour").alias("hour"), "origin", "carrier")
        .agg(
            pl.len().cast(pl.Int64).alias("flights"),
            pl.col("dep_time").is_null().sum().cast(pl.Int64).alias("cancelled"),
            pl.col("dep_delay").sum().alias("delay_minutes"),
        )
        .sort(pl.all())
    )


@dg.asset(
    key=["aggregated", "flights_cube"],
    description="Flights of a day of New York by airport, by airline, by both, and in all; null stands for all.",
    tags={"pattern_platform/pattern": "aligned_fan_in"},
    kinds={"duckdb", "deltalake"},
    ins={"hours": dg.AssetIn(["aggregated", "flights_by_hour"])},
    metadata={
        "partition_expr": "day",
        "dagster/column_schema": described(day="The day, in New York; null of the others stands for all.", **_MEASURES),
    },
    **_AGGREGATED,
)
def flights_cube(hours: pl.DataFrame) -> pl.DataFrame:
    """Cube the hours of the day, which is a day of local time."""
    return query(
        """
        SELECT CAST(hour AS DATE) AS day, origin, carrier, CAST(sum(flights) AS BIGINT) AS flights,
               CAST(sum(cancelled) AS BIGINT) AS cancelled, CAST(sum(delay_minutes) AS BIGINT) AS delay_minutes
        FROM hours GROUP BY day, CUBE (origin, carrier) ORDER BY ALL
        """,
        {"hours": hours.with_columns(pl.col("hour").dt.convert_time_zone(ZONE).dt.replace_time_zone(None))},
    )


ASSETS = [
    *ingestion_assets(FLIGHTS, automation_condition=aligned_fan_in(LOOKBACK), runners=[INGESTION, TEAM_FLIGHTS]),
    flights_by_hour,
    flights_cube,
]
CHECKS = [
    *ingestion_checks(FLIGHTS),
    unique_check(flights_by_hour.key, ["hour", "origin", "carrier"], DAYS),
    totals_check(
        flights_cube.key,
        flights_by_hour.key,
        "flights",
        pl.col("origin").is_null() & pl.col("carrier").is_null(),
        DAYS,
    ),
]
INGEST = dg.define_asset_job(
    "ingest_flights",
    description="One landed day of flights. What follows from it, the conditions of the assets request.",
    selection=[dg.AssetKey(["raw", "flights"])],
    tags=URGENT,
)
SCHEDULE = dg.build_schedule_from_partitioned_job(INGEST, hour_of_day=6)
