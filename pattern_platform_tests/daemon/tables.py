"""The code location ``tables``: assets that leave tables, under names that the example platform has, too."""

import datetime as dt
import os
from pathlib import Path

import dagster as dg
import polars as pl

from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager
from pattern_platform.patterns.idempotency.data_overwrite_duckdb import WarehouseOverwriteIOManager
from pattern_platform_tests.daemon.files import VARIABLE, Files

FILES = Files()
FOLDER = Path(os.environ.get(VARIABLE, "/nowhere"))
DAYS = dg.DailyPartitionsDefinition("2024-05-06", end_date="2024-05-16")


class Amount(dg.Config):
    """How much arrives."""

    likes: int = 2


@dg.asset(
    key=["raw", "likes"],
    partitions_def=DAYS,
    metadata={"partition_expr": "day"},
    io_manager_key="delta",
    backfill_policy=dg.BackfillPolicy.multi_run(4),
)
def raw_likes(context: dg.AssetExecutionContext, config: Amount) -> pl.DataFrame:
    """As many likes a day as the run is told."""
    for day in context.partition_keys:
        FILES.work("likes", day)
    rows = [(dt.date.fromisoformat(day), number) for day in context.partition_keys for number in range(config.likes)]
    return pl.DataFrame(rows, schema={"day": pl.Date, "number": pl.Int64}, orient="row")


@dg.asset(key=["clean", "likes"], partitions_def=DAYS)
def clean_likes() -> None:
    """It has the last part of its key in common with another."""


@dg.asset(
    key=["warehouse", "totals"], partitions_def=DAYS, metadata={"partition_expr": "day"}, io_manager_key="warehouse"
)
def totals(context: dg.AssetExecutionContext) -> pl.DataFrame:
    """A row in DuckDB."""
    return pl.DataFrame({"day": [dt.date.fromisoformat(context.partition_key)], "likes": [2]})


@dg.asset(key=["maintenance", "compaction"])
def compaction() -> dg.MaterializeResult:
    """No table."""
    FILES.work("compaction")
    return dg.MaterializeResult(metadata={"files": 3, "share": 0.5, "done": True, "tables": {"raw/likes": 1}})


defs = dg.Definitions(
    assets=[raw_likes, clean_likes, totals, compaction],
    jobs=[dg.define_asset_job("ingest_likes", [raw_likes]), dg.define_asset_job("maintenance", [compaction])],
    resources={
        "delta": DataOverwriteIOManager(root_uri=str(FOLDER / "lake")),
        "warehouse": WarehouseOverwriteIOManager(database=str(FOLDER / "totals.duckdb")),
    },
    executor=dg.in_process_executor,
)
