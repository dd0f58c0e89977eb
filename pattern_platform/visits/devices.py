"""Devices that the blog is read on, with every day's state kept.

landing/device_updates -> raw/device_updates -> clean/device_updates -> clean/devices -> clean/devices__versions
                                                     -> serving/devices
-> quarantine/device_updates
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg
import polars as pl

from pattern_platform.ingestion.assets import ingestion_assets, ingestion_checks
from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import unique_check
from pattern_platform.orchestration.merged_tables import superseded_check, unique_in_table_check, version_table_asset
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.runners import INGESTION, TEAM_WEB, URGENT
from pattern_platform.visits import device_updates
from pattern_platform.visits.assets import LOOKBACK
from pattern_platform.visits.contract import DeviceUpdate

DAYS = dg.DailyPartitionsDefinition(
    min(device_updates.DAYS).isoformat(), (max(device_updates.DAYS) + timedelta(days=1)).isoformat()
)
_YESTERDAY = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)

DEVICE_UPDATES = Dataset(
    name="device_updates",
    description="Devices as they are from a day on.",
    owner="team:web",
    landing="device_updates/date=%Y-%m-%d/*.csv",
    format="csv",
    partitions=DAYS,
    contract=DeviceUpdate,
    time_column="day",
    header=device_updates.HEADER,
)


# A day rests on the day before: a correction makes the later days stale in the UI, and they follow one by one.
_MERGED: dict[str, Any] = {
    "owners": ["team:web"],
    "code_version": "1",
    "partitions_def": DAYS,
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "metadata": {
        "partition_expr": "day",
        "merge_keys": ["id"],
        "soft_delete": "is_deleted",
        "dagster/column_schema": described(
            day="Day of the last update.",
            id="Which device.",
            brand_name="Its brand.",
            full_name="Its name with its variant.",
            processor_brand="Brand of its processor.",
        ),
    },
    "automation_condition": aligned_fan_in(LOOKBACK),
}


@dg.asset(
    key=["clean", "devices"],
    description="The devices after a day's updates. A corrected day starts from what the day before left.",
    group_name="clean",
    tags={"pattern_platform/pattern": "stateful_merger"},
    kinds={"polars", "deltalake"},
    ins={"updates": dg.AssetIn(["clean", "device_updates"])},
    deps=[dg.AssetDep(["clean", "devices"], partition_mapping=_YESTERDAY)],
    io_manager_key="stateful_merger",
    **_MERGED,
)
def devices(updates: pl.LazyFrame) -> pl.LazyFrame:
    """Merge the updates as they are."""
    return updates


@dg.asset(
    key=["serving", "devices"],
    description="The same devices in DuckDB, which has no versions: they are rebuilt from the history of all updates.",
    group_name="serving",
    tags={"pattern_platform/pattern": "stateful_merger_history"},
    kinds={"polars", "duckdb"},
    ins={"updates": dg.AssetIn(["clean", "device_updates"])},
    deps=[dg.AssetDep(["serving", "devices"], partition_mapping=_YESTERDAY)],
    io_manager_key="history_merger",
    **_MERGED,
)
def served_devices(updates: pl.LazyFrame) -> pl.LazyFrame:
    """Merge the updates as they are."""
    return updates


VERSIONS = version_table_asset(
    devices.key,
    "stateful_merger",
    group_name="clean",
    owners=["team:web"],
    tags={"pattern_platform/pattern": "stateful_merger"},
    kinds={"deltalake"},
    code_version="1",
    automation_condition=dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing()),
    metadata={
        "dagster/column_schema": described(
            execution_time="Partition of clean/devices.",
            table_version="Version of the table that its last run made.",
            status="current, or superseded where an earlier partition was replayed since.",
            run_id="The run.",
            recorded_at="When it was committed.",
            position="Sorts as the partitions follow each other.",
        )
    },
)
ASSETS = [
    *ingestion_assets(DEVICE_UPDATES, automation_condition=aligned_fan_in(LOOKBACK), runners=[INGESTION, TEAM_WEB]),
    devices,
    VERSIONS,
    served_devices,
]
CHECKS = [
    *ingestion_checks(DEVICE_UPDATES),
    unique_in_table_check(devices.key, ["id"], "stateful_merger"),
    unique_check(served_devices.key, ["id"], DAYS),
    superseded_check(devices.key, "stateful_merger"),
]
INGEST = dg.define_asset_job(
    "ingest_device_updates",
    description="One landed day of updates. What follows from it, the conditions of the assets request.",
    selection=[dg.AssetKey(["raw", "device_updates"])],
    tags=URGENT,
)
SCHEDULE = dg.build_schedule_from_partitioned_job(INGEST, minute_of_hour=10)
