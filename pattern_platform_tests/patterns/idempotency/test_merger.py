"""Merger, scenario by scenario, then what changes by key may be: types, duplicates, sequences, layouts, refusals."""

from __future__ import annotations

import datetime as dt
import multiprocessing
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema, write_deltalake

from pattern_platform import MergerIOManager, validate_definitions
from pattern_platform.errors import (
    ChangedTypeError,
    DuplicateKeyError,
    DuplicateKeyInTableError,
    InvalidMetadataError,
    MissingColumnError,
    NullInRequiredColumnError,
    NullKeyError,
    RowsOutsidePartitionError,
    UnknownColumnError,
)
from pattern_platform_tests.lake.tables import (
    FRAME_KINDS,
    Table,
    as_kind,
    assert_same_rows,
    contents,
    data_files,
    live_files,
    refused,
)
from pattern_platform_tests.patterns.idempotency.merging import (
    DAYS,
    before_commit,
    bounds,
    changed,
    day,
    did,
    foreign,
    foreign_file,
    held,
    keyed,
    merger,
    quarantine,
    small_files,
    vacuum,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNCOMPARED = ("dagster/column_schema", "cost/")  # compared in a test of its own, and in lake/test_cost.py
SOFT = {"soft_delete": "gone"}


def devices(*rows: tuple[str, str, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["type", "version", "full_name"], orient="row")


# The scenarios ------------------------------------------------------------------------------------------------------

FIRST = devices(
    ("galaxy", "Android 11", "Galaxy Camera"),
    ("iphone", "iOS 13", "APPLE iPhone 8 Plus (Silver, 256 GB)"),
    ("htc", "Android 12L", "Evo 3d"),
)
SECOND = devices(
    ("galaxy", "Android 11", "Galaxy Camera V2"),
    ("iphone", "iOS 13", "APPLE iPhone 8 Plus (Silver, 256 GB)"),
    ("mac", "Ventura", "MacBook Air (M1, 2020)"),
    ("mac", "Sonoma", "MacBook Pro (13-inch, M1, 2020)"),
    ("htc", "Android 12L", "Evo 3d"),
)


def test_m1_a_batch_updates_what_is_known_and_inserts_the_rest(tmp_path: Path) -> None:
    table = merger(tmp_path, "type", "version")
    assert did(table.write(FIRST).metadata) == {"inserted": 3}
    assert_same_rows(table.rows(), FIRST)
    assert did(table.write(SECOND).metadata) == {"inserted": 2, "updated": 3}
    assert_same_rows(table.rows(), SECOND)
    assert did(table.write(SECOND).metadata) == {"updated": 5}
    assert_same_rows(table.rows(), SECOND)
    assert table.version == 3


def test_m2_a_soft_delete_removes_and_never_inserts(tmp_path: Path) -> None:
    table = merger(tmp_path, "type", "version", metadata=SOFT)
    table.write(FIRST.with_columns(gone=pl.lit(value=False)))
    batch = devices(
        ("galaxy", "Android 11", "Galaxy Camera"),
        ("iphone", "iOS 130", "APPLE iPhone 28 Plus (Silver, 1256 GB)"),
        ("htc", "Android 12L", "Evo 3d - mobile phone"),
    ).with_columns(gone=pl.Series([True, False, False]))
    after = devices(
        ("htc", "Android 12L", "Evo 3d - mobile phone"),
        ("iphone", "iOS 130", "APPLE iPhone 28 Plus (Silver, 1256 GB)"),
        ("iphone", "iOS 13", "APPLE iPhone 8 Plus (Silver, 256 GB)"),
    )
    assert did(table.write(batch).metadata) == {"inserted": 1, "updated": 1, "deleted": 1}
    assert_same_rows(table.rows(), after)
    assert did(table.write(batch).metadata) == {"updated": 2, "ignored": 1}
    assert_same_rows(table.rows(), after)


NORMAL = [
    (7, changed(a=1), {"a": 1}),
    (8, changed(a=2, b=1), {"a": 2, "b": 1}),
    (9, changed(gone=["b"], c=1), {"a": 2, "c": 1}),
    (10, changed(m=1, n=1, o=1), {"a": 2, "c": 1, "m": 1, "n": 1, "o": 1}),
]
EVERYTHING = NORMAL[-1][-1]


@pytest.fixture
def four_days(tmp_path: Path) -> Table:
    """M-3, Table 4-1 of the book."""
    table = merger(tmp_path, definition=DAYS, metadata=SOFT)
    for number, batch, expected in NORMAL:
        table.write(batch, day(number))
        assert held(table) == expected
    return table


def test_m3_four_days_one_after_another(four_days: Table) -> None:
    assert held(four_days) == EVERYTHING
    assert four_days.version == 4


def test_m4_replaying_old_days_passes_through_states_that_never_were(four_days: Table) -> None:
    """The documented weakness, Table 4-2: b is back until its delete is replayed."""
    states = []
    for number, batch, _ in NORMAL[1:]:
        four_days.write(batch, day(number))
        states.append(held(four_days))
    assert states == [{**EVERYTHING, "b": 1}, EVERYTHING, EVERYTHING]


def test_m4_an_upsert_replayed_alone_resurrects_what_was_deleted_later(four_days: Table) -> None:
    """The documented weakness again: nobody replays the delete, and nobody is told."""
    written = four_days.write(NORMAL[1][1], day(8))
    assert did(written.metadata) == {"updated": 1, "inserted": 1}
    assert held(four_days) == {**EVERYTHING, "b": 1}


def test_m4_a_sequence_does_not_help_since_a_deleted_key_is_forgotten(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={**SOFT, "sequence_by": "v"})
    table.write(changed(a=1))
    table.write(changed(gone=["a"]).with_columns(v=pl.lit(2, pl.Int64)))
    table.write(changed(a=1))
    assert held(table) == {"a": 1}


def test_m5_deletes_of_unknown_keys_insert_nothing(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata=SOFT)
    assert did(table.write(changed(gone=["z"], a=1)).metadata) == {"inserted": 1, "ignored": 1}
    assert held(table) == {"a": 1}
    assert did(table.write(changed(gone=["y"])).metadata) == {"ignored": 1}
    assert held(table) == {"a": 1}
    assert table.rows().columns == ["k", "v"]


def test_m6_the_last_of_a_key_wins_in_the_batch(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"sequence_by": "seq"})
    batch = pl.DataFrame({"k": ["k1", "k1"], "v": ["x", "y"], "seq": [1, 2]})
    assert did(table.write(batch).metadata) == {"inserted": 1, "dropped_duplicates": 1}
    assert_same_rows(table.rows(), batch[1:])
    write_deltalake(tmp_path / "raw", batch[:0])
    into = DeltaTable(tmp_path / "raw").merge(batch, "t.k = s.k", source_alias="s", target_alias="t")
    into.when_matched_update_all().when_not_matched_insert_all().execute()
    assert DeltaTable(tmp_path / "raw").to_pyarrow_table().num_rows == 2  # what a merge without this rule does


def test_m7_a_row_without_its_key_is_refused_on_every_run(tmp_path: Path) -> None:
    table = merger(tmp_path)
    table.write(keyed(a=1))
    without = pl.concat([keyed(b=1), keyed(x=2).with_columns(k=pl.lit(None, pl.String))])
    for _ in range(2):
        with refused(tmp_path, NullKeyError, "null in k", "1 row"):
            table.write(without)
    assert held(table) == {"a": 1}


def test_m7_a_row_without_its_key_is_set_aside_on_every_run_alike(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=DAYS, metadata={"bad_rows": "quarantine"})
    without = pl.concat([keyed(b=1), keyed(x=2).with_columns(k=pl.lit(None, pl.String))])
    for _ in range(3):
        assert table.write(without, day(5)).metadata["delta/rows_quarantined"] == 1
        assert held(table) == {"b": 1}
        assert quarantine(table).height == 1


def test_m9_what_a_batch_does_not_mention_stays(tmp_path: Path) -> None:
    table = merger(tmp_path)
    table.write(keyed(a=1, b=2))
    table.write(keyed(b=3))
    assert held(table) == {"a": 1, "b": 3}


# What a run tells ---------------------------------------------------------------------------------------------------


def test_what_a_run_tells_dagster(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={**SOFT, "sequence_by": "v", "bad_rows": "quarantine"})
    table.write(changed(a=5, b=5, c=5))
    batch = pl.concat(
        [changed(a=6, b=4, d=1), changed(d=2), changed(gone=["c", "z"]).with_columns(v=pl.lit(9, pl.Int64))]
    )
    metadata = table.write(pl.concat([batch, changed(e=1).with_columns(v=pl.lit(None, pl.Int64))])).metadata
    assert held(table) == {"a": 6, "b": 5, "d": 2}
    assert {name: value for name, value in metadata.items() if not name.startswith(UNCOMPARED)} == {
        "dagster/table_name": "table",
        "dagster/uri": str(table.path),
        "dagster/row_count": 3,
        "delta/version": 2,
        "delta/rows_inserted": 1,
        "delta/rows_updated": 1,
        "delta/rows_deleted": 1,
        "delta/rows_ignored": 2,  # b is older than the table's, z is unknown
        "delta/rows_dropped_duplicates": 1,
        "delta/rows_quarantined": 1,
        "delta/files_added": 1,
        "delta/files_removed": 1,
        "delta/files_rewritten": 1,
    }
    assert [column.name for column in metadata["dagster/column_schema"].columns] == ["k", "v"]


def test_a_partition_is_told_the_rows_of_the_whole_table(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=DAYS)
    table.write(keyed(a=1), day(5))
    written = table.write(keyed(b=1), day(6))
    assert written.metadata["dagster/row_count"] == table.rows().height == 2
    assert "dagster/partition_row_count" not in written.metadata


def test_the_commit_names_its_pattern_and_run(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=DAYS)
    table.write(keyed(a=1), day(5))
    commit = table.handle.history(1)[0]
    assert commit["pattern_platform.pattern"] == "merger"
    assert day(5) in str(commit["pattern_platform.partition_keys"])
    assert len(commit["pattern_platform.run_id"]) == 36


def test_an_empty_batch_is_a_commit_without_changes(tmp_path: Path) -> None:
    table = merger(tmp_path)
    assert table.write(keyed()).version == 1
    assert table.rows().schema == keyed().schema
    table.write(keyed(a=1))
    live = live_files(table)
    assert did(table.write(keyed()).metadata) == {}
    assert table.version == 3
    assert live_files(table) == live


# Which files are rewritten ------------------------------------------------------------------------------------------


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Sixteen keys, 0 to 30, shuffled, in four files."""
    small_files(monkeypatch)
    table = merger(tmp_path)
    table.write(numbers(*range(0, 32, 2)).sample(fraction=1, shuffle=True, seed=1))
    return table


def numbers(*keys: int, v: int = 0) -> pl.DataFrame:
    return pl.DataFrame({"k": keys, "v": [v] * len(keys)}, schema={"k": pl.Int64, "v": pl.Int64})


def test_a_new_table_is_clustered_by_key(wide: Table) -> None:
    assert sorted(bounds(wide).values()) == [(0, 6), (8, 14), (16, 22), (24, 30)]


def test_only_files_that_hold_a_touched_key_are_rewritten(wide: Table) -> None:
    before, ranges = live_files(wide), bounds(wide)
    written = wide.write(numbers(10, v=1))
    kept = before & live_files(wide)
    assert {ranges[name] for name in before - kept} == {(8, 14)}
    assert written.metadata["delta/files_rewritten"] == written.metadata["delta/files_removed"] == 1
    assert held_numbers(wide) == {**dict.fromkeys(range(0, 32, 2), 0), 10: 1}


def test_a_key_between_those_of_a_file_is_no_reason_to_rewrite_it(wide: Table) -> None:
    before = live_files(wide)
    written = wide.write(numbers(11, 13, v=1))
    assert written.metadata["delta/files_rewritten"] == 0
    assert before < live_files(wide)
    assert held_numbers(wide) == {**dict.fromkeys(range(0, 32, 2), 0), 11: 1, 13: 1}


def test_new_keys_join_the_file_that_is_rewritten_anyway(wide: Table) -> None:
    written = wide.write(numbers(10, 11, v=1))
    assert written.metadata["delta/files_rewritten"] == 1
    assert (8, 14) in bounds(wide).values()
    assert len(live_files(wide)) == 4


@pytest.mark.parametrize("outer", [-5, 99])
def test_keys_beyond_the_ends_join_the_outer_file(wide: Table, outer: int) -> None:
    wide.write(numbers(0, 30, outer, v=1))
    assert len(live_files(wide)) == 4
    assert held_numbers(wide) == {**dict.fromkeys(range(0, 32, 2), 0), 0: 1, 30: 1, outer: 1}


def test_a_file_that_grew_is_split(wide: Table) -> None:
    wide.write(numbers(*range(8, 15), v=1))
    ranges = sorted(bounds(wide).values())
    assert all(before[1] < after[0] for before, after in pairwise(ranges))
    assert max(pl.read_parquet(path).height for path in wide.handle.file_uris()) <= 5
    assert held_numbers(wide) == {**dict.fromkeys(range(0, 32, 2), 0), **dict.fromkeys(range(8, 15), 1)}


def test_small_neighbours_are_merged_into_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(monkeypatch)
    table = merger(tmp_path)
    for key in range(4):
        table.write(numbers(key))
    assert len(live_files(table)) == 4
    table.write(numbers(*range(4), v=1))
    assert len(live_files(table)) == 1
    assert held_numbers(table) == dict.fromkeys(range(4), 1)


def test_a_file_whose_rows_are_all_deleted_goes_without_another(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata=SOFT)
    table.write(changed(a=1, b=1))
    written = table.write(changed(gone=["a", "b"]))
    assert (written.metadata["delta/files_added"], written.metadata["delta/files_removed"]) == (0, 1)
    assert live_files(table) == set()
    assert held(table) == {}
    table.write(changed(a=2))
    assert held(table) == {"a": 2}


def test_changes_that_are_all_older_rewrite_nothing(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"sequence_by": "v"})
    table.write(keyed(a=5, b=5))
    live = live_files(table)
    assert did(table.write(keyed(a=4, b=3)).metadata) == {"ignored": 2}
    assert live_files(table) == live


def test_the_check_of_files_can_fail(wide: Table) -> None:
    """The negative control: delta-rs rewrites a file for a key that is not in it."""
    before = live_files(wide)
    wide.handle.update(updates={"v": "v"}, predicate="k >= 0")
    assert not before & live_files(wide)


def held_numbers(table: Table) -> dict[int, int]:
    rows = table.rows().select("k", "v").rows()
    assert len({key for key, _ in rows}) == len(rows)
    return dict(rows)


# Keys ---------------------------------------------------------------------------------------------------------------

UTC = dt.UTC
MICROSECONDS = (0, 1, 999, 1000, 1001, 999_999)
LONG = "x" * 80
KEYS: dict[str, pl.Series] = {
    "int64": pl.Series([-(2**63), -1, 0, 1, 2**53, 2**53 + 1, 2**63 - 1]),
    "int8": pl.Series([-128, -1, 0, 1, 127], dtype=pl.Int8),
    "string": pl.Series(["", " ", "A", "a", "a ", "O'Brien", "null", "zz", "ñ", "ß", "🙂", "日本"]),
    "long strings": pl.Series([LONG, LONG + "a", LONG + "b", LONG[:64], LONG[:63] + "ñ", LONG[:62] + "🙂" + LONG]),
    "nfc and nfd": pl.Series(["\u00e9", "e\u0301", "e", "f"]),
    "date": pl.Series([dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(1970, 1, 1), dt.date(9999, 12, 31)]),
    "naive": pl.Series([dt.datetime(1969, 12, 31, 23, 59, 59, n, UTC) for n in MICROSECONDS]).dt.replace_time_zone(
        None
    ),
    "zoned": pl.Series([dt.datetime(2024, 11, 3, 6, 0, 0, n, UTC) for n in MICROSECONDS]),
    "binary": pl.Series([b"", b"\x00", b"\x00\x00", b"a", b"\xff", b"\xff\xff"]),
    "boolean": pl.Series([False, True]),
    "float64": pl.Series([-float("inf"), -1.5, 0.0, 5e-324, 0.1, 0.1 + 0.2, 0.3, float("inf")]),
    "float32": pl.Series([-1.5, 0.0, 0.25, 3.4e38], dtype=pl.Float32),
    "decimal": pl.Series([Decimal("-1.50"), Decimal("0.00"), Decimal("0.01"), Decimal("9" * 30 + ".99")]).cast(
        pl.Decimal(38, 2)
    ),
    "categorical": pl.Series(["b", "a", "c"], dtype=pl.Categorical),
}


def _by_platform(table: Table, rows: pl.DataFrame) -> None:
    table.write(rows)


def _by_delta_rs(table: Table, rows: pl.DataFrame) -> None:
    for part in (rows[::2], rows[1::2]):
        foreign(table, part.with_columns(pl.col(pl.Categorical).cast(pl.String)))


def _by_delta_rs_without_statistics(table: Table, rows: pl.DataFrame) -> None:
    rows = rows.with_columns(pl.col(pl.Categorical).cast(pl.String))
    configuration = {"delta.dataSkippingNumIndexedCols": "0"}
    foreign(table, rows[::2], configuration=configuration)
    foreign(table, rows[1::2])
    assert not [c for c in pl.DataFrame(table.handle.get_add_actions(flatten=True)).columns if c.startswith("min.")]


ORIGINS = {
    "platform": _by_platform,
    "delta-rs": _by_delta_rs,
    "no statistics": _by_delta_rs_without_statistics,
}


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("name", KEYS)
def test_keys_of_every_type_find_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, origin: str
) -> None:
    small_files(monkeypatch, rows=2)
    keys = KEYS[name]
    table = merger(tmp_path, metadata=SOFT)
    rows = pl.DataFrame({"k": keys, "v": pl.Series(range(len(keys)))})
    flagged = rows.with_columns(gone=pl.lit(value=False))
    ORIGINS[origin](table, flagged if origin == "platform" else rows)
    # Every second key is updated, the first is deleted, the others are not mentioned.
    batch = flagged[1::2].with_columns(v=pl.col("v") + 100)
    batch = pl.concat([batch, flagged[:1].with_columns(gone=pl.lit(value=True))])
    assert did(table.write(batch).metadata) == {"updated": batch.height - 1, "deleted": 1}
    expected = rows[1:].with_columns(v=pl.when(pl.col("v") % 2 == 1).then(pl.col("v") + 100).otherwise("v"))
    expected = expected.with_columns(pl.col(pl.Categorical).cast(pl.String))
    assert_same_rows(table.rows(), expected)
    assert did(table.write(flagged).metadata) == {"inserted": 1, "updated": len(keys) - 1}
    assert_same_rows(table.rows(), rows.with_columns(pl.col(pl.Categorical).cast(pl.String)))


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_a_key_above_the_bound_that_another_writer_cut(tmp_path: Path, zone: str | None) -> None:
    table = merger(tmp_path)
    moments = pl.Series([dt.datetime(2024, 1, 1, 0, 0, 0, 999_999, UTC)]).dt.replace_time_zone(zone)
    foreign(table, pl.DataFrame({"k": moments, "v": [1]}))
    bound = pl.DataFrame(table.handle.get_add_actions(flatten=True))["max.k"]
    assert (bound < moments).all()  # the reason for the test
    assert did(table.write(pl.DataFrame({"k": moments, "v": [2]})).metadata) == {"updated": 1}
    assert table.rows()["v"].to_list() == [2]


def test_files_with_and_without_statistics_beside_each_other(tmp_path: Path) -> None:
    table = merger(tmp_path)
    table.write(keyed(a=1, c=1))
    foreign_file(table, keyed(b=1), statistics='{"numRecords": 1}')
    bounds_known = pl.DataFrame(table.handle.get_add_actions(flatten=True))["min.k"].is_not_null()
    assert sorted(bounds_known) == [False, True]
    assert did(table.write(keyed(a=2, b=2, c=2)).metadata) == {"updated": 3}
    assert held(table) == {"a": 2, "b": 2, "c": 2}


def test_composite_keys_are_equal_in_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(monkeypatch)
    table = merger(tmp_path, "a", "b", "c")
    rows = pl.DataFrame(
        [(a, b, c, 0) for a in (1, 2) for b in ("x", "y", "xy") for c in (dt.date(2024, 1, 1), dt.date(2024, 1, 2))],
        schema=["a", "b", "c", "v"],
        orient="row",
    )
    table.write(rows)
    one = rows.filter(a=2, b="xy", c=dt.date(2024, 1, 1)).with_columns(v=pl.lit(9, pl.Int64))
    new = pl.DataFrame({"a": [1], "b": ["yx"], "c": [dt.date(2024, 1, 1)], "v": [9]})
    assert did(table.write(pl.concat([one, new])).metadata) == {"updated": 1, "inserted": 1}
    assert_same_rows(table.rows(), pl.concat([rows.join(one, on=["a", "b", "c"], how="anti"), one, new]))


def test_negative_zero_is_zero(tmp_path: Path) -> None:
    table = merger(tmp_path)
    table.write(pl.DataFrame({"k": [0.0], "v": [1]}))
    table.write(pl.DataFrame({"k": [-0.0], "v": [2]}))
    assert table.rows()["v"].to_list() == [2]


def test_nan_is_no_key(tmp_path: Path) -> None:
    with refused(tmp_path, NullKeyError, "null in k"):
        merger(tmp_path).write(pl.DataFrame({"k": [float("nan")], "v": [1]}))


def test_a_key_column_that_is_not_the_first(tmp_path: Path) -> None:
    table = merger(tmp_path, "id")
    table.write(pl.DataFrame({"v": [1, 2], "nested": [{"id": 2}, {"id": 1}], "id": [1, 2]}))
    table.write(pl.DataFrame({"v": [3], "nested": [{"id": 2}], "id": [2]}))
    assert_same_rows(table.rows(), pl.DataFrame({"v": [1, 3], "nested": [{"id": 2}, {"id": 2}], "id": [1, 2]}))


@pytest.mark.parametrize(
    "name", ["path", "_path", "_group", "_stored_sequence", "_reason", "size_bytes", "min.k", "a b"]
)
def test_columns_are_named_as_they_like(tmp_path: Path, name: str) -> None:
    as_key = merger(tmp_path / "key", name)
    as_key.write(pl.DataFrame({name: ["a", "b"], "v": [1, 2]}))
    as_key.write(pl.DataFrame({name: ["a"], "v": [3]}))
    assert_same_rows(as_key.rows(), pl.DataFrame({name: ["a", "b"], "v": [3, 2]}))
    as_value = merger(tmp_path / "value", metadata={"sequence_by": name})
    as_value.write(pl.DataFrame({"k": ["a", "b"], name: [1, 2]}))
    as_value.write(pl.DataFrame({"k": ["a", "b"], name: [3, 1]}))
    assert_same_rows(as_value.rows(), pl.DataFrame({"k": ["a", "b"], name: [3, 2]}))


@pytest.mark.parametrize("name", ["_reason", "_partition", "_run_id"])
def test_a_quarantine_never_overwrites_a_column_of_the_batch(tmp_path: Path, name: str) -> None:
    """Either the names are kept apart, or the batch is refused before a byte is written."""
    table = merger(tmp_path, metadata={"bad_rows": "quarantine"})
    batch = pl.DataFrame({"k": [None, "a"], name: ["mine", "also mine"]}, schema_overrides={"k": pl.String})
    try:
        table.write(batch)
    except InvalidMetadataError:
        assert contents(tmp_path) == {}
    else:
        assert table.rows()[name].to_list() == ["also mine"]
        assert "mine" in quarantine(table).row(0)


# Sequences and duplicates in the batch ------------------------------------------------------------------------------

SEQUENCES: dict[str, list[Any]] = {
    "integers": [1, 2, 3],
    "text": ["a", "b", "c"],
    "dates": [dt.date(2024, 1, n) for n in (1, 2, 3)],
    "microseconds": [dt.datetime(2024, 1, 1, 0, 0, 0, n, UTC) for n in (1, 2, 3)],
    "floats": [-0.5, 0.0, 0.5],
    "decimals": [Decimal("0.1"), Decimal("0.2"), Decimal("0.3")],
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_highest_sequence_wins_in_the_batch_and_against_the_table(tmp_path: Path, name: str) -> None:
    old, stored, new = SEQUENCES[name]
    table = merger(tmp_path, metadata={"sequence_by": "s", **SOFT})

    def batch(*rows: tuple[str, Any, str, bool]) -> pl.DataFrame:
        return pl.DataFrame(rows, schema=["k", "s", "v", "gone"], orient="row")

    table.write(batch(*((k, s, f"{s}", False) for k in "abcde" for s in (stored, old))))
    written = table.write(
        batch(
            ("a", old, "older", False),
            ("b", new, "newer", False),
            ("c", old, "older", True),
            ("d", new, "newer", True),
            ("e", stored, "same sequence", False),
        )
    )
    assert did(written.metadata) == {"updated": 2, "deleted": 1, "ignored": 2}
    values = dict(table.rows().select("k", "v").rows())
    assert values == {"a": f"{stored}", "b": "newer", "c": f"{stored}", "e": "same sequence"}


def test_order_of_rows_and_of_the_last_being_a_delete_do_not_matter(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"sequence_by": "s", **SOFT})
    rows = [("a", 3, True), ("a", 1, False), ("a", 2, False), ("b", 1, True), ("b", 2, False)]
    written = table.write(pl.DataFrame(rows, schema=["k", "s", "gone"], orient="row"))
    assert did(written.metadata) == {"inserted": 1, "ignored": 1, "dropped_duplicates": 3}
    assert table.rows().rows() == [("b", 2)]


def test_a_stored_row_without_sequence_is_older_than_any(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"sequence_by": "v"})
    foreign(table, keyed(a=None, b=1))
    assert did(table.write(keyed(a=-9, b=0)).metadata) == {"updated": 1, "ignored": 1}
    assert held(table) == {"a": -9, "b": 1}


def sequenced(*rows: tuple[str | None, int | None, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"k": pl.String, "s": pl.Int64, "v": pl.String}, orient="row")


def test_equal_rows_of_one_sequence_are_one(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"sequence_by": "s"})
    assert did(table.write(sequenced(*[("a", 1, "x")] * 3)).metadata) == {"inserted": 1, "dropped_duplicates": 2}
    assert table.rows().rows() == [("a", 1, "x")]


BAD = {
    "tie": (sequenced(("a", 2, "x"), ("a", 2, "y"), ("a", 1, "z")), 3, DuplicateKeyError, "which"),
    "null key": (sequenced((None, 2, "x")), 1, NullKeyError, "null in k"),
    "null sequence": (sequenced(("a", None, "x")), 1, NullKeyError, "null in s"),
    "null sequence beside another": (sequenced(("a", None, "x"), ("b", 1, "y")), 1, NullKeyError, "null in s"),
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_say_nothing_sure_are_refused_from_the_first_load_on(tmp_path: Path, name: str) -> None:
    batch, _, error, said = BAD[name]
    table = merger(tmp_path, metadata={"sequence_by": "s"})
    with refused(tmp_path, error, said, "quarantine"):
        table.write(batch)
    assert list(tmp_path.iterdir()) == []
    table.write(sequenced(("a", 1, "stored")))
    with refused(tmp_path, error, said):
        table.write(batch)


@pytest.mark.parametrize("kind", FRAME_KINDS)
@pytest.mark.parametrize("name", BAD)
def test_rows_that_say_nothing_sure_are_set_aside_and_the_others_merged(tmp_path: Path, name: str, kind: type) -> None:
    batch, bad, _, said = BAD[name]
    table = merger(tmp_path, metadata={"sequence_by": "s", "bad_rows": "quarantine"})
    table.write(sequenced(("a", 1, "stored"), ("c", 1, "stored")))
    written = table.write(as_kind(pl.concat([batch, sequenced(("c", 2, "new"))]), kind))
    assert written.metadata["delta/rows_quarantined"] == bad
    aside = quarantine(table)
    assert aside.columns == ["k", "s", "v", "_reason", "_partition", "_run_id"]
    assert aside.height == bad
    rest = batch.join(aside, on=["k", "s", "v"], how="anti", nulls_equal=True)
    assert rest.height == batch.height - bad  # nothing is lost: merged, or set aside
    assert_same_rows(table.rows(), pl.concat([sequenced(("a", 1, "stored")), rest, sequenced(("c", 2, "new"))]))
    assert all(said in reason for reason in aside["_reason"])


@pytest.mark.parametrize(("batch", "said"), [(keyed(a=1), "is not declared"), (keyed(a=2), "is not declared")])
def test_duplicates_without_sequence_are_refused(tmp_path: Path, batch: pl.DataFrame, said: str) -> None:
    with refused(tmp_path, DuplicateKeyError, "2 row(s)", said, "sequence_by"):
        merger(tmp_path).write(pl.concat([keyed(a=1), batch]))


def test_duplicates_of_nested_rows(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"sequence_by": "s"})
    batch = pl.DataFrame({"k": [1, 1], "s": [1, 1], "l": [[1, None], [1, None]], "d": [{"x": [1]}, {"x": [1]}]})
    table.write(batch)
    assert_same_rows(table.rows(), batch[:1])
    with refused(tmp_path, DuplicateKeyError):
        table.write(batch.with_columns(d=pl.Series([{"x": [1]}, {"x": [2]}])))


# Quarantine ---------------------------------------------------------------------------------------------------------


def broken(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"k": [None] * len(values), "v": values}, schema=keyed().schema)


def test_a_quarantine_keeps_what_each_partition_set_aside_last(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=DAYS, metadata={"bad_rows": "quarantine"})
    table.write(keyed(a=1), day(5))
    assert not (tmp_path / "table__quarantine").exists()
    table.write(broken(1, 2), day(5))
    table.write(broken(3), day(6))
    assert sorted(quarantine(table).select("v", "_partition").rows()) == [(1, day(5)), (2, day(5)), (3, day(6))]
    table.write(broken(4), day(5))
    assert sorted(quarantine(table).select("v", "_partition").rows()) == [(3, day(6)), (4, day(5))]
    table.write(keyed(a=1), day(5))
    assert quarantine(table).select("v", "_partition").rows() == [(3, day(6))]
    assert quarantine(table)["_reason"].to_list() == ["null in k"]
    assert len(quarantine(table)["_run_id"][0]) == 36


def test_a_quarantine_of_runs_without_partitions_keeps_every_run(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"bad_rows": "quarantine"})
    table.write(broken(1))
    table.write(broken(2))
    table.write(keyed(a=1))
    assert sorted(quarantine(table)["v"]) == [1, 2]
    assert quarantine(table)["_partition"].to_list() == quarantine(table)["_run_id"].to_list()


def test_a_quarantine_keeps_the_flag_and_new_columns(tmp_path: Path) -> None:
    metadata = {"bad_rows": "quarantine", "schema_evolution": "add_columns", **SOFT}
    table = merger(tmp_path, definition=DAYS, metadata=metadata)
    table.write(changed(a=1).with_columns(gone=pl.lit(None, pl.Boolean)), day(5))
    table.write(broken(1).with_columns(gone=pl.lit(value=True), x=pl.lit("new")), day(6))
    rows = quarantine(table).sort("_partition").select("k", "v", "gone", "x", "_reason").rows()
    assert rows == [("a", 1, None, None, "null in gone"), (None, 1, True, "new", "null in k")]
    assert table.rows().columns == ["k", "v", "x"]


# Layouts ------------------------------------------------------------------------------------------------------------


def dated(number: int, **values: int) -> pl.DataFrame:
    return keyed(**values).with_columns(day=pl.lit(day(number)).str.to_date())


def test_rows_of_a_partition_are_in_its_window(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=DAYS, partition_expr="day")
    table.write(dated(5, a=1), day(5))
    for kind in FRAME_KINDS:
        with refused(tmp_path, RowsOutsidePartitionError, day(6)):
            table.write(as_kind(dated(5, b=1), kind), day(6))
    with refused(tmp_path, RowsOutsidePartitionError):
        table.write(dated(6, b=1).with_columns(day=pl.lit(None, pl.Date)), day(6))


def test_a_key_is_unique_in_the_whole_table_and_moves_with_its_row(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=DAYS, partition_expr="day")
    table.write(dated(5, a=1, b=1), day(5))
    assert did(table.write(dated(6, a=2), day(6)).metadata) == {"updated": 1}
    assert_same_rows(table.rows(), pl.concat([dated(5, b=1), dated(6, a=2)]))


def test_a_key_is_unique_in_a_physical_partition_that_is_the_run_s(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=DAYS, partition_expr="day", metadata={"partition_by": ["day"]})
    table.write(dated(5, a=1), day(5))
    fifth = live_files(table)
    assert did(table.write(dated(6, a=2), day(6)).metadata) == {"inserted": 1}
    assert did(table.write(dated(6, a=3), day(6)).metadata) == {"updated": 1}
    assert fifth < live_files(table)
    assert_same_rows(table.rows(), pl.concat([dated(5, a=1), dated(6, a=3)]))


def test_a_merge_within_a_partition_never_looks_at_the_others(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=DAYS, partition_expr="day", metadata={"partition_by": ["day"]})
    table.write(dated(5, a=1), day(5))
    (other,) = table.path.rglob("day=2024-10-05/*.parquet")
    other.unlink()
    table.write(dated(6, a=2), day(6))
    assert table.write(dated(6, a=3), day(6)).metadata["delta/rows_updated"] == 1
    with pytest.raises(Exception, match=r"No such file|not found"):  # the negative control: this one does look
        table.with_(partition_expr=None).write(dated(6, a=4), day(6))


def test_a_key_moves_from_one_physical_partition_to_another(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"partition_by": ["region"]})

    def users(**regions: str | None) -> pl.DataFrame:
        return pl.DataFrame({"k": list(regions), "region": list(regions.values()), "v": [1] * len(regions)})

    table.write(users(a="eu", b="eu", c="us", d=None))
    written = table.write(users(a="us", c=None, d="eu", e="a/b ü"))
    assert did(written.metadata) == {"updated": 3, "inserted": 1}
    assert_same_rows(table.rows(), users(a="us", b="eu", c=None, d="eu", e="a/b ü"))
    table.write(users(a="eu", b="eu", c="us", d=None))
    assert_same_rows(table.rows(), users(a="eu", b="eu", c="us", d=None, e="a/b ü"))


def test_a_key_that_is_a_physical_partition_column(tmp_path: Path) -> None:
    table = merger(tmp_path, "region", "k", metadata={"partition_by": ["region"]})

    def rows(v: int, *keys: tuple[str, str]) -> pl.DataFrame:
        return pl.DataFrame([(*key, v) for key in keys], schema=["region", "k", "v"], orient="row")

    table.write(rows(1, ("eu", "a"), ("us", "a"), ("us", "b")))
    before = live_files(table)
    written = table.write(rows(2, ("us", "a"), ("asia", "a")))
    assert did(written.metadata) == {"updated": 1, "inserted": 1}
    assert len(before & live_files(table)) == 1
    assert_same_rows(table.rows(), pl.concat([rows(1, ("eu", "a"), ("us", "b")), rows(2, ("us", "a"), ("asia", "a"))]))


ODD = ["O'Brien", "a b", "a/b", "../x", "a%2Fb", "a=b", "🙂", "a#b?c", "[a]", "*"]


def test_files_of_oddly_named_partitions_are_found_again(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={"partition_by": ["p"]})
    rows = pl.DataFrame({"k": range(len(ODD)), "p": ODD, "v": [0] * len(ODD)})
    table.write(rows)
    assert table.write(rows.with_columns(v=pl.lit(1, pl.Int64))).metadata["delta/rows_updated"] == len(ODD)
    assert_same_rows(table.rows(), rows.with_columns(v=pl.lit(1, pl.Int64)))


@pytest.mark.parametrize("folder", ["a b", "ü", "a=b", "[a]", "st*r", "#h", "q?", "a/../b", "o'x"])
def test_files_under_an_oddly_named_root_are_found_again(tmp_path: Path, folder: str) -> None:
    table = merger(tmp_path / folder)
    table.write(keyed(a=1, b=1))
    assert did(table.write(keyed(a=2)).metadata) == {"updated": 1}
    assert held(table) == {"a": 2, "b": 1}


def test_files_under_a_linked_root_are_found_again(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    merger(tmp_path / "real").write(keyed(a=1, b=1))
    assert did(merger(tmp_path / "link").write(keyed(a=2)).metadata) == {"updated": 1}
    assert held(merger(tmp_path / "real")) == {"a": 2, "b": 1}


def test_a_single_run_merges_partition_by_partition(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=DAYS, partition_expr="day", metadata={"bad_rows": "quarantine"})
    nameless = dated(6, x=7).with_columns(k=pl.lit(None, pl.String))
    batch = pl.concat([dated(7, a=3), dated(5, a=1, b=1), dated(6, a=2), nameless])
    written = table.write_range(batch, day(5), day(7))
    assert written.version == table.version == 3
    assert [held(table, version) for version in (1, 2, 3)] == [{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 3, "b": 1}]
    assert did(written.metadata) == {"inserted": 2, "updated": 2, "quarantined": 1}
    assert written.metadata["dagster/row_count"] == 2
    assert sorted(written.partitions) == [day(5), day(6), day(7)]
    assert quarantine(table).select("v", "_partition").rows() == [(7, day(6))]


def test_a_single_run_is_checked_whole_before_its_first_commit(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=DAYS, partition_expr="day")
    with refused(tmp_path, DuplicateKeyError):
        table.write_range(pl.concat([dated(5, a=1), dated(6, a=2), dated(6, a=3)]), day(5), day(6))
    assert list(tmp_path.iterdir()) == []


def test_a_single_run_without_partition_column_is_one_merge(tmp_path: Path) -> None:
    table = merger(tmp_path, definition=DAYS, metadata={"bad_rows": "quarantine"})
    written = table.write_range(pl.concat([keyed(a=1, b=1), broken(1)]), day(5), day(7))
    assert written.version == table.version == 1
    assert held(table) == {"a": 1, "b": 1}
    assert quarantine(table)["_partition"].to_list() == [day(5)]
    table.write_range(keyed(a=1, b=1), day(5), day(7))
    assert quarantine(table).height == 0


REGIONS = dg.StaticPartitionsDefinition(["x", "y"])
KINDS: dict[str, tuple[dg.PartitionsDefinition, list[str]]] = {
    "static": (REGIONS, ["x", "y"]),
    "dynamic": (dg.DynamicPartitionsDefinition(name="regions"), ["x", "y"]),
    "multi": (
        dg.MultiPartitionsDefinition({"day": DAYS, "region": REGIONS}),
        [dg.MultiPartitionKey({"day": day(5), "region": region}) for region in ("x", "y")],
    ),
}


@pytest.mark.parametrize("physical", [[], ["region"], ["day", "region"]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_partitions_of_every_kind_are_merged(tmp_path: Path, kind: str, physical: list[str]) -> None:
    definition, (x, y) = KINDS[kind]
    expression = {"day": "day", "region": "region"} if kind == "multi" else "region"
    table = merger(tmp_path, definition=definition, partition_expr=expression, metadata={"partition_by": physical})
    if kind == "dynamic":
        table.instance.add_dynamic_partitions("regions", [x, y])

    def rows(region: str, v: int) -> pl.DataFrame:
        return dated(5, a=v).with_columns(region=pl.lit(region))

    for key, region, v in ((x, "x", 1), (y, "y", 2), (y, "y", 3)):
        table.write(rows(region, v), key)
    bounded = "region" in physical and (kind != "multi" or "day" in physical)
    expected = [rows("x", 1), rows("y", 3)] if bounded else [rows("y", 3)]
    assert_same_rows(table.rows(), pl.concat(expected))
    with refused(tmp_path, RowsOutsidePartitionError):
        table.write(rows("x", 4), y)


def test_a_physical_partition_of_moments_within_the_hour_of_the_run(tmp_path: Path) -> None:
    hours = dg.HourlyPartitionsDefinition("2024-10-05-00:00", end_date="2024-10-05-03:00")
    table = merger(tmp_path, definition=hours, partition_expr="moment", metadata={"partition_by": ["moment"]})

    def at(microsecond: int, v: int) -> pl.DataFrame:
        start = dt.datetime(2024, 10, 5, tzinfo=UTC)
        return keyed(a=v).with_columns(moment=pl.lit(start + dt.timedelta(microseconds=microsecond)))

    hour = 3_600_000_000
    for microsecond, v in ((1, 1), (999, 2), (hour - 1, 3), (hour, 4), (hour + 1, 5), (2 * hour - 1, 6)):
        table.write(at(microsecond, v), f"2024-10-05-0{microsecond // hour}:00")
    # a moved within its hour; the last microsecond is in a file whose bounds reach into the next hour
    assert_same_rows(table.rows(), pl.concat([at(hour - 1, 3), at(2 * hour - 1, 6)]))


# The table ----------------------------------------------------------------------------------------------------------


def test_duplicates_in_the_table_are_refused_where_they_are_touched(tmp_path: Path) -> None:
    table = merger(tmp_path)
    foreign(table, pl.concat([keyed(a=1, b=1), keyed(a=2)]))
    foreign(table, keyed(c=1))
    foreign(table, keyed(c=2))
    for key in ("a", "c"):
        with refused(tmp_path, DuplicateKeyInTableError, "k do not identify its rows"):
            table.write(keyed(**{key: 3}))
    table.write(keyed(b=2))
    assert sorted(table.rows().rows()) == [("a", 1), ("a", 2), ("b", 2), ("c", 1), ("c", 2)]


def test_null_keys_in_the_table_are_left_alone(tmp_path: Path) -> None:
    table = merger(tmp_path)
    foreign(table, pl.concat([keyed(a=1), broken(7, 8)]))
    table.write(keyed(a=2))
    assert sorted(table.rows().rows(), key=str) == [("a", 2), (None, 7), (None, 8)]


def test_the_same_batch_again_leaves_the_same_table(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata={**SOFT, "sequence_by": "v"})
    table.write(changed(a=5, b=5, c=5))
    batch = pl.concat([changed(a=6, b=4, d=1, e=2), changed(gone=["c"]).with_columns(v=pl.lit(9, pl.Int64))])
    table.write(batch)
    once = held(table)
    for _ in range(3):
        written = table.write(batch)
        assert held(table) == once == {"a": 6, "b": 5, "d": 1, "e": 2}
        assert did(written.metadata) == {"updated": 3, "ignored": 2}


def test_the_check_of_reruns_can_fail(tmp_path: Path) -> None:
    """The negative control: a writer that appends."""
    table = merger(tmp_path)
    for _ in range(2):
        foreign(table, keyed(a=1))
    with pytest.raises(AssertionError):
        held(table)


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_every_kind_of_frame(tmp_path: Path, kind: type) -> None:
    table = merger(tmp_path, metadata=SOFT)
    table.write(as_kind(changed(a=1, b=1), kind))
    table.write(as_kind(changed(a=2, gone=["b"], c=1).select("gone", "v", "k"), kind))
    assert held(table) == {"a": 2, "c": 1}
    assert table.rows().columns == ["k", "v"]


def test_columns_are_strict_and_added_where_declared(tmp_path: Path) -> None:
    table = merger(tmp_path)
    table.write(keyed(a=1, b=1))
    with refused(tmp_path, UnknownColumnError, "'x'"):
        table.write(keyed(a=2).with_columns(x=pl.lit(1)))
    with refused(tmp_path, MissingColumnError, "'v'"):
        table.write(keyed(a=2).drop("v"))
    table.with_(metadata={**table.metadata, "schema_evolution": "add_columns"}).write(
        keyed(a=2, c=2).with_columns(x=pl.lit("new"))
    )
    expected = pl.DataFrame({"k": ["a", "b", "c"], "v": [2, 1, 2], "x": ["new", None, "new"]})
    assert_same_rows(table.rows(), expected)
    table.write(keyed(b=3).with_columns(x=pl.lit("later")))
    assert table.rows().filter(k="b")["x"].to_list() == ["later"]


def test_a_sequence_that_was_added_later(tmp_path: Path) -> None:
    table = merger(tmp_path)
    table.write(keyed(a=1, b=1))
    later = {"schema_evolution": "add_columns", "sequence_by": "s", "merge_keys": ["k"]}
    table.with_(metadata=later).write(keyed(a=2).with_columns(s=pl.lit(1)))
    assert_same_rows(table.rows(), pl.DataFrame({"k": ["a", "b"], "v": [2, 1], "s": [1, None]}).cast({"s": pl.Int32}))


def test_nulls_in_not_null_columns_are_refused(tmp_path: Path) -> None:
    DeltaTable.create(
        tmp_path / "strict",
        Schema.from_arrow(pa.schema([pa.field("k", pa.string()), pa.field("v", pa.int64(), nullable=False)])),
    )
    with refused(tmp_path, NullInRequiredColumnError, "'v'"):
        merger(tmp_path, key=("strict",)).write(keyed(a=None))


def test_compaction_checkpoint_and_vacuum_of_others_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_files(monkeypatch)
    table = merger(tmp_path)
    for n in range(6):
        table.write(numbers(*range(n, n + 6), v=n))
    rows = held_numbers(table)
    table.handle.optimize.compact()
    table.handle.create_checkpoint()
    vacuum(table)
    assert data_files(table) == live_files(table)
    table.write(numbers(3, 99, v=9))
    assert held_numbers(table) == {**rows, 3: 9, 99: 9}


# Races --------------------------------------------------------------------------------------------------------------

MEANWHILE: dict[str, tuple[Callable[[Table], object], dict[str, int]]] = {
    "other key": (lambda table: table.write(keyed(b=9)), {"a": 2, "b": 9, "z": 1}),
    "same key": (lambda table: table.write(keyed(a=9)), {"a": 2, "b": 1, "z": 1}),
    "new key that the batch has": (lambda table: table.write(keyed(z=9)), {"a": 2, "b": 1, "z": 1}),
    "foreign append": (lambda table: foreign(table, keyed(f=1)), {"a": 2, "b": 1, "f": 1, "z": 1}),
    "foreign delete": (lambda table: table.handle.delete("k = 'a'"), {"a": 2, "b": 1, "z": 1}),
    "compaction": (lambda table: table.handle.optimize.compact(), {"a": 2, "b": 1, "z": 1}),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_another_commit_between_plan_and_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    table = merger(tmp_path)
    table.write(keyed(a=1))
    table.write(keyed(b=1))
    act, expected = MEANWHILE[what]
    before_commit(monkeypatch, lambda: act(table))
    written = table.write(keyed(a=2, z=1))
    assert held(table) == expected
    assert written.version == table.version
    assert written.metadata["dagster/row_count"] == len(expected)
    history = {path for version in range(table.version + 1) for path in _added(table, version)}
    assert data_files(table) == history  # the files of the plan that was given up are gone


def _added(table: Table, version: int) -> set[str]:
    return {uri.rsplit("/", 1)[-1] for uri in DeltaTable(table.path, version=version).file_uris()}


def test_a_newer_change_that_came_between_outlasts_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = merger(tmp_path, metadata={"sequence_by": "v"})
    table.write(keyed(a=1))
    before_commit(monkeypatch, lambda: table.write(keyed(a=3)))
    assert did(table.write(keyed(a=2)).metadata) == {"ignored": 1}
    assert held(table) == {"a": 3}


def _one_process(root: Path, name: str, rounds: int, barrier: Any) -> None:
    table = merger(root, metadata={"sequence_by": "v"})
    for n in range(rounds):
        barrier.wait()
        sequence = 2 * n + (name == "odd")
        table.write(keyed(**{"shared": sequence, f"{name}{n}": n}))


def test_two_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    rounds = 4
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    processes = [spawn.Process(target=_one_process, args=(tmp_path, n, rounds, barrier)) for n in ("even", "odd")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    table = merger(tmp_path)
    own = {f"{name}{n}": n for name in ("even", "odd") for n in range(rounds)}
    assert held(table) == {**own, "shared": 2 * rounds - 1}
    assert table.version == 2 * rounds


# Declarations -------------------------------------------------------------------------------------------------------

ROW = {"k": ["a"], "v": [1], "nested": [[1]], "text": ["x"]}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no keys": ({"merge_keys": None}, "merge_keys"),
    "empty keys": ({"merge_keys": []}, "merge_keys"),
    "keys as text": ({"merge_keys": "k"}, "merge_keys"),
    "numbers": ({"merge_keys": [1]}, "merge_keys"),
    "repeated key": ({"merge_keys": ["k", "k"]}, "twice"),
    "sequence is a key": ({"sequence_by": "k"}, "twice"),
    "flag is a key": ({"soft_delete": "k"}, "twice"),
    "flag is the sequence": ({"soft_delete": "v", "sequence_by": "v"}, "twice"),
    "other word": ({"bad_rows": "drop"}, "bad_rows"),
    "misspelt": ({"merge_key": ["k"], "merge_keys": None}, "merge_keys"),
    "misspelt option": ({"soft_deletes": "gone"}, "soft_delete"),
}
WRONG_FOR_THE_BATCH: dict[str, tuple[dict[str, Any], type[Any], str]] = {
    "unknown key": ({"merge_keys": ["k", "x"]}, InvalidMetadataError, "'x'"),
    "unknown sequence": ({"sequence_by": "x"}, InvalidMetadataError, "'x'"),
    "unknown flag": ({"soft_delete": "x"}, MissingColumnError, "'x'"),
    "nested key": ({"merge_keys": ["nested"]}, InvalidMetadataError, "nested"),
    "nested sequence": ({"sequence_by": "nested"}, InvalidMetadataError, "nested"),
    "flag of numbers": ({"soft_delete": "v"}, ChangedTypeError, "'v'"),
    "flag of text": ({"soft_delete": "text"}, ChangedTypeError, "'text'"),
    "layout by the flag": ({"soft_delete": "gone", "partition_by": ["gone"]}, InvalidMetadataError, "partition_by"),
}


def declared(table: Table, changes: dict[str, Any]) -> Table:
    metadata = {**table.metadata, **changes}
    return table.with_(metadata={key: value for key, value in metadata.items() if value is not None})


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_refused_before_a_byte_is_written(tmp_path: Path, name: str) -> None:
    changes, said = WRONG[name]
    with refused(tmp_path, InvalidMetadataError, said):
        declared(merger(tmp_path), changes).write(pl.DataFrame(ROW))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_refused_as_definitions_load(tmp_path: Path, name: str) -> None:
    changes, said = WRONG[name]
    table = declared(merger(tmp_path), changes)
    with pytest.raises(InvalidMetadataError, match=said):
        validate_definitions(dg.Definitions([table.asset()], resources={"io_manager": table.manager}))


def test_right_declarations_pass_as_definitions_load(tmp_path: Path) -> None:
    tables = [
        merger(tmp_path, key=("a",)),
        merger(tmp_path, key=("b",), definition=DAYS, metadata={"sequence_by": "v", **SOFT}),
        merger(tmp_path, key=("c",), definition=DAYS, partition_expr="day", metadata={"bad_rows": "quarantine"}),
    ]
    defs = dg.Definitions(
        [table.asset() for table in tables], resources={"io_manager": MergerIOManager(root_uri=str(tmp_path))}
    )
    assert validate_definitions(defs) is defs


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("name", WRONG_FOR_THE_BATCH)
def test_a_declaration_that_the_batch_contradicts_is_refused(tmp_path: Path, name: str, order: int) -> None:
    changes, error, said = WRONG_FOR_THE_BATCH[name]
    batch = pl.DataFrame(ROW).with_columns(gone=pl.lit(value=False))
    batch = batch if changes.get("soft_delete") == "gone" else batch.drop("gone")
    with refused(tmp_path, error, said):
        declared(merger(tmp_path), changes).write(batch.select(batch.columns[::order]))
    assert list(tmp_path.iterdir()) == []


def test_a_flag_that_vanished_is_refused(tmp_path: Path) -> None:
    table = merger(tmp_path, metadata=SOFT)
    table.write(changed(a=1))
    for columns in (["k", "v"], ["v", "k"]):
        with refused(tmp_path, MissingColumnError, "'gone'"):
            table.write(keyed(a=2).select(columns))


def test_readers_see_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(monkeypatch)
    table = merger(tmp_path)
    for n in range(3):
        table.write(numbers(*range(n, 12, n + 1), v=n))
    assert_same_rows(pl.scan_delta(table.path).collect(), table.rows())
    low = pl.scan_delta(table.path).filter(pl.col("k") < 3).collect()
    assert_same_rows(low, table.rows().filter(pl.col("k") < 3))
    assert_same_rows(table.load(), table.rows())
