"""The data sets of the registry, each with all that it takes to ingest it: nothing here names one of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pattern_platform.datasets import DATASETS
from pattern_platform.errors import InvalidSettingsError
from pattern_platform.ingestion.assets import ingestion_assets
from pattern_platform.ingestion.checks import ingestion_checks
from pattern_platform.ingestion.late import routing_sensor
from pattern_platform.ingestion.routing import definition_of
from pattern_platform.ingestion.schedules import ingest
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.runners import INGESTION, LATE_DATA, TEAMS, URGENT
from pattern_platform.settings import Settings
from pattern_platform.upkeep import MAINTENANCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dagster as dg

    from pattern_platform.ingestion.dataset import Dataset

LOOKBACK = timedelta(days=7)  # how far back a correction is followed
_settings = Settings()


@dataclass(frozen=True)
class Ingested:
    """A data set in Dagster.

    Args:
        dataset: The data set.
        assets: From its landed files to clean rows.
        checks: Of these.
        jobs: That read what has landed.
        schedules: When.
        sensors: That bring late rows to where they belong.
    """

    dataset: Dataset
    assets: Sequence[dg.AssetsDefinition]
    checks: Sequence[dg.AssetChecksDefinition]
    jobs: Sequence[Any]
    schedules: Sequence[dg.ScheduleDefinition]
    sensors: Sequence[dg.SensorDefinition]

    @property
    def partitions(self) -> dg.TimeWindowPartitionsDefinition:
        """Its partitions, where it has some."""
        return definition_of(self.dataset)


def _ingested(dataset: Dataset) -> Ingested:
    runners = [INGESTION, *([TEAMS[dataset.owner]] if dataset.owner in TEAMS else [])]
    jobs, schedules = ingest(dataset, _settings.schedules.get(dataset.name), URGENT)
    late = dataset.allowed_lateness is not None and dataset.stage == "clean"
    return Ingested(
        dataset=dataset,
        assets=ingestion_assets(dataset, automation_condition=aligned_fan_in(LOOKBACK), runners=runners),
        checks=ingestion_checks(dataset),
        jobs=jobs,
        schedules=schedules,
        sensors=[routing_sensor(dataset, LATE_DATA)] if late else [],
    )


def without_code(assets: Sequence[dg.AssetsDefinition]) -> list[Ingested]:
    """The data sets for which a row of the registry is enough: no code has their assets, to make more of them.

    Args:
        assets: The assets that code has.
    """
    named = {key for asset in assets for key in asset.keys}
    return [ingested for ingested in INGESTED.values() if ingested.assets[0].key not in named]


def _refuse_unknown_schedules(names: Sequence[str]) -> None:
    if unknown := sorted(set(_settings.schedules) - {*names, MAINTENANCE}):
        raise InvalidSettingsError(
            f"setting(s) {', '.join(f'schedules.{name}' for name in unknown)} were refused",
            why="there is no such data set in the registry",
            mend=f"name one of {', '.join([*names, MAINTENANCE])}",
        )


_refuse_unknown_schedules(list(DATASETS))
INGESTED = {name: _ingested(dataset) for name, dataset in DATASETS.items()}
