"""Stateful Merger in DuckDB: the scenarios of the stateful merger, then what a rebuilt state and a shared file may be.

What the tables hold is asked of DuckDB, on a connection of the test's own.
"""

from __future__ import annotations

import datetime as dt
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pattern_platform import StatefulMergerIOManager
from pattern_platform.errors import (
    ChangedTypeError,
    DatabaseLockedError,
    DuplicateKeyError,
    InvalidMetadataError,
    MissingColumnError,
    MissingPartitionsError,
    MissingTableError,
    NullKeyError,
    RowsOutsidePartitionError,
    SupersededPartitionsError,
    UnknownColumnError,
    UnsafeAssetKeyError,
    UnsupportedStorageError,
    UnsupportedTableError,
)
from pattern_platform.patterns.idempotency import stateful_merger_history as module
from pattern_platform.patterns.idempotency.stateful_merger_history import HistoryMergerIOManager
from pattern_platform.warehouse import database as database_module
from pattern_platform.warehouse.history import HistoryTables
from pattern_platform_tests.lake.tables import FRAME_KINDS, as_kind, assert_same_rows, loaded_by, shared_instance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DAYS = dg.DailyPartitionsDefinition("2024-10-05", end_date="2024-10-12")
SOFT = {"soft_delete": "gone"}
TABLES = ("", "__history", "__versions", "__quarantine")


@dataclass
class Store:
    """An asset in a store; every run is given what it returns."""

    folder: Path
    definition: dg.PartitionsDefinition | None = DAYS
    metadata: Mapping[str, Any] = field(default_factory=dict)
    key: tuple[str, ...] = ("devices",)
    manager: Any = None

    def __post_init__(self) -> None:
        self.metadata = {"merge_keys": ["k"], **self.metadata}
        self.manager = self.manager or HistoryMergerIOManager(database=str(self.database))

    @property
    def database(self) -> Path:
        return self.folder / "blog.duckdb"

    def asset(self, value: object = None, *, single_run: bool = False) -> dg.AssetsDefinition:
        @dg.asset(
            key=list(self.key),
            partitions_def=self.definition,
            metadata=dict(self.metadata),
            backfill_policy=dg.BackfillPolicy.single_run() if single_run else None,
        )
        def devices() -> Any:
            return value

        return devices

    def run(self, partition: int | str | None, value: object) -> dict[str, Any]:
        """Merge a day of October, or another partition."""
        return self._materialize(self.asset(value), partition_key=day(partition))

    def run_range(self, first: int, last: int, value: object) -> dict[str, Any]:
        ends = {"dagster/asset_partition_range_start": day(first), "dagster/asset_partition_range_end": day(last)}
        return self._materialize(self.asset(value, single_run=True), tags=ends)

    def _materialize(self, asset: dg.AssetsDefinition, **run: Any) -> dict[str, Any]:
        result = dg.materialize([asset], instance=shared_instance(), resources={"io_manager": self.manager}, **run)
        (*_, event) = result.get_asset_materialization_events()
        metadata = event.step_materialization_data.materialization.metadata
        return {name: value.value for name, value in metadata.items()}

    def load(self, kind: Any = pl.DataFrame, partition: str | None = None, **metadata: Any) -> pl.DataFrame:
        definition = self.definition if partition else None
        return loaded_by(self.asset(), self.manager, partition, kind, definition=definition, metadata=metadata)

    # What DuckDB, or delta-rs, says of it

    def table(self, suffix: str = "") -> pl.DataFrame:
        if isinstance(self.manager, StatefulMergerIOManager):
            return pl.DataFrame(DeltaTable(self.folder.joinpath(*self.key)).to_pyarrow_table())
        *_, schema, name = ("main", *self.key)
        with duckdb.connect(str(self.database), config={"custom_user_agent": "dagster"}) as connection:
            return connection.table(
                f'"{connection.execute("SELECT current_database()").fetchall()[0][0]}"."{schema}"."{name}{suffix}"'
            ).pl()

    def held(self) -> dict[str, int]:
        rows = self.table().select("k", "v").rows()
        assert len({key for key, _ in rows}) == len(rows), sorted(rows)
        return dict(sorted(rows))

    def versions(self) -> dict[str, tuple[int, str]]:
        rows = self.table("__versions").select("execution_time", "table_version", "status").rows()
        return {partition[-2:]: (version, status) for partition, version, status in sorted(rows)}

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table that there is."""
        found = {}
        for suffix in TABLES if self.database.exists() else ():
            try:
                found[suffix] = sorted(self.table(suffix).rows(), key=repr)
            except duckdb.CatalogException:
                continue
        return found


def day(number: int | str | None) -> Any:
    return f"2024-10-{number:02}" if isinstance(number, int) else number


def keyed(**values: int) -> pl.DataFrame:
    return pl.DataFrame({"k": list(values), "v": list(values.values())}, schema={"k": pl.String, "v": pl.Int64})


def changed(*, gone: str = "", **values: int) -> pl.DataFrame:
    deleted = keyed(**dict.fromkeys(gone, 0)).with_columns(gone=pl.lit(value=True))
    return pl.concat([keyed(**values).with_columns(gone=pl.lit(value=False)), deleted])


def current(**versions: int) -> dict[str, tuple[int, str]]:
    return {name[1:]: (version, "current") for name, version in versions.items()}


def superseded(**versions: int) -> dict[str, tuple[int, str]]:
    return {name[1:]: (version, "superseded") for name, version in versions.items()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture(scope="module")
def four_days(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four days, each with a row of its own (Table 4-4)."""
    store = Store(tmp_path_factory.mktemp("e4"))
    for number, key in enumerate("abcd", start=5):
        store.run(number, keyed(**{key: 1}))
    assert store.versions() == current(d05=1, d06=2, d07=3, d08=4)
    return store


