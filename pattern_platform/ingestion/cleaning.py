"""Typed rows -> clean rows that keep the contract, and rejects with their reasons. No row is lost on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dataframely as dy
import polars as pl

from pattern_platform.ingestion.landing import INGESTION_SCHEMA, PAYLOAD
from pattern_platform.ingestion.parsing import parse_rows

if TYPE_CHECKING:
    from pattern_platform.ingestion.dataset import Dataset
    from pattern_platform.lake.window import Window

QUARANTINE_SCHEMA = pl.Schema({**INGESTION_SCHEMA, "reasons": pl.List(pl.String), "record": pl.String})
DUPLICATE = "duplicate of an earlier row"
_ROW = "_row"


@dataclass(frozen=True)
class Cleaned:
    """What became of raw rows: each is clean, or in quarantine with its reasons.

    Args:
        clean: Rows of the contract.
        quarantine: Rejects, with the columns of :data:`QUARANTINE_SCHEMA`.
    """

    clean: pl.DataFrame
    quarantine: pl.DataFrame


def clean_rows(dataset: Dataset, raw: pl.DataFrame, window: Window) -> Cleaned:
    """Apply the contract of a data set to raw rows.

    Args:
        dataset: The data set.
        raw: Rows of the raw table.
        window: The landed partition, in terms of the data set's time column.
    """
    columns = list(dataset.contract.columns())
    rows = parse_rows(dataset, raw).with_row_index(_ROW)
    fitting = rows.filter(pl.col("reasons").list.len() == 0)
    distinct = fitting.unique(columns, keep="first", maintain_order=True)
    repeated = fitting.join(distinct, on=_ROW, how="anti").select(_ROW, reasons=pl.concat_list(pl.lit(DUPLICATE)))
    outside = distinct.filter(~window.rows).select(
        _ROW, reasons=pl.concat_list(pl.lit(f"{dataset.time_column}: outside the landed partition"))
    )
    contract = _with_row(dataset.contract)
    valid, failure = contract.filter(distinct.join(outside, on=_ROW, how="anti").select(*columns, _ROW))
    rejects = pl.concat(
        [
            rows.filter(pl.col("reasons").list.len() > 0).select(_ROW, "reasons"),
            repeated,
            outside,
            _broken_rules(failure),
        ]
    )
    records = raw.with_row_index(_ROW).with_columns(record=_record(dataset))
    return Cleaned(
        clean=valid.sort(_ROW).select(columns),
        quarantine=records.join(rejects, on=_ROW, maintain_order="left").select(QUARANTINE_SCHEMA.names()),
    )


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


def _record(dataset: Dataset) -> pl.Expr:
    return pl.col(PAYLOAD) if dataset.format == "jsonl" else pl.struct(dataset.header).struct.json_encode()
