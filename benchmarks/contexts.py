"""Dagster's contexts for one call of an IO manager, so that what is timed is the IO manager and no run around it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import dagster as dg

from benchmarks.data import START

if TYPE_CHECKING:
    from collections.abc import Mapping

HOURS = dg.HourlyPartitionsDefinition(START)
DAYS = dg.DailyPartitionsDefinition(START)
PREFIX = "bench"


def hour(index: int) -> str:
    """Partition key of the hour with an index."""
    return (START + dt.timedelta(hours=index)).strftime("%Y-%m-%d-%H:00")


def day(index: int) -> str:
    """Partition key of the day with an index."""
    return (START + dt.timedelta(days=index)).strftime("%Y-%m-%d")


def output(
    table: str,
    first: str,
    last: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dg.OutputContext:
    """The output of an asset for a partition key or a range of them, as a run of Dagster gives it.

    Args:
        table: Name of the table.
        first: First partition key, of an hour or of a day.
        last: Last partition key.
        config: Configuration of the IO manager, for those that ask the context for it.
        metadata: Metadata of the asset; without it, the partition column alone.
    """
    hourly = ":" in first
    return dg.build_output_context(
        name="result",
        asset_key=[PREFIX, table],
        asset_partitions_def=HOURS if hourly else DAYS,
        asset_partition_key_range=dg.PartitionKeyRange(first, last or first),
        definition_metadata=metadata or {"partition_expr": "ts" if hourly else "day"},
        resource_config=config,
        run_id="benchmark",
    )


def input_of(
    table: str, first: str, last: str | None = None, *, kind: type, config: Mapping[str, Any] | None = None
) -> dg.InputContext:
    """The input of an asset that reads a partition, or a range of them, of a table.

    Args:
        table: Name of the table.
        first: First partition key.
        last: Last partition key.
        kind: Annotation of the parameter.
        config: Configuration of the IO manager, for those that ask the context for it.
    """
    upstream = output(table, first, last, config=config)
    return dg.build_input_context(
        name=table,
        asset_key=[PREFIX, table],
        asset_partitions_def=HOURS if ":" in first else DAYS,
        asset_partition_key_range=dg.PartitionKeyRange(first, last or first),
        definition_metadata={},
        upstream_output=upstream,
        dagster_type=dg.PythonObjectDagsterType(kind),
        resource_config=config,
    )
