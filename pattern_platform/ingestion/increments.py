"""Loads of what is new, for data sets without partitions: the high-water mark is in the tables' own commits.

A raw table knows the greatest value of the incremental field that it has; a load takes what is not smaller, so that
equal values are never lost, and merges it by file and row, so that what came twice is there once. Each load has a
number; the clean table knows the number up to which it has been cleaned.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pattern_platform.ingestion.parsing import parse_columns
from pattern_platform.lake.commit_notes import noted, read_note
from pattern_platform.lake.snapshot import open_table

if TYPE_CHECKING:
    from pattern_platform.ingestion.dataset import Dataset
    from pattern_platform.lake.object_path import LakePath

BATCH = "batch"
RESOLVED = "is_resolved"  # of a row of the quarantine: it is clean now; not stored
HIGH_WATER_MARK = "high_water_mark"


def new_batch(dataset: Dataset, landed: pl.DataFrame, table: LakePath, cleaned: int) -> dg.Output[pl.DataFrame]:
    """The landed rows that are not in a raw table yet, as its next load.

    A row whose incremental field cannot be read is part of each load, until its file is mended: it is merged with
    itself, and stays in quarantine.

    Args:
        dataset: A data set without partitions, loaded incrementally.
        landed: All landed rows.
        table: The raw table.
        cleaned: As of :func:`cleaned_up_to`.
    """
    mark = read_note(table, HIGH_WATER_MARK)
    field = str(dataset.incremental_field)
    grown = parse_columns(dataset, landed, {field: dataset.sources[field]})[field]
    so_far = _as_value(mark, grown.dtype)
    if so_far is not None:
        landed = landed.filter((grown >= so_far).fill_null(value=True))
    reached: Any = max((value for value in (grown.max(), so_far) if value is not None), default=None)
    # Greater than any before, also where the table was restored, made anew, or has lost its log.
    snapshot = open_table(table)
    number = max(snapshot.version if snapshot else 0, cleaned) + 1
    text = reached.isoformat() if grown.dtype.is_temporal() and reached else reached
    return dg.Output(
        landed.with_columns(pl.lit(number, dtype=pl.Int64).alias(BATCH)),
        metadata=noted(**{HIGH_WATER_MARK: text}),
    )


def _as_value(text: Any, dtype: pl.DataType) -> Any:  # noqa: ANN401 - of the column's type
    """A mark as it is kept, as a value of its column again."""
    if isinstance(text, str) and dtype.is_temporal():
        moment = datetime.fromisoformat(text)
        return moment if isinstance(dtype, pl.Datetime) else moment.date()
    return text


def cleaned_up_to(table: LakePath) -> int:
    """The number of the load up to which raw rows have been cleaned; 0 before the first.

    Args:
        table: The quarantine, which is written last.
    """
    return read_note(table, BATCH) or 0


def with_resolved(quarantine: pl.DataFrame, raw: pl.DataFrame) -> pl.DataFrame:
    """Rejects, and the rows that are none any more: merged, these leave the quarantine.

    Args:
        quarantine: The rejects of a load.
        raw: All of its rows.
    """
    row = ["source_file", "source_row"]
    clean = raw.join(quarantine, on=row, how="anti").select(row).with_columns(pl.lit(value=True).alias(RESOLVED))
    return pl.concat([quarantine.with_columns(pl.lit(value=False).alias(RESOLVED)), clean], how="diagonal")


def mark_of(rows: pl.DataFrame, before: int) -> dict[str, Any]:
    """The metadata with which the quarantine remembers how far it is.

    Args:
        rows: The raw rows that it was made of.
        before: How far it was.
    """
    reached = rows[BATCH].max() if rows.height else before
    return noted(**{BATCH: reached})
