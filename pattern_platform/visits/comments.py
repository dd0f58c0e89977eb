"""Comments on posts: they belong to the hour in which they were written, and some arrive later.

landing/comments -> raw/comments -> clean/comments -> aggregated/comments_by_post
                                 -> quarantine/comments
                                 -> late/comments
"""

from __future__ import annotations

import dagster as dg
import polars as pl

from pattern_platform.ingested import INGESTED, LOOKBACK
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import unique_check
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.visits.assets import DAYS

COMMENTS = INGESTED["comments"]


@dg.asset(
    key=["aggregated", "comments_by_post"],
    description="Comments of a day by post. A comment that arrives late is counted on the day it was written.",
    group_name="aggregated",
    owners=["team:web"],
    tags={"pattern_platform/pattern": "aligned_fan_in"},
    kinds={"polars", "deltalake"},
    code_version="1",
    partitions_def=DAYS,
    ins={"comments": dg.AssetIn(["clean", "comments"], metadata={"columns": ["posted_at", "post", "words"]})},
    io_manager_key="data_overwrite",
    metadata={
        "partition_expr": "day",
        "dagster/column_schema": described(
            day="The day on which they were written, in UTC.",
            post="Which post.",
            comments="Number of comments.",
            words="Number of their words.",
        ),
    },
    automation_condition=aligned_fan_in(LOOKBACK),
)
def comments_by_post(comments: pl.LazyFrame) -> pl.LazyFrame:
    """Count the comments."""
    day = pl.col("posted_at").dt.date().alias("day")
    counts = (pl.len().cast(pl.Int64).alias("comments"), pl.col("words").sum())
    return comments.group_by(day, "post").agg(*counts).sort("day", "post")


ASSETS = [*COMMENTS.assets, comments_by_post]
CHECKS = [*COMMENTS.checks, unique_check(comments_by_post.key, ["day", "post"], DAYS)]
