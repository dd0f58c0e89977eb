"""Frames -> Parquet files with Delta statistics, and back.

Polars writes the files, streaming; the statistics come from the Parquet footers, so no row is looked at twice. They are
conservative: a minimum is rounded down and a maximum up to Delta's milliseconds, floats have none (NaN sorts above
every maximum), and a string that Polars cut short was cut so that it still bounds the values.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import polars as pl
import pyarrow.parquet as pq

from pattern_platform.errors import UnsafePartitionKeyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from polars.io.partition import FileProviderArgs

_MAX_ROWS_PER_FILE = 10_000_000
_ROWS_PER_GROUP = 250_000  # 5 % faster and 7 % smaller than the default, at the same peak memory
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
_MAX_FOLDER_LENGTH = 255
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class ColumnStatistics:
    """Bounds of one column of one file, as the column's Python values. Bounds are None where nothing is known."""

    minimum: Any
    maximum: Any
    nulls: int


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of a table.

    Args:
        path: Relative to the table, as it is on disk (the log holds it percent-encoded).
        size: Bytes.
        rows: Number of rows.
        modified: Milliseconds since the epoch.
        partition_values: Values of the physical partition columns, which are not in the file.
        statistics: Bounds by column.
    """

    path: str
    size: int
    rows: int
    modified: int
    partition_values: Mapping[str, str | None] = field(default_factory=dict)
    statistics: Mapping[str, ColumnStatistics] = field(default_factory=dict)

    def delta_stats(self) -> str:
        """The statistics as the JSON that a Delta log keeps; partition columns have none there."""
        own = {c: s for c, s in self.statistics.items() if c not in self.partition_values}
        low = {c: _json_bound(s.minimum, up=False) for c, s in own.items()}
        high = {c: _json_bound(s.maximum, up=True) for c, s in own.items()}
        bounded = [c for c in own if low[c] is not None and high[c] is not None]
        return json.dumps(
            {
                "numRecords": self.rows,
                "minValues": {c: low[c] for c in bounded},
                "maxValues": {c: high[c] for c in bounded},
                "nullCount": {c: s.nulls for c, s in own.items()},
            },
            ensure_ascii=False,  # delta-rs misreads some of the characters that JSON escapes as two
        )


def write_files(
    frame: pl.LazyFrame,
    table: Path,
    *,
    keys: Mapping[str, pl.Expr],
    partition_by: Sequence[str] = (),
    durable: bool = False,
) -> list[DataFile]:
    """Stream a frame into new files of a table. They are not part of it until a commit names them.

    Args:
        frame: Rows with exactly the table's columns and types.
        table: Directory of the table.
        keys: Expressions; rows that differ in one go into different files.
        partition_by: Physical partition columns; they are left out of the files.
        durable: Whether the files are synced to the disk.

    Returns:
        The files that hold rows. When writing fails, whatever was written is removed again.

    Raises:
        UnsafePartitionKeyError: A physical partition value is an empty string, which Delta Lake stores as null, or too
            long for a folder.
    """
    partitions: dict[str, Mapping[str, Any]] = {}
    refused: list[UnsafePartitionKeyError] = []
    schema = frame.collect_schema()

    def new_path(args: FileProviderArgs) -> str:
        # Called from Polars' threads, where an error would lose its class: it is raised once they are done.
        row = args.partition_keys.row(0, named=True) if partition_by else {}
        values = {column: row[column] for column in partition_by}
        try:
            folders = [_partition_folder(column, value) for column, value in values.items()]
        except UnsafePartitionKeyError as error:
            refused.append(error)
            folders = []
        path = "/".join([*folders, f"part-{uuid4().hex}.parquet"])
        partitions[path] = values
        return path

    sink = pl.PartitionBy(
        table,
        file_path_provider=new_path,
        key={**{c: pl.col(c) for c in partition_by}, **keys} or None,
        include_key=False if partition_by or keys else None,
        max_rows_per_file=_MAX_ROWS_PER_FILE,
        approximate_bytes_per_file=None,
    )
    try:
        frame.sink_parquet(
            sink,
            compression="zstd",
            compression_level=1,
            statistics=True,
            row_group_size=_ROWS_PER_GROUP,
            mkdir=True,
            sync_on_close="all" if durable else None,
        )
        if refused:
            raise refused[0]
        files = [_described(table, path, values, schema) for path, values in partitions.items()]
        remove_files(table, [f for f in files if not f.rows])
    except BaseException:
        # BaseException: a panic of a native library or an interrupt must not leave files behind either.
        remove_files(table, list(partitions))
        raise
    return [f for f in files if f.rows]


def remove_files(table: Path, files: Iterable[DataFile | str]) -> None:
    """Remove files that no commit names. The folders of physical partitions stay."""
    for file in files:
        (table / (file if isinstance(file, str) else file.path)).unlink(missing_ok=True)


def scan_files(
    table: Path, files: pl.DataFrame, schema: pl.Schema, partition_columns: Sequence[str] = ()
) -> pl.LazyFrame:
    """Scan some files of a table as one frame with the table's schema.

    Args:
        table: Directory of the table.
        files: Rows of :attr:`Snapshot.files`.
        schema: Schema of the table. Columns that were added after a file was written are null.
        partition_columns: Physical partition columns.
    """
    if files.is_empty():
        return pl.LazyFrame(schema=schema)
    in_file = pl.Schema({c: t for c, t in schema.items() if c not in partition_columns})
    if not partition_columns:
        return _scan(table, files["path"], in_file)
    parts = []
    for group in files.partition_by([f"min.{c}" for c in partition_columns], maintain_order=True):
        literals = [
            pl.lit(group[f"min.{c}"][0], dtype=schema[c]).alias(c)  # one value a file: both bounds are that value
            for c in partition_columns
        ]
        parts.append(_scan(table, group["path"], in_file).with_columns(literals).select(schema.names()))
    return pl.concat(parts)


def _scan(table: Path, paths: Iterable[str], schema: pl.Schema) -> pl.LazyFrame:
    return pl.scan_parquet(
        [table / path for path in paths],
        schema=schema,
        missing_columns="insert",
        glob=False,
        hive_partitioning=False,
        cast_options=pl.ScanCastOptions(datetime_cast=["nanosecond-downcast", "millisecond-upcast"])
        if any(isinstance(t, pl.Datetime) for t in schema.values())
        else None,
    )


def statistics_frame(files: Sequence[DataFile], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Files as a frame of :attr:`Snapshot.files`, with the statistics of some columns.

    Args:
        files: New files.
        schema: The columns whose statistics are wanted, with their types.
    """
    frame: dict[str, pl.Series] = {"path": pl.Series([f.path for f in files], dtype=pl.String)}
    for column, dtype in schema.items():
        known = [f.statistics.get(column) or ColumnStatistics(None, None, f.rows) for f in files]
        frame[f"min.{column}"] = pl.Series([s.minimum for s in known], dtype=dtype)
        frame[f"max.{column}"] = pl.Series([s.maximum for s in known], dtype=dtype)
        frame[f"null_count.{column}"] = pl.Series([s.nulls for s in known], dtype=pl.Int64)
    return pl.DataFrame(frame)


