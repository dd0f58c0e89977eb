"""The kinds of frame in this process that assets return and ask for, and the one that Polars computes: a LazyFrame."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from pattern_platform.errors import UnsupportedFrameError
from pattern_platform.lake.spark.connect import is_frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polars._typing import SchemaDict

KINDS = "polars.LazyFrame, polars.DataFrame, pyarrow.Table or pyarrow.RecordBatchReader"
IN_PROCESS = "bring it into this process, where it fits: pl.DataFrame(frame.toArrow())"
_ARROW_BATCH_ROWS = 100_000


def to_lazy(value: object) -> pl.LazyFrame:
    """Any supported frame as a LazyFrame, without reading it.

    Raises:
        UnsupportedFrameError: The value is no frame.
    """
    value = native(value)
    if isinstance(value, pl.LazyFrame):
        return value
    if isinstance(value, pl.DataFrame):
        return value.lazy()
    if isinstance(value, pa.Table):
        return pl.DataFrame(value).lazy()
    if isinstance(value, pa.RecordBatchReader):
        return _stream(value)
    if is_frame(value):
        raise UnsupportedFrameError(
            "a Spark frame was refused",
            why=f"what is written here is a {KINDS}; a Spark frame goes into a Delta table alone",
            mend=IN_PROCESS,
        )
    raise UnsupportedFrameError(
        f"a value of type {type(value).__name__} was refused",
        why=f"a Delta table is written from a {KINDS}",
        mend="return one of them from the asset; an asset without rows returns an empty frame with its columns",
    )


def _stream(reader: pa.RecordBatchReader) -> pl.LazyFrame:
    """A reader as a LazyFrame that pulls batches while it is written. A reader can be read once."""

    def batches(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for batch in reader:
            frame = pl.DataFrame(batch).select(with_columns or pl.all())
            frame = frame.filter(predicate) if predicate is not None else frame
            yield frame if left is None else frame.head(left)
            left = None if left is None else max(left - frame.height, 0)

    schema: SchemaDict = pl.Schema(reader.schema)
    return register_io_source(batches, schema=schema)


def native(value: Any) -> Any:  # noqa: ANN401 - whatever an asset returned
    """A frame without the wrapper of narwhals, where it has one."""
    narwhals = sys.modules.get("narwhals")
    return value.to_native() if narwhals and isinstance(value, narwhals.LazyFrame | narwhals.DataFrame) else value


def as_narwhals(frame: Any) -> Any:  # noqa: ANN401 - of any engine
    """A lazy frame as ``narwhals.LazyFrame``; who asks for it has imported narwhals."""
    return sys.modules["narwhals"].from_native(frame)


def is_narwhals_type(annotation: object) -> bool:
    """Whether a parameter asks for ``narwhals.LazyFrame``, the frame of any engine."""
    narwhals = sys.modules.get("narwhals")
    return narwhals is not None and annotation is narwhals.LazyFrame


def from_lazy(frame: pl.LazyFrame, wanted: Any) -> object:  # noqa: ANN401 - the annotation of a parameter
    """A LazyFrame as the kind that a parameter is annotated with; a DataFrame where it is not annotated.

    Raises:
        UnsupportedFrameError: The annotation is no supported kind of frame.
    """
    if wanted is pl.LazyFrame:
        return frame
    if is_narwhals_type(wanted):
        return as_narwhals(frame)
    if wanted in (None, type(None), Any, pl.DataFrame):
        return frame.collect()
    if wanted is pa.Table:
        return frame.collect().to_arrow()
    if wanted is pa.RecordBatchReader:
        schema = frame.head(0).collect().to_arrow().schema
        batches = frame.collect_batches(chunk_size=_ARROW_BATCH_ROWS, maintain_order=True)
        return pa.RecordBatchReader.from_batches(
            schema, (batch for frame in batches for batch in frame.to_arrow().cast(schema).to_batches())
        )
    raise UnsupportedFrameError(
        f"a parameter annotated with {wanted!r} was refused",
        why=f"a Delta table is loaded as a {KINDS}",
        mend="annotate the parameter of the asset with one of them",
    )
