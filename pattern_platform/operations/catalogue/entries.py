"""What is known of every table: from its definition, from the instance, and from the lake."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from pattern_platform.operations.catalogue.entry import Check, Column, Entry
from pattern_platform.operations.catalogue.versions import last_versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pattern_platform.lake.object_path import LakePath

PATTERN, CONTRACT, RETENTION_DAYS = (f"pattern_platform/{name}" for name in ("pattern", "contract", "retention_days"))
_SCHEMA, _URI = "dagster/column_schema", "dagster/uri"
_NO_STORAGE = "io_manager"  # what an asset has that names no IO manager
_NO_TYPE = "string"  # what Dagster assumes where a column declares none


def catalogue_entries(
    definitions: Sequence[dg.Definitions], instance: dg.DagsterInstance | None = None, lake: LakePath | None = None
) -> list[Entry]:
    """All tables of some code locations, by key.

    A table that several locations name is taken from the one that makes it. An asset that stores no rows, such as
    upkeep, is no table.

    Args:
        definitions: Of each code location.
        instance: Knows when tables were made; None leaves that out.
        lake: Folder of the Delta tables; None leaves their versions out.
    """
    specs, checks = _tables(definitions), _checks(definitions)
    made_from = {key: {dep.asset_key for dep in spec.deps} for key, spec in specs.items()}
    return [
        replace(
            _entry(spec, checks.get(key, ()), instance),
            rests_on_itself=key in made_from[key],
            upstream=_names(made_from[key] - {key}),
            downstream=_names(other for other in specs if key in made_from[other] and other != key),
            versions=last_versions(lake.joinpath(*key.path)) if lake else (),
        )
        for key, spec in sorted(specs.items(), key=lambda item: item[0].path)
    ]


def _tables(definitions: Sequence[dg.Definitions]) -> dict[dg.AssetKey, dg.AssetSpec]:
    """The specs of all tables; those that are made here go before those of others."""
    made, others = {}, {}
    for asset in (asset for location in definitions for asset in location.assets or ()):
        if isinstance(asset, dg.AssetSpec):
            others.setdefault(asset.key, asset)
        elif isinstance(asset, dg.AssetsDefinition):
            for spec in asset.specs:
                if _SCHEMA in spec.metadata or asset.get_io_manager_key_for_asset_key(spec.key) != _NO_STORAGE:
                    made[spec.key] = spec
    return {**others, **made}


def _checks(definitions: Sequence[dg.Definitions]) -> dict[dg.AssetKey, tuple[Check, ...]]:
    found: dict[dg.AssetKey, dict[str, Check]] = {}
    for spec in _check_specs(definitions):
        check = Check(spec.name, spec.description or "", spec.blocking)
        found.setdefault(spec.asset_key, {})[spec.name] = check
    return {key: tuple(checks[name] for name in sorted(checks)) for key, checks in found.items()}


def _check_specs(definitions: Sequence[dg.Definitions]) -> Iterator[dg.AssetCheckSpec]:
    for location in definitions:
        for definition in (*(location.assets or ()), *(location.asset_checks or ())):
            if isinstance(definition, dg.AssetsDefinition):  # checks are some, too
                yield from definition.check_specs


def _entry(spec: dg.AssetSpec, checks: tuple[Check, ...], instance: dg.DagsterInstance | None) -> Entry:
    """What its definition says, and what its last run told."""
    made = instance.get_latest_materialization_event(spec.key) if instance else None
    event = made.asset_materialization if made else None
    told: dict[str, Any] = {name: value.value for name, value in event.metadata.items()} if event else {}
    retention = _plain(spec.metadata.get(RETENTION_DAYS))
    return Entry(
        key=spec.key.to_user_string(),
        description=spec.description or "",
        group=spec.group_name or "",
        owners=tuple(spec.owners),
        pattern=spec.tags.get(PATTERN, ""),
        kinds=tuple(sorted(spec.kinds)),
        columns=_columns(_plain(spec.metadata.get(_SCHEMA)), told.get(_SCHEMA)),
        partitions=str(spec.partitions_def).removesuffix(".") if spec.partitions_def else "",
        contract=str(_plain(spec.metadata.get(CONTRACT)) or ""),
        freshness=_freshness(spec.freshness_policy),
        retention_days=None if retention is None else int(retention),
        checks=checks,
        uri=str(told.get(_URI) or ""),
        made_at=datetime.fromtimestamp(made.timestamp, UTC) if made else None,
        partitions_made=len(instance.get_materialized_partitions(spec.key))
        if instance and spec.partitions_def
        else None,
    )


def _columns(declared: dg.TableSchema | None, stored: dg.TableSchema | None) -> tuple[Column, ...]:
    """What is declared, with the types that are stored; then what is stored and declared by nobody."""
    says = {column.name: column for column in declared.columns} if declared else {}
    is_ = {column.name: column for column in stored.columns} if stored else {}
    return tuple(
        Column(
            name=name,
            type=is_[name].type if name in is_ else _declared_type(says[name]),
            description=_first(column.description for column in (says.get(name), is_.get(name)) if column),
            unit=_first(column.tags.get("unit") for column in (says.get(name), is_.get(name)) if column),
            is_personal=any(c.tags.get("personal_data") == "true" for c in (says.get(name), is_.get(name)) if c),
            constraints=_constraints((says.get(name) or is_[name]).constraints),
        )
        for name in (*says, *(name for name in is_ if name not in says))
    )


def _declared_type(column: dg.TableColumn) -> str:
    return "" if column.type == _NO_TYPE else column.type


def _first(texts: Iterable[str | None]) -> str:
    return next((text for text in texts if text), "")


def _constraints(constraints: dg.TableColumnConstraints) -> tuple[str, ...]:
    return (
        *(() if constraints.nullable else ("never null",)),
        *(("unique",) if constraints.unique else ()),
        *constraints.other,
    )


def _freshness(policy: Any) -> str:  # noqa: ANN401 - the kinds of policies have no public names
    """When a table counts as late, in words."""
    if policy is None:
        return ""
    if hasattr(policy, "deadline_cron"):
        window = _duration(policy.lower_bound_delta)
        return f"made within {window} before each {policy.deadline_cron!r} ({policy.timezone})"
    window = f"late after {_duration(policy.fail_window)}"
    return f"{window}, warns after {_duration(policy.warn_window)}" if policy.warn_window else window


def _duration(length: Any) -> str:  # noqa: ANN401 - Dagster's own, or that of Python
    length = timedelta(days=length.days, seconds=length.seconds)
    hours, seconds = divmod(length.seconds, 3600)
    parts = (("d", length.days), ("h", hours), ("min", seconds // 60))
    return " ".join(f"{count} {unit}" for unit, count in parts if count) or "0 min"


def _names(keys: Iterable[dg.AssetKey]) -> tuple[str, ...]:
    return tuple(sorted(key.to_user_string() for key in keys))


def _plain(value: Any) -> Any:  # noqa: ANN401 - metadata is of any kind
    """A value of metadata, whether it was wrapped for Dagster or not."""
    return value.value if isinstance(value, dg.MetadataValue) else value
