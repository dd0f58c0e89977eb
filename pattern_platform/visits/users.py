"""Users of the blog, kept up to date by hourly change data capture.

landing/user_changes -> raw/user_changes -> clean/user_changes -> clean/users
-> quarantine/user_changes
"""

from __future__ import annotations

import dagster as dg
import polars as pl

from pattern_platform.ingested import INGESTED, LOOKBACK
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.merged_tables import unique_in_table_check
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.visits.assets import HOURS

USER_CHANGES = INGESTED["user_changes"]


@dg.asset(
    key=["clean", "users"],
    description="The blog's users as they are now. Hours bring changes, late and repeated ones among them.",
    group_name="clean",
    owners=["team:web"],
    tags={"pattern_platform/pattern": "merger"},
    kinds={"polars", "deltalake"},
    code_version="1",
    partitions_def=HOURS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    ins={"changes": dg.AssetIn(["clean", "user_changes"])},
    io_manager_key="merger",
    metadata={
        "merge_keys": ["user_id"],
        "sequence_by": "sequence",
        "soft_delete": "is_deleted",
        "dagster/column_schema": described(
            user_id="Who it is.",
            sequence="Position of the user's last change in the source.",
            changed_at="When the source made that change.",
            login="Login of the user.",
            email="Address of the user; null when not given.",
            country="Country of the user, two letters.",
            plan="What the user reads by, free or member.",
        ),
    },
    automation_condition=aligned_fan_in(LOOKBACK),
)
def users(changes: pl.LazyFrame) -> pl.LazyFrame:
    """Take what a change says of the user; how it was delivered stays behind."""
    columns = ["user_id", "sequence", "changed_at", "login", "email", "country", "plan"]
    return changes.select(*columns, is_deleted=pl.col("op") == "delete")


ASSETS = [
    *USER_CHANGES.assets,
    users,
]
CHECKS = [*USER_CHANGES.checks, unique_in_table_check(users.key, ["user_id"], "merger")]
