"""The contract between a batch and its table, type by type: what is widened loses nothing, all else is refused."""

from __future__ import annotations

import itertools
from typing import Any

import dagster as dg
import polars as pl
import pytest
from deltalake import Schema

from pattern_platform import PatternPlatformError
from pattern_platform.errors import InvalidMetadataError, LossyCastError, UnsupportedTypeError
from pattern_platform.lake.schema import casts_to, column_schema, stored_schema, stored_type

INTEGERS = {
    pl.Int8: 7, pl.Int16: 15, pl.Int32: 31, pl.Int64: 63, pl.UInt8: 8, pl.UInt16: 16, pl.UInt32: 32
}  # fmt: skip
EXTREMES: dict[type[pl.DataType], list[Any]] = {
    **{t: [0 if t.is_unsigned_integer() else -(2**bits), 2**bits - 1, 0] for t, bits in INTEGERS.items()},
    pl.Float32: [0.5, 3e38, float("-inf")],
    pl.Float64: [0.1, 1.7e308, float("-inf")],
}
STORED = [t for t in EXTREMES if not t.is_unsigned_integer()]


@pytest.mark.parametrize(("given", "kept"), list(itertools.product(EXTREMES, STORED)), ids=str)
def test_numbers_are_widened_exactly_where_nothing_is_lost(given: type[pl.DataType], kept: type[pl.DataType]) -> None:
    frame = pl.DataFrame({"n": pl.Series(EXTREMES[given], dtype=given)})
    back = frame.with_columns(pl.col("n").cast(kept, strict=False).cast(given, strict=False))
    lossless = back.equals(frame) and not (given.is_float() and kept.is_integer())
    if lossless:
        casts, _ = casts_to(pl.Schema({"n": kept}), frame.schema, "strict")
        assert frame.select(casts).cast(given).equals(frame)
    else:
        with pytest.raises(LossyCastError, match="'n'"):
            casts_to(pl.Schema({"n": kept}), frame.schema, "strict")


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (pl.UInt8, pl.Int16),
        (pl.UInt16, pl.Int32),
        (pl.UInt32, pl.Int64),
        (pl.Categorical(), pl.String),
        (pl.Enum(["a"]), pl.String),
        (pl.Datetime("ms", "Europe/Amsterdam"), pl.Datetime("us", "UTC")),
        (pl.Datetime("ms"), pl.Datetime("us")),
        (pl.Array(pl.UInt8, 3), pl.List(pl.Int16)),
        (pl.Struct({"a": pl.List(pl.Datetime("ms", "UTC"))}), pl.Struct({"a": pl.List(pl.Datetime("us", "UTC"))})),
        (pl.Decimal(38, 10), pl.Decimal(38, 10)),
    ],
    ids=str,
)
def test_stored_types_are_types_of_delta_lake(given: pl.DataType, stored: pl.DataType) -> None:
    made = stored_schema(pl.Schema({"c": given}))
    assert made == {"c": stored}
    assert pl.Schema(Schema.from_arrow(made).to_arrow()) == made
    assert stored_schema(made) == made


@pytest.mark.parametrize(
    ("dtype", "named"),
    [
        (pl.Struct({"a": pl.Struct({"b": pl.Time})}), "'c.a.b'"),
        (pl.List(pl.List(pl.UInt64)), "'c[][]'"),
        (pl.List(pl.Struct({"at": pl.Datetime("ns")})), "'c[].at'"),
    ],
    ids=str,
)
def test_nested_culprits_are_named(dtype: pl.DataType, named: str) -> None:
    with pytest.raises((LossyCastError, UnsupportedTypeError), match=named.replace("[", r"\[").replace(".", r"\.")):
        stored_type("c", dtype)


def test_the_tables_order_of_columns_stays() -> None:
    table, batch = pl.Schema({"a": pl.Int64, "b": pl.String}), pl.Schema({"c": pl.Date, "b": pl.String, "a": pl.Int8})
    casts, added = casts_to(table, batch, "add_columns")
    assert pl.LazyFrame(schema=batch).select(casts).collect_schema() == {"a": pl.Int64, "b": pl.String, "c": pl.Date}
    assert added == {"c": pl.Date}


def test_dagster_is_told_the_columns() -> None:
    told = column_schema({"a": pl.Int64(), "b": pl.Datetime("us", "UTC")})
    assert isinstance(told, dg.TableSchema)
    assert [column.name for column in told.columns] == ["a", "b"]


def test_every_refusal_is_one_class_of_error() -> None:
    assert issubclass(LossyCastError, PatternPlatformError)
    assert issubclass(PatternPlatformError, dg.Failure)
    assert LossyCastError("x", why="y", mend="z").allow_retries is False


def test_a_column_named_like_a_nested_field_is_refused() -> None:
    """Once written, no engine could open the table again."""
    nested = pl.Struct({"b": pl.Int64})
    with pytest.raises(InvalidMetadataError, match=r"a\.b"):
        stored_schema(pl.Schema({"a": nested, "a.b": pl.Int64}))
    assert stored_schema(pl.Schema({"a": nested, "a.c": pl.Int64}))
