"""Compaction, vacuum, checkpoints and the orphan report: no row changes, and nothing goes that is still needed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable

from pattern_platform import StatefulMergerIOManager, read_version_table
from pattern_platform.errors import MissingVersionError, RetentionError, RowCountError
from pattern_platform.lake import maintenance as maintenance_module
from pattern_platform.lake.log import commit_path
from pattern_platform.lake.maintenance import checkpoint, compact, orphans, vacuum
from pattern_platform.lake.pins import pin
from pattern_platform_tests.lake.tables import data_files, failing, failures, live_files, refused
from pattern_platform_tests.patterns.idempotency.merging import before_commit, held, keyed, merger, refusal, small_files

if TYPE_CHECKING:
    from pathlib import Path

    from pattern_platform_tests.lake.tables import Table

NOW = timedelta(0)
DAYS = dg.DailyPartitionsDefinition("2024-10-05", "2024-10-20")


def day(number: int) -> str:
    return f"2024-10-{number:02}"


@pytest.fixture
def merged(tmp_path: Path) -> Table:
    """Four files of one key each, in no order."""
    table = merger(tmp_path)
    for key in "dbac":
        table.write(keyed(**{key: 1}))
    return table


@pytest.fixture
def days(tmp_path: Path) -> Table:
    """Four days of a stateful merger, a key each, in versions 1 to 4."""
    table = merger(tmp_path, io_manager=StatefulMergerIOManager, definition=DAYS)
    for number, key in enumerate("abcd", start=5):
        table.write(keyed(**{key: 1}), day(number))
    return table


def test_compaction_makes_one_file_and_changes_no_row(merged: Table) -> None:
    (made,) = compact(merged.path, sort_by=["k"])
    assert made.version == merged.version == 5
    assert len(live_files(merged)) == 1
    assert held(merged) == dict.fromkeys("abcd", 1)
    assert pl.read_parquet(merged.handle.file_uris()[0])["k"].to_list() == list("abcd")


def test_compaction_is_no_change_of_data(merged: Table) -> None:
    compact(merged.path, sort_by=["k"])
    log = (merged.path / "_delta_log" / f"{5:020}.json").read_text()
    assert log.count('"dataChange":false') == 5
    assert "true" not in log


def test_compaction_of_a_compact_table_does_nothing(merged: Table) -> None:
    compact(merged.path, sort_by=["k"])
    assert compact(merged.path, sort_by=["k"]) == []
    assert merged.version == 5


def test_compaction_leaves_files_that_are_large_enough(merged: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(monkeypatch, rows=2)
    assert [made.change_set.remove.height for made in compact(merged.path, sort_by=["k"])] == [2, 2]
    assert len(live_files(merged)) == 2
    assert held(merged) == dict.fromkeys("abcd", 1)


def test_compaction_keeps_physical_partitions_apart(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"partition_by": ["v"]})
    for key, value in (("a", 1), ("b", 2), ("c", 1), ("d", 2)):
        table.write(keyed(**{key: value}))
    compact(table.path, sort_by=["k"])
    assert len(live_files(table)) == 2
    assert held(table) == {"a": 1, "b": 2, "c": 1, "d": 2}


def test_f01_two_compactions_at_once(merged: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one finds nothing left to do; with bare delta-rs every row would be there twice."""
    before_commit(monkeypatch, lambda: compact(merged.path, sort_by=["k"]))
    compact(merged.path, sort_by=["k"])
    assert held(merged) == dict.fromkeys("abcd", 1)
    assert len(live_files(merged)) == 1


