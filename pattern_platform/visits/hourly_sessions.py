"""Sessions as they grow: what is open at the end of an hour is carried into the next, so hours follow each other.

clean/visits -> aggregated/sessions_by_hour -> aggregated/sessions_by_hour of the next hour
"""

from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl

from pattern_platform.ingested import LOOKBACK
from pattern_platform.ingestion.stages import PARTITIONS_PER_RUN
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import unique_check
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.patterns.data_flow.single_runner import BEFORE
from pattern_platform.runners import SESSIONS
from pattern_platform.visits.assets import HOURS
from pattern_platform.visits.sessions import GAP

_KEY = ["aggregated", "sessions_by_hour"]
_HOUR = timedelta(hours=1)
_SCHEMA = pl.Schema(
    {
        "hour": pl.Datetime("us", "UTC"),
        "user_id": pl.String,
        "first_append": pl.Datetime("us", "UTC"),
        "last_append": pl.Datetime("us", "UTC"),
        "visits": pl.Int64,
        "is_open": pl.Boolean,
    }
)


@dg.asset(
    key=_KEY,
    description="Sessions that an hour found open or opened, as they were at its end. Each is closed in one hour.",
    group_name="aggregated",
    owners=["team:web"],
    tags={"pattern_platform/pattern": "single_runner", "dagster/max_runtime": "1800", **SESSIONS.tags},  # others wait
    pool=SESSIONS.pool,
    kinds={"polars", "deltalake"},
    code_version="1",
    partitions_def=HOURS,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=PARTITIONS_PER_RUN),
    ins={
        "visits": dg.AssetIn(["clean", "visits"], metadata={"columns": ["append_time", "user_id"]}),
        # Of a run over several hours only the hour before the first is there; the guard sees to that one.
        "before": dg.AssetIn(_KEY, partition_mapping=BEFORE, metadata={"allow_missing_partitions": True}),
    },
    io_manager_key="data_overwrite",
    metadata={
        "partition_expr": "hour",
        "dagster/column_schema": described(
            hour="Start of the hour, in UTC.",
            user_id="Whose session it is.",
            first_append="When its first visit reached the log.",
            last_append="When its last visit up to now reached the log.",
            visits="Number of its visits up to now.",
            is_open="Whether a visit of the next hour may belong to it.",
        ),
    },
    automation_condition=aligned_fan_in(LOOKBACK, replayed=dg.AssetKey(_KEY)),
)
def sessions_by_hour(context: dg.AssetExecutionContext, visits: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """Carry the open sessions from hour to hour, in the order of the hours."""
    SESSIONS.refuse_out_of_turn(context)
    window = context.partition_time_window
    first, end = window.start.astimezone(UTC), window.end.astimezone(UTC)
    carried = before if before.width else _SCHEMA.to_frame()
    state, states = carried.filter(pl.col("hour") == first - _HOUR), []
    for hour in (first + n * _HOUR for n in range((end - first) // _HOUR)):
        arrived = visits.filter(pl.col("append_time").is_between(hour, hour + _HOUR, closed="left"))
        state = sessions_after(hour, state, arrived)
        states.append(state)
    return pl.concat(states)


def sessions_after(hour: datetime, before: pl.DataFrame, visits: pl.DataFrame) -> pl.DataFrame:
    """The sessions at the end of an hour.

    Args:
        hour: Start of the hour.
        before: The sessions at its start, those that are closed included.
        visits: The visits of the hour, with ``append_time`` and ``user_id``.
    """
    arrived = visits.select(
        "user_id", pl.col("append_time").alias("first_append"), last_append="append_time", visits=pl.lit(1, pl.Int64)
    )
    pieces = pl.concat([before.filter("is_open").select(arrived.columns), arrived]).sort("user_id", "first_append")
    starts = (pl.col("first_append") - pl.col("last_append").shift().over("user_id") > GAP).fill_null(value=True)
    return (
        pieces.with_columns(number=starts.cum_sum().over("user_id"))
        .group_by("user_id", "number")
        .agg(pl.col("first_append").min(), pl.col("last_append").max(), pl.col("visits").sum())
        .select(
            pl.lit(hour, _SCHEMA["hour"]).alias("hour"),
            *("user_id", "first_append", "last_append", "visits"),
            is_open=pl.col("last_append") >= hour + _HOUR - GAP,
        )
        .sort("user_id", "first_append")
    )


ASSETS = [sessions_by_hour]
REPLAYS = SESSIONS.replays(sessions_by_hour)
CHECKS = [unique_check(sessions_by_hour.key, ["hour", "user_id", "first_append"], HOURS)]