@pytest.fixture
def e4(four_days: Store, store: Store) -> Store:
    """A copy of the four days."""
    shutil.copy(four_days.database, store.database)
    return store


@contextmanager
def refused(store: Store, error: type[Exception], *culprits: str, silent: str = "\0") -> Iterator[None]:
    """The run inside is refused with a class of error that names the culprits, and no row of any table changes."""
    before = store.contents()
    with pytest.raises(error) as caught:
        yield
    for culprit in culprits:
        assert culprit in str(caught.value)
    assert silent not in str(caught.value)
    assert store.contents() == before


# The scenarios ------------------------------------------------------------------------------------------------------

DEVICES = {
    "2024-09-20": [("galaxy-a33", "samsun"), ("iphone-11", "apple"), ("iphone-12", "apple")],
    "2024-09-21": [("galaxy-a33", "samsung"), ("galaxy-a32", "samsung"), ("redmi-note-9", "xiaom")],
    "2024-09-22": [("galaxy-m54", "samsung"), ("iphone-14", "apple"), ("iphone-15", "apple"), ("pixel-6", "google")],
    "2024-09-23": [("redmi-note-9", "xiaomi"), ("galaxy-m32", "samsung")],
    "2024-09-24": [("iphone-se-4", "apple"), ("pixel-7", "google")],
}


def test_sm_1_and_2_the_books_days_and_their_backfill(tmp_path: Path) -> None:
    days = dg.DailyPartitionsDefinition("2024-09-20", end_date="2024-09-25")
    store = Store(tmp_path, days, {"merge_keys": ["id"]})

    def brands() -> dict[str, str]:
        return dict(store.table().select("id", "brand_name").rows())

    def run(date: str) -> None:
        store.run(date, pl.DataFrame(DEVICES[date], schema=["id", "brand_name"], orient="row"))

    for date in DEVICES:
        run(date)
    assert store.versions() == current(d20=1, d21=2, d22=3, d23=4, d24=5)
    last = brands()
    assert len(last) == 12
    assert (last["galaxy-a33"], last["redmi-note-9"]) == ("samsung", "xiaomi")
    run("2024-09-22")
    assert len(brands()) == 9
    assert brands()["redmi-note-9"] == "xiaom"
    assert not {"galaxy-m32", "iphone-se-4", "pixel-7"} & set(brands())
    assert store.versions() == current(d20=1, d21=2, d22=6) | superseded(d23=4, d24=5)
    run("2024-09-23")
    run("2024-09-24")
    assert brands() == last
    assert store.versions() == current(d20=1, d21=2, d22=6, d23=7, d24=8)


