"""The cube of a day before its last hour is in: approximate, and said to be.

aggregated/visits_by_hour -> aggregated/visits_estimate
                          -> aggregated/visits_estimate__completeness
                          -> aggregated/visits_estimate__fallback
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from pattern_platform.ingested import LOOKBACK
from pattern_platform.patterns.data_flow.unaligned_fan_in import fan_in_asset, unaligned_fan_in
from pattern_platform.settings import Settings
from pattern_platform.visits.assets import CUBE_COLUMNS, DAYS, cube_of, visits_by_hour

if TYPE_CHECKING:
    import polars as pl


def _cube(hours: pl.LazyFrame) -> pl.LazyFrame:
    return cube_of(hours.collect()).lazy()


ESTIMATE, _CHECKS = fan_in_asset(
    visits_by_hour,
    _cube,
    floor=Settings().thresholds.estimate_floor,
    published={
        "key": ["aggregated", "visits_estimate"],
        "description": "Visits of a day like the cube, as soon as every hour has arrived or failed.",
        "partitions_def": DAYS,
        "metadata": {"partition_expr": "day"},
    },
    columns=CUBE_COLUMNS,
    through=[dg.AssetKey(["raw", "visits"]), dg.AssetKey(["clean", "visits"])],
    group_name="aggregated",
    owners=["team:web"],
    tags={"pattern_platform/pattern": "unaligned_fan_in"},
    kinds={"duckdb", "deltalake"},
    code_version="1",
    automation_condition=unaligned_fan_in(LOOKBACK),
)
ASSETS = [ESTIMATE]
CHECKS = _CHECKS
