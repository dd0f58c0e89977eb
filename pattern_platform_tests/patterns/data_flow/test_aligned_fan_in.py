"""Aligned fan-in: when a day of hours is requested, tick by tick, and that it is never requested too early."""

from __future__ import annotations

import datetime as dt

import dagster as dg
import pytest

from pattern_platform import aligned_fan_in
from pattern_platform_tests.patterns.data_flow.ticks import DAY, DAYS, HOURS, OLD_DAY, DayClock

WEEK = aligned_fan_in(dt.timedelta(days=7))


class Clock(DayClock):
    """A fan-in of hours to days, and the sensor that evaluates it."""

    def __init__(self, condition: dg.AutomationCondition) -> None:
        @dg.asset(partitions_def=HOURS)
        def hours() -> None: ...

        @dg.asset_check(asset=hours, blocking=True, partitions_def=HOURS)
        def good() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=self.check_passes)

        @dg.asset(partitions_def=DAYS, deps=[hours], automation_condition=condition)
        def days() -> None: ...

        self.check_passes = True
        self.hours_with_check = [hours, good]
        super().__init__(dg.Definitions([hours, days], asset_checks=[good]))

    def land_with_check(self, hour: int, *, passes: bool) -> None:
        self.check_passes = passes
        dg.materialize(
            self.hours_with_check,
            partition_key=f"{DAY}-{hour:02}:00",
            instance=self.instance,
            resources={"io_manager": dg.mem_io_manager},
            raise_on_error=False,
        )


def test_fires_once_when_the_last_hour_lands() -> None:
    clock = Clock(WEEK)
    clock.land(*range(23))
    assert clock.requested() == []
    clock.land(23)
    assert clock.requested() == [DAY]
    assert clock.requested() == []
    clock.build()
    assert clock.requested() == []


def test_fires_again_for_a_corrected_hour_also_of_an_older_day() -> None:
    clock = Clock(WEEK)
    for day in (OLD_DAY, DAY):
        clock.land(*range(24), day=day)
    assert clock.requested() == [OLD_DAY, DAY]
    clock.build(OLD_DAY)
    clock.build()
    assert clock.requested() == []
    clock.land(5, day=OLD_DAY)
    assert clock.requested() == [OLD_DAY]


def test_leaves_days_outside_the_look_back_alone() -> None:
    clock = Clock(aligned_fan_in(dt.timedelta(days=1)))
    clock.land(*range(24), day=OLD_DAY)
    clock.land(*range(24))
    assert clock.requested() == [DAY]


@pytest.mark.parametrize("built_in_between", [False, True])
def test_a_correction_right_after_the_request_is_not_swallowed(*, built_in_between: bool) -> None:
    """Pins what eager() gets wrong: dagster issue 24650."""
    requests = {}
    eager = dg.AutomationCondition.eager()
    for name, condition in {"aligned": WEEK, "eager": eager}.items():
        clock = Clock(condition)
        clock.land(*range(24))
        assert clock.requested() == [DAY]
        if built_in_between:
            clock.build()
        clock.land(6)
        requests[name] = clock.requested()
    assert requests == {"aligned": [DAY], "eager": []}


def test_waits_for_a_failed_blocking_check_of_a_single_hour() -> None:
    requests = {}
    any_partition = dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()
    for name, condition in {"aligned": WEEK, "any partition": any_partition}.items():
        clock = Clock(condition)
        for hour in range(24):
            clock.land_with_check(hour, passes=hour != 7)
        requests[name] = clock.requested()
        if name == "aligned":
            clock.land_with_check(7, passes=True)
            assert clock.requested() == [DAY]
    # The negative control: Dagster's own condition means "any partition" and lets the day pass.
    assert requests == {"aligned": [], "any partition": [DAY]}


def test_a_run_of_upstream_and_downstream_together_leaves_nothing_to_do() -> None:
    @dg.asset(partitions_def=DAYS)
    def upstream() -> None: ...

    @dg.asset(partitions_def=DAYS, deps=[upstream], automation_condition=WEEK)
    def days() -> None: ...

    clock = Clock(WEEK)
    clock.defs, clock.cursor = dg.Definitions([upstream, days]), None
    assert clock.requested() == []
    clock.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[upstream.key, days.key], partition_key=DAY, instance=clock.instance
    )
    assert clock.requested() == []


def test_on_cron_is_no_aligned_fan_in() -> None:
    """The negative control: on_cron fires although 23 hours were never there."""
    clock = Clock(dg.AutomationCondition.on_cron("15 0 * * *"))
    clock.land(3)
    assert clock.requested() == [DAY]
    clock = Clock(WEEK)
    clock.land(3)
    assert clock.requested() == []
