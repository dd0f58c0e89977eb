"""Upkeep, erasure and retention on an object store do what they do on a disk."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from pattern_platform.errors import InvalidErasureError, MissingTableError, RetentionError, UnsupportedTableError
from pattern_platform.lake.erasure import erase_from_table, find_in_table, left_in_table
from pattern_platform.lake.maintenance import checkpoint, compact, orphans, vacuum
from pattern_platform.lake.object_path import ObjectPath, delta_table, storage_options
from pattern_platform.lake.pins import pin, pinned
from pattern_platform.lake.retention import blank_columns
from pattern_platform.lake.snapshot import open_version
from pattern_platform.lake.subject import Subject
from pattern_platform_tests.lake.tables import Table, assert_same_rows
from pattern_platform_tests.lake.test_erasure import KEY, LONG, WHO, visits
from pattern_platform_tests.patterns.idempotency.merging import day, held, keyed, stateful, versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pattern_platform_tests.services.stores import ObjectStore

pytestmark = pytest.mark.xdist_group("stores")
NO_TIME = timedelta(0)
REGIONS = dg.StaticPartitionsDefinition(["a", "b", "c"])
META = {"receipt": "r-1"}


@pytest.fixture
def replayed(object_store: ObjectStore) -> Table:
    """A stateful merger whose middle day was replayed: days 7 and 8 rest on files that the table no longer has."""
    table = stateful(object_store.path, options=object_store.arguments)
    for number, value in ((5, 1), (6, 2), (7, 3), (6, 4)):
        table.write(keyed(a=value, **{f"k{number}": value}), day(number))
    return table


# Upkeep -------------------------------------------------------------------------------------------------------------


def test_a_compaction_changes_no_row_and_a_vacuum_removes_what_it_replaced(object_store: ObjectStore) -> None:
    table = Table(object_store.path, REGIONS, options=object_store.arguments)
    for key in "abc":
        table.write(pl.DataFrame({"moment": [key] * 3, "n": [1, 2, 3]}), key)
    before, files = table.rows(), set(table.handle.file_uris())
    (made,) = compact(table.path)
    assert made.version == table.version == 4
    assert_same_rows(table.rows(), before)
    assert len(table.handle.file_uris()) == 1
    with pytest.raises(RetentionError, match="longest run"):
        vacuum(table.path, retention=NO_TIME, longest_run=timedelta(hours=1))
    assert vacuum(table.path, retention=timedelta(hours=1), longest_run=NO_TIME) == []
    removed = vacuum(table.path, retention=NO_TIME, longest_run=NO_TIME)
    assert {f"{table.path}/{path}" for path in removed} == files
    assert_same_rows(table.rows(), before)
    with pytest.raises(FileNotFoundError):
        table.rows(3)


def test_a_vacuum_keeps_recorded_and_pinned_versions(replayed: Table) -> None:
    recorded = {version: held(replayed, version) for version in versions(replayed).values()}
    first = held(replayed, 1)
    vacuum(replayed.path, retention=NO_TIME, longest_run=NO_TIME)
    assert {version: held(replayed, version) for version in recorded} == recorded
    replayed.write(keyed(a=5, k7=5), day(7))
    assert held(replayed) == {"a": 5, "k5": 1, "k6": 4, "k7": 5}
    pin(replayed.path, [1])
    assert pinned(replayed.path) == [1]
    vacuum(replayed.path, retention=NO_TIME, longest_run=NO_TIME)
    assert held(replayed, 1) == first


def test_a_checkpoint_is_read_and_written_over(replayed: Table) -> None:
    for _ in range(2):
        checkpoint(replayed.path)
    hint = json.loads((replayed.path / "_delta_log/_last_checkpoint").read_text())
    assert hint["version"] == replayed.version
    (replayed.path / f"_delta_log/{0:020}.json").unlink()  # only the checkpoint knows the first commit now
    assert held(replayed) == {"a": 4, "k5": 1, "k6": 4}


def test_orphans_are_what_no_version_names(replayed: Table) -> None:
    assert orphans(replayed.path, older_than=NO_TIME).is_empty()
    (replayed.path / "part-dead.parquet").put(b"dead")
    (found,) = orphans(replayed.path, older_than=NO_TIME).rows(named=True)
    assert (found["path"], found["size_bytes"]) == ("part-dead.parquet", 4)
    assert orphans(replayed.path, older_than=timedelta(hours=1)).is_empty()


# Erasure and retention ----------------------------------------------------------------------------------------------


def appended(table: Any, rows: pl.DataFrame) -> None:
    write_deltalake(str(table), rows, mode="append", storage_options=storage_options(table))


def history(table: Any) -> dict[int, list[Any]]:
    newest = delta_table(table).version()
    return {v: pl.DataFrame(delta_table(table, v).to_pyarrow_table()).rows() for v in range(newest + 1)}


def filled(table: Any) -> Any:
    """A table of another engine: appends, a delete, a checkpoint, a restore; the person in versions 0 to 5."""
    for users in (("a", LONG, "b"), ("c", LONG), ("d", "e")):
        appended(table, visits(*users))
    delta_table(table).delete("user_id = 'c'")
    delta_table(table).create_checkpoint()
    appended(table, visits("f", LONG))
    delta_table(table).restore(1)
    return table


def test_a_person_is_erased_as_on_a_disk(object_store: ObjectStore, tmp_path: Path) -> None:
    here, there = filled(tmp_path / "visits"), filled(object_store.path / "visits")
    before = history(there)
    assert left_in_table(there, WHO)
    dry = [find_in_table(table, WHO) for table in (here, there)]
    done = [erase_from_table(table, WHO, metadata=META) for table in (here, there)]
    for on_disk, on_store in (dry, done):
        assert (on_disk.rows, on_disk.versions, on_disk.files) == (on_store.rows, on_store.versions, on_store.files)
        assert on_disk.log_files == on_store.log_files
    assert left_in_table(there, WHO) == []
    after = history(there)
    assert after == history(here)
    for version, rows in before.items():
        assert after[version] == [row for row in rows if LONG not in row]
        assert int(open_version(there, version).files["num_records"].sum()) == len(after[version])
        scanned = pl.scan_delta(str(there), version=version, storage_options=object_store.options).collect()
        assert scanned.rows() == after[version]
    assert not any(LONG in file.read_bytes().decode(errors="replace") for file in _all(there))
    assert erase_from_table(there, WHO, metadata=META).files == 0


def _all(table: ObjectPath) -> list[ObjectPath]:
    return [table / path for path in table.objects()]


def test_a_replay_brings_nobody_back(object_store: ObjectStore) -> None:
    table = stateful(object_store.path, options=object_store.arguments)
    for number in (5, 6, 7):
        table.write(keyed(erased=number, kept=number), day(number))
    done = erase_from_table(table.path, KEY, metadata=META)
    assert done.rows == 1
    assert left_in_table(table.path, KEY) == []
    table.write(keyed(other=1), day(6))
    assert held(table) == {"kept": 5, "other": 1}
    assert left_in_table(table.path, KEY) == []


PLANTED: list[tuple[str, Callable[[ObjectPath], object]]] = [
    ("part-x.parquet", lambda file: file.put(b"PAR1")),
    ("notes.txt", lambda file: file.put(f"user {LONG} called".encode())),
    (f"user_id={LONG}/part-x.parquet", lambda file: file.put(b"PAR1")),
    ("_delta_log/_commit_x.json.tmp", lambda file: file.put(LONG.encode())),
]


@pytest.mark.parametrize(("name", "plant"), PLANTED)
def test_control_what_is_planted_is_found(
    object_store: ObjectStore, name: str, plant: Callable[[ObjectPath], object]
) -> None:
    table = object_store.path / "visits"
    appended(table, visits("a"))
    assert left_in_table(table, WHO) == []
    plant(table / name)
    assert left_in_table(table, WHO) == [name]


def _lost(table: Any) -> None:
    ObjectPath(delta_table(table).file_uris()[0], table.options).unlink()


def _feed(table: Any) -> None:
    delta_table(table).alter.set_table_properties({"delta.enableChangeDataFeed": "true"})


@pytest.mark.parametrize(
    ("spoil", "error", "mend"),
    [
        (lambda table: (table / f"_delta_log/{0:020}.json").unlink(), MissingTableError, "give the folder of a table"),
        (_lost, InvalidErasureError, "from a backup, or materialize its partition again"),
        (_feed, UnsupportedTableError, "write it with the engine that made it"),
    ],
)
def test_what_cannot_be_erased_from_is_refused_untouched(
    object_store: ObjectStore, spoil: Callable[[Any], object], error: type[Exception], mend: str
) -> None:
    table = object_store.path / "visits"
    appended(table, visits("a", LONG))
    spoil(table)
    before = table.objects()
    with pytest.raises(error, match=mend):
        erase_from_table(table, WHO, metadata=META)
    assert table.objects() == before


def test_columns_are_blanked_in_every_version(object_store: ObjectStore) -> None:
    table = object_store.path / "visits"
    for users in (("a", "b"), ("c",)):
        appended(table, visits(*users))
    made = blank_columns(table, ["user_id"], pl.col("n") == 0, {"payload": ["user.user_id"]}, metadata=META)
    assert made
    assert made.version == DeltaTable(str(table), storage_options=object_store.options).version()
    for rows, users in zip(history(table).values(), ([None, "b"], [None, "b", None], [None, "b", None]), strict=True):
        assert sorted(map(repr, (row[0] for row in rows))) == sorted(map(repr, users))
    assert blank_columns(table, ["user_id"], pl.col("n") == 0, {"payload": ["user.user_id"]}, metadata=META) is None
    assert left_in_table(table, Subject("a", ("user_id",))) == []
