"""The example platform in a folder of its own, driven as a schedule would drive it."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pattern_platform import DataOverwriteIOManager
from pattern_platform.ingestion.assets import LandingZone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

DAY = "2024-05-06"


class Platform:
    """Some assets and checks over a folder; every run is recorded in one instance."""

    def __init__(self, folder: Path, assets: Sequence[dg.AssetsDefinition]) -> None:
        self.landing, self.lake = folder / "landing", folder / "lake"
        self.assets = assets
        self.instance = dg.DagsterInstance.ephemeral()

    def run(
        self, selection: dg.CoercibleToAssetSelection, partition: str = "", *, tags: Mapping[str, str] | None = None
    ) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            self.assets,
            selection=selection,
            tags=tags or {"dagster/partition": partition},  # a partition_key is refused for checks alone
            instance=self.instance,
            resources={
                "landing": LandingZone(root=str(self.landing)),
                "data_overwrite": DataOverwriteIOManager(root_uri=str(self.lake)),
            },
            raise_on_error=False,
        )

    def rows(self, *key: str) -> pl.DataFrame:
        return pl.read_delta(str(self.lake.joinpath(*key)))

    def land_visits(self, hour: int, visits: Iterable[tuple[str, str]], *, day: str = DAY) -> Path:
        """Land an hour of visits, each a user and a page."""
        records = [visit(hour, number, user, page, day=day) for number, (user, page) in enumerate(visits)]
        return self.land_lines(hour, [json.dumps(record) for record in records], day=day)

    def land_lines(self, hour: int, lines: Sequence[str], *, day: str = DAY) -> Path:
        file = self.landing / f"visits/date={day}/hour={hour:02}/visits.jsonl.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))
        return file


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
