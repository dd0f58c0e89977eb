"""Data sets that nobody has seen before, as lines of a registry, run as the platform runs them."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import dagster as dg

from pattern_platform.ingestion.assets import ingestion_assets
from pattern_platform.ingestion.checks import ingestion_checks
from pattern_platform.ingestion.registry.row import RegistryRow
from pattern_platform.ingestion.registry.rows import read_registry
from pattern_platform_tests.platform import Platform, errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import polars as pl

    from pattern_platform.ingestion.dataset import Dataset

DAY = "2024-05-06"
DAILY: dict[str, str] = {
    "name": "sales",
    "description": "One sale.",
    "owner": "team:shop",
    "source": "sales/date=%Y-%m-%d/*.csv",
    "format": "csv",
    "granularity": "day",
    "ingestion_style": "incremental",
    "primary_key": "id",
    "partition_field": "at",
    "starts": DAY,
    "ends": "2024-05-09",
    "contract": "contracts/sales.yaml",
}
WHOLE = {**DAILY, "source": "sales/*.csv", "granularity": "none", "partition_field": "", "starts": "", "ends": ""}
FULL = {**WHOLE, "ingestion_style": "full"}
INCREMENTAL = {**WHOLE, "incremental_field": "at"}
CONTRACT = """\
description: One sale.
columns:
  id: {type: text, key: true, description: Number of the sale.}
  at: {type: timestamp, description: When it was.}
  euros: {type: number, min: 0, optional: true, unit: euros, description: What was paid.}
"""


def registry_text(*rows: Mapping[str, str]) -> str:
    """The lines of a registry; a cell that is not given is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(RegistryRow.model_fields), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_registry(folder: Path, *rows: Mapping[str, str], contracts: Mapping[str, str] | None = None) -> Path:
    """Write a registry, and its contracts beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, contract in {"contracts/sales.yaml": CONTRACT, **(contracts or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(contract)
    path = folder / "registry.csv"
    path.write_text(registry_text(*rows))
    return path


def land(folder: Path, name: str, content: str | bytes | pl.DataFrame) -> Path:
    """Deliver a file."""
    file = folder / "landing" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        file.write_text(content)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        content.write_parquet(file)
    return file


class Onboarded(Platform):
    """The assets and checks of a data set over a folder of its own."""

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        super().__init__(folder, [*ingestion_assets(dataset), *ingestion_checks(dataset)])
        self.dataset = dataset

    def land(self, name: str, content: str | bytes | pl.DataFrame) -> Path:
        return land(self.folder, name, content)

    def ingest(self, partition: str = "", *, stages: tuple[str, ...] = ()) -> None:
        """Ingest a partition, with all checks, each of which must pass."""
        result = self.run(self.selected(*stages), partition)
        assert result.success, errors(result)
        assert [check.check_name for check in result.get_asset_check_evaluations() if not check.passed] == []

    def selected(self, *stages: str) -> dg.AssetSelection:
        """Some stages with their checks; all of them where none is named."""
        keys = [dg.AssetKey([stage, self.dataset.name]) for stage in stages]
        return dg.AssetSelection.assets(*keys) if keys else dg.AssetSelection.all()

    def refusal(self, partition: str = "") -> str:
        """Why a partition was refused; there is one error, and it is the platform's own."""
        (error,) = errors(self.run(dg.AssetSelection.all(), partition))
        assert "pattern_platform.errors" in error, error
        return error

    def of(self, stage: str) -> pl.DataFrame:
        """The rows of a stage, in the order of its first columns."""
        rows = self.rows(stage, self.dataset.name)
        order = [name for name in ("source_file", "source_row", "id") if name in rows.columns]
        return rows.sort(order or rows.columns[0])

    def rejects(self) -> dict[tuple[str, int], list[str]]:
        """Reasons by file name and line."""
        rows = self.of("quarantine").select("source_file", "source_row", "reasons").iter_rows()
        return {(file.rpartition("/")[2], line): reasons for file, line, reasons in rows}


def onboard(folder: Path, row: Mapping[str, str], *, contracts: Mapping[str, str] | None = None) -> Onboarded:
    """What a line of the registry, and nothing else, makes of a data set."""
    (dataset,) = read_registry(write_registry(folder, row, contracts=contracts), retention_days=30).values()
    return Onboarded(folder, dataset)