def test_f02_a_merge_during_a_compaction_is_not_undone(merged: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before_commit(monkeypatch, lambda: merged.write(keyed(a=2, e=1)))
    compact(merged.path, sort_by=["k"])
    assert held(merged) == {"a": 2, "b": 1, "c": 1, "d": 1, "e": 1}


def test_a_compaction_during_a_merge_is_not_undone(merged: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before_commit(monkeypatch, lambda: compact(merged.path, sort_by=["k"]))
    merged.write(keyed(a=2, e=1))
    assert held(merged) == {"a": 2, "b": 1, "c": 1, "d": 1, "e": 1}


def test_a_compaction_that_would_lose_rows_is_refused(merged: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the count: a reader that skips rows is noticed before anything is committed."""
    scan = maintenance_module.scan_files
    monkeypatch.setattr(maintenance_module, "scan_files", lambda *arguments: scan(*arguments).head(3))
    with refused(merged.root, RowCountError, "3 rows", "4"):
        compact(merged.path, sort_by=["k"])


def test_vacuum_keeps_every_recorded_version(days: Table) -> None:
    compact(days.path, sort_by=["k"])
    assert vacuum(days.path, retention=NOW, longest_run=NOW) == []
    days.write(keyed(c=2), day(7))
    assert held(days) == {"a": 1, "b": 1, "c": 2}
    for version in read_version_table(str(days.path))["table_version"]:
        assert days.rows(version).height


def test_sm12_a_vacuum_of_someone_else_does_not(days: Table) -> None:
    """The negative control: the same vacuum without the recorded versions."""
    compact(days.path, sort_by=["k"])
    days.handle.vacuum(0, enforce_retention_duration=False, dry_run=False)
    with refused(days.root, MissingVersionError, day(7), "version 2", f"--partition {day(5)}"):
        days.write(keyed(c=2), day(7))


@failures
def test_a_day_is_retried_when_the_version_it_starts_from_could_not_be_read(days: Table, failure: str) -> None:
    executions: list[int] = []
    unreadable = ExitStack()
    unreadable.enter_context(failing(commit_path(days.path, 1), failure))

    def value(_: object) -> pl.DataFrame:
        executions.append(1)
        if len(executions) == 2:
            unreadable.close()
        return keyed(c=2)

    with unreadable:
        days.with_(retry_policy=dg.RetryPolicy(max_retries=3)).write(value, day(7))
    assert len(executions) == 2
    assert held(days) == {"a": 1, "b": 1, "c": 2}


def test_a_version_that_cannot_be_read_just_now_does_not_hide_that_another_is_gone(days: Table) -> None:
    """Version 1 is there still, and would shorten the replay, but it cannot be asked."""
    DeltaTable(days.path, version=3).create_checkpoint()
    compact(days.path, sort_by=["k"])
    days.handle.vacuum(0, enforce_retention_duration=False, dry_run=False, keep_versions=[1])
    assert refusal(days.root, MissingVersionError, lambda: days.write(keyed(d=2), day(8))) == [day(6), day(7), day(8)]
    with failing(commit_path(days.path, 1), "stat"):
        replay = refusal(days.root, MissingVersionError, lambda: days.write(keyed(d=2), day(8)))
    assert replay == [day(5), day(6), day(7), day(8)]


def test_vacuum_removes_what_no_version_needs(days: Table) -> None:
    first, second = days.version, days.write(keyed(x=1), day(8)).version
    days.write(keyed(y=1), day(8))
    removed = vacuum(days.path, retention=NOW, longest_run=NOW)
    assert len(removed) == 2  # of the versions that day 8 no longer records
    with pytest.raises(FileNotFoundError):
        days.rows(first)
    with pytest.raises(FileNotFoundError):
        days.rows(second)
    assert held(days) == {"a": 1, "b": 1, "c": 1, "y": 1}


def test_vacuum_keeps_files_that_a_restore_brought_back(days: Table) -> None:
    days.write(keyed(c=2), day(7))  # removes the files of c and d
    days.write(keyed(d=2), day(8))
    days.write(keyed(b=2), day(6))  # removes those of b, c and d, and brings none back
    days.write(keyed(c=3), day(7))
    vacuum(days.path, retention=NOW, longest_run=NOW)
    assert held(days) == {"a": 1, "b": 2, "c": 3}


def test_x5_vacuum_with_a_retention_shorter_than_the_longest_run_is_refused(days: Table) -> None:
    days.write(keyed(c=2), day(7))
    with refused(days.root, RetentionError, "1:00:00", "2:00:00"):
        vacuum(days.path, retention=timedelta(hours=1), longest_run=timedelta(hours=2))


def test_f18_vacuum_never_removes_files_that_no_commit_names_yet(days: Table) -> None:
    (days.path / "part-in-flight.parquet").write_bytes(b"")
    vacuum(days.path, retention=NOW, longest_run=NOW)
    assert "part-in-flight.parquet" in data_files(days)


def test_retention_is_counted_from_the_removal(merged: Table) -> None:
    compact(merged.path, sort_by=["k"])
    assert vacuum(merged.path, retention=timedelta(hours=1), longest_run=NOW) == []
    assert len(vacuum(merged.path, retention=NOW, longest_run=NOW)) == 4


def test_a_checkpoint_is_written(merged: Table) -> None:
    checkpoint(merged.path)
    assert list((merged.path / "_delta_log").glob(f"{merged.version:020}.checkpoint*.parquet"))
    assert held(merged) == dict.fromkeys("abcd", 1)


def test_orphans_are_named_and_left(days: Table) -> None:
    days.write(keyed(x=1), day(8))  # removed files of older versions are no orphans
    (days.path / "part-left.parquet").write_bytes(b"123")
    found = orphans(days.path, older_than=NOW)
    assert found.select("path", "size_bytes").rows() == [("part-left.parquet", 3)]
    assert "part-left.parquet" in data_files(days)


def test_a_young_file_may_belong_to_a_run(days: Table) -> None:
    (days.path / "part-left.parquet").write_bytes(b"123")
    assert orphans(days.path, older_than=timedelta(hours=2)).is_empty()


def test_upkeep_of_a_table_that_is_not_there(tmp_path: Path) -> None:
    assert compact(tmp_path / "none") == []
    assert vacuum_of_nothing(tmp_path) == []
    assert orphans(tmp_path / "none", older_than=NOW).is_empty()
    assert not (tmp_path / "none").exists()


def vacuum_of_nothing(folder: Path) -> list[str]:
    return vacuum(folder / "none", retention=NOW, longest_run=NOW)


def test_upkeep_is_no_foreign_change(days: Table) -> None:
    compact(days.path, sort_by=["k"])
    vacuum(days.path, retention=NOW, longest_run=NOW)
    checkpoint(days.path)
    assert days.write(keyed(e=1), day(9)).version == 6 + vacuum_commits(days)
    assert held(days) == dict.fromkeys("abcde", 1)


def vacuum_commits(table: Table) -> int:
    return sum(entry["operation"].startswith("VACUUM") for entry in DeltaTable(table.path).history())


# The log --------------------------------------------------------------------------------------------------------------


def _log_of(table: Table) -> set[str]:
    return {path.name for path in (table.path / "_delta_log").glob("*.json")}


def _aged(table: Table, seconds: float = 40 * 24 * 3600.0) -> None:
    """Let the log of a table be 40 days old."""
    for path in (table.path / "_delta_log").iterdir():
        os.utime(path, (path.stat().st_atime - seconds, path.stat().st_mtime - seconds))


def test_an_old_log_goes_and_no_row_with_it(merged: Table) -> None:
    checkpoint(merged.path)
    _aged(merged)
    before = held(merged)
    merged.write(keyed(e=1))
    checkpoint(merged.path)
    assert _log_of(merged) < {commit_path(merged.path, version).name for version in range(6)}
    assert held(merged) == {**before, "e": 1}
    merged.write(keyed(a=2))
    assert held(merged)["a"] == 2


def test_a_young_log_stays(merged: Table) -> None:
    checkpoint(merged.path)
    checkpoint(merged.path)
    assert len(_log_of(merged)) == 5


@pytest.mark.parametrize("kind", ["days", "merged"])
def test_a_log_that_names_older_versions_stays(request: pytest.FixtureRequest, kind: str) -> None:
    """Those of a stateful merger are restored; others may be shown by a view."""
    table: Table = request.getfixturevalue(kind)
    if kind == "merged":
        pin(table.path, [1])
    checkpoint(table.path)
    _aged(table)
    checkpoint(table.path)
    assert len(_log_of(table)) == 5
    assert DeltaTable(table.path, version=1).file_uris()
