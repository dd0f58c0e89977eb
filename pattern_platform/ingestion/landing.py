"""Landed files -> raw rows: as they came, plus where they came from.

A file that has not arrived, a file that cannot be read and a file with a wrong header are three different errors. Each
names file and partition, and concerns that partition alone.
"""

from __future__ import annotations

import datetime as dt
import re
from functools import partial
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


def ingestion_schema(dataset: Dataset) -> pl.Schema:
    """Columns that say where a row came from; there is no partition where the data set has none."""
    left_out = () if dataset.partitions else ("partition_start",)
    return pl.Schema({name: dtype for name, dtype in INGESTION_SCHEMA.items() if name not in left_out})


def raw_schema(dataset: Dataset) -> pl.Schema:
    """Columns of a raw table: the ingestion columns, then the record as it came.

    A record with a declared header is its columns as text. Any other is one line of JSON: a malformed line has no
    columns, and columns that nobody declared may change.
    """
    return pl.Schema({**ingestion_schema(dataset), **dict.fromkeys(dataset.header or (PAYLOAD,), pl.String())})


def record_of(dataset: Dataset) -> pl.Expr:
    """The record of a raw row as one JSON text."""
    return pl.struct(dataset.header).struct.json_encode() if dataset.header else pl.col(PAYLOAD)


def read_landed(dataset: Dataset, landing: Path, partition: str | None) -> pl.DataFrame:
    """Read the landed files of one partition.

    Args:
        dataset: The data set.
        landing: Folder of all landed files.
        partition: Partition key; None where the data set has no partitions.

    Returns:
        The rows, in the order of the files' names and of their lines, with the columns of :func:`raw_schema`.

    Raises:
        FileNotArrivedError: No file matches.
        UnreadableFileError: A file is truncated, is not compressed as its name says, or is not UTF-8 text.
        WrongHeaderError: A csv file has other columns, or the same in another order.
    """
    window = dataset.window(partition)
    pattern = window.start.strftime(dataset.landing) if window else dataset.landing
    files = sorted(file for file in landing.glob(pattern) if not file.name.startswith((".", "_")))
    of = f"partition {partition} of data set {dataset.name!r}" if partition else f"data set {dataset.name!r}"
    if not files:
        raise FileNotArrivedError(
            f"{of} was refused",
            why=f"no file has landed at {pattern}",
            mend="materialize it again once the file has arrived",
        )
    rows = pl.concat(_read(dataset, file, file.relative_to(landing).as_posix(), of) for file in files)
    if window:
        started = pl.lit(window.start.astimezone(dt.UTC), dtype=INGESTION_SCHEMA["partition_start"])
        rows = rows.with_columns(partition_start=started)
    return rows.select(raw_schema(dataset).names())


def _read(dataset: Dataset, file: Path, name: str, of: str) -> pl.DataFrame:
    try:
        with file.open("rb") as opened:
            if file.suffix == ".gz" and opened.read(2) != _GZIP_MAGIC:
                message = "it is not gzip-compressed, as its name says"
                raise OSError(message)
        record = _lines(file) if dataset.format == "jsonl" else _columns(dataset, file, f"file {name} of {of}")
    except (OSError, pl.exceptions.PolarsError) as error:
        # A message of Polars may quote the data.
        reason = (
            str(error) if isinstance(error, OSError) else f"it is not {dataset.format} text ({type(error).__name__})"
        )
        raise UnreadableFileError(
            f"file {name} of {of} was refused",
            why=f"it cannot be read: {reason}",
            mend="let the source deliver the file again, then materialize the partition",
        ) from error
    numbered = record.with_row_index("source_row", offset=1)
    return numbered.with_columns(pl.col("source_row").cast(pl.Int64), source_file=pl.lit(name))


def _lines(file: Path) -> pl.DataFrame:
    # A byte order mark is no part of the first record.
    return (
        pl.scan_lines(file, name=PAYLOAD, glob=False).with_columns(pl.col(PAYLOAD).str.strip_prefix("\ufeff")).collect()
    )


def _columns(dataset: Dataset, file: Path, what: str) -> pl.DataFrame:
    """The columns of a file as text; as one line of JSON each where no header is declared."""
    is_csv = dataset.format == "csv"
    read = partial(pl.read_csv, infer_schema=False, glob=False) if is_csv else partial(pl.read_parquet, glob=False)
    header = read(file, n_rows=0).columns
    if is_csv and (separator := other_separator(header)):
        raise WrongHeaderError(
            f"{what} was refused",
            why=f"its columns are separated by {separator!r}",
            mend="let the source separate them by a comma",
        )
    if dataset.header:
        _refuse_header(dataset, header, what)
    rows = read(file)
    if not is_csv:
        rows = rows.select(_as_text(name, dtype, what) for name, dtype in rows.schema.items())
    if not dataset.header:
        return rows.select(pl.struct(pl.all()).struct.json_encode().alias(PAYLOAD))
    return rows.select(
        pl.col(name) if name in rows.columns else pl.lit(None, dtype=pl.String).alias(name) for name in dataset.header
    )


def other_separator(header: list[str]) -> str | None:
    """What separates the columns of a csv file where it is no comma: the header is one column then."""
    found = re.search(r"[;\t|]", header[0]) if len(header) == 1 else None
    return found[0] if found else None


def _refuse_header(dataset: Dataset, header: list[str], what: str) -> None:
    if not set(header) & set(dataset.header):
        header = []  # no header at all: its first row is data, and is not to be quoted
    missing = [c for c in dataset.header if c not in header and c not in dataset.may_be_absent]
    unexpected = [c for c in header if c not in dataset.header] if dataset.new_columns == "refuse" else []
    # Columns by name are safe in any order, where a source is allowed to change at all.
    in_order = header == [c for c in dataset.header if c in header]
    reordered = dataset.new_columns == "refuse" and dataset.format == "csv" and not in_order
    if not (missing or unexpected or reordered):
        return
    difference = [f"without {', '.join(missing)}"] * bool(missing)
    difference += [f"with {', '.join(unexpected)}"] * bool(unexpected)
    raise WrongHeaderError(
        f"{what} was refused",
        why=f"its header is {' and '.join(difference) or 'in another order'}, declared is {dataset.header}",
        mend="let the source deliver the declared columns, or declare the new header and contract",
    )


def _as_text(name: str, dtype: pl.DataType, what: str) -> pl.Expr:
    """A column of Parquet as the text that it is parsed from again, exactly."""
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        text = "%Y-%m-%dT%H:%M:%S%.f" + ("Z" if dtype.time_zone else "")
        return (column.dt.convert_time_zone("UTC") if dtype.time_zone else column).dt.strftime(text)
    if dtype.is_nested() or dtype in (pl.Binary, pl.Duration, pl.Time):
        raise UnreadableFileError(
            f"{what} was refused",
            why=f"its column {name!r} is a {dtype}, which is no text",
            mend="let the source deliver plain columns, or jsonl for nested ones",
        )
    return column.cast(pl.String)