def test_sm_3_a_new_day(e4: Store) -> None:
    metadata = e4.run(9, keyed(e=1))
    assert e4.held() == {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}
    assert e4.versions() == current(d05=1, d06=2, d07=3, d08=4, d09=5)
    assert metadata["duckdb/version"] == 5
    assert metadata["dagster/row_count"] == 5
    assert metadata["duckdb/superseded_partitions"] == []
    assert metadata["dagster/table_name"] == "main.devices"
    assert metadata["duckdb/rows_upserted"] == 1


def test_sm_4_replay_of_the_first_day(e4: Store) -> None:
    metadata = e4.run(5, keyed(a=2))
    assert e4.held() == {"a": 2}
    assert e4.versions() == current(d05=5) | superseded(d06=2, d07=3, d08=4)
    assert metadata["duckdb/superseded_partitions"] == [day(6), day(7), day(8)]
    for number, key in ((6, "b"), (7, "c"), (8, "d")):
        e4.run(number, keyed(**{key: 1}))
    assert e4.held() == {"a": 2, "b": 1, "c": 1, "d": 1}
    assert e4.versions() == current(d05=5, d06=6, d07=7, d08=8)


def test_sm_5_to_7_replay_in_the_middle_refusal_of_what_follows_and_the_way_on(e4: Store) -> None:
    e4.run(7, keyed(c=2))
    assert e4.held() == {"a": 1, "b": 1, "c": 2}
    assert e4.versions() == current(d05=1, d06=2, d07=5) | superseded(d08=4)
    with refused(e4, SupersededPartitionsError, "dg launch --assets devices --partition 2024-10-08"):
        e4.run(9, keyed(e=1))
    e4.run(8, keyed(d=1))
    assert e4.held() == {"a": 1, "b": 1, "c": 2, "d": 1}
    assert e4.versions() == current(d05=1, d06=2, d07=5, d08=6)


def test_what_is_superseded_stays_in_the_history(e4: Store) -> None:
    e4.run(6, keyed(b=2))
    kept = e4.table("__history").select("_partition", "k", "v", "_deleted").sort("_partition").rows()
    assert kept == [(day(n), k, v, False) for n, k, v in ((5, "a", 1), (6, "b", 2), (7, "c", 1), (8, "d", 1))]


def test_sm_8_replay_from_the_second_day(e4: Store) -> None:
    e4.run(6, keyed(b=2))
    assert e4.held() == {"a": 1, "b": 2}
    e4.run(7, keyed(c=2))
    assert e4.held() == {"a": 1, "b": 2, "c": 2}
    e4.run(8, keyed(d=1))
    assert e4.held() == {"a": 1, "b": 2, "c": 2, "d": 1}
    assert e4.versions() == current(d05=1, d06=5, d07=6, d08=7)


def test_sm_9_rerun_of_the_latest_day_drops_what_it_has_no_more(e4: Store) -> None:
    e4.run(8, keyed(x=1))
    assert e4.held() == {"a": 1, "b": 1, "c": 1, "x": 1}
    assert e4.versions() == current(d05=1, d06=2, d07=3, d08=5)


def test_sm_15_an_empty_batch_is_a_version_too(store: Store) -> None:
    for number, batch in ((5, keyed(a=1)), (6, keyed()), (7, keyed(c=1))):
        store.run(number, batch)
    assert store.held() == {"a": 1, "c": 1}
    assert store.versions() == current(d05=1, d06=2, d07=3)
    store.run(6, keyed(b=9))
    assert store.versions() == current(d05=1, d06=4) | superseded(d07=3)
    store.run(7, keyed(c=1))
    assert store.held() == {"a": 1, "b": 9, "c": 1}
    assert store.versions() == current(d05=1, d06=4, d07=5)


def test_an_empty_first_batch_makes_the_tables(store: Store) -> None:
    store.run(5, keyed())
    assert store.held() == {}
    store.run(6, keyed(a=1))
    assert store.held() == {"a": 1}


