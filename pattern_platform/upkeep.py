"""What looks after the platform by itself: the upkeep of tables, the retention of personal data, alerts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from pattern_platform.ingestion.schedules import CRON
from pattern_platform.operations.alerts import alerts_sensor
from pattern_platform.operations.maintenance import maintenance_assets
from pattern_platform.operations.retention import retention_asset
from pattern_platform.resources import alert_channels, delta_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pattern_platform.ingestion.dataset import Dataset
    from pattern_platform.settings import Settings

MAINTENANCE = "maintenance"  # name of the job, and of its schedule in the settings
_OWNERS = ["team:platform"]


def nightly_assets(
    assets: Sequence[dg.AssetsDefinition], datasets: Iterable[Dataset], settings: Settings
) -> list[dg.AssetsDefinition]:
    """The upkeep of every table of the lake, and the retention of personal data.

    Args:
        assets: The assets of the code location.
        datasets: The data sets of the registry.
        settings: Where the tables are.
    """
    upkeep = maintenance_assets(assets, delta_tables(settings), owners=_OWNERS)
    return [*upkeep, retention_asset(datasets, owners=_OWNERS)]


def nightly_run(
    nightly: Sequence[dg.AssetsDefinition], settings: Settings
) -> tuple[list[Any], list[dg.ScheduleDefinition]]:
    """The job of the upkeep, and its schedule unless it is off.

    Args:
        nightly: As of :func:`nightly_assets`.
        settings: How often it runs.
    """
    job = dg.define_asset_job(MAINTENANCE, selection=nightly, description="Upkeep of every table.")
    word = settings.schedules.get(MAINTENANCE, "daily")
    return [job], [] if word == "off" else [dg.ScheduleDefinition(job=job, cron_schedule=CRON[word])]


def alerts(settings: Settings) -> dg.SensorDefinition:
    """The sensor that tells of what went wrong, once a cause."""
    return alerts_sensor(
        alert_channels(settings),
        namespace=settings.namespace,
        webserver=settings.webserver,
        repeat_after=timedelta(minutes=settings.alerts.repeat_after_minutes),
    )
