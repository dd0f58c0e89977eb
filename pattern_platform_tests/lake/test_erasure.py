"""Erasure: nobody's data goes but the person's, that goes from every version, and the proof can fail."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pattern_platform import read_version_table
from pattern_platform.errors import (
    CommitConflictError,
    InvalidErasureError,
    MissingTableError,
    SupersededPartitionsError,
    UnreadableLogError,
    UnrecordedCommitError,
    UnsupportedTableError,
)
from pattern_platform.lake import commit as commit_module
from pattern_platform.lake import rewrite_history as history_module
from pattern_platform.lake import rewrite_table as rewrite_module
from pattern_platform.lake.erasure import erase_from_table, find_in_table, left_in_table
from pattern_platform.lake.immutable import remove_table, write_once
from pattern_platform.lake.log import commit_path
from pattern_platform.lake.maintenance import checkpoint, compact
from pattern_platform.lake.pins import pin, pinned
from pattern_platform.lake.snapshot import open_table, open_version
from pattern_platform.lake.subject import Subject
from pattern_platform_tests.lake.tables import Table, contents, copied
from pattern_platform_tests.patterns.idempotency.merging import (
    before_commit,
    changed,
    day,
    held,
    keyed,
    merger,
    small_files,
    stateful,
    versions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LONG = "140665101097856_0316986e-9e7c-448f-9aac-5727dde96537"  # engines keep 32 characters of it in the log
WHO = Subject(LONG, ("user_id",))
KEY = Subject("erased", ("k",))  # of tables that are merged by k


def visits(*users: str | None, **columns: Any) -> pl.DataFrame:
    """Rows of users, in this order, of all kinds of columns."""
    rows = pl.DataFrame(
        {
            "user_id": pl.Series(users, dtype=pl.String),
            "n": pl.Series(range(len(users)), dtype=pl.Int64),
            "at": pl.Series([dt.datetime(2024, 1, 1, 1, 2, 3, 456789, tzinfo=dt.UTC)] * len(users)),
            "payload": pl.Series([json.dumps({"user": {"user_id": user}}) for user in users], dtype=pl.String),
            "events": pl.Series([[{"x": 1.5}]] * len(users), dtype=pl.List(pl.Struct({"x": pl.Float64}))),
        }
    )
    return rows.with_columns(**columns)


def appended(table: Path, rows: pl.DataFrame, mode: Any = "append", **options: Any) -> None:
    write_deltalake(table, rows, mode=mode, **options)


def history(table: Path) -> dict[int, pl.DataFrame]:
    """The rows of every version that delta-rs can read, in their order."""
    found = {}
    for version in range(DeltaTable(table).version() + 1):
        with suppress(FileNotFoundError, OSError):
            found[version] = pl.DataFrame(DeltaTable(table, version=version).to_pyarrow_table())
    return found


def erase(table: Path, subject: Subject = WHO) -> Any:
    return erase_from_table(table, subject, metadata={"receipt": "r-1"})


def assert_erased(table: Path, before: Mapping[int, pl.DataFrame], subject: Subject = WHO) -> None:
    """Every version holds its rows without the person's, read by delta-rs and Polars, and the proof finds nothing."""
    assert left_in_table(table, subject) == []
    for version, rows in before.items():
        kept = rows.filter(~rows.select(held=subject.in_row(rows.schema))["held"])
        now = pl.DataFrame(DeltaTable(table, version=version).to_pyarrow_table())
        assert now.rows() == kept.rows(), version
        assert pl.scan_delta(str(table), version=version).collect().rows() == kept.rows()
        assert int(open_version(table, version).files["num_records"].sum()) == kept.height


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "visits"
    appended(path, visits("a", LONG, "b"))
    appended(path, visits("c", LONG))
    appended(path, visits("d", "e"))
    DeltaTable(path).delete("user_id = 'c'")
    DeltaTable(path).create_checkpoint()
    appended(path, visits("f", LONG))
    DeltaTable(path).restore(1)
    return path


@pytest.fixture
def table(tmp_path: Path, original: Path) -> Path:
    """A table of another engine: appends, a delete, a checkpoint, a restore; the person in versions 0 to 5."""
    return Path(shutil.copytree(original, tmp_path / "visits"))


# What goes, and what stays ------------------------------------------------------------------------------------------


