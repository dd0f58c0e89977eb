"""Checks of declarations when definitions load, so that a mistake is found before anything runs. All errors at once."""

from __future__ import annotations

import dagster as dg

from pattern_platform.errors import InvalidMetadataError, PatternPlatformError
from pattern_platform.lake.declarations import TableDeclaration, parse
from pattern_platform.lake.io_manager import DeltaIOManager


def validate_definitions(defs: dg.Definitions) -> dg.Definitions:
    """Check the platform's metadata of every asset that one of its IO managers stores.

    Args:
        defs: Definitions with their resources.

    Returns:
        The same definitions.

    Raises:
        InvalidMetadataError: Lists every mistake.
    """
    managers = {name: value for name, value in (defs.resources or {}).items() if isinstance(value, DeltaIOManager)}
    mistakes: list[str] = []
    stored: list[dg.AssetKey] = []
    specs = [
        (spec, managers.get(definition.get_io_manager_key_for_asset_key(spec.key)))
        for definition in defs.assets or ()
        if isinstance(definition, dg.AssetsDefinition)
        for spec in definition.specs
    ]
    for spec, manager in specs:
        if manager is None:
            continue
        stored.append(spec.key)
        try:
            manager.table_path(spec.key)
            _check_partitions(spec, parse(TableDeclaration, spec.metadata, of=f"asset {spec.key.to_user_string()!r}"))
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


def _check_partitions(spec: dg.AssetSpec, declaration: TableDeclaration) -> None:
    name = spec.key.to_user_string()
    if spec.partitions_def is None:
        return
    if declaration.partition_expr is None:
        raise InvalidMetadataError(
            f"asset {name!r} was refused",
            why="it is partitioned, and does not say which column holds the partition",
            mend='set its metadata "partition_expr" to the name of the column',
        )
    multiple = isinstance(spec.partitions_def, dg.MultiPartitionsDefinition)
    if multiple == isinstance(declaration.partition_expr, str):
        raise InvalidMetadataError(
            f'metadata "partition_expr" of asset {name!r} was refused',
            why="an asset with several partition dimensions maps each to a column, any other names one column",
            mend=f"see {type(spec.partitions_def).__name__} of the asset, and declare its columns",
        )
