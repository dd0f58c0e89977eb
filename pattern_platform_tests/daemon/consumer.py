"""The code location ``consumer``: of the producer it knows an asset key, the name of a job, and the calendar."""

import datetime as dt

import dagster as dg

from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.patterns.data_flow.isolated_sequencer import after_job
from pattern_platform_tests.daemon.files import Files

FILES = Files()
DAYS = dg.DailyPartitionsDefinition("2024-03-01", end_date="2024-03-11")


@dg.asset(partitions_def=DAYS, deps=[dg.AssetKey("day")], automation_condition=aligned_fan_in(dt.timedelta(days=30)))
def report(context: dg.AssetExecutionContext) -> None:
    """Data-based: follows an asset of the other location."""
    FILES.work("report", context.partition_key)


@dg.asset(partitions_def=DAYS)
def taken(context: dg.AssetExecutionContext) -> None:
    """Task-based: follows a job of the other location."""
    FILES.work("taken", context.partition_key)


consume = dg.define_asset_job("consume", [taken])

defs = dg.Definitions(
    assets=[report, taken],
    jobs=[consume],
    sensors=[
        after_job("produce", consume, location="producer", partitions=DAYS),
        dg.AutomationConditionSensorDefinition(
            "automation",
            target=[report],
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=1,
        ),
    ],
    executor=dg.in_process_executor,
)