def _described(table: Path, path: str, partition: Mapping[str, Any], schema: pl.Schema) -> DataFile:
    footer = pq.read_metadata(table / path)
    statistics: dict[str, ColumnStatistics] = {}
    for index in range(footer.num_columns):
        name = footer.schema.column(index).path
        if name not in schema or "." in name:
            continue  # a leaf of a nested column, or a name that cannot be told from one
        groups = [footer.row_group(g).column(index).statistics for g in range(footer.num_row_groups)]
        nulls = sum(s.null_count for s in groups)
        bounded = [s for s in groups if s.has_min_max]
        if bounded and len(bounded) == sum(s.num_values > 0 for s in groups):
            low = _value(min(s.min_raw for s in bounded), schema[name])
            high = _value(max(s.max_raw for s in bounded), schema[name])
        else:
            low = high = None
        known = low is not None and high is not None
        statistics[name] = ColumnStatistics(low if known else None, high if known else None, nulls)
    for column, value in partition.items():
        statistics[column] = ColumnStatistics(value, value, 0 if value is not None else footer.num_rows)
    written = (table / path).stat()
    return DataFile(
        path=path,
        size=written.st_size,
        rows=footer.num_rows,
        modified=written.st_mtime_ns // 1_000_000,
        partition_values={column: _partition_value(value) for column, value in partition.items()},
        statistics=statistics,
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


def _partition_folder(column: str, value: Any) -> str:  # noqa: ANN401 - a value of any type
    text = _partition_value(value)
    folder = f"{quote(column, safe='')}={quote(_NULL_FOLDER if text is None else text, safe='')}"
    if text == "" or len(folder) > _MAX_FOLDER_LENGTH:
        raise UnsafePartitionKeyError(
            f"a value of partition column {column!r} was refused",
            why="it is an empty string, which Delta Lake stores as null, and the partition is never found again"
            if text == ""
            else f"it is longer than a folder's name may be, {_MAX_FOLDER_LENGTH} bytes when percent-encoded",
            mend="change it in the asset, or do not partition by this column",
        )
    return folder


def _partition_value(value: Any) -> str | None:  # noqa: ANN401 - a value of any type
    """A physical partition value as the Delta log writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds") + ("Z" if value.tzinfo else "")
    return None if value is None else value.isoformat() if isinstance(value, dt.date) else str(value)
