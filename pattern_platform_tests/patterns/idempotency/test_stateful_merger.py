"""Stateful Merger, scenario by scenario; then what happens to its versions: lost, forged, cleaned up, raced for."""

from __future__ import annotations

import datetime as dt
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dagster as dg
import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema, write_deltalake
from polars.testing import assert_frame_equal

from pattern_platform import read_version_table, validate_definitions
from pattern_platform.errors import (
    InvalidMetadataError,
    MissingTableError,
    MissingVersionError,
    NullKeyError,
    PatternPlatformError,
    SupersededPartitionsError,
    UnrecordedCommitError,
    UnrecordedPartitionError,
    UnsupportedStorageError,
)
from pattern_platform.lake import maintenance
from pattern_platform_tests.lake.tables import (
    Table,
    Written,
    assert_same_rows,
    data_files,
    live_files,
    refused,
)
from pattern_platform_tests.patterns.idempotency.merging import (
    DAYS,
    Model,
    before_commit,
    changed,
    day,
    did,
    elsewhere,
    foreign,
    foreign_file,
    held,
    keyed,
    quarantine,
    refusal,
    small_files,
    stateful,
    stored_versions,
    vacuum,
    versions,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOFT = {"soft_delete": "gone"}
FOUR = {5: {"a": 1}, 6: {"b": 1}, 7: {"c": 1}, 8: {"d": 1}}
ALL_FOUR = {"a": 1, "b": 1, "c": 1, "d": 1}
FOUR_VERSIONS = {"10-05": 1, "10-06": 2, "10-07": 3, "10-08": 4}


def run(table: Table, number: int, **values: int) -> Written:
    """One day with its rows ``key: value``."""
    return table.write(keyed(**values), day(number))


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("four")
    table = stateful(root)
    for number, rows in FOUR.items():
        run(table, number, **rows)
    return root


@pytest.fixture
def four(made_once: Path, tmp_path: Path) -> Table:
    """E4, Table 4-4 of the book: four days, versions 1 to 4. A copy, which is its own table."""
    shutil.copytree(made_once, tmp_path / "lake")
    table = stateful(tmp_path / "lake")
    assert (held(table), versions(table), table.version) == (ALL_FOUR, FOUR_VERSIONS, 4)
    return table


def not_restored(written: Written) -> bool:
    return "delta/restored_to" not in written.metadata


# The scenarios ------------------------------------------------------------------------------------------------------

DEVICES = {
    20: [("galaxy-a33", "samsun", "Galaxy A33"), ("iphone-13", "apple", "iPhone 13"), ("htc-evo", "htc", "Evo 3d")],
    21: [
        ("galaxy-a33", "samsung", "Galaxy A33"),
        ("redmi-note-9", "xiaom", "Redmi Note 9"),
        ("mac-air", "apple", "MacBook Air"),
        ("lenovo-k14", "lenovo", "K14"),
    ],
    22: [("galaxy-m54", "samsung", "Galaxy M54"), ("iphone-14", "apple", "iPhone 14"), ("moto-g", "moto", "Moto G")],
    23: [("redmi-note-9", "xiaomi", "Redmi Note 9"), ("galaxy-m32", "samsung", "Galaxy M32")],
    24: [("iphone-se-4", "apple", "iPhone SE 4"), ("pixel-7", "google", "Pixel 7")],
}


@pytest.fixture
def devices(tmp_path: Path) -> Table:
    """SM-1: the five days of the book's devices."""
    definition = dg.DailyPartitionsDefinition("2024-09-20", end_date="2024-09-25")
    table = stateful(tmp_path, definition=definition, metadata={"merge_keys": ["id"]})
    for number in DEVICES:
        _deliver(table, number)
    return table


def _deliver(table: Table, number: int) -> Written:
    frame = pl.DataFrame(DEVICES[number], schema=["id", "brand_name", "full_name"], orient="row")
    return table.write(frame, f"2024-09-{number}")


def brands(table: Table) -> dict[str, str]:
    return dict(table.rows().select("id", "brand_name").rows())


def test_sm1_five_days_of_devices(devices: Table) -> None:
    assert list(versions(devices).values()) == [1, 2, 3, 4, 5]
    assert len(brands(devices)) == 12
    assert (brands(devices)["galaxy-a33"], brands(devices)["redmi-note-9"]) == ("samsung", "xiaomi")


def test_sm2_three_days_of_devices_again(devices: Table) -> None:
    before = devices.rows()
    assert _deliver(devices, 22).metadata["delta/restored_to"] == 2
    half = brands(devices)
    assert len(half) == 9
    assert half["redmi-note-9"] == "xiaom"
    assert not {"galaxy-m32", "iphone-se-4", "pixel-7"} & set(half)
    for number in (23, 24):
        assert not_restored(_deliver(devices, number))
    assert list(versions(devices).items()) == [("09-20", 1), ("09-21", 2), ("09-22", 6), ("09-23", 7), ("09-24", 8)]
    assert_same_rows(devices.rows(), before)


def test_sm3_a_new_day_follows_the_last(four: Table) -> None:
    written = run(four, 9, e=1)
    assert written.version == 5
    assert not_restored(written)
    assert versions(four) == {**FOUR_VERSIONS, "10-09": 5}
    assert held(four) == {**ALL_FOUR, "e": 1}


def test_sm4_the_first_day_again_starts_from_the_empty_table(four: Table) -> None:
    written = run(four, 5, a=2)
    assert (written.version, written.metadata["delta/restored_to"]) == (5, 0)
    assert versions(four) == {"10-05": 5, "10-06*": 2, "10-07*": 3, "10-08*": 4}
    assert held(four) == {"a": 2}
    assert [run(four, number, **FOUR[number]).version for number in (6, 7, 8)] == [6, 7, 8]
    assert versions(four) == {"10-05": 5, "10-06": 6, "10-07": 7, "10-08": 8}
    assert held(four) == {**ALL_FOUR, "a": 2}


def replay_the_third(table: Table) -> Written:
    return run(table, 7, c=2)


def test_sm5_a_middle_day_again_is_table_4_5_to_the_letter(four: Table) -> None:
    written = replay_the_third(four)
    assert (written.version, written.metadata["delta/restored_to"]) == (5, 2)
    assert written.metadata["delta/superseded_partitions"] == [day(8)]
    assert versions(four) == {"10-05": 1, "10-06": 2, "10-07": 5, "10-08*": 4}
    assert held(four) == {"a": 1, "b": 1, "c": 2}
    assert "10-08" in " ".join(warnings(four))


def test_sm6_what_comes_after_a_superseded_day_is_refused(four: Table) -> None:
    replay_the_third(four)
    with refused(four.root, SupersededPartitionsError, day(9), day(8), f"--partition {day(8)}"):
        run(four, 9, e=1)
    assert versions(four) == {"10-05": 1, "10-06": 2, "10-07": 5, "10-08*": 4}


def test_sm6_the_rule_of_the_book_would_lose_the_backfill(four: Table) -> None:
    """The negative control: previous is 10-08 at version 4, which is not the newest, so version 4 is restored."""
    replay_the_third(four)
    four.handle.restore(4)
    into = four.handle.merge(keyed(e=1), "t.k = s.k", source_alias="s", target_alias="t")
    into.when_matched_update_all().when_not_matched_insert_all().execute()
    assert held(four) == {**ALL_FOUR, "e": 1}
    assert held(four)["c"] != 2


def test_sm6_the_error_lists_every_superseded_day_in_order(four: Table) -> None:
    run(four, 6, b=2)
    replays = refusal(four.root, SupersededPartitionsError, lambda: run(four, 9, e=1))
    assert replays == [day(7), day(8)]
    for key in replays:  # and they mend it
        run(four, int(key[-2:]), **FOUR[int(key[-2:])])
    run(four, 9, e=1)
    assert held(four) == {**ALL_FOUR, "b": 2, "e": 1}


def test_sm7_the_superseded_day_mends_it(four: Table) -> None:
    replay_the_third(four)
    written = run(four, 8, d=1)
    assert written.version == 6
    assert not_restored(written)
    assert written.metadata["delta/superseded_partitions"] == []
    assert versions(four) == {"10-05": 1, "10-06": 2, "10-07": 5, "10-08": 6}
    assert held(four) == {**ALL_FOUR, "c": 2}


def test_sm8_three_days_again(four: Table) -> None:
    states = []
    for number, rows in {6: {"b": 2}, 7: {"c": 2}, 8: {"d": 1}}.items():
        states.append((run(four, number, **rows).version, held(four)))
    assert states == [
        (5, {"a": 1, "b": 2}),
        (6, {"a": 1, "b": 2, "c": 2}),
        (7, {"a": 1, "b": 2, "c": 2, "d": 1}),
    ]
    assert versions(four) == {"10-05": 1, "10-06": 5, "10-07": 6, "10-08": 7}


def test_sm9_the_latest_day_again_forgets_what_it_brought_first(four: Table) -> None:
    written = run(four, 8, x=1)
    assert (written.version, written.metadata["delta/restored_to"]) == (5, 3)
    assert versions(four) == {"10-05": 1, "10-06": 2, "10-07": 3, "10-08": 5}
    assert held(four) == {"a": 1, "b": 1, "c": 1, "x": 1}


def test_sm9_a_plain_merge_would_keep_it(four: Table) -> None:
    """The negative control."""
    into = four.handle.merge(keyed(x=1), "t.k = s.k", source_alias="s", target_alias="t")
    into.when_matched_update_all().when_not_matched_insert_all().execute()
    assert held(four) == {**ALL_FOUR, "x": 1}


def test_sm10_compaction_does_not_count(four: Table) -> None:
    four.handle.optimize.compact()
    assert four.version == 5
    written = run(four, 9, e=1)
    assert written.version == 6
    assert not_restored(written)
    assert versions(four) == {**FOUR_VERSIONS, "10-09": 6}
    assert held(four) == {**ALL_FOUR, "e": 1}


def test_sm10_the_newest_version_number_would_count_it(four: Table) -> None:
    """The negative control, MAX(version): the newest version is not the one that the last day left."""
    four.handle.optimize.compact()
    assert four.version != versions(four)["10-08"]


def test_sm11_compaction_between_the_days(tmp_path: Path) -> None:
    table = stateful(tmp_path)
    run(table, 5, a=1)
    run(table, 6, b=1)
    table.handle.optimize.compact()
    assert (run(table, 7, c=1).version, run(table, 8, d=1).version) == (4, 5)
    assert run(table, 7, c=2).metadata["delta/restored_to"] == 2
    assert run(table, 8, d=1).version == 7
    assert versions(table) == {"10-05": 1, "10-06": 2, "10-07": 6, "10-08": 7}
    assert held(table) == {**ALL_FOUR, "c": 2}


@pytest.fixture
def vacuumed(four: Table) -> Table:
    """SM-12: nothing is on disk but the compacted newest version."""
    four.handle.optimize.compact()
    vacuum(four)
    assert data_files(four) == live_files(four)
    return four


def test_sm12_a_version_whose_files_are_gone_is_not_restored(vacuumed: Table) -> None:
    culprits = (day(7), day(6), "version 2", f"--partition {day(5)}", f"--partition {day(6)}", f"--partition {day(7)}")
    with refused(vacuumed.root, MissingVersionError, *culprits):
        run(vacuumed, 7, c=2)
    assert versions(vacuumed) == FOUR_VERSIONS
    assert held(vacuumed) == ALL_FOUR


def test_sm12_the_replay_that_the_error_names_mends_it(vacuumed: Table) -> None:
    replays = refusal(vacuumed.root, MissingVersionError, lambda: run(vacuumed, 7, c=2))
    assert replays == [day(5), day(6), day(7)]
    for key in [*replays, day(8)]:
        run(vacuumed, int(key[-2:]), **{**FOUR, 7: {"c": 2}}[int(key[-2:])])
    assert held(vacuumed) == {**ALL_FOUR, "c": 2}


def test_sm12_the_replay_starts_where_it_can(four: Table) -> None:
    """A vacuum that kept the first version: the replay starts with the second day."""
    run(four, 9, e=1)
    four.handle.optimize.compact()
    vacuum(four, keep=[1])
    replays = refusal(four.root, MissingVersionError, lambda: run(four, 8, d=2))
    assert replays == [day(6), day(7), day(8)]
    for key in replays:
        run(four, int(key[-2:]), **FOUR[int(key[-2:])])
    assert held(four) == ALL_FOUR


def test_sm13_a_new_day_needs_no_old_version(vacuumed: Table) -> None:
    before = vacuumed.version
    written = run(vacuumed, 9, e=1)
    assert versions(vacuumed)["10-09"] == written.version == before + 1
    assert held(vacuumed) == {**ALL_FOUR, "e": 1}


def test_sm15_an_empty_batch_is_a_version_too(tmp_path: Path) -> None:
    table = stateful(tmp_path)
    assert [run(table, 5, a=1).version, run(table, 6).version, run(table, 7, c=1).version] == [1, 2, 3]
    assert held(table) == {"a": 1, "c": 1}
    written = run(table, 6, b=9)
    assert (written.version, written.metadata["delta/restored_to"], held(table)) == (4, 1, {"a": 1, "b": 9})
    assert (run(table, 7, c=1).version, held(table)) == (5, {"a": 1, "b": 9, "c": 1})
    assert versions(table) == {"10-05": 1, "10-06": 4, "10-07": 5}


def test_sm15_an_empty_first_batch(tmp_path: Path) -> None:
    table = stateful(tmp_path)
    run(table, 5)
    run(table, 6, b=1)
    run(table, 7, c=1)
    assert (run(table, 6, b=2).metadata["delta/restored_to"], held(table)) == (1, {"b": 2})
    assert (run(table, 5).metadata["delta/restored_to"], held(table)) == (0, {})
    assert (run(table, 6, b=3).version, held(table)) == (6, {"b": 3})


KILLED = """
import os, signal, sys
from pathlib import Path
from pattern_platform import StatefulMergerIOManager
from pattern_platform_tests.patterns.idempotency.merging import day, keyed, stateful
StatefulMergerIOManager.after_commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
stateful(Path(sys.argv[1])).write(keyed(dead=1), day(8))
"""


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    for number in (5, 6, 7):
        run(stateful(root), number, **FOUR[number])
    process = subprocess.run([sys.executable, "-c", KILLED, str(root)], check=False, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    return root


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Table:
    """SM-16: 10-08 committed version 4 and died before anything else."""
    shutil.copytree(killed_once, tmp_path / "lake")
    table = stateful(tmp_path / "lake")
    assert table.version == 4
    assert day(8) not in stored_versions(table)
    assert versions(table)["10-08"] == 4  # the log knows
    return table


@pytest.mark.xdist_group("killed")
def test_sm16_the_retry_of_a_day_that_died_after_its_commit(killed: Table) -> None:
    assert run(killed, 8, d=1).version == 5
    assert held(killed) == ALL_FOUR
    assert stored_versions(killed) == {day(5): 1, day(6): 2, day(7): 3, day(8): 5}


@pytest.mark.xdist_group("killed")
def test_sm16_the_next_day_follows_a_day_that_died_after_its_commit(killed: Table) -> None:
    assert not_restored(run(killed, 9, e=1))
    assert held(killed) == {"a": 1, "b": 1, "c": 1, "dead": 1, "e": 1}
    assert stored_versions(killed) == {day(5): 1, day(6): 2, day(7): 3, day(8): 4, day(9): 5}


WITH_DELETES = {
    7: changed(a=1),
    8: changed(a=2, b=1),
    9: changed(gone=["b"], c=1),
    10: changed(m=1, n=1, o=1),
}
STATES = [{"a": 1}, {"a": 2, "b": 1}, {"a": 2, "c": 1}, {"a": 2, "c": 1, "m": 1, "n": 1, "o": 1}]


def test_sm17_a_replay_passes_through_the_same_states(tmp_path: Path) -> None:
    table = stateful(tmp_path, metadata=SOFT)
    for (number, batch), state in zip(WITH_DELETES.items(), STATES, strict=True):
        table.write(batch, day(number))
        assert held(table) == state
    for (number, batch), state in list(zip(WITH_DELETES.items(), STATES, strict=True))[1:]:
        table.write(batch, day(number))
        assert held(table) == state
    assert versions(table) == {"10-07": 1, "10-08": 5, "10-09": 6, "10-10": 7}


def test_sm18_deletes_of_unknown_keys_insert_nothing(tmp_path: Path) -> None:
    table = stateful(tmp_path, metadata=SOFT)
    assert did(table.write(changed(gone=["z"], a=1), day(5)).metadata) == {"inserted": 1, "ignored": 1}
    assert held(table) == {"a": 1}
    assert did(table.write(changed(gone=["a", "y"]), day(6)).metadata) == {"deleted": 1, "ignored": 1}
    assert held(table) == {}
    assert versions(table) == {"10-05": 1, "10-06": 2}


def test_sm19_a_hole_is_a_warning_and_truncates_nothing(tmp_path: Path) -> None:
    table = stateful(tmp_path)
    run(table, 5, a=1)
    assert not warnings(table)
    assert run(table, 7, c=1).version == 2
    assert any(day(6) in line and "missing" in line for line in warnings(table))
    assert (versions(table), held(table)) == ({"10-05": 1, "10-07": 2}, {"a": 1, "c": 1})
    assert run(table, 6, b=1).metadata["delta/restored_to"] == 1
    assert (versions(table), held(table)) == ({"10-05": 1, "10-06": 3, "10-07*": 2}, {"a": 1, "b": 1})
    run(table, 7, c=1)
    assert (versions(table), held(table)) == ({"10-05": 1, "10-06": 3, "10-07": 4}, {"a": 1, "b": 1, "c": 1})


def test_sm19_a_first_day_that_comes_late_starts_from_the_empty_table(tmp_path: Path) -> None:
    table = stateful(tmp_path)
    run(table, 6, b=1)
    assert run(table, 5, a=1).metadata["delta/restored_to"] == 0
    assert (versions(table), held(table)) == ({"10-05": 2, "10-06*": 1}, {"a": 1})
    run(table, 6, b=1)
    assert (versions(table), held(table)) == ({"10-05": 2, "10-06": 3}, {"a": 1, "b": 1})


def test_sm20_a_row_that_was_deleted_by_hand(four: Table) -> None:
    four.handle.delete("k = 'd'")
    with refused(four.root, UnrecordedCommitError, "v5", "restore(4)", "foreign_commits"):
        run(four, 9, e=1)
    with refused(four.root, UnrecordedCommitError, "v5"):
        run(four, 5, a=2)
    assert versions(four) == FOUR_VERSIONS


def test_sm20_accepted_where_the_asset_says_so(four: Table) -> None:
    four.handle.delete("k = 'd'")
    accepting = four.with_(metadata={**four.metadata, "foreign_commits": "accept"})
    assert not_restored(run(accepting, 9, e=1))
    assert held(four) == {"a": 1, "b": 1, "c": 1, "e": 1}
    run(four, 10, f=1)  # what was accepted is part of a recorded version from then on
    assert held(four) == {"a": 1, "b": 1, "c": 1, "e": 1, "f": 1}


def test_sm20_the_restore_that_the_error_names_mends_it(four: Table) -> None:
    four.handle.delete("k = 'd'")
    foreign(four, keyed(z=1))
    four.handle.restore(4)
    run(four, 9, e=1)
    assert held(four) == {**ALL_FOUR, "e": 1}


def test_sm20_a_commit_that_was_undone_stays_undone_after_a_compaction(four: Table) -> None:
    foreign(four, keyed(z=1))
    four.handle.restore(4)
    four.handle.optimize.compact()
    run(four, 9, e=1)
    assert held(four) == {**ALL_FOUR, "e": 1}


def test_sm20_a_commit_is_undone_by_a_restore_of_the_compacted_version_before_it(four: Table) -> None:
    four.handle.optimize.compact()
    foreign(four, keyed(z=1))
    four.handle.restore(5)
    run(four, 9, e=1)
    assert held(four) == {**ALL_FOUR, "e": 1}


def test_sm20_the_restore_that_the_error_names_mends_it_after_a_compaction(four: Table) -> None:
    four.handle.optimize.compact()
    foreign(four, keyed(z=1))
    with refused(four.root, UnrecordedCommitError, "v6", "restore(4)"):
        run(four, 9, e=1)
    four.handle.restore(4)
    run(four, 9, e=1)
    assert held(four) == {**ALL_FOUR, "e": 1}


def test_sm20_a_commit_after_one_that_was_undone_is_noticed(four: Table) -> None:
    foreign(four, keyed(z=1))
    four.handle.restore(4)
    foreign(four, keyed(y=1))
    with refused(four.root, UnrecordedCommitError, "v7"):
        run(four, 9, e=1)


def test_sm20_someone_who_restores_an_older_version_is_noticed(four: Table) -> None:
    four.handle.restore(2)
    with refused(four.root, UnrecordedCommitError, "v5"):
        run(four, 9, e=1)


def dated(number: int, **values: int) -> pl.DataFrame:
    return keyed(**values).with_columns(day=pl.lit(day(number)).str.to_date())


def test_sm21_a_single_run_replays_in_order(tmp_path: Path) -> None:
    table = stateful(tmp_path, partition_expr="day")
    for number, rows in FOUR.items():
        table.write(dated(number, **rows), day(number))
    batch = pl.concat([dated(8, d=1), dated(6, b=2), dated(7, c=2)])
    written = table.write_range(batch, day(6), day(8))
    assert written.metadata["delta/versions"] == {day(6): 5, day(7): 6, day(8): 7}
    assert (written.metadata["delta/restored_to"], written.version) == (1, 7)
    assert versions(table) == {"10-05": 1, "10-06": 5, "10-07": 6, "10-08": 7}
    assert [held(table, version) for version in (5, 6, 7)] == [
        {"a": 1, "b": 2},
        {"a": 1, "b": 2, "c": 2},
        {"a": 1, "b": 2, "c": 2, "d": 1},
    ]


def test_sm21_four_runs_at_once_are_one_after_another(four: Table) -> None:
    """In whichever order they commit: each follows from the one before, and nothing else is refused or kept."""
    for attempt in range(3):
        outcomes = _at_once(
            four.root, {number: {key: attempt} for number, key in zip((6, 7, 8, 9), "bcde", strict=True)}
        )
        assert {type(outcome) for outcome in outcomes} <= {Written, SupersededPartitionsError}
        model = replayed(four)
        assert held(four) == model.rows
        assert versions(four) == starred(model)


def _at_once(root: Path, days: dict[int, dict[str, int]]) -> list[object]:
    barrier = threading.Barrier(len(days))

    def one(number: int) -> object:
        table = stateful(root)
        barrier.wait()
        try:
            return run(table, number, **days[number])
        except PatternPlatformError as error:
            return error
        finally:
            table.instance.dispose()

    with ThreadPoolExecutor(len(days)) as pool:
        return list(pool.map(one, days))


def replayed(table: Table) -> Model:
    """The history of the log, commit by commit, on paper. A batch is told from what the commit inserted."""
    model = Model()
    for commit in reversed(table.handle.history()):
        if commit.get("pattern_platform.pattern") == "stateful_merger":
            number = int(commit["pattern_platform.partition"][-2:])
            assert model.refusal(number) is None
            after = held(table, commit["version"])
            key = {**dict.fromkeys(range(20), ""), **dict(zip(range(5, 11), "abcdef", strict=True))}[number]
            model.merge(number, commit["version"], {key: after[key]})
            assert model.rows == after
    return model


def starred(model: Model) -> dict[str, int]:
    return {
        f"10-{number:02}" + "*" * (number in model.superseded): version
        for number, version in sorted(model.versions.items())
    }


def warnings(table: Table) -> list[str]:
    """What the last run warned of."""
    (last,) = table.instance.get_runs(limit=1)
    return [
        entry.user_message
        for entry in table.instance.all_logs(last.run_id)
        if entry.level == 30  # logging.WARNING
    ]


# The version table --------------------------------------------------------------------------------------------------


def test_the_version_table_as_it_is_read(four: Table) -> None:
    replay_the_third(four)
    shown = read_version_table(str(four.path))
    assert shown.columns == ["execution_time", "table_version", "status", "run_id", "recorded_at"]
    assert shown["execution_time"].to_list() == [day(number) for number in FOUR]
    assert shown["run_id"].str.len_chars().to_list() == [36] * 4
    assert shown["recorded_at"].dtype == pl.Datetime("us", "UTC")
    times = {entry["version"]: entry["timestamp"] for entry in four.handle.history()}
    assert [times[v] for v in shown["table_version"]] == (shown["recorded_at"].dt.epoch("ms")).to_list()
    stored = pl.DataFrame(DeltaTable(f"{four.path}__versions").to_pyarrow_table()).sort("execution_time")
    assert_frame_equal(stored.select(shown.columns), shown)
    for uri in (four.path.as_uri(), f"{four.path}__versions"):
        assert_frame_equal(read_version_table(uri), shown)


def test_a_version_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingTableError):
        read_version_table(str(tmp_path / "none"))
    with pytest.raises(UnsupportedStorageError):
        read_version_table("s3://bucket/table")


def _lost(table: Table) -> None:
    shutil.rmtree(f"{table.path}__versions")


def _emptied(table: Table) -> None:
    DeltaTable(f"{table.path}__versions").delete()


def _forged(table: Table) -> None:
    forged = DeltaTable(f"{table.path}__versions")
    forged.update(updates={"table_version": "1", "status": "'current'"})


def _replaced(table: Table) -> None:
    write_deltalake(f"{table.path}__versions", pl.DataFrame({"mine": [1]}), mode="overwrite", schema_mode="overwrite")


def _restored(table: Table) -> None:
    DeltaTable(f"{table.path}__versions").restore(1)


def _compacted(table: Table) -> None:
    DeltaTable(f"{table.path}__versions").optimize.compact()
    DeltaTable(f"{table.path}__versions").vacuum(0, dry_run=False, enforce_retention_duration=False)


def _another_s(table: Table) -> None:
    other = table.with_(key=("other",))
    run(other, 5, x=1)
    run(other, 6, x=1)
    run(other, 7, x=1)
    shutil.rmtree(f"{table.path}__versions")
    shutil.copytree(f"{other.path}__versions", f"{table.path}__versions")


TAMPERED = [_lost, _emptied, _forged, _replaced, _restored, _compacted, _another_s]


@pytest.mark.parametrize("tamper", TAMPERED)
def test_a_version_table_that_is_not_what_the_log_says_is_made_again(
    four: Table, tamper: Callable[[Table], None]
) -> None:
    replay_the_third(four)
    tamper(four)
    expected = {"10-05": 1, "10-06": 2, "10-07": 5, "10-08*": 4}
    assert elsewhere(lambda: versions(four)) == expected
    with pytest.raises(SupersededPartitionsError):
        elsewhere(lambda: run(stateful(four.root), 9, e=1))
    written = elsewhere(lambda: run(stateful(four.root), 8, d=1))
    assert held(four) == {**ALL_FOUR, "c": 2}
    assert stored_versions(four) == {day(5): 1, day(6): 2, day(7): 5, day(8): written.version}


def test_a_table_that_was_made_anew_has_no_old_versions(four: Table) -> None:
    shutil.rmtree(four.path)
    written = run(four, 6, z=1)
    assert (written.version, held(four), versions(four)) == (1, {"z": 1}, {"10-06": 1})
    assert stored_versions(four) == {day(6): 1}


def test_a_table_that_came_back_from_a_backup(four: Table, tmp_path: Path) -> None:
    """Of the same identity, and another history from there on, which another process wrote."""
    shutil.copytree(four.root, tmp_path / "backup")
    run(four, 9, e=1)
    shutil.rmtree(four.root)
    shutil.copytree(tmp_path / "backup", four.root)
    elsewhere(lambda: run(stateful(four.root), 10, f=1))
    assert versions(four) == {**FOUR_VERSIONS, "10-10": 5}
    run(four, 11, g=1)
    assert held(four) == {**ALL_FOUR, "f": 1, "g": 1}
    assert stored_versions(four)[day(10)] == 5


def clean_log(table: Table, upto: int) -> None:
    """What a log clean-up leaves: a checkpoint, and the commits after it."""
    DeltaTable(table.path, version=upto).create_checkpoint()
    for version in range(upto + 1):
        (table.path / "_delta_log" / f"{version:020}.json").unlink()


def test_a_cleaned_log_loses_nothing_while_the_version_table_is_there(four: Table) -> None:
    clean_log(four, 3)
    assert elsewhere(lambda: versions(four)) == FOUR_VERSIONS

    def two_days() -> None:
        table = stateful(four.root)
        run(table, 9, e=1)
        run(table, 8, d=2)  # version 3 is that of the checkpoint
        with refused(four.root, MissingVersionError, "version 2", day(6)):
            run(table, 7, c=2)

    elsewhere(two_days)
    assert held(four) == {**ALL_FOUR, "d": 2}
    assert elsewhere(lambda: versions(four)) == {
        **{key: FOUR_VERSIONS[key] for key in ("10-05", "10-06", "10-07")},
        "10-08": 6,
        "10-09*": 5,
    }


def test_a_cleaned_log_without_version_table_is_refused_until_that_is_back(four: Table, tmp_path: Path) -> None:
    clean_log(four, 3)
    shutil.move(f"{four.path}__versions", tmp_path / "backup")

    def days_are_refused() -> None:
        table = stateful(four.root)
        for number in range(5, 10):
            with refused(four.root, UnrecordedPartitionError, day(number), "table__versions"):
                run(table, number, x=1)

    elsewhere(days_are_refused)
    assert held(four) == ALL_FOUR
    shutil.move(tmp_path / "backup", f"{four.path}__versions")
    elsewhere(lambda: run(stateful(four.root), 9, e=1))
    assert held(four) == {**ALL_FOUR, "e": 1}
    assert stored_versions(four)[day(5)] == 1


# Commits of others --------------------------------------------------------------------------------------------------

ACCEPT = {"foreign_commits": "accept"}


def test_rows_that_were_there_before_the_first_day(tmp_path: Path) -> None:
    table = stateful(tmp_path)
    foreign(table, keyed(old=0, a=0))
    with refused(tmp_path, UnrecordedCommitError, "v0", "foreign_commits"):
        run(table, 5, a=1)
    table = stateful(tmp_path, metadata=ACCEPT)
    run(table, 5, a=1)
    run(table, 6, b=1)
    assert held(table) == {"a": 1, "b": 1, "old": 0}
    assert run(table, 5, z=1).metadata["delta/restored_to"] > 0
    assert held(table) == {"a": 0, "old": 0, "z": 1}  # the first day starts from what was accepted
    run(table, 5, a=2)
    assert held(table) == {"a": 2, "old": 0}


def test_the_vacuum_of_the_platform_keeps_what_was_accepted_before_the_first_day(tmp_path: Path) -> None:
    table = stateful(tmp_path, metadata=ACCEPT)
    foreign(table, keyed(old=0, a=0))
    run(table, 5, a=1)
    run(table, 6, old=1)
    maintenance.vacuum(table.path, retention=dt.timedelta(0), longest_run=dt.timedelta(0))
    run(table, 5, a=2)
    assert held(table) == {"a": 2, "old": 0}


def test_the_vacuum_of_the_platform_keeps_what_every_day_left(four: Table) -> None:
    replay_the_third(four)
    four.handle.optimize.compact()
    maintenance.vacuum(four.path, retention=dt.timedelta(0), longest_run=dt.timedelta(0))
    for number, rows in {**FOUR, 6: {"b": 3}}.items():
        run(four, number, **rows)
    assert held(four) == {**ALL_FOUR, "b": 3}


def test_accepted_rows_are_never_dropped_since_a_log_was_cleaned_up(tmp_path: Path) -> None:
    table = stateful(tmp_path, metadata=ACCEPT)
    foreign(table, keyed(old=0))
    run(table, 5, a=1)
    run(table, 6, b=1)
    before = held(table)
    clean_log(table, table.version - 1)
    try:
        elsewhere(lambda: run(stateful(tmp_path, metadata=ACCEPT), 5, a=2))
    except (MissingVersionError, UnrecordedPartitionError):
        assert held(table) == before
    else:
        assert held(table) == {"a": 2, "old": 0}


def test_an_empty_table_that_someone_made_is_no_foreign_commit(tmp_path: Path) -> None:
    table = stateful(tmp_path)
    DeltaTable.create(table.path, Schema.from_arrow(pa.schema([("k", pa.string()), ("v", pa.int64())])))
    run(table, 5, a=1)
    run(table, 5, b=1)
    assert held(table) == {"b": 1}


FOREIGN: dict[str, tuple[Callable[[Table], object], bool]] = {
    "append": (lambda table: foreign(table, keyed(z=1)), True),
    "overwrite": (lambda table: foreign(table, keyed(z=1), mode="overwrite"), True),
    "update": (lambda table: table.handle.update(updates={"v": "7"}, predicate="k = 'a'"), True),
    "restore": (lambda table: table.handle.restore(3), True),
    "compaction": (lambda table: table.handle.optimize.compact(), False),
    "z order": (lambda table: table.handle.optimize.z_order(["k"]), False),
    "checkpoint": (lambda table: table.handle.create_checkpoint(), False),
    "property": (lambda table: table.handle.alter.set_table_properties({"delta.checkpointInterval": "7"}), False),
    "vacuum": (lambda table: vacuum(table, keep=[1, 2, 3, 4]), False),
    "empty append": (lambda table: foreign(table, keyed()), False),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_commits_of_others_count_when_they_change_rows(four: Table, what: str) -> None:
    act, changes_rows = FOREIGN[what]
    act(four)
    if changes_rows:
        with refused(four.root, UnrecordedCommitError, "v5"):
            run(four, 9, e=1)
        with refused(four.root, UnrecordedCommitError, "v5"):
            run(four, 6, b=2)
        return
    run(four, 9, e=1)
    assert held(four) == {**ALL_FOUR, "e": 1}
    run(four, 7, c=2)
    assert held(four) == {"a": 1, "b": 1, "c": 2}


@pytest.mark.parametrize("what", [what for what, (_, changes) in FOREIGN.items() if changes])
def test_commits_of_others_are_merged_onto_where_accepted(four: Table, what: str) -> None:
    FOREIGN[what][0](four)
    before = held(four)
    accepting = four.with_(metadata={**four.metadata, **ACCEPT})
    assert not_restored(run(accepting, 9, e=1))
    assert held(four) == {**before, "e": 1}
    assert run(accepting, 7, c=2).metadata["delta/restored_to"] == 2
    assert held(four) == {"a": 1, "b": 1, "c": 2}  # as the documentation says: a later restore undoes them


def test_a_merge_after_foreign_compaction_and_vacuum_of_what_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_files(monkeypatch)
    table = stateful(tmp_path)
    for number in range(5, 9):
        run(table, number, **{f"{number}{n}": number for n in range(6)}, shared=number)
    table.handle.optimize.compact()
    vacuum(table, keep=list(read_version_table(str(table.path))["table_version"]))
    run(table, 9, shared=9)
    table.handle.optimize.compact()
    vacuum(table, keep=list(read_version_table(str(table.path))["table_version"]))
    assert held(table)["shared"] == 9
    assert run(table, 7, shared=70).metadata["delta/restored_to"] == 2
    assert held(table) == {**{f"{number}{n}": number for number in (5, 6) for n in range(6)}, "shared": 70}


# Files that come back -----------------------------------------------------------------------------------------------

MOMENT = dt.datetime(2024, 11, 3, 6, 0, 0, 1001, dt.UTC)
EVERY_TYPE = pl.DataFrame(
    {
        "k": ["a", "x" * 80, "ñ"],
        "n": [1, None, 3],
        "d": [dt.date(2024, 1, 1), None, dt.date(1, 1, 1)],
        "zoned": [MOMENT, None, MOMENT + dt.timedelta(microseconds=1)],
        "naive": pl.Series([MOMENT, MOMENT, None]).dt.replace_time_zone(None),
        "f": [1.5, float("nan"), None],
        "b": [True, None, False],
        "binary": [b"\xff", None, b""],
        "l": [[1], None, []],
        "s": [{"x": 1, "y": "a"}, {"x": None, "y": "b"}, None],
        "region": ["a/b ü", "eu", None],
    }
)


def test_a_key_is_unique_in_the_physical_partition_of_its_day(tmp_path: Path) -> None:
    table = stateful(tmp_path, partition_expr="day", metadata={"partition_by": ["day"]})
    for number in (5, 6, 6, 7):
        table.write(dated(number, a=number), day(number))
    assert_same_rows(table.rows(), pl.concat([dated(number, a=number) for number in (5, 6, 7)]))
    table.write(dated(6, b=60), day(6))
    assert_same_rows(table.rows(), pl.concat([dated(5, a=5), dated(6, b=60)]))


@pytest.mark.parametrize("physical", [[], ["region"], ["d"], ["zoned"], ["naive"], ["n"], ["b"]], ids=str)
def test_files_come_back_as_they_were(tmp_path: Path, physical: list[str]) -> None:
    table = stateful(tmp_path, metadata={"partition_by": physical})
    table.write(EVERY_TYPE, day(5))
    table.write(EVERY_TYPE.with_columns(n=pl.lit(7, pl.Int64)) if physical != ["n"] else EVERY_TYPE[::-1], day(6))
    assert table.write(EVERY_TYPE[:1].with_columns(k=pl.lit("new")), day(6)).metadata["delta/restored_to"] == 1
    before = pl.DataFrame(DeltaTable(table.path, version=1).get_add_actions(flatten=True)).sort("path")
    after = pl.DataFrame(table.handle.get_add_actions(flatten=True)).join(before, on="path", how="semi").sort("path")
    assert after.height == before.height > 0
    assert_frame_equal(after, before, check_column_order=False)
    expected = pl.concat([EVERY_TYPE, EVERY_TYPE[:1].with_columns(k=pl.lit("new"))])
    assert_same_rows(table.rows(), expected)
    assert_same_rows(pl.scan_delta(table.path).collect(), expected)
    for key in expected["k"]:  # what the statistics say of a file must let its rows be found
        assert pl.scan_delta(table.path).filter(pl.col("k") == key).collect().height == 1
        assert table.handle.to_pyarrow_dataset().to_table(filter=pa.compute.field("k") == key).num_rows == 1


def test_duckdb_reads_the_files_that_came_back(four: Table) -> None:
    replay_the_third(four)
    files = [uri.removeprefix("file://") for uri in four.handle.file_uris()]
    assert sorted(duckdb.read_parquet(files).project("k, v").fetchall()) == [("a", 1), ("b", 1), ("c", 2)]


def test_files_without_statistics_come_back_too(tmp_path: Path) -> None:
    table = stateful(tmp_path, metadata=ACCEPT)
    foreign(table, keyed(old=0))
    foreign_file(table, keyed(bare=0), statistics="")
    run(table, 5, a=1)
    run(table, 6, old=1, bare=1)
    assert held(table) == {"a": 1, "bare": 1, "old": 1}
    run(table, 5, a=2)
    assert held(table) == {"a": 2, "bare": 0, "old": 0}
    assert versions(table).keys() == {"10-05", "10-06*"}


def test_columns_that_came_later_are_null_in_what_comes_back(tmp_path: Path) -> None:
    table = stateful(tmp_path, metadata={"schema_evolution": "add_columns"})
    run(table, 5, a=1)
    run(table, 6, b=1)
    table.write(keyed(c=1).with_columns(x=pl.lit("new")), day(7))
    table.write(keyed(b=2).with_columns(x=pl.lit("later")), day(6))
    assert_same_rows(table.rows(), pl.DataFrame({"k": ["a", "b"], "v": [1, 2], "x": [None, "later"]}))


def test_no_reader_ever_sees_the_restored_past(four: Table) -> None:
    """Restore and merge are one version: each version is the state after some run."""
    run(four, 6, b=2)
    assert [held(four, version) for version in range(1, 6)] == [
        {"a": 1},
        {"a": 1, "b": 1},
        {"a": 1, "b": 1, "c": 1},
        ALL_FOUR,
        {"a": 1, "b": 2},
    ]


def test_two_commits_would_show_it(four: Table) -> None:
    """The negative control: a restore of its own."""
    four.handle.restore(1)
    assert held(four) == {"a": 1}


# Partitions ---------------------------------------------------------------------------------------------------------


def test_static_partitions_follow_their_list(tmp_path: Path) -> None:
    table = stateful(tmp_path, definition=dg.StaticPartitionsDefinition(["z", "b", "a"]))
    for n, key in enumerate(["z", "b", "a"]):
        table.write(keyed(**{key: n}), key)
    assert list(versions(table)) == ["z", "b", "a"]
    table.write(keyed(b=9), "b")
    assert held(table) == {"z": 0, "b": 9}
    assert versions(table) == {"z": 1, "b": 4, "a*": 3}


def test_static_partitions_may_be_added_at_the_end(tmp_path: Path) -> None:
    table = stateful(tmp_path, definition=dg.StaticPartitionsDefinition(["x", "y"]))
    for key in ("x", "y"):
        table.write(keyed(**{key: 1}), key)
    longer = table.with_(definition=dg.StaticPartitionsDefinition(["x", "y", "z"]))
    assert not_restored(longer.write(keyed(z=1), "z"))
    longer.write(keyed(y=2), "y")
    assert held(table) == {"x": 1, "y": 2}


@pytest.mark.parametrize("keys", [["z", "x", "y"], ["y", "x"], ["x", "z", "y"], ["y"]], ids=str)
def test_static_partitions_in_another_order_never_rest_on_themselves(tmp_path: Path, keys: list[str]) -> None:
    table = stateful(tmp_path, definition=dg.StaticPartitionsDefinition(["x", "y"]))
    for key in ("x", "y"):
        table.write(keyed(**{key: 1}), key)
    with refused(tmp_path, InvalidMetadataError):
        table.with_(definition=dg.StaticPartitionsDefinition(keys)).write(keyed(new=1), "y")


FALL = dg.HourlyPartitionsDefinition(
    start_date="2024-11-03-00:00", end_date="2024-11-03-04:00", timezone="America/New_York"
)
SPRING = dg.HourlyPartitionsDefinition(
    start_date="2024-03-10-00:00", end_date="2024-03-10-05:00", timezone="America/New_York"
)


@pytest.mark.parametrize("hours", [FALL, SPRING], ids=["fall", "spring"])
@pytest.mark.parametrize("column", [None, "moment"])
def test_hours_of_a_clock_change_follow_each_other(
    tmp_path: Path, hours: dg.TimeWindowPartitionsDefinition, column: str | None
) -> None:
    keys = hours.get_partition_keys()
    assert len(keys) == (5 if hours is FALL else 4)
    table = stateful(tmp_path, definition=hours, partition_expr=column)

    def batch(n: int, value: int) -> pl.DataFrame:
        start = hours.time_window_for_partition_key(keys[n]).start.astimezone(dt.UTC)
        return keyed(**{f"k{n}": value}).with_columns(moment=pl.lit(start))

    for n, key in enumerate(keys):
        assert not_restored(table.write(batch(n, 1), key))
        assert not warnings(table)
    assert table.write(batch(1, 2), keys[1]).metadata["delta/restored_to"] == 1
    assert held(table) == {"k0": 1, "k1": 2}
    shown = read_version_table(str(table.path))
    assert shown["execution_time"].to_list() == keys
    assert shown["status"].to_list() == ["current", "current", *["superseded"] * (len(keys) - 2)]
    for n, key in list(enumerate(keys))[2:]:
        table.write(batch(n, 1), key)
    assert held(table) == {f"k{n}": 2 if n == 1 else 1 for n in range(len(keys))}


def test_a_definition_that_starts_later_than_the_first_record(four: Table) -> None:
    later = four.with_(definition=dg.DailyPartitionsDefinition("2024-10-07", end_date="2024-10-15"))
    assert not_restored(run(later, 9, e=1))
    assert not warnings(later)
    assert run(later, 7, c=2).metadata["delta/restored_to"] == 2
    assert held(four) == {"a": 1, "b": 1, "c": 2}


def test_a_definition_that_starts_earlier_than_the_first_record(four: Table) -> None:
    earlier = four.with_(definition=dg.DailyPartitionsDefinition("2024-10-01", end_date="2024-10-15"))
    run(earlier, 9, e=1)
    assert run(earlier, 4, z=1).metadata["delta/restored_to"] == 0
    assert held(four) == {"z": 1}
    assert versions(four)["10-04"] == 6


UNORDERED: dict[str, dg.PartitionsDefinition | None] = {
    "none": None,
    "dynamic": dg.DynamicPartitionsDefinition(name="dynamic"),
    "multi": dg.MultiPartitionsDefinition({"day": DAYS, "region": dg.StaticPartitionsDefinition(["eu", "us"])}),
}


@pytest.mark.parametrize("name", UNORDERED)
def test_partitions_without_order_are_refused(tmp_path: Path, name: str) -> None:
    table = stateful(tmp_path, definition=UNORDERED[name])
    key = {"none": None, "dynamic": "x", "multi": dg.MultiPartitionKey({"day": day(5), "region": "eu"})}[name]
    if name == "dynamic":
        table.instance.add_dynamic_partitions("dynamic", ["x"])
    with refused(tmp_path, InvalidMetadataError, "order" if name != "none" else "no partitions"):
        table.write(keyed(a=1), key)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidMetadataError):
        validate_definitions(dg.Definitions([table.asset()], resources={"io_manager": table.manager}))


def test_ordered_partitions_pass_as_definitions_load(tmp_path: Path) -> None:
    for definition in (DAYS, FALL, dg.StaticPartitionsDefinition(["x"])):
        table = stateful(tmp_path, definition=definition)
        defs = dg.Definitions([table.asset()], resources={"io_manager": table.manager})
        assert validate_definitions(defs) is defs


def test_a_single_run_needs_a_column_that_tells_the_days_apart(tmp_path: Path) -> None:
    with refused(tmp_path, InvalidMetadataError, "partition_expr"):
        stateful(tmp_path).write_range(keyed(a=1), day(5), day(6))


def test_a_single_run_that_starts_after_a_superseded_day_is_refused_whole(tmp_path: Path) -> None:
    table = stateful(tmp_path, partition_expr="day", metadata={"bad_rows": "quarantine"})
    for number, rows in FOUR.items():
        table.write(dated(number, **rows), day(number))
    table.write(dated(6, b=2), day(6))
    bad = dated(8, x=1).with_columns(k=pl.lit(None, pl.String))
    with refused(tmp_path, SupersededPartitionsError, day(7)):
        table.write_range(pl.concat([dated(8, d=2), dated(9, e=1), bad]), day(8), day(9))
    table.write_range(pl.concat([dated(7, c=2), dated(8, d=2), bad]), day(7), day(9))
    assert held(table) == {"a": 1, "b": 2, "c": 2, "d": 2}
    assert versions(table) == {"10-05": 1, "10-06": 5, "10-07": 6, "10-08": 7, "10-09": 8}
    assert quarantine(table)["_partition"].to_list() == [day(8)]


# What a refusal leaves alone ----------------------------------------------------------------------------------------


def test_a_refused_run_adds_no_column_and_sets_nothing_aside(four: Table) -> None:
    replay_the_third(four)
    options = {**four.metadata, "schema_evolution": "add_columns", "bad_rows": "quarantine"}
    bold = four.with_(metadata=options, options={"table_properties": {"delta.checkpointInterval": "7"}})
    batch = pl.concat([keyed(e=1), keyed(x=1).with_columns(k=pl.lit(None, pl.String))])
    with refused(four.root, SupersededPartitionsError):
        bold.write(batch.with_columns(x=pl.lit("new")), day(9))
    assert four.rows().columns == ["k", "v"]


def test_bad_rows_are_refused_before_a_first_day_leaves_anything(tmp_path: Path) -> None:
    with refused(tmp_path, NullKeyError, "null in k"):
        stateful(tmp_path).write(keyed(a=1).with_columns(k=pl.lit(None, pl.String)), day(5))
    assert list(tmp_path.iterdir()) == []


def test_bad_rows_of_a_day_are_set_aside_and_those_of_its_rerun_instead(tmp_path: Path) -> None:
    table = stateful(tmp_path, metadata={"bad_rows": "quarantine"})
    bad = keyed(x=1).with_columns(k=pl.lit(None, pl.String))
    for _ in range(2):
        written = table.write(pl.concat([keyed(a=1), bad]), day(5))
        assert (did(written.metadata), held(table), quarantine(table).height) == (
            {"inserted": 1, "quarantined": 1},
            {"a": 1},
            1,
        )
    run(table, 5, a=1)
    assert quarantine(table).height == 0


# Retention ----------------------------------------------------------------------------------------------------------

RETENTION = {"delta.logRetentionDuration", "delta.deletedFileRetentionDuration"}


def properties(table: Table) -> dict[str, str | None]:
    return {key: table.handle.metadata().configuration.get(key) for key in RETENTION}


def test_a_new_table_keeps_its_log_and_its_files(four: Table) -> None:
    assert properties(four) == dict.fromkeys(RETENTION, "interval 3650 days")


@pytest.mark.parametrize("had", [{}, {"delta.logRetentionDuration": "interval 1 days"}], ids=str)
def test_a_table_of_others_keeps_them_from_then_on(tmp_path: Path, had: dict[str, str]) -> None:
    table = stateful(tmp_path)
    arrow = pa.schema([("k", pa.string()), ("v", pa.int64())])
    DeltaTable.create(table.path, Schema.from_arrow(arrow), configuration=had)
    run(table, 5, a=1)
    assert properties(table) == dict.fromkeys(RETENTION, "interval 3650 days")


def test_a_retention_that_someone_shortened_is_brought_in_line(four: Table) -> None:
    four.handle.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 1 days"})
    written = run(four, 9, e=1)
    assert properties(four) == dict.fromkeys(RETENTION, "interval 3650 days")
    assert versions(four)["10-09"] == written.version == four.version


@pytest.mark.parametrize("name", sorted(RETENTION))
def test_a_shorter_retention_is_refused(tmp_path: Path, name: str) -> None:
    table = stateful(tmp_path, options={"table_properties": {name: "interval 1 days"}})
    with refused(tmp_path, InvalidMetadataError, name):
        run(table, 5, a=1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidMetadataError, match=name):
        validate_definitions(dg.Definitions([table.asset()], resources={"io_manager": table.manager}))


def test_other_properties_are_set_beside(tmp_path: Path) -> None:
    table = stateful(tmp_path, options={"table_properties": {"delta.checkpointInterval": "7"}})
    run(table, 5, a=1)
    assert table.handle.metadata().configuration["delta.checkpointInterval"] == "7"
    assert properties(table) == dict.fromkeys(RETENTION, "interval 3650 days")


@pytest.mark.parametrize("value", ["ignore", True, 1])
def test_foreign_commits_is_one_of_two_words(tmp_path: Path, value: object) -> None:
    with refused(tmp_path, InvalidMetadataError, "foreign_commits"):
        run(stateful(tmp_path, metadata={"foreign_commits": value}), 5, a=1)


# Races --------------------------------------------------------------------------------------------------------------


def test_a_day_that_is_superseded_between_plan_and_commit(four: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before_commit(monkeypatch, lambda: replay_the_third(four))
    with pytest.raises(SupersededPartitionsError, match=day(8)):
        run(four, 9, e=1)
    assert held(four) == {"a": 1, "b": 1, "c": 2}
    assert versions(four) == {"10-05": 1, "10-06": 2, "10-07": 5, "10-08*": 4}
    assert len(data_files(four)) == 5  # five commits; the file of the plan that was given up is gone


def test_the_day_before_runs_again_between_plan_and_commit(four: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before_commit(monkeypatch, lambda: run(four, 8, x=1))
    written = run(four, 9, e=1)
    assert written.version == 6
    assert not_restored(written)
    assert held(four) == {"a": 1, "b": 1, "c": 1, "x": 1, "e": 1}


def test_a_later_day_comes_between_plan_and_commit(four: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first plan restored nothing; the second finds that it is a backfill by now."""
    before_commit(monkeypatch, lambda: run(four, 10, f=1))
    written = run(four, 9, e=1)
    assert (written.version, written.metadata["delta/restored_to"]) == (6, 4)
    assert held(four) == {**ALL_FOUR, "e": 1}
    assert versions(four) == {**FOUR_VERSIONS, "10-09": 6, "10-10*": 5}


def test_an_earlier_day_runs_again_between_plan_and_commit(four: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first plan restored version 2; the second rests on what has just been replayed."""
    before_commit(monkeypatch, lambda: run(four, 6, b=2))
    written = run(four, 7, c=2)
    assert written.version == 6
    assert not_restored(written)
    assert held(four) == {"a": 1, "b": 2, "c": 2}
    assert versions(four) == {"10-05": 1, "10-06": 5, "10-07": 6, "10-08*": 4}


def test_the_same_day_twice_between_plan_and_commit(four: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before_commit(monkeypatch, lambda: run(four, 9, x=1))
    written = run(four, 9, e=1)
    assert (written.version, written.metadata["delta/restored_to"]) == (6, 4)
    assert held(four) == {**ALL_FOUR, "e": 1}


def test_someone_else_changes_rows_between_plan_and_commit(four: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before_commit(monkeypatch, lambda: foreign(four, keyed(z=1)))
    with pytest.raises(UnrecordedCommitError, match="v5"):
        run(four, 9, e=1)
    assert held(four) == {**ALL_FOUR, "z": 1}
    assert data_files(four) == live_files(four)


def test_someone_else_compacts_between_plan_and_commit(four: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    before_commit(monkeypatch, four.handle.optimize.compact)
    assert run(four, 9, e=1).version == 6
    assert held(four) == {**ALL_FOUR, "e": 1}


def test_the_first_days_at_once_lose_nothing(tmp_path: Path) -> None:
    outcomes = _at_once(tmp_path, FOUR)
    table = stateful(tmp_path)
    model = replayed(table)
    assert held(table) == model.rows
    assert versions(table) == starred(model)
    assert {type(outcome) for outcome in outcomes} <= {Written, SupersededPartitionsError}
    for number, rows in FOUR.items():
        run(table, number, **rows)
    assert held(table) == ALL_FOUR


def test_the_model_tells_a_wrong_state(four: Table) -> None:
    """The negative control of the races: a day that was merged onto the wrong version is noticed."""
    model = Model()
    for number, rows in FOUR.items():
        model.merge(number, number - 4, rows)
    model.merge(7, 5, {"c": 2})
    run(four, 7, c=2)
    assert held(four) == model.rows
    foreign(four, keyed(d=1))
    assert held(four) != model.rows


def test_the_same_history_again_is_the_same_table(four: Table) -> None:
    for _ in range(2):
        for number, rows in FOUR.items():
            run(four, number, **rows)
        assert held(four) == ALL_FOUR
    assert_same_rows(four.rows(version=4), four.rows())
    assert list(versions(four).values()) == [9, 10, 11, 12]
