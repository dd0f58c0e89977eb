"""Code location `pattern_platform`: everything that runs, on one screen."""

from datetime import timedelta

import dagster as dg

from pattern_platform.flights import assets as flights
from pattern_platform.ingested import INGESTED, MAINTENANCE
from pattern_platform.ingestion.landing_zone import LandingZone
from pattern_platform.ingestion.schedules import CRON
from pattern_platform.operations.alerts import alerts_sensor
from pattern_platform.operations.maintenance import maintenance_assets
from pattern_platform.operations.retention import retention_asset
from pattern_platform.orchestration.json_logs import install, note_assets
from pattern_platform.orchestration.validation import validate_definitions
from pattern_platform.resources import alert_channels, delta_tables, warehouse_and_exports
from pattern_platform.settings import Settings
from pattern_platform.visits import parts as visits

settings = Settings()
install(str(settings.logs), settings.namespace)

# Dagster stops its own sensor by default; this one requests what the assets' conditions ask for from the start.
automation = dg.AutomationConditionSensorDefinition(
    "automation", target=dg.AssetSelection.all(), default_status=dg.DefaultSensorStatus.RUNNING
)

tables = delta_tables(settings)
sources, coded = list(INGESTED.values()), [*visits.ASSETS, *flights.ASSETS]
# A row of the registry is enough; of some of them more is made, by code.
named = {key for asset in coded for key in asset.keys}
onboarded = [source for source in sources if source.assets[0].key not in named]
assets = [*coded, *(asset for source in onboarded for asset in source.assets)]
nightly = maintenance_assets(assets, tables, owners=["team:platform"])
nightly.append(retention_asset((source.dataset for source in sources), owners=["team:platform"]))
maintenance = dg.define_asset_job("maintenance", selection=nightly, description="Upkeep of every table.")
everything = [*assets, *nightly, *visits.MAINTENANCE]
checks = [*visits.CHECKS, *flights.CHECKS, *(check for source in onboarded for check in source.checks)]
note_assets([*everything, *checks])
alerts = alerts_sensor(
    alert_channels(settings),
    namespace=settings.namespace,
    webserver=settings.webserver,
    repeat_after=timedelta(minutes=settings.alerts.repeat_after_minutes),
)
how_often = settings.schedules.get(MAINTENANCE, "daily")

defs = validate_definitions(
    dg.Definitions(
        assets=everything,
        asset_checks=checks,
        jobs=[*(job for source in sources for job in source.jobs), maintenance],
        schedules=[
            *(schedule for source in sources for schedule in source.schedules),
            *([] if how_often == "off" else [dg.ScheduleDefinition(job=maintenance, cron_schedule=CRON[how_often])]),
        ],
        sensors=[automation, alerts, *(sensor for source in sources for sensor in source.sensors), *visits.SENSORS],
        executor=dg.in_process_executor,  # a run is a process of its own; one for each step would cost seconds more
        resources={
            "landing": LandingZone(
                root=str(settings.landing),
                erased=str(settings.erased),
                subject_columns=settings.privacy.subject_columns,
            ),
            **tables,
            **warehouse_and_exports(settings),
        },
    )
)
