"""What is refused: by which error, naming what, and with every file of the lake as it was."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from pattern_platform import PatternPlatformError
from pattern_platform.errors import (
    ChangedTypeError,
    CommitConflictError,
    InexpressiblePartitionError,
    InvalidMetadataError,
    LossyCastError,
    MissingColumnError,
    NullInRequiredColumnError,
    RowsOutsidePartitionError,
    TornCommitError,
    UnknownColumnError,
    UnreadableLogError,
    UnsafeAssetKeyError,
    UnsafePartitionKeyError,
    UnsupportedFrameError,
    UnsupportedStorageError,
    UnsupportedTableError,
    UnsupportedTypeError,
)
from pattern_platform.lake.log import commit_path
from pattern_platform_tests.lake.tables import (
    FRAME_KINDS,
    Table,
    as_kind,
    assert_same_rows,
    contents,
    copied,
    failing,
    refused,
    without_memory,
)
from pattern_platform_tests.patterns.idempotency.merging import elsewhere

if TYPE_CHECKING:
    from pathlib import Path

NOON = dt.datetime(2024, 5, 6, 12, tzinfo=dt.UTC)
HOURS = dg.HourlyPartitionsDefinition(start_date="2024-05-06-00:00", end_date="2024-05-08-00:00")
DAYS = dg.DailyPartitionsDefinition(start_date="2024-05-06", end_date="2024-05-09")
KEY = "2024-05-06-12:00"
MOMENT = pl.Datetime("us", "UTC")


def batch(*moments: dt.datetime | None, **columns: Any) -> pl.DataFrame:
    values = moments or (NOON,)
    frame = pl.DataFrame({"moment": pl.Series(values, dtype=MOMENT), "n": range(len(values))})
    return frame.with_columns(**columns)


@pytest.fixture(scope="module")
def two_hours(tmp_path_factory: pytest.TempPathFactory) -> Table:
    table = Table(tmp_path_factory.mktemp("hours"), HOURS)
    table.write(batch(), KEY)
    table.write(batch(NOON + dt.timedelta(hours=1)), "2024-05-06-13:00")
    return table


@pytest.fixture
def table(tmp_path: Path, two_hours: Table) -> Table:
    """A table with one row in the hour of noon and one in the next."""
    return copied(two_hours, tmp_path)


# Rows that are not the partition's ----------------------------------------------------------------------------------

OUTSIDE: dict[str, dt.datetime | None] = {
    "a microsecond before": NOON - dt.timedelta(microseconds=1),
    "the end of the window": NOON + dt.timedelta(hours=1),
    "another day": NOON - dt.timedelta(days=9),
    "the year 1": dt.datetime(1, 1, 1, tzinfo=dt.UTC),
    "null": None,
}


@pytest.mark.parametrize("kind", FRAME_KINDS)
@pytest.mark.parametrize("what", OUTSIDE)
def test_rows_outside_the_partition(table: Table, kind: type, what: str) -> None:
    with refused(table.root, RowsOutsidePartitionError, "1 row(s)", "moment", KEY):
        table.write(as_kind(batch(NOON, OUTSIDE[what], NOON), kind), KEY)


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_rows_outside_the_partition_on_the_first_write(tmp_path: Path, kind: type) -> None:
    with refused(tmp_path, RowsOutsidePartitionError, KEY):
        Table(tmp_path, HOURS).write(as_kind(batch(NOON, NOON + dt.timedelta(hours=2)), kind), KEY)


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_rows_outside_a_range(table: Table, kind: type) -> None:
    frame = batch(NOON, NOON + dt.timedelta(hours=2))
    with refused(table.root, RowsOutsidePartitionError, "1 row(s)"):
        table.write_range(as_kind(frame, kind), KEY, "2024-05-06-13:00")


@pytest.mark.parametrize("kind", FRAME_KINDS)
@pytest.mark.parametrize("column", ["string", "integer", "date", "naive"])
def test_rows_outside_by_other_columns(tmp_path: Path, kind: type, column: str) -> None:
    values: dict[str, tuple[pl.DataType, object, object]] = {
        "string": (pl.String(), "2024-05-06", "2024-05-07"),
        "integer": (pl.Int32(), 20240506, 20240507),
        "date": (pl.Date(), dt.date(2024, 5, 6), dt.date(2024, 5, 7)),
        "naive": (
            pl.Datetime("us"),
            dt.datetime.fromisoformat("2024-05-06T23:59:00"),
            dt.datetime.fromisoformat("2024-05-07"),
        ),
    }
    dtype, inside, outside = values[column]
    fmt = {"fmt": "%Y%m%d"} if column == "integer" else {}
    days = dg.DailyPartitionsDefinition(
        start_date=dt.datetime.fromisoformat("2024-05-06"), end_date=dt.datetime.fromisoformat("2024-05-09"), **fmt
    )
    key = days.get_partition_keys()[0]
    table = Table(tmp_path, days)
    table.write(pl.DataFrame({"moment": pl.Series([inside], dtype=dtype), "n": [1]}), key)
    for odd in (outside, None):
        frame = pl.DataFrame({"moment": pl.Series([inside, odd], dtype=dtype), "n": [1, 2]})
        with refused(tmp_path, RowsOutsidePartitionError, "1 row(s)", "moment", key):
            table.write(as_kind(frame, kind), key)


@pytest.mark.parametrize("kind", FRAME_KINDS)
@pytest.mark.parametrize("partition_by", [(), ("region",)], ids=["flat", "physical"])
def test_rows_of_another_region(tmp_path: Path, kind: type, partition_by: tuple[str, ...]) -> None:
    both = dg.MultiPartitionsDefinition({"date": DAYS, "region": dg.StaticPartitionsDefinition(["eu", "us"])})
    expression = {"date": "moment", "region": "region"}
    table = Table(tmp_path, both, expression, metadata={"partition_by": list(partition_by)})
    key = dg.MultiPartitionKey({"date": "2024-05-06", "region": "eu"})
    table.write(batch(region=pl.lit("eu")), key)
    for odd in ("us", "EU", "eu ", None):
        frame = batch(NOON, NOON).with_columns(region=pl.Series(["eu", odd], dtype=pl.String))
        with refused(tmp_path, RowsOutsidePartitionError, "1 row(s)", "region"):
            table.write(as_kind(frame, kind), key)


def test_a_refusal_shows_no_data(table: Table) -> None:
    with pytest.raises(RowsOutsidePartitionError) as caught:
        table.write(batch(dt.datetime(1999, 1, 1, tzinfo=dt.UTC), secret=pl.lit(1)).drop("secret"), KEY)
    assert "1999" not in str(caught.value)


# Schema -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_an_unknown_column(table: Table, kind: type) -> None:
    with refused(table.root, UnknownColumnError, "'extra'"):
        table.write(as_kind(batch(extra=pl.lit(1)), kind), KEY)


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_a_missing_column(table: Table, kind: type) -> None:
    with refused(table.root, MissingColumnError, "'n'"):
        table.write(as_kind(batch().drop("n"), kind), KEY)


def test_a_renamed_column(table: Table) -> None:
    with refused(table.root, MissingColumnError, "'n'"):
        table.write(batch().rename({"n": "N"}), KEY)


@pytest.mark.parametrize("evolution", ["strict", "add_columns"])
def test_a_column_that_differs_in_case_alone(table: Table, evolution: str) -> None:
    declared = table.with_(metadata={"schema_evolution": evolution})
    with refused(table.root, PatternPlatformError, "N"):
        declared.write(batch(N=pl.lit(1)), KEY)


@pytest.mark.parametrize("names", [("a", "A"), ("ñ", "Ñ")])
def test_twin_columns_on_the_first_write(tmp_path: Path, names: tuple[str, str]) -> None:
    with refused(tmp_path, InvalidMetadataError, *map(repr, names)):
        Table(tmp_path).write(pl.DataFrame({name: [1] for name in names}))


CHANGED = {
    "integer to text": (pl.Int64, pl.Series(["7"]), ChangedTypeError),
    "text to integer": (pl.String, pl.Series([7]), ChangedTypeError),
    "text to date": (pl.String, pl.Series([dt.date(2024, 1, 1)]), ChangedTypeError),
    "date to timestamp": (pl.Date, pl.Series([NOON.replace(tzinfo=None)]), ChangedTypeError),
    "timestamp to date": (pl.Datetime("us"), pl.Series([NOON.date()]), ChangedTypeError),
    "zoned to naive": (pl.Datetime("us", "UTC"), pl.Series([NOON.replace(tzinfo=None)]), ChangedTypeError),
    "naive to zoned": (pl.Datetime("us"), pl.Series([NOON], dtype=MOMENT), ChangedTypeError),
    "boolean to integer": (pl.Boolean, pl.Series([1]), ChangedTypeError),
    "integer to boolean": (pl.Int64, pl.Series([True]), ChangedTypeError),
    "integer to list": (pl.Int64, pl.Series([[1]]), ChangedTypeError),
    "struct loses a field": (pl.Struct({"a": pl.Int64, "b": pl.Int64}), pl.Series([{"a": 1}]), ChangedTypeError),
    "struct gains a field": (pl.Struct({"a": pl.Int64}), pl.Series([{"a": 1, "b": 2}]), ChangedTypeError),
    "struct renames a field": (pl.Struct({"a": pl.Int64}), pl.Series([{"b": 1}]), ChangedTypeError),
    "a field changes": (pl.Struct({"a": pl.Int64}), pl.Series([{"a": "x"}]), ChangedTypeError),
    "elements change": (pl.List(pl.Int64), pl.Series([["x"]]), ChangedTypeError),
    "2.5 into an integer": (pl.Int64, pl.Series([2.5]), LossyCastError),
    "2.0 into an integer": (pl.Int64, pl.Series([2.0]), LossyCastError),
    "Int64 into Int32": (pl.Int32, pl.Series([1], dtype=pl.Int64), LossyCastError),
    "Int64 into Float64": (pl.Float64, pl.Series([1]), LossyCastError),
    "Float64 into Float32": (pl.Float32, pl.Series([0.1]), LossyCastError),
    "UInt64 into Int64": (pl.Int64, pl.Series([1], dtype=pl.UInt64), LossyCastError),
    "UInt32 into Int32": (pl.Int32, pl.Series([1], dtype=pl.UInt32), LossyCastError),
    "decimal digits": (
        pl.Decimal(10, 2),
        pl.Series([decimal.Decimal("1.234")], dtype=pl.Decimal(10, 3)),
        LossyCastError,
    ),
    "decimal width": (pl.Decimal(10, 2), pl.Series([decimal.Decimal("1.23")], dtype=pl.Decimal(12, 2)), LossyCastError),
    "nanoseconds": (pl.Datetime("us"), pl.Series([NOON.replace(tzinfo=None)], dtype=pl.Datetime("ns")), LossyCastError),
    "a field overflows": (pl.Struct({"a": pl.Int32}), pl.Series([{"a": 1}]), LossyCastError),
    "elements lose": (pl.List(pl.Int64), pl.Series([[1.5]]), LossyCastError),
}


@pytest.mark.parametrize("what", CHANGED)
@pytest.mark.parametrize("kind", [pl.LazyFrame, pa.Table])
def test_a_column_of_another_type(tmp_path: Path, what: str, kind: type) -> None:
    kept, given, error = CHANGED[what]
    table = Table(tmp_path)
    table.write(pl.DataFrame({"n": pl.Series([None], dtype=kept), "id": [1]}))
    with refused(tmp_path, error, "'n"):
        table.write(as_kind(pl.DataFrame({"n": given, "id": [1]}), kind))


WIDENED = {
    "Int32 into Int64": (pl.Int64, pl.Series([7], dtype=pl.Int32)),
    "UInt8 into Int16": (pl.Int16, pl.Series([255], dtype=pl.UInt8)),
    "UInt32 into Int64": (pl.Int64, pl.Series([2**32 - 1], dtype=pl.UInt32)),
    "Int32 into Float64": (pl.Float64, pl.Series([2**31 - 1], dtype=pl.Int32)),
    "Float32 into Float64": (pl.Float64, pl.Series([0.5], dtype=pl.Float32)),
    "categories": (pl.String, pl.Series(["x"], dtype=pl.Categorical)),
    "enumeration": (pl.String, pl.Series(["x"], dtype=pl.Enum(["x", "y"]))),
    "milliseconds": (pl.Datetime("us"), pl.Series([NOON.replace(tzinfo=None)], dtype=pl.Datetime("ms"))),
    "nulls": (pl.Int64, pl.Series([None], dtype=pl.Null)),
    "decimal width": (pl.Decimal(12, 2), pl.Series([decimal.Decimal("1.23")], dtype=pl.Decimal(10, 2))),
    "an array": (pl.List(pl.Int64), pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2))),
    "a field": (pl.Struct({"a": pl.Int64}), pl.Series([{"a": 1}], dtype=pl.Struct({"a": pl.Int16}))),
    "elements": (pl.List(pl.Int64), pl.Series([[1]], dtype=pl.List(pl.Int8))),
    "null elements": (pl.List(pl.Int64), pl.Series([[None]], dtype=pl.List(pl.Null))),
}


@pytest.mark.parametrize("what", WIDENED)
@pytest.mark.parametrize("kind", [pl.LazyFrame, pa.Table])
def test_a_narrower_column_arrives_unchanged(tmp_path: Path, what: str, kind: type) -> None:
    kept, given = WIDENED[what]
    table = Table(tmp_path)
    table.write(pl.DataFrame({"n": pl.Series([None], dtype=kept), "id": [1]}))
    table.write(as_kind(pl.DataFrame({"id": [1], "n": given}), kind))
    assert table.rows()["n"].to_list() == given.to_list()
    assert table.rows().columns == ["n", "id"]


@pytest.mark.parametrize("zone", ["Europe/Amsterdam", "America/New_York"])
def test_moments_of_other_zones_stay_the_same_moments(tmp_path: Path, zone: str) -> None:
    local = pl.Series([NOON], dtype=MOMENT).dt.convert_time_zone(zone).dt.cast_time_unit("ms")
    frame = pl.DataFrame({"moment": local}).select(
        "moment", inside=pl.struct(at="moment"), several=pl.concat_list("moment", "moment")
    )
    table = Table(tmp_path)
    table.write(frame)
    row = table.rows().row(0, named=True)
    assert row == {"moment": NOON, "inside": {"at": NOON}, "several": [NOON, NOON]}
    table.write(frame)  # now cast to the table's types
    assert table.rows().row(0, named=True) == row


UNSUPPORTED = {
    "time": (pl.Series([dt.time(1)]), UnsupportedTypeError),
    "duration": (pl.Series([dt.timedelta(1)]), UnsupportedTypeError),
    "nulls only": (pl.Series([None]), UnsupportedTypeError),
    "nanoseconds": (pl.Series([NOON.replace(tzinfo=None)], dtype=pl.Datetime("ns")), LossyCastError),
    "unsigned": (pl.Series([2**63], dtype=pl.UInt64), LossyCastError),
    "in a struct": (pl.Series([{"a": dt.time(1)}]), UnsupportedTypeError),
    "in a list": (pl.Series([[dt.timedelta(1)]]), UnsupportedTypeError),
    "object": (pl.Series([object()], dtype=pl.Object), UnsupportedTypeError),
    "128 bits": (pl.Series([1], dtype=pl.Int128), UnsupportedTypeError),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_a_type_that_delta_lake_has_not(tmp_path: Path, what: str) -> None:
    column, error = UNSUPPORTED[what]
    with refused(tmp_path, error, "'bad"):
        Table(tmp_path).write(pl.DataFrame({"id": [1], "bad": column}))


def test_a_new_column_of_such_a_type(table: Table) -> None:
    with refused(table.root, UnsupportedTypeError, "'bad'"):
        table.with_(metadata={"schema_evolution": "add_columns"}).write(batch(bad=pl.lit(dt.time(1))), KEY)


def test_added_columns_are_null_before(table: Table) -> None:
    evolving = table.with_(metadata={"schema_evolution": "add_columns"})
    evolving.write(batch(extra=pl.lit("x"), more=pl.lit(1.5)), KEY)
    assert table.rows().columns == ["moment", "n", "extra", "more"]
    assert sorted(table.rows()["extra"].to_list(), key=str) == [None, "x"]
    with refused(table.root, MissingColumnError, "'extra'"):
        evolving.write(batch(), KEY)


def test_a_frame_without_columns(tmp_path: Path, table: Table) -> None:
    with refused(table.root, MissingColumnError, "'moment'"):
        table.write(pl.DataFrame(), KEY)
    with refused(tmp_path, PatternPlatformError):
        Table(tmp_path, key=("other",)).write(pl.DataFrame())


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_nulls_in_a_required_column(tmp_path: Path, kind: type) -> None:
    table = Table(tmp_path)
    required = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("m", pa.int64())])
    write_deltalake(table.path, pa.table({"n": [1], "m": [1]}, schema=required))
    with refused(tmp_path, NullInRequiredColumnError, "n"):
        table.write(as_kind(pl.DataFrame({"n": [1, None], "m": [None, 1]}), kind))
    table.write(as_kind(pl.DataFrame({"n": [2], "m": [None]}, schema={"n": pl.Int64, "m": pl.Int64}), kind))
    assert table.rows()["n"].to_list() == [2]


@pytest.mark.parametrize("column", ["tags", "a.b"])
def test_nulls_in_a_required_column_without_statistics(tmp_path: Path, column: str) -> None:
    kinds = {"tags": pa.list_(pa.int64()), "a.b": pa.int64()}
    good = {"tags": [1], "a.b": 1}
    required = pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])
    table = Table(tmp_path)
    write_deltalake(table.path, pa.table({name: [value] for name, value in good.items()}, schema=required))
    schema = {"tags": pl.List(pl.Int64), "a.b": pl.Int64}
    with refused(tmp_path, NullInRequiredColumnError, repr(column)):
        table.write(pl.DataFrame([{**good, column: None}], schema=schema))
    table.write(pl.DataFrame([good, good], schema=schema))
    assert table.rows().height == 2


# Values that are no frames ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{"n": [1]}, None, [1], "x", pl.Series([1]), 7], ids=lambda v: type(v).__name__)
def test_a_value_that_is_no_frame(table: Table, value: object) -> None:
    with refused(table.root, UnsupportedFrameError, type(value).__name__):
        table.write(value, KEY)


def test_a_pandas_frame(table: Table) -> None:
    with refused(table.root, UnsupportedFrameError, "DataFrame"):
        table.write(batch().to_pandas(), KEY)


# Partition keys -----------------------------------------------------------------------------------------------------

ODD_KEYS = [
    "o'x", 'say "hi"', "ñ", "日本", "🙂", "../../x", "..", ".", "a/b", "a b", "a%2Fb", "a=b", "a#b?c", "null", "None",
    "__HIVE_DEFAULT_PARTITION__", "x' OR '1'='1", "x'; DROP TABLE t; --", "`x`", "\\", "$x", "*", "_x", " x", "x ", "0",
    "a.b", "[a]", "{a}", "\uff21", "e\u0301", "é", "\U00020000",
]  # fmt: skip


@pytest.mark.parametrize("partition_by", [(), ("moment",)], ids=["flat", "physical"])
def test_odd_keys_touch_their_own_partition_alone(tmp_path: Path, partition_by: tuple[str, ...]) -> None:
    keys = [key for key in ODD_KEYS if not partition_by or key != "__HIVE_DEFAULT_PARTITION__"]
    table = Table(tmp_path / "lake", dg.StaticPartitionsDefinition(keys), metadata={"partition_by": list(partition_by)})
    model = {key: [n] for n, key in enumerate(keys)}
    for key, values in model.items():
        table.write(pl.DataFrame({"moment": [key], "n": values}), key)
    for key in (*keys[::4], "\U00020000"):
        model[key] = [model[key][0], 1000]
        table.write(pl.DataFrame({"moment": [key, key], "n": model[key]}).lazy(), key)
    expected = [(key, n) for key, values in model.items() for n in values]
    assert sorted(table.rows().iter_rows()) == sorted(expected)
    for key in keys[::4]:
        assert table.load(key, definition=table.definition)["n"].sort().to_list() == model[key]
    assert [path.name for path in tmp_path.iterdir()] == ["lake"]
    assert [path.name for path in (tmp_path / "lake").iterdir()] == ["table"]


@pytest.mark.parametrize("key", ["x" * 201, "ñ" * 101, "a\u200bb", "tab\there", "a\u202eb"])
def test_keys_that_delta_lake_cannot_hold(tmp_path: Path, key: str) -> None:
    table = Table(tmp_path, dg.DynamicPartitionsDefinition(name="odd"), instance=dg.DagsterInstance.ephemeral())
    table.instance.add_dynamic_partitions("odd", [key])
    with refused(tmp_path, UnsafePartitionKeyError, repr(key)):
        table.write(pl.DataFrame({"moment": [key]}), key)


def test_an_empty_key(tmp_path: Path) -> None:
    both = dg.MultiPartitionsDefinition({"date": DAYS, "region": dg.StaticPartitionsDefinition(["", "eu"])})
    table = Table(tmp_path, both, {"date": "moment", "region": "region"})
    with refused(tmp_path, UnsafePartitionKeyError, "''"):
        table.write(batch(region=pl.lit("")), dg.MultiPartitionKey({"date": "2024-05-06", "region": ""}))


@pytest.mark.parametrize("key", ["x" * 200, "ñ" * 100, "日" * 60])
@pytest.mark.parametrize("partition_by", [(), ("moment",)], ids=["flat", "physical"])
def test_long_keys_are_kept_or_refused(tmp_path: Path, key: str, partition_by: tuple[str, ...]) -> None:
    """A physical partition's folder has the key percent-encoded, three letters a byte, and 255 is the limit."""
    table = Table(tmp_path, dg.StaticPartitionsDefinition([key]), metadata={"partition_by": list(partition_by)})
    frame = pl.DataFrame({"moment": [key], "n": [1]})
    if partition_by and len(key.encode()) != len(key):
        with refused(tmp_path, UnsafePartitionKeyError):
            table.write(frame, key)
    else:
        table.write(frame, key)
        assert_same_rows(table.load(key, definition=table.definition), frame)


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_an_empty_string_in_a_physical_partition_column(tmp_path: Path, kind: type) -> None:
    frame = pl.DataFrame({"p": [*"abcdef", "", *"ghijkl"], "n": range(13)})
    for n in range(5):  # the other files are written at the same time
        with refused(tmp_path, UnsafePartitionKeyError, "'p'"):
            Table(tmp_path, key=(f"t{n}",), metadata={"partition_by": ["p"]}).write(as_kind(frame, kind))


