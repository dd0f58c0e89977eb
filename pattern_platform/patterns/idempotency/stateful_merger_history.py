"""Stateful Merger for a store without versions: the state is rebuilt from the history of all changes.

Problem: a merge that is replayed must start from the table as the run before it left it (see ``stateful_merger``), and
a store such as DuckDB cannot restore an earlier version of a table.

Guarantee: ``<name>__history`` keeps every change by its partition. A run replaces the changes of its own partition and
rebuilds ``<name>``, the state, from those of all partitions up to it, in their order, in ONE transaction: no reader
sees anything between, and a run that dies leaves everything as it was. The state is the one that ``stateful_merger``
holds after the same runs: a rerun drops the rows that the corrected batch no longer has, deleted rows stay deleted,
with ``sequence_by`` a row outlasts older changes. ``<name>__versions`` tells which partitions the state holds: those
after the partition of the last run are ``superseded``. Their changes stay in the history and count again once they are
replayed; what comes after a superseded partition is refused until then. A hole is a warning.

Limits: rebuilding costs more with every change in the history, about a second for a million on two cores: that is the
price of a store without versions. The batch is held in memory. ``merge_keys`` stay as they are. What others change in
the state is gone with the next run: the history decides. One process holds a DuckDB file at a time, readers included.

Shown by: ``serving/devices`` (daily).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from pattern_platform.errors import (
    InvalidMetadataError,
    MissingPartitionsError,
    MissingTableError,
    SupersededPartitionsError,
)
from pattern_platform.lake.changes import changes_of, refuse_declaration
from pattern_platform.lake.checks import listed, refuse_outside
from pattern_platform.lake.declarations import InputDeclaration, StatefulMergerDeclaration, TableDeclaration, parse
from pattern_platform.lake.frames import from_lazy, to_lazy
from pattern_platform.lake.lineage import (
    Lineage,
    refuse_reordered,
    refuse_superseded,
    refuse_undivided,
    replay_commands,
)
from pattern_platform.lake.partitions import in_order, keys_between, position_of, refuse_unordered, window_of
from pattern_platform.lake.schema import casts_to, column_schema, refuse_missing, stored_schema
from pattern_platform.lake.window import Window
from pattern_platform.warehouse.database import connected, path_of, quoted, transaction
from pattern_platform.warehouse.history import (
    DELETED,
    PARTITION,
    POSITION,
    HistoryTables,
    extended,
    refuse_names,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class HistoryMergerIOManager(dg.ConfigurableIOManager):
    """Merge by ``merge_keys`` in DuckDB, and rebuild the past from the history. Metadata as of the stateful merger.

    Args:
        database: Path of the DuckDB file. The last part of an asset key names the table, the part before it the schema.
    """

    database: str

    def refuse_spec(self, spec: dg.AssetSpec) -> None:
        """Refuse an asset that could not be stored, by its declaration alone."""
        path_of(self.database)
        refuse_unordered(spec.partitions_def)
        _declared(spec.metadata, spec.key)

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Merge the partitions of a run in their order, all or none of them, and tell Dagster what became of them."""
        declared = _declared(context.definition_metadata, context.asset_key)
        refuse_unordered(context.asset_partitions_def if context.has_asset_partitions else None)
        batch = to_lazy(obj).collect(engine="streaming")  # before the file is held
        refuse_names(context.asset_key, batch.columns)
        rows: Counter[str] = Counter()
        with transaction(self.database) as connection:
            tables = HistoryTables.of(connection, context.asset_key)
            tables.table.make_schema(connection)
            lineage = _merge(context, tables, declared, batch, rows)
            schema = tables.schema
            rows["dagster/row_count"] = len(connection.table(tables.state))
        superseded = [record.partition for record in lineage.superseded]
        if superseded:
            context.log.warning("%s: superseded until replayed: %s", tables.asset, listed(superseded))
        context.add_output_metadata(
            {
                "dagster/table_name": f"{tables.table.schema}.{tables.table.name}",
                "dagster/uri": str(path_of(self.database)),
                "dagster/column_schema": column_schema(schema),
                "duckdb/version": lineage.version,
                "duckdb/superseded_partitions": superseded,
                **rows,
            }
        )

    def load_input(self, context: dg.InputContext) -> object:
        """Load the state, or its mapped partitions where a column holds them, as the kind of frame asked for."""
        name = context.asset_key.to_user_string()
        declared = parse(InputDeclaration, context.definition_metadata, of=f"input {context.name!r}")
        upstream = context.upstream_output.definition_metadata if context.upstream_output else {}
        declaration = parse(TableDeclaration, upstream, of=f"asset {name!r}")
        if declared.table_version is not None:
            raise InvalidMetadataError(
                f'metadata "table_version" of input {context.name!r} was refused',
                why="DuckDB keeps no versions of a table",
                mend="leave it out, or store the asset with the stateful merger of Delta Lake",
            )
        definition = context.asset_partitions_def if context.has_asset_partitions else None
        keys = list(context.asset_partition_keys) if definition else []
        state, lineage = self._state(context.asset_key)
        missing = [key for key in keys if key not in lineage.records]
        if missing or not (lineage.records or definition):
            why = f"partition(s) {listed(missing)} of {name!r} were never merged" if missing else f"no table {name!r}"
            if not declared.allow_missing_partitions:
                raise (MissingPartitionsError if lineage.records else MissingTableError)(
                    f"input {context.name!r} was refused",
                    why=why,
                    mend='materialize them first, or set the input metadata "allow_missing_partitions": True',
                )
            context.log.warning("%s", why)
        if stale := [record.partition for record in lineage.superseded if record.partition in set(keys)]:
            if not declared.allow_missing_partitions:
                raise SupersededPartitionsError(
                    f"input {context.name!r} was refused",
                    why=f"partition(s) {listed(stale)} of {name!r} are superseded",
                    mend=f"replay them in this order:\n{replay_commands(name, stale)}",
                )
            context.log.warning("%s: partition(s) %s are superseded", name, listed(stale))
        if lineage.records:
            state = state.filter(_window(keys, definition, declaration, state.schema).rows)
            if unknown := [c for c in declared.columns or () if c not in state.columns]:
                raise InvalidMetadataError(
                    f'metadata "columns" of input {context.name!r} was refused',
                    why=f"{name!r} has no column(s) {listed(unknown)}; it has {', '.join(state.columns)}",
                    mend="name columns of the table",
                )
            state = state.select(declared.columns or pl.all())
        return from_lazy(state.lazy(), context.dagster_type.typing_type)

    def _state(self, key: dg.AssetKey) -> tuple[pl.DataFrame, Lineage]:
        """The state and what it holds; nothing of a file that does not exist, for a reader makes none."""
        if path_of(self.database).exists():
            with connected(self.database) as connection:
                tables = HistoryTables.of(connection, key)
                if (lineage := tables.lineage()).records:
                    return connection.table(tables.state).pl(), lineage
        return pl.DataFrame(), Lineage()


