"""Negative controls: what delta-rs 1.6.6, Polars 2.1 and Dagster 1.13.27 do by themselves, fault by fault.

None of these tests says that the behaviour is right. Each fails when a release mends or worsens it: then the rule of
the platform that it is the reason for can be looked at again. A race is made by a handle that was opened before
somebody else committed, or by a writer that waits in the middle of its write while somebody else commits.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import pickle
import signal
import threading
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from dagster_deltalake import DeltaLakePyarrowIOManager, LocalConfig
from dagster_deltalake import handler as dagster_deltalake_handler
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError, TableNotFoundError

from pattern_platform_tests.faults.bare import (
    FOUR,
    ONCE,
    aside,
    batch,
    child,
    commit_file,
    four_files,
    interrupted,
    merge,
    operations,
    rows,
    version,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20:dagster_deltalake"),
    pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:dagster_deltalake"),
]
VACUUM: dict[str, Any] = {"retention_hours": 0, "enforce_retention_duration": False, "dry_run": False}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t"


# F1, F2: compaction -------------------------------------------------------------------------------------------------

COMPACTIONS: dict[str, Callable[..., object]] = {
    "compact": lambda table, **options: table.optimize.compact(**options),
    "z_order": lambda table, **options: table.optimize.z_order(["n"], **options),
}


@pytest.mark.parametrize("first", COMPACTIONS)
@pytest.mark.parametrize("second", COMPACTIONS)
def test_f01_two_compactions_double_every_row(path: Path, first: str, second: str) -> None:
    """Two compactions at once both succeed, and every row is there twice."""
    stale = DeltaTable(four_files(path))
    COMPACTIONS[first](DeltaTable(path))
    COMPACTIONS[second](stale)
    assert rows(path) == sorted(FOUR * 2)


@pytest.mark.parametrize("second", COMPACTIONS)
def test_f01_a_compaction_ignores_max_commit_retries(path: Path, second: str) -> None:
    """A compaction rebases even with ``max_commit_retries=0``, so this does not protect from doubling."""
    stale = DeltaTable(four_files(path))
    DeltaTable(path).optimize.compact()
    COMPACTIONS[second](stale, commit_properties=ONCE)
    assert rows(path) == sorted(FOUR * 2)


def test_f01_compactions_of_different_partitions_are_right(path: Path) -> None:
    """Two compactions at once of one partition each keep every row once."""
    stale = DeltaTable(four_files(path))
    DeltaTable(path).optimize.compact([("p", "=", "a")])
    stale.optimize.compact([("p", "=", "b")])
    assert rows(path) == FOUR


REPLACEMENTS: dict[str, Callable[..., object]] = {
    "overwrite": lambda table, **options: write_deltalake(table, batch("a", 9), mode="overwrite", **options),
    "truncate": lambda table, **options: table.delete(**options),
}


@pytest.mark.parametrize("compaction", COMPACTIONS)
@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_f02_a_compaction_brings_replaced_rows_back(path: Path, replacement: str, compaction: str) -> None:
    """A full overwrite or truncate that meets a compaction succeeds, and the old rows are still there."""
    stale = DeltaTable(four_files(path))
    COMPACTIONS[compaction](DeltaTable(path))
    REPLACEMENTS[replacement](stale)
    assert rows(path) == sorted(FOUR + ([("a", 9)] if replacement == "overwrite" else []))


@pytest.mark.parametrize("compaction", COMPACTIONS)
@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_f02_without_retries_the_replacement_is_refused(path: Path, replacement: str, compaction: str) -> None:
    """With ``max_commit_retries=0`` a full overwrite or truncate that meets a compaction is a conflict."""
    stale = DeltaTable(four_files(path))
    COMPACTIONS[compaction](DeltaTable(path))
    with pytest.raises(CommitFailedError):
        REPLACEMENTS[replacement](stale, commit_properties=ONCE)
    assert rows(path) == FOUR


# F3, F4: dagster-deltalake, and the first write ---------------------------------------------------------------------

LETTERS = dg.StaticPartitionsDefinition(list("abcde"))
DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-04")
HOURS = dg.HourlyPartitionsDefinition("2024-01-01-00:00", end_date="2024-01-01-05:00")


def dagster_deltalake(
    root: Path, definition: dg.PartitionsDefinition, key: str | tuple[str, str], values: list[object], *name: str
) -> None:
    """Materialize a partition, or a range of them in one run, with the IO manager of dagster-deltalake."""
    frame = pl.DataFrame({"p": values, "n": [1] * len(values)}).to_arrow()

    @dg.asset(
        key=list(name or "t"),
        partitions_def=definition,
        metadata={"partition_expr": "p"},
        backfill_policy=dg.BackfillPolicy.single_run() if isinstance(key, tuple) else None,
    )
    def table() -> pa.Table:
        return frame

    manager = DeltaLakePyarrowIOManager(root_uri=str(root), storage_options=LocalConfig(), mode="overwrite")
    tags = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    run = {"tags": dict(zip(tags, key, strict=True))} if isinstance(key, tuple) else {"partition_key": key}
    dg.materialize([table], resources={"io_manager": manager}, **run)


WIPED: dict[str, tuple[dg.PartitionsDefinition, list[tuple[Any, list[object]]]]] = {
    "days in a string column": (DAYS, [(day, [day]) for day in ("2024-01-01", "2024-01-02")]),
    "hours in a naive column": (
        HOURS,
        [(f"2024-01-01-0{h}:00", [dt.datetime.fromisoformat(f"2024-01-01T0{h}:00")]) for h in (0, 1)],
    ),
    "an integer column": (dg.StaticPartitionsDefinition(["1", "2"]), [("1", [1]), ("2", [2])]),
    "a range of static partitions": (LETTERS, [("e", ["e"]), (("a", "c"), ["a", "b", "c"])]),
}


@pytest.mark.parametrize("what", WIPED)
def test_f03_dagster_deltalake_replaces_the_whole_table(tmp_path: Path, what: str) -> None:
    """Where it cannot build the predicate of a partition, it overwrites the whole table and says nothing."""
    definition, runs = WIPED[what]
    for key, values in runs:
        dagster_deltalake(tmp_path, definition, key, values, "s", "t")
    assert rows(tmp_path / "s" / "t") == [(value, 1) for value in runs[-1][1]]


def test_f03_dagster_deltalake_keeps_other_dates(tmp_path: Path) -> None:
    """The control of the control: with a date column it replaces one day alone."""
    for day in ("2024-01-01", "2024-01-02", "2024-01-02"):
        dagster_deltalake(tmp_path, DAYS, day, [dt.date.fromisoformat(day)], "s", "t")
    assert rows(tmp_path / "s" / "t") == [(dt.date(2024, 1, day), 1) for day in (1, 2)]


def test_f04_a_first_write_of_dagster_deltalake_replaces_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first write that found no table overwrites, without a predicate, the table that was made meanwhile."""
    real = dagster_deltalake_handler.write_deltalake

    def late(**arguments: Any) -> None:
        monkeypatch.setattr(dagster_deltalake_handler, "write_deltalake", real)
        dagster_deltalake(tmp_path, LETTERS, "a", ["a"], "s", "t")
        real(**arguments)

    monkeypatch.setattr(dagster_deltalake_handler, "write_deltalake", late)
    dagster_deltalake(tmp_path, LETTERS, "b", ["b"], "s", "t")
    assert rows(tmp_path / "s" / "t") == [("b", 1)]


