"""Keyed Idempotency: the same record gets the same key whenever it is made, and a store that keeps one row a key.

Problem: a store without transactions over runs cannot tell a repeated write from a new one. A key that is drawn, or
made of what may still change, lets a replay write the same thing under another name.

Guarantee: the key is the SHA-256 of attributes that never change, the same in every process and on every machine; a
write is an upsert by it, one transaction a run. Any order, repetition and split of runs leaves the same keys and rows,
except for ``ingestion_time``, when a row was last written. ``key_columns`` make the key ``key_name``.

A run brings a partition whole. A key that the partition brought before and brings no more means that its source lost
what the key was made of, or that the key is made of something that changes: the run is refused before anything is
written (``lost_keys``: ``delete`` takes the correction over, ``keep`` leaves the old rows beside the new).

The key is ``sha256`` of the UTF-8 text of a JSON array without blanks, of the attributes as texts: times in UTC as
``2024-05-06T10:01:00.000000Z``, dates as ``2024-05-06``, integers in digits, flags as ``true`` and ``false``.

Limits: an attribute is never null and no float. The batch is held in memory. The store is DuckDB, Redis or PostgreSQL
by configuration, and keeps what all three keep exactly; Redis is as durable as it is set up, and what it loses, the
next replay brings back under the same keys. The variant for files is ``keyed_idempotency_files``.

Shown by: ``sessions`` (daily), with the key from the user and the first append time.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
from pydantic import Field

from pattern_platform.errors import (
    DuplicateKeyError,
    InvalidMetadataError,
    LostKeysError,
    NullKeyError,
    UnsupportedTypeError,
)
from pattern_platform.lake.checks import input_name, listed, refuse_outside, refuse_unknown_columns
from pattern_platform.lake.declarations import InputDeclaration, KeyedDeclaration, parse
from pattern_platform.lake.frames import from_lazy, to_lazy
from pattern_platform.lake.schema import casts_to, column_schema, refuse_missing
from pattern_platform.warehouse.inputs import refuse_missing_partitions, window_for
from pattern_platform.warehouse.keyed_store import PARTITION, DuckDBStore, KeyedTable, keyed_schema
from pattern_platform.warehouse.loads import WHOLE
from pattern_platform.warehouse.names import refuse_reserved
from pattern_platform.warehouse.postgres_store import PostgresStore
from pattern_platform.warehouse.redis_store import RedisStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INGESTION_TIME = "ingestion_time"


class KeyedIdempotencyIOManager(dg.ConfigurableIOManager):
    """Keep one row for each key of the attributes that an asset declares.

    Args:
        store: Where: a DuckDB file, Redis or PostgreSQL.
    """

    store: DuckDBStore | RedisStore | PostgresStore = Field(discriminator="kind")

    def refuse_spec(self, spec: dg.AssetSpec) -> None:
        """Refuse an asset that could not be stored, by its declaration alone."""
        refuse_reserved(spec.key)
        self.store.refuse()
        _declared(spec.metadata, spec.key.to_user_string(), partitioned=spec.partitions_def is not None)

    # Writing ----------------------------------------------------------------------------------------------------------

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Give each row its key, and upsert the rows of the run in one transaction."""
        name = context.asset_key.to_user_string()
        refuse_reserved(context.asset_key)
        keys = list(context.asset_partition_keys) if context.has_asset_partitions else None
        definition = context.asset_partitions_def if keys is not None else None
        declared = _declared(context.definition_metadata, name, partitioned=keys is not None)
        batch = to_lazy(obj).collect(engine="streaming")
        refuse_missing(declared.key_columns, batch.schema)
        _refuse_taken(batch.columns, declared, name)
        typed = pl.Schema({column: dtype for column, dtype in batch.schema.items() if dtype != pl.Null})
        batch = batch.with_columns(casts_to(keyed_schema(typed), typed, "strict")[0])
        refuse_outside(batch.lazy(), window_for(keys, definition, declared, batch.schema))
        windows = {key: window_for([key], definition, declared, batch.schema) for key in keys or ()}
        rows = batch.select(
            _key(batch, declared),
            pl.all(),
            pl.lit(datetime.now(UTC), dtype=pl.Datetime("us", "UTC")).alias(INGESTION_TIME),
            pl.coalesce(
                *(pl.when(window.rows).then(pl.lit(key)) for key, window in windows.items()), pl.lit(WHOLE)
            ).alias(PARTITION),
        )
        partitions = keys or [WHOLE]
        with self.store.opened(context.asset_key, declared.key_name, writing=True) as table:
            rows, lost = _prepared(rows, table, declared, partitions, name)
            counts = dict(rows.group_by(PARTITION).len().iter_rows())
            table.write(
                rows,
                delete=lost if declared.lost_keys == "delete" else [],
                counted={partition: counts.get(partition, 0) for partition in partitions},
                run_id=context.run_id,
            )
        if lost:
            context.log.warning("%s: %d key(s) are no longer in the source (%s)", name, len(lost), declared.lost_keys)
        context.add_output_metadata(
            {
                "dagster/table_name": ".".join(context.asset_key.path),
                "dagster/uri": self.store.uri,
                "dagster/column_schema": column_schema({c: t for c, t in rows.schema.items() if c != PARTITION}),
                "dagster/partition_row_count" if len(windows) == 1 else "keyed/rows_upserted": rows.height,
                "keyed/keys_lost": len(lost),
            }
        )

    # Reading ----------------------------------------------------------------------------------------------------------

    def load_input(self, context: dg.InputContext) -> object:
        """Load the rows that the mapped partitions wrote last, as the kind of frame that the parameter asks for."""
        name = context.asset_key.to_user_string()
        declared = parse(InputDeclaration, context.definition_metadata, of=f"input {input_name(context)!r}")
        if declared.table_version is not None:
            raise InvalidMetadataError(
                f'metadata "table_version" of input {input_name(context)!r} was refused',
                why="the store keeps no versions of a row",
                mend="leave it out",
            )
        upstream = context.upstream_output.definition_metadata if context.upstream_output else {}
        key_name = parse(KeyedDeclaration, upstream, of=f"asset {name!r}").key_name
        keys = list(context.asset_partition_keys) if context.has_asset_partitions else None
        with self.store.opened(context.asset_key, key_name, writing=False) as table:
            there = table.partitions
            refuse_missing_partitions(
                context, keys, (there, []) if there else None, allow=declared.allow_missing_partitions
            )
            rows = table.read(keys) if there else pl.DataFrame()
        if there:
            refuse_unknown_columns(declared.columns, rows.schema, input_name(context), name)
            rows = rows.select(declared.columns or pl.all())
        return from_lazy(rows.lazy(), context.dagster_type.typing_type)