# The merge ----------------------------------------------------------------------------------------------------------


def _merge(
    context: dg.OutputContext,
    tables: HistoryTables,
    declared: StatefulMergerDeclaration,
    batch: pl.DataFrame,
    rows: Counter[str],
) -> Lineage:
    """Bring a batch into the history, partition by partition, and the state up to the last of them."""
    definition = context.asset_partitions_def
    keys = in_order(context.asset_partition_keys, definition)
    lineage = tables.lineage()
    if lineage.records:
        tables.refuse_other_keys(declared.merge_keys)
    batch = _fitted(batch, tables.schema if lineage.records else None, declared, tables.asset)
    window = _window(keys, definition, declared, batch.schema)
    refuse_undivided(tables.asset, keys, window)
    refuse_outside(batch.lazy(), window)
    for key in keys:
        position = position_of(key, definition)
        refuse_reordered(tables.asset, lineage, definition, key)
        refuse_superseded(tables.asset, key, lineage, position)
        earlier = lineage.before(position)
        if hole := keys_between(earlier[-1].position if earlier else None, key, definition):
            context.log.warning("%s: partition(s) %s missing, never merged", tables.asset, listed(hole))
        changes, bad = changes_of(batch.filter(_window([key], definition, declared, batch.schema).rows), declared)
        tables.replace_changes(key, position, changes)
        if declared.bad_rows == "quarantine":
            tables.set_aside(key, context.run_id, bad)
        lineage = extended(lineage, key, position, context.run_id)
        done = {"upserted": changes.upserts, "deleted": changes.deletes, "quarantined": bad}
        rows.update({f"duckdb/rows_{what}": frame.height for what, frame in done.items()})
        rows["duckdb/rows_dropped_duplicates"] += changes.dropped_duplicates
    _rebuild(tables, declared, keys[-1], position_of(keys[-1], definition))
    tables.write_versions(lineage, declared.merge_keys)
    return lineage