OVERWRITES = {"whole": {}, "partition": {"predicate": "p = 'a'"}}


@pytest.mark.parametrize("what", OVERWRITES)
def test_f04_two_first_writes_at_once_both_stay(path: Path, what: str) -> None:
    """Two first overwrites of the same rows at once both succeed, and the rows are there twice."""

    def write(rows: object) -> None:
        write_deltalake(path, rows, mode="overwrite", partition_by=["p"], **OVERWRITES[what])

    write(interrupted(batch("a", 1), lambda: write(batch("a", 1))))
    assert rows(path) == [("a", 1), ("a", 1)]


def test_f04_an_empty_table_overwritten_whole_twice_doubles(path: Path) -> None:
    """A table made beforehand does not help overwrites without a predicate: with no file to remove, both stay."""
    DeltaTable.create(path, batch("a").to_arrow().schema)
    stale = DeltaTable(path)
    write_deltalake(path, batch("a", 1), mode="overwrite")
    write_deltalake(stale, batch("a", 1), mode="overwrite")
    assert rows(path) == [("a", 1), ("a", 1)]


def test_f04_a_table_made_beforehand_makes_it_a_conflict(path: Path) -> None:
    """With a table made beforehand and a predicate, the second first write of a partition is refused."""
    DeltaTable.create(path, batch("a").to_arrow().schema, partition_by=["p"])
    stale, other = DeltaTable(path), DeltaTable(path)
    write_deltalake(path, batch("a", 1), mode="overwrite", predicate="p = 'a'")
    write_deltalake(other, batch("b", 1), mode="overwrite", predicate="p = 'b'")
    with pytest.raises(CommitFailedError):
        write_deltalake(stale, batch("a", 2), mode="overwrite", predicate="p = 'a'")
    assert rows(path) == [("a", 1), ("b", 1)]


# F5, F6: conflicts --------------------------------------------------------------------------------------------------

LITERAL = "t.p = s.p AND t.n = s.n AND t.p = 'a'"
KEYS_ALONE = "t.p = s.p AND t.n = s.n"
ACTS: dict[str, Callable[[DeltaTable, int], object]] = {
    "append to a": lambda table, n: write_deltalake(table, batch("a", n), mode="append"),
    "append to b": lambda table, n: write_deltalake(table, batch("b", n), mode="append"),
    "overwrite a": lambda table, n: write_deltalake(table, batch("a", n), mode="overwrite", predicate="p = 'a'"),
    "overwrite b": lambda table, n: write_deltalake(table, batch("b", n), mode="overwrite", predicate="p = 'b'"),
    "overwrite all": lambda table, n: write_deltalake(table, batch("a", n), mode="overwrite"),
    "delete a": lambda table, _: table.delete("p = 'a'"),
    "truncate": lambda table, _: table.delete(),
    "merge into a": lambda table, n: merge(table, batch("a", 1, n), LITERAL),
    "merge on keys": lambda table, n: merge(table, batch("a", 1, n), KEYS_ALONE),
    "restore": lambda table, _: table.restore(0),
    "vacuum": lambda table, _: table.vacuum(**VACUUM),
}
CONFLICTS = [
    ("overwrite a", "overwrite a"), ("overwrite a", "delete a"), ("overwrite a", "merge into a"),
    ("merge into a", "merge into a"), ("append to a", "overwrite a"), ("delete a", "overwrite a"),
    ("overwrite a", "append to b"), ("overwrite b", "append to a"), ("delete a", "append to a"),
    ("append to b", "restore"), ("overwrite b", "restore"), ("restore", "append to a"), ("restore", "overwrite a"),
]  # fmt: skip


def race(table: Path, first: str, second: str) -> list[tuple[Any, ...]]:
    """The second act on a handle from before the first; what the table holds in between."""
    stale = DeltaTable(four_files(table))
    ACTS[first](DeltaTable(table), 7)
    between = rows(table)
    ACTS[second](stale, 8)
    return between


@pytest.mark.parametrize(("first", "second"), CONFLICTS)
def test_f05_the_later_of_two_is_refused(path: Path, first: str, second: str) -> None:
    """Two acts on one partition, a restore beside anything, an append beside a removal: the second is refused."""
    alone = four_files(path.with_name("alone"))
    ACTS[first](DeltaTable(alone), 7)
    with pytest.raises(CommitFailedError):
        race(path, first, second)
    assert rows(path) == rows(alone)


COMPATIBLE = {
    ("overwrite a", "overwrite b"): [("a", 7), ("b", 8)],
    ("append to a", "append to a"): sorted([*FOUR, ("a", 7), ("a", 8)]),
    ("overwrite b", "merge into a"): [("a", 1), ("a", 2), ("a", 8), ("b", 7)],
    ("overwrite a", "vacuum"): [("a", 7), ("b", 1), ("b", 2)],
}


@pytest.mark.parametrize(("first", "second"), COMPATIBLE)
def test_f05_acts_on_different_partitions_both_hold(path: Path, first: str, second: str) -> None:
    """Acts on different partitions, appends, and a vacuum do not stand in each other's way."""
    race(path, first, second)
    assert rows(path) == COMPATIBLE[first, second]