def test_every_version_is_without_the_person_and_otherwise_as_it_was(table: Path) -> None:
    before = history(table)
    assert len(before) == 6
    done = erase(table)
    assert (done.table, done.rows, done.versions, done.files) == (table, 2, [6], 4)
    assert done.log_files > 0
    assert_erased(table, before)
    assert DeltaTable(table).history(1)[0]["pattern_platform.phase"] == "erasure"
    assert DeltaTable(table).history(1)[0]["pattern_platform.receipt"] == "r-1"


def test_what_a_dry_run_says_is_what_happens_and_it_writes_nothing(table: Path) -> None:
    before = contents(table)
    found = find_in_table(table, WHO)
    assert contents(table) == before
    done = erase(table)
    assert found.versions == []
    assert (found.rows, found.files, found.log_files) == (done.rows, done.files, done.log_files)


def test_a_second_erasure_writes_nothing(table: Path) -> None:
    erase(table)
    before = contents(table)
    again = erase(table)
    assert (again.rows, again.versions, again.files, again.log_files) == (0, [], 0, 0)
    assert contents(table) == before


def test_files_of_others_are_not_touched(table: Path) -> None:
    others = {path for path in table.glob("*.parquet") if LONG not in pl.read_parquet(path)["user_id"].to_list()}
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in others}
    erase(table)
    assert others
    assert {path: (path.read_bytes(), path.stat().st_ino) for path in others} == before


def test_times_of_versions_stay(table: Path) -> None:
    when = {v: commit_path(table, v).stat().st_mtime_ns // 1_000_000 for v in range(6)}
    erase(table)
    assert {v: commit_path(table, v).stat().st_mtime_ns // 1_000_000 for v in range(6)} == when


def test_values_of_every_type_stay(tmp_path: Path) -> None:
    table = tmp_path / "visits"
    rows = visits("a", LONG, "b").with_columns(
        d=pl.lit("12.50").cast(pl.Decimal(10, 2)),
        b=pl.lit(b"\x00\xff"),
        f=pl.Series([float("nan"), 1.0, -0.0]),
        s=pl.Series([{"x": [1], "y": None}, {"x": [], "y": "t"}, {"x": None, "y": ""}]),
        ntz=pl.lit(dt.datetime(2024, 1, 1, 1, 2, 3, 456789)),  # noqa: DTZ001 - a time without a zone
        small=pl.Series([1, 2, None], dtype=pl.Int8),
        day=pl.lit(dt.date(1900, 1, 1)),
        t=pl.Series([True, None, False]),
    )
    appended(table, rows)
    appended(table, rows, mode="overwrite")
    schema = DeltaTable(table).schema().to_json()
    before = {version: frame.filter(pl.col("user_id") != LONG) for version, frame in history(table).items()}
    erase(table)
    after = history(table)
    assert list(after) == [0, 1, 2]
    assert all(after[version].equals(frame, null_equal=True) for version, frame in {**before, 2: before[1]}.items())
    assert DeltaTable(table).schema().to_json() == schema


def test_types_and_statistics_stay(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.write(visits("z", LONG, "a"))
    schema = table.handle.schema().to_json()
    erase(table.path)
    assert table.handle.schema().to_json() == schema
    (file,) = open_version(table.path, table.version).files.iter_rows(named=True)
    assert (file["min.user_id"], file["max.user_id"], file["num_records"]) == ("a", "z", 2)
    assert table.rows()["user_id"].to_list() == ["z", "a"]
    assert len(duckdb.read_parquet(table.handle.file_uris())) == 2


users = st.lists(st.sampled_from(["a", "b", LONG, "ü", None]), min_size=1, max_size=4)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), users),
        st.tuples(st.just("overwrite"), users),
        st.tuples(st.just("delete"), st.sampled_from(["a", LONG])),
        st.tuples(st.sampled_from(["compact", "checkpoint", "restore", "orphan"]), st.just(None)),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=users, steps=steps, partitioned=st.booleans())
def test_any_history_of_any_table(first: list[str | None], steps: Any, partitioned: bool) -> None:  # noqa: FBT001
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table"
        appended(table, visits(*first), partition_by=["user_id"] if partitioned else None)
        for step, value in steps:
            match step:
                case "append" | "overwrite":
                    appended(table, visits(*value), mode=step)
                case "delete":
                    DeltaTable(table).delete(f"user_id = '{value}'")
                case "compact":
                    compact(table)
                case "checkpoint":
                    DeltaTable(table).create_checkpoint()
                case "restore":
                    with suppress(DeltaError):  # there is no later version
                        DeltaTable(table).restore(0)
                case "orphan":
                    visits("a", LONG).write_parquet(table / "orphan.parquet")
        before = history(table)
        erase(table)
        assert_erased(table, before)
        assert not erase(table).versions


