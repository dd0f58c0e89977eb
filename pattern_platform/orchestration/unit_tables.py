"""Tables in units in Dagster: freezing and changes of the schema as assets, and checks of the units and their view."""

from datetime import date
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import dagster as dg

from pattern_platform.orchestration.checks import replay_result
from pattern_platform.warehouse.database import connected, transaction
from pattern_platform.warehouse.names import TableName
from pattern_platform.warehouse.unit_calendar import Unit
from pattern_platform.warehouse.units import Units

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb


class _KeepsUnits(Protocol):
    """The IO manager of a table in units."""

    database: str
    unit: Unit


class Freeze(dg.Config):
    """What is frozen.

    Args:
        into: What the units become.
        before: The first day that stays as it is, as ``2024-05-06``; the month or year around it stays too.
    """

    into: Literal["month", "year"] = "month"
    before: str


class SchemaChange(dg.Config):
    """What becomes of the columns.

    Args:
        types: New, wider types by column, as SQL writes them.
    """

    types: dict[str, str] = {}


def freezing_asset(asset: dg.AssetKey, io_manager_key: str, **arguments: Any) -> dg.AssetsDefinition:  # noqa: ANN401
    """Old units, put together into months or years by a run that says until when.

    Args:
        asset: The asset whose units they are.
        io_manager_key: Its IO manager.
        arguments: What else ``dagster.asset`` takes, such as ``key`` and ``group_name``.
    """

    @dg.asset(
        description=f"Old units of {asset.to_user_string()}, frozen into months or years. They cannot be loaded again.",
        deps=[asset],
        required_resource_keys={io_manager_key},
        **arguments,
    )
    def frozen_units(context: dg.AssetExecutionContext, config: Freeze) -> dg.MaterializeResult:
        manager = _manager(context.resources, io_manager_key)
        with transaction(manager.database) as connection:
            units = _units(connection, asset)
            before = units.names
            frozen = units.frozen(config.into, date.fromisoformat(config.before), unit=manager.unit)
            if frozen.names != before:
                frozen.expose(frozen.columns())
        return dg.MaterializeResult(metadata={"duckdb/units_before": before, "duckdb/units": frozen.names})

    return frozen_units


def unit_schema_asset(asset: dg.AssetKey, io_manager_key: str, **arguments: Any) -> dg.AssetsDefinition:  # noqa: ANN401
    """One schema for all units: each gets the columns of the others, and wider types where a run asks for them.

    Args:
        asset: The asset whose units they are.
        io_manager_key: Its IO manager.
        arguments: What else ``dagster.asset`` takes, such as ``key`` and ``group_name``.
    """

    @dg.asset(
        description=f"All units of {asset.to_user_string()} with the same columns, of the types that a run asks for.",
        deps=[asset],
        required_resource_keys={io_manager_key},
        **arguments,
    )
    def unit_schema(context: dg.AssetExecutionContext, config: SchemaChange) -> dg.MaterializeResult:
        with transaction(_manager(context.resources, io_manager_key).database) as connection:
            units = _units(connection, asset)
            changed = units.align(config.types)
            after = units.columns()
            if after:
                units.expose(after)
            columns = {column: str(dtype) for column, dtype in units.schema(after).items()}
        return dg.MaterializeResult(metadata={"duckdb/units_changed": changed, "columns": columns})

    return unit_schema


def units_check(asset: dg.AssetKey, columns: "Sequence[str]", io_manager_key: str) -> dg.AssetChecksDefinition:
    """A blocking check that the view shows the rows of all units, each as often as it was loaded, and no key twice.

    Args:
        asset: The asset.
        columns: Columns of the key.
        io_manager_key: Its IO manager.
    """

    @dg.asset_check(
        asset=asset,
        name="units_add_up",
        description=f"The view has the rows of all units, and {', '.join(columns)} is unique in it.",
        blocking=True,
        required_resource_keys={io_manager_key},
    )
    def units_add_up(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with connected(_manager(context.resources, io_manager_key).database) as connection:
            units = _units(connection, asset)
            recorded = int(units.loads.rows["rows"].sum())
            in_units = sum(len(connection.table(units.sql(unit))) for unit in units.names)
            view = connection.table(units.table.sql()) if units.names else None
            in_view, keys = (len(view), len(view.select(*columns).distinct())) if view else (0, 0)
        return dg.AssetCheckResult(
            passed=recorded == in_units == in_view == keys,
            metadata={"recorded": recorded, "in_units": in_units, "in_view": in_view, "keys": keys},
        )

    return units_add_up


def waiting_check(asset: dg.AssetKey, io_manager_key: str) -> dg.AssetChecksDefinition:
    """A check that fails while a partition waits for its replay. It does not block: replays run while others wait.

    Args:
        asset: The asset.
        io_manager_key: Its IO manager.
    """

    @dg.asset_check(
        asset=asset,
        name="no_partition_waits",
        description="No unit was reset without the partitions after its first.",
        required_resource_keys={io_manager_key},
    )
    def no_partition_waits(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with connected(_manager(context.resources, io_manager_key).database) as connection:
            waiting = _units(connection, asset).loads.dropped
        return replay_result(asset, waiting, named="waiting")

    return no_partition_waits


def _manager(resources: Any, io_manager_key: str) -> _KeepsUnits:  # noqa: ANN401 - made at run time
    return cast("_KeepsUnits", getattr(resources, io_manager_key))


def _units(connection: "duckdb.DuckDBPyConnection", asset: dg.AssetKey) -> Units:
    return Units.of(connection, TableName.of(connection, asset), asset.to_user_string())
