"""Data sets without partitions: loads of all of it, and loads of what is new since the mark in the table's own log."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from deltalake import DeltaTable

from pattern_platform.ingestion.increments import HIGH_WATER_MARK
from pattern_platform.lake.commit_notes import read_note
from pattern_platform_tests.ingestion.onboarding import CONTRACT, FULL, INCREMENTAL, Onboarded, onboard
from pattern_platform_tests.platform import errors

if TYPE_CHECKING:
    from pathlib import Path

SERIAL = CONTRACT.replace(
    "  at: {type: timestamp, description: When it was.}\n",
    "  at: {type: integer, description: Number of the change.}\n",
)
NEVER_CLEANED: tuple[str, ...] = ("raw",)
CLEANED_ALONE: tuple[str, ...] = ("clean", "quarantine")


def csv_of(*sales: tuple[str, str, str]) -> str:
    return "id,at,euros\n" + "".join(",".join(sale) + "\n" for sale in sales)


def at(hour: int) -> str:
    return f"2024-05-06T{hour:02}:00:00Z"


@pytest.fixture
def incremental(tmp_path: Path) -> Onboarded:
    return onboard(tmp_path, INCREMENTAL)


def commits(platform: Onboarded, stage: str) -> list[dict[str, Any]]:
    """What the log says of each commit, the oldest first."""
    found = []
    for file in sorted((platform.lake / stage / "sales" / "_delta_log").glob("*.json")):
        found += [json.loads(line)["commitInfo"] for line in file.read_text().splitlines() if "commitInfo" in line]
    return found


def marks(platform: Onboarded) -> list[Any]:
    values = [info.get("pattern_platform.notes", {}).get(HIGH_WATER_MARK) for info in commits(platform, "raw")]
    return [value for value in values if value is not None]


def mark(platform: Onboarded) -> Any:
    """How far the raw table has come, as its own log says."""
    return read_note(platform.lake / "raw" / "sales", HIGH_WATER_MARK)


def euros(platform: Onboarded) -> dict[str, float | None]:
    return dict(platform.of("clean").select("id", "euros").iter_rows())


# A load of all of it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [FULL, {**FULL, "incremental_field": "at"}], ids=["full", "full with what grows"])
def test_a_full_load_is_what_the_source_has_now(tmp_path: Path, row: dict[str, str]) -> None:
    platform = onboard(tmp_path, row)
    platform.land("sales/a.csv", csv_of(("1", at(1), "1"), ("2", at(2), "2"), ("3", at(3), "-3")))
    platform.ingest()
    assert euros(platform) == {"1": 1.0, "2": 2.0}
    assert platform.rejects() == {("a.csv", 3): ["euros: min"]}
    platform.land("sales/a.csv", csv_of(("2", at(1), "20")))
    platform.ingest()
    assert euros(platform) == {"2": 20.0}
    assert platform.rejects() == {}
    assert platform.of("raw").height == 1


def test_a_full_load_of_a_file_without_rows_is_empty(tmp_path: Path) -> None:
    platform = onboard(tmp_path, FULL)
    platform.land("sales/a.csv", csv_of(("1", at(1), "1")))
    platform.ingest()
    platform.land("sales/a.csv", csv_of())
    platform.ingest()
    assert platform.of("clean").is_empty()


def test_a_full_load_that_did_not_arrive_leaves_what_is_there(tmp_path: Path) -> None:
    platform = onboard(tmp_path, FULL)
    file = platform.land("sales/a.csv", csv_of(("1", at(1), "1")))
    platform.ingest()
    file.unlink()
    assert "no file has landed at sales/*.csv" in platform.refusal()
    assert euros(platform) == {"1": 1.0}


# What is new ----------------------------------------------------------------------------------------------------------


def test_a_load_takes_what_is_new_and_what_changed(incremental: Onboarded) -> None:
    incremental.land("sales/a.csv", csv_of(("1", at(1), "1"), ("2", at(2), "2")))
    incremental.ingest()
    assert mark(incremental) == "2024-05-06T02:00:00+00:00"
    incremental.land("sales/b.csv", csv_of(("2", at(4), "20"), ("3", at(3), "3")))
    incremental.ingest()
    assert euros(incremental) == {"1": 1.0, "2": 20.0, "3": 3.0}
    assert mark(incremental) == "2024-05-06T04:00:00+00:00"
    assert len(marks(incremental)) == 2


def test_what_is_older_than_the_mark_is_not_read_again(incremental: Onboarded) -> None:
    """The negative control of the mark: were everything read each time, the change below would be seen."""
    incremental.land("sales/a.csv", csv_of(("1", at(1), "1"), ("2", at(2), "2")))
    incremental.ingest()
    incremental.land("sales/a.csv", csv_of(("1", at(1), "100"), ("2", at(2), "200")))
    incremental.ingest()
    assert euros(incremental) == {"1": 1.0, "2": 200.0}


def test_a_value_that_equals_the_mark_is_not_lost(incremental: Onboarded) -> None:
    incremental.land("sales/a.csv", csv_of(("1", at(1), "1"), ("2", at(2), "2")))
    incremental.ingest()
    incremental.land("sales/b.csv", csv_of(("3", at(2), "3"), ("4", at(2), "4")))
    incremental.ingest()
    assert sorted(euros(incremental)) == ["1", "2", "3", "4"]
    assert incremental.of("raw").height == 4


def test_records_without_a_key_are_not_of_the_same_key(incremental: Onboarded) -> None:
    incremental.land("sales/a.csv", csv_of(("", at(1), "1"), ("", at(2), "2"), ("3", at(3), "3")))
    incremental.ingest()
    assert incremental.rejects() == {("a.csv", line): ["primary key", "id: missing"] for line in (1, 2)}


def test_a_rerun_changes_nothing(incremental: Onboarded) -> None:
    incremental.land("sales/a.csv", csv_of(("1", at(1), "1"), ("", at(1), "2"), ("3", "soon", "3")))
    incremental.ingest()
    before = {stage: incremental.of(stage) for stage in ("clean", "quarantine")}
    for _ in range(2):
        incremental.ingest()
        assert {stage: incremental.of(stage).equals(rows) for stage, rows in before.items()} == {
            "clean": True,
            "quarantine": True,
        }
    assert incremental.of("raw").height == 3


def test_the_last_change_of_a_key_wins_whatever_order_it_came_in(incremental: Onboarded) -> None:
    incremental.land("sales/a.csv", csv_of(("1", at(3), "3"), ("1", at(1), "1"), ("1", at(2), "2")))
    incremental.ingest()
    assert euros(incremental) == {"1": 3.0}
    outdated = ["a later record of the same key came with it"]
    assert incremental.rejects() == {("a.csv", 2): outdated, ("a.csv", 3): outdated}


def test_an_empty_load_moves_no_mark(incremental: Onboarded) -> None:
    incremental.land("sales/a.csv", csv_of(("1", at(1), "1")))
    incremental.ingest()
    incremental.land("sales/a.csv", csv_of())
    for _ in range(2):
        incremental.ingest()
    assert euros(incremental) == {"1": 1.0}
    assert mark(incremental) == "2024-05-06T01:00:00+00:00"
    incremental.land("sales/b.csv", csv_of(("2", at(2), "2")))
    incremental.ingest()
    assert sorted(euros(incremental)) == ["1", "2"]


def test_a_first_load_without_rows_is_one(incremental: Onboarded) -> None:
    incremental.land("sales/a.csv", csv_of())
    incremental.ingest()
    assert incremental.of("clean").is_empty()
    incremental.land("sales/a.csv", csv_of(("1", at(1), "1")))
    incremental.ingest()
    assert euros(incremental) == {"1": 1.0}


def test_whole_numbers_grow_as_numbers(tmp_path: Path) -> None:
    platform = onboard(tmp_path, INCREMENTAL, contracts={"contracts/sales.yaml": SERIAL})
    platform.land("sales/a.csv", csv_of(("1", "9", "1")))
    platform.ingest()
    platform.land("sales/b.csv", csv_of(("2", "10", "2"), ("3", "8", "3")))
    platform.ingest()
    assert sorted(euros(platform)) == ["1", "2"]
    assert mark(platform) == 10


def test_without_a_contract_what_grows_is_a_timestamp_and_nothing_else_passes_for_one(tmp_path: Path) -> None:
    """As text, 10 would be less than 9, and its row lost without a word."""
    platform = onboard(tmp_path, {**INCREMENTAL, "contract": "", "incremental_field": "seq"})
    for number in ("9", "10"):
        platform.land(f"sales/{number}.csv", f"id,seq\n{number},{number}\n{number}0,{at(int(number))}\n")
        platform.ingest()
    assert platform.of("clean")["id"].to_list() == ["100", "90"]
    assert platform.rejects() == {(f"{number}.csv", 1): ["seq: not a timestamp"] for number in ("9", "10")}


# What goes wrong between ----------------------------------------------------------------------------------------------


def test_loads_that_were_never_cleaned_are_cleaned_with_the_next(incremental: Onboarded) -> None:
    for number in (1, 2, 3):
        incremental.land(f"sales/{number}.csv", csv_of((str(number), at(number), str(number)), ("", at(number), "0")))
        incremental.ingest(stages=NEVER_CLEANED)
    incremental.ingest(stages=CLEANED_ALONE)
    assert sorted(euros(incremental)) == ["1", "2", "3"]
    assert incremental.rejects() == {(f"{n}.csv", 2): ["primary key", "id: missing"] for n in (1, 2, 3)}


def test_a_run_that_died_behind_the_clean_rows_loses_no_reject(incremental: Onboarded) -> None:
    """The rejects are older than the mark, so that no later load brings them again."""
    incremental.land("sales/a.csv", csv_of(("", at(1), "1"), ("2", at(2), "2")))
    incremental.ingest(stages=NEVER_CLEANED)
    blocked = incremental.lake / "quarantine"
    blocked.write_text("a file in the place of the folder")
    failed = incremental.run(incremental.selected(*CLEANED_ALONE))
    assert not failed.success
    assert euros(incremental) == {"2": 2.0}, "the clean rows were committed before it died"
    blocked.unlink()
    incremental.ingest(stages=CLEANED_ALONE)
    assert incremental.rejects() == {("a.csv", 1): ["id: missing"]}
    assert euros(incremental) == {"2": 2.0}


def test_a_run_that_died_before_the_clean_rows_repeats_them(incremental: Onboarded) -> None:
    incremental.land("sales/a.csv", csv_of(("1", at(1), "1")))
    incremental.ingest()
    clean = incremental.lake / "clean"
    aside = clean.rename(incremental.lake / "aside")
    clean.write_text("a file in the place of the folder")
    incremental.land("sales/b.csv", csv_of(("2", at(2), "2")))
    assert errors(incremental.run(incremental.selected("raw", "clean", "quarantine")))
    clean.unlink()
    aside.rename(clean)
    incremental.land("sales/c.csv", csv_of(("3", at(3), "3")))
    incremental.ingest()
    assert sorted(euros(incremental)) == ["1", "2", "3"]


def test_a_record_that_was_mended_leaves_the_quarantine(incremental: Onboarded) -> None:
    incremental.land("sales/a.csv", csv_of(("1", at(1), "1"), ("2", "soon", "2")))
    incremental.ingest()
    assert incremental.rejects() == {("a.csv", 2): ["at: not a timestamp"]}
    incremental.land("sales/a.csv", csv_of(("1", at(1), "1"), ("2", at(2), "2")))
    incremental.ingest()
    assert sorted(euros(incremental)) == ["1", "2"]
    assert incremental.rejects() == {}


def test_a_restored_table_goes_on_from_the_mark_of_what_it_shows(incremental: Onboarded) -> None:
    """Restored by someone else, with delta-rs alone."""
    first: dict[str, int] = {}
    for number in (1, 2):
        incremental.land(f"sales/{number}.csv", csv_of((str(number), at(number), str(number))))
        incremental.ingest()
        first = first or {stage: table(incremental, stage).version() for stage in ("raw", "clean", "quarantine")}
    for stage, version in first.items():
        table(incremental, stage).restore(version)
    assert list(euros(incremental)) == ["1"]
    assert mark(incremental) == "2024-05-06T01:00:00+00:00"
    incremental.land("sales/2.csv", csv_of(("3", at(3), "3"), ("0", at(0), "0")))
    incremental.ingest()
    assert sorted(euros(incremental)) == ["1", "3"]
    assert mark(incremental) == "2024-05-06T03:00:00+00:00"


def test_a_table_that_was_restored_twice_knows_its_mark(incremental: Onboarded) -> None:
    for number in (1, 2, 3):
        incremental.land(f"sales/{number}.csv", csv_of((str(number), at(number), str(number))))
        incremental.ingest(stages=NEVER_CLEANED)
    last = table(incremental, "raw").version()
    table(incremental, "raw").restore(last - 1)
    assert mark(incremental) == "2024-05-06T02:00:00+00:00"
    table(incremental, "raw").restore(last)
    assert mark(incremental) == "2024-05-06T03:00:00+00:00"
    table(incremental, "raw").restore(last + 1)
    assert mark(incremental) == "2024-05-06T02:00:00+00:00"


def test_what_comes_after_the_raw_table_alone_was_restored_becomes_clean(incremental: Onboarded) -> None:
    versions = []
    for number in (1, 2, 3):
        incremental.land(f"sales/{number}.csv", csv_of((str(number), at(number), str(number))))
        incremental.ingest()
        versions.append(table(incremental, "raw").version())
        if number == 2:
            table(incremental, "raw").restore(versions[0])
    assert sorted(euros(incremental)) == ["1", "2", "3"]


def test_a_copied_table_goes_on_from_its_own_mark(incremental: Onboarded, tmp_path: Path) -> None:
    incremental.land("sales/a.csv", csv_of(("1", at(1), "1"), ("2", at(2), "2")))
    incremental.ingest()
    copied = onboard(tmp_path / "copy", INCREMENTAL)
    shutil.copytree(incremental.lake, copied.lake)
    incremental.land("sales/b.csv", csv_of(("9", at(9), "9")))
    incremental.ingest()
    copied.land("sales/c.csv", csv_of(("1", at(1), "100"), ("3", at(3), "3")))
    copied.ingest()
    assert euros(copied) == {"1": 1.0, "2": 2.0, "3": 3.0}
    assert mark(copied) == "2024-05-06T03:00:00+00:00"
    assert mark(incremental) == "2024-05-06T09:00:00+00:00"


def test_compaction_and_checkpoints_lose_no_mark(incremental: Onboarded) -> None:
    two_files(incremental)
    for stage in ("raw", "clean"):
        assert table(incremental, stage).optimize.compact()["numFilesRemoved"] == 2
        table(incremental, stage).create_checkpoint()
    assert mark(incremental) == "2024-05-06T02:00:00+00:00"
    incremental.land("sales/3.csv", csv_of(("1", at(1), "100"), ("3", at(3), "3")))
    incremental.ingest()
    assert euros(incremental) == {"1": 1.0, "2": 2.0, "3": 3.0}


def two_files(platform: Onboarded) -> None:
    """Two loads, neither of which touches the file of the other."""
    for number in (1, 2):
        file = platform.land(f"sales/{number}.csv", csv_of((str(number), at(number), str(number))))
        platform.ingest()
        if number == 1:
            file.unlink()


def test_where_the_log_has_lost_the_mark_everything_is_merged_again(incremental: Onboarded) -> None:
    """Rows are there once all the same: they are merged by file and line, and by key."""
    two_files(incremental)
    raw = table(incremental, "raw")
    assert raw.optimize.compact()["numFilesRemoved"] == 2
    raw.create_checkpoint()
    for file in (incremental.lake / "raw/sales/_delta_log").glob("*.json"):
        if int(file.stem) < raw.version():
            file.unlink()
    assert mark(incremental) is None
    incremental.land("sales/3.csv", csv_of(("3", at(3), "3")))
    incremental.ingest()
    assert sorted(euros(incremental)) == ["1", "2", "3"]
    assert incremental.of("raw").height == 3


def test_a_table_that_is_none_has_no_mark(tmp_path: Path) -> None:
    assert read_note(tmp_path / "none", HIGH_WATER_MARK) is None


def table(platform: Onboarded, stage: str) -> DeltaTable:
    return DeltaTable(str(platform.lake / stage / "sales"))
