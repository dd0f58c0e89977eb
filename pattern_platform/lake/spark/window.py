"""Windows as Spark asks for them."""

from __future__ import annotations

from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING

import polars as pl
from pyspark.sql.connect.functions import builtin as F  # noqa: N812 - as everybody calls it

from pattern_platform.lake.spark.types import column, literal

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from pattern_platform.lake.window import Bound, Window


def inside(window: Window) -> Column:
    """True for the rows inside, never null: :attr:`Window.rows`, in Spark."""
    if window.is_whole_table:
        return F.lit(col=True)
    first, *others = window.columns.items()
    boxes = [
        reduce(and_, [_in(*first, firsts), *(_in(*c, [b]) for c, b in zip(others, bounds, strict=True))])
        for firsts, bounds in window.boxes
    ]
    return F.coalesce(reduce(or_, boxes, F.lit(col=False)), F.lit(col=False))


def with_piece(rows: DataFrame, window: Window, name: str) -> DataFrame:
    """Rows with the number of the partition that each belongs to, null where it belongs to none.

    Args:
        rows: With the columns of the window.
        window: Whose pieces are numbered, in their order.
        name: Of the column to add.
    """
    if len(window.pieces) <= 1:
        return rows.withColumn(name, F.when(inside(window), F.lit(0)))
    numbered = window.piece_frame.drop("key").with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias(name))
    pieces = rows.sparkSession.createDataFrame(numbered.to_arrow())
    holds = [
        column(c) == column(f"from.{c}")
        if is_value
        else (column(c) >= column(f"from.{c}")) & (column(c) < column(f"to.{c}"))
        for c, is_value in window.holds_values.items()
    ]
    return rows.join(F.broadcast(pieces), reduce(and_, holds), "left").select(*map(column, [*rows.columns, name]))


def _in(name: str, dtype: pl.DataType, bounds: list[Bound]) -> Column:
    if bounds[0].is_value:
        return column(name).isin([literal(b.lower, dtype) for b in bounds])
    return reduce(
        or_, [(column(name) >= literal(b.lower, dtype)) & (column(name) < literal(b.upper, dtype)) for b in bounds]
    )
