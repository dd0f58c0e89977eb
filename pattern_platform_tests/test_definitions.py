"""The public shape of the code location: what a person finds in the Dagster UI."""

from __future__ import annotations

import dagster as dg
import yaml

from pattern_platform.dashboards import definitions as dashboards
from pattern_platform.definitions import automation, defs
from pattern_platform.runners import LATE_DATA, LIMITS
from pattern_platform_tests.test_structure import CHECKOUT, ROOT

SHAPE = {
    "raw/visits": ("raw", "data_overwrite"),
    "clean/visits": ("clean", "data_overwrite"),
    "quarantine/visits": ("quarantine", "data_overwrite"),
    "aggregated/visits_by_hour": ("aggregated", "data_overwrite"),
    "aggregated/visits_cube": ("aggregated", "aligned_fan_in"),
    "raw/user_changes": ("raw", "data_overwrite"),
    "clean/user_changes": ("clean", "data_overwrite"),
    "quarantine/user_changes": ("quarantine", "data_overwrite"),
    "clean/users": ("clean", "merger"),
    "raw/device_updates": ("raw", "data_overwrite"),
    "clean/device_updates": ("clean", "data_overwrite"),
    "quarantine/device_updates": ("quarantine", "data_overwrite"),
    "clean/devices": ("clean", "stateful_merger"),
    "clean/devices__versions": ("clean", "stateful_merger"),
    "serving/devices": ("serving", "stateful_merger_history"),
    "exports/visits_by_hour": ("exports", "data_overwrite_directory"),
    "warehouse/visits_cube": ("warehouse", "data_overwrite_duckdb"),
    "warehouse/visits_by_week": ("warehouse", "fast_metadata_cleaner"),
    "warehouse/billing": ("warehouse", "transactional_writer"),
    "ledger/ad_impressions": ("ledger", "transactional_writer_delta"),
    "sessions": ("serving", "keyed_idempotency"),
    "exports/sessions": ("exports", "keyed_idempotency_files"),
    "internal/device_catalogue": ("internal", "proxy"),
    "published/device_catalogue": ("published", "proxy"),
    "published/visits_cube": ("published", "proxy_native"),
    "aggregated/visits_estimate": ("aggregated", "unaligned_fan_in"),
    "aggregated/visits_estimate__completeness": ("aggregated", "unaligned_fan_in"),
    "aggregated/visits_estimate__fallback": ("aggregated", "unaligned_fan_in"),
    "aggregated/sessions_by_hour": ("aggregated", "single_runner"),
    "exports/visits": ("exports", "parallel_split"),
    "serving/visits": ("serving", "parallel_split"),
    "archive/referrals": ("archive", "exclusive_choice"),
    "archive/referrals_csv": ("archive", "exclusive_choice"),
    "archive/referrals_delta": ("archive", "exclusive_choice"),
    "raw/likes": ("raw", "data_overwrite"),
    "clean/likes": ("clean", "data_overwrite"),
    "quarantine/likes": ("quarantine", "data_overwrite"),
    "aggregated/likes_by_post": ("aggregated", "local_sequencer"),
    "aggregated/top_authors": ("aggregated", "local_sequencer"),
    "raw/comments": ("raw", "data_overwrite"),
    "clean/comments": ("clean", "data_overwrite"),
    "quarantine/comments": ("quarantine", "data_overwrite"),
    "late/comments": ("late", "data_overwrite"),
    "aggregated/comments_by_post": ("aggregated", "aligned_fan_in"),
    "raw/page_speed": ("raw", "concurrent_runner"),
    "raw/flights": ("raw", "data_overwrite"),
    "clean/flights": ("clean", "data_overwrite"),
    "quarantine/flights": ("quarantine", "data_overwrite"),
    "aggregated/flights_by_hour": ("aggregated", "data_overwrite"),
    "aggregated/flights_cube": ("aggregated", "aligned_fan_in"),
}
UPKEEP = {
    f"maintenance/{name}"
    for name in (
        *("compaction", "vacuumed", "checkpoints", "orphan_report"),
        *("frozen_visits_by_week", "visits_by_week_schema", "device_catalogue_retention", "visits_cube_retention"),
        *("steps_cleanup", "personal_data_retention"),
    )
}
VERSIONS = "clean/devices__versions"
WITHOUT_ROWS = {"archive/referrals", "aggregated/visits_estimate__fallback"}  # a decision, and a stand-in
# Stored by others, checked there: the branches of a choice; the legacy branch of a split; what has no rows.
UNCHECKED = {VERSIONS, "exports/visits", "archive/referrals_csv", "archive/referrals_delta"} | {
    "aggregated/visits_estimate__fallback"
}
CHECKED = {key for key in SHAPE if not key.startswith("raw/")} - UNCHECKED
# Checks that look at the whole table: no partition owns a row, or a version has none.
WHOLE_TABLE = {
    ("clean/users", "unique_user_id"),
    ("clean/devices", "unique_id"),
    ("clean/devices", "no_superseded_partition"),
    ("warehouse/visits_by_week", "units_add_up"),
    ("warehouse/visits_by_week", "no_partition_waits"),
    ("aggregated/visits_cube", "every_day_adds_up"),
}
FULL = {"internal/device_catalogue", "published/device_catalogue", "published/visits_cube"}
# It fails while later days wait for their replay, and the replay itself must run.
NOT_BLOCKING = {"no_superseded_partition", "no_partition_waits"} | {
    *("is_complete", "something_arrived", "is_published"),  # partial is published, and said to be
    "nothing_too_late",  # what came too late is reported, and holds nothing up
    "agrees_with_exports__visits",  # a branch that lags holds the other back in nothing
}


