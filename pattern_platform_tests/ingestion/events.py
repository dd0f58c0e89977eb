"""Events that arrive late, and whoever brings them to their hours: the sensor, and the runs that it asks for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import dagster as dg

from pattern_platform.ingestion.late import routing_sensor
from pattern_platform.ingestion.stages import key_of
from pattern_platform.patterns.data_flow.concurrent_runner import concurrent_runner
from pattern_platform_tests.ingestion.onboarding import DAILY, DAY, Onboarded, onboard
from pattern_platform_tests.platform import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import polars as pl

    from pattern_platform.ingestion.dataset import Dataset

LATE_DATA = concurrent_runner("late_data", limit=1)
LATENESS = 2
HOURLY = {
    **DAILY,
    "name": "events",
    "description": "One event.",
    "source": "events/date=%Y-%m-%d/hour=%H/*.jsonl",
    "format": "jsonl",
    "granularity": "hour",
    "incremental_field": "got",
    "ends": "2024-05-07",
    "contract": "contracts/events.yaml",
    "allowed_lateness": str(LATENESS),
}
DAYS = {**HOURLY, "source": "events/date=%Y-%m-%d/*.jsonl", "granularity": "day", "ends": "2024-05-09"}
CONTRACT = """\
description: One event.
columns:
  id: {type: text, key: true, description: Its identity.}
  at: {type: timestamp, description: When it happened.}
  got: {type: timestamp, description: When it reached the log.}
"""


def line(name: str, at: str, **more: object) -> str:
    """An event as it is delivered; ``at`` is a time of the day, or a moment."""
    moment = at if len(at) > len("00:00") else f"{DAY}T{at}:00Z"
    return json.dumps({"id": name, "at": moment, "got": "2024-05-06T23:59:00Z", **more})


def hour(number: int) -> str:
    """Key of an hour of the day."""
    return f"{DAY}-{number:02}:00"


class Events:
    """A data set whose events arrive late, and its sensor with what it remembers.

    Args:
        folder: Where everything is.
        row: What differs from :data:`HOURLY`.
        contract: The contract.
    """

    def __init__(self, folder: Path, row: Mapping[str, str] | None = None, contract: str = CONTRACT) -> None:
        contracts = {"contracts/events.yaml": contract}
        self.platform: Onboarded = onboard(folder, {**HOURLY, **(row or {})}, contracts=contracts)
        self.platform.instance = dg.DagsterInstance.ephemeral()  # the sensor reads its log
        self.dataset: Dataset = self.platform.dataset
        self.sensor = routing_sensor(self.dataset, LATE_DATA)
        self.cursor: str | None = None
        self.raw = key_of(self.dataset, "raw")
        self.made = [key_of(self.dataset, stage) for stage in ("clean", "quarantine", "late")]

    def deliver(self, number: int, *lines: str) -> None:
        """Land the file of an hour."""
        self.platform.land(f"events/date={DAY}/hour={number:02}/events.jsonl", "".join(f"{each}\n" for each in lines))

    def arrive(self, number: int, *lines: str) -> None:
        """Land an hour, and read it."""
        self.deliver(number, *lines)
        result = self.platform.run([self.raw], hour(number))
        assert result.success, errors(result)

    def clean(self, *numbers: int) -> dg.ExecuteInProcessResult:
        """Clean hours that follow each other."""
        if len(numbers) == 1:
            return self.platform.run(self.made, hour(numbers[0]))
        return self.platform.run_range(self.made, hour(numbers[0]), hour(numbers[-1]))

    def tick(self) -> list[dg.RunRequest]:
        """What the sensor asks for."""
        found = self.sensor(dg.build_sensor_context(instance=self.platform.instance, cursor=self.cursor))
        assert isinstance(found, dg.SensorResult)
        self.cursor = found.cursor or self.cursor
        return list(found.run_requests or [])

    def follow(self, *, checks: bool = False) -> None:
        """Run what the sensor asks for until it asks for nothing; what it runs succeeds, with its checks."""
        while requests := self.tick():
            for request in requests:
                assets = dg.AssetSelection.assets(*(request.asset_selection or ()))
                result = self.platform.run(assets if checks else assets.without_checks(), tags=request.tags)
                assert result.success, errors(result)
                failed = [c.check_name for c in result.get_asset_check_evaluations() if not c.passed]
                assert set(failed) <= {"nothing_too_late"}

    def routed(self) -> dict[str, str | None]:
        """Where each line of the raw table belongs to, by the event's name: the time of the day in UTC."""
        rows = self.platform.rows("raw", "events")
        return {
            json.loads(payload).get("id"): start and f"{start:%H:%M}"
            for payload, start in rows.select("payload", "routed_to").iter_rows()
        }

    def names(self, stage: str = "clean") -> list[str]:
        """The events of a stage, in their order by name."""
        return names(self.platform.rows(stage, "events"))


def names(rows: pl.DataFrame) -> list[str]:
    """The events in rows, typed or as they came."""
    if "id" in rows.columns:
        return sorted(rows["id"])
    return sorted(json.loads(record)["id"] for record in rows["record"])


def asked(requests: Iterable[dg.RunRequest]) -> list[tuple[str, str, bool]]:
    """The first and the last hour of each request, and whether it is for late rows."""
    found = []
    for request in requests:
        tags = request.tags
        first = tags.get("dagster/partition") or tags["dagster/asset_partition_range_start"]
        last = tags.get("dagster/partition") or tags["dagster/asset_partition_range_end"]
        late = set(LATE_DATA.tags.items()) <= set(tags.items())
        assert late == (tags.get("dagster/priority") == "-1")
        found.append((first.removeprefix(f"{DAY}-"), last.removeprefix(f"{DAY}-"), late))
    return found