SHARED_VALUES = {
    "integers": (pl.Int64(), ["1", "01"]),
    "signs": (pl.Int64(), ["1", "+1"]),
    "dates": (pl.Date(), ["2024-05-06", "20240506"]),
    "moments": (MOMENT, ["2024-05-06T00:00:00+00:00", "2024-05-06T02:00:00+02:00"]),
}


@pytest.mark.parametrize("what", SHARED_VALUES)
def test_two_keys_that_are_one_value(tmp_path: Path, what: str) -> None:
    """Writing one of them would replace the rows of the other."""
    dtype, keys = SHARED_VALUES[what]
    value = 1 if dtype.is_integer() else dt.date(2024, 5, 6) if dtype == pl.Date else NOON.replace(hour=0)
    frame = pl.DataFrame({"moment": pl.Series([value], dtype=dtype), "n": [1]})
    table = Table(tmp_path, dg.StaticPartitionsDefinition(keys))
    with refused(tmp_path, InexpressiblePartitionError, "moment", repr(keys[1])):
        for key in keys[::-1]:
            table.write(frame, key)


INEXPRESSIBLE = {
    "integer without end": (pl.Int32(), "3000000000"),
    "integer of 100 digits": (pl.Int64(), "9" * 100),
    "negative in a byte": (pl.Int8(), "-129"),
    "text in an integer": (pl.Int64(), "x"),
    "text in a date": (pl.Date(), "x"),
    "time in a date": (pl.Date(), "2024-05-06T01"),
    "text in a timestamp": (MOMENT, "x"),
    "boolean": (pl.Boolean(), "true"),
    "float": (pl.Float64(), "1.5"),
    "binary": (pl.Binary(), "x"),
    "struct": (pl.Struct({"a": pl.Int64}), "x"),
    "decimal": (pl.Decimal(10, 2), "1.00"),
}


