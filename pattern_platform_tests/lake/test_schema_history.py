"""Which columns a table had when, told from its own log; tables are written by delta-rs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import polars as pl
from deltalake import DeltaTable

from pattern_platform.lake.schema_history import schema_history

if TYPE_CHECKING:
    from pathlib import Path

ONE = pl.DataFrame({"id": [1]})
TWO = pl.DataFrame({"id": [2], "note": ["x"]})


def write(
    folder: Path, frame: pl.DataFrame, mode: Literal["append", "overwrite"] = "append", schema_mode: str = "merge"
) -> Path:
    table = folder / "table"
    frame.write_delta(str(table), mode=mode, delta_write_options={"schema_mode": schema_mode})
    return table


def told(table: Path) -> list[tuple[int, list[str]]]:
    return [(made.version, list(made.schema)) for made in schema_history(table)]


def test_a_table_that_is_none_had_no_columns(tmp_path: Path) -> None:
    assert schema_history(tmp_path / "none") == []


def test_versions_that_change_no_column_are_left_out(tmp_path: Path) -> None:
    started = datetime.now(UTC) - timedelta(seconds=1)
    for frame in (ONE, ONE, TWO, ONE, TWO):
        table = write(tmp_path, frame)
    assert told(table) == [(0, ["id"]), (2, ["id", "note"])]
    made = schema_history(table)
    assert made[1].schema == {"id": pl.Int64, "note": pl.String}
    assert started <= made[0].committed_at <= made[1].committed_at <= datetime.now(UTC)


def test_a_type_that_changes_is_another_schema(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    table = write(tmp_path, pl.DataFrame({"id": ["1"]}), "overwrite", "overwrite")
    assert [made.schema["id"] for made in schema_history(table)] == [pl.Int64, pl.String]


def test_columns_that_come_back_are_told_again(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    write(tmp_path, TWO, "overwrite", "overwrite")
    table = write(tmp_path, ONE, "overwrite", "overwrite")
    assert told(table) == [(0, ["id"]), (1, ["id", "note"]), (2, ["id"])]


def test_a_restored_table_shows_the_columns_it_has_again(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    table = write(tmp_path, TWO)
    DeltaTable(str(table)).restore(0)
    assert DeltaTable(str(table)).schema().to_arrow().names == ["id"]
    assert told(table) == [(0, ["id"]), (1, ["id", "note"]), (2, ["id"])]


def test_other_settings_of_a_table_are_no_columns(tmp_path: Path) -> None:
    table = write(tmp_path, ONE)
    DeltaTable(str(table)).alter.set_table_properties({"delta.logRetentionDuration": "interval 9 days"})
    assert told(table) == [(0, ["id"])]


def test_commits_that_the_log_has_lost_are_left_out(tmp_path: Path) -> None:
    """The columns that the table has now are told all the same."""
    for frame in (ONE, TWO, TWO):
        table = write(tmp_path, frame)
    DeltaTable(str(table)).create_checkpoint()
    for version in (0, 1):
        (table / "_delta_log" / f"{version:020}.json").unlink()
    assert DeltaTable(str(table)).version() == 2
    (last,) = schema_history(table)[-1:] or [None]
    assert last is not None, "nothing is told of a table that is there"
    assert list(last.schema) == ["id", "note"]


def test_nested_types_and_zones_are_told_apart(tmp_path: Path) -> None:
    moment = datetime(2024, 5, 6, tzinfo=UTC)
    frame = pl.DataFrame({"at": [moment], "tags": [["a"]], "of": [{"a": 1}]})
    table = write(tmp_path, frame)
    (made,) = schema_history(table)
    assert made.schema == {
        "at": pl.Datetime("us", "UTC"),
        "tags": pl.List(pl.String),
        "of": pl.Struct({"a": pl.Int64}),
    }
