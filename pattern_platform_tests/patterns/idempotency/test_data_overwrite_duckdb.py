"""Data Overwrite in DuckDB: its scenarios, then what a run may be, what is refused, and what a death leaves behind.

What the table holds is asked of DuckDB, on a connection of the test's own.
"""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pattern_platform.errors import (
    ChangedTypeError,
    InvalidMetadataError,
    LossyCastError,
    MissingColumnError,
    MissingPartitionsError,
    MissingTableError,
    RowsOutsidePartitionError,
    UnknownColumnError,
    UnsafeAssetKeyError,
    UnsupportedStorageError,
    UnsupportedTableError,
)
from pattern_platform.patterns.idempotency.data_overwrite_duckdb import WarehouseOverwriteIOManager
from pattern_platform.warehouse.loads import Loads
from pattern_platform_tests.lake.tables import FRAME_KINDS, as_kind, assert_same_rows, shared_instance
from pattern_platform_tests.patterns.idempotency.warehouse_tables import (
    CONFIG,
    QUICK,
    Warehouse,
    days,
    ids_of,
    kept_open,
    killed,
    power_cut,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

DAYS = dg.DailyPartitionsDefinition("2024-09-16", end_date="2024-10-07")
D20, D21, D22, D23 = DATES = ("2024-09-20", "2024-09-21", "2024-09-22", "2024-09-23")
COUNTS = tuple(zip(DATES, (2, 4, 2, 3), strict=True))


def store(folder: Path, **changes: Any) -> Warehouse:
    return Warehouse(folder, WarehouseOverwriteIOManager, DAYS, key=("warehouse", "devices")).with_(**changes)


@pytest.fixture
def devices(tmp_path: Path) -> Warehouse:
    return store(tmp_path)


@pytest.fixture(scope="module")
def _four_days(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    devices = store(tmp_path_factory.mktemp("days"))
    devices.run_range(days(*COUNTS), D20, D23)
    return devices


@pytest.fixture
def four_days(devices: Warehouse, _four_days: Warehouse) -> Warehouse:
    shutil.copy(_four_days.database, devices.database)
    return devices


def named(day: str, *names: str) -> pl.DataFrame:
    return pl.DataFrame({"day": [dt.date.fromisoformat(day)] * len(names), "id": names}, schema=days().schema)


# The scenarios ------------------------------------------------------------------------------------------------------


def test_do_1_the_four_days(devices: Warehouse) -> None:
    for (day, count), total in zip(COUNTS, (2, 6, 8, 11), strict=True):
        told = devices.run(days((day, count)), day)
        assert told["dagster/row_count"] == total
        assert told["duckdb/rows_inserted"] == count
        assert told["duckdb/rows_deleted"] == 0
    assert devices.ids() == ids_of(*COUNTS)
    assert devices.loads() == dict(COUNTS)
    assert told["dagster/table_name"] == "warehouse.devices"
    assert told["dagster/uri"] == str(devices.database)
    assert [column.name for column in told["dagster/column_schema"].columns] == ["day", "id"]


def test_do_2_a_fixed_day_is_replaced_and_nothing_else(four_days: Warehouse) -> None:
    others = four_days.rows().filter(pl.col("day") != dt.date(2024, 9, 22))
    told = four_days.run(named(D22, "galaxy-m54", "iphone-14"), D22)
    assert told["duckdb/rows_deleted"] == 2
    assert told["dagster/row_count"] == 11
    assert_same_rows(four_days.rows(), pl.concat([others, named(D22, "galaxy-m54", "iphone-14")]))


def test_do_3_reruns_change_nothing(four_days: Warehouse) -> None:
    before = four_days.rows()
    for _ in range(3):
        four_days.run(days((D22, 2)), D22)
        assert_same_rows(four_days.rows(), before)
    assert four_days.loads() == dict(COUNTS)


def test_do_4_an_empty_batch_empties_its_day(four_days: Warehouse) -> None:
    told = four_days.run(days(), D22)
    assert told["dagster/row_count"] == 9
    assert told["duckdb/rows_deleted"] == 2
    assert four_days.ids() == ids_of(*((day, count) for day, count in COUNTS if day != D22))
    assert four_days.loads() == {**dict(COUNTS), D22: 0}
    assert four_days.load(D22).is_empty()


KILLED = """
import datetime as dt, os, signal, sys
import dagster as dg, polars as pl
from pattern_platform.patterns.idempotency.data_overwrite_duckdb import WarehouseOverwriteIOManager
from pattern_platform.warehouse.loads import Loads
Loads.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
@dg.asset(
    key=["warehouse", "devices"],
    partitions_def=dg.DailyPartitionsDefinition("2024-09-16"),
    metadata={"partition_expr": "day"},
)
def devices():
    ids = pl.int_range(int(sys.argv[3]), eager=True).cast(pl.String)
    return pl.DataFrame({"id": ids}).with_columns(day=pl.lit(dt.date.fromisoformat(sys.argv[2])))
manager = WarehouseOverwriteIOManager(database=sys.argv[1])
dg.materialize([devices], partition_key=sys.argv[2], resources={"io_manager": manager})
"""


def test_do_6_a_killed_run_leaves_everything_as_it_was(four_days: Warehouse) -> None:
    before = four_days.contents()
    killed(KILLED, four_days.database, D22, 300_000)  # rows enough to be in the file before the end
    assert four_days.contents() == before
    four_days.run(named(D22, "x"), D22)
    assert len(four_days.ids()) == 10


def test_do_7_two_threads_at_once(four_days: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have their batch before either holds the file."""
    meeting = threading.Barrier(2, timeout=30)
    real = WarehouseOverwriteIOManager.prepared

    def meets(manager: WarehouseOverwriteIOManager, value: object) -> object:
        prepared = real(manager, value)
        meeting.wait()
        return prepared

    monkeypatch.setattr(WarehouseOverwriteIOManager, "prepared", meets)
    for first, second in ((D21, D22), (D22, D22)):
        with ThreadPoolExecutor(2) as threads:
            runs = [
                threads.submit(four_days.run, named(first, *"abcd"), first),
                threads.submit(four_days.run, named(second, "x", "y"), second),
            ]
            assert [run.result()["duckdb/rows_inserted"] for run in runs] == [4, 2]
        if first != second:
            assert four_days.ids() == sorted([*ids_of((D20, 2), (D23, 3)), *"abcd", "x", "y"])
    left = four_days.rows().filter(day=dt.date(2024, 9, 22))["id"].sort().to_list()
    assert left in (list("abcd"), ["x", "y"])
    assert four_days.loads()[D22] == len(left)


# What a run may be --------------------------------------------------------------------------------------------------


def test_a_range_replaces_its_days_in_one_transaction(four_days: Warehouse) -> None:
    told = four_days.run_range(days((D21, 1), (D22, 5)), D21, D23)
    assert told["duckdb/rows_deleted"] == 9
    assert told["dagster/row_count"] == 8
    assert four_days.ids() == ids_of((D20, 2), (D21, 1), (D22, 5))
    assert four_days.loads() == {D20: 2, D21: 1, D22: 5, D23: 0}


def test_a_first_batch_may_be_empty(devices: Warehouse) -> None:
    devices.run(days(), D20)
    assert devices.ids() == []
    assert devices.loads() == {D20: 0}
    devices.run(days((D21, 1)), D21)
    assert devices.ids() == ids_of((D21, 1))


def test_an_asset_without_partitions_is_replaced_whole(devices: Warehouse) -> None:
    table = devices.with_(definition=None)
    for batch in (days((D20, 3)), days((D21, 1)), days(), days((D22, 2))):
        assert table.run(batch)["dagster/row_count"] == batch.height
        assert_same_rows(table.rows(), batch)
        assert_same_rows(table.load(), batch)


def test_static_and_dynamic_partitions_by_a_text(devices: Warehouse) -> None:
    shared_instance().add_dynamic_partitions("sites_overwritten", ["a'b", "a"])
    static = devices.with_(definition=dg.StaticPartitionsDefinition(["a'b", "a"]))
    dynamic = devices.with_(
        definition=dg.DynamicPartitionsDefinition(name="sites_overwritten"), key=("warehouse", "dynamic")
    )
    for table in (static, dynamic):
        for key, ids in (("a", ["1", "2"]), ("a'b", ["3"]), ("a", ["4"])):
            table.run(pl.DataFrame({"day": key, "id": ids}), key)
        assert table.ids() == ["3", "4"]
        assert table.loads() == {"a": 1, "a'b": 1}
        assert table.load("a'b")["id"].to_list() == ["3"]


def test_two_dimensions(devices: Warehouse) -> None:
    definition = dg.MultiPartitionsDefinition({"day": DAYS, "site": dg.StaticPartitionsDefinition(["a", "b"])})
    table = devices.with_(definition=definition, metadata={"partition_expr": {"day": "day", "site": "site"}})
    for day, site, count in ((D20, "a", 1), (D20, "b", 2), (D21, "a", 3), (D20, "b", 1)):
        key = dg.MultiPartitionKey({"day": day, "site": site})
        table.run(days((day, count), site=site), key)
    held = table.rows().group_by("day", "site").len().sort("day", "site").rows()
    assert held == [(dt.date(2024, 9, 20), "a", 1), (dt.date(2024, 9, 20), "b", 1), (dt.date(2024, 9, 21), "a", 3)]


def test_the_hours_of_a_clock_change_stay_apart(devices: Warehouse) -> None:
    hours = dg.HourlyPartitionsDefinition("2024-10-26-00:00", end_date="2024-10-29-00:00", timezone="Europe/Berlin")
    table = devices.with_(definition=hours, metadata={"partition_expr": "at"})
    keys = [key for key in hours.get_partition_keys() if key.startswith("2024-10-27-02:00")]
    assert len(keys) == 2
    for key in (*keys, *keys):
        start = hours.time_window_for_partition_key(key).start.astimezone(dt.UTC)
        table.run(pl.DataFrame({"at": [start], "id": [key]}), key)
    assert table.ids() == sorted(keys)
    table.run(pl.DataFrame(schema={"at": pl.Datetime("us", "UTC"), "id": pl.String}), keys[0])
    assert table.ids() == keys[1:]


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_every_kind_of_frame_goes_in_and_comes_out(devices: Warehouse, kind: type) -> None:
    devices.run(as_kind(days((D20, 3)), kind), D20)
    assert_same_rows(devices.load(D20, kind), days((D20, 3)))


def test_a_batch_of_many_row_groups_is_replaced(devices: Warehouse) -> None:
    many = pl.DataFrame({"day": [dt.date(2024, 9, 20)]}).select("day", id=pl.int_ranges(0, 300_000)).explode("id")
    for _ in range(2):
        devices.run(many, D20)
        assert_same_rows(devices.rows(), many)


@pytest.mark.parametrize("key", [("devices",), ("store", "devices"), ("order", "select"), ("a", "b", "c")], ids=str)
def test_names_are_quoted(devices: Warehouse, key: tuple[str, ...]) -> None:
    table = devices.with_(key=key, metadata={"partition_expr": 'the "day"'})
    batch = days((D20, 2)).rename({"day": 'the "day"', "id": "group by"})
    for _ in range(2):
        table.run(batch, D20)
    assert_same_rows(table.rows(), batch)
    assert_same_rows(table.load(D20), batch)


# The schema ---------------------------------------------------------------------------------------------------------


def test_schema_evolution(four_days: Warehouse) -> None:
    wider = days((D22, 1), brand="x")
    with refused(four_days, UnknownColumnError, "'brand'"):
        four_days.run(wider, D22)
    adding = four_days.with_(metadata={"schema_evolution": "add_columns"})
    adding.run(wider, D22)
    assert adding.rows().columns == ["day", "id", "brand"]
    assert adding.rows()["brand"].null_count() == 9
    with refused(adding, MissingColumnError, "'brand'"):
        adding.run(days((D22, 1)), D22)
    with refused(adding, ChangedTypeError, "'brand'"):
        adding.run(days((D22, 1), brand=7), D22)
    with refused(adding, InvalidMetadataError, "case-insensitive"):
        adding.run(days((D22, 1), brand="x", Brand="y"), D22)
    adding.run(wider.select("brand", "id", "day"), D22)  # the order of columns is free
    assert adding.ids() == ids_of((D20, 2), (D21, 4), (D22, 1), (D23, 3))


def test_types_are_kept_or_refused(devices: Warehouse) -> None:
    devices.run(days((D20, 1), n=1), D20)
    for value, error in ((2**40, LossyCastError), (0.5, LossyCastError), ("secret", ChangedTypeError)):
        with refused(devices, error, "'n'"):
            devices.run(days((D20, 1), n=value), D20)
    devices.run(days((D20, 1)).with_columns(n=pl.lit(2, pl.Int8)), D20)
    assert devices.rows()["n"].to_list() == [2]
    assert devices.rows().schema["n"] == pl.Int32


# Refusals -----------------------------------------------------------------------------------------------------------


def test_rows_of_another_day_are_refused(four_days: Warehouse) -> None:
    with refused(four_days, RowsOutsidePartitionError, "1 row(s)", f"'{D22}'"):
        four_days.run(days((D22, 1), (D21, 1)), D22)
    with refused(four_days, RowsOutsidePartitionError, "1 row(s)"):
        four_days.run(days((D22, 1)).with_columns(day=pl.lit(None, pl.Date)), D22)
    with refused(four_days, RowsOutsidePartitionError, "1 row(s)"):
        four_days.run_range(days((D23, 1), (D20, 1)), D21, D23)


def test_declarations(devices: Warehouse) -> None:
    refusals: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"partition_expr": None}, InvalidMetadataError),
        ({"partition_expr": "nothing"}, InvalidMetadataError),
        ({"partition_by": ["day"]}, InvalidMetadataError),
        ({"schema_evolution": "any"}, InvalidMetadataError),
    ]
    for metadata, error in refusals:
        with refused(devices, error, next(iter(metadata))):
            devices.with_(metadata=metadata).run(days((D20, 1)), D20)
    for name in ("devices__loads", "de__vices"):
        with refused(devices, UnsafeAssetKeyError, name):
            devices.with_(key=("warehouse", name)).run(days((D20, 1)), D20)
    for database in (":memory:", "md:devices", ""):
        with pytest.raises(UnsupportedStorageError):
            devices.with_(options={"database": database}).run(days((D20, 1)), D20)


def test_tables_of_others_are_left_alone(four_days: Warehouse) -> None:
    four_days.execute("CREATE TABLE warehouse.pages AS SELECT DATE '2024-09-20' AS day, 'x' AS id")
    four_days.execute("CREATE VIEW warehouse.users AS SELECT DATE '2024-09-20' AS day, 'x' AS id")
    for name in ("pages", "users"):
        with refused(four_days, UnsupportedTableError, f"'{name}'", f"{name}__loads"):
            four_days.with_(key=("warehouse", name)).run(days((D20, 1)), D20)
    for key in (("elsewhere", "warehouse", "devices"), ("warehouse", "Devices"), ("WAREHOUSE", "devices")):
        with refused(four_days, UnsupportedTableError, "warehouse/devices"):
            four_days.with_(key=key).run(days((D20, 1)), D20)
    four_days.execute("DROP TABLE warehouse.devices__loads")
    with refused(four_days, UnsupportedTableError, "devices__loads"):
        four_days.run(days((D20, 1)), D20)


# Inputs -------------------------------------------------------------------------------------------------------------


def test_inputs(four_days: Warehouse) -> None:
    assert_same_rows(four_days.load(D21), days((D21, 4)))
    assert four_days.load(D21, columns=["id"]).columns == ["id"]
    with refused(four_days, InvalidMetadataError, "'nothing'"):
        four_days.load(D21, columns=["nothing"])
    with refused(four_days, InvalidMetadataError, "table_version"):
        four_days.load(D21, table_version=1)
    for partition, whole in (("2024-09-24", False), (None, True)):
        with refused(four_days, MissingPartitionsError, "'2024-09-"):
            four_days.load(partition, whole=whole)
    assert four_days.load("2024-09-24", allow_missing_partitions=True).is_empty()
    assert four_days.load(whole=True, allow_missing_partitions=True).height == 11


def test_a_missing_table_is_an_error_and_a_reader_makes_no_file(devices: Warehouse) -> None:
    for table in (devices, devices.with_(definition=None)):
        partition = D20 if table.definition else None
        with pytest.raises(MissingTableError):
            table.load(partition)
        assert table.load(partition, allow_missing_partitions=True).is_empty()
    assert not devices.database.exists()


# All or nothing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("watched", [False, True], ids=["alone", "beside a reader"])
def test_an_error_in_the_middle_leaves_everything_as_it_was(
    four_days: Warehouse, monkeypatch: pytest.MonkeyPatch, *, watched: bool
) -> None:
    reader = duckdb.connect(str(four_days.database), config=CONFIG) if watched else None
    with monkeypatch.context() as patch:
        patch.setattr(Loads, "write", power_cut)
        with refused(four_days, RuntimeError, "power"):
            four_days.run(named(D22, "x"), D22)
        with refused(four_days, RuntimeError, "power"):
            four_days.with_(key=("new", "devices")).run(named(D22, "x"), D22)
    if reader:
        reader.close()
    four_days.run(named(D22, "x"), D22)
    assert len(four_days.ids()) == 10


def test_a_run_that_dies_after_its_commit_is_retried(four_days: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dg.OutputContext, "add_output_metadata", power_cut)
        with pytest.raises(RuntimeError, match="power"):
            four_days.run(named(D22, "x"), D22)
    after = four_days.rows()
    four_days.run(named(D22, "x"), D22)
    assert_same_rows(four_days.rows(), after)


def test_no_reader_sees_anything_between(four_days: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither before the batch is inserted nor before the registry is."""
    real = Loads.write
    with four_days.connection() as reader:
        seen: list[Sequence[Any]] = []

        def watched(*given: Any) -> None:
            seen.append(reader.execute("SELECT id FROM warehouse.devices ORDER BY id").fetchall())
            real(*given)
            seen.append(reader.execute("SELECT id FROM warehouse.devices ORDER BY id").fetchall())

        monkeypatch.setattr(Loads, "write", watched)
        four_days.run(named(D22, "x"), D22)
        assert seen == [[(id_,) for id_ in ids_of(*COUNTS)]] * 2
        assert ("x",) in reader.execute("SELECT id FROM warehouse.devices").fetchall()


# Any history --------------------------------------------------------------------------------------------------------

FIRST = dt.date(2024, 9, 19)
Step = tuple[int, int, int, bool]  # first day, how many days, how many rows of each, whether it fails
steps = st.tuples(
    st.integers(0, 4),
    st.sampled_from([1, 1, 1, 2, 3]),
    st.integers(0, 2),
    st.sampled_from([False, False, False, True]),
)


@settings(QUICK, max_examples=3)
@given(st.lists(steps, min_size=3, max_size=8))
@example([(1, 3, 2, False), (2, 1, 0, False), (2, 1, 1, True), (1, 2, 1, False)])
def test_any_order_and_repetition_of_runs_equals_the_model(history: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder, kept_open(store(Path(folder))) as table:
        model: dict[str, list[str]] = {}
        for number, (begin, length, count, fails) in enumerate(history):
            keys = [(FIRST + dt.timedelta(days=begin + offset)).isoformat() for offset in range(length)]
            batch = {key: [f"{key}#{row}@{number}" for row in range(count)] for key in keys}
            frame = pl.concat([days(), *(named(key, *ids) for key, ids in batch.items())])
            before = table.contents() if fails else None
            with pytest.MonkeyPatch.context() as patch:
                if fails:
                    patch.setattr(Loads, "write", power_cut)
                try:
                    table.run(frame, keys[0]) if length == 1 else table.run_range(frame, keys[0], keys[-1])
                except RuntimeError:
                    assert table.contents() == before
                    continue
            assert not fails
            model |= batch
            assert table.ids() == sorted(id_ for ids in model.values() for id_ in ids)
            assert table.loads() == {key: len(model[key]) for key in sorted(model)}
