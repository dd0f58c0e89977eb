"""What an input asks for of a table in the warehouse, and when it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pattern_platform.errors import MissingPartitionsError, MissingTableError, SupersededPartitionsError
from pattern_platform.lake.checks import input_name, listed, refuse_unknown_columns
from pattern_platform.lake.lineage import replay_commands
from pattern_platform.lake.partitions import window_of
from pattern_platform.lake.window import Window
from pattern_platform.warehouse.rows import select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import dagster as dg
    import duckdb
    import polars as pl

    from pattern_platform.lake.declarations import InputDeclaration, TableDeclaration
    from pattern_platform.warehouse.names import TableName


@dataclass(frozen=True)
class Read:
    """What an input asks for.

    Args:
        connection: Open.
        table: The table, or the view, that the key of the upstream asset names.
        context: The input.
        declared: What the asset declares about it.
        declaration: What the upstream asset declares.
        keys: The mapped partitions; None where the upstream asset has none.
        definition: Partitions of the upstream asset.
    """

    connection: duckdb.DuckDBPyConnection
    table: TableName
    context: dg.InputContext
    declared: InputDeclaration
    declaration: TableDeclaration
    keys: Sequence[str] | None
    definition: dg.PartitionsDefinition | None

    def rows(self, table: TableName) -> pl.DataFrame:
        """The rows of the mapped partitions in one of the tables.

        Raises:
            InvalidMetadataError: The projection names a column that it does not have.
        """
        schema = self.connection.table(table.sql()).limit(0).pl().schema
        refuse_unknown_columns(
            self.declared.columns, schema, input_name(self.context), self.context.asset_key.to_user_string()
        )
        window = window_for(self.keys, self.definition, self.declaration, schema)
        return select(self.connection, table.sql(), window, self.declared.columns or schema.names())


def window_for(
    keys: Sequence[str] | None,
    definition: dg.PartitionsDefinition | None,
    declared: TableDeclaration,
    schema: Mapping[str, pl.DataType],
) -> Window:
    """The rows of some partitions; of the whole table where there are none, or no column holds them."""
    if keys is None or definition is None or declared.partition_expr is None:
        return Window()
    return window_of(keys, definition, declared.partition_expr, schema)


def refuse_missing_partitions(
    context: dg.InputContext,
    keys: Sequence[str] | None,
    held: tuple[list[str], list[str]] | None,
    *,
    allow: bool,
) -> None:
    """Refuse an input whose partitions are not there, or wait for their replay.

    Args:
        context: The input.
        keys: The mapped partitions; None where the upstream asset has none.
        held: The partitions that are there, and those that wait; None where there is no table.
        allow: Whether it is only a warning.

    Raises:
        MissingPartitionsError: Some were never loaded.
        MissingTableError: There is nothing at all.
        SupersededPartitionsError: Some wait for their replay.
    """
    name = context.asset_key.to_user_string()
    there, waiting = (set(partitions) for partitions in held or ((), ()))
    if stale := [key for key in keys or () if key in waiting]:
        if not allow:
            raise SupersededPartitionsError(
                f"input {input_name(context)!r} was refused",
                why=f"partition(s) {listed(stale)} of {name!r} are superseded, and wait for their replay",
                mend=f"replay them in this order:\n{replay_commands(name, stale)}",
            )
        context.log.warning("%s: partition(s) %s are superseded", name, listed(stale))
    missing = [key for key in keys or () if key not in there | waiting]
    if missing or (keys is None and held is None):
        why = f"partition(s) {listed(missing)} of {name!r} were never loaded" if missing else f"no table {name!r}"
        if not allow:
            raise (MissingPartitionsError if held else MissingTableError)(
                f"input {input_name(context)!r} was refused",
                why=why,
                mend='materialize them first, or set the input metadata "allow_missing_partitions": True',
            )
        context.log.warning("%s", why)