# Kinds of tables ----------------------------------------------------------------------------------------------------


def test_a_partition_of_the_person_goes_with_its_folder(tmp_path: Path) -> None:
    table = tmp_path / "visits"
    appended(table, visits("a b", LONG), partition_by=["user_id"])
    appended(table, visits(LONG, "c", None), partition_by=["user_id"])
    DeltaTable(table).delete("user_id = 'c'")
    checkpoint(table)
    before = history(table)
    assert any(LONG in str(path) for path in table.rglob("*"))
    erase(table)
    assert not any(LONG in str(path) for path in table.rglob("*"))
    assert_erased(table, before)


@pytest.mark.parametrize("value", [dt.date(2024, 1, 2), dt.datetime(2024, 1, 2, 3, tzinfo=dt.UTC), 7, True, "a/b %c"])
def test_partition_values_of_any_type_stay(tmp_path: Path, value: Any) -> None:
    table = tmp_path / "visits"
    rows = visits("a", LONG, "b").with_columns(part=pl.lit(value))
    appended(table, rows, partition_by=["part"])
    appended(table, rows, partition_by=["part"], mode="overwrite")
    before = history(table)
    erase(table)
    assert_erased(table, before)
    assert DeltaTable(table).to_pyarrow_table()["part"].to_pylist() == [value] * 2


def test_a_merged_table_is_merged_into_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(monkeypatch)
    table = merger(tmp_path)
    table.write(keyed(a=1, erased=2, z=3))
    table.write(keyed(erased=4, b=5))
    before = history(table.path)
    assert erase(table.path, KEY).rows == 1
    assert_erased(table.path, before, KEY)
    table.write(keyed(a=6))
    assert held(table) == {"a": 6, "b": 5, "z": 3}
    assert left_in_table(table.path, KEY) == []


def test_side_tables_are_tables_too(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"bad_rows": "quarantine"})
    rows = pl.DataFrame({"k": ["erased", None, "b"], "v": [1, 2, 3]})
    table.write(rows.with_columns(record=pl.lit('{"k": "erased"}')))
    quarantine = table.path.with_name("table__quarantine")
    assert erase(quarantine, KEY).rows == 1
    assert left_in_table(quarantine, KEY) == []


@pytest.fixture(scope="module")
def original_days(tmp_path_factory: pytest.TempPathFactory) -> Table:
    table = stateful(tmp_path_factory.mktemp("days"))
    table.write(keyed(a=1), day(5))
    table.write(keyed(erased=1, b=1), day(6))
    table.write(keyed(c=1, erased=2), day(7))
    table.write(keyed(d=1), day(8))
    table.write(keyed(erased=3, b=2), day(6))
    return table


@pytest.fixture
def days(tmp_path: Path, original_days: Table) -> Table:
    """Four days of a stateful merger; the second was replayed, the later two are superseded."""
    return copied(original_days, tmp_path)


def test_partitions_keep_their_versions_and_their_status(days: Table) -> None:
    recorded, shown = read_version_table(str(days.path)), versions(days)
    assert list(shown) == ["10-05", "10-06", "10-07*", "10-08*"]
    before = history(days.path)
    erase(days.path, KEY)
    assert read_version_table(str(days.path)).equals(recorded)
    assert_erased(days.path, before, KEY)


def test_a_replay_of_a_middle_partition_brings_nobody_back(days: Table) -> None:
    erase(days.path, KEY)
    with pytest.raises(SupersededPartitionsError):
        days.write(keyed(d=2), day(8))
    days.write(keyed(c=2), day(7))
    assert held(days) == {"a": 1, "b": 2, "c": 2}
    days.write(keyed(d=2), day(8))
    days.write(keyed(b=3), day(6))
    assert held(days) == {"a": 1, "b": 3}
    assert left_in_table(days.path, KEY) == []


def test_partitions_go_on_after_an_erasure(days: Table) -> None:
    days.write(keyed(c=2), day(7))
    erase(days.path, KEY)
    days.write(keyed(d=2), day(8))
    days.write(keyed(e=1), day(9))
    assert held(days) == {"a": 1, "b": 2, "c": 2, "d": 2, "e": 1}