@pytest.mark.parametrize("second", ["overwrite all", "truncate"])
def test_f05_an_append_survives_a_truncate_that_commits_later(path: Path, second: str) -> None:
    """A replacement of the whole table keeps rows that were appended before it committed and after it read."""
    race(path, "append to a", second)
    assert ("a", 7) in rows(path)
    assert not {*FOUR} & {*rows(path)}


@pytest.mark.parametrize("first", ["append to b", "overwrite b"])
def test_f06_a_merge_on_keys_alone_reads_the_whole_table(path: Path, first: str) -> None:
    """A merge without the partition as a literal is refused for writes into any other partition."""
    with pytest.raises(CommitFailedError):
        race(path, first, "merge on keys")


@pytest.mark.parametrize("first", ["append to b", "overwrite b"])
def test_f06_a_merge_with_the_partition_as_literal_goes_through(path: Path, first: str) -> None:
    """The same merge with the partition as a literal is none of the other partitions' business."""
    race(path, first, "merge into a")
    assert {("a", 8), ("b", 7)} < {*rows(path)}


def test_f06_a_merge_beside_appends_starves(path: Path) -> None:
    """However often such a merge is done again, an append in between makes it fail again."""
    four_files(path)
    for n in range(10, 15):
        fresh = DeltaTable(path)
        write_deltalake(path, batch("b", n), mode="append")
        with pytest.raises(CommitFailedError):
            merge(fresh, batch("a", n), KEYS_ALONE)
    assert {p for p, n in rows(path) if n >= 10} == {"b"}


# F7: a kill ---------------------------------------------------------------------------------------------------------

KILLED_IN_ITS_WRITE = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from deltalake import write_deltalake
from pattern_platform_tests.faults.bare import batch
table = Path(sys.argv[1])
rows = batch("c", *range(3000)).to_arrow()
def batches():
    while not any(file.stat().st_size for file in table.glob("p=c/*.parquet")):
        yield from rows.to_batches()
    os.kill(os.getpid(), signal.SIGKILL)
write_deltalake(table, pa.RecordBatchReader.from_batches(rows.schema, batches()), mode="append", target_file_size=1000)
"""


def test_f07_a_kill_leaves_orphans_that_only_a_full_vacuum_finds(path: Path) -> None:
    """A writer killed in its write leaves the old version and orphans; a plain vacuum does not list them."""
    before = rows(four_files(path))
    assert child(KILLED_IN_ITS_WRITE, path).returncode == -signal.SIGKILL
    assert (version(path), rows(path)) == (3, before)
    orphans = {file.name for file in path.glob("p=c/*.parquet")}
    assert orphans
    listing = {**VACUUM, "dry_run": True}
    assert DeltaTable(path).vacuum(**listing) == []
    assert {name.rsplit("/", 1)[-1] for name in DeltaTable(path).vacuum(**listing, full=True)} == orphans


# F8 to F12, F15: the stateful merge in two steps --------------------------------------------------------------------


class TwoStepMerge:
    """The textbook's stateful merge: restore what the run before left, merge, and then write the version down.

    Without a version of the run before, the table is emptied: it is taken for the first run.
    """

    def __init__(self, table: Path) -> None:
        self.table = table
        self.versions: dict[int, int] = {}
        DeltaTable.create(table, batch("a").to_arrow().schema)

    def prepare(self, key: int) -> None:
        previous = self.versions.get(key - 1)
        if previous is None:
            DeltaTable(self.table).delete()
        elif previous != version(self.table):
            DeltaTable(self.table).restore(previous)

    def merge(self, *names: str, n: int) -> None:
        source = pl.concat([batch(name, n) for name in names])
        merge(DeltaTable(self.table), source, "t.p = s.p")

    def run(self, key: int, *names: str, n: int = 0) -> None:
        self.prepare(key)
        self.merge(*names, n=n or key)
        self.versions[key] = version(self.table)


@pytest.fixture
def two_step(path: Path) -> TwoStepMerge:
    """Runs 1 to 3, each with a row of its own."""
    merged = TwoStepMerge(path)
    for key, name in enumerate("abc", start=1):
        merged.run(key, name)
    assert rows(path) == [("a", 1), ("b", 2), ("c", 3)]
    return merged


def test_f08_a_kill_between_merge_and_state_empties_the_table(path: Path, two_step: TwoStepMerge) -> None:
    """When run 3's version was not written down any more, run 4 takes the table for new and empties it."""
    del two_step.versions[3]
    two_step.run(4, "d")
    assert rows(path) == [("d", 4)]


def test_f08_metadata_of_a_commit_cannot_be_torn_from_it(path: Path) -> None:
    """What can hold the state instead: metadata of the very commit, of writes, merges, deletes and restores."""
    state = CommitProperties(custom_metadata={"state": "x"})
    four_files(path)
    write_deltalake(path, batch("a", 3), mode="append", commit_properties=state)
    merge(DeltaTable(path), batch("a", 4), KEYS_ALONE, commit_properties=state)
    DeltaTable(path).delete("n = 4", commit_properties=state)
    DeltaTable(path).restore(0, commit_properties=state)
    DeltaTable(path).optimize.compact(commit_properties=state)
    kept = [(entry["operation"], entry.get("state")) for entry in DeltaTable(path).history(4)]
    assert kept == [("RESTORE", "x"), ("DELETE", "x"), ("MERGE", "x"), ("WRITE", "x")]  # nothing was to be compacted


def test_f09_a_skipped_run_empties_the_table(path: Path, two_step: TwoStepMerge) -> None:
    """Run 5 after run 3 takes the table for new and empties it."""
    two_step.run(5, "e")
    assert rows(path) == [("e", 5)]


def test_f10_a_correction_of_a_middle_run_is_lost_the_next_day(path: Path, two_step: TwoStepMerge) -> None:
    """Run 2 is corrected alone; run 4 restores what run 3 left, and the correction is gone."""
    two_step.run(2, "b", n=22)
    assert rows(path) == [("a", 1), ("b", 22)]
    two_step.run(4, "d")
    assert rows(path) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]


