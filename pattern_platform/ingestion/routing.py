"""Late data: which partition a row that arrived belongs to.

An event is brought into the partition in which it happened, as long as that is no further back than the data set
allows: the append watermark. What is later goes to the table ``late/<name>``, where it is counted and kept. Where a row
belongs follows from the row and from when it arrived, so a replay routes it the same way.
"""

from __future__ import annotations

import warnings
from datetime import UTC
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
import polars as pl

from pattern_platform.errors import MissingPartitionsError
from pattern_platform.ingestion.landing import ingestion_schema, record_of
from pattern_platform.ingestion.parsing import parse_columns
from pattern_platform.lake.checks import listed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pattern_platform.ingestion.dataset import Dataset

# The parameter is beta in Dagster 1.13; without it the last partitions of a data set that ends have no later ones.
warnings.filterwarnings("ignore", "Parameter `allow_nonexistent_upstream_partitions`", dg.BetaWarning)
ROUTED_TO, EVENT_TIME = "routed_to", "event_time"
PARTITIONS = "pattern_platform/event_partitions"


def late_schema(dataset: Dataset) -> pl.Schema:
    """Columns of ``late/<name>``."""
    return pl.Schema({**ingestion_schema(dataset), EVENT_TIME: pl.Datetime("us", "UTC"), "record": pl.String})


def routed(dataset: Dataset, raw: pl.DataFrame, partition: str) -> pl.DataFrame:
    """Raw rows with the start of the partition that each belongs to, in :data:`ROUTED_TO`.

    Null is too late. A row whose event time cannot be read, or lies after its arrival, stays in the partition in which
    it arrived, and is rejected there.

    Args:
        dataset: A data set with an allowed lateness.
        raw: Rows that arrived in a partition.
        partition: Its key.
    """
    starts = _starts(dataset, partition)
    event = _event_times(dataset, raw)
    local = event.dt.convert_time_zone(definition_of(dataset).timezone)
    start = local.dt.truncate("1h" if is_hourly(dataset) else "1d")
    start = start.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    here = pl.lit(starts[-1], dtype=pl.Datetime("us", "UTC"))
    stays = start.is_null() | (start > starts[-1])
    return raw.with_columns(pl.when(stays).then(here).when(start.is_in(starts)).then(start).alias(ROUTED_TO))


def too_late(dataset: Dataset, raw: pl.DataFrame) -> pl.DataFrame:
    """The rows that arrived too late, with the columns of :func:`late_schema`.

    Args:
        dataset: The data set.
        raw: Routed rows.
    """
    late = raw.filter(pl.col(ROUTED_TO).is_null())
    event = _event_times(dataset, late).alias(EVENT_TIME)
    return late.with_columns(event, record=record_of(dataset)).select(late_schema(dataset).names())


def routing_metadata(dataset: Dataset, raw: pl.DataFrame) -> dict[str, Any]:
    """What Dagster is told of routed rows: for each partition in which they arrived how many belong to which.

    Args:
        dataset: The data set.
        raw: Routed rows.
    """
    at, to = "partition_start", ROUTED_TO
    counted = raw.filter(pl.col(to).is_not_null()).group_by(at, to).len().sort(at, to)
    key_of = definition_of(dataset).get_partition_key_for_timestamp
    told: dict[str, dict[str, int]] = {}
    for arrived, belongs, count in counted.iter_rows():
        told.setdefault(key_of(arrived.timestamp()), {})[key_of(belongs.timestamp())] = count
    return {PARTITIONS: dg.MetadataValue.json(told)}


def lateness(dataset: Dataset, raw: pl.DataFrame) -> float:
    """How late the latest event arrived, in seconds before the partition that it came in; 0 where none was late.

    Args:
        dataset: The data set.
        raw: Routed rows.
    """
    late = raw.filter(pl.col(ROUTED_TO) < pl.col("partition_start"))
    behind = (late["partition_start"] - _event_times(dataset, late)).dt.total_seconds().max()
    return float(cast("int", behind or 0))


def _starts(dataset: Dataset, partition: str) -> Sequence[datetime]:
    """The starts of the partitions that rows of a partition may belong to, the earliest first."""
    definition = definition_of(dataset)
    window = definition.time_window_for_partition_key(partition)
    starts = [window.start]
    for _ in range(dataset.allowed_lateness or 0):
        window = definition.get_prev_partition_window(window.start)
        if window is None:
            break
        starts.append(window.start)
    return [start.astimezone(UTC) for start in reversed(starts)]


def _event_times(dataset: Dataset, raw: pl.DataFrame) -> pl.Series:
    column = str(dataset.time_column)
    parsed = parse_columns(dataset, raw, {column: dataset.sources[column]})[column]
    if parsed.dtype == pl.Date:  # a day begins at midnight of its partitions
        parsed = parsed.cast(pl.Datetime("us")).dt.replace_time_zone(definition_of(dataset).timezone)
    return parsed.dt.convert_time_zone("UTC")


def definition_of(dataset: Dataset) -> dg.TimeWindowPartitionsDefinition:
    """The partitions of a data set that has some."""
    if dataset.partitions is None:
        message = f"data set {dataset.name!r} has no partitions"
        raise TypeError(message)
    return dataset.partitions


def is_hourly(dataset: Dataset) -> bool:
    """Whether the partitions of a data set are hours; else they are days."""
    return isinstance(dataset.partitions, dg.HourlyPartitionsDefinition)


def later_arrivals(allowed_lateness: int) -> dg.PartitionMapping:
    """The partitions in which events of a partition may arrive: its own, and those after it.

    Args:
        allowed_lateness: How many of those.
    """
    return dg.TimeWindowPartitionMapping(
        start_offset=0, end_offset=allowed_lateness, allow_nonexistent_upstream_partitions=True
    )


def refuse_not_arrived(dataset: Dataset, keys: Sequence[str], instance: dg.DagsterInstance) -> None:
    """Refuse a partition of which late rows alone are there: it would pass for the whole of it.

    Args:
        dataset: The data set.
        keys: The partitions of a run.
        instance: Where the raw partitions are recorded.

    Raises:
        MissingPartitionsError: Names them.
    """
    raw = dg.AssetKey(["raw", dataset.name])
    there = instance.get_materialized_partitions(raw)  # also where a replay failed since: its rows are in the table
    if missing := [key for key in keys if key not in there]:
        raise MissingPartitionsError(
            f"partition(s) {listed(missing)} of clean/{dataset.name} were refused",
            why=f"raw/{dataset.name} has not arrived there, only rows that are late may be",
            mend=f"materialize raw/{dataset.name} first",
        )
