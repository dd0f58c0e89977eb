"""Devices that the blog is read on, with every day's state kept.

landing/device_updates -> raw/device_updates -> clean/device_updates -> clean/devices -> clean/devices__versions
                                                     -> serving/devices
-> quarantine/device_updates
"""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl

from pattern_platform.ingested import INGESTED, LOOKBACK
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.checks import unique_check
from pattern_platform.orchestration.merged_tables import superseded_check, unique_in_table_check, version_table_asset
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in

DEVICE_UPDATES = INGESTED["device_updates"]
DAYS = DEVICE_UPDATES.partitions
_YESTERDAY = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)


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
    *DEVICE_UPDATES.assets,
    devices,
    VERSIONS,
    served_devices,
]
CHECKS = [
    *DEVICE_UPDATES.checks,
    unique_in_table_check(devices.key, ["id"], "stateful_merger"),
    unique_check(served_devices.key, ["id"], DAYS),
    superseded_check(devices.key, "stateful_merger"),
]