def test_f11_what_others_committed_between_two_runs_is_undone(path: Path, two_step: TwoStepMerge) -> None:
    """A deleted person is back after the next run, and an appended row is gone; nothing was said."""
    DeltaTable(path).delete("p = 'a'")
    write_deltalake(path, batch("x", 9), mode="append")
    assert rows(path) == [("b", 2), ("c", 3), ("x", 9)]
    two_step.run(4, "d")
    assert rows(path) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]


@pytest.mark.parametrize(("maintenance", "versions"), [("compact", 1), ("vacuum", 2)])
def test_f12_maintenance_looks_like_a_backfill(
    path: Path, two_step: TwoStepMerge, maintenance: str, versions: int
) -> None:
    """A compaction adds a version and a vacuum two, so the version that was written down is not the newest any more."""
    two_step.run(3, "c")  # leaves a file that a vacuum can remove
    before = version(path)
    if maintenance == "compact":
        DeltaTable(path).optimize.compact()
    else:
        DeltaTable(path).vacuum(**VACUUM, keep_versions=[before])
    assert version(path) == before + versions
    two_step.run(4, "d")
    assert operations(path)[-2:] == ["RESTORE", "MERGE"]
    assert rows(path) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]


def test_f15_two_runs_at_once_mix_their_states(path: Path, two_step: TwoStepMerge) -> None:
    """Runs 2 and 3 are corrected at once: run 3 restores the wrong row of run 2 between its two steps."""
    two_step.prepare(2)
    two_step.prepare(3)
    two_step.merge("right", n=2)
    two_step.merge("c", n=3)
    assert rows(path) == [("a", 1), ("b", 2), ("c", 3), ("right", 2)]


# F13, F14: restores and empty batches -------------------------------------------------------------------------------


def test_f13_a_restore_is_seen_before_the_merge(path: Path) -> None:
    """A restore is a commit of its own: whoever reads before the merge that follows sees the past."""
    write_deltalake(path, batch("a", 1))
    write_deltalake(path, batch("b", 2), mode="append")
    DeltaTable(path).restore(0)
    assert (version(path), rows(path)) == (2, [("a", 1)])
    merge(DeltaTable(path), batch("b", 3), KEYS_ALONE)
    assert (version(path), rows(path)) == (3, [("a", 1), ("b", 3)])


def test_f13_a_restore_to_the_newest_version_is_an_error(path: Path) -> None:
    """Restoring the newest version raises instead of doing nothing."""
    write_deltalake(path, batch("a", 1))
    with pytest.raises(DeltaError, match="should be less"):
        DeltaTable(path).restore(0)


IDLE: dict[str, Callable[[DeltaTable, CommitProperties], object]] = {
    "merge": lambda table, properties: merge(table, batch("a"), KEYS_ALONE, commit_properties=properties),
    "delete": lambda table, properties: table.delete("n = 99", commit_properties=properties),
    "compact": lambda table, properties: table.optimize.compact(commit_properties=properties),
}


@pytest.mark.parametrize("what", IDLE)
def test_f14_what_changes_nothing_is_no_commit(path: Path, what: str) -> None:
    """An empty merge, a delete of nothing and a compaction of one file make no version and keep no metadata."""
    write_deltalake(path, batch("a", 1))
    IDLE[what](DeltaTable(path), CommitProperties(custom_metadata={"state": "x"}))
    assert version(path) == 0
    assert "state" not in DeltaTable(path).history(1)[0]


def test_f14_an_append_of_no_rows_is_a_commit(path: Path) -> None:
    """A way to record an empty batch: appending no rows does make a version with its metadata."""
    write_deltalake(path, batch("a", 1))
    properties = CommitProperties(custom_metadata={"state": "x"})
    write_deltalake(path, batch("a"), mode="append", commit_properties=properties)
    assert version(path) == 1
    assert DeltaTable(path).history(1)[0]["state"] == "x"


# F16 to F18: what a vacuum and the log's cleanup take away ----------------------------------------------------------


@pytest.fixture
def three_versions(path: Path) -> Path:
    for n in (1, 2, 3):
        write_deltalake(path, batch("a", n), mode="overwrite")
    return path


def test_f16_a_vacuumed_version_cannot_be_restored(three_versions: Path) -> None:
    """A restore notices that files are missing, and leaves the table alone."""
    DeltaTable(three_versions).vacuum(**VACUUM)
    with pytest.raises(DeltaError, match="missing file"):
        DeltaTable(three_versions).restore(1)
    assert rows(three_versions) == [("a", 3)]


def test_f16_ignore_missing_files_makes_the_table_unreadable(three_versions: Path) -> None:
    """The same restore with ``ignore_missing_files`` succeeds, and the newest version cannot be read."""
    DeltaTable(three_versions).vacuum(**VACUUM)
    DeltaTable(three_versions).restore(1, ignore_missing_files=True)
    assert operations(three_versions)[-1] == "RESTORE"
    with pytest.raises(FileNotFoundError):
        rows(three_versions)


def test_f16_keep_versions_protects(three_versions: Path) -> None:
    """A version named in ``keep_versions`` outlives a vacuum, the others do not."""
    DeltaTable(three_versions).vacuum(**VACUUM, keep_versions=[1])
    with pytest.raises(FileNotFoundError):
        rows(three_versions, version=0)
    DeltaTable(three_versions).restore(1)
    assert rows(three_versions) == [("a", 2)]


def aged(path: Path, **configuration: str) -> Path:
    """Five commits, all of them 90 days old, then two of today; the first of these makes a checkpoint."""
    write_deltalake(path, batch("a", 0), configuration={"delta.checkpointInterval": "5", **configuration})
    for n in range(1, 5):
        write_deltalake(path, batch("a", n), mode="append")
    past = (dt.datetime.now(dt.UTC) - dt.timedelta(days=90)).timestamp()
    for file in (path / "_delta_log").glob("*.json"):
        os.utime(file, (past, past))
    for n in (5, 6):
        write_deltalake(path, batch("a", n), mode="append")
    assert rows(path) == [("a", n) for n in range(7)]
    return path


def test_f17_old_versions_go_without_being_asked(path: Path) -> None:
    """Commits older than 30 days are deleted at a checkpoint; a restore then says that there is no table."""
    aged(path)
    assert len(DeltaTable(path).history()) == 3
    with pytest.raises(TableNotFoundError):
        DeltaTable(path).restore(2)


