"""Data Overwrite, scenario by scenario: the devices of four days, their reruns, crashes, races and the vacuum."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from pattern_platform.lake import commit as commit_module
from pattern_platform.lake import snapshot as snapshot_module
from pattern_platform_tests.lake.tables import (
    Table,
    Written,
    assert_same_rows,
    contents,
    copied,
    data_files,
    live_files,
    shared_instance,
    union,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UNCOMPARED = ("dagster/column_schema", "cost/")  # compared in a test of its own, and in lake/test_cost.py
DAYS = dg.DailyPartitionsDefinition(start_date="2024-09-20", end_date="2024-09-24")
DEVICES = {
    "2024-09-20": [("galaxy-a33", "samsung", "Galaxy A33", "Exynos"), ("iphone-13", "apple", "iPhone 13", "A15")],
    "2024-09-21": [
        ("htc-evo", "htc", "Evo 3d", "Qualcomm"),
        ("pixel-7", "google", "Pixel 7", "Tensor"),
        ("redmi-note-9", "xiaomi", "Redmi Note 9", "MediaTek"),
        ("mac-air", "apple", "MacBook Air (M1, 2020)", "M1"),
    ],
    "2024-09-22": [("galaxy-", "samsung", "Galaxy M54", "Exynos"), ("iphone-", "apple", "iPhone 14", "A15")],
    "2024-09-23": [
        ("galaxy-m32", "samsung", "Galaxy M32", "Helio"),
        ("iphone-se-4", "apple", "iPhone SE 4", "A18"),
        ("lenovo-k14", "lenovo", "K14", "Unisoc"),
    ],
}
FIXED_22 = [("galaxy-m54", "samsung", "Galaxy M54", "Exynos"), ("iphone-14", "apple", "iPhone 14", "A15")]
FOUR_DAYS = {day: len(rows) for day, rows in DEVICES.items()}


def devices(day: str, rows: list[tuple[str, ...]] | None = None) -> pl.DataFrame:
    """The file of a day, as the asset returns it."""
    columns = dict.fromkeys(("id", "brand_name", "full_name", "processor_brand"), pl.String)
    frame = pl.DataFrame(DEVICES[day] if rows is None else rows, schema=columns, orient="row")
    return frame.with_columns(execution_time=pl.lit(day).str.to_date())


def devices_table(root: Path, **changes: Any) -> Table:
    return Table(root, DAYS, "execution_time", key=("devices",), **changes)


@pytest.fixture(scope="module")
def four_days(tmp_path_factory: pytest.TempPathFactory) -> Table:
    table = devices_table(tmp_path_factory.mktemp("days"))
    for day in DEVICES:
        table.write(devices(day), day)
    return table


@pytest.fixture
def table(tmp_path: Path, four_days: Table) -> Table:
    """DO-1: four days, one after another."""
    return copied(four_days, tmp_path)


def rows_of_days(table: Table) -> dict[str, int]:
    counts = table.rows().group_by(pl.col("execution_time").dt.to_string()).len()
    return dict(sorted(counts.iter_rows()))


def expected(**changed: list[tuple[str, ...]]) -> pl.DataFrame:
    """The eleven rows, where some days are of other rows: ``day22=...``."""
    by_day = {f"2024-09-{name.removeprefix('day')}": rows for name, rows in changed.items()}
    return union({day: devices(day, by_day.get(day)) for day in DEVICES})


def commits_of_data(table: Table) -> int:
    return sum(entry["operation"] == "WRITE" for entry in table.handle.history())


# The scenarios ------------------------------------------------------------------------------------------------------


def test_do_1_four_days_make_eleven_rows(table: Table) -> None:
    assert rows_of_days(table) == FOUR_DAYS
    assert_same_rows(table.rows(), expected())
    assert commits_of_data(table) == table.version == 4


def test_do_2_a_corrected_day_replaces_that_day_alone(table: Table) -> None:
    written = table.write(devices("2024-09-22", FIXED_22), "2024-09-22")
    assert written.version == table.version == 5
    assert_same_rows(table.rows(), expected(day22=FIXED_22))
    assert table.rows().height == 11


def test_do_2_untouched_days_keep_their_very_files(table: Table) -> None:
    before = live_files(table)
    written = table.write(devices("2024-09-22", FIXED_22), "2024-09-22")
    assert len(before & live_files(table)) == 3
    assert written.metadata["delta/files_removed"] == written.metadata["delta/files_added"] == 1


def test_do_3_unchanged_reruns_change_nothing_but_the_version(table: Table) -> None:
    for version in (5, 6, 7):
        assert table.write(devices("2024-09-22"), "2024-09-22").version == version
        assert_same_rows(table.rows(), expected())


def test_do_4_an_empty_file_empties_its_day(table: Table) -> None:
    written = table.write(devices("2024-09-22", []), "2024-09-22")
    assert written.version == table.version == 5
    assert rows_of_days(table) == {day: n for day, n in FOUR_DAYS.items() if day != "2024-09-22"}
    assert table.rows().height == 9
    assert written.metadata["dagster/partition_row_count"] == 0
    assert written.metadata["delta/rows_deleted"] == 2


def test_do_5_what_a_run_tells_dagster(table: Table) -> None:
    metadata = table.write(devices("2024-09-22", FIXED_22[:1]), "2024-09-22").metadata
    told = {name: value for name, value in metadata.items() if not name.startswith(UNCOMPARED)}
    assert told == {
        "dagster/table_name": "devices",
        "dagster/uri": str(table.path),
        "dagster/partition_row_count": 1,
        "delta/version": 5,
        "delta/rows_inserted": 1,
        "delta/rows_deleted": 2,
        "delta/files_added": 1,
        "delta/files_removed": 1,
    }
    columns = [column.name for column in metadata["dagster/column_schema"].columns]
    assert columns == ["id", "brand_name", "full_name", "processor_brand", "execution_time"]


def test_do_5_the_commit_names_its_pattern_partition_and_run(table: Table) -> None:
    commit = table.handle.history(1)[0]
    assert commit["pattern_platform.pattern"] == "data_overwrite"
    assert "2024-09-23" in str(commit["pattern_platform.partition_keys"])
    assert len(commit["pattern_platform.run_id"]) == 36


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from deltalake import DeltaTable
from pattern_platform_tests.patterns.idempotency.test_data_overwrite import devices, devices_table
DeltaTable.create_write_transaction = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
devices_table(Path(sys.argv[1])).write(devices("2024-09-22"), "2024-09-22")
"""


