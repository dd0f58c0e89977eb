"""The faults that concern merges, on our mergers, by their ids; what the bare engine does is in ``test_engine``.

For upkeep (F1, F2, F16, F18) see ``lake/test_maintenance.py``; for F4 to F8, F15, F20 and F21 at random moments
``harness``; for every scenario of the patterns ``patterns/idempotency``.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest

from pattern_platform import MergerIOManager
from pattern_platform.errors import (
    DuplicateKeyError,
    LossyCastError,
    MissingColumnError,
    NullKeyError,
    RowsOutsidePartitionError,
    SupersededPartitionsError,
    UnknownColumnError,
    UnrecordedCommitError,
)
from pattern_platform.lake.maintenance import compact, vacuum
from pattern_platform_tests.lake.tables import refused
from pattern_platform_tests.patterns.idempotency.merging import (
    before_commit,
    day,
    elsewhere,
    held,
    keyed,
    merger,
    stateful,
    versions,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pattern_platform_tests.lake.tables import Table

NOW = timedelta(0)


@pytest.fixture
def days(tmp_path: Path) -> Table:
    """A stateful merger with three days, in versions 1 to 3."""
    table = stateful(tmp_path)
    for number, key in ((5, "a"), (6, "b"), (7, "c")):
        table.write(keyed(**{key: 1}), day(number))
    return table


def test_f06_merges_without_a_literal_partition_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = merger(tmp_path)
    table.write(keyed(a=1))
    before_commit(monkeypatch, lambda: table.write(keyed(b=1, c=1)))
    table.write(keyed(a=2, b=2))
    assert held(table) == {"a": 2, "b": 2, "c": 1}


def test_f08_the_state_is_part_of_the_commit(days: Table) -> None:
    """A death right after the commit of the third day leaves no version table that knows of it."""
    stored = days.root / "table__versions"
    for file in sorted(stored.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    elsewhere(lambda: days.write(keyed(d=1), day(8)))
    assert held(days) == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert versions(days) == {"10-05": 1, "10-06": 2, "10-07": 3, "10-08": 4}


def test_f09_a_predecessor_that_never_ran_truncates_nothing(days: Table) -> None:
    days.write(keyed(e=1), day(9))
    assert held(days) == {"a": 1, "b": 1, "c": 1, "e": 1}


def test_f10_a_correction_in_the_middle_is_not_lost_the_next_day(days: Table) -> None:
    days.write(keyed(b=2), day(6))
    with refused(days.root, SupersededPartitionsError, day(7)):
        days.write(keyed(d=1), day(8))
    days.write(keyed(c=1), day(7))
    days.write(keyed(d=1), day(8))
    assert held(days) == {"a": 1, "b": 2, "c": 1, "d": 1}


def test_f11_a_foreign_change_is_neither_undone_nor_built_upon(days: Table) -> None:
    days.handle.delete("k = 'a'")
    for number in (6, 8):
        with refused(days.root, UnrecordedCommitError, "v4"):
            days.write(keyed(x=1), day(number))


def test_f12_upkeep_between_runs_is_no_backfill(days: Table) -> None:
    compact(days.path, sort_by=["k"])
    vacuum(days.path, retention=NOW, longest_run=NOW)
    assert "delta/restored_to" not in days.write(keyed(d=1), day(8)).metadata
    assert held(days) == dict.fromkeys("abcd", 1)


def test_f13_no_reader_sees_the_restored_past(days: Table) -> None:
    """The replay of the second day is one commit: every version is a state that a run left."""
    days.write(keyed(b=2), day(6))
    states = [held(days, version) for version in range(days.version + 1)]
    assert states == [{}, {"a": 1}, {"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 2}]


def test_f14_an_empty_merge_has_a_version_of_its_own(days: Table) -> None:
    assert days.write(keyed(), day(8)).version == 4
    assert versions(days)["10-08"] == 4


def test_f15_a_day_that_commits_between_makes_the_plan_anew(days: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before_commit(monkeypatch, lambda: days.write(keyed(b=2), day(6)))
    assert days.write(keyed(c=2), day(7)).version == 5
    assert held(days) == {"a": 1, "b": 2, "c": 2}


def test_f16_a_backfill_after_a_vacuum_of_the_platform(days: Table) -> None:
    compact(days.path, sort_by=["k"])
    vacuum(days.path, retention=NOW, longest_run=NOW)
    days.write(keyed(b=2), day(6))
    assert held(days) == {"a": 1, "b": 2}


def test_f17_the_log_outlives_its_default_retention(tmp_path: Path) -> None:
    """Every file of the log is ninety days old when checkpoints are written, which is when engines clean it up."""
    table = stateful(tmp_path)
    for number in range(5, 15):
        table.write(keyed(**{f"k{number}": 1}), day(number))
    past = time.time() - 90 * 24 * 3600
    for file in (table.path / "_delta_log").iterdir():
        os.utime(file, (past, past))
    table.handle.create_checkpoint()
    table.handle.cleanup_metadata()
    table.write(keyed(k6=2), day(6))
    assert held(table) == {"k5": 1, "k6": 2}


def test_f21_the_same_run_twice_changes_nothing(tmp_path: Path) -> None:
    table = merger(tmp_path)
    for _ in range(2):
        table.write(keyed(a=1, b=2))
        assert held(table) == {"a": 1, "b": 2}


@pytest.mark.parametrize("io_manager", [MergerIOManager, None])
def test_f22_null_and_duplicate_keys_are_refused(tmp_path: Path, io_manager: type | None) -> None:
    table = merger(tmp_path) if io_manager else stateful(tmp_path)
    key = None if io_manager else day(5)
    with refused(tmp_path, NullKeyError, "1 row(s)"):
        table.write(pl.DataFrame({"k": [None, "a"], "v": [1, 2]}), key)
    with refused(tmp_path, DuplicateKeyError, "2 row(s)"):
        table.write(pl.DataFrame({"k": ["a", "a"], "v": [1, 2]}), key)


def test_f23_rows_of_another_partition_are_refused(tmp_path: Path) -> None:
    table = stateful(tmp_path, partition_expr="day")
    rows = keyed(a=1).with_columns(pl.lit(day(6)).str.to_date().alias("day"))
    with refused(tmp_path, RowsOutsidePartitionError, day(5)):
        table.write(rows, day(5))


def test_f24_drift_is_refused(tmp_path: Path) -> None:
    table = merger(tmp_path)
    table.write(keyed(a=1))
    for error, batch in (
        (UnknownColumnError, keyed(a=1).with_columns(extra=pl.lit(1))),
        (MissingColumnError, keyed(a=1).drop("v")),
        (MissingColumnError, keyed(a=1).rename({"v": "V"})),
        (LossyCastError, keyed(a=1).with_columns(v=pl.lit(2.5))),
    ):
        with refused(tmp_path, error):
            table.write(batch)