def key_of(attributes: Sequence[str]) -> str:
    """The key of one record.

    Args:
        attributes: Its immutable attributes as texts, in the order in which they are declared.
    """
    return sha256(json.dumps(list(attributes), ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def _prepared(
    rows: pl.DataFrame, table: KeyedTable, declared: KeyedDeclaration, partitions: Sequence[str], name: str
) -> tuple[pl.DataFrame, list[str]]:
    """The rows as the store keeps them, and the keys that the partitions brought before and bring no more.

    Raises:
        LostKeysError: There are such keys, and the asset refuses that.
    """
    given = rows.drop(PARTITION)
    casts, _ = casts_to(table.schema or keyed_schema(given.schema), given.schema, declared.schema_evolution)
    keyed_schema(given.select(casts).schema)
    lost = sorted(table.keys(partitions) - set(rows[declared.key_name]))
    if lost and declared.lost_keys == "refuse":
        raise LostKeysError(
            f"partition(s) {listed(partitions)} of {name!r} were refused",
            why=f"they no longer bring {len(lost)} key(s) that they brought: the source no longer contains the first "
            f"record of each, or {listed(declared.key_columns)} changed",
            mend='bring the source back; or, to take it as a correction, set the asset metadata "lost_keys": "delete"',
        )
    return rows.select(*casts, PARTITION), lost


# The key --------------------------------------------------------------------------------------------------------------


def _key(batch: pl.DataFrame, declared: KeyedDeclaration) -> pl.Series:
    """The keys of a batch, each there once.

    Raises:
        NullKeyError: An attribute is null.
        DuplicateKeyError: Two rows have the same key.
    """
    texts = batch.select(_text(column, batch.schema[column]) for column in declared.key_columns)
    if nulls := [column for column in texts.columns if texts[column].null_count()]:
        raise NullKeyError(
            f"rows without {listed(nulls)} were refused",
            why="the key is made of it",
            mend="drop these rows in the asset, or make the key of other columns",
        )
    keys = pl.Series(declared.key_name, [key_of(row) for row in texts.iter_rows()], dtype=pl.String)
    if duplicated := int(keys.is_duplicated().sum()):
        raise DuplicateKeyError(
            f"{duplicated} row(s) were refused",
            why=f"they have the same {listed(declared.key_columns)} as another, and one row would replace the other",
            mend="bring one row a key, or add the column that tells them apart to key_columns",
        )
    return keys


def _text(column: str, dtype: pl.DataType) -> pl.Expr:
    """An attribute as text, the same for equal values whatever their unit, width or zone."""
    value = pl.col(column)
    if isinstance(dtype, pl.Datetime):
        utc = value.dt.convert_time_zone("UTC") if dtype.time_zone else value
        return utc.dt.cast_time_unit("us").dt.strftime("%Y-%m-%dT%H:%M:%S%.6f" + ("Z" if dtype.time_zone else ""))
    if isinstance(dtype, pl.Boolean):
        return pl.when(value).then(pl.lit("true")).when(~value).then(pl.lit("false")).alias(column)
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum | pl.Date) or dtype.is_integer():
        return value.cast(pl.String)
    raise UnsupportedTypeError(
        f"column {column!r} of type {dtype} was refused as part of a key",
        why="equal values of it may have different texts, and so different keys",
        mend="make the key of texts, integers, dates, times and flags",
    )


# Refusals -------------------------------------------------------------------------------------------------------------


def _declared(metadata: Mapping[str, object], name: str, *, partitioned: bool) -> KeyedDeclaration:
    declared = parse(KeyedDeclaration, metadata, of=f"asset {name!r}")
    if declared.key_name.lower() in ("", INGESTION_TIME, PARTITION) or declared.key_name in declared.key_columns:
        raise InvalidMetadataError(
            f'metadata "key_name" of asset {name!r} was refused',
            why=f"{declared.key_name!r} is empty, or the name of another column",
            mend="name the column of the key otherwise",
        )
    if partitioned and declared.partition_expr is None:
        raise InvalidMetadataError(
            f"asset {name!r} was refused",
            why="it is partitioned, and does not say which column holds the partition",
            mend='set its metadata "partition_expr" to the name of the column',
        )
    return declared


def _refuse_taken(columns: Sequence[str], declared: KeyedDeclaration, name: str) -> None:
    taken = {declared.key_name.lower(), INGESTION_TIME, PARTITION}
    if found := [column for column in columns if column.lower() in taken]:
        raise InvalidMetadataError(
            f"column(s) {listed(found)} of asset {name!r} were refused",
            why="the key, the time of the write and the partition are kept under these names",
            mend="rename them in the asset",
        )
