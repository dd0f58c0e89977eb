"""Visits for other teams, in files as ever and in the table that takes their place; a check says whether they agree.

clean/visits -> exports/visits
             -> serving/visits
"""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl

from pattern_platform.ingested import LOOKBACK
from pattern_platform.lake.schema import described
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.patterns.data_flow.parallel_split import parallel_split
from pattern_platform.visits.assets import DAYS

_PARENT = dg.AssetKey(["clean", "visits"])
_CONTEXT = ("referral", "ad_id", "browser")
_COLUMNS = {
    "visit_id": "Identity of the page view.",
    "append_time": "When it reached the log, in UTC.",
    "user_id": "Who opened the page.",
    "page": "Which page.",
    "context": "Where the visitor came from, the advertisement that was shown, and the browser.",
}
_BRANCH: dict[str, Any] = {
    "owners": ["team:web"],
    "tags": {"pattern_platform/pattern": "parallel_split"},
    "code_version": "1",
    "partitions_def": DAYS,
    "ins": {
        "visits": dg.AssetIn(_PARENT, metadata={"columns": ["visit_id", "append_time", "user_id", "page", *_CONTEXT]})
    },
    "metadata": {"partition_expr": "append_time", "dagster/column_schema": described(**_COLUMNS)},
    "automation_condition": aligned_fan_in(LOOKBACK),
}


def _nested(visits: pl.LazyFrame) -> pl.LazyFrame:
    return visits.select(*list(_COLUMNS)[:-1], context=pl.struct(_CONTEXT)).sort("append_time", "visit_id")


def _as_file(visits: pl.LazyFrame) -> pl.LazyFrame:
    """A line has no place for a struct."""
    return visits.with_columns(pl.col("context").struct.json_encode())


def _as_line(visits: pl.LazyFrame) -> pl.LazyFrame:
    """What is read back from a file: texts."""
    return _as_file(visits).with_columns(pl.col("append_time").dt.strftime("%Y-%m-%dT%H:%M:%S%.6f%z"))


@dg.asset(
    key=["exports", "visits"],
    description="The visits of a day as one CSV file; what came with a visit is JSON.",
    group_name="exports",
    kinds={"polars", "csv"},
    io_manager_key="keyed_idempotency_files",
    **_BRANCH,
)
def visits_file(visits: pl.LazyFrame) -> pl.LazyFrame:
    """Write them as ever."""
    return _as_file(_nested(visits))


@dg.asset(
    key=["serving", "visits"],
    description="The visits of a day in a table, to take the place of the files.",
    group_name="serving",
    kinds={"polars", "deltalake"},
    io_manager_key="data_overwrite",
    **_BRANCH,
)
def visits_table(visits: pl.LazyFrame) -> pl.LazyFrame:
    """Keep what came with a visit as it is."""
    return _nested(visits)


ASSETS = [visits_file, visits_table]
CHECKS = [parallel_split(_PARENT, visits_file, visits_table, as_legacy=_as_line)]