def _rebuild(tables: HistoryTables, declared: StatefulMergerDeclaration, key: str, position: str) -> None:
    """Make the state of what holds of each key after all partitions up to one.

    Merged one after the other, a row gives way to the next change that is not older, and a deleted key forgets its
    sequence. So only those changes last after which none is as new, each older than the one before. The first holds,
    unless it is a delete: then the next, and so on. Without a sequence the last change is the only one.
    """
    by = ", ".join(map(quoted, declared.merge_keys))
    order = f"{POSITION}, {PARTITION}"
    sequence = quoted(declared.sequence_by or POSITION)
    tables.connection.execute(
        f"""
        CREATE OR REPLACE TABLE {tables.state} AS
        WITH lasting AS (
            SELECT * FROM {tables.history}
            WHERE {POSITION} < $position OR {PARTITION} = $key
            WINDOW later AS (PARTITION BY {by} ORDER BY {order} ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)
            QUALIFY coalesce({sequence} > max({sequence}) OVER later, count(*) OVER later = 0)
        )
        SELECT {", ".join(map(quoted, tables.schema))} FROM lasting WHERE NOT {DELETED}
        QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY {order}) = 1
        """,  # noqa: S608 - names are quoted, values are parameters
        {"key": key, "position": position},
    )


def _fitted(
    batch: pl.DataFrame, table: pl.Schema | None, declared: StatefulMergerDeclaration, name: str
) -> pl.DataFrame:
    """A batch with the columns and types of its table, which it makes where there is none, and the deletion flag."""
    refuse_missing(declared.not_stored, batch.schema)
    given = pl.Schema({c: t for c, t in batch.schema.items() if c not in declared.not_stored})
    casts, _ = casts_to(table or stored_schema(given), given, declared.schema_evolution)
    refuse_declaration(declared, batch.schema, name)
    return batch.select(*casts, *declared.not_stored)


def _window(
    keys: Sequence[str], definition: dg.PartitionsDefinition | None, declared: TableDeclaration, schema: pl.Schema
) -> Window:
    if definition is None or declared.partition_expr is None:
        return Window()
    return window_of(keys, definition, declared.partition_expr, schema)


# Refusals -----------------------------------------------------------------------------------------------------------


def _declared(metadata: Mapping[str, object], key: dg.AssetKey) -> StatefulMergerDeclaration:
    refuse_names(key)
    declared = parse(StatefulMergerDeclaration, metadata, of=f"asset {key.to_user_string()!r}")
    if declared.partition_by or declared.foreign_commits == "accept":
        raise InvalidMetadataError(
            f'metadata "partition_by" or "foreign_commits" of asset {key.to_user_string()!r} was refused',
            why="a table in DuckDB has no physical partitions, and its state is always rebuilt from the history",
            mend="leave them out",
        )
    return declared
