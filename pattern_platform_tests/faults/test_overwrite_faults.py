"""The same faults on Data Overwrite: the table is right, or the run is refused by an error of the platform.

Where another test proves it already, it is named here and not repeated; names without a path are of
``patterns/idempotency/test_data_overwrite.py``.

F2   test_do_7_delta_rs_committed_first (a compaction between plan and commit, and between lock and commit)
F3   test_data_overwrite_matrix.py::test_a_cell_of_the_matrix (every column type with every definition, single and
     range), lake/test_refusals.py::test_a_column_that_cannot_hold_the_key, ::test_metadata_that_is_missing
F4   here, and test_do_7_first_writes_at_once_lose_nothing,
     lake/test_meanwhile.py::test_a_first_write_of_another_shape_alters_nothing
F5   here (processes), and test_do_7_one_day_twice_at_once..., test_do_7_the_same_day_committed_first,
     lake/test_commit.py::test_conflicts_without_end_are_given_up
F6   does not concern an overwrite: test_do_7_delta_rs_committed_first has the appends to other days
F7   test_do_6_...; kills at other moments are another harness
F11  test_do_7_delta_rs_committed_first: rows of others in other partitions stay
F14  test_do_4_an_empty_file_empties_its_day, lake/test_inputs.py::test_an_hour_without_rows_is_present
F18  test_do_8_a_full_vacuum_removes_orphans..., lake/test_meanwhile.py::test_a_full_vacuum_of_someone_else
F19  here, and lake/test_refusals.py::test_a_torn_commit_... (the thread that knows the table)
F20  here, and lake/test_commit.py::test_an_error_before_the_commit..., ::test_an_error_after_the_commit...
F21  here (killed after its commit), and test_do_3_unchanged_reruns...,
     lake/test_commit.py::test_a_conflict_that_was_none_is_not_committed_twice
F23  lake/test_refusals.py::test_rows_outside_..., ::test_rows_of_another_region, ::test_a_refusal_shows_no_data
F24  lake/test_refusals.py::test_an_unknown_column, ::test_a_missing_column, ::test_a_renamed_column,
     ::test_a_column_of_another_type, ::test_a_narrower_column_arrives_unchanged, lake/test_schema.py
F25  here (no predicate is text), and lake/test_refusals.py::test_odd_keys_touch_their_own_partition_alone,
     test_data_overwrite_properties.py::test_text_keys_equal_their_model
F26  lake/test_refusals.py::test_an_empty_key, ::test_keys_that_delta_lake_cannot_hold, ::test_long_keys_...,
     ::test_an_empty_string_in_a_physical_partition_column
F27  lake/test_refusals.py::test_a_column_of_another_type (naive and zoned), test_data_overwrite_matrix.py (New York's
     November and March), lake/test_window.py::test_days_of_odd_zones_are_days
F28  here
F30  here (no pickles), and lake/test_refusals.py::test_asset_keys_that_are_no_folders_inside_the_root
F31  here, and lake/test_commit.py::test_an_error_before_the_commit... (errors that are no ``Exception``)

F1, F8 to F10, F12, F13, F15 to F17, F22 and F29 do not concern an overwrite.
"""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import os
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

import pattern_platform
from pattern_platform import PatternPlatformError
from pattern_platform.definitions import defs
from pattern_platform.errors import TornCommitError
from pattern_platform_tests.faults.bare import aside, child, commit_file
from pattern_platform_tests.lake.tables import Table, assert_same_rows, contents, copied, data_files, live_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEYS = dg.StaticPartitionsDefinition(["a", "b", "c"])


def rows(key: str, *values: int) -> pl.DataFrame:
    return pl.DataFrame({"moment": [key] * len(values), "n": values}, schema={"moment": pl.String, "n": pl.Int64})


def while_written(frame: pl.DataFrame, act: Callable[[], object]) -> pl.LazyFrame:
    """A batch that acts, in a thread of its own, when its files are being written: the table was looked at before."""
    acts = [act]

    def batch(part: pl.DataFrame) -> pl.DataFrame:
        while acts:
            aside(acts.pop())
        return part

    return frame.lazy().map_batches(batch)


