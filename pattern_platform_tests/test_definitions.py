"""The public shape of the code location: what a person finds in the Dagster UI."""

from __future__ import annotations

import dagster as dg

from pattern_platform.definitions import automation, defs
from pattern_platform_tests.test_structure import ROOT

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
    )
}
VERSIONS = "clean/devices__versions"
CHECKED = {key for key in SHAPE if not key.startswith("raw/")} - {VERSIONS}
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
NOT_BLOCKING = {"no_superseded_partition", "no_partition_waits"}


def test_definitions_load() -> None:
    dg.Definitions.validate_loadable(defs)


def test_the_shape_of_the_platform() -> None:
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert {key for key in specs if key not in SHAPE} == UPKEEP
    shape = {key: (specs[key].group_name, specs[key].tags["pattern_platform/pattern"]) for key in SHAPE}
    assert shape == SHAPE
    for key, spec in specs.items():
        assert spec.description, key
        assert spec.owners, key
        assert spec.kinds & {"deltalake", "duckdb", "parquet", "csv"}, key
        assert (spec.partitions_def is None) == (key in {*UPKEEP, *FULL, VERSIONS}), key
        assert spec.code_version, key


def test_every_pattern_tag_names_a_module() -> None:
    modules = {module.stem for module in (ROOT / "patterns").glob("*/*.py")}
    assert {tag for _, tag in SHAPE.values()} <= modules


def test_every_derived_asset_has_a_blocking_check_of_its_own_partitions() -> None:
    repository = defs.get_repository_def()
    specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
    checks = [spec for check in repository.asset_graph.asset_check_keys for spec in [repository.asset_graph.get(check)]]
    assert {check.key.asset_key.to_user_string() for check in checks} == CHECKED
    for check in checks:
        assert check.blocking == (check.key.name not in NOT_BLOCKING), check.key
        whole_table = (check.key.asset_key.to_user_string(), check.key.name) in WHOLE_TABLE
        assert whole_table or check.partitions_def == specs[check.key.asset_key].partitions_def, check.key


def test_automation_runs_by_default() -> None:
    assert automation.default_status is dg.DefaultSensorStatus.RUNNING


def test_columns_are_described() -> None:
    for spec in defs.resolve_all_asset_specs():
        if spec.key.to_user_string() in UPKEEP:
            continue
        schema = spec.metadata.get("dagster/column_schema")
        assert isinstance(schema, dg.TableSchema), spec.key
        undescribed = {column.name for column in schema.columns if not column.description}
        assert spec.key.path[0] == "raw" or not undescribed, (spec.key, undescribed)  # raw columns are the source's
