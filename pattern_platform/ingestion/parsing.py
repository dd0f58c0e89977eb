"""Raw rows -> typed columns: weakly typed text becomes strongly typed once, here.

A value that is there and does not fit its type makes the row a reject; it never becomes a silent null.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from pattern_platform.ingestion.landing import PAYLOAD
from pattern_platform.warehouse.query import query

if TYPE_CHECKING:
    from pattern_platform.ingestion.dataset import Dataset

MALFORMED = "malformed record"
_TEXT, _GIVEN, _WRONG = "text.", "given.", "wrong."


def parse_rows(dataset: Dataset, raw: pl.DataFrame) -> pl.DataFrame:
    """Parse raw rows into the columns of the contract.

    Args:
        dataset: The data set.
        raw: Rows with the columns of :func:`~pattern_platform.ingestion.landing.raw_schema`.

    Returns:
        A row for each raw row, in their order: the contract's columns, and ``reasons``, the list of what does not
        fit, empty for rows that do.
    """
    fields = _json_fields(dataset, raw) if dataset.format == "jsonl" else _csv_fields(dataset, raw)
    types = pl.Schema(dataset.contract)
    typed = fields.with_columns(_typed(pl.col(_TEXT + name), dtype).alias(name) for name, dtype in types.items())
    reasons = [
        pl.when(pl.col(_GIVEN + name) & pl.col(name).is_null()).then(pl.lit(f"{name}: not a {_called(dtype)}"))
        for name, dtype in types.items()
    ]
    malformed = pl.when("malformed").then(pl.lit(MALFORMED))
    parents = [
        pl.when(name).then(pl.lit(f"{name.removeprefix(_WRONG)}: not an object"))
        for name in fields.columns
        if name.startswith(_WRONG)
    ]
    return typed.select(*types, reasons=pl.concat_list(malformed, *parents, *reasons).list.drop_nulls())


def _typed(text: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        return text.str.to_datetime("%+", time_unit="us", strict=False)
    if isinstance(dtype, pl.Date):
        return text.str.to_date("%Y-%m-%d", strict=False)
    if isinstance(dtype, pl.Boolean):
        return text.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    return text.cast(dtype, strict=False)


def _called(dtype: pl.DataType) -> str:
    if dtype.is_numeric():
        return "whole number" if dtype.is_integer() else "number"
    names: dict[type[pl.DataType], str] = {pl.Datetime: "timestamp", pl.String: "text", pl.Boolean: "truth value"}
    return names.get(dtype.base_type(), str(dtype).lower())


def _csv_fields(dataset: Dataset, raw: pl.DataFrame) -> pl.DataFrame:
    text = {
        name: pl.when(~pl.col(source).is_in(dataset.null_values)).then(source)
        for name, source in _sources(dataset).items()
    }
    return raw.select(
        malformed=pl.lit(value=False),
        **{_TEXT + name: value for name, value in text.items()},
        **{_GIVEN + name: value.is_not_null() for name, value in text.items()},
    )


def _json_fields(dataset: Dataset, raw: pl.DataFrame) -> pl.DataFrame:
    """Take each field out of the record with the type that JSON gives it, in one pass of DuckDB over the lines."""
    sources = _sources(dataset)
    types = pl.Schema(dataset.contract)
    columns = []
    for name, source in sources.items():
        leaf = "record." + ".".join(_quoted(part) for part in source.split("."))
        fits = ", ".join(f"'{kind}'" for kind in _json_types(types[name]))
        columns.append(f"CASE WHEN json_type({leaf}) IN ({fits}) THEN {leaf} ->> '$' END AS {_quoted(_TEXT + name)}")
        columns.append(f"{leaf} IS NOT NULL AS {_quoted(_GIVEN + name)}")
    for parent in sorted({source[:at] for source in sources.values() for at, c in enumerate(source) if c == "."}):
        path = "$." + ".".join(_quoted(part) for part in parent.split("."))
        kind = f"CASE WHEN record IS NOT NULL THEN json_type({PAYLOAD}, '{path}') END"
        columns.append(f"{kind} NOT IN ('OBJECT', 'NULL') AS {_quoted(_WRONG + parent)}")
    sql = f"""
        SELECT record IS NULL AS malformed, {", ".join(columns)}
        FROM (
            SELECT CASE WHEN json_valid({PAYLOAD}) AND json_type({PAYLOAD}) = 'OBJECT'
                        THEN from_json({PAYLOAD}, $structure) END AS record, {PAYLOAD}
            FROM lines ORDER BY position
        )
    """  # noqa: S608 - names are the contract's own, and quoted
    lines = raw.select(PAYLOAD).with_row_index("position")
    return query(sql, {"lines": lines}, {"structure": json.dumps(_structure(sources))})


def _sources(dataset: Dataset) -> dict[str, str]:
    return {name: (column.metadata or {}).get("source", name) for name, column in dataset.contract.columns().items()}


def _structure(sources: dict[str, str]) -> dict[str, Any]:
    """The nested shape of the wanted fields, each kept as JSON so that its type can be told."""
    structure: dict[str, Any] = {}
    for source in sources.values():
        *outer, leaf = source.split(".")
        level = structure
        for part in outer:
            level = level.setdefault(part, {})
        level[leaf] = "JSON"
    return structure


def _json_types(dtype: pl.DataType) -> tuple[str, ...]:
    if isinstance(dtype, pl.Boolean):
        return ("BOOLEAN",)
    if dtype.is_integer():
        return ("BIGINT", "UBIGINT")
    return ("BIGINT", "UBIGINT", "DOUBLE") if dtype.is_numeric() else ("VARCHAR",)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