def afresh(act: Callable[[], Any]) -> Any:
    """Act in a new thread, which knows no table yet, as a new process does not."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(act).result()


# F4, F5, F28: at once -----------------------------------------------------------------------------------------------


def test_f04_two_first_writes_at_once_both_stay(tmp_path: Path) -> None:
    table = Table(tmp_path, KEYS)
    written = table.write(while_written(rows("a", 1), lambda: table.write(rows("b", 2), "b")), "a")
    assert_same_rows(table.rows(), pl.concat([rows("a", 1), rows("b", 2)]))
    assert written.version == table.version == 2


@pytest.mark.parametrize("definition", [KEYS, None], ids=["partition", "whole table"])
def test_f04_of_two_first_writes_of_the_same_rows_the_later_stays(
    tmp_path: Path, definition: dg.PartitionsDefinition | None
) -> None:
    table = Table(tmp_path, definition)
    key = "a" if definition else None
    written = table.write(while_written(rows("a", 1), lambda: table.write(rows("a", 2, 2), key)), key)
    assert_same_rows(table.rows(), rows("a", 1))
    assert (written.version, written.metadata["delta/rows_deleted"]) == (2, 2)


ROUNDS = 4


def _materialize(root: Path, key: str, number: int, meeting: Any, done: Any) -> None:
    """A process with an ephemeral instance; its steps run at the same time as those of the others."""
    table = Table(root, KEYS)
    for n in range(ROUNDS):
        batch = rows(key, *[n * 10 + number] * (number + 1))

        def step(_: object, batch: pl.DataFrame = batch) -> pl.DataFrame:
            meeting.wait(timeout=120)  # every step of the round has begun
            return batch

        done.put((table.write(step, key).version, n, key, number))


@pytest.mark.parametrize(
    "keys", ["aab", pytest.param("abc", marks=pytest.mark.soak), pytest.param("aaa", marks=pytest.mark.soak)]
)
def test_f05_f28_three_ephemeral_materializations_at_once(tmp_path: Path, keys: str) -> None:
    """No queue and no pool is between them, the first round makes the table, and none waits for another's step."""
    spawn = multiprocessing.get_context("spawn")
    meeting, done = spawn.Barrier(3), spawn.SimpleQueue()
    processes = [spawn.Process(target=_materialize, args=(tmp_path, k, i, meeting, done)) for i, k in enumerate(keys)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
        assert process.exitcode == 0
    written = sorted(done.get() for _ in range(3 * ROUNDS))
    assert [version for version, *_ in written] == list(range(1, 3 * ROUNDS + 1))  # each made a version of its own
    assert [n for _, n, *_ in written] == sorted(n for _, n, *_ in written)
    last = {key: (n, number) for _, n, key, number in written}
    whole = [rows(key, *[n * 10 + number] * (number + 1)) for key, (n, number) in last.items()]
    table = Table(tmp_path, KEYS)
    assert_same_rows(table.rows(), pl.concat(whole))
    assert live_files(table) <= data_files(table)


# F19: power loss ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_keys(tmp_path_factory: pytest.TempPathFactory) -> Table:
    table = Table(tmp_path_factory.mktemp("keys"), KEYS)
    table.write(rows("a", 1), "a")
    table.write(rows("b", 2), "b")
    return table


@pytest.fixture
def table(tmp_path: Path, two_keys: Table) -> Table:
    """Version 1 is partition a, version 2 is partition b."""
    return copied(two_keys, tmp_path)


def load(table: Table, key: str, **metadata: Any) -> pl.DataFrame:
    return table.load(key, definition=KEYS, **metadata)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def checkpoint(table: Table) -> Path:
    table.handle.create_checkpoint()
    return next((table.path / "_delta_log").glob("*.checkpoint.parquet"))


DAMAGES: dict[str, Callable[[Table], object]] = {
    "newest commit cut": lambda table: cut(commit_file(table.path, 2)),
    "newest commit of NUL bytes": lambda table: commit_file(table.path, 2).write_bytes(bytes(500)),
    "gap": lambda table: commit_file(table.path, 1).unlink(),
    "checkpoint cut": lambda table: cut(checkpoint(table)),
    "checkpoint gone": lambda table: checkpoint(table).unlink(),
}
RUNS: dict[str, Callable[[Table], object]] = {
    "write": lambda table: table.write(rows("a", 10), "a"),
    "load": lambda table: load(table, "a"),
}


@pytest.mark.parametrize("run", RUNS)
def test_f19_an_empty_newest_commit_is_refused_by_whoever_opens_the_table(table: Table, run: str) -> None:
    commit_file(table.path, 2).write_bytes(b"")
    before = contents(table.root)
    with pytest.raises(TornCommitError, match=commit_file(table.path, 2).name):
        afresh(lambda: RUNS[run](table))
    assert contents(table.root) == before


def test_f19_an_empty_commit_is_no_version_to_load(table: Table) -> None:
    commit_file(table.path, 2).write_bytes(b"")
    with pytest.raises(PatternPlatformError):
        load(table, "a", table_version=2)


@pytest.mark.parametrize("run", RUNS)
def test_f19_an_empty_commit_under_one_of_another_engine_is_refused(table: Table, run: str) -> None:
    commit_file(table.path, 2).write_bytes(b"")
    write_deltalake(table.path, rows("c", 3), mode="append")
    with pytest.raises(PatternPlatformError):
        afresh(lambda: RUNS[run](table))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_f19_a_damaged_log_is_neither_read_nor_written(table: Table, damage: str, run: str) -> None:
    DAMAGES[damage](table)
    before = contents(table.root)
    with pytest.raises((PatternPlatformError, DeltaError)):
        afresh(lambda: RUNS[run](table))
    assert contents(table.root) == before


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_f19_a_damaged_log_is_refused_with_its_remedy(table: Table, damage: str, run: str) -> None:
    DAMAGES[damage](table)
    with pytest.raises(PatternPlatformError):
        afresh(lambda: RUNS[run](table))


def test_f19_a_lost_newest_commit_is_written_again(table: Table) -> None:
    """It cannot be told from one that never was: the run is repeated, and its partition is there once."""
    commit_file(table.path, 2).unlink()
    assert afresh(lambda: table.write(rows("b", 2), "b")).version == 2
    assert_same_rows(table.rows(), pl.concat([rows("a", 1), rows("b", 2)]))


def test_f19_a_lost_data_file_is_mended_by_its_partition(table: Table) -> None:
    """Reading fails, a run of the other partition changes nothing about that, a run of its own mends it."""
    before = load(table, "a")
    lost = next(name for name in live_files(table) if pl.read_parquet(table.path / name)["moment"][0] == "b")
    (table.path / lost).unlink()
    with pytest.raises(FileNotFoundError):
        load(table, "b")
    table.write(before, "a")
    assert_same_rows(load(table, "a"), before)
    with pytest.raises(FileNotFoundError):
        load(table, "b")
    table.write(rows("b", 2), "b")
    assert_same_rows(table.rows(), pl.concat([before, rows("b", 2)]))


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what a descriptor is")
@pytest.mark.parametrize("durability", ["fsync", "engine"])
def test_f19_a_durable_commit_is_synced_before_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """Polars syncs the data file; the commit, its folder and the table's folder are synced by the platform."""
    synced: list[str] = []
    fsync, sink = os.fsync, pl.LazyFrame.sink_parquet

    def spy(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def spied(frame: pl.LazyFrame, *args: Any, **kwargs: Any) -> Any:
        synced.extend(["data"] if kwargs.get("sync_on_close") == "all" else [])
        return sink(frame, *args, **kwargs)

    table = Table(tmp_path, KEYS, options={"durability": durability})
    monkeypatch.setattr(os, "fsync", spy)
    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", spied)
    for version, key in enumerate("ab", start=1):
        synced.clear()
        assert table.write(rows(key, 1), key).version == version
        expected = {"data", commit_file(table.path, version).name, "_delta_log", "table", tmp_path.name}
        assert expected <= set(synced) if durability == "fsync" else not expected & set(synced)


# F20: a full disk ---------------------------------------------------------------------------------------------------

FULL_DISK = """
import os, subprocess, sys
from pathlib import Path
import polars as pl
from pattern_platform_tests.faults.test_overwrite_faults import FillDisk, LimitFiles, narrow_sweep
folder = Path(sys.argv[2])
if sys.argv[1] == "disk":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    print(narrow_sweep(folder, FillDisk(folder)))
else:
    print(narrow_sweep(folder, LimitFiles()))
sys.stdout.flush()
os._exit(0)  # threads of native libraries may abort a process while it ends, and nothing is left to do
"""


class FillDisk:
    """Leave so many pages of a small file system free."""

    steps = range(9)
    rows = 1500  # three pages of data, one of log

    def __init__(self, folder: Path) -> None:
        self.filler = folder / "filler"

    def narrow(self, step: int) -> None:
        disk = os.statvfs(self.filler.parent)
        self.filler.write_bytes(bytes((disk.f_bavail - step) * disk.f_frsize))

    def relax(self) -> None:
        self.filler.unlink()


class LimitFiles:
    """Let no file grow beyond so many bytes; stands in for a full disk where none can be mounted."""

    steps = range(0, 3000, 250)
    rows = 2  # the data is smaller than the log

    def narrow(self, step: int) -> None:
        self._limit(step)

    def relax(self) -> None:
        import resource  # noqa: PLC0415 - not on every system

        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        import resource  # noqa: PLC0415

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def narrow_sweep(folder: Path, disk: FillDisk | LimitFiles) -> str:
    """Write with ever more room: first writes, and writes into a table. Gives F for each failure, W for each write."""
    outcomes = ""
    old, new = rows("a", 1), rows("a", *range(disk.rows))
    for first in (True, False):
        for step in disk.steps:
            table = Table(folder / "lake", KEYS)
            if not first:
                table.write(old, "a")
            before = contents(table.root)
            disk.narrow(step)
            try:
                table.write(new, "a")
                outcome = "W"
            except Exception as error:  # noqa: BLE001 - of Polars, delta-rs or the system, looked at by its text
                assert "No space left" in str(error) or "File too large" in str(error), error  # noqa: PT017
                outcome = "F"
            disk.relax()
            if outcome == "F" and first:
                assert not data_files(table)
                assert not DeltaTable.is_deltatable(str(table.path)) or table.rows().is_empty()
            elif outcome == "F":
                assert contents(table.root) == before
            else:
                assert_same_rows(table.rows(), new)
            table.write(old, "a")  # there is room again
            assert_same_rows(table.rows(), old)
            outcomes += outcome
            shutil.rmtree(table.root)
        outcomes += " "
    return outcomes


def own_mounts(folder: Path) -> list[str]:
    """How to start a process that may mount a file system which nobody else sees; empty where that is not allowed."""
    command = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare"):
        return []
    attempt = "import subprocess, sys; subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', sys.argv[1]], check=True)"
    return command if child(attempt, folder, wrap=command).returncode == 0 else []


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs, and limits of file sizes")
@pytest.mark.parametrize("what", ["disk", pytest.param("file size", marks=pytest.mark.soak)])
def test_f20_a_full_disk_leaves_the_table_as_it_was(tmp_path: Path, what: str) -> None:
    """Whatever is the file that does not fit, of the data, of the log: the run fails and nothing is left of it.

    Where no file system can be mounted, the limit of file sizes stands in for the full disk, in the default suite too.
    """
    wrap = own_mounts(tmp_path) if what == "disk" else []
    run = child(FULL_DISK, what if wrap else "file size", tmp_path, wrap=wrap)
    assert run.returncode == 0, run.stderr[-2000:]
    first, later = run.stdout.split()[-2:]
    for outcomes in (first, later):
        assert outcomes.rstrip("W").strip("F") == ""
        assert {*outcomes} == {"F", "W"}


# F21: a retry after success -----------------------------------------------------------------------------------------

KILLED_AFTER_ITS_COMMIT = """
import os, signal, sys
from pathlib import Path
from deltalake import DeltaTable
from pattern_platform_tests.faults.test_overwrite_faults import KEYS, Table, rows
commit = DeltaTable.create_write_transaction
def killed(*args, **kwargs):
    commit(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
DeltaTable.create_write_transaction = killed
Table(Path(sys.argv[1]), KEYS).write(rows("a", 10, 11), "a")
"""


@pytest.mark.parametrize("first", [True, False], ids=["first write", "later write"])
def test_f21_a_run_killed_after_its_commit_is_retried(tmp_path: Path, first: bool) -> None:  # noqa: FBT001
    table = Table(tmp_path, KEYS)
    others = [] if first else [rows("b", 2)]
    for other in others:
        table.write(rows("a", 1), "a")
        table.write(other, "b")
    version = table.version if others else 0
    assert child(KILLED_AFTER_ITS_COMMIT, tmp_path).returncode == -signal.SIGKILL
    for retry in range(2):
        assert_same_rows(table.rows(), pl.concat([rows("a", 10, 11), *others]))
        assert table.version == version + 1 + retry
        table.write(rows("a", 10, 11), "a")


# F25: predicates ----------------------------------------------------------------------------------------------------


def put_together(node: ast.expr) -> bool:
    """Whether a text is put together where it stands."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr == "format"
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod))


def predicates(source: str) -> Iterator[ast.expr]:
    """What is given to the engine as a predicate."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        yield from (keyword.value for keyword in node.keywords if keyword.arg in ("predicate", "updates"))
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("delete", "merge", "update"):
            yield from node.args


def test_f25_no_predicate_is_put_together_from_text() -> None:
    for module in Path(pattern_platform.__file__).parent.rglob("*.py"):
        wrong = [ast.unparse(node) for node in predicates(module.read_text()) if put_together(node)]
        assert not wrong, module


@pytest.mark.parametrize(
    "source",
    [
        "table.delete(f\"p = '{key}'\")",
        'table.delete("p = \'" + key + "\'")',
        "table.delete(\"p = '%s'\" % key)",
        "table.delete(\"p = '{}'\".format(key))",
        "write_deltalake(table, rows, predicate=f\"p = '{key}'\")",
        "table.merge(rows, f\"t.p = '{key}'\")",
    ],
)
def test_f25_one_that_is_would_be_found(source: str) -> None:
    """The negative control."""
    assert any(put_together(node) for node in predicates(source))


# F30, F31: paths ----------------------------------------------------------------------------------------------------


def returns_no_value(asset: dg.AssetsDefinition, key: dg.AssetKey) -> bool:
    """Whether the function says that it hands nothing of an asset to an IO manager."""
    output = asset.node_def.output_def_named(asset.get_output_name_for_asset_key(key))
    hint = inspect.signature(asset.get_op_def_for_asset_key(key).compute_fn.decorated_fn).return_annotation
    return output.dagster_type.is_nothing or str(hint).rstrip("'>").endswith(("MaterializeResult", "None"))


def test_f30_nothing_of_the_platform_is_pickled() -> None:
    """Every asset that returns a value names its IO manager: the default of Dagster is the one that unpickles."""
    resources = defs.resources or {}
    assert not [name for name, value in resources.items() if isinstance(value, dg.FilesystemIOManager)]
    graph = defs.resolve_asset_graph()
    handed = [
        (key, asset.get_io_manager_key_for_asset_key(key))
        for asset in graph.assets_defs
        if asset.is_executable
        for key in asset.keys
        if not returns_no_value(asset, key)
    ]
    assert len(handed) > 5
    assert not [key for key, manager in handed if manager not in resources]


ODD_ROOTS = ["[x]", "a[b", "x]", "a b", "ñ", "a#b", "a?b", "a*", "{a}", "~", "a:b", "'a'"]


@pytest.mark.parametrize("name", ODD_ROOTS)
def test_f31_a_root_with_an_odd_name(tmp_path: Path, name: str) -> None:
    table = Table(tmp_path / name, KEYS)
    for key in "aba":
        table.write(rows(key, 1, 2), key)
    assert_same_rows(table.rows(), pl.concat([rows("a", 1, 2), rows("b", 1, 2)]))
    assert_same_rows(load(table, "b"), rows("b", 1, 2))
    assert [folder.name for folder in tmp_path.iterdir()] == [name]


UNREAD_ROOTS = ["a%20b", "a\\b", "a\nb"]


@pytest.mark.parametrize("name", UNREAD_ROOTS)
def test_f31_a_root_that_delta_rs_looks_for_elsewhere_fails(tmp_path: Path, name: str) -> None:
    with pytest.raises((PatternPlatformError, DeltaError)):
        Table(tmp_path / name, KEYS).write(rows("a", 1), "a")


@pytest.mark.parametrize("name", UNREAD_ROOTS)
def test_f31_a_root_that_delta_rs_looks_for_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PatternPlatformError):
        Table(tmp_path / name, KEYS).write(rows("a", 1), "a")


def test_f31_a_root_is_not_taken_for_another(tmp_path: Path) -> None:
    """The folder ``a%20b`` beside the folder ``a b``."""
    Table(tmp_path / "a b", KEYS).write(rows("a", 1), "a")
    table = Table(tmp_path / "a%20b", KEYS)
    try:
        table.write(rows("a", 2), "a")
    except PatternPlatformError:
        return
    assert_same_rows(load(table, "a"), rows("a", 2))
    assert_same_rows(load(Table(tmp_path / "a b", KEYS), "a"), rows("a", 1))
