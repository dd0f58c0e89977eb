"""Dashboards made of tables that others write.

aggregated/visits_cube -> dashboards/top_pages            (data-based: the asset of another location)
ledger/ad_impressions, partners/ad_prices -> dashboards/ad_revenue    (data-based: commits of a partner)
raw/flights -> dashboards/arrivals                        (task-based: after a job of another location)
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg
import polars as pl

from pattern_platform.dashboards.contract import AdImpression, AdPrice, LandedFlight, VisitsCube
from pattern_platform.ingestion.registry.rows import registered_partitions
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import unique_check
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.patterns.data_flow.isolated_sequencer import after_job, delta_commit_sensor, promised
from pattern_platform.settings import Settings

LOOKBACK = timedelta(days=7)
TOP = 5

# The other side of each contract: keys, partitions and partition columns, as their owners published them.
_HOURS = registered_partitions(Settings().registry, "visits")
DAYS = dg.DailyPartitionsDefinition(_HOURS.start, end_date=_HOURS.end)
FLIGHT_DAYS = registered_partitions(Settings().registry, "flights")
VISITS_CUBE = dg.AssetSpec(["aggregated", "visits_cube"], partitions_def=DAYS, metadata={"partition_expr": "day"})
AD_IMPRESSIONS = dg.AssetSpec(["ledger", "ad_impressions"], partitions_def=DAYS, metadata={"partition_expr": "day"})
RAW_FLIGHTS = dg.AssetSpec(
    ["raw", "flights"], partitions_def=FLIGHT_DAYS, metadata={"partition_expr": "partition_start"}
)
AD_PRICES = dg.AssetSpec(
    ["partners", "ad_prices"],
    description="What partners pay for an impression. They write the table, nobody here does.",
    group_name="partners",
    metadata={
        "dagster/column_schema": described(
            ad_id="Which advertisement.", cents="What a partner pays for an impression, in cents."
        )
    },
    owners=["team:ads"],
    kinds={"deltalake"},
)

_COMMON: dict[str, Any] = {
    "group_name": "dashboards",
    "owners": ["team:analytics"],
    "tags": {"pattern_platform/pattern": "isolated_sequencer"},
    "kinds": {"polars", "deltalake"},
    "code_version": "1",
    "io_manager_key": "data_overwrite",
}


@dg.asset(
    key=["dashboards", "top_pages"],
    description="The five pages of a day with the most visits.",
    partitions_def=DAYS,
    ins={"cube": dg.AssetIn(VISITS_CUBE.key)},
    metadata={
        "partition_expr": "day",
        "dagster/column_schema": described(
            day="The day, in UTC.", rank="From 1, the most visited.", page="Which page.", visits="Number of visits."
        ),
    },
    automation_condition=aligned_fan_in(LOOKBACK),
    **_COMMON,
)
def top_pages(cube: pl.LazyFrame) -> pl.DataFrame:
    """Rank the pages; of equal ones the first by name."""
    pages = promised(cube, VisitsCube, VISITS_CUBE.key).filter(
        pl.col("page").is_not_null() & pl.col("user_id").is_null()
    )
    ranked = pages.sort(["day", "visits", "page"], descending=[False, True, False])
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("day").alias("rank")
    return ranked.select("day", rank, "page", "visits").filter(pl.col("rank") <= TOP)


@dg.asset(
    key=["dashboards", "ad_revenue"],
    description="What the advertisements of every day brought, at the prices that partners pay now.",
    ins={"impressions": dg.AssetIn(AD_IMPRESSIONS.key), "prices": dg.AssetIn(AD_PRICES.key)},
    metadata={
        "dagster/column_schema": described(
            ad_id="Which advertisement.", impressions="How often it was shown.", cents="What it brought."
        )
    },
    automation_condition=dg.AutomationCondition.eager(),
    **_COMMON,
)
def ad_revenue(impressions: pl.LazyFrame, prices: pl.LazyFrame) -> pl.DataFrame:
    """Price the impressions; one without a price brings nothing yet."""
    shown = promised(impressions, AdImpression, AD_IMPRESSIONS.key).group_by("ad_id").agg(impressions=pl.len())
    paid = shown.join(promised(prices, AdPrice, AD_PRICES.key), on="ad_id", how="left")
    return paid.select(
        "ad_id",
        pl.col("impressions").cast(pl.Int64),
        (pl.col("impressions").cast(pl.Int64) * pl.col("cents").fill_null(0)).alias("cents"),
    ).sort("ad_id")


@dg.asset(
    key=["dashboards", "arrivals"],
    description="How many lines of flights landed for a day, as soon as the job that reads them is through.",
    partitions_def=FLIGHT_DAYS,
    ins={"landed": dg.AssetIn(RAW_FLIGHTS.key)},
    metadata={
        "partition_expr": "day",
        "dagster/column_schema": described(day="Start of the day in New York.", file="Which file.", lines="Its lines."),
    },
    **_COMMON,
)
def arrivals(landed: pl.LazyFrame) -> pl.DataFrame:
    """Count the lines."""
    lines = promised(landed, LandedFlight, RAW_FLIGHTS.key)
    return (
        lines.group_by(pl.col("partition_start").alias("day"), pl.col("source_file").alias("file"))
        .agg(pl.len().cast(pl.Int64).alias("lines"))
        .sort("day", "file")
    )


COUNT_ARRIVALS = dg.define_asset_job("count_arrivals", selection=[arrivals], description="One landed day of flights.")

PROVIDED = [
    VISITS_CUBE.with_io_manager_key("data_overwrite_shown"),
    *(spec.with_io_manager_key("data_overwrite") for spec in (AD_IMPRESSIONS, RAW_FLIGHTS, AD_PRICES)),
]
ASSETS = [top_pages, ad_revenue, arrivals]
CHECKS = [
    unique_check(top_pages.key, ["day", "rank"], DAYS),
    unique_check(arrivals.key, ["day", "file"], FLIGHT_DAYS),
]
settings = Settings()
SENSORS = [
    delta_commit_sensor(
        AD_PRICES.key,
        str(settings.lake.joinpath(*AD_PRICES.key.path)),
        storage_options=settings.storage.options,
    ),
    after_job("ingest_flights", COUNT_ARRIVALS, location="pattern_platform", partitions=FLIGHT_DAYS),
]
