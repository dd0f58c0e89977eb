"""Code location `dashboards`: everything that runs, on one screen."""

import dagster as dg

from pattern_platform.dashboards.assets import ASSETS, CHECKS, COUNT_ARRIVALS, PROVIDED, SENSORS
from pattern_platform.orchestration.json_logs import install, note_assets
from pattern_platform.orchestration.validation import validate_definitions
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager
from pattern_platform.settings import Settings

settings = Settings()
install(str(settings.logs), settings.namespace)
note_assets([*ASSETS, *CHECKS])

automation = dg.AutomationConditionSensorDefinition(
    "dashboards_automation",
    target=dg.AssetSelection.groups("dashboards"),
    default_status=dg.DefaultSensorStatus.RUNNING,
)

defs = validate_definitions(
    dg.Definitions(
        assets=[*ASSETS, *PROVIDED],
        asset_checks=CHECKS,
        jobs=[COUNT_ARRIVALS],
        sensors=[automation, *SENSORS],
        executor=dg.in_process_executor,
        resources={
            "data_overwrite": DataOverwriteIOManager(**settings.lake_config),
            "data_overwrite_shown": DataOverwriteIOManager(root_uri=str(settings.lake_on_disk)),
        },
    )
)