@pytest.mark.parametrize(
    "configuration",
    [{"delta.logRetentionDuration": "interval 3650 days"}, {"delta.enableExpiredLogCleanup": "false"}],
    ids=lambda configuration: next(iter(configuration)),
)
def test_f17_table_properties_keep_the_log(path: Path, configuration: dict[str, str]) -> None:
    """Either property keeps every commit."""
    aged(path, **configuration)
    assert len(DeltaTable(path).history()) == 7
    DeltaTable(path).restore(2)
    assert rows(path) == [("a", 0), ("a", 1), ("a", 2)]


def vacuum_beside_a_writer(path: Path, *, full: bool) -> None:
    """A vacuum of everything that no version names, when a writer has written files and not yet committed."""
    write_deltalake(path, batch("a", 1), partition_by=["p"])
    large = batch("b", *range(3000)).to_arrow()

    def batches() -> Any:
        while not any(file.stat().st_size for file in path.glob("p=b/*.parquet")):
            yield from large.to_batches()
        aside(lambda: DeltaTable(path).vacuum(**VACUUM, full=full))
        yield from batch("c", 1).to_arrow().to_batches()

    reader = pa.RecordBatchReader.from_batches(large.schema, batches())
    write_deltalake(path, reader, mode="append", target_file_size=1000)


def test_f18_a_full_vacuum_beside_a_writer_breaks_the_table(path: Path) -> None:
    """The files of a commit on its way are deleted; the commit succeeds, and the table cannot be read."""
    vacuum_beside_a_writer(path, full=True)
    assert operations(path)[-1] == "WRITE"
    with pytest.raises(FileNotFoundError):
        rows(path)


def test_f18_a_plain_vacuum_beside_a_writer_is_harmless(path: Path) -> None:
    """A plain vacuum looks at files that the log once named, and leaves those on their way alone."""
    vacuum_beside_a_writer(path, full=False)
    assert {p for p, _ in rows(path)} == {"a", "b", "c"}


def test_f18_the_retention_of_the_table_is_enforced_unless_asked_not_to(three_versions: Path) -> None:
    """A vacuum below the table's retention is refused, and ``enforce_retention_duration=False`` gets round it."""
    year = {"delta.deletedFileRetentionDuration": "interval 365 days"}
    DeltaTable(three_versions).alter.set_table_properties(year)
    with pytest.raises(DeltaError, match="retention"):
        DeltaTable(three_versions).vacuum(retention_hours=168, dry_run=False)
    assert DeltaTable(three_versions).vacuum(**VACUUM)


# F19, F20: media ----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_appends(path: Path) -> Path:
    write_deltalake(path, batch("a", 1))
    write_deltalake(path, batch("a", 2), mode="append")
    return path


def test_f19_an_empty_newest_commit_opens_as_the_old_rows(two_appends: Path) -> None:
    """A commit file of no bytes, as after a power loss, opens as its version without its rows, and is built upon."""
    commit_file(two_appends, 1).write_bytes(b"")
    assert (version(two_appends), rows(two_appends)) == (1, [("a", 1)])
    write_deltalake(two_appends, batch("a", 3), mode="append")
    assert (version(two_appends), rows(two_appends)) == (2, [("a", 1), ("a", 3)])


def test_f19_a_lost_newest_commit_opens_one_version_back(two_appends: Path) -> None:
    """A newest commit file that is gone was never there."""
    commit_file(two_appends, 1).unlink()
    assert (version(two_appends), rows(two_appends)) == (0, [("a", 1)])


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def _zero(file: Path) -> None:
    file.write_bytes(b"\0" * file.stat().st_size)


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "newest commit cut": lambda table: _cut(commit_file(table, 1)),
    "newest commit of NUL bytes": lambda table: _zero(commit_file(table, 1)),
    "gap": lambda table: (write_deltalake(table, batch("a", 3), mode="append"), commit_file(table, 1).unlink()),
    "checkpoint cut": lambda table: (
        DeltaTable(table).create_checkpoint(),
        _cut(next(table.glob("_delta_log/*.parquet"))),
    ),
    "checkpoint gone": lambda table: (
        DeltaTable(table).create_checkpoint(),
        next(table.glob("_delta_log/*.parquet")).unlink(),
    ),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_f19_a_damaged_log_does_not_open(two_appends: Path, what: str) -> None:
    """A commit that is cut or of NUL bytes, a gap, a damaged checkpoint: neither read nor written, until repaired."""
    UNREADABLE[what](two_appends)
    with pytest.raises(DeltaError):
        DeltaTable(two_appends)
    with pytest.raises(DeltaError):
        write_deltalake(two_appends, batch("a", 4), mode="append")


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), _cut, lambda file: file.write_bytes(b"")])
def test_f19_a_table_with_a_lost_data_file_is_written_on(two_appends: Path, damage: Callable[[Path], object]) -> None:
    """A data file that is gone or cut makes reading fail; an append still succeeds."""
    damage(next(two_appends.glob("*.parquet")))
    write_deltalake(two_appends, batch("a", 3), mode="append")
    assert version(two_appends) == 2
    with pytest.raises((OSError, ValueError)):
        rows(two_appends)


FULL_DISK = """
import resource, signal, sys
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError
from pattern_platform_tests.faults.bare import batch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_deltalake(sys.argv[1], batch("a", *range(100_000)), mode="append")
except DeltaError:
    sys.exit(7)
"""


def test_f20_a_full_disk_is_a_clean_error(two_appends: Path) -> None:
    """A data file that does not fit raises DeltaError; the newest version is whole and the next write succeeds."""
    assert child(FULL_DISK, two_appends).returncode == 7
    assert (version(two_appends), rows(two_appends)) == (1, [("a", 1), ("a", 2)])
    write_deltalake(two_appends, batch("a", 3), mode="append")
    assert rows(two_appends) == [("a", 1), ("a", 2), ("a", 3)]


# F21: application transactions --------------------------------------------------------------------------------------


def append(table: Path | DeltaTable, n: int, transaction: int) -> None:
    properties = CommitProperties(app_transactions=[Transaction("app", transaction)])
    write_deltalake(table, batch("a", n), mode="append", commit_properties=properties)