@pytest.mark.parametrize("then", ["retry", "next day"])
def test_sm_16_a_run_that_dies_after_its_commit_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    for number, key in enumerate("abc", start=5):
        store.run(number, keyed(**{key: 1}))
    with monkeypatch.context() as patch:
        patch.setattr(dg.OutputContext, "add_output_metadata", power_cut)
        with pytest.raises(RuntimeError, match="power"):
            store.run(8, keyed(x=1))
    if then == "retry":
        store.run(8, keyed(d=1))
        assert store.held() == {"a": 1, "b": 1, "c": 1, "d": 1}
        assert store.versions() == current(d05=1, d06=2, d07=3, d08=5)
    else:
        store.run(9, keyed(e=1))
        assert store.held() == {"a": 1, "b": 1, "c": 1, "e": 1, "x": 1}


def power_cut(*_: Any) -> None:
    message = "power"
    raise RuntimeError(message)


def test_sm_17_soft_deletes_and_their_backfill(tmp_path: Path) -> None:
    store = Store(tmp_path, metadata=SOFT)
    batches = {
        7: changed(a=1),
        8: changed(a=2, b=1),
        9: changed(gone="b", c=1),
        10: changed(m=1, n=1, o=1),
    }
    states = {7: {"a": 1}, 8: {"a": 2, "b": 1}, 9: {"a": 2, "c": 1}, 10: {"a": 2, "c": 1, "m": 1, "n": 1, "o": 1}}
    for number in (7, 8, 9, 10, 8, 9, 10):
        store.run(number, batches[number])
        assert store.held() == states[number], number
    assert store.versions() == current(d07=1, d08=5, d09=6, d10=7)


def test_sm_18_deletes_insert_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, metadata=SOFT)
    metadata = store.run(5, changed(a=1, gone="z"))
    assert store.held() == {"a": 1}
    assert metadata["duckdb/rows_deleted"] == 1
    store.run(6, changed(gone="ay"))
    assert store.held() == {}
    assert store.versions() == current(d05=1, d06=2)


def test_sm_19_a_hole_is_a_warning(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        dg.DagsterLogManager, "warning", lambda _, text, *given: said.append(text % given), raising=True
    )
    store.run(5, keyed(a=1))
    store.run(7, keyed(c=1))
    assert [text for text in said if "missing" in text] == ["devices: partition(s) '2024-10-06' missing, never merged"]
    assert store.held() == {"a": 1, "c": 1}
    assert store.versions() == current(d05=1, d07=2)
    store.run(6, keyed(b=1))
    assert store.held() == {"a": 1, "b": 1}
    assert store.versions() == current(d05=1, d06=3) | superseded(d07=2)
    store.run(7, keyed(c=1))
    assert store.held() == {"a": 1, "b": 1, "c": 1}
    assert store.versions() == current(d05=1, d06=3, d07=4)


# What a run may be --------------------------------------------------------------------------------------------------


def test_a_range_in_a_single_run_is_merged_day_by_day(tmp_path: Path) -> None:
    rows = [(dt.datetime(2024, 10, number, 12, tzinfo=dt.UTC), "a", number) for number in (8, 6, 7)]
    batch = pl.DataFrame(rows, schema=["at", "k", "v"], orient="row")
    store = Store(tmp_path, metadata={"partition_expr": "at"})
    first = pl.DataFrame({"at": [dt.datetime(2024, 10, 5, tzinfo=dt.UTC)], "k": ["z"], "v": [0]})
    store.run(5, first)
    store.run_range(6, 8, batch)
    assert store.held() == {"a": 8, "z": 0}
    assert store.versions() == current(d05=1, d06=2, d07=3, d08=4)
    assert_same_rows(store.load(partition=day(8)), batch.head(1))
    with refused(store, RowsOutsidePartitionError):
        store.run(9, batch)


def test_a_range_without_a_column_that_divides_it_is_refused(e4: Store) -> None:
    with refused(e4, InvalidMetadataError, "partition_expr"):
        e4.run_range(6, 7, keyed(b=2))


def test_static_partitions_follow_each_other_as_listed(tmp_path: Path) -> None:
    store = Store(tmp_path, dg.StaticPartitionsDefinition(["zeta", "alpha"]))
    store.run("zeta", keyed(a=1))
    store.run("alpha", keyed(a=2))
    store.run("zeta", keyed(a=3))
    assert store.held() == {"a": 3}
    moved = Store(tmp_path, dg.StaticPartitionsDefinition(["alpha", "zeta"]))
    with refused(moved, InvalidMetadataError, "'zeta', 'alpha'"):
        moved.run("alpha", keyed(a=4))


