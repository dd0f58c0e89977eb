"""What the log says of a file's columns, taken from its Parquet footer, so that no row is looked at twice.

The bounds are conservative: a minimum is rounded down and a maximum up to Delta's milliseconds, floats have none (NaN
sorts above every maximum), and a text that Polars cut short was cut so that it still bounds the values.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polars._typing import PolarsDataType

    from pattern_platform.lake.object_path import LakePath

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class ColumnStatistics:
    """Bounds of one column of one file, as the column's Python values. Bounds are None where nothing is known."""

    minimum: Any
    maximum: Any
    nulls: int


def has_bounds(dtype: PolarsDataType) -> bool:
    """Whether files are told apart by the bounds of a column: floats are not (NaN), nor what has no order."""
    return dtype.is_integer() or dtype.base_type() in (pl.Date, pl.Datetime, pl.String)


def read_footer(file: LakePath) -> pq.FileMetaData:
    """The footer of a Parquet file; of one on an object store in a single request, mostly."""
    return pq.read_metadata(file if isinstance(file, Path) else pa.BufferReader(file.footer()))


def footer_statistics(file: LakePath, schema: pl.Schema) -> tuple[int, dict[str, ColumnStatistics]]:
    """Number of rows of a Parquet file, and the statistics of its columns; nested columns have none.

    Args:
        file: The file, as Polars wrote it.
        schema: Columns with their types.
    """
    footer = read_footer(file)
    statistics: dict[str, ColumnStatistics] = {}
    for index in range(footer.num_columns):
        name = footer.schema.column(index).path
        if name not in schema or "." in name:
            continue  # a leaf of a nested column, or a name that cannot be told from one
        groups = [footer.row_group(g).column(index).statistics for g in range(footer.num_row_groups)]
        nulls = sum(s.null_count for s in groups)
        bounded = [s for s in groups if s.has_min_max]
        low = high = None
        if bounded and len(bounded) == sum(s.num_values > 0 for s in groups):
            low = _value(min(s.min_raw for s in bounded), schema[name])
            high = _value(max(s.max_raw for s in bounded), schema[name])
        known = low is not None and high is not None
        statistics[name] = ColumnStatistics(low if known else None, high if known else None, nulls)
    return footer.num_rows, statistics


def delta_stats(rows: int, statistics: Mapping[str, ColumnStatistics]) -> str:
    """Statistics as the JSON that a Delta log keeps.

    Args:
        rows: Number of rows of the file.
        statistics: Statistics by column.
    """
    low = {c: _json_bound(s.minimum, up=False) for c, s in statistics.items()}
    high = {c: _json_bound(s.maximum, up=True) for c, s in statistics.items()}
    bounded = [c for c in statistics if low[c] is not None and high[c] is not None]
    return json.dumps(
        {
            "numRecords": rows,
            "minValues": {c: low[c] for c in bounded},
            "maxValues": {c: high[c] for c in bounded},
            "nullCount": {c: s.nulls for c, s in statistics.items()},
        },
        ensure_ascii=False,  # delta-rs misreads some of the characters that JSON escapes as two
    )


def _value(raw: Any, dtype: pl.DataType) -> Any:  # noqa: ANN401 - the physical value of any column
    """A physical Parquet value as the column's own, or None for types and values that get no bounds."""
    try:
        if dtype.is_integer():
            return raw
        if isinstance(dtype, pl.Date):
            return (_EPOCH + dt.timedelta(days=raw)).date()
        if isinstance(dtype, pl.Datetime):
            moment = _EPOCH + dt.timedelta(microseconds=raw)
            return moment if dtype.time_zone else moment.replace(tzinfo=None)
        return raw.decode() if isinstance(dtype, pl.String) else None
    except (OverflowError, UnicodeDecodeError):
        return None  # a year that Python has not, or a text that was cut inside a character


def _json_bound(value: Any, *, up: bool) -> str | int | None:  # noqa: ANN401 - a bound of any type
    """A bound as the log keeps it, timestamps in whole milliseconds; None where rounding would leave the calendar."""
    if not isinstance(value, dt.datetime):
        return value.isoformat() if isinstance(value, dt.date) else value
    milliseconds, rest = divmod(value.microsecond, 1000)
    try:
        rounded = value.replace(microsecond=0) + dt.timedelta(milliseconds=milliseconds + (1 if up and rest else 0))
    except OverflowError:
        return None
    return rounded.replace(tzinfo=None).isoformat(timespec="milliseconds") + ("Z" if value.tzinfo else "")