def test_do_6_a_writer_killed_before_its_commit_leaves_an_orphan_and_no_more(table: Table) -> None:
    live, rows = live_files(table), table.rows()
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(table.root)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert table.version == 4
    assert_same_rows(table.rows(), rows)
    assert_same_rows(table.load(definition=None), rows)
    orphans = data_files(table) - live
    assert len(orphans) == 1
    assert table.write(devices("2024-09-22"), "2024-09-22").version == 5  # the kernel released the lock
    assert_same_rows(table.rows(), expected())
    assert not orphans & live_files(table)


def test_do_6_a_first_writer_killed_leaves_a_table_that_the_retry_fills(tmp_path: Path) -> None:
    table = devices_table(tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    table.write(devices("2024-09-22"), "2024-09-22")
    assert_same_rows(table.rows(), devices("2024-09-22"))


def test_do_8_a_vacuum_keeps_what_is_live(table: Table) -> None:
    for _ in range(5):
        table.write(devices("2024-09-22"), "2024-09-22")
    live, dead = live_files(table), data_files(table) - live_files(table)
    assert len(dead) == 5
    table.handle.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert data_files(table) == live
    assert_same_rows(table.rows(), expected())
    assert_same_rows(table.load(definition=None), expected())
    with pytest.raises(FileNotFoundError):
        table.rows(version=4)
    table.write(devices("2024-09-22", FIXED_22), "2024-09-22")
    assert_same_rows(table.rows(), expected(day22=FIXED_22))


def test_do_8_a_full_vacuum_removes_orphans_and_leaves_the_lock_file(table: Table) -> None:
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(table.root)], check=False, capture_output=True)
    table.handle.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    assert data_files(table) == live_files(table)
    assert_same_rows(table.rows(), expected())


# DO-7: races --------------------------------------------------------------------------------------------------------


