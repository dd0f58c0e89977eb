"""The rows and the files that a set of partitions owns.

A partition allows, in each partition column, either one value or a half-open range. A window decides for rows by their
values and for files by their statistics; where statistics cannot decide, the file counts as astride and is looked into.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import and_, or_
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MILLISECOND = dt.timedelta(milliseconds=1)


@dataclass(frozen=True, order=True)
class Bound:
    """What one partition key allows in one column: ``lower <= value < upper``, or the value ``lower`` alone."""

    lower: Any
    upper: Any = None

    @property
    def is_value(self) -> bool:
        """Whether the bound is a single value."""
        return self.upper is None


@dataclass(frozen=True)
class Window:
    """The rows that a set of partition keys owns. Without columns: every row of the table.

    Args:
        columns: Partition columns, by name, with their stored types.
        pieces: For each partition key a bound for each column.
    """

    columns: Mapping[str, pl.DataType] = field(default_factory=dict)
    pieces: Mapping[str, tuple[Bound, ...]] = field(default_factory=dict)

    @property
    def is_whole_table(self) -> bool:
        """Whether the window has no partition columns and so owns every row."""
        return not self.columns

    @cached_property
    def boxes(self) -> list[tuple[list[Bound], tuple[Bound, ...]]]:
        """The pieces, with the bounds of the first column merged where all others are equal."""
        boxes: dict[tuple[Bound, ...], list[Bound]] = {}
        for first, *others in self.pieces.values():
            boxes.setdefault(tuple(others), []).append(first)
        return [(_merged(firsts), others) for others, firsts in boxes.items()]

    @cached_property
    def rows(self) -> pl.Expr:
        """True for the rows inside; never null."""
        if self.is_whole_table:
            return pl.lit(value=True)
        first, *others = self.columns
        boxes = [
            reduce(and_, [_row_in(first, firsts), *(_row_in(c, [b]) for c, b in zip(others, bounds, strict=True))])
            for firsts, bounds in self.boxes
        ]
        return reduce(or_, boxes, pl.lit(value=False)).fill_null(value=False)

    def split(self, files: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Sort files by their statistics.

        Args:
            files: Live files as of :attr:`Snapshot.files`; statistics that are missing count as unknown.

        Returns:
            The files whose every row is inside, and those that may hold rows inside and outside.
        """
        if self.is_whole_table:
            return files, files.clear()
        files = self._with_statistics(files)
        first, *others = self.columns
        inside = overlap = pl.repeat(value=False, n=files.height, dtype=pl.Boolean, eager=True)
        for firsts, bounds in self.boxes:
            column_bounds = [(first, firsts), *((c, [b]) for c, b in zip(others, bounds, strict=True))]
            inside |= reduce(and_, (self._files_inside(files, c, b) for c, b in column_bounds))
            overlap |= reduce(and_, (self._files_overlapping(files, c, b) for c, b in column_bounds))
        return files.filter(inside), files.filter(overlap & ~inside)

    def _with_statistics(self, files: pl.DataFrame) -> pl.DataFrame:
        """Files with unknown bounds where a table without rows, or another writer, has none for a column."""
        unknown = {c: dtype for c, dtype in self.columns.items() if f"min.{c}" not in files.columns}
        return files.with_columns(
            pl.lit(None, dtype=dtype if stat != "null_count" else pl.Int64).alias(f"{stat}.{c}")
            for c, dtype in unknown.items()
            for stat in ("min", "max", "null_count")
        )

    def _files_inside(self, files: pl.DataFrame, column: str, bounds: list[Bound]) -> pl.Series:
        low, high = files[f"min.{column}"], files[f"max.{column}"]
        if bounds[0].is_value:
            inside = self._one_value(column, low, high) & low.is_in([b.lower for b in bounds])
        else:
            inside = reduce(or_, [(low >= b.lower) & self._below(column, high, b.upper) for b in bounds])
        return (inside & (files[f"null_count.{column}"] == 0)).fill_null(value=False)

    def _files_overlapping(self, files: pl.DataFrame, column: str, bounds: list[Bound]) -> pl.Series:
        low, high = files[f"min.{column}"], files[f"max.{column}"]
        if bounds[0].is_value:
            values = [b.lower for b in bounds]
            several = ~self._one_value(column, low, high)
            overlap = low.is_in(values) | (several & (low <= max(values)) & ~self._below(column, high, min(values)))
        else:
            overlap = reduce(or_, [(low < b.upper) & ~self._below(column, high, b.lower) for b in bounds])
        return overlap.fill_null(value=True)

    def _below(self, column: str, high: Any, limit: Any) -> Any:  # noqa: ANN401 - series, expressions and limits
        """Whether the largest value is under a limit; other writers cut timestamps to milliseconds, so one is added."""
        return high + _MILLISECOND <= limit if isinstance(self.columns[column], pl.Datetime) else high < limit

    def _one_value(self, column: str, low: Any, high: Any) -> Any:  # noqa: ANN401 - series and expressions
        """Whether equal bounds mean one value; of timestamps they do not, they may be cut to milliseconds."""
        return (low == high) & (not isinstance(self.columns[column], pl.Datetime))

    def pairs(self, files: pl.DataFrame) -> pl.DataFrame:
        """Which files may hold rows of which partition.

        Args:
            files: Files of :meth:`split` with their statistics, all known.

        Returns:
            A row for each pair: ``key``, ``path``, and ``sure`` where every row of the file is the partition's.
        """
        overlaps = (self._piece_overlaps(c, values=values) for c, values in self.holds_values.items())
        sure = reduce(and_, (self._piece_holds(c, values=values) for c, values in self.holds_values.items()))
        return self.piece_frame.join_where(files, *overlaps).select("key", "path", sure=sure)

    def present(self, files: pl.DataFrame) -> tuple[set[str], set[str]]:
        """Which partition keys have files.

        Args:
            files: Files of :meth:`split`, inside and astride together.

        Returns:
            The keys with a file all of whose rows are theirs, and the keys of which some file may hold rows.
        """
        if files.select(pl.any_horizontal(pl.col(f"min.{c}", f"max.{c}").is_null().any() for c in self.columns)).item():
            return set(), set(self.pieces)
        pairs = self.pairs(files)
        sure = set(pairs.filter("sure")["key"])
        return sure, set(pairs["key"]) - sure

    @cached_property
    def holds_values(self) -> dict[str, bool]:
        """Whether the pieces allow single values of a column, or ranges; by column."""
        bounds = next(iter(self.pieces.values()))
        return {column: bound.is_value for column, bound in zip(self.columns, bounds, strict=True)}

    @cached_property
    def piece_frame(self) -> pl.DataFrame:
        """The pieces, one a row: ``key``, and ``from.<column>`` and ``to.<column>`` of each column."""
        frame = {"key": pl.Series(list(self.pieces), dtype=pl.String)}
        for position, (column, dtype) in enumerate(self.columns.items()):
            bounds = [piece[position] for piece in self.pieces.values()]
            frame[f"from.{column}"] = pl.Series([b.lower for b in bounds], dtype=dtype)
            frame[f"to.{column}"] = pl.Series([b.lower if b.is_value else b.upper for b in bounds], dtype=dtype)
        return pl.DataFrame(frame)

    def _piece_overlaps(self, column: str, *, values: bool) -> pl.Expr:
        start, end = pl.col(f"from.{column}"), pl.col(f"to.{column}")
        low, high = pl.col(f"min.{column}"), pl.col(f"max.{column}")
        return (low <= start if values else low < end) & ~self._below(column, high, start)

    def _piece_holds(self, column: str, *, values: bool) -> pl.Expr:
        start, end = pl.col(f"from.{column}"), pl.col(f"to.{column}")
        low, high = pl.col(f"min.{column}"), pl.col(f"max.{column}")
        held = (
            self._one_value(column, low, high) & (low == start)
            if values
            else (low >= start) & self._below(column, high, end)
        )
        return held & (pl.col(f"null_count.{column}") == 0)

    def piece_keys(self) -> dict[str, pl.Expr]:
        """Expressions that tell the rows of different pieces apart, to write each piece into files of its own."""
        keys: dict[str, pl.Expr] = {}
        for position, column in enumerate(self.columns):
            bounds = sorted({bounds[position] for bounds in self.pieces.values()})
            if len(bounds) == 1:
                continue
            keys[f"_piece_{uuid4().hex}"] = (
                pl.col(column) if bounds[0].is_value else _index_of(column, bounds, self.columns)
            )
        return keys


def _merged(bounds: Iterable[Bound]) -> list[Bound]:
    merged: list[Bound] = []
    for bound in sorted(set(bounds)):
        if merged and not bound.is_value and merged[-1].upper == bound.lower:
            merged[-1] = Bound(merged[-1].lower, bound.upper)
        else:
            merged.append(bound)
    return merged


def _row_in(column: str, bounds: list[Bound]) -> pl.Expr:
    if bounds[0].is_value:
        return pl.col(column).is_in([b.lower for b in bounds])
    return reduce(or_, [(pl.col(column) >= b.lower) & (pl.col(column) < b.upper) for b in bounds])


def _index_of(column: str, bounds: list[Bound], columns: Mapping[str, pl.DataType]) -> pl.Expr:
    starts = pl.Series([b.lower for b in bounds], dtype=columns[column])
    return pl.col(column).map_batches(
        lambda values: starts.search_sorted(values, side="right"), return_dtype=pl.UInt32, is_elementwise=True
    )
