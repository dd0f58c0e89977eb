"""The version table as an asset, the check on superseded partitions, and the command that prints both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from typer.testing import CliRunner

from pattern_platform import StatefulMergerIOManager, read_version_table
from pattern_platform.cli import app
from pattern_platform.orchestration.merged_tables import superseded_check, unique_in_table_check, version_table_asset

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

DAYS = dg.DailyPartitionsDefinition("2024-10-05", "2024-10-09")
KEY = dg.AssetKey(["clean", "devices"])


class Devices:
    """A stateful merger with its version table and its check."""

    def __init__(self, folder: Path) -> None:
        self.lake = folder / "lake"
        self.instance = dg.DagsterInstance.ephemeral()
        self.versions = version_table_asset(KEY, "stateful_merger")
        self.value = 1

        @dg.asset(key=KEY, partitions_def=DAYS, io_manager_key="stateful_merger", metadata={"merge_keys": ["id"]})
        def devices(context) -> pl.DataFrame:  # noqa: ANN001 - Dagster does not resolve a quoted annotation
            return pl.DataFrame({"id": [context.partition_key], "value": [self.value]})

        self.assets: list[Any] = [devices, self.versions, superseded_check(KEY, "stateful_merger")]

    def run(self, day: int | None, selection: dg.CoercibleToAssetSelection = "*") -> dg.ExecuteInProcessResult:
        return dg.materialize(
            self.assets,
            selection=selection,
            partition_key=f"2024-10-{day:02}" if day else None,
            instance=self.instance,
            resources={"stateful_merger": StatefulMergerIOManager(root_uri=str(self.lake))},
        )


def metadata_of(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, Any]:
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == key]
    return {
        name: [record.data for record in value.records] if isinstance(value, dg.TableMetadataValue) else value.value
        for name, value in event.materialization.metadata.items()
    }


def test_the_version_table_is_an_asset_of_the_graph(tmp_path: Path) -> None:
    devices = Devices(tmp_path)
    for day in (5, 6, 7):
        result = devices.run(day)
    (spec,) = devices.versions.specs
    assert spec.key == dg.AssetKey(["clean", "devices__versions"])
    assert [dep.asset_key for dep in spec.deps] == [KEY]
    shown = metadata_of(result, spec.key)
    assert shown["dagster/row_count"] == 3
    assert shown["dagster/uri"] == str(devices.lake / "clean/devices__versions")
    assert shown["delta/superseded_partitions"] == []
    assert [record["table_version"] for record in shown["versions"]] == [1, 2, 3]
    assert pl.read_delta(shown["dagster/uri"])["table_version"].to_list() == [1, 2, 3]


def test_the_check_fails_while_a_partition_is_superseded(tmp_path: Path) -> None:
    devices = Devices(tmp_path)
    for day in (5, 6, 7, 8):
        (passed,) = devices.run(day).get_asset_check_evaluations()
        assert passed.passed
    result = devices.run(6)
    assert result.success
    (failed,) = result.get_asset_check_evaluations()
    assert not failed.passed
    assert failed.metadata["superseded"].value == ["2024-10-07", "2024-10-08"]
    assert "dg launch --assets clean/devices --partition 2024-10-07\n" in str(failed.metadata["replay"].value)
    assert metadata_of(result, KEY)["delta/superseded_partitions"] == ["2024-10-07", "2024-10-08"]
    assert [e.passed for day in (7, 8) for e in devices.run(day).get_asset_check_evaluations()] == [False, True]


def test_materializing_the_version_table_alone_rebuilds_it(tmp_path: Path) -> None:
    devices = Devices(tmp_path)
    for day in (5, 6):
        devices.run(day)
    table = devices.lake / "clean/devices__versions"
    before = pl.read_delta(str(table))
    pl.DataFrame({"execution_time": ["2024-10-05"], "table_version": [9]}).write_delta(
        str(table), mode="overwrite", delta_write_options={"schema_mode": "overwrite"}
    )
    devices.run(None, selection=[devices.versions])
    assert pl.read_delta(str(table)).select(before.columns).sort("position").equals(before.sort("position"))


def test_the_command_prints_versions_and_how_to_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = Devices(tmp_path)
    for day in (5, 6, 7, 6):
        devices.run(day)
    monkeypatch.setenv("PATTERN_PLATFORM_DATA", str(tmp_path))
    said = CliRunner().invoke(app, ["versions", "clean/devices"])
    assert said.exit_code == 0, said.output
    for row in read_version_table(str(devices.lake / "clean/devices")).iter_rows():
        assert any(all(str(value) in line for value in row[:3]) for line in said.output.splitlines()), row
    assert "dg launch --assets clean/devices --partition 2024-10-07" in said.output


def test_the_command_says_when_there_is_no_such_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATTERN_PLATFORM_DATA", str(tmp_path))
    said = CliRunner().invoke(app, ["versions", "clean/nothing"])
    assert said.exit_code == 1
    assert "there is no such table" in said.output


def test_a_key_under_two_days_is_noticed(tmp_path: Path) -> None:
    """Each day alone has it once; a table that someone else appended to does not."""
    devices = Devices(tmp_path)
    devices.assets.append(unique_in_table_check(KEY, ["id"], "stateful_merger"))
    evaluations = devices.run(5).get_asset_check_evaluations()
    assert all(evaluation.passed for evaluation in evaluations)
    table = devices.lake / "clean/devices"
    pl.read_delta(str(table)).write_delta(str(table), mode="append")
    result = dg.materialize(
        devices.assets,
        selection=dg.AssetSelection.checks(dg.AssetCheckKey(KEY, "unique_id")),
        instance=devices.instance,
        resources={"stateful_merger": StatefulMergerIOManager(root_uri=str(devices.lake))},
        raise_on_error=False,
    )
    (failed,) = result.get_asset_check_evaluations()
    assert not failed.passed
    assert failed.metadata["duplicated"].value == 2
