"""Checks of declarations when definitions load, so that a mistake is found before anything runs. All errors at once."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import dagster as dg

from pattern_platform.errors import InvalidMetadataError, PatternPlatformError
from pattern_platform.lake.io_manager import DeltaIOManager

_UNNAMED = "io_manager"  # what an asset has that names none; one without a value is stored by nobody then


@runtime_checkable
class _Refuses(Protocol):
    """An IO manager that tells by its declaration alone whether it could store an asset."""

    def refuse_spec(self, spec: dg.AssetSpec) -> None: ...


def validate_definitions(defs: dg.Definitions) -> dg.Definitions:
    """Check the platform's metadata of every asset that one of its IO managers stores.

    Args:
        defs: Definitions with their resources.

    Returns:
        The same definitions.

    Raises:
        InvalidMetadataError: Lists every mistake.
    """
    managers = {name: value for name, value in (defs.resources or {}).items() if isinstance(value, _Refuses)}
    mistakes: list[str] = []
    stored: list[dg.AssetKey] = []
    without_value = {
        key
        for definition in defs.assets or ()
        if isinstance(definition, dg.AssetsDefinition) and definition.is_executable
        for key in definition.keys
        if definition.get_io_manager_key_for_asset_key(key) == _UNNAMED
        if definition.node_def.output_def_named(definition.get_output_name_for_asset_key(key)).dagster_type.is_nothing
    }
    specs = [
        (spec, managers.get(definition.get_io_manager_key_for_asset_key(spec.key)))
        for definition in defs.assets or ()
        if isinstance(definition, dg.AssetsDefinition)
        for spec in definition.specs
    ]
    for spec, manager in specs:
        if manager is None or spec.key in without_value:
            continue
        if isinstance(manager, DeltaIOManager):
            stored.append(spec.key)
        try:
            manager.refuse_spec(spec)
        except PatternPlatformError as error:
            mistakes.append(str(error))
    mistakes += [
        f"asset keys {a.to_user_string()!r} and {b.to_user_string()!r}: the table of one would be inside the other"
        for a in stored
        for b in stored
        if a != b and b.path[: len(a.path)] == a.path
    ]
    if mistakes:
        raise InvalidMetadataError(
            f"{len(mistakes)} declaration(s) were refused", why="\n\n".join(mistakes), mend="mend them all, then reload"
        )
    return defs
