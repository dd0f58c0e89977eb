"""Upkeep as assets: every table of the IO managers, side tables included, each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable

from pattern_platform import DataOverwriteIOManager, MergerIOManager, StatefulMergerIOManager
from pattern_platform.operations.maintenance import maintenance_assets

if TYPE_CHECKING:
    from pathlib import Path

DAYS = dg.DailyPartitionsDefinition("2024-10-05", "2024-10-20")
NO_WAITING = {"retention_hours": 0, "longest_run_hours": 0}


class Lake:
    """A table of each kind, written four times, and their upkeep."""

    def __init__(self, folder: Path) -> None:
        root = str(folder / "lake")
        self.managers: dict[str, Any] = {
            "overwrite": DataOverwriteIOManager(root_uri=root),
            "merger": MergerIOManager(root_uri=root),
            "stateful": StatefulMergerIOManager(root_uri=root),
        }
        metadata = {"merge_keys": ["id"], "bad_rows": "quarantine"}

        def table(name: str, **arguments: Any) -> dg.AssetsDefinition:
            @dg.asset(name=name, io_manager_key=name, partitions_def=DAYS, **arguments)
            def asset(context) -> pl.DataFrame:  # noqa: ANN001 - Dagster does not resolve a quoted annotation
                day = context.partition_time_window.start.date()
                return pl.DataFrame({"day": [day, day], "id": [context.partition_key, None]})

            return asset

        self.tables = [
            table("overwrite", metadata={"partition_expr": "day"}),
            table("merger", metadata=metadata),
            table("stateful", metadata=metadata),
        ]
        self.upkeep = maintenance_assets(self.tables, self.managers, owners=["team:platform"])
        self.instance = dg.DagsterInstance.ephemeral()
        self.root = folder / "lake"

    def fill(self) -> None:
        for day in (5, 6, 7, 8):
            dg.materialize(
                self.tables, partition_key=f"2024-10-{day:02}", instance=self.instance, resources=self.managers
            )

    def keep(self, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        ops = {f"maintenance__{name}": {"config": NO_WAITING} for name in ("vacuumed", "orphan_report")}
        return dg.materialize(
            self.upkeep, instance=self.instance, run_config={"ops": ops}, raise_on_error=raise_on_error
        )

    def rows(self, name: str) -> list[Any]:
        return sorted(pl.read_delta(str(self.root / name)).rows(), key=str)

    def files(self, name: str) -> int:
        return len(DeltaTable(self.root / name).file_uris())


def done(result: dg.ExecuteInProcessResult, name: str) -> dict[str, dict[str, Any]]:
    """What an upkeep did, by table."""
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key.path[-1] == name]
    records = event.materialization.metadata["done"]
    assert isinstance(records, dg.TableMetadataValue)
    return {str(record.data["table"]): dict(record.data) for record in records.records}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(tmp_path)
    made.fill()
    return made


TABLES = {"overwrite", "merger", "merger__quarantine", "stateful", "stateful__quarantine", "stateful__versions"}


def test_every_table_is_looked_after_and_keeps_its_rows(lake: Lake) -> None:
    before = {name: lake.rows(name) for name in TABLES}
    (lake.root / "merger/part-left.parquet").write_bytes(b"123")
    result = lake.keep()
    assert {name: lake.rows(name) for name in TABLES} == before
    assert (
        set(done(result, "vacuumed"))
        == set(done(result, "checkpoints"))
        == set(done(result, "orphan_report"))
        == TABLES
    )
    assert done(result, "orphan_report")["merger"] == {"table": "merger", "orphans": 1, "bytes": 3}
    for name in TABLES:
        assert list((lake.root / name / "_delta_log").glob("*.checkpoint*.parquet")), name


def test_merged_tables_are_compacted_and_partitions_keep_their_files(lake: Lake) -> None:
    result = lake.keep()
    assert set(done(result, "compaction")) == {"merger", "stateful"}
    assert {name: lake.files(name) for name in ("merger", "stateful", "overwrite")} == {
        "merger": 1,
        "stateful": 1,
        "overwrite": 4,
    }


def test_upkeep_before_anything_was_written(tmp_path: Path) -> None:
    assert Lake(tmp_path).keep().success
    assert not (tmp_path / "lake").exists()


def test_one_table_that_fails_stops_none_of_the_others(lake: Lake) -> None:
    for file in (lake.root / "merger").glob("*.parquet"):
        file.unlink()
    result = lake.keep(raise_on_error=False)
    assert not result.success
    (failure,) = [e.step_failure_data for e in result.get_step_failure_events() if "compaction" in str(e.step_key)]
    assert "merger: " in str(failure.error)
    assert lake.files("stateful") == 1


def test_a_replay_after_a_night_of_upkeep(lake: Lake) -> None:
    lake.keep()
    result = dg.materialize(
        lake.tables, selection=["stateful"], partition_key="2024-10-06", instance=lake.instance, resources=lake.managers
    )
    assert result.success
    assert len(lake.rows("stateful")) == 2
