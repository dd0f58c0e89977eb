"""Code location `pattern_platform`: everything that runs, on one screen."""

import dagster as dg

from pattern_platform.flights import assets as flights
from pattern_platform.ingestion.assets import LandingZone
from pattern_platform.operations.maintenance import maintenance_assets
from pattern_platform.orchestration.validation import validate_definitions
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager
from pattern_platform.patterns.idempotency.merger import MergerIOManager
from pattern_platform.patterns.idempotency.stateful_merger import StatefulMergerIOManager
from pattern_platform.patterns.idempotency.stateful_merger_history import HistoryMergerIOManager
from pattern_platform.settings import Settings
from pattern_platform.visits import assets as visits
from pattern_platform.visits import devices, users

settings = Settings()

# Dagster stops its own sensor by default; this one requests what the assets' conditions ask for from the start.
automation = dg.AutomationConditionSensorDefinition(
    "automation", target=dg.AssetSelection.all(), default_status=dg.DefaultSensorStatus.RUNNING
)

parts = (visits, users, devices, flights)
managers = {
    "data_overwrite": DataOverwriteIOManager(root_uri=str(settings.lake)),
    "merger": MergerIOManager(root_uri=str(settings.lake)),
    "stateful_merger": StatefulMergerIOManager(root_uri=str(settings.lake)),
}

assets = [asset for part in parts for asset in part.ASSETS]
upkeep = maintenance_assets(assets, managers, owners=["team:platform"])
nightly = dg.define_asset_job("maintenance", selection=upkeep, description="Upkeep of every table.")

defs = validate_definitions(
    dg.Definitions(
        assets=[*assets, *upkeep],
        asset_checks=[check for part in parts for check in part.CHECKS],
        jobs=[*(part.INGEST for part in parts), nightly],
        schedules=[*(part.SCHEDULE for part in parts), dg.ScheduleDefinition(job=nightly, cron_schedule="30 3 * * *")],
        sensors=[automation],
        resources={
            "landing": LandingZone(root=str(settings.landing)),
            "history_merger": HistoryMergerIOManager(database=str(settings.data / "devices.duckdb")),
            **managers,
        },
    )
)