@pytest.mark.parametrize("definition", [None, dg.DynamicPartitionsDefinition(name="tenants")])
def test_partitions_without_order_are_refused(tmp_path: Path, definition: dg.PartitionsDefinition | None) -> None:
    store = Store(tmp_path, definition)
    if definition:
        shared_instance().add_dynamic_partitions("tenants", ["x"])
    with refused(store, InvalidMetadataError, "order"):
        store.run("x" if definition else None, keyed(a=1))
    with pytest.raises(InvalidMetadataError):
        store.manager.refuse_spec(dg.AssetSpec("devices", partitions_def=definition, metadata=store.metadata))


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_every_kind_of_frame_goes_in_and_comes_out(store: Store, kind: type) -> None:
    store.run(5, as_kind(keyed(a=1, b=2), kind))
    assert_same_rows(store.load(kind, day(5)), keyed(a=1, b=2))


def test_types_and_names_come_back_as_they_were(tmp_path: Path) -> None:
    batch = pl.DataFrame(
        {
            'a "quoted" key': pl.Series([1, 2], dtype=pl.Int8),
            "select": [Decimal("1.50"), None],
            "at": [dt.datetime(2024, 3, 10, 7, 30, tzinfo=dt.UTC), None],
            "local": [dt.datetime(2024, 3, 10, 2, 30, 0, 1), None],  # noqa: DTZ001 - a column without zone
            "day": [dt.date(2024, 1, 1), None],
            "bytes": [b"\x00\xff", None],
            "nested": [[{'q"x': 1, "Y": "y"}], None],
            "ratio": pl.Series([0.1, float("nan")], dtype=pl.Float32),
            "flag": [True, None],
        }
    )
    store = Store(tmp_path, metadata={"merge_keys": ['a "quoted" key']}, key=("blog", "order", "select"))
    metadata = store.run(5, batch)
    assert metadata["dagster/table_name"] == "order.select"
    loaded = store.load(partition=day(5))
    assert loaded.schema == batch.schema
    assert_same_rows(loaded, batch)


def test_a_batch_of_many_row_groups_is_all_there(store: Store) -> None:
    """DuckDB 2.0.0 loses rows of a table that is made AS SELECT without rows in the same transaction."""
    many = pl.DataFrame({"k": pl.int_range(300_000, eager=True).cast(pl.String), "v": 1})
    store.run(5, many)
    assert_same_rows(store.table(), many)
    assert store.table("__history").height == many.height


def test_schema_evolution(store: Store) -> None:
    store.run(5, keyed(a=1))
    wider = keyed(b=1).with_columns(w=pl.lit(2.5))
    with refused(store, UnknownColumnError, "'w'"):
        store.run(6, wider)
    evolving = Store(store.folder, metadata={"schema_evolution": "add_columns"})
    evolving.run(6, wider)
    assert evolving.table().sort("k").rows() == [("a", 1, None), ("b", 1, 2.5)]
    with refused(evolving, MissingColumnError, "'w'"):
        evolving.run(7, keyed(c=1))
    with refused(evolving, ChangedTypeError, "'v'"):
        evolving.run(7, wider.with_columns(v=pl.lit("secret")))
    evolving.run(5, keyed(a=3).with_columns(w=None))
    assert evolving.table().rows() == [("a", 3, None)]


def test_names_that_the_tables_use_are_refused(store: Store, tmp_path: Path) -> None:
    for column in ("_partition", "_Position", "_deleted", "_reason", "_run_id"):
        with refused(store, InvalidMetadataError, column):
            store.run(5, keyed(a=1).with_columns(pl.lit(1).alias(column)))
    for name in ("devices__history", "devices__VERSIONS", "devices__quarantine"):
        with pytest.raises(UnsafeAssetKeyError):
            Store(tmp_path, key=(name,)).run(5, keyed(a=1))