@pytest.mark.parametrize("what", INEXPRESSIBLE)
def test_a_column_that_cannot_hold_the_key(tmp_path: Path, what: str) -> None:
    dtype, key = INEXPRESSIBLE[what]
    frame = pl.DataFrame({"moment": pl.Series([], dtype=dtype), "n": pl.Series([], dtype=pl.Int64)})
    with refused(tmp_path, InexpressiblePartitionError, "moment"):
        Table(tmp_path, dg.StaticPartitionsDefinition([key])).write(frame, key)


# Asset keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        ("..", "x"), ("a", ".."), ("a", "..", "b"), ("..",), (".",), ("a/b",), ("_delta_log",), ("a", "_delta_log"),
        ("[x",), ("[x]",), ("_x",), (".x",), ("a b",), ("a\\b",), ("~",), ("%2e%2e",), ("a=b",), ("ñ",), ("a\n",),
        ("",),
    ],
)  # fmt: skip
def test_asset_keys_that_are_no_folders_inside_the_root(tmp_path: Path, key: tuple[str, ...]) -> None:
    table = Table(tmp_path / "lake", key=key)
    with refused(tmp_path, UnsafeAssetKeyError):
        table.manager.table_path(dg.AssetKey(list(key)))


@pytest.mark.parametrize("key", [("..", "x"), ("_delta_log",)])
def test_a_run_of_such_an_asset_is_refused(tmp_path: Path, key: tuple[str, ...]) -> None:
    with refused(tmp_path, UnsafeAssetKeyError, key[0]):
        Table(tmp_path / "lake", key=key).write(pl.DataFrame({"a": [1]}))


