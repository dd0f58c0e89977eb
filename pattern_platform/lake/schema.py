"""What a table may hold: Polars types that Delta Lake stores exactly, and the contract between a batch and its table.

Delta Lake has no unsigned, categorical or nanosecond types. Engines cast them silently, and 2.5 becomes 2 on the way
into an integer. Here a value either arrives unchanged or the batch is refused by its types alone, before a row is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import dagster as dg
import polars as pl

from pattern_platform.errors import (
    ChangedTypeError,
    InvalidMetadataError,
    LossyCastError,
    MissingColumnError,
    UnknownColumnError,
    UnsupportedTypeError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from polars._typing import PolarsDataType

SchemaEvolution = Literal["strict", "add_columns"]

_SAME: dict[type[pl.DataType], type[pl.DataType]] = {
    t: t
    for t in (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Float32, pl.Float64, pl.Boolean, pl.String, pl.Binary, pl.Date)
}
_STORED_AS: dict[type[pl.DataType], type[pl.DataType]] = _SAME | {
    pl.UInt8: pl.Int16,
    pl.UInt16: pl.Int32,
    pl.UInt32: pl.Int64,
    pl.Categorical: pl.String,
    pl.Enum: pl.String,
}
# Signed range in bits, and the bits that a float represents exactly.
_INTEGER_BITS = {pl.Int8: 7, pl.UInt8: 8, pl.Int16: 15, pl.UInt16: 16, pl.Int32: 31, pl.UInt32: 32, pl.Int64: 63}
_EXACT_BITS = _INTEGER_BITS | {pl.Float32: 24, pl.Float64: 53}
_MAX_DECIMAL_PRECISION = 38


def stored_type(column: str, dtype: PolarsDataType) -> pl.DataType:
    """The type under which Delta Lake keeps a Polars type without loss.

    Args:
        column: Name for the error message; nested fields are written ``a.b``.
        dtype: Any Polars data type.

    Raises:
        LossyCastError: The type is finer than Delta's (nanoseconds, 64-bit unsigned).
        UnsupportedTypeError: Delta Lake has no such type.
    """
    base = dtype.base_type()
    if stored := _STORED_AS.get(base):
        return stored()
    if isinstance(dtype, pl.Datetime):
        if dtype.time_unit == "ns":
            raise LossyCastError(
                f"column {column!r} of type {dtype} was refused",
                why="Delta Lake keeps microseconds, the last three digits would be cut off",
                mend=f'cast it in the asset: pl.col("{column}").dt.cast_time_unit("us")',
            )
        return pl.Datetime("us", "UTC" if dtype.time_zone else None)
    if isinstance(dtype, pl.Decimal) and (dtype.precision or _MAX_DECIMAL_PRECISION) <= _MAX_DECIMAL_PRECISION:
        return pl.Decimal(dtype.precision, dtype.scale)
    if isinstance(dtype, pl.List | pl.Array):
        return pl.List(stored_type(f"{column}[]", dtype.inner))
    if isinstance(dtype, pl.Struct):
        return pl.Struct({field.name: stored_type(f"{column}.{field.name}", field.dtype) for field in dtype.fields})
    if base == pl.UInt64:
        raise LossyCastError(
            f"column {column!r} of type {dtype} was refused",
            why="Delta Lake's widest integer is signed, values above 2^63 - 1 would not fit",
            mend=f'cast it in the asset: pl.col("{column}").cast(pl.Int64)',
        )
    raise UnsupportedTypeError(
        f"column {column!r} of type {dtype} was refused",
        why="Delta Lake has no such type" if base != pl.Null else "nulls alone do not say what the column holds",
        mend=f'cast it in the asset, for example pl.col("{column}").cast(pl.String)',
    )


def stored_schema(schema: pl.Schema) -> pl.Schema:
    """The schema of the table that a first batch creates.

    Args:
        schema: Schema of the batch.

    Raises:
        InvalidMetadataError: There is no column, or two names differ in case alone, which Delta Lake cannot keep apart,
            or in being nested alone.
    """
    if not schema:
        raise InvalidMetadataError(
            "a frame without columns was refused",
            why="a table has at least one column",
            mend="return a frame with its columns, also where it has no rows",
        )
    if patterns := [name for name in schema if name in ("", "*") or (name.startswith("^") and name.endswith("$"))]:
        raise InvalidMetadataError(
            f"column {patterns[0]!r} was refused",
            why="engines take it for no name, or for a pattern that names others",
            mend="rename it in the asset",
        )
    folded: dict[str, str] = {}
    for name in schema:
        if twin := folded.get(name.lower()):
            raise InvalidMetadataError(
                f"columns {twin!r} and {name!r} were refused",
                why="column names of a Delta table are case-insensitive",
                mend="rename one of them in the asset",
            )
        folded[name.lower()] = name
    if ambiguous := [name for name in schema if name in {leaf for c, t in schema.items() for leaf in _leaves(c, t)}]:
        raise InvalidMetadataError(
            f"column {ambiguous[0]!r} was refused",
            why="a nested field has the same name once it is written with dots, and engines take one for the other",
            mend="rename one of them in the asset",
        )
    return pl.Schema({name: stored_type(name, dtype) for name, dtype in schema.items()})


def _leaves(name: str, dtype: PolarsDataType) -> Iterator[str]:
    """The fields of a struct, written with dots."""
    if isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            yield f"{name}.{field.name}"
            yield from _leaves(f"{name}.{field.name}", field.dtype)


def casts_to(table: pl.Schema, batch: pl.Schema, evolution: SchemaEvolution) -> tuple[list[pl.Expr], pl.Schema]:
    """The projection that turns a batch into rows of the table, and the columns that the table lacks.

    Args:
        table: Schema of the table.
        batch: Schema of the batch; its order of columns is free.
        evolution: Whether columns that the table lacks are added (``"add_columns"``) or refused (``"strict"``).

    Returns:
        One expression a column in the table's order, new columns last; and the schema of the new columns.

    Raises:
        MissingColumnError: A column of the table is not in the batch.
        UnknownColumnError: A column of the batch is not in the table, which is strict.
        ChangedTypeError: A column is of another type.
        LossyCastError: A column is of a wider type.
    """
    refuse_missing(table, batch)
    unknown = pl.Schema({name: dtype for name, dtype in batch.items() if name not in table})
    if unknown and evolution == "strict":
        raise UnknownColumnError(
            f"the batch with unknown column(s) {', '.join(map(repr, unknown))} was refused",
            why="the table has no such column, and its schema is strict",
            mend='drop the column(s), or set the asset metadata "schema_evolution": "add_columns"',
        )
    added = stored_schema(pl.Schema({**table, **unknown}))
    added = pl.Schema({name: added[name] for name in unknown})
    target = pl.Schema({**table, **added})
    for name, dtype in target.items():
        _refuse_lossy(name, batch[name], dtype)
    return [
        pl.col(name) if batch[name] == dtype else _cast(name, batch[name], dtype) for name, dtype in target.items()
    ], added


def refuse_missing(wanted: Iterable[str], batch: pl.Schema) -> None:
    """Refuse a batch without some columns.

    Raises:
        MissingColumnError: Names them.
    """
    if missing := [name for name in wanted if name not in batch]:
        raise MissingColumnError(
            f"the batch without column(s) {', '.join(map(repr, missing))} was refused",
            why="every column of the table, and every declared one, must be in every batch",
            mend="return the column(s), as nulls if the source has them no more",
        )


def _cast(name: str, given: PolarsDataType, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime) and dtype.time_zone and given != pl.Null:
        return pl.col(name).dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    return pl.col(name).cast(dtype, strict=True)


def _refuse_lossy(column: str, given: PolarsDataType, wanted: PolarsDataType) -> None:
    """Compare two types; nested types field by field."""
    if given in (wanted, pl.Null):
        return
    if isinstance(given, pl.List | pl.Array) and isinstance(wanted, pl.List):
        _refuse_lossy(f"{column}[]", given.inner, wanted.inner)
        return
    if isinstance(given, pl.Struct) and isinstance(wanted, pl.Struct):
        have, want = ({f.name: f.dtype for f in struct.fields} for struct in (given, wanted))
        if list(have) == list(want):
            for name, dtype in have.items():
                _refuse_lossy(f"{column}.{name}", dtype, want[name])
            return
    if given.is_numeric() and wanted.is_numeric():
        if _widens(given, wanted):
            return
        raise LossyCastError(
            f"column {column!r} of type {given} was refused",
            why=f"the table keeps {wanted}, which does not hold every {given}",
            mend=f"cast or round it in the asset to {wanted}, where you know what is lost",
        )
    if stored_type(column, given) == wanted:
        return
    raise ChangedTypeError(
        f"column {column!r} of type {given} was refused",
        why=f"the table keeps {wanted}",
        mend=f"convert it in the asset to {wanted}, or write to a new table",
    )


def _widens(given: PolarsDataType, wanted: PolarsDataType) -> bool:
    if isinstance(given, pl.Decimal) and isinstance(wanted, pl.Decimal):
        precision = (given.precision or _MAX_DECIMAL_PRECISION, wanted.precision or _MAX_DECIMAL_PRECISION)
        return given.scale == wanted.scale and precision[0] <= precision[1]
    have, want = given.base_type(), wanted.base_type()
    if have == pl.Float32:
        return want == pl.Float64
    return have in _INTEGER_BITS and want in _EXACT_BITS and _INTEGER_BITS[have] <= _EXACT_BITS[want]


def column_schema(schema: Mapping[str, PolarsDataType], declared: dg.TableSchema | None = None) -> dg.TableSchema:
    """The schema as Dagster shows it under ``dagster/column_schema``.

    Args:
        schema: Columns with their stored types.
        declared: What the asset declares under the same key; its descriptions are kept.
    """
    described = {column.name: column.description for column in declared.columns} if declared else {}
    return dg.TableSchema(columns=[dg.TableColumn(n, str(t), described.get(n)) for n, t in schema.items()])


def described(**columns: str) -> dg.TableSchema:
    """Descriptions of columns, to be declared under ``dagster/column_schema``; a write adds the types.

    Args:
        columns: Description by column.
    """
    return dg.TableSchema(columns=[dg.TableColumn(name, description=text) for name, text in columns.items()])