def test_what_duckdb_cannot_keep_is_refused(store: Store) -> None:
    for metadata in ({"foreign_commits": "accept"}, {"partition_by": ["k"]}, {"merge_keys": []}):
        with refused(store, InvalidMetadataError, next(iter(metadata))):
            Store(store.folder, metadata=metadata).run(5, keyed(a=1))
    for database in (":memory:", "md:blog", ""):
        with pytest.raises(UnsupportedStorageError):
            Store(store.folder, manager=HistoryMergerIOManager(database=database)).run(5, keyed(a=1))


def test_tables_of_others_are_left_alone(store: Store) -> None:
    store.run(5, keyed(a=1))
    with refused(store, UnsupportedTableError, "'devices'"):
        Store(store.folder, key=("elsewhere", "main", "Devices")).run(5, keyed(b=1))
    with refused(store, InvalidMetadataError, "merge_keys", "'k'", "'v'"):
        Store(store.folder, metadata={"merge_keys": ["v"]}).run(6, keyed(b=1))
    with duckdb.connect(str(store.database), config={"custom_user_agent": "dagster"}) as connection:
        connection.execute("CREATE TABLE users AS SELECT 1 AS k, 2 AS v")
        connection.execute("CREATE VIEW pages AS SELECT 1 AS k, 2 AS v")
    for name in ("users", "pages"):
        with refused(Store(store.folder, key=(name,)), UnsupportedTableError, f"{name}__history"):
            Store(store.folder, key=(name,)).run(5, keyed(b=1))
    with duckdb.connect(str(store.database), config={"custom_user_agent": "dagster"}) as connection:
        connection.execute("DROP TABLE devices__history")
    with refused(store, UnsupportedTableError, "devices__history"):
        store.run(6, keyed(b=1))


# Bad rows -----------------------------------------------------------------------------------------------------------

BAD = pl.DataFrame({"k": ["a", None, "b", "b"], "v": [1, 42, 3, 4]})


def test_bad_rows_are_refused_without_a_word_of_them(store: Store) -> None:
    store.run(5, keyed(z=0))
    with refused(store, NullKeyError, "1 row(s)", "null in k", silent="42"):
        store.run(6, BAD)
    with refused(store, DuplicateKeyError, "2 row(s)", "duplicate k", silent="'b'"):
        store.run(6, BAD.drop_nulls())


def test_bad_rows_are_set_aside_by_partition(tmp_path: Path) -> None:
    store = Store(tmp_path, metadata={"bad_rows": "quarantine"})
    store.run(5, keyed(z=0))
    metadata = store.run(6, BAD)
    assert store.held() == {"a": 1, "z": 0}
    assert metadata["duckdb/rows_quarantined"] == 3
    aside = store.table("__quarantine")
    assert aside.select("v", "_partition").sort("v").rows() == [(3, day(6)), (4, day(6)), (42, day(6))]
    assert aside["_reason"].null_count() == aside["_run_id"].null_count() == 0
    store.run(7, pl.DataFrame({"k": [None], "v": [7]}, schema=BAD.schema))
    store.run(6, BAD.head(1))
    assert store.table("__quarantine").select("v", "_partition").rows() == [(7, day(7))]


def test_a_left_over_table_of_other_types_is_refused_without_a_value(tmp_path: Path) -> None:
    store = Store(tmp_path, metadata={"bad_rows": "quarantine"})
    store.run(5, BAD)
    with duckdb.connect(str(store.database), config={"custom_user_agent": "dagster"}) as connection:
        for suffix in ("", "__history", "__versions"):
            connection.execute(f"DROP TABLE devices{suffix}")
    texts = pl.DataFrame({"k": [None, "a"], "v": ["secret", "x"]}, schema={"k": pl.String, "v": pl.String})
    with refused(store, ChangedTypeError, "'v'", silent="secret"):
        store.run(5, texts)


def test_the_highest_sequence_of_a_batch_wins(tmp_path: Path) -> None:
    store = Store(tmp_path, metadata={"sequence_by": "s"})
    metadata = store.run(5, pl.DataFrame({"k": ["a", "a"], "v": [1, 2], "s": [2, 1]}))
    assert store.held() == {"a": 1}
    assert metadata["duckdb/rows_dropped_duplicates"] == 1


# Inputs -------------------------------------------------------------------------------------------------------------