def test_a_table_inside_a_table(tmp_path: Path) -> None:
    Table(tmp_path, key=("a",)).write(pl.DataFrame({"n": [1]}))
    for key in (("a", "b"), ("a", "b", "c")):
        with refused(tmp_path, UnsafeAssetKeyError, "a"):
            Table(tmp_path, key=key).write(pl.DataFrame({"n": [1]}))


@pytest.mark.parametrize("inner", [("a", "b"), ("a", "b", "c")])
def test_a_table_around_a_table(tmp_path: Path, inner: tuple[str, ...]) -> None:
    """A full vacuum of the outer table would remove every file of the inner one."""
    Table(tmp_path, key=inner).write(pl.DataFrame({"n": [1]}))
    with refused(tmp_path, UnsafeAssetKeyError, "a"):
        Table(tmp_path, key=("a",)).write(pl.DataFrame({"n": [1]}))


@pytest.mark.parametrize("uri", ["s3://bucket/lake", "gs://bucket/lake", "abfss://c@a.dfs.core.windows.net/lake"])
def test_a_root_on_an_object_store(tmp_path: Path, uri: str) -> None:
    with refused(tmp_path, UnsupportedStorageError, uri):
        Table(tmp_path, options={"root_uri": uri}).write(pl.DataFrame({"n": [1]}))


