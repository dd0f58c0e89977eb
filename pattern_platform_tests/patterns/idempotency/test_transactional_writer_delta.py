"""Transactional Writer on Delta Lake: a partition is one transaction, whatever is retried, raced, killed or kept up.

What a table holds, and which transactions its log records, is asked of delta-rs.
"""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pattern_platform.errors import (
    CommitConflictError,
    InvalidMetadataError,
    MissingPartitionsError,
    RowsOutsidePartitionError,
    UnknownColumnError,
    UnsupportedTableError,
)
from pattern_platform.lake import commit as commit_module
from pattern_platform.lake.maintenance import compact, vacuum
from pattern_platform.patterns.idempotency.transactional_writer_delta import TransactionalAppendIOManager
from pattern_platform_tests.lake.tables import (
    FRAME_KINDS,
    Table,
    as_kind,
    assert_same_rows,
    contents,
    data_files,
    live_files,
    refused,
    shared_instance,
    union,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNCOMPARED = ("dagster/column_schema", "cost/")  # compared in a test of its own, and in lake/test_cost.py
DAYS = dg.DailyPartitionsDefinition("2024-10-05", end_date="2024-10-12")
NO_TIME = dt.timedelta(0)
FILE_1, FILE_2 = [("galaxy", "11"), ("iphone", "iOS 13")], [("htc", "12L"), ("htc", "52L")]


def day(number: int) -> str:
    return f"2024-10-{number:02}"


def devices(number: int, rows: list[tuple[str, str]]) -> pl.DataFrame:
    """The rows of a day."""
    frame = pl.DataFrame(rows, schema={"type": pl.String, "version": pl.String}, orient="row")
    return frame.with_columns(day=pl.lit(dt.date(2024, 10, number)))


def numbered(number: int, *values: int) -> pl.DataFrame:
    return devices(number, [("n", str(value)) for value in values])


def devices_table(root: Path, **changes: Any) -> Table:
    return Table(root, DAYS, "day", key=("devices",), io_manager=TransactionalAppendIOManager, **changes)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """One day of two rows."""
    table = devices_table(tmp_path)
    table.write(devices(5, FILE_1), day(5))
    assert table.version == 1
    return table


def held(table: Table) -> dict[int, list[str]]:
    """The versions of the devices by day."""
    rows = table.rows().group_by(pl.col("day").dt.day()).agg(pl.col("version").sort())
    return dict(sorted(rows.iter_rows()))


def commits_of_data(table: Table) -> int:
    return sum(entry["operation"] == "WRITE" for entry in table.handle.history())


def recorded(table: Table) -> list[int]:
    """The days whose transaction the log records."""
    handle = table.handle
    return [n for n in range(5, 12) if handle.transaction_version(f"pattern_platform/partition={day(n)}") is not None]


def on_disk(table: Table) -> pl.DataFrame:
    """What a reader finds who globs for Parquet files."""
    return duckdb.read_parquet(f"{table.path}/**/*.parquet").pl()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings of the runs."""
    texts: list[str] = []
    monkeypatch.setattr(dg.DagsterLogManager, "warning", lambda _, text, *given: texts.append(text % given))
    return texts


@pytest.fixture
def between_plan_and_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something happen once, when the next platform write has planned and is about to take the commit's lock."""

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
    """Have a writer that knows no lock commit once, after the next platform write looked for its ids in the lock."""

    def arrange(happening: Callable[[], object]) -> None:
        real = DeltaTable.create_write_transaction

        def late(self: DeltaTable, *given: Any, **named: Any) -> None:
            monkeypatch.setattr(DeltaTable, "create_write_transaction", real)
            happening()
            real(self, *given, **named)

        monkeypatch.setattr(DeltaTable, "create_write_transaction", late)

    return arrange


# The scenarios ------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
import dagster as dg
from deltalake import DeltaTable
from pattern_platform_tests.patterns.idempotency import test_transactional_writer_delta as module
kill, commit = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL), DeltaTable.create_write_transaction
if sys.argv[2] == "before":
    DeltaTable.create_write_transaction = kill
else:
    dg.OutputContext.add_output_metadata = kill