def test_f21_transaction_ids_are_recorded_and_not_enforced(path: Path) -> None:
    """The same and a lower transaction id are committed again, the rows are there again, and the record goes back."""
    for transaction in (5, 5, 3):
        append(path, 1, transaction)
    assert rows(path) == [("a", 1)] * 3
    assert DeltaTable(path).transaction_version("app") == 3


def test_f21_transaction_ids_conflict_only_at_the_same_time(path: Path) -> None:
    """Of two commits of one application at once the second is refused."""
    append(path, 1, 1)
    stale = DeltaTable(path)
    append(path, 2, 2)
    with pytest.raises(CommitFailedError, match="Concurrent transaction"):
        append(stale, 2, 2)
    assert rows(path) == [("a", 1), ("a", 2)]


def test_f21_a_transaction_id_outlives_the_restore_that_undoes_it(path: Path) -> None:
    """After a restore the id says "applied" of rows that are gone; checkpoint and cleanup keep it too."""
    append(path, 1, 1)
    append(path, 2, 2)
    DeltaTable(path).restore(0)
    DeltaTable(path).create_checkpoint()
    for number in (0, 1):
        commit_file(path, number).unlink()
    assert rows(path) == [("a", 1)]
    assert DeltaTable(path).transaction_version("app") == 2


# F22 to F24: what a merge and a write accept ------------------------------------------------------------------------


def merged(path: Path, source: pl.DataFrame, *, times: int = 1, on: str = "t.k = s.k") -> list[tuple[Any, ...]]:
    """A table of one row, with a source merged into it some times."""
    write_deltalake(path, pl.DataFrame({"k": [0], "v": [0]}))
    for _ in range(times):
        merge(DeltaTable(path), source, on)
    return rows(path)


def test_f22_a_null_key_is_inserted_by_every_retry(path: Path) -> None:
    """Null is no key that matches: each merge adds the row again."""
    source = pl.DataFrame({"k": [None], "v": [1]}, schema={"k": pl.Int64, "v": pl.Int64})
    assert merged(path, source, times=3) == [(0, 0), (None, 1), (None, 1), (None, 1)]


def test_f22_new_keys_that_are_there_twice_are_both_inserted(path: Path) -> None:
    """Duplicate keys that match nothing are inserted both; the next merge of them is an error."""
    source = pl.DataFrame({"k": [5, 5], "v": [1, 2]})
    assert merged(path, source) == [(0, 0), (5, 1), (5, 2)]
    with pytest.raises(DeltaError, match="multiple source rows"):
        merge(DeltaTable(path), source, "t.k = s.k")


def test_f22_keys_in_two_unicode_forms_are_two_rows(path: Path) -> None:
    """A composed and a decomposed letter are different keys; NaN equals NaN, and -0.0 equals 0.0."""
    write_deltalake(path, pl.DataFrame({"k": ["\u00e9"], "f": [float("nan")], "g": [0.0]}))
    source = pl.DataFrame({"k": ["e\u0301"], "f": [float("nan")], "g": [-0.0]})
    merge(DeltaTable(path), source, "t.f = s.f AND t.g = s.g")
    assert len(rows(path)) == 1
    merge(DeltaTable(path), source.with_columns(k=pl.lit("\u00e9")), "t.k = s.k")
    assert len(rows(path)) == 2


def test_f23_a_merge_inserts_rows_of_another_partition_again_and_again(path: Path) -> None:
    """With the partition as a literal, a row of another partition never matches, and is inserted by each run."""
    write_deltalake(path, batch("a", 1), partition_by=["p"])
    for _ in range(2):
        merge(DeltaTable(path), pl.concat([batch("a", 1), batch("b", 1)]), LITERAL)
    assert rows(path) == [("a", 1), ("b", 1), ("b", 1)]


@pytest.mark.parametrize("first", [True, False], ids=["first write", "later write"])
def test_f23_an_overwrite_checks_its_predicate_and_shows_the_row(path: Path, first: bool) -> None:  # noqa: FBT001
    """Rows outside the predicate are refused, also by a first write; the message shows their values."""
    if not first:
        write_deltalake(path, batch("a", 1))
    with pytest.raises(DeltaError, match="77777"):
        write_deltalake(path, batch("b", 77777), mode="overwrite", predicate="p = 'a'")


def test_f23_a_first_write_of_dagster_deltalake_takes_any_row(tmp_path: Path) -> None:
    """A first write has no predicate there, so rows of partition b are taken in the run of partition a."""
    dagster_deltalake(tmp_path, LETTERS, "a", ["b"], "s", "t")
    assert rows(tmp_path / "s" / "t") == [("b", 1)]