# Metadata of the asset ----------------------------------------------------------------------------------------------

WRONG_METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": ({"partition_exp": "moment"}, "partition_exp"),
    "misspelt evolution": ({"schema_evolutions": "strict"}, "schema_evolutions"),
    "a number": ({"partition_expr": 7}, "partition_expr"),
    "a list": ({"partition_expr": ["moment"]}, "partition_expr"),
    "no such column": ({"partition_expr": "momnt"}, "momnt"),
    "dimensions of a single one": ({"partition_expr": {"date": "moment"}}, "partition_expr"),
    "no evolution": ({"schema_evolution": "merge"}, "schema_evolution"),
    "text for columns": ({"partition_by": "n"}, "partition_by"),
    "unknown physical column": ({"partition_by": ["x"]}, "'x'"),
    "another layout": ({"partition_by": ["n"]}, "partition_by"),
    "every column physical": ({"partition_by": ["moment", "n"]}, "partition_by"),
}


@pytest.mark.parametrize("what", WRONG_METADATA)
def test_metadata_that_is_wrong(table: Table, what: str) -> None:
    metadata, culprit = WRONG_METADATA[what]
    with refused(table.root, InvalidMetadataError, culprit):
        table.with_(metadata=metadata).write(batch(), KEY)


def test_metadata_that_is_missing(tmp_path: Path, table: Table) -> None:
    with refused(table.root, InvalidMetadataError, "partition_expr", "'table'"):
        table.with_(partition_expr=None).write(batch(), KEY)
    with refused(tmp_path, InvalidMetadataError, "partition_expr"):
        Table(tmp_path, HOURS, None, key=("other",)).write(batch(), KEY)


