"""Fast Metadata Cleaner: what a replay throws away is a table, not rows.

Problem: a replay that deletes its rows first pays for the size of the table, more every month.

Guarantee: an asset is kept in units, weeks unless configured otherwise, each a table ``<name>__<first day>`` of its
own, under one view ``<name>`` over all of them. The run of a unit's first partition resets the unit, by ``DROP`` and
``CREATE`` or by ``TRUNCATE``, never by a row ``DELETE``; other runs append. Reset, rows and view are ONE transaction:
readers see the unit before or after, and a run that dies leaves everything as it was. Nothing is ever there twice.

The unit is what is replayed. A run that brings a partition again without the first of its unit is refused, with the
command that replays the unit, unless it brings all that the unit holds. When the first partition alone is replayed,
the others of its unit wait for theirs: they are named in a warning, and refused as an input until then. A range in one
run (``BackfillPolicy.single_run()``) replays a unit without that gap. The first partition loaded late, into a unit that
never had it, takes nothing away. An asset without partitions is one unit: the whole table.

A column that a later unit brings (``schema_evolution: add_columns``) is null in the view for the others, and may be
missing from a batch until ``unit_schema_asset`` brings it to all units. ``freezing_asset`` puts old units together
into months or years, whose partitions cannot be loaded again; 1,000 units are the most, with a warning from 800.

Limits: partitions are time windows, each inside one unit. The unit of a table with rows stays what it is. The batch is
held in memory. One process holds a DuckDB file at a time, readers included.

Shown by: ``warehouse/visits_by_week`` (daily).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import dagster as dg
import polars as pl

from pattern_platform.errors import FrozenUnitError, InexpressiblePartitionError, InvalidMetadataError, ReplayUnitError
from pattern_platform.lake.checks import listed
from pattern_platform.lake.lineage import replay_commands, replay_range_command
from pattern_platform.lake.partitions import in_order
from pattern_platform.lake.schema import column_schema, stored_schema
from pattern_platform.warehouse.io_manager import DuckDBIOManager, Load
from pattern_platform.warehouse.loads import WHOLE
from pattern_platform.warehouse.rows import types
from pattern_platform.warehouse.unit_calendar import FULL, Unit, frozen_name, grouped_by_unit, unit_of
from pattern_platform.warehouse.units import Units, optional

if TYPE_CHECKING:
    from collections.abc import Sequence


class FastMetadataCleanerIOManager(DuckDBIOManager):
    """Keep an asset in units that are reset whole.

    Args:
        database: Path of the DuckDB file. The last part of an asset key names the view, the part before it the schema.
        unit: What is reset and replayed together.
        method: How a unit is emptied: its table is dropped and made again, or truncated, which keeps the table itself.
    """

    unit: Unit = "week"
    method: Literal["drop", "truncate"] = "drop"

    def refuse_spec(self, spec: dg.AssetSpec) -> None:
        """Refuse an asset that could not be stored, by its declaration alone."""
        super().refuse_spec(spec)
        _refuse_untimed(spec.partitions_def, spec.key.to_user_string())

    def write(self, load: Load, value: object) -> dict[str, Any]:
        """Reset the units that start with this run, load its rows, swap the view."""
        _refuse_untimed(load.definition, load.asset)
        units = Units.of(load.connection, load.table, load.asset)
        before = units.columns()
        schema = units.schema(before)
        batch = _fitted(load, cast("pl.DataFrame", value), schema, optional(before))
        reset: list[str] = []
        plan = self._plan(load, units.loads.rows)
        for unit, (keys, is_reset) in plan.items():
            if is_reset:
                units.reset(unit, truncate=self.method == "truncate")
                reset.append(unit)
            rows = batch.filter(load.window(batch.schema, keys).rows) if load.keys is not None else batch
            units.load(unit, rows)
            units = _recorded(load, units, unit, keys, rows, is_reset=is_reset)
        touched = {unit: types(load.connection, units.sql(unit)) for unit in set(plan)}
        units.expose({**before, **touched})
        waiting = units.loads.dropped
        if waiting:
            load.log.warning("%s: these wait for their replay:\n%s", load.asset, replay_commands(load.asset, waiting))
        if units.warning:
            load.log.warning("%s: %s", load.asset, units.warning)
        return {
            "dagster/column_schema": column_schema({**schema, **batch.schema}),
            "dagster/row_count": int(units.loads.rows["rows"].sum()),
            "duckdb/rows_inserted": batch.height,
            "duckdb/units": len(units.names),
            "duckdb/units_reset": reset,
            "duckdb/partitions_to_replay": waiting,
        }

    def _plan(self, load: Load, loads: pl.DataFrame) -> dict[str, tuple[Sequence[str], bool]]:
        """The units of a run: which of its partitions they take, and whether they are reset before.

        Raises:
            FrozenUnitError: A partition is in a frozen unit.
            ReplayUnitError: A partition is there already, and the unit is not replayed from its first.
            InvalidMetadataError: A partition is there already, and the table was divided otherwise then.
        """
        if load.keys is None:
            _refuse_elsewhere(load.asset, loads, [WHOLE], FULL)
            return {FULL: ([WHOLE], True)}
        definition = cast("dg.TimeWindowPartitionsDefinition", load.definition)
        plan: dict[str, tuple[Sequence[str], bool]] = {}
        for unit, (keys, has_first) in grouped_by_unit(load.keys, definition, self.unit).items():
            _refuse_elsewhere(load.asset, loads, keys, unit)
            _refuse_divided_otherwise(load.asset, loads, unit, definition, self.unit)
            held = loads.filter(pl.col("unit") == unit, pl.col("rows").is_not_null())["partition"].to_list()
            again = [key for key in keys if key in held]
            whole = has_first or set(held) <= set(keys)
            if again and not whole:
                everything = in_order([*{*held, *keys}], definition)
                raise ReplayUnitError(
                    f"partition(s) {listed(again)} of {load.asset!r} were refused",
                    why=f"they are in the {self.unit} of {unit} already, which is replayed as a whole",
                    mend=f"replay the unit, in one run:\n{replay_range_command(load.asset, everything)}",
                )
            plan[unit] = (keys, bool(again) or unit not in set(loads["unit"]))
        return plan


def _recorded(load: Load, units: Units, unit: str, keys: Sequence[str], rows: pl.DataFrame, *, is_reset: bool) -> Units:
    """The units with what a run brought, and what a reset took away."""
    counted = load.counted(rows)
    told: dict[str, int | None] = {key: counted[key] for key in keys}
    if is_reset:
        held = units.loads.rows.filter(unit=unit)["partition"]
        told |= dict.fromkeys(key for key in held if key not in told)
    return replace(units, loads=units.loads.with_partitions(told, load.run_id, unit=unit))


def _fitted(load: Load, batch: pl.DataFrame, schema: pl.Schema, may_be_missing: set[str]) -> pl.DataFrame:
    """A batch with the columns and types of the units; columns that some unit does without may be missing."""
    stored_schema(pl.Schema({**batch.schema, **schema}))  # refuses names that differ in case alone, optional ones too
    left_out = may_be_missing - set(batch.columns)
    return load.fitted(batch, pl.Schema({c: t for c, t in schema.items() if c not in left_out}) or None)


# Refusals -----------------------------------------------------------------------------------------------------------


def _refuse_untimed(definition: dg.PartitionsDefinition | None, name: str) -> None:
    if definition is not None and not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        raise InvalidMetadataError(
            f"asset {name!r} was refused",
            why=f"{type(definition).__name__} has no days, and a unit is a number of days",
            mend="partition it by time windows, or not at all",
        )


def _refuse_elsewhere(asset: str, loads: pl.DataFrame, keys: Sequence[str], unit: str) -> None:
    """Refuse partitions that are, or would have been, in another table than their unit: they would be there twice."""
    units = set(loads["unit"])
    if frozen := [name for into in ("month", "year") if (name := frozen_name(unit, into)) in units]:
        raise FrozenUnitError(
            f"partition(s) {listed(keys)} of {asset!r} were refused",
            why=f"their unit was frozen into {frozen[0]!r}",
            mend="leave them as they are, or load the correction into a table of its own",
        )
    of_others = pl.col("partition").is_in(keys) | ((pl.col("unit") == FULL) != pl.lit(unit == FULL))
    elsewhere = loads.filter(of_others, pl.col("unit") != unit, pl.col("rows").is_not_null())
    if elsewhere.height:
        units_now = elsewhere["unit"].unique(maintain_order=True).to_list()
        raise _divided_otherwise(asset, keys, f"rows in {listed(units_now)}, not in {unit!r}")


def _refuse_divided_otherwise(
    asset: str, loads: pl.DataFrame, unit: str, definition: dg.TimeWindowPartitionsDefinition, length: Unit
) -> None:
    """Refuse a unit that holds what would not be its own now."""
    held = loads.filter(pl.col("unit") == unit, pl.col("rows").is_not_null())["partition"].to_list()
    if not held:
        return
    try:
        starts = {key: definition.time_window_for_partition_key(key).start for key in held}
        strange = [
            key
            for key, start in starts.items()
            if key not in (start.strftime(definition.fmt), start.strftime(definition.fmt + "%z"))  # twice on one clock
            or unit_of(key, definition, length)[0] != unit
        ]
    except (ValueError, InexpressiblePartitionError):
        strange = held  # no keys of these partitions
    if strange:
        raise _divided_otherwise(asset, strange, f"them in unit {unit!r}, where they would not be now")


def _divided_otherwise(asset: str, keys: Sequence[str], where: str) -> InvalidMetadataError:
    return InvalidMetadataError(
        f"partition(s) {listed(keys)} of {asset!r} were refused",
        why=f"the table was partitioned, or divided into units, otherwise: it holds {where}",
        mend="set partitions and unit back, or give the asset another key and load it anew",
    )
