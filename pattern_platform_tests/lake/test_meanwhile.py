"""What others do to a table between the moment a batch was checked and the moment it is committed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable

from pattern_platform.errors import CommitConflictError, InexpressiblePartitionError, UnsupportedTableError
from pattern_platform.lake import batch as batch_module
from pattern_platform_tests.lake.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEYS = dg.StaticPartitionsDefinition(["a", "b"])


def batch(key: str, n: int, **columns: object) -> pl.DataFrame:
    return pl.DataFrame({"moment": [key], "n": [n], **columns})


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Act once, after the files of a batch were written and before they are committed."""
    write_files = batch_module.write_files

    def written(*arguments: object, **options: object) -> object:
        files = write_files(*arguments, **options)
        monkeypatch.setattr(batch_module, "write_files", write_files)
        act()
        return files

    monkeypatch.setattr(batch_module, "write_files", written)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    table = Table(tmp_path, KEYS)
    table.write(batch("a", 1), "a")
    return table


def rows(table: Table) -> list[tuple[object, ...]]:
    return sorted(table.rows().select("moment", "n").rows())


def test_a_table_made_anew_at_the_same_version(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    def made_anew() -> None:
        shutil.rmtree(table.path)
        table.write(batch("a", 2), "a")

    meanwhile(monkeypatch, made_anew)
    with pytest.raises(CommitConflictError):
        table.write(batch("a", 3), "a")
    assert rows(table) == [("a", 2)]
    table.write(batch("a", 3), "a")
    assert rows(table) == [("a", 3)]


def test_a_full_vacuum_of_someone_else(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(
        monkeypatch,
        lambda: table.handle.vacuum(0, enforce_retention_duration=False, dry_run=False, full=True),
    )
    with pytest.raises(CommitConflictError):
        table.write(batch("a", 3), "a")
    assert rows(table) == [("a", 1)]


@pytest.mark.parametrize("given", [{"x": [1]}, {"n": ["text"]}, {"x": [1], "n": ["text"]}], ids=str)
def test_a_first_write_of_another_shape_alters_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, list[object]]
) -> None:
    table = Table(tmp_path, KEYS)
    meanwhile(monkeypatch, lambda: table.write(batch("b", 2), "b"))
    with pytest.raises(CommitConflictError):
        table.write(batch("a", 3).with_columns(**{name: pl.Series(value) for name, value in given.items()}), "a")
    assert table.rows().columns == ["moment", "n"]
    table.write(batch("b", 4), "b")
    assert rows(table) == [("b", 4)]


def test_two_writers_that_add_different_columns(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    evolving = table.with_(metadata={"schema_evolution": "add_columns"})
    meanwhile(monkeypatch, lambda: evolving.write(batch("b", 2, y=[2]), "b"))
    with pytest.raises(CommitConflictError):
        evolving.write(batch("a", 3, x=[3]), "a")
    assert table.rows().columns == ["moment", "n", "y"]


def test_a_constraint_that_came_meanwhile(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(monkeypatch, lambda: DeltaTable(table.path).alter.add_constraint({"small": "n < 100"}))
    with pytest.raises(UnsupportedTableError, match=r"delta\.constraints\.small"):
        table.write(batch("a", 300), "a")
    assert rows(table) == [("a", 1)]


def test_a_column_named_like_the_key_of_a_piece(tmp_path: Path) -> None:
    table = Table(tmp_path, KEYS)
    table.write_range(pl.DataFrame({"moment": ["a", "b"], "_piece_moment": [1, 2]}), "a", "b")
    assert table.rows()["_piece_moment"].sort().to_list() == [1, 2]


def test_a_dynamic_key_that_is_not_written_as_its_value(tmp_path: Path) -> None:
    table = Table(tmp_path, dg.DynamicPartitionsDefinition(name="n"), "n", instance=dg.DagsterInstance.ephemeral())
    table.instance.add_dynamic_partitions("n", ["1", "01"])
    table.write(pl.DataFrame({"n": [1]}), "1")
    with pytest.raises(InexpressiblePartitionError, match="'01'"):
        table.write(pl.DataFrame({"n": [1]}), "01")


def test_timestamps_that_other_writers_cut_to_milliseconds(tmp_path: Path) -> None:
    moments = ["2024-01-01T00:00:00", "2024-01-01T00:00:00.000500"]
    table = Table(tmp_path, dg.StaticPartitionsDefinition(moments))
    stored = pl.Series(moments).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us")
    pl.DataFrame({"moment": stored[1:], "n": [1]}).write_delta(str(table.path))
    table.write(pl.DataFrame({"moment": stored[:1], "n": [2]}), moments[0])
    table.write(pl.DataFrame({"moment": stored[1:], "n": [3]}), moments[1])
    assert table.rows().sort("moment")["n"].to_list() == [2, 3]
