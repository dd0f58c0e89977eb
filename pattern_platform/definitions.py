"""Code location `pattern_platform`: everything that runs, on one screen."""

import dagster as dg

from pattern_platform.flights import assets as flights
from pattern_platform.ingestion.assets import LandingZone
from pattern_platform.operations.maintenance import maintenance_assets
from pattern_platform.orchestration.validation import validate_definitions
from pattern_platform.resources import delta_tables, warehouse_and_exports
from pattern_platform.settings import Settings
from pattern_platform.visits import parts as visits

settings = Settings()

# Dagster stops its own sensor by default; this one requests what the assets' conditions ask for from the start.
automation = dg.AutomationConditionSensorDefinition(
    "automation", target=dg.AssetSelection.all(), default_status=dg.DefaultSensorStatus.RUNNING
)

tables = delta_tables(settings)
assets = [*visits.ASSETS, *flights.ASSETS]
nightly = maintenance_assets(assets, tables, owners=["team:platform"])
maintenance = dg.define_asset_job("maintenance", selection=nightly, description="Upkeep of every table.")

defs = validate_definitions(
    dg.Definitions(
        assets=[*assets, *nightly, *visits.MAINTENANCE],
        asset_checks=[*visits.CHECKS, *flights.CHECKS],
        jobs=[*visits.JOBS, flights.INGEST, maintenance],
        schedules=[
            *visits.SCHEDULES,
            flights.SCHEDULE,
            dg.ScheduleDefinition(job=maintenance, cron_schedule="30 3 * * *"),
        ],
        sensors=[automation, *visits.SENSORS],
        executor=dg.in_process_executor,  # a run is a process of its own; one for each step would cost seconds more
        resources={
            "landing": LandingZone(root=str(settings.landing)),
            **tables,
            **warehouse_and_exports(settings),
        },
    )
)