@pytest.mark.parametrize("expression", ["moment", {"date": "moment"}, {"date": "moment", "regoin": "n"}])
def test_dimensions_without_their_columns(tmp_path: Path, expression: object) -> None:
    both = dg.MultiPartitionsDefinition({"date": DAYS, "region": dg.StaticPartitionsDefinition(["eu"])})
    with refused(tmp_path, InvalidMetadataError, "date, region"):
        Table(tmp_path, both, expression).write(batch(), dg.MultiPartitionKey({"date": "2024-05-06", "region": "eu"}))


def test_two_dimensions_in_one_column(tmp_path: Path) -> None:
    regions = dg.StaticPartitionsDefinition(["1", "2"])
    both = dg.MultiPartitionsDefinition({"a": regions, "b": regions})
    with refused(tmp_path, PatternPlatformError, "n"):
        Table(tmp_path, both, {"a": "n", "b": "n"}).write(
            pl.DataFrame({"n": [1, 2]}), dg.MultiPartitionKey({"a": "1", "b": "2"})
        )


@pytest.mark.parametrize("value", [b"\xff", [1], {"a": 1}], ids=str)
def test_a_physical_partition_column_of_a_type_without_text(tmp_path: Path, value: object) -> None:
    frame = pl.DataFrame({"p": [value], "n": [1]})
    with refused(tmp_path, PatternPlatformError, "p"):
        Table(tmp_path, metadata={"partition_by": ["p"]}).write(frame)


