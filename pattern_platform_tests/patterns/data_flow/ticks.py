"""The sensor of the automation conditions, tick by tick and without a daemon."""

from __future__ import annotations

import datetime as dt
import warnings

import dagster as dg

HOURS = dg.HourlyPartitionsDefinition("2024-01-01-00:00")
DAYS = dg.DailyPartitionsDefinition("2024-01-01")
DAY, OLD_DAY = "2024-01-03", "2024-01-01"


class Ticks:
    """Evaluates conditions as the daemon does, with what it remembers from tick to tick.

    The moment is a UTC time without a zone, as Dagster's tester takes it; None for now.
    """

    def __init__(self, defs: dg.Definitions, now: dt.datetime | None = None) -> None:
        self.defs, self.now = defs, now
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor = None

    def tick(self) -> dg.EvaluateAutomationConditionsResult:
        """The next tick."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster's own tester selects with a beta parameter
            result = dg.evaluate_automation_conditions(
                self.defs, self.instance, cursor=self.cursor, evaluation_time=self.now
            )
        self.cursor = result.cursor
        return result

    def requested_of(self, asset: str) -> list[str]:
        """The partitions of an asset that the next tick requests."""
        return sorted(self.tick().get_requested_partitions(dg.AssetKey(asset)))

    def happened(self, asset: str, *partitions: str) -> None:
        """Partitions were materialized, by whomever."""
        for partition in partitions:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset.split("/"), partition=partition))


class DayClock(Ticks):
    """A sensor that has just begun, ten minutes past midnight: days of hours, and what was requested of them."""

    def __init__(self, defs: dg.Definitions) -> None:
        super().__init__(defs, dt.datetime(2024, 1, 4, 0, 10))  # noqa: DTZ001 - the tester takes UTC without a zone
        self.requested()
        self.now = dt.datetime(2024, 1, 4, 0, 30)  # noqa: DTZ001

    def requested(self) -> list[str]:
        """The days that the next tick requests."""
        return self.requested_of("days")

    def land(self, *hours: int, day: str = DAY) -> None:
        """These hours are there."""
        self.happened("hours", *(f"{day}-{hour:02}:00" for hour in hours))

    def build(self, day: str = DAY) -> None:
        """The day is made."""
        self.happened("days", day)
