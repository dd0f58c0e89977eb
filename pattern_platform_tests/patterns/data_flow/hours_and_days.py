"""A chain of hours that fans in to days: ``raw -> clean -> hours -> days``, and the sensor that evaluates it."""

from __future__ import annotations

import datetime as dt
import warnings
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HOURS = dg.HourlyPartitionsDefinition("2024-01-01-00:00")
DAYS = dg.DailyPartitionsDefinition("2024-01-01")
DAY, OLD_DAY = "2024-01-03", "2024-01-01"
CHAIN = ("raw", "clean", "hours")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class SourceIsDownError(Exception):
    """What an asset raises that is meant to fail."""


class Clock:
    """Assets by the hour, one made of the other, and days made of the last of them."""

    def __init__(self, condition: dg.AutomationCondition, chain: Sequence[str] = CHAIN) -> None:
        self.failing: str | None = None
        self.meanwhile: dict[str, Callable[[], None]] = {}
        self.assets = [self._asset(name, chain[place - 1 : place], HOURS, None) for place, name in enumerate(chain)]
        self.assets.append(self._asset("days", chain[-1:], DAYS, condition))
        self.defs = dg.Definitions(self.assets)
        self.now = dt.datetime(2024, 1, 4, 0, 10)  # noqa: DTZ001 - the tester takes UTC without a zone
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor = None
        self.requested()
        self.now += dt.timedelta(minutes=20)

    def requested(self) -> list[str]:
        """The days that the next tick requests."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster's own tester selects with a beta parameter
            result = dg.evaluate_automation_conditions(
                self.defs, self.instance, cursor=self.cursor, evaluation_time=self.now
            )
        self.cursor = result.cursor
        return sorted(result.get_requested_partitions(dg.AssetKey("days")))

    def ticks(self, count: int) -> list[list[str]]:
        """What each of some ticks requests, between which nothing happens."""
        return [self.requested() for _ in range(count)]

    def land(self, *hours: int, day: str = DAY) -> None:
        """The last asset of the chain has these hours."""
        for hour in hours:
            self._happened("hours", f"{day}-{hour:02}:00")

    def build(self, day: str = DAY) -> None:
        """The day is made."""
        self._happened("days", day)

    def run(self, *assets: str, hour: int | None = None, day: str = DAY, fails_at: str | None = None) -> None:
        """Run some assets for one hour, or the day; a failure stops the run, as everywhere in Dagster."""
        self.failing = fails_at
        result = dg.materialize(
            self.assets,
            selection=list(assets),
            partition_key=day if hour is None else f"{day}-{hour:02}:00",
            instance=self.instance,
            resources={"io_manager": dg.mem_io_manager},
            run_config=QUIET,
            raise_on_error=False,
        )
        assert result.success == (fails_at is None)

    def run_observed(self, *assets: str, hour: int | None = None, fails_at: str | None = None) -> dict[str, list[str]]:
        """Run some assets, and tell what a tick requests while each of them is being made."""
        seen: dict[str, list[str]] = {}
        for name in assets:
            self.meanwhile[name] = lambda name=name: seen.update({name: self.requested()})
        self.run(*assets, hour=hour, fails_at=fails_at)
        self.meanwhile = {}
        return seen

    def _asset(
        self,
        name: str,
        upstream: Sequence[str],
        partitions: dg.PartitionsDefinition,
        condition: dg.AutomationCondition | None,
    ) -> dg.AssetsDefinition:
        @dg.asset(name=name, deps=list(upstream), partitions_def=partitions, automation_condition=condition)
        def stage() -> None:
            self.meanwhile.get(name, lambda: None)()
            if self.failing == name:
                raise SourceIsDownError

        return stage

    def _happened(self, asset: str, partition: str) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partition))