# Tables that ask for more than the platform writes ------------------------------------------------------------------

PROPERTIES = {
    "append-only": {"delta.appendOnly": "true"},
    "change data feed": {"delta.enableChangeDataFeed": "true"},
}


@pytest.mark.parametrize("what", PROPERTIES)
def test_a_table_with_a_property_that_forbids(tmp_path: Path, what: str) -> None:
    table = Table(tmp_path)
    write_deltalake(table.path, pl.DataFrame({"n": [1]}), configuration=PROPERTIES[what])
    with refused(tmp_path, UnsupportedTableError, "'table'", *PROPERTIES[what]):
        table.write(pl.DataFrame({"n": [2]}))
    assert table.load()["n"].to_list() == [1]


def test_a_table_with_a_constraint(table: Table) -> None:
    DeltaTable(table.path).alter.add_constraint({"positive": "n >= 0"})
    with refused(table.root, UnsupportedTableError, "positive"):
        table.write(batch(), KEY)
    assert_same_rows(table.load(KEY, definition=HOURS), batch())


FEATURES = {
    "deletion vectors": (["deletionVectors"], {"delta.enableDeletionVectors": "true"}, "deletionVectors"),
    "column mapping": (["columnMapping"], {"delta.columnMapping.mode": "name"}, "columnMapping"),
    "row tracking": ([], {"delta.enableRowTracking": "true"}, "rowTracking"),
}


@pytest.mark.parametrize("what", FEATURES)
def test_a_table_with_a_feature(tmp_path: Path, what: str) -> None:
    readers, properties, feature = FEATURES[what]
    table = Table(tmp_path)
    table.write(pl.DataFrame({"n": [1]}))
    metadata = table.handle.metadata()
    fields = json.loads(table.handle.schema().to_json())
    if what == "column mapping":
        fields["fields"][0]["metadata"] = {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "n"}
        properties = {**properties, "delta.columnMapping.maxColumnId": "1"}
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": readers, "writerFeatures": [feature]}
    described = {
        "id": metadata.id, "format": {"provider": "parquet", "options": {}}, "schemaString": json.dumps(fields),
        "partitionColumns": [], "configuration": properties, "createdTime": 0,
    }  # fmt: skip
    log = table.path / "_delta_log" / f"{table.version + 1:020}.json"
    log.write_text("\n".join(json.dumps(action) for action in ({"protocol": protocol}, {"metaData": described})))
    with refused(tmp_path, UnsupportedTableError, "'table'", feature):
        table.write(pl.DataFrame({"n": [2]}))


# Torn commits and retries -------------------------------------------------------------------------------------------


def _newest(table: Table) -> Path:
    return table.path / "_delta_log" / f"{table.version:020}.json"


def test_a_torn_commit_is_refused_by_readers_and_writers(table: Table) -> None:
    _newest(table).write_bytes(b"")
    with refused(table.root, TornCommitError, "'table'", _newest(table).name):
        table.write(batch(), KEY)
    with refused(table.root, TornCommitError, "'table'"):
        table.load(KEY, definition=HOURS)


def test_a_torn_commit_is_mended_as_the_message_says(table: Table) -> None:
    newest = _newest(table)
    newest.write_bytes(b"")
    with pytest.raises(TornCommitError):
        table.write(batch(), KEY)
    newest.unlink()
    table.write(batch(NOON + dt.timedelta(hours=1)), "2024-05-06-13:00")
    assert_same_rows(table.rows(), pl.concat([batch(), batch(NOON + dt.timedelta(hours=1))]))


