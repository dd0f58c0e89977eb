"""Raw rows -> typed columns: weakly typed text becomes strongly typed once, here.

A value that is there and does not fit its type makes the row a reject; it never becomes a silent null.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from pattern_platform.ingestion.drift import new_fields, refuse_changed_types
from pattern_platform.ingestion.json_fields import parents_of, path_of, quoted
from pattern_platform.ingestion.landing import PAYLOAD
from pattern_platform.ingestion.registry.row import WHOLE_RECORD
from pattern_platform.ingestion.timestamps import EPOCHS, parse_timestamp
from pattern_platform.warehouse.query import query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pattern_platform.ingestion.dataset import Dataset

MALFORMED = "malformed record"
_TEXT, _GIVEN, _WRONG = "text.", "given.", "wrong."


def parse_rows(dataset: Dataset, raw: pl.DataFrame) -> pl.DataFrame:
    """Parse raw rows into the columns of the contract.

    Args:
        dataset: The data set.
        raw: Rows with the columns of :func:`~pattern_platform.ingestion.landing.raw_schema`.

    Returns:
        A row for each raw row, in their order: the contract's columns, those that the source added and the data set
        keeps, and ``reasons``, the list of what does not fit, empty for rows that do.

    Raises:
        ChangedSourceError: It is not the records that are wrong, but the source.
    """
    added = new_fields(dataset, raw)
    typed = parse_columns(dataset, raw, {**dataset.sources, **added})
    refuse_changed_types(dataset, typed, {name: typed[_GIVEN + name] for name in dataset.sources})
    types = _types(dataset, {**dataset.sources, **added})
    reasons = [
        pl.when(pl.col(_GIVEN + name) & pl.col(name).is_null()).then(pl.lit(f"{name}: not a {_called(dtype)}"))
        for name, dtype in types.items()
    ]
    malformed = pl.when("malformed").then(pl.lit(MALFORMED))
    parents = [
        pl.when(name).then(pl.lit(f"{name.removeprefix(_WRONG)}: not an object"))
        for name in typed.columns
        if name.startswith(_WRONG)
    ]
    return typed.select(*types, reasons=pl.concat_list(malformed, *parents, *reasons).list.drop_nulls())


def parse_columns(dataset: Dataset, raw: pl.DataFrame, sources: Mapping[str, str]) -> pl.DataFrame:
    """Parse some fields of raw rows; null where one is absent, or does not fit.

    Args:
        dataset: The data set.
        raw: As of :func:`parse_rows`.
        sources: Where each column is in the record; of the type that the contract says, else text.
    """
    types = _types(dataset, sources)
    fields = _column_fields(dataset, raw, sources) if dataset.header else _json_fields(dataset, raw, sources, types)
    return fields.with_columns(
        _typed(pl.col(_TEXT + name), dtype, dataset).alias(name) for name, dtype in types.items()
    )


def _types(dataset: Dataset, sources: Mapping[str, str]) -> dict[str, pl.DataType]:
    contract = pl.Schema(dataset.contract)
    return {name: contract.get(name, pl.String()) for name in sources}


def _typed(text: pl.Expr, dtype: pl.DataType, dataset: Dataset) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        return parse_timestamp(text, dataset.timestamp_format, dataset.time_zone)
    if isinstance(dtype, pl.Date):
        return text.str.to_date("%Y-%m-%d", strict=False)
    if isinstance(dtype, pl.Boolean):
        return text.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    return text.cast(dtype, strict=False)


def _called(dtype: pl.DataType) -> str:
    if dtype.is_numeric():
        return "whole number" if dtype.is_integer() else "number"
    names: dict[type[pl.DataType], str] = {
        pl.Boolean: "truth value",
        pl.Datetime: "timestamp",
        pl.Enum: "category of the contract",
        pl.String: "text",
    }
    return names.get(dtype.base_type(), str(dtype).lower())


def _column_fields(dataset: Dataset, raw: pl.DataFrame, sources: Mapping[str, str]) -> pl.DataFrame:
    text = {name: pl.when(~pl.col(source).is_in(dataset.null_values)).then(source) for name, source in sources.items()}
    return raw.select(
        malformed=pl.lit(value=False),
        **{_TEXT + name: value for name, value in text.items()},
        **{_GIVEN + name: value.is_not_null() for name, value in text.items()},
    )


def _json_fields(
    dataset: Dataset, raw: pl.DataFrame, sources: Mapping[str, str], types: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """Take each field out of the record with the type that JSON gives it, in one pass of DuckDB over the lines."""
    columns = []
    for name, source in sources.items():
        if source == WHOLE_RECORD:
            columns.append(f"{PAYLOAD} AS {quoted(_TEXT + name)}, true AS {quoted(_GIVEN + name)}")
            continue
        leaf = "record." + ".".join(quoted(part) for part in source.split("."))
        # Columns of a csv or parquet file are text, and so is what nobody declared.
        loose = dataset.format != "jsonl" or name not in dataset.sources
        fits = ", ".join(f"'{kind}'" for kind in _json_types(types[name], dataset, loose=loose))
        columns.append(f"CASE WHEN json_type({leaf}) IN ({fits}) THEN {leaf} ->> '$' END AS {quoted(_TEXT + name)}")
        columns.append(f"{leaf} IS NOT NULL AS {quoted(_GIVEN + name)}")
    for parent in parents_of(source for source in sources.values() if source != WHOLE_RECORD):
        kind = f"CASE WHEN record IS NOT NULL THEN json_type({PAYLOAD}, {path_of(parent)}) END"
        columns.append(f"{kind} NOT IN ('OBJECT', 'NULL') AS {quoted(_WRONG + parent)}")
    sql = f"""
        SELECT record IS NULL AS malformed, {", ".join(columns)}
        FROM (
            SELECT CASE WHEN json_valid({PAYLOAD}) AND json_type({PAYLOAD}) = 'OBJECT'
                        THEN TRY(from_json({PAYLOAD}, $structure)) END AS record, {PAYLOAD}
            FROM lines ORDER BY position
        )
    """  # noqa: S608 - names are the contract's own, and quoted
    lines = raw.select(PAYLOAD).with_row_index("position")
    fields = query(sql, {"lines": lines}, {"structure": json.dumps(_structure(sources))})
    if dataset.format == "jsonl":
        return fields
    absent = {name: pl.col(_TEXT + name).is_in(dataset.null_values) for name in sources}  # of a column of text
    return fields.with_columns(
        *(pl.when(~null).then(_TEXT + name).alias(_TEXT + name) for name, null in absent.items()),
        *(
            (pl.col(_GIVEN + name) & ~is_absent).fill_null(value=False).alias(_GIVEN + name)
            for name, is_absent in absent.items()
        ),
    )


def _structure(sources: Mapping[str, str]) -> dict[str, Any]:
    """The nested shape of the wanted fields, each kept as JSON so that its type can be told."""
    structure: dict[str, Any] = {}
    for source in sources.values():
        if source == WHOLE_RECORD:
            continue
        *outer, leaf = source.split(".")
        level = structure
        for part in outer:
            level = level.setdefault(part, {})
        level[leaf] = "JSON"
    return structure


def _json_types(dtype: pl.DataType, dataset: Dataset, *, loose: bool) -> tuple[str, ...]:
    if loose:
        return ("VARCHAR", "BOOLEAN", "BIGINT", "UBIGINT", "DOUBLE", "ARRAY", "OBJECT")
    if isinstance(dtype, pl.Datetime) and dataset.timestamp_format in EPOCHS:
        return ("BIGINT", "UBIGINT")
    if isinstance(dtype, pl.Boolean):
        return ("BOOLEAN",)
    if dtype.is_integer():
        return ("BIGINT", "UBIGINT")
    return ("BIGINT", "UBIGINT", "DOUBLE") if dtype.is_numeric() else ("VARCHAR",)