def test_a_change_of_somebody_else_is_still_refused_after_an_erasure(days: Table) -> None:
    days.handle.delete("k = 'a'")
    erase(days.path, KEY)
    with pytest.raises(UnrecordedCommitError, match="unrecorded commit"):
        days.write(keyed(c=2), day(7))


def test_pinned_versions_show_the_same_files_without_the_person(table: Path) -> None:
    pin(table, [1, 4])
    paths = {version: set(open_version(table, version).files["path"]) for version in (1, 4)}
    before = history(table)
    erase(table)
    assert pinned(table) == [1, 4]
    for version, files in paths.items():
        assert set(open_version(table, version).files["path"]) == files
        shown = duckdb.read_parquet([str(table / file) for file in files]).project("user_id").fetchall()
        assert sorted(shown) == sorted((user,) for user in before[version]["user_id"] if user != LONG)


def test_a_table_that_is_written_once_is_erased_from_and_stays_so(tmp_path: Path) -> None:
    table = tmp_path / "loads" / "1"
    write_once(visits("a", LONG, "b").lazy(), table, metadata={"run_id": "r"})
    before, modes = history(table), {path: path.stat().st_mode for path in table.rglob("*")}
    paths = DeltaTable(table).file_uris()
    opened = open_table(table)
    done = erase(table)
    assert (done.rows, done.versions) == (1, [])
    assert_erased(table, before)
    assert DeltaTable(table).file_uris() == paths
    assert all(path.stat().st_mode == mode for path, mode in modes.items())
    assert DeltaTable(table).metadata().configuration["delta.appendOnly"] == "true"
    assert open_table(table) is not opened
    remove_table(table)


def test_transaction_ids_stay(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=stateful(tmp_path).definition)
    table.write(keyed(erased=1, b=1), day(5))
    said = [line for v in (1,) for line in commit_path(table.path, v).read_text().splitlines() if '"txn"' in line]
    assert said
    erase(table.path, KEY)
    assert [line for line in commit_path(table.path, 1).read_text().splitlines() if '"txn"' in line] == said


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0b", '"', "\\", "é", "%2F"])
def test_keys_of_any_signs(tmp_path: Path, sign: str) -> None:
    table, who = stateful(tmp_path), Subject(f"a{sign}b", ("k",))
    table.write(keyed(**{who.key: 1, f"a{sign}c": 1}), day(5))
    table.write(keyed(**{f"a{sign}d": 2}), day(6))
    assert left_in_table(table.path, who)
    assert erase(table.path, who).rows == 1
    assert left_in_table(table.path, who) == []
    table.write(keyed(z=1), day(6))
    assert held(table) == {f"a{sign}c": 1, "z": 1}


def test_integers_are_keys_too(tmp_path: Path) -> None:
    table = tmp_path / "visits"
    appended(table, pl.DataFrame({"user_id": [41, 42, 43], "n": [42, 1, 2]}))
    appended(table, pl.DataFrame({"user_id": [42], "n": [3]}))
    who = Subject("42", ("user_id",))
    assert erase(table, who).rows == 2
    assert pl.read_delta(str(table)).rows() == [(41, 42), (43, 2)]
    assert left_in_table(table, who) == []
    assert '"n":42' in commit_path(table, 0).read_text().replace(" ", "").replace("\\", "")


# The log ------------------------------------------------------------------------------------------------------------


def test_the_log_forgets_bounds_of_files_that_are_gone(table: Path) -> None:
    DeltaTable(table).vacuum(0, enforce_retention_duration=False, dry_run=False)
    cut = LONG[:32]
    assert any(cut in file.read_text() for file in (table / "_delta_log").glob("*.json"))
    erase(table)
    assert not any(cut in file.read_text() for file in (table / "_delta_log").glob("*.json"))
    assert left_in_table(table, WHO) == []


def test_a_log_that_begins_with_a_checkpoint_is_scrubbed_in_it(table: Path) -> None:
    for version in range(3):
        commit_path(table, version).unlink()
    before = {3: pl.DataFrame(DeltaTable(table, version=3).to_pyarrow_table())}
    erase(table)
    assert_erased(table, before)
    assert set(DeltaTable(table).to_pyarrow_table()["user_id"].to_pylist()) == {"a", "b", "c"}