def test_a_torn_commit_behind_a_checkpoint_is_refused(table: Table) -> None:
    table.handle.create_checkpoint()
    table.write(batch(), KEY)
    _newest(table).write_bytes(b"")
    with refused(table.root, TornCommitError, "'table'"):
        table.write(batch(), KEY)


def test_a_damaged_commit_is_refused_for_good(table: Table) -> None:
    commit = commit_path(table.path, 1)
    commit.write_bytes(commit.read_bytes()[:-40])
    with refused(table.root, UnreadableLogError, "'table'"):
        elsewhere(lambda: table.load(KEY, definition=HOURS))
    assert not UnreadableLogError.retryable


@without_memory
def test_a_commit_that_cannot_be_read_just_now_is_no_damage(table: Table) -> None:
    """The system opens it, and fails to read it."""
    with failing(commit_path(table.path, 1), "read"), pytest.raises(DeltaError, match="Input/output error"):
        elsewhere(lambda: table.load(KEY, definition=HOURS))
    assert_same_rows(elsewhere(lambda: table.load(KEY, definition=HOURS)), batch())


def test_a_commit_that_cannot_be_opened_just_now_is_no_damage(table: Table) -> None:
    """A link to itself: the system refuses to follow it."""
    commit = commit_path(table.path, 1)
    aside = commit.rename(table.root / "aside")
    commit.symlink_to(commit)
    with pytest.raises(OSError, match="symbolic links"):
        elsewhere(lambda: table.load(KEY, definition=HOURS))
    aside.rename(commit)
    assert_same_rows(elsewhere(lambda: table.load(KEY, definition=HOURS)), batch())


@without_memory
def test_a_run_is_retried_when_a_commit_could_not_be_read(table: Table) -> None:
    executions: list[int] = []
    unreadable = ExitStack()
    unreadable.enter_context(failing(commit_path(table.path, 1), "read"))

    def value(_: object) -> pl.DataFrame:
        executions.append(1)
        if len(executions) == 2:
            unreadable.close()
        return batch()

    with unreadable:
        elsewhere(lambda: table.with_(retry_policy=dg.RetryPolicy(max_retries=3)).write(value, KEY))
    assert len(executions) == 2
    assert_same_rows(table.load(KEY, definition=HOURS), batch())


def test_a_refusal_is_not_retried(tmp_path: Path) -> None:
    executions: list[int] = []

    def value(_: object) -> pl.DataFrame:
        executions.append(1)
        return batch(NOON - dt.timedelta(hours=1))

    with pytest.raises(RowsOutsidePartitionError):
        Table(tmp_path, HOURS, retry_policy=dg.RetryPolicy(max_retries=3)).write(value, KEY)
    assert len(executions) == 1


def test_a_conflict_is_retried(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    executions: list[int] = []

    def value(_: object) -> pl.DataFrame:
        executions.append(1)
        return batch()

    lose_races(monkeypatch, table, times=3)
    table.with_(retry_policy=dg.RetryPolicy(max_retries=3)).write(value, KEY)
    assert len(executions) == 2
    assert_same_rows(table.load(KEY, definition=HOURS), batch())


def lose_races(monkeypatch: pytest.MonkeyPatch, table: Table, *, times: int) -> None:
    """Have a writer that knows no lock commit first, so often; the platform gives up after three times."""
    real = DeltaTable.create_write_transaction
    lost: list[int] = []

    def lose(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
        lost.append(1)
        if len(lost) <= times:
            days = {"delta.logRetentionDuration": f"interval {30 + len(lost)} days"}
            DeltaTable(table.path).alter.set_table_properties(days)
        real(self, *args, **kwargs)

    monkeypatch.setattr("pattern_platform.lake.commit._MOST_ATTEMPTS", 3)
    monkeypatch.setattr(DeltaTable, "create_write_transaction", lose)


def test_what_a_conflict_leaves_behind(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_races(monkeypatch, table, times=99)
    parquet = {name for name in contents(table.root) if name.endswith(".parquet")}
    rows = table.rows()
    with pytest.raises(CommitConflictError, match="'table'"):
        table.write(batch(NOON, NOON), KEY)
    assert {name for name in contents(table.root) if name.endswith(".parquet")} == parquet
    assert_same_rows(table.rows(), rows)


def test_every_message_says_why_and_what_mends_it(table: Table) -> None:
    with pytest.raises(PatternPlatformError) as caught:
        table.write(batch().drop("n"), KEY)
    assert caught.value.description is not None
    assert "why:" in caught.value.description
    assert "mend:" in caught.value.description


def test_a_table_that_lost_a_part_of_its_log_is_not_written_over(table: Table) -> None:
    (table.path / "_delta_log" / f"{0:020}.json").unlink()
    before = contents(table.root)
    with ThreadPoolExecutor(1) as fresh, pytest.raises((DeltaError, PatternPlatformError)):
        fresh.submit(lambda: Table(table.root, HOURS).write(batch(), KEY)).result()
    assert contents(table.root) == before
