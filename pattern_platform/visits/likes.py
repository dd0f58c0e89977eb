"""Likes of posts, and whose posts are liked best: steps one after the other, each a place to start again from.

landing/likes -> raw/likes -> clean/likes -> aggregated/likes_by_post -> aggregated/top_authors
                           -> quarantine/likes
"""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl

from pattern_platform.ingested import INGESTED, LOOKBACK
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import unique_check
from pattern_platform.orchestration.steps import steps_cleanup_asset
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.patterns.data_flow.local_sequencer import step_sequence

LIKES = INGESTED["likes"]
DAYS = LIKES.partitions
BEST_POSTS, TOP_AUTHORS = 3, 10
_LIKED = {"day": "The day, in UTC.", "author": "Who wrote the posts."}
_STEP: dict[str, Any] = {
    "group_name": "aggregated",
    "owners": ["team:web"],
    "tags": {"pattern_platform/pattern": "local_sequencer"},
    "kinds": {"polars", "deltalake"},
    "code_version": "1",
    "partitions_def": DAYS,
    "automation_condition": aligned_fan_in(LOOKBACK),
}


@dg.asset(
    key=["aggregated", "likes_by_post"],
    description="Likes of a day by post.",
    ins={"likes": dg.AssetIn(["clean", "likes"], metadata={"columns": ["liked_at", "author", "post"]})},
    io_manager_key="data_overwrite",
    metadata={
        "partition_expr": "day",
        "dagster/column_schema": described(**_LIKED, post="Which post.", likes="Number of likes."),
    },
    **_STEP,
)
def likes_by_post(likes: pl.LazyFrame) -> pl.LazyFrame:
    """Count the likes."""
    day = pl.col("liked_at").dt.date().alias("day")
    return likes.group_by(day, "author", "post").agg(pl.len().cast(pl.Int64).alias("likes")).sort(pl.all())


def mean_of_best_posts(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The mean likes of an author's most liked posts."""
    best = rows.sort("likes", descending=True).group_by("day", "author").head(BEST_POSTS)
    return best.group_by("day", "author").agg(mean_likes=pl.col("likes").mean())


def highest_means(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The authors with the highest means; of equal ones the first by name."""
    ranked = rows.sort(["day", "mean_likes", "author"], descending=[False, True, False])
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("day").alias("rank")
    return ranked.with_columns(rank).filter(pl.col("rank") <= TOP_AUTHORS).select("day", "rank", "author", "mean_likes")


top_authors = step_sequence(
    dg.AssetIn(["aggregated", "likes_by_post"]),
    [mean_of_best_posts, highest_means],
    key=dg.AssetKey(["aggregated", "top_authors"]),
    io_manager_key="data_overwrite",
    description="The ten authors whose three most liked posts of a day are liked most.",
    metadata={
        "partition_expr": "day",
        "dagster/column_schema": described(
            **_LIKED, rank="From 1, the most liked.", mean_likes="Mean likes of the author's three most liked posts."
        ),
    },
    **_STEP,
)

ASSETS = [
    *LIKES.assets,
    likes_by_post,
    top_authors,
]
CHECKS = [
    *LIKES.checks,
    unique_check(likes_by_post.key, ["day", "author", "post"], DAYS),
    unique_check(top_authors.key, ["day", "rank"], DAYS),
]
MAINTENANCE = [
    steps_cleanup_asset(
        "steps",
        key=["maintenance", "steps_cleanup"],
        group_name="maintenance",
        owners=["team:platform"],
        kinds={"parquet"},
        code_version="1",
    )
]
