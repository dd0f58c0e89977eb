"""Code location `pattern_platform`: everything that runs, on one screen."""

import dagster as dg

from pattern_platform.flights import assets as flights
from pattern_platform.ingested import INGESTED, without_code
from pattern_platform.ingestion.erased import ErasedSubjects
from pattern_platform.ingestion.landing_zone import LandingZone
from pattern_platform.orchestration.json_logs import install, note_assets
from pattern_platform.orchestration.validation import validate_definitions
from pattern_platform.resources import delta_tables, warehouse_and_exports
from pattern_platform.settings import Settings
from pattern_platform.upkeep import alerts, nightly_assets, nightly_run
from pattern_platform.visits import parts as visits

settings = Settings()
install(str(settings.logs), settings.namespace)

# Dagster stops its own sensor by default; this one requests what the assets' conditions ask for from the start.
automation = dg.AutomationConditionSensorDefinition(
    "automation", target=dg.AssetSelection.all(), default_status=dg.DefaultSensorStatus.RUNNING
)

sources = list(INGESTED.values())
onboarded = without_code([*visits.ASSETS, *flights.ASSETS])
tables = [*visits.ASSETS, *flights.ASSETS, *(asset for source in onboarded for asset in source.assets)]
nightly = nightly_assets(tables, [source.dataset for source in sources], settings)
jobs, schedules = nightly_run(nightly, settings)
assets = [*tables, *nightly, *visits.MAINTENANCE]
checks = [*visits.CHECKS, *flights.CHECKS, *(check for source in onboarded for check in source.checks)]
note_assets([*assets, *checks])

defs = validate_definitions(
    dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[*(job for source in sources for job in source.jobs), *jobs],
        schedules=[*(schedule for source in sources for schedule in source.schedules), *schedules],
        sensors=[automation, alerts(settings), *(s for source in sources for s in source.sensors), *visits.SENSORS],
        executor=dg.in_process_executor,  # a run is a process of its own; one for each step would cost seconds more
        resources={
            "landing": LandingZone(root=str(settings.landing), erased=str(ErasedSubjects.of(settings.root).path)),
            **delta_tables(settings),
            **warehouse_and_exports(settings),
        },
    )
)
