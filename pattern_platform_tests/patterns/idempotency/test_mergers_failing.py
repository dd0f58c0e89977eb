"""What a merge that fails, or a table beside it that is damaged, must not take along."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable

from pattern_platform import StatefulMergerIOManager, read_version_table
from pattern_platform.errors import (
    ChangedTypeError,
    InvalidMetadataError,
    RetentionError,
    SupersededPartitionsError,
)
from pattern_platform.lake import commit as commit_module
from pattern_platform.lake.maintenance import checkpoint, compact, vacuum
from pattern_platform_tests.lake.tables import data_files, live_files, refused
from pattern_platform_tests.patterns.idempotency.merging import (
    before_commit,
    elsewhere,
    foreign,
    held,
    keyed,
    merger,
    quarantine,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pattern_platform_tests.lake.tables import Table

DAYS = dg.DailyPartitionsDefinition("2024-10-05", "2024-10-20")
NOW = timedelta(0)


def day(number: int) -> str:
    return f"2024-10-{number:02}"


def stateful(root: Path, **changes: Any) -> Table:
    return merger(root, **{"io_manager": StatefulMergerIOManager, "definition": DAYS, **changes})


@pytest.fixture
def three(tmp_path: Path) -> Table:
    """The third day rewrites the file of the first, so that a replay of the second brings that file back."""
    table = stateful(tmp_path)
    table.write(keyed(a=1), day(5))
    table.write(keyed(b=1), day(6))
    table.write(keyed(a=2), day(7))
    return table


def test_a_replay_that_fails_leaves_the_files_that_it_would_bring_back(
    three: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = data_files(three)
    with monkeypatch.context() as patch:
        patch.setattr(commit_module, "_append", full)
        with pytest.raises(OSError, match="No space left"):
            three.write(keyed(b=2), day(6))
    assert data_files(three) == before
    three.write(keyed(b=2), day(6))
    assert held(three) == {"a": 1, "b": 2}


def test_a_replay_that_is_refused_under_the_lock_leaves_what_another_brought_back(
    three: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both bring the same file back; the one that is refused must not remove it."""
    three.write(keyed(a=3), day(8))
    before_commit(monkeypatch, lambda: three.write(keyed(b=2), day(6)))
    with pytest.raises(SupersededPartitionsError):
        three.write(keyed(a=4), day(8))
    assert held(three) == {"a": 1, "b": 2}
    assert live_files(three) <= data_files(three)


@pytest.mark.parametrize("damage", ["commit", "file", "cut"])
def test_a_damaged_version_table_stops_no_run(three: Table, damage: str) -> None:
    versions = three.root / "table__versions"
    if damage == "commit":
        max((versions / "_delta_log").glob("*.json")).write_bytes(b"")
    for file in versions.glob("*.parquet"):
        if damage == "file":
            file.unlink()
        elif damage == "cut":
            file.write_bytes(file.read_bytes()[:20])
    assert elsewhere(lambda: three.write(keyed(c=1), day(8))).version == 4
    assert held(three) == {"a": 2, "b": 1, "c": 1}
    assert read_version_table(str(three.path))["table_version"].to_list() == [1, 2, 3, 4]


def test_a_vacuum_of_the_version_table_keeps_it_trusted(three: Table) -> None:
    """With the log cleaned up there is nothing else that names the first versions."""
    versions = three.root / "table__versions"
    assert vacuum(versions, retention=NOW, longest_run=NOW)
    checkpoint(three.path)
    for version in (0, 1):
        (three.path / "_delta_log" / f"{version:020}.json").unlink()
    expected = read_version_table(str(three.path))["table_version"].to_list()
    assert elsewhere(lambda: read_version_table(str(three.path)))["table_version"].to_list() == expected == [1, 2, 3]


def test_vacuum_is_refused_while_the_recorded_versions_are_not_known(three: Table) -> None:
    checkpoint(three.path)
    for version in (0, 1):
        (three.path / "_delta_log" / f"{version:020}.json").unlink()
    (three.root / "table__versions").rename(three.root / "away")
    before = data_files(three)
    with pytest.raises(RetentionError, match="table__versions"):
        elsewhere(lambda: vacuum(three.path, retention=NOW, longest_run=NOW))
    assert data_files(three) == before


def test_removed_files_outlast_a_checkpoint_until_vacuum_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = merger(tmp_path)
    with monkeypatch.context() as patch:
        now = commit_module.time.time()
        patch.setattr(commit_module.time, "time", lambda: now - 8 * 24 * 3600)
        for value in (1, 2, 3):
            table.write(keyed(a=value))
    checkpoint(table.path)
    assert len(vacuum(table.path, retention=timedelta(days=7), longest_run=NOW)) == 2
    assert held(table) == {"a": 3}