def test_a_predicate_with_the_key_is_forgotten(table: Path) -> None:
    DeltaTable(table).delete(f"user_id = '{LONG}'")
    assert LONG in commit_path(table, 6).read_text()
    erase(table)
    assert LONG not in commit_path(table, 6).read_text()
    assert DeltaTable(table).version() == 6


def test_a_number_in_the_bounds_of_raw_lines_is_forgotten(tmp_path: Path) -> None:
    table, who = tmp_path / "raw", Subject("42", ("user_id",))
    lines = ['{"user_id": 42}', '{"user_id": 43}', '{"user_id": 44, "n": 42}']
    appended(table, pl.DataFrame({"payload": lines}))
    erase(table, who)
    assert left_in_table(table, who) == []
    assert pl.read_delta(str(table))["payload"].to_list() == lines[1:]
    assert 'user_id\\\\": 42' not in commit_path(table, 0).read_text()


def test_checksums_that_no_longer_fit_go(table: Path) -> None:
    for name in ("00000000000000000001.crc", ".00000000000000000001.json.crc", "_commit_1.json.tmp"):
        (table / "_delta_log" / name).write_text(LONG)
    erase(table)
    assert left_in_table(table, WHO) == []


def test_a_table_that_this_thread_keeps_open_is_read_anew(table: Path) -> None:
    kept = open_table(table)
    assert kept is not None
    erase(table)
    now = open_table(table)
    assert now is not None
    assert now.version == 6
    assert LONG not in pl.read_parquet([table / path for path in now.files["path"]])["user_id"]


# Crashes ------------------------------------------------------------------------------------------------------------


class _Crash(BaseException):
    """As a kill, which nothing catches."""


def crashing(monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], call: int) -> None:
    """The n-th call of a function is not made: the process is gone."""
    module, name = place
    function, calls = getattr(module, name), iter(range(1000))

    def gone(*given: Any, **named: Any) -> Any:
        if next(calls) == call:
            raise _Crash
        return function(*given, **named)

    monkeypatch.setattr(module, name, gone)


PLACES: dict[str, tuple[Any, str]] = {
    "the commit": (commit_module, "_append"),
    "writing a file": (rewrite_module, "write_files"),
    "replacing a file, data or log": (os, "replace"),
    "the log": (history_module, "edit_log"),
    "removing files": (history_module, "remove_files"),
    "the times of commits": (os, "utime"),
}


@pytest.mark.parametrize("call", [0, 2])
@pytest.mark.parametrize("place", PLACES)
def test_an_erasure_that_died_is_completed_by_another(
    table: Path, monkeypatch: pytest.MonkeyPatch, place: str, call: int
) -> None:
    (table / "orphan.parquet").write_bytes(next(table.glob("*.parquet")).read_bytes())
    visits("x", LONG).write_parquet(table / "orphan.parquet")
    before = history(table)
    with monkeypatch.context() as patched:
        crashing(patched, PLACES[place], call)
        with suppress(_Crash):
            erase(table)
    newest = DeltaTable(table).to_pyarrow_table()["user_id"].to_pylist()
    assert [user for user in newest if user != LONG] == ["c", "a", "b"]
    erase(table)
    assert_erased(table, before)
    assert not list(table.rglob(".*"))


@pytest.mark.parametrize("call", [0, 1, 2])
def test_an_erasure_that_died_in_a_table_that_is_written_once_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    table = tmp_path / "1"
    write_once(visits("a", LONG, "b").lazy(), table, metadata={"run_id": "r"})
    before, mode = history(table), table.stat().st_mode
    with monkeypatch.context() as patched:
        crashing(patched, (os, "replace"), call)
        with suppress(_Crash):
            erase(table)
    assert pl.read_parquet(DeltaTable(table).file_uris())["user_id"].to_list()[0] == "a"
    erase(table)
    assert_erased(table, before)
    assert table.stat().st_mode == mode


# Others at work -----------------------------------------------------------------------------------------------------