def test_definitions_load() -> None:
    dg.Definitions.validate_loadable(defs)
    dg.Definitions.validate_loadable(dashboards.defs)


def test_the_shape_of_the_platform() -> None:
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert {key for key in specs if key not in SHAPE} == UPKEEP
    shape = {key: (specs[key].group_name, specs[key].tags["pattern_platform/pattern"]) for key in SHAPE}
    assert shape == SHAPE
    for key, spec in specs.items():
        assert spec.description, key
        assert spec.owners, key
        assert key in WITHOUT_ROWS or spec.kinds & {"deltalake", "duckdb", "parquet", "csv"}, key
        assert (spec.partitions_def is None) == (key in {*UPKEEP, *FULL, VERSIONS}), key
        assert spec.code_version, key


def test_every_pattern_has_an_asset_that_shows_it_and_every_tag_names_a_module() -> None:
    modules = {module.stem for module in (ROOT / "patterns").glob("*/*.py")} - {"__init__"}
    specs = [spec for location in (defs, dashboards.defs) for spec in location.resolve_all_asset_specs()]
    tags = {spec.tags["pattern_platform/pattern"] for spec in specs if "pattern_platform/pattern" in spec.tags}
    assert tags == modules


def test_every_derived_asset_has_a_blocking_check_of_its_own_partitions() -> None:
    repository = defs.get_repository_def()
    specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
    checks = [spec for check in repository.asset_graph.asset_check_keys for spec in [repository.asset_graph.get(check)]]
    assert {check.key.asset_key.to_user_string() for check in checks} == CHECKED
    for check in checks:
        assert check.blocking == (check.key.name not in NOT_BLOCKING), check.key
        whole_table = (check.key.asset_key.to_user_string(), check.key.name) in WHOLE_TABLE
        assert whole_table or check.partitions_def == specs[check.key.asset_key].partitions_def, check.key


def test_every_limit_of_the_queue_has_a_user_and_every_runner_its_limit() -> None:
    settings = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    limits = {limit["key"]: limit for limit in settings["run_coordinator"]["config"]["tag_concurrency_limits"]}
    specs = [spec for location in (defs, dashboards.defs) for spec in location.resolve_all_asset_specs()]
    runners = {k: v for spec in specs for k, v in spec.tags.items() if k.startswith(("single_", "concurrent_"))}
    runners |= LATE_DATA.tags  # of runs, which its sensor requests
    assert {key: str(limit) for key, limit in LIMITS.items()} == runners
    assert {key: str(limit["limit"]) for key, limit in limits.items()} == runners
    assert not [limit for limit in limits.values() if "value" in limit], "a value could be given at launch"


def test_each_location_follows_its_own_conditions() -> None:
    locations = ((defs, automation), (dashboards.defs, dashboards.automation))
    for location, sensor in locations:
        selected = sensor.asset_selection.resolve(location.resolve_asset_graph())
        specs = location.resolve_all_asset_specs()
        assert {spec.key for spec in specs if spec.automation_condition} <= selected


def test_automation_runs_by_default() -> None:
    assert dashboards.automation.default_status is dg.DefaultSensorStatus.RUNNING
    assert automation.default_status is dg.DefaultSensorStatus.RUNNING


def test_columns_are_described() -> None:
    for spec in defs.resolve_all_asset_specs():
        if spec.key.to_user_string() in UPKEEP | WITHOUT_ROWS:
            continue
        schema = spec.metadata.get("dagster/column_schema")
        assert isinstance(schema, dg.TableSchema), spec.key
        undescribed = {column.name for column in schema.columns if not column.description}
        assert spec.key.path[0] == "raw" or not undescribed, (spec.key, undescribed)  # raw columns are the source's
