"""The code location of the fleet: hourly assets of a few rows, which say on which host they were made."""

import datetime as dt
import os
import socket

import dagster as dg
import polars as pl
from dagster_deltalake import S3Config
from dagster_deltalake.config import ClientConfig

from pattern_platform.patterns.data_flow.concurrent_runner import concurrent_runner
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager
from pattern_platform_tests.daemon.files import Files

FILES = Files()
ROWS = 5
LIMIT = 3  # of the tag, in the stack of the tests
HOURS_A_RUN = 4
HOURS = dg.HourlyPartitionsDefinition("2024-05-06-00:00", end_date="2024-05-13-00:00")
ROOT, ENDPOINT = "FLEET_ROOT", "FLEET_ENDPOINT"
TABLES = DataOverwriteIOManager(
    root_uri=os.environ.get(ROOT, "s3://nowhere"),
    # Its credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment.
    storage=S3Config(endpoint=os.environ.get(ENDPOINT), region="us-east-1"),
    client_options=ClientConfig(allow_http=True),
)


def rows(*hours: str) -> pl.DataFrame:
    """What hours hold."""
    starts = [dt.datetime.strptime(hour, "%Y-%m-%d-%H:%M").replace(tzinfo=dt.UTC) for hour in hours]
    return pl.DataFrame({"hour": starts}).join(pl.DataFrame({"number": range(ROWS)}), how="cross")


def hourly(name: str, hours_a_run: int = 1) -> dg.AssetsDefinition:
    """An asset of a few rows an hour."""

    @dg.asset(
        name=name,
        partitions_def=HOURS,
        metadata={"partition_expr": "hour"},
        io_manager_key="delta",
        tags=concurrent_runner("regions", LIMIT).tags,
        backfill_policy=dg.BackfillPolicy.multi_run(hours_a_run),
    )
    def readings(context: dg.AssetExecutionContext) -> pl.DataFrame:
        for hour in context.partition_keys:
            FILES.work(name, hour)
        context.add_output_metadata({"host": socket.gethostname()})
        return rows(*context.partition_keys)

    return readings


defs = dg.Definitions(
    assets=[
        hourly("spread", HOURS_A_RUN),
        *[hourly(name) for name in ("spread_by_hour", "killed", "cut_off", "restarted")],
    ],
    resources={"delta": TABLES},
    executor=dg.in_process_executor,  # the workers of Celery may have no children
)
