"""Commits at their hardest moments: the lock is held, the outcome is unknown, the disk fails half way."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import dagster as dg
import filelock
import polars as pl
import pytest
from deltalake import DeltaTable, Field
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.schema import PrimitiveType

from pattern_platform.errors import CommitConflictError, TableLockedError
from pattern_platform.lake import commit as commit_module
from pattern_platform.lake import lock as lock_module
from pattern_platform.lake.lock import table_lock
from pattern_platform_tests.lake.tables import Table, assert_same_rows, copied, data_files, live_files

if TYPE_CHECKING:
    from pathlib import Path

DEFINITION = dg.StaticPartitionsDefinition(["a", "b"])


def rows(key: str, *values: int) -> pl.DataFrame:
    return pl.DataFrame({"moment": [key] * len(values), "n": values})


@pytest.fixture(scope="module")
def two_keys(tmp_path_factory: pytest.TempPathFactory) -> Table:
    table = Table(tmp_path_factory.mktemp("keys"), DEFINITION)
    table.write(rows("a", 1), "a")
    table.write(rows("b", 2), "b")
    return table


@pytest.fixture
def table(tmp_path: Path, two_keys: Table) -> Table:
    return copied(two_keys, tmp_path)


def fail_commit(monkeypatch: pytest.MonkeyPatch, error: BaseException, *, landed: bool, times: int = 1) -> None:
    """Have commits end in an error, before or after they are part of the table."""
    real = DeltaTable.create_write_transaction
    failed: list[int] = []

    def commit(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
        failed.append(1)
        if len(failed) > times:
            real(self, *args, **kwargs)
            return
        if landed:
            real(self, *args, **kwargs)
        raise error

    monkeypatch.setattr(DeltaTable, "create_write_transaction", commit)


ERRORS = [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(1), MemoryError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_an_error_before_the_commit_leaves_nothing_behind(
    table: Table, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before, on_disk = table.rows(), data_files(table)
    fail_commit(monkeypatch, error, landed=False)
    with pytest.raises(BaseException, match=r".*"):
        table.write(rows("a", 10), "a")
    assert data_files(table) == on_disk
    assert_same_rows(table.rows(), before)
    table.write(rows("a", 10), "a")
    assert_same_rows(table.rows(), pl.concat([rows("a", 10), rows("b", 2)]))


def test_an_error_of_the_storage_after_the_commit_is_none(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says that the commit landed, whatever the storage said last."""
    fail_commit(monkeypatch, OSError(28, "No space left on device"), landed=True)
    assert table.write(rows("a", 10), "a").version == table.version
    assert_same_rows(table.rows(), pl.concat([rows("a", 10), rows("b", 2)]))


