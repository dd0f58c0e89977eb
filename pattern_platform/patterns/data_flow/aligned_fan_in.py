"""Aligned Fan-In: a partition runs when all of its upstream partitions have succeeded, and again when one is corrected.

Problem: a day is the fan-in of its hours. It must not be built while one of them is missing, must be built as soon as
the last one lands, and must be built again when an hour is corrected, also when that hour is some days old.

Guarantee: the condition requests a partition once when the last of its mapped upstream partitions lands, and once for
each later update of one of them; never while one is missing, is running, or has failed a blocking check. An update
that arrives while the request is handled counts for the next one: ``AutomationCondition.eager()`` swallows it.

Limits: only partitions whose window ended within the look-back are considered. An update is noticed at the next tick
of the automation sensor (30 s). A partition that is run by hand right after its upstream is requested once more; so is
one that a job runs together with its upstream, unless the run names its assets, as runs of the UI and of conditions
do. ``on_cron`` is no substitute: it fires after one hour; nor are ``all_deps_match`` and
``all_deps_blocking_checks_passed``, which mean "any partition" of each dependency.

Shown by: ``aggregated/visits_cube``, a day of 24 hours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagster import AssetSelection, AutomationCondition

if TYPE_CHECKING:
    from datetime import timedelta

    from dagster import AssetKey


def aligned_fan_in(lookback: timedelta, *, replayed: AssetKey | None = None) -> AutomationCondition:
    """Run when all mapped upstream partitions are there, and again when one of them changes.

    Args:
        lookback: How old a partition may be, counted back from the end of the newest one, to be run or corrected.
        replayed: An upstream asset whose changes are no reason to run again: the asset itself, where it rests on its
            own earlier partition and something else replays what follows (:meth:`SingleRunner.replays`).
    """
    first_run = AutomationCondition.newly_missing().since(
        AutomationCondition.newly_requested() | AutomationCondition.newly_updated()
    )
    # A request settles the corrections before it, but not one that is seen in the same tick; and a partition that is
    # updated does not say whether the update saw a correction that came meanwhile, so it settles none.
    corrected = AutomationCondition.any_deps_updated()
    if replayed:
        corrected = corrected.ignore(AssetSelection.assets(replayed))
    correction = corrected.since(AutomationCondition.newly_requested() & ~corrected)
    failed_check = AutomationCondition.any_checks_match(AutomationCondition.check_failed(), blocking_only=True)
    return (
        AutomationCondition.in_latest_time_window(lookback)
        & (first_run.with_label("never run") | correction.with_label("corrected since the last request"))
        & ~AutomationCondition.any_deps_missing()
        & ~AutomationCondition.any_deps_in_progress()
        & ~AutomationCondition.any_deps_match(failed_check).with_label("an upstream partition failed a blocking check")
        & ~AutomationCondition.in_progress()
    ).with_label("aligned fan-in")
