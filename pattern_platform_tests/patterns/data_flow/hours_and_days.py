"""A chain of hours that fans in to days: ``raw -> clean -> hours -> days``, and the sensor that evaluates it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from pattern_platform_tests.patterns.data_flow.ticks import DAY, DAYS, HOURS, DayClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHAIN = ("raw", "clean", "hours")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class SourceIsDownError(Exception):
    """What an asset raises that is meant to fail."""


class Clock(DayClock):
    """Assets by the hour, one made of the other, and days made of the last of them."""

    def __init__(self, condition: dg.AutomationCondition, chain: Sequence[str] = CHAIN) -> None:
        self.failing: str | None = None
        self.meanwhile: dict[str, Callable[[], None]] = {}
        self.assets = [self._asset(name, chain[place - 1 : place], HOURS, None) for place, name in enumerate(chain)]
        self.assets.append(self._asset("days", chain[-1:], DAYS, condition))
        super().__init__(dg.Definitions(self.assets))

    def ticks(self, count: int) -> list[list[str]]:
        """What each of some ticks requests, between which nothing happens."""
        return [self.requested() for _ in range(count)]

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
