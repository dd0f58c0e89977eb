"""What advertisers pay: impressions of their ads and the totals of a day, which always agree.

clean/visits -> warehouse/billing -> ledger/ad_impressions
"""

from __future__ import annotations

import dagster as dg
import polars as pl

from pattern_platform.ingested import LOOKBACK
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import unique_check
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.visits.assets import DAYS

CENTS_PER_IMPRESSION = 2


@dg.asset(
    key=["warehouse", "billing"],
    description="Impressions of ads and what they cost, in two tables that are written together.",
    group_name="warehouse",
    owners=["team:ads"],
    tags={"pattern_platform/pattern": "transactional_writer"},
    kinds={"polars", "duckdb"},
    code_version="1",
    partitions_def=DAYS,
    ins={"visits": dg.AssetIn(["clean", "visits"], metadata={"columns": ["visit_id", "append_time", "ad_id"]})},
    io_manager_key="transactional_writer",
    metadata={
        "partition_expr": "day",
        "tables": {
            "impressions": {"primary_key": ["visit_id"], "checks": ["cents > 0"]},
            "totals": {"primary_key": ["day", "ad_id"], "checks": ["impressions > 0", "cents > 0"]},
        },
        "dagster/column_schema": described(
            day="The day on which the visit reached the log, in UTC.",
            ad_id="Which advertisement.",
            cents="What it costs.",
            visit_id="Impressions: the visit that showed it.",
            impressions="Totals: how often it was shown.",
        ),
    },
    automation_condition=aligned_fan_in(LOOKBACK),
)
def billing(visits: pl.LazyFrame) -> dict[str, pl.LazyFrame]:
    """Price the visits with an ad, and add them up."""
    impressions = visits.drop_nulls("ad_id").select(
        "visit_id", "ad_id", day=pl.col("append_time").dt.date(), cents=pl.lit(CENTS_PER_IMPRESSION, dtype=pl.Int64)
    )
    totals = impressions.group_by("day", "ad_id").agg(impressions=pl.len().cast(pl.Int64), cents=pl.col("cents").sum())
    return {"impressions": impressions, "totals": totals.sort("ad_id")}


@dg.asset(
    key=["ledger", "ad_impressions"],
    description="What was billed, appended once a day and never changed: a replayed day is there already.",
    group_name="ledger",
    owners=["team:ads"],
    tags={"pattern_platform/pattern": "transactional_writer_delta"},
    kinds={"polars", "deltalake"},
    code_version="1",
    partitions_def=DAYS,
    ins={"impressions": dg.AssetIn(["warehouse", "billing"], metadata={"table": "impressions"})},
    io_manager_key="transactional_writer_delta",
    metadata={
        "partition_expr": "day",
        "dagster/column_schema": described(
            visit_id="The visit that showed it.",
            ad_id="Which advertisement.",
            day="The day on which the visit reached the log, in UTC.",
            cents="What it costs.",
        ),
    },
    automation_condition=aligned_fan_in(LOOKBACK),
)
def ad_impressions(impressions: pl.LazyFrame) -> pl.LazyFrame:
    """Take the impressions as they are billed."""
    return impressions


@dg.asset_check(
    asset=billing.key,
    description="The totals are the sums of the impressions.",
    blocking=True,
    partitions_def=DAYS,
)
def adds_up(billing: dict[str, pl.DataFrame]) -> dg.AssetCheckResult:
    """Compare the two tables."""
    totals, impressions = billing["totals"], billing["impressions"]
    stated, counted = int(totals["cents"].sum()), int(impressions["cents"].sum())
    passed = stated == counted and int(totals["impressions"].sum()) == impressions.height
    return dg.AssetCheckResult(passed=passed, metadata={"stated": stated, "counted": counted})


ASSETS = [billing, ad_impressions]
CHECKS = [adds_up, unique_check(ad_impressions.key, ["visit_id"], DAYS)]