@pytest.mark.parametrize("error", ERRORS[1:], ids=lambda e: type(e).__name__)
def test_an_error_after_the_commit_removes_no_live_file(
    table: Table, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    fail_commit(monkeypatch, error, landed=True)
    with pytest.raises(BaseException, match=r".*"):
        table.write(rows("a", 10), "a")
    assert live_files(table) <= data_files(table)
    assert_same_rows(table.rows(), pl.concat([rows("a", 10), rows("b", 2)]))
    table.write(rows("a", 11), "a")
    assert_same_rows(table.rows(), pl.concat([rows("a", 11), rows("b", 2)]))


@pytest.mark.parametrize("key", ["a", "b"])
def test_a_conflict_that_was_none_is_not_committed_twice(
    table: Table, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """The log says that the commit landed; the engine says that it failed."""
    fail_commit(monkeypatch, CommitFailedError("failed"), landed=True)
    with contextlib.suppress(Exception):
        table.write(rows(key, 10, 11), key)
    other = rows("b", 2) if key == "a" else rows("a", 1)
    assert live_files(table) <= data_files(table), "files of the table were removed"
    assert_same_rows(table.rows(), pl.concat([rows(key, 10, 11), other]))
    assert table.version == 3


def test_a_conflict_is_planned_again(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_commit(monkeypatch, CommitFailedError("failed"), landed=False, times=2)
    assert table.write(rows("a", 10), "a").version == 3
    assert_same_rows(table.rows(), pl.concat([rows("a", 10), rows("b", 2)]))


def test_conflicts_without_end_are_given_up(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before, on_disk = table.rows(), data_files(table)
    monkeypatch.setattr(commit_module, "_MOST_ATTEMPTS", 3)
    fail_commit(monkeypatch, CommitFailedError("failed"), landed=False, times=99)
    with pytest.raises(CommitConflictError, match="3 times"):
        table.write(rows("a", 10), "a")
    assert data_files(table) == on_disk
    assert_same_rows(table.rows(), before)


def test_a_rewrite_that_fails_keeps_the_rows_of_the_neighbours(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.handle.optimize.compact()
    on_disk = data_files(table)
    fail_commit(monkeypatch, OSError("disk"), landed=False)
    with pytest.raises(OSError, match="disk"):
        table.write(rows("a", 10), "a")
    assert data_files(table) == on_disk
    assert_same_rows(table.rows(), pl.concat([rows("a", 1), rows("b", 2)]))


def test_a_plan_that_fails_leaves_nothing_behind(table: Table) -> None:
    """The file that has to be rewritten is gone, as after a vacuum of another engine that went too far."""
    table.handle.optimize.compact()
    for name in live_files(table):
        (table.path / name).unlink()
    on_disk = data_files(table)
    with pytest.raises(FileNotFoundError):
        table.write(rows("a", 10), "a")
    assert data_files(table) == on_disk


def test_rewritten_files_of_a_lost_race_are_removed(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.handle.optimize.compact()
    real = DeltaTable.create_write_transaction

    def lose(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(DeltaTable, "create_write_transaction", real)
        DeltaTable(table.path).update(updates={"n": "n + 100"}, predicate="moment = 'b'")
        real(self, *args, **kwargs)

    before = data_files(table)
    monkeypatch.setattr(DeltaTable, "create_write_transaction", lose)
    table.write(rows("a", 10), "a")
    assert_same_rows(table.rows(), pl.concat([rows("a", 10), rows("b", 102)]))
    updated = 1
    assert len(data_files(table) - before) == updated + len(live_files(table))


def test_a_schema_that_changed_on_the_way_is_a_conflict(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = commit_module.table_lock

    def late(path: Path) -> Any:
        monkeypatch.setattr(commit_module, "table_lock", lock)
        DeltaTable(path).alter.add_columns([Field("late", PrimitiveType("string"))])
        return lock(path)

    monkeypatch.setattr(commit_module, "table_lock", late)
    on_disk = data_files(table)
    with pytest.raises(CommitConflictError, match="another writer"):
        table.write(rows("a", 10), "a")
    assert data_files(table) == on_disk


def test_a_lock_that_is_not_released(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "_LOCK_SECONDS", 0.05)
    on_disk, version = data_files(table), table.version
    with filelock.FileLock(table.path / lock_module._LOCK_FILE), pytest.raises(TableLockedError, match="'table'"):
        table.write(rows("a", 10), "a")
    assert (data_files(table), table.version) == (on_disk, version)
    assert TableLockedError.retryable
    table.write(rows("a", 10), "a")


def test_the_lock_admits_one_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def enter() -> None:
        for _ in range(20):
            with table_lock(tmp_path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_readers_do_not_need_the_lock(table: Table) -> None:
    with table_lock(table.path):
        assert_same_rows(table.load("a", definition=DEFINITION), rows("a", 1))


def test_a_lock_error_of_the_commit_is_not_taken_for_a_timeout(table: Table) -> None:
    def fail() -> None:
        with table_lock(table.path):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()


@pytest.mark.parametrize("durability", ["engine", "fsync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DeltaError("no checkpoint")], ids=repr)
def test_a_failing_checkpoint_fails_no_write(
    table: Table, monkeypatch: pytest.MonkeyPatch, durability: str, error: Exception
) -> None:
    def fail(_: DeltaTable) -> None:
        raise error

    monkeypatch.setattr(DeltaTable, "create_checkpoint", fail)
    options = {"durability": durability, "table_properties": {"delta.checkpointInterval": "1"}}
    table.with_(options=options).write(rows("a", 10), "a")
    assert_same_rows(table.rows(), pl.concat([rows("a", 10), rows("b", 2)]))


def test_a_log_cleaned_up_to_its_checkpoint_is_written_on(table: Table) -> None:
    table.handle.create_checkpoint()
    for version in range(table.version):
        (table.path / "_delta_log" / f"{version:020}.json").unlink()
    assert_same_rows(table.load("a", definition=DEFINITION), rows("a", 1))
    assert table.write(rows("a", 10), "a").version == 3
    assert_same_rows(table.rows(), pl.concat([rows("a", 10), rows("b", 2)]))
