"""Flows of assets over real tables and files: what a run did, how often a function was called, what is stored."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pattern_platform import DataOverwriteIOManager
from pattern_platform.orchestration.steps import StepsIOManager
from pattern_platform.patterns.idempotency.keyed_idempotency_files import KeyedFilesIOManager
from pattern_platform.patterns.idempotency.transactional_writer_delta import TransactionalAppendIOManager
from pattern_platform_tests.lake.tables import Table, range_tags, shared_instance
from pattern_platform_tests.patterns.data_flow.ticks import Ticks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DAYS = dg.DailyPartitionsDefinition("2024-02-01", end_date="2024-02-06")
FILES = "files"
BY_DAY = {"partition_expr": "day"}


def day(number: int) -> str:
    return f"2024-02-{number:02}"


def date_of(partition: str) -> dt.date:
    return dt.date.fromisoformat(partition)


@cache
def stores(root: Path) -> dict[str, Any]:
    """Delta tables, CSV files, what steps leave, and tables that are appended to once."""
    return {
        "io_manager": DataOverwriteIOManager(root_uri=str(root / "lake")),
        FILES: KeyedFilesIOManager(root_uri=str(root / "files")),
        "steps": StepsIOManager(root_uri=str(root / "steps")),
        "append": TransactionalAppendIOManager(root_uri=str(root / "lake")),
    }


def table(root: Path, *key: str) -> Table:
    """A Delta table, to be asked of delta-rs."""
    return Table(root / "lake", DAYS, "day", key=key)


def csv_file(root: Path, partition: str, *key: str) -> Path:
    return root.joinpath("files", *key, f"{partition}.csv")


def csv_rows(root: Path, partition: str, *key: str) -> pl.DataFrame:
    return pl.read_csv(csv_file(root, partition, *key), infer_schema=False)


def csv_days(root: Path, *key: str) -> list[str]:
    return sorted(path.stem for path in root.joinpath("files", *key).glob("*.csv"))


@dataclass(frozen=True)
class Calls:
    """How often functions were called, in whatever process; and which shall fail the next time they are."""

    folder: Path

    def called(self, name: str) -> None:
        """Count a call, and fail once where it was asked for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log(name).open("a") as log:
            log.write("x")
        if self._fuse(name).exists():
            self._fuse(name).unlink()
            message = f"{name} fails once"
            raise RuntimeError(message)

    def fail_once(self, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._fuse(name).touch()

    def of(self, *names: str) -> list[int]:
        return [len(self._log(name).read_text()) if self._log(name).exists() else 0 for name in names]

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.calls"

    def _fuse(self, name: str) -> Path:
        return self.folder / f"{name}.fuse"


@dataclass(frozen=True)
class Ran:
    """What a run did."""

    result: dg.ExecuteInProcessResult | dg.JobExecutionResult

    @property
    def success(self) -> bool:
        return self.result.success

    @property
    def materialized(self) -> list[tuple[str, str | None]]:
        events = [event for event in self.result.all_events if event.is_step_materialization]
        return sorted((str(event.asset_key and event.asset_key.to_user_string()), event.partition) for event in events)

    @property
    def skipped(self) -> list[str]:
        return sorted(str(event.step_key) for event in self.result.all_events if event.is_step_skipped)

    @property
    def failed(self) -> list[str]:
        return sorted(str(event.step_key) for event in self.result.all_events if event.is_step_failure)

    @property
    def errors(self) -> str:
        failures = [event.step_failure_data.error for event in self.result.all_events if event.is_step_failure]
        return "\n".join(error.to_string() for error in failures if error)

    @property
    def checks(self) -> list[dg.AssetCheckEvaluation]:
        return [
            event.asset_check_evaluation_data
            for event in self.result.all_events
            if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ]

    def metadata(self, key: str) -> dict[str, Any]:
        """What the last materialization of an asset told."""
        events = [event for event in self.result.all_events if event.is_step_materialization]
        told = [
            event.step_materialization_data.materialization
            for event in events
            if event.asset_key and event.asset_key.to_user_string() == key
        ]
        return plain(told[-1].metadata)


def plain(metadata: Mapping[str, dg.MetadataValue]) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


@dataclass(frozen=True)
class Flow:
    """Assets and their checks over a folder."""

    root: Path
    assets: Sequence[Any]
    instance: dg.DagsterInstance = field(default_factory=shared_instance)

    def run(self, partition: str | None = None, selection: Any = None, *, fails: bool = False, **config: Any) -> Ran:
        """Materialize; a run of which it is not said that it fails raises its error."""
        return self._ran(partition_key=partition, selection=selection, fails=fails, **config)

    def run_range(self, first: str, last: str, selection: Any = None, *, fails: bool = False, **config: Any) -> Ran:
        """Materialize a range of partitions in a single run."""
        return self._ran(tags=range_tags(first, last), selection=selection, fails=fails, **config)

    def check(self, check: dg.AssetChecksDefinition, first: str, last: str | None = None) -> Ran:
        """Run a check by itself, over one partition or a range; a blocking one fails its run."""
        assets = [asset for asset in self.assets if not isinstance(asset, dg.AssetChecksDefinition)]
        defs = dg.Definitions(assets, asset_checks=[check], resources=stores(self.root))
        job = defs.resolve_implicit_global_asset_job_def()
        alone = job.get_subset(asset_selection=set(), asset_check_selection=set(check.check_keys))
        which: dict[str, Any] = {"tags": range_tags(first, last)} if last else {"partition_key": first}
        return Ran(alone.execute_in_process(instance=self.instance, raise_on_error=False, **which))

    def _ran(self, *, fails: bool, **run: Any) -> Ran:
        result = dg.materialize(
            self.assets, instance=self.instance, resources=stores(self.root), raise_on_error=not fails, **run
        )
        assert result.success is not fails
        return Ran(result)


class Daemon(Ticks):
    """The sensor that evaluates automation conditions, tick by tick."""

    def __init__(self, flow: Flow) -> None:
        checks = [asset for asset in flow.assets if isinstance(asset, dg.AssetChecksDefinition)]
        assets = [asset for asset in flow.assets if asset not in checks]
        super().__init__(dg.Definitions(assets, asset_checks=checks, resources=stores(flow.root)))

    def requested(self) -> dict[str, list[str]]:
        """What the next tick requests: partitions by asset, or by ``asset:check``."""
        requested = {
            found.key.to_user_string(): sorted(
                str(key) for key in found.true_subset.expensively_compute_partition_keys()
            )
            for found in self.tick().results
        }
        return {key: partitions for key, partitions in requested.items() if partitions}

    def run(self, partition: str, *assets: str, check: dg.AssetCheckKey | None = None) -> None:
        """Run assets with their checks, or a check by itself."""
        keys = {dg.AssetKey(asset.split("/")) for asset in assets}
        job = self.defs.resolve_implicit_global_asset_job_def()
        job = job.get_subset(asset_selection=keys, asset_check_selection={check} if check else None)
        assert job.execute_in_process(partition_key=partition, instance=self.instance).success
