"""The base of the IO managers on DuckDB: inputs, checks of the batch, one transaction, emitted metadata."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import dagster as dg
import polars as pl

from pattern_platform.errors import InvalidMetadataError
from pattern_platform.lake.checks import input_name, refuse_outside
from pattern_platform.lake.declarations import InputDeclaration, TableDeclaration, parse
from pattern_platform.lake.frames import from_lazy, to_lazy
from pattern_platform.lake.schema import casts_to, stored_schema
from pattern_platform.warehouse.database import connected, path_of, transaction
from pattern_platform.warehouse.inputs import Read, refuse_missing_partitions, window_for
from pattern_platform.warehouse.loads import WHOLE, Loads
from pattern_platform.warehouse.names import TableName, refuse_reserved

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    import duckdb

    from pattern_platform.lake.window import Window


@dataclass(frozen=True)
class Load:
    """A batch on its way into the tables of an asset, inside the transaction of its run.

    Args:
        connection: Inside the transaction.
        table: The table, or the view, that the asset's key names.
        asset: The asset, for messages and for the registry.
        declared: What the asset declares.
        keys: Partition keys of the run; None for an asset without partitions.
        definition: Partitions of the asset.
        run_id: The run.
        log: Where its warnings go.
    """

    connection: duckdb.DuckDBPyConnection
    table: TableName
    asset: str
    declared: TableDeclaration
    keys: Sequence[str] | None
    definition: dg.PartitionsDefinition | None
    run_id: str
    log: dg.DagsterLogManager

    @property
    def partitions(self) -> dg.PartitionsDefinition:
        """Partitions of an asset that is known to have some."""
        return cast("dg.PartitionsDefinition", self.definition)

    def window(self, schema: Mapping[str, pl.DataType], keys: Sequence[str] | None = None) -> Window:
        """The rows of the run's partitions, or of some of them."""
        return window_for(self.keys if keys is None else keys, self.definition, self.declared, schema)

    def fitted(self, batch: pl.DataFrame, table: pl.Schema | None) -> pl.DataFrame:
        """A batch with the columns and types of its table, which it makes where there is none, and its own rows alone.

        Raises:
            MissingColumnError: As of :func:`casts_to`, with what else it refuses.
            RowsOutsidePartitionError: As of :func:`refuse_outside`.
        """
        casts, _ = casts_to(table or stored_schema(batch.schema), batch.schema, self.declared.schema_evolution)
        batch = batch.select(casts)
        refuse_outside(batch.lazy(), self.window(batch.schema))
        return batch

    def counted(self, batch: pl.DataFrame) -> dict[str, int]:
        """Number of rows by partition."""
        if self.keys is None:
            return {WHOLE: batch.height}
        windows = {key: self.window(batch.schema, [key]) for key in self.keys}
        counts = batch.select(window.rows.sum().alias(key) for key, window in windows.items())
        return {key: int(counts[key][0] or 0) for key in windows}


