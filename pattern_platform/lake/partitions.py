"""Partition keys -> windows.

Time windows are compared in UTC, so the two 01:00 hours of a clock change stay apart; keys are never parsed with
``strptime``. What a column cannot express is refused: there is no path that falls back to the whole table.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, TypeVar, cast

import dagster as dg
import polars as pl

from pattern_platform.errors import InexpressiblePartitionError, InvalidMetadataError, UnsafePartitionKeyError
from pattern_platform.lake.window import Bound, Window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SHORTEST_DAY = dt.timedelta(hours=22)  # a day of the spring clock change; of two hours in Antarctica
_MAX_KEY_BYTES = 200


def window_of(
    keys: Sequence[str],
    definition: dg.PartitionsDefinition,
    partition_expr: str | Mapping[str, str],
    schema: Mapping[str, pl.DataType],
) -> Window:
    """The window of some partitions of an asset.

    Args:
        keys: Partition keys, in any order, need not be contiguous.
        definition: The asset's partitions definition.
        partition_expr: The partition column, or for a multi-partitioned asset a column for each dimension.
        schema: Stored types of the table's columns.

    Raises:
        InvalidMetadataError: ``partition_expr`` names no column, or not every dimension.
        UnsafePartitionKeyError: A key that Delta Lake cannot hold.
        InexpressiblePartitionError: The column cannot tell these partitions apart.
    """
    if isinstance(definition, dg.MultiPartitionsDefinition):
        dimensions = {d.name: d.partitions_def for d in definition.partitions_defs}
        if isinstance(partition_expr, str) or set(partition_expr) != set(dimensions):
            raise InvalidMetadataError(
                f'asset metadata "partition_expr": {partition_expr!r} was refused',
                why=f"the asset is partitioned by {', '.join(dimensions)}, each needs its column",
                mend=f'set "partition_expr": {dict.fromkeys(dimensions, "<column>")}',
            )
    elif isinstance(partition_expr, str):
        dimensions, partition_expr = {"": definition}, {"": partition_expr}
    else:
        raise InvalidMetadataError(
            f'asset metadata "partition_expr": {partition_expr!r} was refused',
            why="the asset has one partition dimension",
            mend='set "partition_expr" to the name of the partition column',
        )
    if len(set(partition_expr.values())) < len(partition_expr):
        raise InvalidMetadataError(
            f'asset metadata "partition_expr": {dict(partition_expr)!r} was refused',
            why="two dimensions cannot share a column",
            mend="give each dimension a column of its own",
        )
    columns: dict[str, pl.DataType] = {}
    for column in partition_expr.values():
        if column not in schema:
            raise InvalidMetadataError(
                f'asset metadata "partition_expr": {column!r} was refused',
                why=f"there is no such column; there are: {', '.join(schema)}",
                mend="name the column that holds the partition, or add it to what the asset returns",
            )
        columns[column] = schema[column]
    for dimension, column in partition_expr.items():
        _refuse_shared_values(dimensions[dimension], column, columns[column])
    pieces = {}
    for key in keys:
        parts = key.keys_by_dimension if isinstance(key, dg.MultiPartitionKey) else {"": key}
        pieces[str(key)] = tuple(
            _bound(parts[dimension], dimensions[dimension], column, columns[column])
            for dimension, column in partition_expr.items()
        )
    return Window(columns, pieces)


def refuse_unordered(definition: dg.PartitionsDefinition | None) -> None:
    """Refuse partitions that do not follow each other.

    Raises:
        InvalidMetadataError: They are neither time windows nor static keys, or there are none.
    """
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition | dg.StaticPartitionsDefinition):
        raise InvalidMetadataError(
            "an asset whose partitions are merged in their order was refused",
            why=f"{type(definition).__name__} has no order" if definition else "it has no partitions",
            mend="partition it by time windows, or by static keys in their order",
        )


def position_of(key: str, definition: dg.PartitionsDefinition) -> str:
    """A text that sorts as the partitions of a definition follow each other: in time, or as static keys are listed."""
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        start = definition.time_window_for_partition_key(key).start
        return start.astimezone(dt.UTC).replace(tzinfo=None).isoformat(timespec="seconds")
    return f"{list(definition.get_partition_keys()).index(key):09}"


def in_order(keys: Sequence[str], definition: dg.PartitionsDefinition | None) -> list[str]:
    """Partition keys as their partitions follow each other, in time first; as given where they have no order."""
    if isinstance(definition, dg.MultiPartitionsDefinition):
        dimensions = sorted(
            definition.partitions_defs,
            key=lambda d: not isinstance(d.partitions_def, dg.TimeWindowPartitionsDefinition),
        )
        parts = {str(key): cast("dg.MultiPartitionKey", key).keys_by_dimension for key in keys}
        for dimension in reversed(dimensions):
            places = in_order(sorted({part[dimension.name] for part in parts.values()}), dimension.partitions_def)
            keys = sorted(keys, key=lambda key, d=dimension.name, p=places: p.index(parts[str(key)][d]))
        return list(keys)
    if isinstance(definition, dg.TimeWindowPartitionsDefinition | dg.StaticPartitionsDefinition):
        return sorted(keys, key=lambda key: position_of(key, definition))
    return list(keys)


def keys_between(after: str | None, before: str, definition: dg.PartitionsDefinition) -> list[str]:
    """The partition keys between two, without them.

    Args:
        after: :func:`position_of` the earlier; None for all keys before the later.
        before: The later key.
        definition: As of :func:`position_of`.
    """
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        end = definition.time_window_for_partition_key(before).start
        first = definition.get_first_partition_window()
        start = dt.datetime.fromisoformat(after).replace(tzinfo=dt.UTC) if after else first and first.start
        if start is None or start >= end:
            return []
        keys = definition.get_partition_keys_in_time_window(dg.TimeWindow(start, end))
        return [key for key in keys if position_of(key, definition) != after]
    keys = list(definition.get_partition_keys())
    return keys[int(after) + 1 if after else 0 : keys.index(before)]


def previous_key(key: str, definition: dg.PartitionsDefinition) -> str | None:
    """The partition before one; None before the first.

    Args:
        key: Partition key.
        definition: Time windows or static keys, see :func:`refuse_unordered`.
    """
    refuse_unordered(definition)
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        window = definition.get_prev_partition_window(definition.time_window_for_partition_key(key).start)
        return definition.get_partition_keys_in_time_window(window)[-1] if window else None
    keys = list(definition.get_partition_keys())
    return keys[keys.index(key) - 1] if keys.index(key) else None


def _bound(key: str, definition: dg.PartitionsDefinition, column: str, dtype: pl.DataType) -> Bound:
    if not key or len(key.encode()) > _MAX_KEY_BYTES or not key.isprintable():
        raise UnsafePartitionKeyError(
            f"partition key {key!r} was refused",
            why=f"Delta Lake stores an empty value as null, and names longer than {_MAX_KEY_BYTES} bytes or with "
            "control characters not at all",
            mend="choose another partition key",
        )
    if isinstance(dtype, pl.String):
        return Bound(key)
    try:
        if dtype.is_integer():
            return Bound(_canonical(key, definition, _fitting(int(key), dtype)))
        if isinstance(definition, dg.TimeWindowPartitionsDefinition):
            return _time_bound(definition, key, dtype)
        if isinstance(dtype, pl.Date):
            return Bound(_canonical(key, definition, dt.date.fromisoformat(key)))
        if isinstance(dtype, pl.Datetime):
            return Bound(_as_stored(dt.datetime.fromisoformat(key), dtype))
    except ValueError as error:
        raise InexpressiblePartitionError(
            f"partition {key!r} with partition column {column!r} was refused",
            why=f"a column of type {dtype} cannot hold this partition: {error}",
            mend="use a timestamp column, or a string column that holds the partition key itself",
        ) from error
    raise InexpressiblePartitionError(
        f"partition column {column!r} was refused",
        why=f"it is of type {dtype}; a partition column is a date, a timestamp, a string or an integer",
        mend='name another column in the asset metadata "partition_expr"',
    )


def _refuse_shared_values(definition: dg.PartitionsDefinition, column: str, dtype: pl.DataType) -> None:
    """Refuse static keys that are one value in the column: a run of one would replace the rows of the other."""
    if not isinstance(definition, dg.StaticPartitionsDefinition) or isinstance(dtype, pl.String):
        return
    held: dict[Bound, str] = {}
    for key in definition.get_partition_keys():
        twin = held.setdefault(_bound(key, definition, column, dtype), key)
        if twin != key:
            raise InexpressiblePartitionError(
                f"partitions {twin!r} and {key!r} with partition column {column!r} were refused",
                why=f"they are the same value in a column of type {dtype}",
                mend="rename one of them, or use a string column that holds the partition key itself",
            )


V = TypeVar("V")


def _canonical(key: str, definition: dg.PartitionsDefinition, value: V) -> V:
    """A value whose key is written as the value is: dynamic keys are not known together, "1" and "01" would be one."""
    if isinstance(definition, dg.DynamicPartitionsDefinition) and str(value) != key:
        message = f"it is kept as {value}, which may be another key too"
        raise ValueError(message)
    return value


def _fitting(value: int, dtype: pl.DataType) -> int:
    try:
        return pl.Series([value], dtype=dtype).item()
    except (OverflowError, TypeError) as error:
        message = "it is too large for the column"
        raise ValueError(message) from error


def _time_bound(definition: dg.TimeWindowPartitionsDefinition, key: str, dtype: pl.DataType) -> Bound:
    window = definition.time_window_for_partition_key(key)
    if isinstance(dtype, pl.Datetime):
        return Bound(_as_stored(window.start, dtype), _as_stored(window.end, dtype))
    if not isinstance(dtype, pl.Date):
        message = "it is no time"
        raise ValueError(message)  # noqa: TRY004 - the caller says which key and column
    # A date is a day of the definition's own calendar, whatever its time zone.
    if window.end.timestamp() - window.start.timestamp() < _SHORTEST_DAY.total_seconds():
        message = "a date cannot tell the hours of a day apart"
        raise ValueError(message)
    return Bound(window.start.date(), window.end.date())


def _as_stored(moment: dt.datetime, dtype: pl.Datetime) -> dt.datetime:
    """A moment as the column stores it: in UTC, with or without its zone. A moment without zone is UTC."""
    utc = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    return utc if dtype.time_zone else utc.replace(tzinfo=None)
