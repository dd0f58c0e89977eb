"""The example platform in a folder of its own, driven as a schedule would drive it."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl

from pattern_platform.ingestion.landing_zone import LandingZone
from pattern_platform.resources import delta_tables, warehouse_and_exports
from pattern_platform.settings import Settings
from pattern_platform_tests.lake.tables import range_tags, shared_instance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

DAY = "2024-05-06"


class Platform:
    """Some assets and checks over a folder, stored as the settings say; every run is recorded in one instance."""

    def __init__(self, folder: Path, assets: Sequence[dg.AssetsDefinition]) -> None:
        settings = Settings(data=folder)
        self.folder, self.landing = folder, settings.landing
        self.lake, self.warehouse = settings.lake, settings.warehouse
        self.assets = assets
        self.instance = shared_instance()
        self.resources: dict[str, Any] = {
            "landing": LandingZone(root=str(self.landing)),
            **delta_tables(settings),
            **warehouse_and_exports(settings),
        }

    def run(
        self,
        selection: dg.CoercibleToAssetSelection,
        partition: str = "",
        *,
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run what is selected; the config is that of the ops, by name, as a person writes it in the UI."""
        return dg.materialize(
            self.assets,
            selection=selection,
            # A partition_key is refused for checks alone.
            tags=tags or ({"dagster/partition": partition} if partition else None),
            instance=self.instance,
            resources=self.resources,
            run_config={
                "ops": {name: {"config": dict(values)} for name, values in (config or {}).items()},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            raise_on_error=False,
        )

    def run_range(self, selection: dg.CoercibleToAssetSelection, first: str, last: str) -> dg.ExecuteInProcessResult:
        """Run partitions that follow each other at once."""
        return self.run(selection, tags=range_tags(first, last))

    def evaluate(self, check: dg.AssetChecksDefinition, partition: str = "") -> dg.AssetCheckEvaluation:
        """Run a check alone."""
        (evaluation,) = self.run(dg.AssetSelection.checks(check), partition).get_asset_check_evaluations()
        return evaluation

    def rows(self, *key: str) -> pl.DataFrame:
        return pl.read_delta(str(self.lake.joinpath(*key)))

    def sql(self, file: str, statement: str) -> pl.DataFrame:
        """What DuckDB says, on a connection of the test's own; within a process a file has one configuration."""
        with duckdb.connect(str(self.warehouse / f"{file}.duckdb"), config={"custom_user_agent": "dagster"}) as opened:
            opened.execute("SET TimeZone = 'UTC'")
            return opened.sql(statement).pl()

    def execute(self, file: str, statement: str) -> None:
        """Have DuckDB change something behind the back of the platform."""
        with duckdb.connect(str(self.warehouse / f"{file}.duckdb"), config={"custom_user_agent": "dagster"}) as opened:
            opened.execute(statement)

    def land_visits(self, hour: int, visits: Iterable[tuple[str, str]], *, day: str = DAY) -> Path:
        """Land an hour of visits, each a user and a page."""
        records = [visit(hour, number, user, page, day=day) for number, (user, page) in enumerate(visits)]
        return self.land_lines(hour, [json.dumps(record) for record in records], day=day)

    def land_lines(self, hour: int, lines: Sequence[str], *, day: str = DAY) -> Path:
        file = self.landed(hour, day)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))
        return file

    def land_again(self, hour: int, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], day: str) -> None:
        """Land a corrected hour of visits, made of the records that are there and can be read."""
        records = []
        for line in gzip.decompress(self.landed(hour, day).read_bytes()).splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
        self.land_lines(hour, [json.dumps(record) for record in change(records)], day=day)

    def landed(self, hour: int, day: str) -> Path:
        """The file of an hour of visits."""
        return self.landing / f"visits/date={day}/hour={hour:02}/visits.jsonl.gz"


def visit(hour: int, number: int, user: str, page: str, *, day: str = DAY) -> dict[str, Any]:
    """A clean record of the log."""
    moment = f"{day}T{hour:02}:{number % 60:02}:00.000Z"
    return {
        "visit_id": f"{day}-{hour:02}-{number}",
        "event_time": moment,
        "append_time": moment,
        "user_id": user,
        "page": page,
        "keep_private": False,
        "context": {
            "referral": "direct",
            "ad_id": None,
            "user": {"ip": "10.0.0.1", "login": user, "connected_since": moment},
            "technical": {
                "browser": "Firefox",
                "browser_version": "125.0",
                "network_type": "LAN",
                "device_type": "PC",
                "device_version": "1",
            },
        },
    }


def errors(result: dg.ExecuteInProcessResult) -> list[str]:
    """What failed in a run: error class and message of each failed step."""
    found = []
    for event in result.get_step_failure_events():
        error = event.step_failure_data.error
        found.append(f"{error.cls_name}: {error.message}" if error else event.message or "")
    return found


def told(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, Any]:
    """What a run that succeeded told Dagster of an asset, of its last partition where it ran several."""
    assert result.success, errors(result)
    events = [event.materialization for event in result.get_asset_materialization_events()]
    return {n: v.value for n, v in [made for made in events if made.asset_key == key][-1].metadata.items()}