def test_f11_a_retry_keeps_what_was_accepted_before_it(tmp_path: Path) -> None:
    table = stateful(tmp_path, metadata={"merge_keys": ["k"], "foreign_commits": "accept"})
    table.write(keyed(a=1, z=1), day(5))
    table.handle.delete("k = 'z'")
    for _ in range(2):
        table.write(keyed(b=1), day(6))
        assert held(table) == {"a": 1, "b": 1}


def test_a_version_with_other_types_is_not_restored(tmp_path: Path) -> None:
    table = stateful(tmp_path, metadata={"merge_keys": ["k"], "foreign_commits": "accept"})
    table.write(keyed(a=1), day(5))
    table.write(keyed(b=1), day(6))
    text = pl.DataFrame({"k": ["a"], "v": ["1"]})
    foreign(table, text, mode="overwrite", schema_mode="overwrite")
    with refused(table.root, ChangedTypeError, "'v'"):
        table.write(text, day(6))


def test_a_superseded_day_is_not_read_as_empty(three: Table) -> None:
    dated = [pl.lit(day(number)).str.to_date().alias("day") for number in (5, 6, 7)]
    table = stateful(three.root, partition_expr="day", key=("dated",))
    for number, column in zip((5, 6, 7), dated, strict=True):
        table.write(keyed(**{f"k{number}": 1}).with_columns(column), day(number))
    table.write(keyed(k6=2).with_columns(dated[1]), day(6))
    with pytest.raises(SupersededPartitionsError, match=day(7)):
        table.load(day(7), definition=DAYS)
    assert table.load(day(6), definition=DAYS)["v"].to_list() == [2]
    assert table.load(day(7), definition=DAYS, allow_missing_partitions=True).is_empty()


def test_an_input_of_no_partitions_is_empty(three: Table) -> None:
    yesterday = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)
    assert three.load(day(5), definition=DAYS, mapping=yesterday).is_empty()
    assert three.load(day(6), definition=DAYS, mapping=yesterday).height == 2


def test_days_that_begin_at_another_hour_are_other_days(three: Table) -> None:
    moved = three.with_(definition=dg.DailyPartitionsDefinition("2024-10-05", "2024-10-20", hour_offset=2))
    with refused(three.root, InvalidMetadataError, day(7)):
        moved.write(keyed(c=1), day(7))


def test_the_quarantine_of_a_table_that_was_made_anew_stays_readable(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"bad_rows": "quarantine"})
    table.write(pl.DataFrame({"k": [None], "v": [1]}, schema_overrides={"k": pl.String}))
    table.path.rename(tmp_path / "away")
    with pytest.raises(ChangedTypeError, match="table__quarantine"):
        elsewhere(lambda: table.write(pl.DataFrame({"k": [None], "v": ["1"]}, schema_overrides={"k": pl.String})))
    assert quarantine(table)["v"].to_list() == [1]


def test_a_range_over_several_dimensions_is_merged_in_time_order(tmp_path: Path) -> None:
    colors = dg.StaticPartitionsDefinition(["red", "blue"])
    both = dg.MultiPartitionsDefinition({"color": colors, "day": DAYS})
    table = merger(tmp_path, definition=both, partition_expr={"color": "color", "day": "day"})
    rows = [(color, number) for color in ("blue", "red") for number in (5, 6)]
    batch = pl.DataFrame(
        {
            "k": ["x"] * 4,
            "v": [number for _, number in rows],
            "color": [color for color, _ in rows],
            "day": [day(number) for _, number in rows],
        }
    ).with_columns(pl.col("day").str.to_date())
    table.write_range(batch, f"red|{day(5)}", f"blue|{day(6)}")
    assert table.rows().select("v", "color").rows() == [(6, "blue")]


def test_a_stored_sequence_that_is_no_number_gives_way(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"sequence_by": "s"})
    table.write(pl.DataFrame({"k": ["a"], "s": [1.0]}))
    foreign(table, pl.DataFrame({"k": ["b"], "s": [float("nan")]}))
    table.write(pl.DataFrame({"k": ["b"], "s": [1.0]}))
    assert sorted(table.rows().rows()) == [("a", 1.0), ("b", 1.0)]


def test_compaction_counts_files_that_their_writer_did_not_count(tmp_path: Path) -> None:
    table = merger(tmp_path)
    table.write(keyed(a=1))
    foreign(table, keyed(b=1))
    log = table.path / "_delta_log" / f"{2:020}.json"
    text = log.read_text()
    assert "numRecords" in text
    log.write_text(text.replace('\\"numRecords\\":1,', ""))
    assert len(elsewhere(lambda: compact(table.path, sort_by=["k"]))) == 1
    assert held(table) == {"a": 1, "b": 1}
    assert DeltaTable(table.path).version() == 3
