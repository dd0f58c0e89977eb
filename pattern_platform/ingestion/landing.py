"""Landed files -> raw rows: as they came, plus where they came from.

A file that has not arrived, a file that cannot be read and a file with a wrong header are three different errors. Each
names file and partition, and concerns that partition alone.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.errors import FileNotArrivedError, UnreadableFileError, WrongHeaderError

if TYPE_CHECKING:
    from pathlib import Path

    from pattern_platform.ingestion.dataset import Dataset

PAYLOAD = "payload"
INGESTION_SCHEMA = pl.Schema(
    {"partition_start": pl.Datetime("us", "UTC"), "source_file": pl.String, "source_row": pl.Int64}
)
_GZIP_MAGIC = b"\x1f\x8b"


def raw_schema(dataset: Dataset) -> pl.Schema:
    """Columns of a raw table: the ingestion columns, then the record as it came.

    A csv record is its columns as text; a jsonl record is its line, because a malformed line has no columns.
    """
    record = dataset.header if dataset.format == "csv" else (PAYLOAD,)
    return pl.Schema({**INGESTION_SCHEMA, **dict.fromkeys(record, pl.String())})


def read_landed(dataset: Dataset, landing: Path, partition: str) -> pl.DataFrame:
    """Read the landed files of one partition.

    Args:
        dataset: The data set.
        landing: Folder of all landed files.
        partition: Partition key.

    Returns:
        The rows, in the order of the files' names and of their lines, with the columns of :func:`raw_schema`.

    Raises:
        FileNotArrivedError: No file matches.
        UnreadableFileError: A file is truncated, is not compressed as its name says, or is not UTF-8 text.
        WrongHeaderError: A csv file has other columns, or the same in another order.
    """
    start = dataset.partitions.time_window_for_partition_key(partition).start
    pattern = start.strftime(dataset.landing)
    files = sorted(landing.glob(pattern))
    if not files:
        raise FileNotArrivedError(
            f"partition {partition} of data set {dataset.name!r} was refused",
            why=f"no file has landed at {pattern}",
            mend="materialize the partition again once the file has arrived",
        )
    frames = [_read(dataset, file, file.relative_to(landing).as_posix(), partition) for file in files]
    started = pl.lit(start.astimezone(dt.UTC), dtype=INGESTION_SCHEMA["partition_start"])
    return pl.concat(frames).with_columns(partition_start=started).select(raw_schema(dataset).names())


def _read(dataset: Dataset, file: Path, name: str, partition: str) -> pl.DataFrame:
    try:
        with file.open("rb") as opened:
            if file.suffix == ".gz" and opened.read(2) != _GZIP_MAGIC:
                message = "it is not gzip-compressed, as its name says"
                raise OSError(message)
        read = _read_csv if dataset.format == "csv" else _read_lines
        return read(dataset, file, name, partition)
    except (OSError, pl.exceptions.PolarsError) as error:
        # A message of Polars may quote the data.
        reason = (
            str(error) if isinstance(error, OSError) else f"it is not {dataset.format} text ({type(error).__name__})"
        )
        raise UnreadableFileError(
            f"file {name} of partition {partition} of data set {dataset.name!r} was refused",
            why=f"it cannot be read: {reason}",
            mend="let the source deliver the file again, then materialize the partition",
        ) from error


def _read_lines(_dataset: Dataset, file: Path, name: str, _partition: str) -> pl.DataFrame:
    lines = pl.scan_lines(file, name=PAYLOAD, row_index_name="source_row", row_index_offset=1, glob=False)
    return lines.with_columns(pl.col("source_row").cast(pl.Int64), source_file=pl.lit(name)).collect()


def _read_csv(dataset: Dataset, file: Path, name: str, partition: str) -> pl.DataFrame:
    header = pl.read_csv(file, infer_schema=False, n_rows=0, glob=False).columns
    if tuple(header) != dataset.header:
        if not set(header) & set(dataset.header):
            header = []  # no header at all: its first row is data, and is not to be quoted
        missing = [c for c in dataset.header if c not in header]
        unexpected = [c for c in header if c not in dataset.header]
        difference = [f"without {', '.join(missing)}"] * bool(missing)
        difference += [f"with {', '.join(unexpected)}"] * bool(unexpected)
        raise WrongHeaderError(
            f"file {name} of partition {partition} of data set {dataset.name!r} was refused",
            why=f"its header is {' and '.join(difference) or 'in another order'}, declared is {dataset.header}",
            mend="let the source deliver the declared columns, or declare the new header and contract",
        )
    rows = pl.read_csv(file, infer_schema=False, glob=False)
    return rows.with_row_index("source_row", offset=1).with_columns(
        pl.col("source_row").cast(pl.Int64), source_file=pl.lit(name)
    )
