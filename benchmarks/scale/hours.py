"""A code location with one hourly asset, whose runs are measured: it makes an hour of visits and stores them."""

import os

import dagster as dg
import polars as pl

from benchmarks.contexts import HOURS
from benchmarks.data import HOUR, START, visits
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager

LAKE = "PATTERN_PLATFORM_SCALE_LAKE"  # variable that names the folder of the table; not one of the settings
ROWS = 100_000


@dg.asset(
    partitions_def=HOURS,
    io_manager_key="lake",
    metadata={"partition_expr": "ts"},
    backfill_policy=dg.BackfillPolicy.multi_run(24),
)
def hour(context: dg.AssetExecutionContext) -> pl.DataFrame:
    """The visits of the hours of a run."""
    windows = [context.partition_time_window.start + n * HOUR for n in range(len(context.partition_keys))]
    return pl.concat(visits(ROWS, START + (start - START)) for start in windows)


defs = dg.Definitions(
    [hour],
    resources={"lake": DataOverwriteIOManager(root_uri=os.environ.get(LAKE, "data/scale"))},
    executor=dg.in_process_executor,
)
