"""What others read of the blog: versions that passed their audits, behind names that are moved.

clean/devices -> internal/device_catalogue -> published/device_catalogue
aggregated/visits_cube -> published/visits_cube
"""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl

from pattern_platform.lake.schema import described
from pattern_platform.orchestration.publications import audit_check, publication_asset, retention_asset, shown_check
from pattern_platform.patterns.idempotency.proxy_native import native_audit_check
from pattern_platform.visits.assets import CUBE, visits_cube

_WEB: dict[str, Any] = {"owners": ["team:web"], "code_version": "1"}
_CATALOGUE = {
    "id": "Which device.",
    "brand_name": "Its brand.",
    "full_name": "Its name with its variant.",
    "processor_brand": "Brand of its processor.",
}


@dg.asset(
    key=["internal", "device_catalogue"],
    description="All devices as they are once every day is merged, a table of its own each time.",
    group_name="internal",
    tags={"pattern_platform/pattern": "proxy"},
    kinds={"polars", "deltalake"},
    ins={"devices": dg.AssetIn(["clean", "devices"], metadata={"columns": list(_CATALOGUE)})},
    io_manager_key="proxy",
    metadata={"dagster/column_schema": described(**_CATALOGUE)},
    automation_condition=dg.AutomationCondition.eager(),
    **_WEB,
)
def device_catalogue(devices: pl.LazyFrame) -> pl.LazyFrame:
    """Take the devices in their order."""
    return devices.sort("id")


def _identifies(rows: pl.LazyFrame) -> dg.AssetCheckResult:
    """Every device is there once, and there are some."""
    ids = rows.select(rows=pl.len(), devices=pl.col("id").n_unique(), null=pl.col("id").null_count()).collect()
    found = {name: int(ids[name][0]) for name in ids.columns}
    return dg.AssetCheckResult(passed=found["rows"] == found["devices"] > found["null"] == 0, metadata=found)


def _adds_up(rows: pl.LazyFrame) -> dg.AssetCheckResult:
    """The visits of a day by page are its visits by user, and its total."""
    page, user = pl.col("page").is_null(), pl.col("user_id").is_null()
    by_day = rows.group_by("day").agg(
        total=pl.col("visits").filter(page & user).sum(),
        by_page=pl.col("visits").filter(~page & user).sum(),
        by_user=pl.col("visits").filter(page & ~user).sum(),
    )
    wrong = by_day.filter((pl.col("total") != pl.col("by_page")) | (pl.col("total") != pl.col("by_user"))).collect()
    return dg.AssetCheckResult(passed=wrong.is_empty(), metadata={"wrong_days": [str(day) for day in wrong["day"]]})


# Published again where it was published with a day missing: what is shown follows what is there.
_WHEN_AUDITED = dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())
PUBLISHED_CATALOGUE = publication_asset(
    device_catalogue.key,
    "proxy",
    audits=["devices_are_identified"],
    key=["published", "device_catalogue"],
    description="The device catalogue that passed its audits; a run with the config `version` shows an earlier one.",
    group_name="published",
    tags={"pattern_platform/pattern": "proxy"},
    kinds={"duckdb"},
    metadata={"dagster/column_schema": described(**_CATALOGUE)},
    automation_condition=_WHEN_AUDITED,
    **_WEB,
)
PUBLISHED_CUBE = publication_asset(
    visits_cube.key,
    "proxy",
    audits=["every_day_adds_up"],
    key=["published", "visits_cube"],
    description="The version of the cube that passed its audits, of all days together.",
    group_name="published",
    tags={"pattern_platform/pattern": "proxy_native"},
    kinds={"duckdb"},
    metadata={"dagster/column_schema": CUBE},
    automation_condition=_WHEN_AUDITED,
    **_WEB,
)
ASSETS = [device_catalogue, PUBLISHED_CATALOGUE, PUBLISHED_CUBE]
_UPKEEP: dict[str, Any] = {
    "group_name": "maintenance",
    "owners": ["team:platform"],
    "kinds": {"deltalake"},
    "code_version": "1",
}
MAINTENANCE = [
    retention_asset(device_catalogue.key, "proxy", key=["maintenance", "device_catalogue_retention"], **_UPKEEP),
    retention_asset(visits_cube.key, "proxy", key=["maintenance", "visits_cube_retention"], **_UPKEEP),
]
CHECKS = [
    audit_check(
        device_catalogue.key,
        "devices_are_identified",
        _identifies,
        "proxy",
        description="Every device is there once. Looks at the version that is not published yet.",
    ),
    native_audit_check(
        visits_cube.key,
        "every_day_adds_up",
        _adds_up,
        description="The visits of every day, by page and by user, are its total. Looks at the newest version.",
        io_manager_key="proxy",
        table_io_manager_key="data_overwrite_shown",
    ),
    shown_check(PUBLISHED_CATALOGUE.key, "proxy"),
    shown_check(PUBLISHED_CUBE.key, "proxy"),
]