def test_a_commit_between_plan_and_lock_is_erased_from_too(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_commit(monkeypatch, lambda: appended(table, visits("g", LONG)))
    done = erase(table)
    assert (done.rows, done.versions) == (3, [7])
    assert left_in_table(table, WHO) == []
    assert sorted(DeltaTable(table).to_pyarrow_table()["user_id"].to_pylist()) == ["a", "b", "c", "g"]


def test_a_commit_while_history_is_rewritten_is_erased_from_too(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, acts = history_module.table_lock, iter([lambda: appended(table, visits("g", LONG))])

    def late(path: Path) -> Any:
        for act in acts:
            act()
        return lock(path)

    monkeypatch.setattr(history_module, "table_lock", late)
    done = erase(table)
    assert (done.rows, done.versions) == (3, [6, 8])
    assert left_in_table(table, WHO) == []


def test_a_replay_that_had_planned_before_does_not_bring_the_person_back(
    days: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    days.write(keyed(c=1), day(7))
    before_commit(monkeypatch, lambda: erase(days.path, KEY))
    with suppress(CommitConflictError):
        days.write(keyed(b=9), day(6))
    assert left_in_table(days.path, KEY) == []
    days.write(keyed(b=9), day(6))
    assert held(days) == {"a": 1, "b": 9}


def test_a_replay_that_had_planned_before_an_erasure_of_history_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The erasure makes no version, and the file that the replay restores has another size now."""
    table = stateful(tmp_path, metadata={"merge_keys": ["k"], "soft_delete": "gone"})
    table.write(changed(a=1, erased=1), day(5))
    table.write(changed(z=1), day(6))
    table.write(changed(gone=["erased"]), day(7))
    before_commit(monkeypatch, lambda: erase(table.path, KEY))
    with pytest.raises(CommitConflictError, match="run again"):
        table.write(changed(z=2), day(6))
    assert left_in_table(table.path, KEY) == []
    table.write(changed(z=2), day(6))
    assert held(table) == {"a": 1, "z": 2}
    assert left_in_table(table.path, KEY) == []


def test_two_erasures_at_once_bring_neither_person_back(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DeltaTable(table).delete("user_id is not null")  # both are in older versions alone, and make no version
    before, other = history(table), Subject("b", ("user_id",))
    lock, acts = history_module.table_lock, iter([lambda: erase(table, other)])

    def late(path: Path) -> Any:
        for act in acts:
            act()
        return lock(path)

    monkeypatch.setattr(history_module, "table_lock", late)
    assert erase(table).versions == []
    assert_erased(table, {v: rows.filter(pl.col("user_id") != "b") for v, rows in before.items()})
    assert left_in_table(table, other) == []


def test_orphans_go_and_a_file_that_is_being_written_is_left_to_its_run(table: Path) -> None:
    visits("x", LONG).write_parquet(table / "whole.parquet")
    visits("x", "y").write_parquet(table / "clean.parquet")
    for name in ("at_work.parquet", "dead.parquet"):
        (table / name).write_bytes((table / "whole.parquet").read_bytes()[:-8])
    shutil.copy(table / "clean.parquet", table / ".0123")  # of an erasure that was killed
    for name in ("dead.parquet", ".0123"):
        os.utime(table / name, (0, 0))
    erase(table)
    assert {path.name for path in table.glob("*k.parquet")} == {"at_work.parquet"}
    assert not (table / "whole.parquet").exists()
    assert not (table / "dead.parquet").exists()
    assert not (table / ".0123").exists()
    assert (table / "clean.parquet").exists()
    assert left_in_table(table, WHO) == ["at_work.parquet"]


# The proof can fail -------------------------------------------------------------------------------------------------


def _unscrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "edit_log", lambda *_: 0)


def test_without_the_scrub_the_log_is_found(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DeltaTable(table).vacuum(0, enforce_retention_duration=False, dry_run=False)
    _unscrubbed(monkeypatch)
    erase(table)
    left = left_in_table(table, WHO)
    assert "_delta_log/00000000000000000003.checkpoint.parquet" in left
    assert "_delta_log/00000000000000000004.json" in left
    assert all(path.startswith("_delta_log/") for path in left)


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("orphan.parquet", lambda file: visits(LONG).write_parquet(file)),
        ("other.parquet", lambda file: pl.DataFrame({"page": [f"/of/{LONG}"]}).write_parquet(file)),
        ("a/deep.parquet", lambda file: visits("a", LONG).write_parquet(file, mkdir=True)),
        ("no_suffix", lambda file: visits(LONG).write_parquet(file)),
        ("cut.parquet", lambda file: file.write_bytes(b"PAR1")),
        ("notes.txt", lambda file: file.write_text(f"user {LONG} called")),
        (f"user_id={LONG}", lambda file: file.mkdir()),
        ("_delta_log/_commit_x.json.tmp", lambda file: file.write_text(LONG)),
    ],
)
def test_what_is_planted_is_found(table: Path, name: str, planted: Callable[[Path], object]) -> None:
    erase(table)
    assert left_in_table(table, WHO) == []
    planted(table / name)
    assert left_in_table(table, WHO) == [name]


def test_a_column_that_was_not_declared_is_found(table: Path) -> None:
    appended(table, visits("a", n=pl.lit(1)).with_columns(user_id=pl.lit("a"), payload=pl.lit(f'{{"by": "{LONG}"}}')))
    done = erase(table)
    left = left_in_table(table, WHO)
    assert done.rows == 2
    assert len(left) >= 1
    assert left_in_table(table, Subject(LONG, ("user_id", "by"))) != []
    erase(table, Subject(LONG, ("user_id", "by")))
    assert left_in_table(table, WHO) == []


# Refusals -----------------------------------------------------------------------------------------------------------


def _constrained(table: Path) -> None:
    DeltaTable(table).alter.add_constraint({"n": "n >= 0"})


def _mapped(table: Path) -> None:
    shutil.rmtree(table)
    tags = pa.array([[("x", "y")]], pa.map_(pa.string(), pa.string()))
    write_deltalake(table, pa.table({"user_id": ["a"], "tags": tags}))


def _cloned(table: Path) -> None:
    text = commit_path(table, 0).read_text()
    name = json.loads(next(line for line in text.splitlines() if '"add"' in line))["add"]["path"]
    commit_path(table, 0).write_text(text.replace(name, f"file:///elsewhere/{name}"))


def _feed(table: Path) -> None:
    DeltaTable(table).alter.set_table_properties({"delta.enableChangeDataFeed": "true"})


def _torn(table: Path) -> None:
    commit_path(table, 0).write_text(commit_path(table, 0).read_text()[:-40])


def _lost(table: Path) -> None:
    Path(DeltaTable(table).file_uris()[0]).unlink()


def _cut(table: Path) -> None:
    file = Path(DeltaTable(table).file_uris()[0])
    file.write_bytes(file.read_bytes()[:-20])


def _garbage(table: Path) -> None:
    Path(DeltaTable(table).file_uris()[0]).write_text("not a table")


REFUSALS: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (shutil.rmtree, MissingTableError, "give the folder of a table"),
    (lambda table: shutil.rmtree(table / "_delta_log"), MissingTableError, "give the folder of a table"),
    (_constrained, UnsupportedTableError, "write it with the engine that made it"),
    (_feed, UnsupportedTableError, "write it with the engine that made it"),
    (_mapped, UnsupportedTableError, "rewrite it with the engine that made it"),
    (_cloned, UnsupportedTableError, "rewrite it with the engine that made it"),
    (_torn, UnreadableLogError, "from a backup"),
    (_lost, InvalidErasureError, "from a backup, or materialize its partition again"),
    (_cut, InvalidErasureError, "from a backup, or materialize its partition again"),
    (_garbage, InvalidErasureError, "from a backup, or materialize its partition again"),
]


@pytest.mark.parametrize(("spoil", "error", "mend"), REFUSALS)
@pytest.mark.parametrize("act", [erase, lambda table: find_in_table(table, WHO)], ids=["erase", "find"])
def test_what_cannot_be_erased_from_is_refused_untouched(
    tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception], mend: str, act: Callable[[Path], object]
) -> None:
    table = tmp_path / "visits"
    appended(table, visits("a", LONG))
    spoil(table)
    before = contents(tmp_path)
    with pytest.raises(error) as caught:
        act(table)
    assert mend in str(caught.value)
    assert LONG not in str(caught.value)
    assert contents(tmp_path) == before


def test_a_damaged_checkpoint_is_refused(table: Path) -> None:
    (file,) = (table / "_delta_log").glob("*.checkpoint.parquet")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UnreadableLogError, match="from a backup"):
        erase(table)


def test_writers_without_end_are_given_up_on(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = history_module.table_lock

    def late(path: Path) -> Any:
        appended(table, visits("g"))
        return lock(path)

    monkeypatch.setattr(history_module, "table_lock", late)
    with pytest.raises(CommitConflictError, match="let no run write this table"):
        erase(table)
