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
from typing import TYPE_CHECKING, Any, ClassVar, cast

import polars as pl

from pattern_platform.errors import InvalidMetadataError
from pattern_platform.lake.changes import changes_of, refuse_declaration
from pattern_platform.lake.checks import listed, refuse_outside
from pattern_platform.lake.declarations import StatefulMergerDeclaration, TableDeclaration
from pattern_platform.lake.lineage import Lineage, refuse_reordered, refuse_superseded, refuse_undivided
from pattern_platform.lake.partitions import in_order, keys_between, position_of, refuse_unordered
from pattern_platform.lake.schema import casts_to, column_schema, refuse_missing, stored_schema
from pattern_platform.warehouse.history import (
    DELETED,
    PARTITION,
    POSITION,
    HistoryTables,
    extended,
    refuse_columns,
)
from pattern_platform.warehouse.io_manager import DuckDBIOManager, Load
from pattern_platform.warehouse.names import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    import dagster as dg
    import duckdb


class HistoryMergerIOManager(DuckDBIOManager):
    """Merge by ``merge_keys`` in DuckDB, and rebuild the past from the history. Metadata as of the stateful merger.

    Args:
        database: Path of the DuckDB file. The last part of an asset key names the table, the part before it the schema.
    """

    declaration: ClassVar[type[TableDeclaration]] = StatefulMergerDeclaration
    needs_partition_expr: ClassVar[bool] = False

    def refuse_spec(self, spec: dg.AssetSpec) -> None:
        """Refuse an asset that could not be stored, by its declaration alone."""
        super().refuse_spec(spec)
        refuse_unordered(spec.partitions_def)

    def declared(self, metadata: Mapping[str, object], key: dg.AssetKey, *, partitioned: bool) -> TableDeclaration:
        """What an asset declares; nothing that only means something where there are versions."""
        declared = super().declared(metadata, key, partitioned=partitioned)
        if isinstance(declared, StatefulMergerDeclaration) and declared.foreign_commits == "accept":
            raise InvalidMetadataError(
                f'metadata "foreign_commits" of asset {key.to_user_string()!r} was refused',
                why="the state is always rebuilt from the history",
                mend="leave it out",
            )
        return declared

    def held(self, connection: duckdb.DuckDBPyConnection, key: dg.AssetKey) -> tuple[list[str], list[str]] | None:
        """The partitions that the state holds, and those that are superseded."""
        lineage = HistoryTables.of(connection, key).lineage()
        superseded = [record.partition for record in lineage.superseded]
        return ([p for p in lineage.records if p not in superseded], superseded) if lineage.records else None

    def write(self, load: Load, value: object) -> dict[str, Any]:
        """Merge the partitions of a run in their order, all or none of them."""
        refuse_unordered(load.definition)
        batch = cast("pl.DataFrame", value)
        refuse_columns(load.asset, batch.columns)
        rows: Counter[str] = Counter()
        tables = HistoryTables(load.connection, load.asset, load.table)
        lineage = _merge(load, tables, batch, rows)
        superseded = [record.partition for record in lineage.superseded]
        if superseded:
            load.log.warning("%s: superseded until replayed: %s", tables.asset, listed(superseded))
        return {
            "dagster/row_count": len(load.connection.table(tables.state)),
            "dagster/column_schema": column_schema(tables.schema),
            "duckdb/version": lineage.version,
            "duckdb/superseded_partitions": superseded,
            **rows,
        }


# The merge ----------------------------------------------------------------------------------------------------------


def _merge(load: Load, tables: HistoryTables, batch: pl.DataFrame, rows: Counter[str]) -> Lineage:
    """Bring a batch into the history, partition by partition, and the state up to the last of them."""
    definition, declared = load.partitions, cast("StatefulMergerDeclaration", load.declared)
    keys = in_order(load.keys or (), definition)
    lineage = tables.lineage()
    if lineage.records:
        tables.refuse_other_keys(declared.merge_keys)
    batch = _fitted(batch, tables.schema if lineage.records else None, declared, tables.asset)
    window = load.window(batch.schema)
    refuse_undivided(tables.asset, keys, window)
    refuse_outside(batch.lazy(), window)
    for key in keys:
        position = position_of(key, definition)
        refuse_reordered(tables.asset, lineage, definition, key)
        refuse_superseded(tables.asset, key, lineage, position)
        earlier = lineage.before(position)
        if hole := keys_between(earlier[-1].position if earlier else None, key, definition):
            load.log.warning("%s: partition(s) %s missing, never merged", tables.asset, listed(hole))
        changes, bad = changes_of(batch.filter(load.window(batch.schema, [key]).rows), declared)
        tables.replace_changes(key, position, changes)
        if declared.bad_rows == "quarantine":
            tables.set_aside(key, load.run_id, bad)
        lineage = extended(lineage, key, position, load.run_id)
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