WRITERS: dict[str, Callable[[Path, pl.DataFrame], object]] = {
    "append": lambda table, frame: write_deltalake(table, frame, mode="append"),
    "overwrite": lambda table, frame: write_deltalake(table, frame, mode="overwrite"),
    "merge": lambda table, frame: merge(DeltaTable(table), frame, "t.k = s.k"),
}
NOON = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
CAST = {
    "text into an integer": (pl.Int64, ["7"], 7),
    "2.5 into an integer": (pl.Int64, [2.5], 2),
    "nanoseconds into microseconds": (
        pl.Datetime("us"),
        pl.Series([1999], dtype=pl.Datetime("ns")),
        dt.datetime.fromisoformat("1970-01-01T00:00:00.000001"),
    ),
}
DRIFT = {
    "extra": pl.DataFrame({"k": [0], "v": [1], "x": [1]}),
    "missing": pl.DataFrame({"k": [0]}),
    "renamed": pl.DataFrame({"k": [0], "V": [1]}),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("what", CAST)
def test_f24_values_are_cast_without_a_word(path: Path, writer: str, what: str) -> None:
    """Every writer casts to the table's type and loses what does not fit: 2.5 becomes 2."""
    dtype, given, kept = CAST[what]
    write_deltalake(path, pl.DataFrame({"k": [0], "v": pl.Series([None], dtype=dtype)}))
    WRITERS[writer](path, pl.DataFrame({"k": [1], "v": given}))
    assert (1, kept) in rows(path)


@pytest.mark.parametrize("what", DRIFT)
def test_f24_a_merge_takes_other_columns_without_a_word(path: Path, what: str) -> None:
    """A merge drops a column that the table has not, and keeps the old value of one that it was not given."""
    assert merged(path, DRIFT[what]) == [(0, 1 if what == "extra" else 0)]


@pytest.mark.parametrize("writer", ["append", "overwrite"])
@pytest.mark.parametrize("what", DRIFT)
def test_f24_a_write_refuses_other_columns(path: Path, writer: str, what: str) -> None:
    """Writes, other than merges, do compare the columns."""
    write_deltalake(path, pl.DataFrame({"k": [0], "v": [0]}))
    with pytest.raises(SchemaMismatchError):
        WRITERS[writer](path, DRIFT[what])
    assert rows(path) == [(0, 0)]


@pytest.mark.parametrize("writer", WRITERS)
def test_f24_text_that_is_no_number_is_not_even_a_delta_error(path: Path, writer: str) -> None:
    """The failed cast of a text is a bare ``Exception``, the overflow of an integer a DeltaError."""
    write_deltalake(path, pl.DataFrame({"k": [0], "v": [0]}))
    with pytest.raises(Exception, match="Cast error") as caught:
        WRITERS[writer](path, pl.DataFrame({"k": [1], "v": ["zz"]}))
    assert type(caught.value) is Exception
    with pytest.raises(DeltaError, match="Cast error"):
        WRITERS[writer](path, pl.DataFrame({"k": [1], "v": pl.Series([2**63], dtype=pl.UInt64)}))


def test_f24_a_new_schema_with_a_predicate_is_the_new_schema_of_every_row(path: Path) -> None:
    """``schema_mode="overwrite"`` for one partition drops the column from all the others."""
    write_deltalake(path, pl.DataFrame({"p": ["a", "b"], "v": [1, 2], "n": [1, 2]}))
    write_deltalake(path, batch("a", 3), mode="overwrite", schema_mode="overwrite", predicate="p = 'a'")
    assert DeltaTable(path).schema().to_arrow().names == ["p", "n"]
    assert rows(path) == [("a", 3), ("b", 2)]


# F25, F26: values of partitions -------------------------------------------------------------------------------------

INJECTION = "x' OR '1'='1"
NAIVE = {
    "overwrite": [(INJECTION, 9)],
    "delete": [],
    "merge": [(INJECTION, 9)] * 3,
}


@pytest.mark.parametrize("act", NAIVE)
@pytest.mark.parametrize("quoted", [True, False], ids=["quoted", "naive"])
def test_f25_a_quote_in_a_partition_value(path: Path, act: str, quoted: bool) -> None:  # noqa: FBT001
    """A value put between quotes as it is makes a predicate true for the whole table; its quotes doubled, not."""
    write_deltalake(path, pl.concat([batch("a", 1), batch("b", 2), batch(INJECTION, 3)]))
    value = INJECTION.replace("'", "''") if quoted else INJECTION
    if act == "overwrite":
        write_deltalake(path, batch(INJECTION, 9), mode="overwrite", predicate=f"p = '{value}'")
    elif act == "delete":
        DeltaTable(path).delete(f"p = '{value}'")
    else:
        merger = DeltaTable(path).merge(batch(INJECTION, 9), f"t.p = '{value}'", source_alias="s", target_alias="t")
        merger.when_matched_update_all().execute()
    own = [] if act == "delete" else [(INJECTION, 9)]
    assert rows(path) == ([*own, ("a", 1), ("b", 2)] if quoted else NAIVE[act])


def empty_partition(path: Path) -> Path:
    write_deltalake(path, pl.concat([batch("", 1), batch("a", 2)]), partition_by=["p"])
    return path


def test_f26_readers_disagree_about_an_empty_partition_value(path: Path) -> None:
    """The log holds an empty string: Polars and the SQL of delta-rs read it so, PyArrow and the listing read null."""
    table = DeltaTable(empty_partition(path))
    assert sorted(pl.scan_delta(path).collect().rows()) == [("", 1), ("a", 2)]
    assert rows(path) == [("a", 2), (None, 1)]
    assert set(pl.DataFrame(table.get_add_actions(flatten=True))["partition.p"]) == {None, "a"}


@pytest.mark.parametrize("maintenance", [None, "z_order"])
def test_f26_a_compaction_turns_an_empty_partition_value_into_null(path: Path, maintenance: str | None) -> None:
    """Before it, a merge finds the row; after it, the row is of partition null, and the merge adds it again."""
    empty_partition(path)
    if maintenance:
        DeltaTable(path).optimize.z_order(["n"])
    merge(DeltaTable(path), batch("", 1), KEYS_ALONE)
    duplicate = [(None, 1)] if maintenance else []
    assert sorted(pl.scan_delta(path).collect().rows(), key=repr) == [("", 1), ("a", 2), *duplicate]


def test_f26_a_partition_value_longer_than_a_folder_name(path: Path) -> None:
    """A value that is too long, percent-encoded, for a folder is an error, and no table is left."""
    with pytest.raises(DeltaError, match="Unable to open file"):
        write_deltalake(path, batch("ñ" * 300, 1), partition_by=["p"])
    with pytest.raises(TableNotFoundError):
        DeltaTable(path)


# F27: time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", WRITERS)
def test_f27_an_aware_time_in_a_naive_column_is_utc_wall_time(path: Path, writer: str) -> None:
    """Moments with a zone are taken by a column without: the zone is lost, the clock is that of UTC."""
    write_deltalake(path, pl.DataFrame({"k": [0], "v": pl.Series([None], dtype=pl.Datetime("us"))}))
    local = pl.Series([NOON]).dt.convert_time_zone("America/New_York")
    WRITERS[writer](path, pl.DataFrame({"k": [1], "v": local}))
    assert (1, NOON.replace(tzinfo=None)) in rows(path)


@pytest.mark.parametrize("writer", ["append", "overwrite"])
def test_f27_a_naive_time_in_an_aware_column_looks_like_a_conflict(path: Path, writer: str) -> None:
    """The refusal is a CommitFailedError, though no retry can ever mend it."""
    write_deltalake(path, pl.DataFrame({"k": [0], "v": [NOON]}))
    with pytest.raises(CommitFailedError, match="TimestampWithoutTimezone"):
        WRITERS[writer](path, pl.DataFrame({"k": [1], "v": [NOON.replace(tzinfo=None)]}))


def test_f27_a_merge_takes_a_naive_time_for_utc(path: Path) -> None:
    """A merge, other than a write, takes a time without zone into a column with one."""
    write_deltalake(path, pl.DataFrame({"k": [0], "v": [NOON]}))
    merge(DeltaTable(path), pl.DataFrame({"k": [1], "v": [NOON.replace(tzinfo=None)]}), "t.k = s.k")
    assert rows(path) == [(0, NOON), (1, NOON)]


def test_f27_dagster_names_the_second_hour_of_a_clock_change_otherwise() -> None:
    """The second 01:00 of New York's November has an offset in its key, which the format of the keys cannot parse."""
    hours = dg.HourlyPartitionsDefinition("2024-11-03-00:00", end_date="2024-11-03-03:00", timezone="America/New_York")
    keys = hours.get_partition_keys()
    assert keys == ["2024-11-03-00:00", "2024-11-03-01:00", "2024-11-03-01:00-0500", "2024-11-03-02:00"]
    with pytest.raises(ValueError, match="unconverted data"):
        dt.datetime.strptime(keys[2], hours.fmt)  # noqa: DTZ007 - that is the point
    starts = [hours.time_window_for_partition_key(key).start.timestamp() for key in keys]
    assert [later - earlier for earlier, later in itertools.pairwise(starts)] == [3600.0] * 3


def test_f27_dagster_deltalake_refuses_every_hour_but_the_first_of_a_day(tmp_path: Path) -> None:
    """dagster-deltalake writes the predicate of an hour as that of its day: every hour but the first is refused."""
    dagster_deltalake(tmp_path, HOURS, "2024-01-01-00:00", [NOON.replace(hour=0)], "s", "t")
    with pytest.raises(DeltaError, match="validation check"):
        dagster_deltalake(tmp_path, HOURS, "2024-01-01-01:00", [NOON.replace(hour=1)], "s", "t")


# F28 to F30: Dagster ------------------------------------------------------------------------------------------------


def test_f28_a_pool_of_one_does_not_hold_between_ephemeral_instances() -> None:
    """Two ``materialize()`` at once run their steps at once, though the pool has room for one."""
    meeting = threading.Barrier(2, timeout=60)
    errors: list[BaseException] = []

    @dg.asset(pool="one")
    def step() -> None:
        meeting.wait()  # broken, if the other step does not run meanwhile

    def run() -> None:
        try:
            with dg.DagsterInstance.ephemeral() as instance:
                instance.event_log_storage.set_concurrency_slots("one", 1)
                dg.materialize([step], instance=instance)
        except BaseException as error:  # noqa: BLE001 - asserted below
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


KILLED_IN_ITS_STEP = """
import os, signal, sys
import dagster as dg
@dg.asset(pool="one")
def step():
    os.kill(os.getpid(), signal.SIGKILL)
with dg.DagsterInstance.local_temp(sys.argv[1]) as instance:
    instance.event_log_storage.set_concurrency_slots("one", 1)
    dg.materialize([step], instance=instance)
"""


def test_f29_a_killed_run_stays_started_and_keeps_its_slot(tmp_path: Path) -> None:
    """The run of a killed process is "started" for ever and occupies the pool until its slot is freed by hand."""
    assert child(KILLED_IN_ITS_STEP, tmp_path).returncode == -signal.SIGKILL
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.STARTED
        assert instance.event_log_storage.get_concurrency_info("one").active_run_ids == {run.run_id}
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        assert instance.event_log_storage.get_concurrency_info("one").active_slot_count == 0


def test_f30_the_file_system_io_manager_leaves_its_folder(tmp_path: Path) -> None:
    """An asset key with ``..`` is written outside of ``base_dir``."""
    base = tmp_path / "outer" / "base"

    @dg.asset(key=["..", "x"])
    def outside() -> int:
        return 1

    dg.materialize([outside], resources={"io_manager": dg.FilesystemIOManager(base_dir=str(base))})
    assert [file.relative_to(tmp_path) for file in tmp_path.rglob("x")] == [(base.parent / "x").relative_to(tmp_path)]


def test_f30_dagster_deltalake_leaves_its_root(tmp_path: Path) -> None:
    """An asset key with ``..`` makes a table outside of ``root_uri``."""
    dagster_deltalake(tmp_path / "outer" / "root", LETTERS, "a", ["a"], "..", "x")
    assert rows(tmp_path / "outer" / "x") == [("a", 1)]


class Payload:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_f30_the_file_system_io_manager_runs_what_a_file_says(tmp_path: Path) -> None:
    """Loading an input unpickles its file: whoever can write the file runs code in the step."""

    @dg.asset
    def upstream() -> int:
        return 1

    @dg.asset
    def downstream(upstream: object) -> None:
        del upstream

    resources = {"io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path))}
    dg.materialize([upstream], resources=resources)
    (tmp_path / "upstream").write_bytes(pickle.dumps(Payload(tmp_path / "made by the payload")))
    dg.materialize([upstream, downstream], selection=[downstream], resources=resources)
    assert (tmp_path / "made by the payload").is_dir()


# F31: paths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["[x]", "a[b", "x]"])
def test_f31_a_bracket_in_the_path_is_a_panic(tmp_path: Path, name: str) -> None:
    """The panic of ``write_deltalake`` is no ``Exception``; ``DeltaTable`` opens and makes the same path."""
    with pytest.raises(BaseException, match="InvalidDomainCharacter") as caught:
        write_deltalake(tmp_path / name / "t", batch("a", 1))
    assert type(caught.value).__name__ == "PanicException"
    assert not isinstance(caught.value, Exception)
    DeltaTable.create(tmp_path / name / "t", batch("a").to_arrow().schema)
    assert rows(tmp_path / name / "t") == []


@pytest.mark.parametrize("name", ["a%20b", "a\\b"])
def test_f31_a_path_is_read_as_if_it_were_a_url(tmp_path: Path, name: str) -> None:
    """The log is written where the path says, and looked for where the path as a URL says."""
    with pytest.raises(DeltaError, match="not found"):
        write_deltalake(tmp_path / name / "t", batch("a", 1))
    assert commit_file(tmp_path / name / "t", 0).exists()
