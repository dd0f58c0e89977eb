"""The Delta IO managers on an object store, through Dagster; what a table holds is asked of delta-rs and Polars."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pattern_platform import MergerIOManager, StatefulMergerIOManager, read_version_table
from pattern_platform.errors import (
    MissingPartitionsError,
    MissingTableError,
    RowsOutsidePartitionError,
    SupersededPartitionsError,
    UnsupportedStorageError,
)
from pattern_platform.patterns.idempotency.transactional_writer_delta import TransactionalAppendIOManager
from pattern_platform_tests.lake.tables import Table, assert_same_rows
from pattern_platform_tests.patterns.idempotency.merging import (
    changed,
    day,
    held,
    keyed,
    merger,
    quarantine,
    stateful,
    stored_versions,
    versions,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pattern_platform_tests.services.stores import ObjectStore

pytestmark = pytest.mark.xdist_group("stores")  # one server for all of them
REGIONS = dg.StaticPartitionsDefinition(["a", "b", "c"])
DAYS = dg.DailyPartitionsDefinition("2024-10-05", end_date="2024-10-15")


def on(store: ObjectStore, **options: Any) -> dict[str, Any]:
    """A table of a store rather than of a folder, as arguments of `Table`."""
    return {"root": store.path, "options": {**store.arguments, **options}}


def rows(key: str, *n: int, **columns: object) -> pl.DataFrame:
    return pl.DataFrame({"moment": [key] * len(n), "n": n}, schema_overrides={"n": pl.Int64}).with_columns(**columns)


def content(table: Table) -> list[tuple[Any, ...]]:
    """The rows as delta-rs reads them; Polars reads the same."""
    found = table.rows()
    scanned = pl.scan_delta(str(table.path), storage_options=table.handle._storage_options).collect()
    assert_same_rows(found, scanned)
    return sorted(found.select(sorted(found.columns, reverse=True)).rows(), key=repr)


# Overwrite ----------------------------------------------------------------------------------------------------------


def test_a_partition_is_replaced_and_the_others_stay(object_store: ObjectStore) -> None:
    table = Table(definition=REGIONS, **on(object_store), key=("region", "table"))
    assert table.write(rows("a", 1, 2), "a").version == 1
    assert table.write(rows("b", 3), "b").metadata["dagster/uri"] == f"{object_store.root}/region/table"
    assert table.write(rows("a", 4), "a").version == 3
    assert content(table) == [(3, "b"), (4, "a")]
    assert sorted(table.rows(2)["n"]) == [1, 2, 3]


def test_physical_partitions_lazy_frames_and_a_range_in_one_run(object_store: ObjectStore) -> None:
    table = Table(definition=REGIONS, metadata={"partition_by": ["moment"]}, **on(object_store))
    table.write(rows("b", 9).lazy(), "b")
    batch = pl.concat([rows("a", 1), rows("b", 2), rows("c", 3, 4)])
    assert table.write_range(batch.lazy(), "a", "c").metadata["delta/rows_inserted"] == 4
    assert content(table) == [(1, "a"), (2, "b"), (3, "c"), (4, "c")]
    assert {uri.split("/")[-2] for uri in table.handle.file_uris()} == {"moment=a", "moment=b", "moment=c"}
    assert table.handle.version() == 2


def test_columns_are_added_and_properties_brought_in_line(object_store: ObjectStore) -> None:
    table = Table(definition=REGIONS, **on(object_store))
    table.write(rows("a", 1), "a")
    wider = table.with_(
        metadata={"schema_evolution": "add_columns"},
        options={**table.options, "table_properties": {"delta.checkpointInterval": "3"}},
    )
    wider.write(rows("b", 2, extra=pl.lit("x")), "b")
    assert content(table) == [(1, "a", None), (2, "b", "x")]
    assert table.handle.metadata().configuration["delta.checkpointInterval"] == "3"
    for n in range(4):
        wider.write(rows("c", n, extra=pl.lit("y")), "c")
    names = {path.name for path in (table.path / "_delta_log").iterdir()}
    assert {f"{table.version // 3 * 3:020}.checkpoint.parquet", "_last_checkpoint"} <= names
    assert content(table)[-1] == (3, "c", "y")


def test_a_refused_batch_leaves_nothing(object_store: ObjectStore) -> None:
    table = Table(definition=REGIONS, **on(object_store))
    table.write(rows("a", 1), "a")
    before = table.path.objects().keys()
    for batch in (rows("b", 1), rows("b", 1).lazy()):
        with pytest.raises(RowsOutsidePartitionError):
            table.write(batch, "a")
    assert table.path.objects().keys() == before


# Inputs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pl.DataFrame, pl.LazyFrame])
def test_an_input_is_its_partitions_columns_and_version(object_store: ObjectStore, kind: type) -> None:
    table = Table(definition=REGIONS, **on(object_store))
    table.write(rows("a", 1), "a")
    table.write(rows("b", 2), "b")
    table.write(rows("a", 3), "a")
    load = {"kind": kind, "definition": REGIONS}
    assert table.load("a", **load).rows() == [("a", 3)]
    assert table.load("a", columns=["n"], **load).rows() == [(3,)]
    assert table.load("a", table_version=2, **load).rows() == [("a", 1)]
    with pytest.raises(MissingPartitionsError, match="never written: 'c'"):
        table.load("c", **load)
    assert table.load("c", allow_missing_partitions=True, **load).rows() == []


def test_an_input_without_a_table_is_refused(object_store: ObjectStore) -> None:
    table = Table(definition=REGIONS, **on(object_store))
    with pytest.raises(MissingTableError, match="materialize 'table' first"):
        table.load("a", definition=REGIONS)
    assert table.load("a", definition=REGIONS, allow_missing_partitions=True).rows() == []


# Mergers ------------------------------------------------------------------------------------------------------------


def test_a_merge_and_its_quarantine(object_store: ObjectStore) -> None:
    table = merger(definition=DAYS, metadata={"soft_delete": "gone", "bad_rows": "quarantine"}, **on(object_store))
    table.write(changed(a=1, b=2), day(5))
    bad = pl.concat([changed(b=3, c=4, gone=["a"]), changed(b=9)])
    written = table.write(bad, day(6))
    assert held(table) == {"b": 2, "c": 4}
    assert written.metadata["delta/rows_quarantined"] == quarantine(table).height == 2
    assert set(quarantine(table)["_partition"]) == {day(6)}
    table.write(changed(b=3, gone=["a"]), day(6))
    assert quarantine(table).is_empty()
    assert held(table) == {"b": 3, "c": 4}


def test_a_replay_of_a_middle_partition_and_the_version_table(object_store: ObjectStore) -> None:
    table = stateful(**on(object_store))
    made = [table.write(keyed(a=n, **{f"k{n}": n}), day(n)).version for n in (5, 6, 7)]
    assert versions(table) == {f"10-{n:02}": version for n, version in zip((5, 6, 7), made, strict=True)}
    assert stored_versions(table) == dict(zip(map(day, (5, 6, 7)), made, strict=True))
    again = table.write(keyed(a=60), day(6)).version
    assert held(table) == {"a": 60, "k5": 5}
    assert versions(table) == {"10-05": made[0], "10-06": again, "10-07*": made[2]}
    with pytest.raises(SupersededPartitionsError, match=f"--partition {day(7)}"):
        table.write(keyed(a=8), day(8))
    with pytest.raises(SupersededPartitionsError):
        table.load(day(7), definition=DAYS)
    table.write(keyed(a=7, k7=7), day(7))
    assert held(table) == {"a": 7, "k5": 5, "k7": 7}
    assert held(table, made[2]) == {"a": 7, "k5": 5, "k6": 6, "k7": 7}


def test_a_version_table_asks_for_the_storage_that_it_is_on(object_store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedStorageError, match="S3Config"):
        read_version_table(f"{object_store.root}/table")
    with pytest.raises(UnsupportedStorageError, match="give a folder without storage"):
        read_version_table(str(tmp_path), object_store.options)
    with pytest.raises(MissingTableError, match="materialize its first partition"):
        read_version_table(f"{object_store.root}/table", object_store.options)


def test_a_partition_is_appended_once(object_store: ObjectStore) -> None:
    table = Table(definition=REGIONS, io_manager=TransactionalAppendIOManager, **on(object_store))
    first = table.write(rows("a", 1), "a")
    again = table.write(rows("a", 2), "a")
    table.write(rows("b", 3), "b")
    assert again.version == first.version
    assert content(table) == [(1, "a"), (3, "b")]


# The same on either storage -----------------------------------------------------------------------------------------

KINDS = {"overwrite": None, "merger": MergerIOManager, "stateful": StatefulMergerIOManager}
_KEYS = st.sampled_from(["a", "b", "c", "d"])
_BATCH = st.dictionaries(_KEYS, st.integers(0, 99), max_size=3)


def _made(kind: str, root: Any, options: dict[str, Any]) -> Table:
    if kind == "overwrite":
        return Table(root, definition=DAYS, partition_expr="day", options=options)
    return merger(root, io_manager=KINDS[kind], definition=DAYS, options=options)


def _written(table: Table, number: int, batch: dict[str, int]) -> object:
    """What became of a write: its metadata but for what differs, or the refusal."""
    frame = keyed(**batch)
    if table.io_manager not in KINDS.values():
        frame = frame.with_columns(day=pl.lit(dt.date(2024, 10, number)))
    try:
        written = table.write(frame, day(number))
    except SupersededPartitionsError as error:
        return error.mend
    return {name: value for name, value in written.metadata.items() if name.startswith("delta/")}


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    writes=st.lists(st.tuples(st.integers(5, 8), _BATCH), min_size=3, max_size=5),
)
@pytest.mark.parametrize("turn", [1, 2])
def test_a_table_is_the_same_on_disk_and_on_an_object_store(
    tmp_path_factory: pytest.TempPathFactory,
    object_store: ObjectStore,
    kind: str,
    writes: list[tuple[int, dict[str, int]]],
    turn: int,
) -> None:
    fresh = object_store.fresh()
    here, there = _made(kind, tmp_path_factory.mktemp(f"here{turn}"), {}), _made(kind, fresh.path, fresh.arguments)
    for number, batch in writes:
        assert _written(here, number, batch) == _written(there, number, batch)
    assert here.version == there.version
    for version in range(here.version + 1):
        assert_same_rows(here.rows(version), there.rows(version))
    if kind == "stateful":
        assert versions(here) == versions(there)
        assert stored_versions(here) == stored_versions(there)