module.devices_table(Path(sys.argv[1])).write(module.devices(6, module.FILE_2), module.day(6))
"""


def killed(table: Table, moment: str) -> None:
    command = [sys.executable, "-c", KILLED, str(table.root), moment]
    died = subprocess.run(command, check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr


def test_tw_3_files_without_a_commit_are_seen_by_nobody_but_a_dirty_reader(table: Table) -> None:
    killed(table, "before")
    assert (table.version, recorded(table)) == (1, [5])
    assert_same_rows(table.rows(), devices(5, FILE_1))
    assert_same_rows(table.load(definition=DAYS, key=day(5)), devices(5, FILE_1))
    with pytest.raises(MissingPartitionsError):
        table.load(definition=DAYS, key=day(6))
    assert_same_rows(on_disk(table), union({"5": devices(5, FILE_1), "6": devices(6, FILE_2)}))
    written = table.write(devices(6, FILE_2), day(6))
    assert (written.version, written.metadata["delta/skipped_partitions"]) == (2, [])
    assert_same_rows(table.rows(), union({"5": devices(5, FILE_1), "6": devices(6, FILE_2)}))
    assert table.rows().height == 4
    assert on_disk(table).height == 6


def test_tw_3_a_first_writer_killed_leaves_a_table_that_the_retry_fills(tmp_path: Path) -> None:
    table = devices_table(tmp_path)
    killed(table, "before")
    assert table.rows().is_empty()
    assert on_disk(table).height == 2
    table.write(devices(6, FILE_2), day(6))
    assert_same_rows(table.rows(), devices(6, FILE_2))


def test_tw_4_a_writer_killed_after_its_commit_is_not_repeated(table: Table, said: list[str]) -> None:
    killed(table, "after")
    assert (table.version, recorded(table)) == (2, [5, 6])
    before = contents(table.root)
    written = table.write(devices(6, FILE_2), day(6))
    assert (written.version, written.metadata["delta/skipped_partitions"]) == (2, [day(6)])
    assert contents(table.root) == before
    assert table.rows().height == 4
    assert said == [f"devices: partition(s) ['{day(6)}'] are there already, and stay as they are"]


def test_tw_4_reruns_change_no_file(table: Table, said: list[str]) -> None:
    before = contents(table.root)
    for n in range(1, 4):
        told = table.write(devices(5, FILE_1), day(5)).metadata
        assert contents(table.root) == before
        assert len(said) == n
    assert {name: value for name, value in told.items() if not name.startswith(UNCOMPARED)} == {
        "dagster/table_name": "devices",
        "dagster/uri": str(table.path),
        "delta/version": 1,
        "delta/files_added": 0,
        "delta/files_removed": 0,
        "delta/skipped_partitions": [day(5)],
    }


def test_tw_5_a_transaction_is_appended_once(tmp_path: Path) -> None:
    table = devices_table(tmp_path)
    for _ in range(2):
        table.write(devices(5, FILE_1), day(5))
        assert recorded(table) == [5]
        assert_same_rows(table.rows(), devices(5, FILE_1))
    assert commits_of_data(table) == 1


def test_tw_5_delta_rs_by_itself_appends_it_twice(tmp_path: Path) -> None:
    """The control: delta-rs 1.6.6 records the id, and does not look for it."""
    once = CommitProperties(app_transactions=[Transaction("devices", 1)])
    for _ in range(2):
        write_deltalake(tmp_path / "raw", devices(5, FILE_1), mode="append", commit_properties=once)
    assert DeltaTable(tmp_path / "raw").transaction_version("devices") == 1
    assert (
        sorted(DeltaTable(tmp_path / "raw").to_pyarrow_table()["version"].to_pylist()) == ["11", "11"] + ["iOS 13"] * 2
    )


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_tw_8_the_same_day_committed_first(
    table: Table, between_plan_and_commit: Callable[..., None], said: list[str], kind: type
) -> None:
    between_plan_and_commit(lambda: table.write(devices(6, FILE_2), day(6)))
    written = table.write(as_kind(devices(6, FILE_2), kind), day(6))
    assert (written.version, written.metadata["delta/skipped_partitions"]) == (2, [day(6)])
    assert commits_of_data(table) == table.version == 2
    assert table.rows().height == 4
    assert data_files(table) == live_files(table)
    assert len(said) == 1


@pytest.mark.parametrize("kind", FRAME_KINDS)
@pytest.mark.parametrize("moment", ["between_plan_and_commit", "between_lock_and_commit"])
def test_tw_8_another_commit_first_costs_no_row(
    table: Table, kind: type, moment: str, request: pytest.FixtureRequest
) -> None:
    """A reader of record batches can be read once; its files are kept while the plan is made again."""

    def happening() -> None:
        if moment == "between_lock_and_commit":
            write_deltalake(table.path, numbered(7, 7), mode="append")
        else:
            table.write(numbered(7, 7), day(7))

    request.getfixturevalue(moment)(happening)
    written = table.write(as_kind(devices(6, FILE_2), kind), day(6))
    assert written.version == table.version == 3
    assert held(table) == {5: ["11", "iOS 13"], 6: ["12L", "52L"], 7: ["7"]}
    assert data_files(table) == live_files(table)


def test_tw_8_somebody_else_records_the_id_under_the_lock(
    table: Table, between_lock_and_commit: Callable[..., None]
) -> None:
    """A writer that keeps the ids and not the lock: the log refuses the commit, and the id is looked for again."""
    theirs = CommitProperties(app_transactions=[Transaction(f"pattern_platform/partition={day(6)}", 2)])
    between_lock_and_commit(
        lambda: write_deltalake(table.path, devices(6, FILE_2), mode="append", commit_properties=theirs)
    )
    written = table.write(devices(6, FILE_2), day(6))
    assert written.metadata["delta/skipped_partitions"] == [day(6)]
    assert table.rows().height == 4
    assert data_files(table) == live_files(table)


def test_tw_8_threads_write_one_day_at_once(tmp_path: Path) -> None:
    for n in range(4):
        table, barrier = devices_table(tmp_path / str(n)), threading.Barrier(3)

        def write(root: Path = table.root, barrier: threading.Barrier = barrier) -> list[str]:
            own = devices_table(root)  # with an instance of the thread's own
            barrier.wait()
            return own.write(devices(5, FILE_1).lazy(), day(5)).metadata["delta/skipped_partitions"]

        with ThreadPoolExecutor(3) as pool:
            skipped = [future.result() for future in [pool.submit(write) for _ in range(3)]]
        assert sorted(skipped) == [[], [day(5)], [day(5)]]
        assert commits_of_data(table) == table.version == 1
        assert_same_rows(table.rows(), devices(5, FILE_1))
        assert data_files(table) == live_files(table)


def _every_day(root: Path, barrier: Any) -> None:
    shared_instance()
    for number in range(5, 10):
        barrier.wait()
        devices_table(root).write(devices(number, FILE_1), day(number))


def test_tw_8_two_processes_write_the_same_days_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    processes = [spawn.Process(target=_every_day, args=(tmp_path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    table = devices_table(tmp_path)
    assert held(table) == {number: ["11", "iOS 13"] for number in range(5, 10)}
    assert commits_of_data(table) == table.version == 5
    assert data_files(table) == live_files(table)


# One commit ---------------------------------------------------------------------------------------------------------


def test_several_files_are_one_commit(tmp_path: Path) -> None:
    table = devices_table(tmp_path, metadata={"partition_by": ["type"]})
    written = table.write(devices(5, [*FILE_1, *FILE_2]), day(5))
    assert written.metadata["delta/files_added"] == 3
    assert (written.version, commits_of_data(table), len(live_files(table))) == (1, 1, 3)
    assert table.rows(version=0).is_empty()
    assert table.rows(version=1).height == 4


def test_an_error_in_a_later_file_takes_the_first_with_it(table: Table) -> None:
    with refused(table.root, RowsOutsidePartitionError, "1 row(s)"):
        table.write(union({"6": devices(6, FILE_2), "7": numbered(7, 1)}).lazy(), day(6))
    assert recorded(table) == [5]


def test_a_range_is_one_commit_that_records_each_day(table: Table) -> None:
    written = table.write_range(union({"6": numbered(6, 1), "7": numbered(7, 2)}), day(6), day(8))
    assert (written.version, commits_of_data(table)) == (2, 2)
    assert recorded(table) == [5, 6, 7, 8]
    assert held(table) == {5: ["11", "iOS 13"], 6: ["1"], 7: ["2"]}
    for number in (6, 7, 8):
        table.write(numbered(number, 9), day(number))
    assert held(table) == {5: ["11", "iOS 13"], 6: ["1"], 7: ["2"]}


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_a_range_that_is_partly_there_appends_the_rest(table: Table, said: list[str], kind: type) -> None:
    batch = union({"5": devices(5, FILE_2), "6": numbered(6, 1), "7": numbered(7, 2, 3)})
    written = table.write_range(as_kind(batch, kind), day(5), day(7))
    assert written.metadata["delta/skipped_partitions"] == [day(5)]
    assert written.metadata["delta/rows_inserted"] == 3
    assert held(table) == {5: ["11", "iOS 13"], 6: ["1"], 7: ["2", "3"]}
    assert (commits_of_data(table), recorded(table)) == (2, [5, 6, 7])
    assert said == [f"devices: partition(s) ['{day(5)}'] are there already, and stay as they are"]


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_rows_outside_a_range_that_is_partly_there_are_refused(table: Table, kind: type) -> None:
    for outside in (numbered(9, 9), numbered(6, 9).with_columns(day=pl.lit(None, dtype=pl.Date))):
        batch = pl.concat([devices(5, FILE_2), numbered(6, 1), outside])
        with refused(table.root, RowsOutsidePartitionError, "1 row(s)"):
            table.write_range(as_kind(batch, kind), day(5), day(7))
    assert recorded(table) == [5]


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_a_range_of_which_another_run_appends_a_day_meanwhile_is_run_again(
    table: Table, between_plan_and_commit: Callable[..., None], kind: type
) -> None:
    batch = union({"6": numbered(6, 1), "7": numbered(7, 2)})
    between_plan_and_commit(lambda: table.write(numbered(6, 1), day(6)))
    with pytest.raises(CommitConflictError, match=f"not '{day(7)}'") as caught:
        table.write_range(as_kind(batch, kind), day(6), day(7))
    assert caught.value.retryable
    assert recorded(table) == [5, 6]
    assert data_files(table) == live_files(table)
    table.write_range(as_kind(batch, kind), day(6), day(7))
    assert held(table) == {5: ["11", "iOS 13"], 6: ["1"], 7: ["2"]}


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_a_retry_policy_runs_it_again(table: Table, between_plan_and_commit: Callable[..., None], kind: type) -> None:
    batch = union({"6": numbered(6, 1), "7": numbered(7, 2)})
    between_plan_and_commit(lambda: table.write(numbered(6, 1), day(6)))
    retried = table.with_(retry_policy=dg.RetryPolicy(max_retries=1))
    retried.write_range(lambda _: as_kind(batch, kind), day(6), day(7))
    assert held(table) == {5: ["11", "iOS 13"], 6: ["1"], 7: ["2"]}
    assert recorded(table) == [5, 6, 7]


def test_a_range_that_another_run_appends_whole_meanwhile_is_skipped(
    table: Table, between_plan_and_commit: Callable[..., None]
) -> None:
    batch = union({"6": numbered(6, 1), "7": numbered(7, 2)})
    between_plan_and_commit(lambda: table.write_range(batch, day(6), day(7)))
    written = table.write_range(batch, day(6), day(7))
    assert written.metadata["delta/skipped_partitions"] == [day(6), day(7)]
    assert held(table) == {5: ["11", "iOS 13"], 6: ["1"], 7: ["2"]}


# What counts as there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_a_corrected_partition_is_skipped_with_a_warning(table: Table, said: list[str], kind: type) -> None:
    before = contents(table.root)
    written = table.write(as_kind(numbered(5, 1, 2, 3), kind), day(5))
    assert written.metadata["delta/skipped_partitions"] == [day(5)]
    assert contents(table.root) == before
    assert said == [f"devices: partition(s) ['{day(5)}'] are there already, and stay as they are"]


def test_an_empty_partition_counts_as_recorded(table: Table) -> None:
    written = table.write(devices(6, []), day(6))
    assert (written.version, written.metadata["delta/files_added"]) == (2, 0)
    assert recorded(table) == [5, 6]
    assert table.load(definition=DAYS, key=day(6)).is_empty()
    assert table.write(numbered(6, 1), day(6)).metadata["delta/skipped_partitions"] == [day(6)]
    assert held(table) == {5: ["11", "iOS 13"]}


def test_an_empty_first_partition_makes_the_table(tmp_path: Path) -> None:
    table = devices_table(tmp_path)
    table.write(devices(5, []), day(5))
    table.write(numbered(5, 1), day(5))
    table.write(numbered(6, 1), day(6))
    assert (recorded(table), held(table)) == ([5, 6], {6: ["1"]})


def test_an_asset_without_partitions_is_refused_at_definition_and_at_run(tmp_path: Path) -> None:
    table = Table(tmp_path, key=("devices",), io_manager=TransactionalAppendIOManager)
    with pytest.raises(InvalidMetadataError, match="no partitions") as caught:
        table.manager.refuse_spec(table.asset().get_asset_spec())
    assert "'devices'" in str(caught.value)
    with refused(tmp_path, InvalidMetadataError, "'devices'", "no partitions"):
        table.write(devices(5, FILE_1))
    devices_table(tmp_path).manager.refuse_spec(devices_table(tmp_path).asset().get_asset_spec())


def test_an_asset_that_lost_its_partitions_is_refused(table: Table) -> None:
    with refused(table.root, InvalidMetadataError, "no partitions"):
        table.with_(definition=None).write(devices(5, FILE_1))


EXPIRING = {"delta.setTransactionRetentionDuration": "interval 0 seconds"}


def test_ids_that_expire_are_refused(tmp_path: Path) -> None:
    """delta-rs 1.6.6 honours the property: an id that is older is not found, and a retry would append again."""
    table = devices_table(tmp_path, options={"table_properties": EXPIRING})
    with refused(tmp_path, InvalidMetadataError, *EXPIRING):
        table.write(devices(5, FILE_1), day(5))


def test_a_table_whose_ids_expire_is_refused(table: Table) -> None:
    table.handle.alter.set_table_properties(EXPIRING)
    with refused(table.root, UnsupportedTableError, *EXPIRING):
        table.write(devices(5, FILE_1), day(5))


def test_columns_that_are_added(table: Table) -> None:
    wider = devices(6, FILE_2).with_columns(colour=pl.lit("black"))
    with refused(table.root, UnknownColumnError, "'colour'"):
        table.write(wider, day(6))
    evolving = table.with_(metadata={"schema_evolution": "add_columns"})
    for _ in range(2):
        evolving.write(wider, day(6))
    assert evolving.rows().sort("day")["colour"].to_list() == [None, None, "black", "black"]


def test_a_durable_write_is_the_same_write(tmp_path: Path) -> None:
    table = devices_table(tmp_path, options={"durability": "fsync"})
    for _ in range(2):
        table.write(devices(5, FILE_1), day(5))
    assert_same_rows(table.rows(), devices(5, FILE_1))


# Upkeep -------------------------------------------------------------------------------------------------------------


def cleaned_up(table: Table) -> None:
    """A log whose commits are all older than their retention, cleaned up at a checkpoint."""
    past = time.time() - 90 * 24 * 3600
    for file in (table.path / "_delta_log").iterdir():
        os.utime(file, (past, past))
    table.handle.create_checkpoint()
    table.handle.cleanup_metadata()


UPKEEP: dict[str, Callable[[Table], object]] = {
    "compaction": lambda table: compact(table.path),
    "compaction of delta-rs": lambda table: table.handle.optimize.compact(),
    "vacuum": lambda table: vacuum(table.path, retention=NO_TIME, longest_run=NO_TIME),
    "full vacuum": lambda table: table.handle.vacuum(0, dry_run=False, enforce_retention_duration=False, full=True),
    "checkpoint": lambda table: table.handle.create_checkpoint(),
    "clean-up of the log": cleaned_up,
}


@pytest.mark.parametrize("what", UPKEEP)
def test_upkeep_keeps_the_ids(table: Table, what: str) -> None:
    for number in (6, 7):
        table.write(numbered(number, number), day(number))
    UPKEEP[what](table)
    for number in (5, 6, 7, 8):
        table.write(numbered(number, number), day(number))
    assert held(table) == {5: ["11", "iOS 13"], 6: ["6"], 7: ["7"], 8: ["8"]}
    assert recorded(table) == [5, 6, 7, 8]


def test_one_upkeep_after_the_other_keeps_the_ids(table: Table) -> None:
    for number in (6, 7):
        table.write(numbered(number, number), day(number))
    for act in UPKEEP.values():
        act(table)
    assert not (table.path / "_delta_log" / f"{0:020}.json").exists()
    assert data_files(table) == live_files(table)
    assert len(live_files(table)) == 1
    for number in (5, 6, 7, 8):
        table.write(numbered(number, number), day(number))
    assert held(table) == {5: ["11", "iOS 13"], 6: ["6"], 7: ["7"], 8: ["8"]}


@pytest.mark.parametrize("what", UPKEEP)
def test_upkeep_while_a_batch_is_written(table: Table, what: str, between_plan_and_commit: Callable[..., None]) -> None:
    if what == "full vacuum":  # it takes the files of a run that has not committed
        between_plan_and_commit(lambda: UPKEEP[what](table))
        with pytest.raises(CommitConflictError):
            table.write(numbered(6, 6), day(6))
    else:
        between_plan_and_commit(lambda: UPKEEP[what](table))
    for number in (6, 6, 5):
        table.write(numbered(number, 6), day(number))
    assert held(table) == {5: ["11", "iOS 13"], 6: ["6"]}


def test_checkpoints_of_the_platform_keep_the_ids(tmp_path: Path) -> None:
    table = devices_table(tmp_path, options={"table_properties": {"delta.checkpointInterval": "2"}})
    for _ in range(2):
        for number in range(5, 11):
            table.write(numbered(number, number), day(number))
    assert len(list((table.path / "_delta_log").glob("*.checkpoint.parquet"))) == 3
    assert held(table) == {number: [str(number)] for number in range(5, 11)}
    assert table.version == 6


# Any history --------------------------------------------------------------------------------------------------------

QUICK = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)
spans = st.sampled_from([(5, 5), (6, 6), (7, 7), (5, 6), (6, 7), (5, 7)])
faults = st.sampled_from([None, None, "asset", "files", "before commit", "orphans", "after commit"])
steps = st.lists(
    st.one_of(
        st.tuples(spans, st.integers(0, 2), faults, st.sampled_from(FRAME_KINDS)),
        st.sampled_from(["compaction", "vacuum", "checkpoint", "clean-up of the log"]),
    ),
    max_size=8,
)


def power_cut(*_: Any, **__: Any) -> None:
    message = "power"
    raise RuntimeError(message)


@contextmanager
def failing_at(fault: str | None) -> Iterator[None]:
    """A run that fails there; with "orphans" it leaves its files, as one that is killed."""
    with pytest.MonkeyPatch.context() as patch:
        if fault == "files":
            patch.setattr("pattern_platform.patterns.idempotency.transactional_writer_delta.refuse_unfit", power_cut)
        if fault in ("before commit", "orphans"):
            patch.setattr(DeltaTable, "create_write_transaction", power_cut)
        if fault == "orphans":
            patch.setattr(commit_module, "remove_files", lambda *_: None)
        if fault == "after commit":
            patch.setattr(dg.OutputContext, "add_output_metadata", power_cut)
        with suppress(RuntimeError):
            yield


@settings(QUICK, max_examples=8)
@given(steps)
def test_any_runs_leave_each_partition_once(history: list[Any]) -> None:
    """Each partition holds what the first run that committed it brought."""
    model: dict[int, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        table = devices_table(Path(folder))
        for number, step in enumerate(history):
            if isinstance(step, str):
                if (table.path / "_delta_log").exists():
                    UPKEEP[step](table)
                continue
            (first, last), size, fault, kind = step
            batch = pl.concat(numbered(n, *(100 * number + i for i in range(size))) for n in range(first, last + 1))
            value: Any = power_cut if fault == "asset" else as_kind(batch, kind)
            with failing_at(fault):
                if last > first:
                    table.write_range(value, day(first), day(last))
                else:
                    table.write(value, day(first))
            if fault in (None, "after commit"):
                for n in range(first, last + 1):
                    model.setdefault(n, [str(100 * number + i) for i in range(size)])
            if (table.path / "_delta_log").exists():
                assert held(table) == {n: sorted(values) for n, values in sorted(model.items()) if values}
                assert recorded(table) == sorted(model)
            else:
                assert not model
