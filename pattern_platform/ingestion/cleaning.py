"""Typed rows -> clean rows that keep the contract, and rejects with their reasons. No row is lost on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dataframely as dy
import polars as pl

from pattern_platform.ingestion.landing import ingestion_schema, record_of
from pattern_platform.ingestion.parsing import parse_rows

if TYPE_CHECKING:
    from pattern_platform.ingestion.dataset import Dataset
    from pattern_platform.lake.window import Window

DUPLICATE, OUTDATED = "duplicate of an earlier row", "a later record of the same key came with it"
_ROW = "_row"


@dataclass(frozen=True)
class Cleaned:
    """What became of raw rows: each is clean, or in quarantine with its reasons.

    Args:
        clean: Rows of the contract.
        quarantine: Rejects, with the columns of :func:`quarantine_schema`.
        read: How many raw rows they are.
    """

    clean: pl.DataFrame
    quarantine: pl.DataFrame
    read: int


def quarantine_schema(dataset: Dataset) -> pl.Schema:
    """Columns of a data set's quarantine."""
    return pl.Schema({**ingestion_schema(dataset), "reasons": pl.List(pl.String), "record": pl.String})


def clean_rows(dataset: Dataset, raw: pl.DataFrame, window: Window | None) -> Cleaned:
    """Apply the contract of a data set to raw rows.

    Args:
        dataset: The data set.
        raw: Rows of the raw table.
        window: The landed partition, in terms of the data set's time column; None where there are no partitions.

    Raises:
        ChangedSourceError: It is not the records that are wrong, but the source.
    """
    rows = parse_rows(dataset, raw).with_row_index(_ROW)
    columns = [name for name in rows.columns if name not in (_ROW, "reasons")]
    fitting = rows.filter(pl.col("reasons").list.len() == 0)
    distinct = fitting.unique(columns, keep="first", maintain_order=True)
    repeated = _rejected(fitting.join(distinct, on=_ROW, how="anti"), DUPLICATE)
    outside = _rejected(
        distinct.filter(~window.rows & pl.col(str(dataset.time_column)).is_not_null()) if window else distinct.clear(),
        f"{dataset.time_column}: outside the landed partition",
    )
    wanted = distinct.join(outside, on=_ROW, how="anti")
    newest = _newest(dataset, wanted) if dataset.partitions is None else wanted
    outdated = _rejected(wanted.join(newest, on=_ROW, how="anti"), OUTDATED)
    valid, failure = _with_row(dataset.contract).filter(newest.select(*dataset.contract.columns(), _ROW))
    rejects = pl.concat(
        [
            rows.filter(pl.col("reasons").list.len() > 0).select(_ROW, "reasons"),
            repeated,
            outside,
            outdated,
            _broken_rules(failure),
        ]
    )
    records = raw.with_row_index(_ROW).select(_ROW, *ingestion_schema(dataset), record=record_of(dataset))
    return Cleaned(
        clean=newest.join(valid.select(_ROW), on=_ROW, how="semi").sort(_ROW).select(columns),
        quarantine=records.join(rejects, on=_ROW, maintain_order="left").select(quarantine_schema(dataset).names()),
        read=raw.height,
    )


def _rejected(rows: pl.DataFrame, reason: str) -> pl.DataFrame:
    return rows.select(_ROW, reasons=pl.concat_list(pl.lit(reason)))


def _newest(dataset: Dataset, rows: pl.DataFrame) -> pl.DataFrame:
    """The last of the records of a key: where records come as they change, an earlier one is outdated, not wrong."""
    if dataset.incremental_field is None:
        return rows
    key = dataset.contract.primary_key()
    keyed = rows.drop_nulls(key)  # one without is of no key, and broken
    newest = keyed.sort(dataset.incremental_field, _ROW).unique(key, keep="last", maintain_order=True)
    return pl.concat([newest, rows.join(keyed, on=_ROW, how="anti")])


def _with_row(contract: type[dy.Schema]) -> type[dy.Schema]:
    """The contract plus the row's number, which says which rows broke it."""
    return type(contract.__name__, (contract,), {_ROW: dy.UInt32()})


def _broken_rules(failure: dy.FailureInfo) -> pl.DataFrame:
    details = failure.details()
    rules = [name for name in details.columns if name not in failure.invalid().columns]
    broken = [pl.when(pl.col(rule) == "invalid").then(pl.lit(_worded(rule))) for rule in rules]
    return details.select(_ROW, reasons=pl.concat_list(broken).list.drop_nulls())


def _worded(rule: str) -> str:
    column, _, kind = rule.partition("|")
    if not kind:
        return rule.replace("_", " ")
    return f"{column}: missing" if kind == "nullability" else f"{column}: {kind.replace('_', ' ')}"