def test_inputs(e4: Store) -> None:
    last = day(8)
    assert e4.load(partition=last, columns=["v"]).columns == ["v"]
    assert_same_rows(e4.load(partition=last), keyed(a=1, b=1, c=1, d=1))
    with refused(e4, InvalidMetadataError, "'nothing'"):
        e4.load(partition=last, columns=["nothing"])
    with refused(e4, InvalidMetadataError, "table_version"):
        e4.load(partition=last, table_version=3)
    for partition in (day(9), None):  # an asset without partitions asks for all of them
        with refused(e4, MissingPartitionsError, day(9)):
            e4.load(partition=partition)
        assert e4.load(partition=partition, allow_missing_partitions=True).height == 4


def test_a_missing_table_is_an_error_and_a_reader_makes_no_file(store: Store) -> None:
    for partition in (None, day(5)):
        with pytest.raises(MissingTableError):
            store.load(partition=partition)
        assert store.load(partition=partition, allow_missing_partitions=True).is_empty()
    assert not store.database.exists()


# All or nothing, and one at a time ----------------------------------------------------------------------------------

PLACES = [(HistoryTables, "replace_changes"), (HistoryTables, "set_aside"), (module, "_rebuild")]
PLACES += [(HistoryTables, "write_versions")]


@pytest.mark.parametrize("place", PLACES, ids=[name for _, name in PLACES])
@pytest.mark.parametrize("watched", [False, True], ids=["alone", "beside a reader"])
def test_an_error_in_the_middle_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], *, watched: bool
) -> None:
    store = Store(tmp_path, metadata={"bad_rows": "quarantine", "schema_evolution": "add_columns"})
    store.run(5, BAD)
    store.run(6, keyed(b=1))
    real = getattr(*place)

    def dies(*given: Any) -> None:
        real(*given)
        power_cut()

    monkeypatch.setattr(*place, dies)
    reader = duckdb.connect(str(store.database), config={"custom_user_agent": "dagster"}) if watched else None
    with refused(store, RuntimeError, "power"):
        store.run(5, BAD.with_columns(w=pl.lit(1)))
    with refused(Store(tmp_path, key=("new", "devices"), metadata=store.metadata), RuntimeError, "power"):
        Store(tmp_path, key=("new", "devices"), metadata=store.metadata).run(5, BAD)
    if reader:
        reader.close()
    monkeypatch.undo()
    store.run(5, BAD)
    store.run(6, keyed(b=1))
    assert store.held() == {"a": 1, "b": 1}


KILLED = """
import os, signal, sys
import dagster as dg, polars as pl
from pattern_platform.patterns.idempotency import stateful_merger_history as module
from pattern_platform.warehouse.history import HistoryTables
HistoryTables.write_versions = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2024-10-05"), metadata={"merge_keys": ["k"]})
def devices():
    return pl.DataFrame({"k": ["x"], "v": [9]})
manager = module.HistoryMergerIOManager(database=sys.argv[1])
dg.materialize([devices], partition_key="2024-10-06", resources={"io_manager": manager})
"""


def test_a_killed_run_leaves_everything_as_it_was(e4: Store) -> None:
    before = e4.contents()
    died = subprocess.run([sys.executable, "-c", KILLED, str(e4.database)], check=False, capture_output=True)
    assert died.returncode == -9, died.stderr
    assert e4.contents() == before


HOLDING = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


