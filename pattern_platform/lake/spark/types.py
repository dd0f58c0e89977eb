"""Types and names: Spark's and Polars', where one holds exactly what the other does."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import polars as pl
from pyspark.sql import types as T  # noqa: N812 - as everybody calls it
from pyspark.sql.connect.functions import builtin as F  # noqa: N812 - as everybody calls it

from pattern_platform.errors import InvalidMetadataError, UnsupportedTypeError

if TYPE_CHECKING:
    from polars._typing import PolarsDataType
    from pyspark.sql import Column

_SAME: list[tuple[T.DataType, pl.DataType]] = [
    (T.ByteType(), pl.Int8()),
    (T.ShortType(), pl.Int16()),
    (T.IntegerType(), pl.Int32()),
    (T.LongType(), pl.Int64()),
    (T.FloatType(), pl.Float32()),
    (T.DoubleType(), pl.Float64()),
    (T.BooleanType(), pl.Boolean()),
    (T.StringType(), pl.String()),
    (T.BinaryType(), pl.Binary()),
    (T.DateType(), pl.Date()),
    (T.TimestampType(), pl.Datetime("us", "UTC")),
    (T.TimestampNTZType(), pl.Datetime("us")),
    (T.NullType(), pl.Null()),
]


def polars_schema(schema: T.StructType) -> pl.Schema:
    """The columns of a Spark frame as Polars knows them.

    Args:
        schema: Of the frame.

    Raises:
        InvalidMetadataError: Two columns have the same name.
        UnsupportedTypeError: A column is of a type that Delta Lake and Polars do not have, such as a map.
    """
    names = schema.fieldNames()
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidMetadataError(
            f"a frame with two columns {twice[0]!r} was refused",
            why="a table has one column of a name; a join gives two where its keys are conditions, not names",
            mend=f'drop or rename one of them in the asset, or join with on="{twice[0]}"',
        )
    return pl.Schema({field.name: _polars_type(field.name, field.dataType) for field in schema.fields})


def _polars_type(column: str, dtype: T.DataType) -> pl.DataType:
    for theirs, ours in _SAME:
        if dtype == theirs:
            return ours
    if isinstance(dtype, T.DecimalType):
        return pl.Decimal(dtype.precision, dtype.scale)
    if isinstance(dtype, T.ArrayType):
        return pl.List(_polars_type(f"{column}[]", dtype.elementType))
    if isinstance(dtype, T.StructType):
        return pl.Struct({f.name: _polars_type(f"{column}.{f.name}", f.dataType) for f in dtype.fields})
    raise UnsupportedTypeError(
        f"column {column!r} of type {dtype.simpleString()} was refused",
        why="not every engine that reads the table has such a type",
        mend=f"change it in the asset, such as map_entries({column}) of a map, or cast it to a string",
    )


def spark_type(dtype: PolarsDataType) -> T.DataType:
    """The Spark type of a stored Polars type, the reverse of :func:`polars_schema`."""
    for theirs, ours in _SAME:
        if dtype == ours:
            return theirs
    if isinstance(dtype, pl.Decimal):
        return T.DecimalType(dtype.precision or 38, dtype.scale)
    if isinstance(dtype, pl.List):
        return T.ArrayType(spark_type(dtype.inner))
    if isinstance(dtype, pl.Struct):
        return T.StructType([T.StructField(field.name, spark_type(field.dtype)) for field in dtype.fields])
    message = f"{dtype} is no type of a table"
    raise TypeError(message)


def spark_schema(schema: pl.Schema) -> T.StructType:
    """Columns of a table as Spark knows them, all nullable."""
    return T.StructType([T.StructField(name, spark_type(dtype)) for name, dtype in schema.items()])


def column(name: str) -> Column:
    """A column by its name, whatever is in the name."""
    escaped = name.replace("`", "``")
    return F.col(f"`{escaped}`")


def literal(value: Any, dtype: PolarsDataType) -> Column:  # noqa: ANN401 - a value of any column
    """A value as a column; a time says itself where it is, whatever the zone of the session."""
    if isinstance(value, dt.datetime):
        value = value.isoformat(sep=" ", timespec="microseconds")
    return F.lit(str(value) if isinstance(dtype, pl.Decimal) and value is not None else value).cast(spark_type(dtype))