class DuckDBIOManager(dg.ConfigurableIOManager):
    """Tables in a DuckDB file as assets.

    Args:
        database: Path of the DuckDB file. The last part of an asset key names the table, the part before it the schema.
    """

    database: str

    declaration: ClassVar[type[TableDeclaration]] = TableDeclaration
    input_declaration: ClassVar[type[InputDeclaration]] = InputDeclaration
    needs_partition_expr: ClassVar[bool] = True

    @abstractmethod
    def write(self, load: Load, value: object) -> Mapping[str, Any]:
        """Bring what an asset returned into its tables, and return metadata to emit."""

    def prepared(self, value: object) -> object:
        """What an asset returned, read before the file is held: a file has one holder at a time."""
        return to_lazy(value).collect(engine="streaming")

    def held(self, connection: duckdb.DuckDBPyConnection, key: dg.AssetKey) -> tuple[list[str], list[str]] | None:
        """The partitions that the table holds, and those that wait for their replay; None where there is no table."""
        table = TableName.of(connection, key)
        loads = Loads.of(connection, table, key.to_user_string())
        return (loads.held, loads.dropped) if loads.rows.height else None

    def refuse_spec(self, spec: dg.AssetSpec) -> None:
        """Refuse an asset that could not be stored, by its declaration alone."""
        path_of(self.database)
        refuse_reserved(spec.key)
        self.declared(spec.metadata, spec.key, partitioned=spec.partitions_def is not None)

    def declared(self, metadata: Mapping[str, object], key: dg.AssetKey, *, partitioned: bool) -> TableDeclaration:
        """What an asset declares.

        Raises:
            InvalidMetadataError: It is missing, mistyped, or of no meaning in DuckDB.
        """
        name = key.to_user_string()
        declared = parse(self.declaration, metadata, of=f"asset {name!r}")
        if declared.partition_by:
            raise InvalidMetadataError(
                f'metadata "partition_by" of asset {name!r} was refused',
                why="a table in DuckDB has no physical partitions",
                mend="leave it out",
            )
        if partitioned and self.needs_partition_expr and declared.partition_expr is None:
            raise InvalidMetadataError(
                f"asset {name!r} was refused",
                why="it is partitioned, and does not say which column holds the partition",
                mend='set its metadata "partition_expr" to the name of the column',
            )
        return declared

    # Writing ----------------------------------------------------------------------------------------------------------

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Write a batch in one transaction, and tell Dagster what became of it."""
        keys = list(context.asset_partition_keys) if context.has_asset_partitions else None
        name = context.asset_key.to_user_string()
        refuse_reserved(context.asset_key)
        declared = self.declared(context.definition_metadata, context.asset_key, partitioned=keys is not None)
        value = self.prepared(obj)
        with transaction(self.database) as connection:
            table = TableName.of(connection, context.asset_key)
            table.make_schema(connection)
            definition = context.asset_partitions_def if keys is not None else None
            load = Load(connection, table, name, declared, keys, definition, context.run_id, context.log)
            metadata = self.write(load, value)
        context.add_output_metadata(
            {
                "dagster/table_name": f"{table.schema}.{table.name}",
                "dagster/uri": str(path_of(self.database)),
                **metadata,
            }
        )

    # Reading ----------------------------------------------------------------------------------------------------------

    def load_input(self, context: dg.InputContext) -> object:
        """Load the mapped partitions of a table, as the kind of frame that the parameter asks for."""
        name = context.asset_key.to_user_string()
        declared = parse(self.input_declaration, context.definition_metadata, of=f"input {input_name(context)!r}")
        upstream = context.upstream_output.definition_metadata if context.upstream_output else {}
        declaration = parse(TableDeclaration, upstream, of=f"asset {name!r}")
        if declared.table_version is not None:
            raise InvalidMetadataError(
                f'metadata "table_version" of input {input_name(context)!r} was refused',
                why="DuckDB keeps no versions of a table",
                mend="leave it out, or store the asset in Delta Lake",
            )
        definition = context.asset_partitions_def if context.has_asset_partitions else None
        keys = list(context.asset_partition_keys) if definition else None
        with self._reading() as connection:
            held = self.held(connection, context.asset_key) if connection else None
            refuse_missing_partitions(context, keys, held, allow=declared.allow_missing_partitions)
            if connection is None or held is None:
                return self.nothing(context)
            table = TableName.of(connection, context.asset_key)
            return self.read(Read(connection, table, context, declared, declaration, keys, definition))

    def read(self, read: Read) -> object:
        """Load what an input asks for from the tables of an asset."""
        return self.as_asked(read.context, read.rows(read.table))

    def as_asked(self, context: dg.InputContext, rows: pl.DataFrame) -> object:
        """Rows as the kind of frame that the parameter asks for."""
        return from_lazy(rows.lazy(), context.dagster_type.typing_type)

    def nothing(self, context: dg.InputContext) -> object:
        """What an input gets of an asset that was never loaded."""
        return self.as_asked(context, pl.DataFrame())

    @contextmanager
    def _reading(self) -> Generator[duckdb.DuckDBPyConnection | None]:
        """The file, where there is one: a reader makes none."""
        if not path_of(self.database).exists():
            yield None
            return
        with connected(self.database) as connection:
            yield connection