@contextmanager
def held_by_another_process(store: Store) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDING, str(store.database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "held\n"
        yield process
        if not process.stdin.closed:
            process.stdin.close()


def test_a_file_that_another_process_holds(e4: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "WAIT_SECONDS", 0.3)
    with held_by_another_process(e4) as other:
        for act in (lambda: e4.run(9, keyed(e=1)), lambda: e4.load(partition=day(8))):
            with pytest.raises(DatabaseLockedError) as caught:
                act()
            assert caught.value.retryable
            assert str(e4.database) in str(caught.value)
            assert f"PID {other.pid}" in str(caught.value)
    monkeypatch.undo()
    with held_by_another_process(e4) as other:
        assert other.stdin
        threading.Timer(0.3, other.stdin.close).start()
        e4.run(9, keyed(e=1))
    assert e4.held()["e"] == 1


class Turn:
    """A lock that tells when someone has to wait for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.awaited = threading.Event()

    def acquire(self, *, timeout: float) -> bool:
        if self.lock.acquire(blocking=False):
            return True
        self.awaited.set()
        return self.lock.acquire(timeout=timeout)

    def release(self) -> None:
        self.lock.release()


def test_two_threads_write_one_after_the_other(e4: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = Turn()
    monkeypatch.setitem(database_module._turns, database_module.path_of(str(e4.database)), turn)
    begun = threading.Event()
    told: list[object] = []

    def first() -> None:
        with database_module.transaction(str(e4.database)) as connection:
            connection.execute("CREATE TABLE first AS SELECT 1 AS one")
            begun.set()
            told.extend((turn.awaited.wait(timeout=10), "first"))

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    with database_module.transaction(str(e4.database)) as connection:
        told.append("second")
        assert len(connection.table("first")) == 1
    thread.join()
    assert told == [True, "first", "second"]
    monkeypatch.setattr(database_module, "WAIT_SECONDS", 0.1)
    with database_module.transaction(str(e4.database)), pytest.raises(DatabaseLockedError, match="thread"):
        e4.run(9, keyed(e=1))


# Any history --------------------------------------------------------------------------------------------------------

Change = tuple[int, int, bool]  # value, sequence, deleted
Batch = dict[str, Change]


@dataclass
class Model:
    """The table after each partition, kept as versions: merging, not rebuilding."""

    sequenced: bool
    states: dict[int, dict[str, Change]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def refuses(self, partition: int) -> bool:
        return any(
            later in self.order[: self.order.index(earlier)]
            for later in self.order
            for earlier in self.order
            if earlier < later < partition
        )

    def run(self, partition: int, batch: Batch) -> dict[str, int]:
        earlier = [number for number in self.states if number < partition]
        state = dict(self.states[max(earlier)]) if earlier else {}
        for key, change in batch.items():
            if self.sequenced and key in state and change[1] < state[key][1]:
                continue
            state.pop(key, None)
            if not change[2]:
                state[key] = change
        self.states[partition] = state
        self.order = [number for number in self.order if number != partition] + [partition]
        return {key: value for key, (value, _, _) in sorted(state.items())}


def frame(batch: Batch) -> pl.DataFrame:
    rows = [(key, *change) for key, change in batch.items()]
    schema = {"k": pl.String, "v": pl.Int64, "s": pl.Int64, "gone": pl.Boolean}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_every_order_of_changes_to_a_key() -> None:
    """Three thousand keys, each with a history of its own."""
    chance = random.Random(4)
    model = Model(sequenced=True)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), metadata={**SOFT, "sequence_by": "s"})
        for number in (5, 6, 7, 8, 9, 10, 7, 8, 9, 10):
            batch = {
                f"k{key}": (chance.randrange(100), chance.randrange(4), chance.random() < 0.4)
                for key in range(3000)
                if chance.random() < 0.8
            }
            expected = model.run(number, batch)
            store.run(number, frame(batch))
            assert store.held() == expected


QUICK = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)
change = st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans())
batches = st.dictionaries(st.sampled_from("abc"), change, max_size=3)
runs = st.lists(st.tuples(st.integers(5, 9), batches), max_size=7)


@settings(QUICK, max_examples=5)
@given(runs, st.booleans())
def test_any_runs_equal_their_model_and_the_stateful_merger_of_delta_lake(
    steps: list[tuple[int, Batch]],
    sequenced: bool,  # noqa: FBT001
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        metadata = {**SOFT, **({"sequence_by": "s"} if sequenced else {})}
        delta = StatefulMergerIOManager(root_uri=folder)
        stores = [Store(Path(folder), metadata=metadata), Store(Path(folder), metadata=metadata, manager=delta)]
        play(stores, Model(sequenced), steps)


def play(stores: list[Store], model: Model, steps: list[tuple[int, Batch]]) -> None:
    for number, batch in steps:
        if model.refuses(number):
            for store in stores:
                with pytest.raises(SupersededPartitionsError):
                    store.run(number, frame(batch))
            continue
        expected = model.run(number, batch)
        for store in stores:
            store.run(number, frame(batch))
            assert store.held() == expected