@pytest.fixture
def between_plan_and_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something happen once, when the next platform write has planned and is about to take the lock."""

    def arrange(happening: Callable[[], object]) -> None:
        lock = commit_module.table_lock

        @contextmanager
        def late_lock(path: Path) -> Iterator[None]:
            monkeypatch.setattr(commit_module, "table_lock", lock)
            happening()
            with lock(path):
                yield

        monkeypatch.setattr(commit_module, "table_lock", late_lock)

    return arrange


@pytest.fixture
def between_lock_and_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have a writer that knows no lock commit once, after the next platform write opened the table under its lock."""

    def arrange(happening: Callable[[], object]) -> None:
        real = DeltaTable.create_write_transaction

        def late(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
            monkeypatch.setattr(DeltaTable, "create_write_transaction", real)
            happening()
            real(self, *args, **kwargs)

        monkeypatch.setattr(DeltaTable, "create_write_transaction", late)

    return arrange


def test_do_7_another_day_committed_first(table: Table, between_plan_and_commit: Callable[..., None]) -> None:
    between_plan_and_commit(lambda: table.write(devices("2024-09-21", DEVICES["2024-09-21"][:1]), "2024-09-21"))
    written = table.write(devices("2024-09-22", FIXED_22), "2024-09-22")
    assert written.version == table.version == 6
    assert_same_rows(table.rows(), expected(day21=DEVICES["2024-09-21"][:1], day22=FIXED_22))


def test_do_7_the_same_day_committed_first(table: Table, between_plan_and_commit: Callable[..., None]) -> None:
    between_plan_and_commit(lambda: table.write(devices("2024-09-22", DEVICES["2024-09-21"]), "2024-09-22"))
    written = table.write(devices("2024-09-22", FIXED_22), "2024-09-22")
    assert written.version == table.version == 6
    assert written.metadata["delta/rows_deleted"] == 4
    assert_same_rows(table.rows(), expected(day22=FIXED_22))


def foreign_append(table: Table, day: str) -> None:
    write_deltalake(table.path, devices(day, [("foreign", "x", "x", "x")]), mode="append")


FOREIGN: dict[str, Callable[[Table], object]] = {
    "append to the day": lambda table: foreign_append(table, "2024-09-22"),
    "append to another day": lambda table: foreign_append(table, "2024-09-20"),
    "delete of the day": lambda table: DeltaTable(table.path).delete("execution_time = '2024-09-22'"),
    "compaction": lambda table: DeltaTable(table.path).optimize.compact(),
    "checkpoint": lambda table: DeltaTable(table.path).create_checkpoint(),
    "vacuum": lambda table: DeltaTable(table.path).vacuum(0, dry_run=False, enforce_retention_duration=False),
    "update of a row of another day": lambda table: DeltaTable(table.path).update(
        updates={"full_name": "'foreign'"}, predicate="id = 'mac-air'"
    ),
}


@pytest.mark.parametrize("moment", ["between_plan_and_commit", "between_lock_and_commit"])
@pytest.mark.parametrize("what", FOREIGN)
def test_do_7_delta_rs_committed_first(table: Table, what: str, moment: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(moment)(lambda: FOREIGN[what](table))
    written = table.write(devices("2024-09-22", FIXED_22), "2024-09-22")
    assert written.version == table.version
    oracle = expected(day22=FIXED_22)
    if what == "append to another day":
        oracle = pl.concat([oracle, devices("2024-09-20", [("foreign", "x", "x", "x")])])
    if what == "update of a row of another day":
        name = pl.when(pl.col("id") == "mac-air").then(pl.lit("foreign")).otherwise("full_name")
        oracle = oracle.with_columns(full_name=name)
    assert_same_rows(table.rows(), oracle)
    assert data_files(table) >= live_files(table)


ROUNDS = 4


def _write_at_once(runs: list[Callable[[], Written]]) -> list[Written]:
    """Start all runs at the same moment, each in a thread with an instance of its own."""
    barrier = threading.Barrier(len(runs))

    def one(run: Callable[[], Written]) -> Written:
        shared_instance()
        barrier.wait()
        return run()

    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(one, runs))


def test_do_7_two_days_at_once_both_commit(table: Table) -> None:
    def run(day: str, n: int) -> Callable[[], Written]:
        rows = [(f"{day}-{n}-{i}", "b", "f", "p") for i in range(3)]
        return lambda: devices_table(table.root).write(devices(day, rows).lazy(), day)

    for n in range(ROUNDS):
        before = table.version
        written = _write_at_once([run("2024-09-21", n), run("2024-09-22", n)])
        assert {w.version for w in written} == {before + 1, before + 2}
        assert table.version == before + 2
        assert rows_of_days(table) == {**FOUR_DAYS, "2024-09-21": 3, "2024-09-22": 3}
        assert table.rows().filter(pl.col("id").str.contains(f"-{n}-")).height == 6


def test_do_7_one_day_twice_at_once_is_one_of_the_two_whole(table: Table) -> None:
    def run(n: int, writer: str) -> Callable[[], Written]:
        rows = [(f"{writer}{n}-{i}", "b", writer, "p") for i in range(2)]
        return lambda: devices_table(table.root).write(devices("2024-09-22", rows).lazy(), "2024-09-22")

    for n in range(ROUNDS):
        before = table.version
        written = _write_at_once([run(n, "first"), run(n, "second")])
        winner = ["first", "second"][[w.version for w in written].index(before + 2)]
        assert rows_of_days(table) == FOUR_DAYS
        day = table.rows().filter(pl.col("id").str.contains(f"{n}-"), pl.col("processor_brand") == "p")
        assert day["full_name"].to_list() == [winner] * 2


def test_do_7_first_writes_at_once_lose_nothing(tmp_path: Path) -> None:
    for n in range(ROUNDS):
        root = tmp_path / str(n)
        runs = [partial(lambda day, root: devices_table(root).write(devices(day), day), day, root) for day in DEVICES]
        _write_at_once(runs)
        table = devices_table(root)
        assert_same_rows(table.rows(), expected())
        assert table.version == 4


def _one_process(root: Path, day: str, rounds: int, barrier: Any) -> None:
    table = devices_table(root)
    for n in range(rounds):
        rows = [(f"{day}-{n}-{i}", "b", "f", "p") for i in range(2)]
        barrier.wait()
        table.write(devices(day, rows), day)


@pytest.mark.parametrize("days", [("2024-09-21", "2024-09-23"), ("2024-09-22", "2024-09-22")], ids=["two", "one"])
def test_do_7_two_processes_at_once(table: Table, days: tuple[str, str]) -> None:
    rounds = 3
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    processes = [spawn.Process(target=_one_process, args=(table.root, day, rounds, barrier)) for day in days]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    assert table.version == 4 + 2 * rounds
    assert rows_of_days(table) == {**FOUR_DAYS, **dict.fromkeys(days, 2)}
    last = table.rows().filter(pl.col("id").str.contains(f"-{rounds - 1}-"))
    assert last.height == 2 * len(set(days))


# Beside the scenarios -----------------------------------------------------------------------------------------------


def test_many_commits_checkpoint_and_stay_right(tmp_path: Path) -> None:
    table = devices_table(tmp_path, options={"table_properties": {"delta.checkpointInterval": "3"}})
    for n in range(8):
        day = list(DEVICES)[n % 4]
        table.write(devices(day), day)
    assert len(list((table.path / "_delta_log").glob("*.checkpoint.parquet"))) == 2
    assert_same_rows(table.rows(), expected())


def test_table_properties_are_brought_in_line(table: Table) -> None:
    changed = table.with_(options={"table_properties": {"delta.logRetentionDuration": "interval 90 days"}})
    changed.write(devices("2024-09-22"), "2024-09-22")
    assert table.handle.metadata().configuration["delta.logRetentionDuration"] == "interval 90 days"
    assert_same_rows(table.rows(), expected())


def test_a_table_made_anew_under_the_same_path_is_noticed(table: Table) -> None:
    for path in sorted(table.path.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert table.write(devices("2024-09-22"), "2024-09-22").version == 1
    assert_same_rows(table.rows(), devices("2024-09-22"))


def test_a_durable_write_is_the_same_write(tmp_path: Path) -> None:
    table = devices_table(tmp_path, options={"durability": "fsync"})
    for day in DEVICES:
        table.write(devices(day), day)
    assert_same_rows(table.rows(), expected())


def test_root_may_be_a_file_uri(tmp_path: Path) -> None:
    table = devices_table(tmp_path, options={"root_uri": tmp_path.as_uri()})
    assert table.write(devices("2024-09-22"), "2024-09-22").metadata["dagster/table_name"] == "devices"
    assert_same_rows(table.rows(), devices("2024-09-22"))


def test_root_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = devices_table(tmp_path, options={"root_uri": "lake"})
    assert relative.write(devices("2024-09-22"), "2024-09-22").metadata["dagster/table_name"] == "devices"
    assert_same_rows(devices_table(tmp_path / "lake").rows(), devices("2024-09-22"))


def test_a_failing_asset_leaves_the_table_alone(table: Table) -> None:
    before = contents(table.root)

    def fail(_: object) -> pl.DataFrame:
        message = "no file"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="no file"):
        table.write(fail, "2024-09-22")
    assert contents(table.root) == before


def test_a_lazy_batch_that_fails_half_way_leaves_the_table_alone(table: Table) -> None:
    before = contents(table.root)
    lazy = devices("2024-09-22").lazy().with_columns(pl.col("brand_name").cast(pl.Int64).cast(pl.String))
    with pytest.raises(pl.exceptions.InvalidOperationError):
        table.write(lazy, "2024-09-22")
    assert contents(table.root) == before


def test_more_open_tables_than_a_thread_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "_OPEN_TABLES_PER_THREAD", 2)
    count = 4
    for n in [*range(count), *range(count)]:
        Table(tmp_path, key=(f"t{n}",)).write(pl.DataFrame({"a": [n]}))
    assert [Table(tmp_path, key=(f"t{n}",)).rows()["a"].to_list() for n in range(count)] == [[n] for n in range(count)]
