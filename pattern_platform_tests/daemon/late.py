"""The code location ``late``: events of hours, some of which arrive late, and a day that is made of its hours."""

import datetime as dt
import os
from pathlib import Path
from typing import Any

import dagster as dg
import dataframely as dy

from pattern_platform import DataOverwriteIOManager
from pattern_platform.ingestion.assets import ingestion_assets
from pattern_platform.ingestion.checks import ingestion_checks
from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.landing_zone import LandingZone
from pattern_platform.ingestion.late import routing_sensor
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.patterns.data_flow.concurrent_runner import concurrent_runner
from pattern_platform_tests.daemon.files import VARIABLE, Files

FILES = Files()
ROOT = Path(os.environ.get(VARIABLE, "/nowhere"))
CLEAN = dg.AssetKey(["clean", "events"])
LATE_DATA = concurrent_runner("late_data", 1)
LATENESS = 12
PAUSED = "paused"  # a file, while which is there the sensor waits
# The first day begins in the evening: with six hours it is a day like any other, and they take less time.
HOURS_OF_THE_DAY = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)


class Event(dy.Schema):
    """One event."""

    id = dy.String(primary_key=True)
    at = dy.Datetime(time_unit="us", time_zone="UTC")


class HeldTables(DataOverwriteIOManager):
    """Delta tables, into which clean rows are written when the test lets them."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Say that the hour is at work, wait if it is held, and write."""
        if context.asset_key == CLEAN:
            for partition in context.asset_partition_keys:
                FILES.work("clean", partition)
        super().handle_output(context, obj)


EVENTS = Dataset(
    name="events",
    description="One event.",
    owner="team:web",
    landing="events/date=%Y-%m-%d/hour=%H/*.jsonl",
    format="jsonl",
    partitions=dg.HourlyPartitionsDefinition("2024-03-05-18:00", end_date="2024-03-07-00:00"),
    contract=Event,
    time_column="at",
    allowed_lateness=LATENESS,
)


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition("2024-03-05", end_date="2024-03-07"),
    deps=[dg.AssetDep(CLEAN, partition_mapping=HOURS_OF_THE_DAY)],
    automation_condition=aligned_fan_in(dt.timedelta(days=30)),
)
def day(context: dg.AssetExecutionContext) -> None:
    """A day of its hours."""
    FILES.work("day", context.partition_key)


assets = ingestion_assets(EVENTS)
routing = routing_sensor(EVENTS, LATE_DATA)


@dg.sensor(
    name=routing.name,
    minimum_interval_seconds=1,  # of the sensor itself it is half a minute
    target=dg.AssetSelection.assets(CLEAN, ["quarantine", "events"], ["late", "events"]),
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def quick_routing(context: dg.SensorEvaluationContext) -> Any:
    """The same, more often; what arrives while it is paused is one batch, as what arrives between two ticks of it."""
    return dg.SkipReason("paused") if (ROOT / PAUSED).exists() else routing(context)


defs = dg.Definitions(
    assets=[*assets, day],
    asset_checks=ingestion_checks(EVENTS),
    jobs=[dg.define_asset_job("ingest", [assets[0]])],
    sensors=[
        quick_routing,
        dg.AutomationConditionSensorDefinition(
            "automation",
            target=[day],
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=1,
        ),
    ],
    resources={
        "landing": LandingZone(root=str(ROOT / "landing")),
        "data_overwrite": HeldTables(root_uri=str(ROOT / "lake")),
    },
    executor=dg.in_process_executor,
)
