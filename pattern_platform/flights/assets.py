"""New York flights of 2013, real data that comes in by its description alone, a day of local time at a time."""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl

from pattern_platform.ingested import INGESTED, LOOKBACK
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import totals_check, unique_check
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.warehouse.query import query

FLIGHTS = INGESTED["flights"]
DAYS = FLIGHTS.partitions
ZONE = DAYS.timezone
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
    *FLIGHTS.assets,
    flights_by_hour,
    flights_cube,
]
CHECKS = [
    *FLIGHTS.checks,
    unique_check(flights_by_hour.key, ["hour", "origin", "carrier"], DAYS),
    totals_check(
        flights_cube.key,
        flights_by_hour.key,
        "flights",
        pl.col("origin").is_null() & pl.col("carrier").is_null(),
        DAYS,
    ),
]
