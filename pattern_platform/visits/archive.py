"""Where visitors came from, day by day: files until the table took over, one history.

clean/visits -> archive/referrals, by way of archive/referrals_csv or archive/referrals_delta
"""

from __future__ import annotations

from datetime import date

import dagster as dg
import polars as pl

from pattern_platform.ingested import LOOKBACK
from pattern_platform.lake.schema import described
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.patterns.data_flow.exclusive_choice import Branch, by_day, exclusive_choice
from pattern_platform.visits.assets import DAYS

MOVED = date(2024, 5, 7)
_STORED = {
    "partition_expr": "day",
    "dagster/column_schema": described(
        day="The day on which the visits reached the log, in UTC.",
        referral="Where the visitors came from; null where it is not known.",
        visits="Number of visits.",
    ),
}


def referrals_of(visits: pl.LazyFrame) -> pl.LazyFrame:
    """Count the visits of a day by where they came from.

    Args:
        visits: Clean visits.
    """
    return (
        visits.group_by(pl.col("append_time").dt.date().alias("day"), "referral")
        .agg(pl.len().cast(pl.Int64).alias("visits"))
        .sort("day", "referral")
    )


REFERRALS, _CHECK = exclusive_choice(
    dg.AssetKey(["clean", "visits"]),
    by_day(MOVED, before="csv", since="delta"),
    {
        "csv": Branch(
            "Referrals of the days before the table.",
            referrals_of,
            "keyed_idempotency_files",
            metadata=_STORED,
            kinds=frozenset({"polars", "csv"}),
        ),
        "delta": Branch(
            "Referrals of the days since there is the table.",
            referrals_of,
            "data_overwrite",
            metadata=_STORED,
            kinds=frozenset({"polars", "deltalake"}),
        ),
    },
    key=["archive", "referrals"],
    partitions_def=DAYS,
    description="Referrals of every day; the metadata of a day says which store has it, and why.",
    group_name="archive",
    owners=["team:web"],
    tags={"pattern_platform/pattern": "exclusive_choice"},
    code_version="1",
    automation_condition=aligned_fan_in(LOOKBACK),
)
ASSETS = [REFERRALS]
CHECKS = [_CHECK]
