"""Code location `pattern_platform`: everything that runs, on one screen."""

import dagster as dg

from pattern_platform.flights import assets as flights
from pattern_platform.ingestion.assets import LandingZone
from pattern_platform.orchestration.validation import validate_definitions
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager
from pattern_platform.settings import Settings
from pattern_platform.visits import assets as visits

settings = Settings()

# Dagster stops its own sensor by default; this one requests what the assets' conditions ask for from the start.
automation = dg.AutomationConditionSensorDefinition(
    "automation", target=dg.AssetSelection.all(), default_status=dg.DefaultSensorStatus.RUNNING
)

defs = validate_definitions(
    dg.Definitions(
        assets=[*visits.ASSETS, *flights.ASSETS],
        asset_checks=[*visits.CHECKS, *flights.CHECKS],
        jobs=[visits.INGEST, flights.INGEST],
        schedules=[visits.SCHEDULE, flights.SCHEDULE],
        sensors=[automation],
        resources={
            "landing": LandingZone(root=str(settings.landing)),
            "data_overwrite": DataOverwriteIOManager(root_uri=str(settings.lake)),
        },
    )
)
