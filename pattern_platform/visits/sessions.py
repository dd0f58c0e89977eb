"""Sessions of visitors, and the same for readers of CSV files.

clean/visits -> sessions -> exports/sessions
"""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import polars as pl

from pattern_platform.ingested import LOOKBACK
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import unique_check
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.visits.assets import DAYS

GAP = timedelta(minutes=30)


@dg.asset(
    key=["sessions"],
    description="Visits of one user that follow each other within half an hour. A session ends with its day.",
    group_name="serving",
    owners=["team:web"],
    tags={"pattern_platform/pattern": "keyed_idempotency"},
    kinds={"polars", "duckdb"},
    code_version="1",
    partitions_def=DAYS,
    ins={
        "visits": dg.AssetIn(
            ["clean", "visits"], metadata={"columns": ["visit_id", "user_id", "append_time", "event_time", "page"]}
        )
    },
    io_manager_key="keyed_idempotency",
    metadata={
        "partition_expr": "first_append",
        "key_columns": ["user_id", "first_append"],
        "key_name": "session_id",
        "dagster/column_schema": described(
            session_id="SHA-256 of the user and the first append time.",
            user_id="Whose session it is.",
            first_append="When its first visit reached the log.",
            last_append="When its last visit reached the log.",
            visits="Number of visits.",
            pages="The pages in the order in which they were opened.",
            ingestion_time="When the row was last written.",
        ),
    },
    automation_condition=aligned_fan_in(LOOKBACK),
)
def sessions(visits: pl.LazyFrame) -> pl.LazyFrame:
    """Cut the visits into sessions."""
    return sessions_of(visits)


def sessions_of(visits: pl.LazyFrame) -> pl.LazyFrame:
    """Cut visits into sessions by when they reached the log, and order their pages by when they were opened.

    The log only grows at its end, so what arrives later never gives an earlier session another key. Event times would:
    a visit that arrives late may have been opened before all others.

    Args:
        visits: Visits of whole days, with ``visit_id``, ``user_id``, ``append_time``, ``event_time`` and ``page``.
    """
    append_time = pl.col("append_time")
    previous = append_time.shift().over("user_id", order_by=["append_time", "visit_id"])
    starts = (append_time - previous > GAP).fill_null(value=True)
    return (
        visits.with_columns(starts=starts)
        .with_columns(number=pl.col("starts").cum_sum().over("user_id", order_by=["append_time", "visit_id"]))
        .sort("event_time", "visit_id")
        .group_by("user_id", "number", append_time.dt.date().alias("day"))
        .agg(
            first_append=append_time.min(),
            last_append=append_time.max(),
            visits=pl.len().cast(pl.Int64),
            pages=pl.col("page"),
        )
        .drop("number", "day")
        .sort("first_append", "user_id")
    )


@dg.asset(
    key=["exports", "sessions"],
    description="The sessions of a day as one CSV file, named by the day.",
    group_name="exports",
    owners=["team:web"],
    tags={"pattern_platform/pattern": "keyed_idempotency_files"},
    kinds={"polars", "csv"},
    code_version="1",
    partitions_def=DAYS,
    ins={"sessions": dg.AssetIn(["sessions"])},
    io_manager_key="keyed_idempotency_files",
    metadata={
        "partition_expr": "first_append",
        "dagster/column_schema": described(
            session_id="Key of the session.",
            user_id="Whose session it is.",
            first_append="When its first visit reached the log.",
            last_append="When its last visit reached the log.",
            visits="Number of visits.",
            pages="The pages in the order in which they were opened, with a blank between.",
        ),
    },
    automation_condition=aligned_fan_in(LOOKBACK),
)
def exported_sessions(sessions: pl.LazyFrame) -> pl.LazyFrame:
    """Write the pages as one text; when a row was written last is nothing to readers of files."""
    return (
        sessions.drop("ingestion_time").with_columns(pl.col("pages").list.join(" ")).sort("first_append", "session_id")
    )


ASSETS = [sessions, exported_sessions]
CHECKS = [
    unique_check(sessions.key, ["session_id"], DAYS),
    unique_check(exported_sessions.key, ["session_id"], DAYS),
]
