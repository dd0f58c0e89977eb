"""The base of the Delta IO managers: inputs, checks of the batch, emitted metadata.

A pattern says what a write does to the table (:meth:`DeltaIOManager.write`); everything that every write has in common
is here, in the order in which it happens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg
import polars as pl
from dagster_deltalake import AzureConfig, GcsConfig, LocalConfig, S3Config
from dagster_deltalake.config import ClientConfig
from deltalake.exceptions import DeltaError
from pydantic import Field

from pattern_platform.errors import (
    InvalidMetadataError,
    MissingPartitionsError,
    MissingTableError,
    SupersededPartitionsError,
)
from pattern_platform.lake.batch import batch_of
from pattern_platform.lake.checks import input_name, listed, refuse_layout, refuse_unknown_columns
from pattern_platform.lake.commit import checkpoint_if_due
from pattern_platform.lake.commit_notes import notes_of_output
from pattern_platform.lake.completeness import missing_partitions
from pattern_platform.lake.conditional_put import refuse_unconditional
from pattern_platform.lake.cost import meter
from pattern_platform.lake.declarations import InputDeclaration, TableDeclaration, parse
from pattern_platform.lake.lineage import replay_commands
from pattern_platform.lake.loading import loader_of
from pattern_platform.lake.location import location_of, options_of, refuse_around
from pattern_platform.lake.partitions import window_of
from pattern_platform.lake.schema import casts_to, column_schema, refuse_missing, stored_schema
from pattern_platform.lake.snapshot import open_table, open_version, refuse_unwritable
from pattern_platform.lake.spark.connect import SparkConnect
from pattern_platform.lake.window import Window
from pattern_platform.lake.write import Write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pattern_platform.lake.commit import Commit
    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.snapshot import Snapshot


class Durability(Enum):
    """When a write counts as done."""

    ENGINE = "engine"
    FSYNC = "fsync"


class DeltaIOManager(dg.ConfigurableIOManager):
    """Delta tables as assets. A table lives at ``<root_uri>/<asset key parts joined by />``.

    Args:
        root_uri: Folder of all tables, or the URI of one on an object store, such as ``s3://bucket/lake``.
        storage: Storage of the root, one of the config classes of ``dagster_deltalake``; secrets by ``EnvVar``.
        client_options: How an object store is asked: time limits, proxies, plain HTTP.
        table_properties: Delta table properties, brought in line on every write.
        durability: ``fsync`` syncs a commit and its files to the disk before the write is reported; ``engine`` leaves
            that to the operating system, as delta-rs does.
        engine: The Spark server that reads inputs annotated with a Spark frame, or with ``narwhals.LazyFrame``. What is
            written as a Spark frame is computed by that frame's own server.
    """

    root_uri: str
    storage: LocalConfig | S3Config | AzureConfig | GcsConfig = Field(default=LocalConfig(), discriminator="provider")
    client_options: ClientConfig | None = None
    table_properties: dict[str, str] = {}
    durability: Durability = Durability.ENGINE
    engine: SparkConnect | None = None

    declaration: ClassVar[type[TableDeclaration]] = TableDeclaration
    needs_partition_expr: ClassVar[bool] = True
    default_properties: ClassVar[dict[str, str]] = {}

    @property
    def properties(self) -> dict[str, str]:
        """The table properties, those of the pattern included."""
        return {**self.default_properties, **self.table_properties}

    @abstractmethod
    def write(self, write: Write) -> Sequence[Commit]:
        """Bring a batch into its table: one commit, or one for each partition of the run, in their order."""

    def superseded_partitions(self, snapshot: Snapshot, keys: Sequence[str]) -> list[str]:  # noqa: ARG002 - of a pattern
        """The partitions whose rows are not what their last run left; none, unless a pattern knows some."""
        return []

    def after_commit(self, context: dg.OutputContext, write: Write, commits: Sequence[Commit]) -> None:
        """What a pattern adds to a write, to its metadata and to its log, once it is part of the table."""

    def refuse_spec(self, spec: dg.AssetSpec) -> None:
        """Refuse an asset that this IO manager could not store, by its declaration alone.

        Raises:
            InvalidMetadataError: Metadata is missing, mistyped or contradicts the partitions.
            UnsafeAssetKeyError: As :meth:`table_path`.
        """
        self.table_path(spec.key)
        name = spec.key.to_user_string()
        declaration = parse(self.declaration, spec.metadata, of=f"asset {name!r}")
        if spec.partitions_def is None or (declaration.partition_expr is None and not self.needs_partition_expr):
            return
        if declaration.partition_expr is None:
            raise _without_partition_expr(name)
        multiple = isinstance(spec.partitions_def, dg.MultiPartitionsDefinition)
        if multiple == isinstance(declaration.partition_expr, str):
            raise InvalidMetadataError(
                f'metadata "partition_expr" of asset {name!r} was refused',
                why="an asset with several partition dimensions maps each to a column, any other names one column",
                mend=f"see {type(spec.partitions_def).__name__} of the asset, and declare its columns",
            )

    def table_path(self, key: dg.AssetKey) -> LakePath:
        """Directory of an asset's table.

        Raises:
            UnsafeAssetKeyError: A part of the key leaves the root, hides the table, or the table would be inside
                another table.
            UnsupportedStorageError: ``root_uri`` and ``storage`` are not of one kind.
        """
        return location_of(key, self.root_uri, options_of(self.storage, self.client_options))

    # Writing ----------------------------------------------------------------------------------------------------------

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Check a batch, write it, and tell Dagster what became of it."""
        table = self.table_path(context.asset_key)
        name = context.asset_key.to_user_string()
        declaration = parse(self.declaration, context.definition_metadata, of=f"asset {name!r}")
        refuse_unconditional(table)
        batch = batch_of(obj)
        snapshot = open_table(table)
        if snapshot:
            refuse_unwritable(snapshot)
        else:
            refuse_around(table, name)
        given = batch.schema
        refuse_missing(declaration.not_stored, given)
        stored = pl.Schema({c: t for c, t in given.items() if c not in declaration.not_stored})
        schema = snapshot.schema if snapshot else stored_schema(stored)
        casts, added = casts_to(schema, stored, declaration.schema_evolution)
        schema = pl.Schema({**schema, **added})
        refuse_layout(declaration, schema, snapshot, name)
        keys = _partition_keys(context)
        window = self._window(keys, context, declaration, schema, name)
        batch = batch.fitted(casts, schema, declaration.not_stored)
        write = Write(
            name=name,
            table=table,
            snapshot=snapshot,
            schema=schema,
            batch=batch,
            keys=keys,
            definition=context.asset_partitions_def if keys is not None else None,
            window=window,
            rows_are_checked=batch.checked(window),
            declaration=declaration,
            metadata={
                "asset": name,
                "run_id": context.run_id,
                "partition_keys": keys,
                **notes_of_output(context.output_metadata),
            },
        )
        commits = self.write(write)
        try:
            for commit in commits:
                checkpoint_if_due(commit)
        except (OSError, DeltaError) as error:
            # The commit is part of the table; a checkpoint is a cache that the next write makes again.
            context.log.warning("no checkpoint of %s: %s", name, error)
        columns = column_schema(schema, _declared_columns(context.definition_metadata))
        context.add_output_metadata(
            {
                "dagster/table_name": ".".join(context.asset_key.path),
                "dagster/uri": str(table),
                "dagster/column_schema": columns,
                **self.counted(write, commits),
                **meter.settle(commits),
            }
        )
        self.after_commit(context, write, commits)

    def counted(self, write: Write, commits: Sequence[Commit]) -> dict[str, Any]:
        """What the commits did, as metadata; over several it is added up."""
        rows: Counter[str] = Counter()
        for commit in commits:
            rows.update(commit.change_set.rows)
        metadata: dict[str, Any] = {
            "delta/version": commits[-1].version,
            **{f"delta/rows_{done}": count for done, count in rows.items()},
            "delta/files_added": sum(len(commit.change_set.add) for commit in commits),
            "delta/files_removed": sum(commit.change_set.remove.height for commit in commits),
        }
        if write.window.is_whole_table:
            metadata["dagster/row_count"] = commits[-1].rows
        elif len(write.window.pieces) == 1:
            metadata["dagster/partition_row_count"] = rows["inserted"]
        return metadata

    # Reading ----------------------------------------------------------------------------------------------------------

    def load_input(self, context: dg.InputContext) -> object:
        """Load exactly the mapped partitions of an upstream table, as the kind of frame the parameter asks for."""
        name = context.asset_key.to_user_string()
        table = self.table_path(context.asset_key)
        loader = loader_of(context.dagster_type.typing_type, self.engine, input_name(context))
        declared = parse(InputDeclaration, context.definition_metadata, of=f"input {input_name(context)!r}")
        upstream = context.upstream_output.definition_metadata if context.upstream_output else {}
        declaration = parse(self.declaration, upstream, of=f"asset {name!r}")
        snapshot = open_table(table) if declared.table_version is None else open_version(table, declared.table_version)
        keys = _partition_keys(context)
        if snapshot is None and keys == []:
            return loader.empty(pl.Schema())  # such as the day before the first
        if snapshot is None:
            missing = f"table {name!r} does not exist"
            if not declared.allow_missing_partitions:
                raise MissingTableError(
                    f"input {input_name(context)!r} was refused",
                    why=missing,
                    mend=f"materialize {name!r} first" + (f", partition(s) {listed(keys)}" if keys else ""),
                )
            context.log.warning("%s; the input is an empty frame without columns", missing)
            return loader.empty(pl.Schema())
        if keys == []:
            return loader.empty(snapshot.schema)
        if declared.table_version is None:
            self._refuse_superseded(context, snapshot, keys or [], allow=declared.allow_missing_partitions)
        window = self._window(keys, context, declaration, snapshot.schema, name)
        files = window.split(snapshot.files)
        if missing := missing_partitions(snapshot, window, files, keys):
            if not declared.allow_missing_partitions:
                raise MissingPartitionsError(
                    f"input {input_name(context)!r} was refused",
                    why=f"{len(missing)} of {len(window.pieces) or 1} partition(s) of {name!r} were never written: "
                    f"{listed(missing)}",
                    mend='materialize them first, or set the input metadata "allow_missing_partitions": True',
                )
            context.log.warning("%s has no partition(s) %s", name, listed(missing))
        meter.note_read(files)
        refuse_unknown_columns(declared.columns, snapshot.schema, input_name(context), name)
        return loader.rows(snapshot, window, files, declared.columns)

    def _refuse_superseded(
        self, context: dg.InputContext, snapshot: Snapshot, keys: Sequence[str], *, allow: bool
    ) -> None:
        name, superseded = context.asset_key.to_user_string(), self.superseded_partitions(snapshot, keys)
        if superseded and not allow:
            raise SupersededPartitionsError(
                f"input {input_name(context)!r} was refused",
                why=f"partition(s) {listed(superseded)} of {name!r} are superseded: an earlier one was replayed, and "
                "the table does not hold their changes now",
                mend=f"replay them in this order:\n{replay_commands(name, superseded)}",
            )
        if superseded:
            context.log.warning("%s: partition(s) %s are superseded", name, listed(superseded))

    def _window(
        self,
        keys: list[str] | None,
        context: dg.OutputContext | dg.InputContext,
        declaration: TableDeclaration,
        schema: pl.Schema,
        name: str,
    ) -> Window:
        if keys is None or (declaration.partition_expr is None and not self.needs_partition_expr):
            return Window()
        if declaration.partition_expr is None:
            raise _without_partition_expr(name)
        return window_of(keys, context.asset_partitions_def, declaration.partition_expr, schema)


def _without_partition_expr(name: str) -> InvalidMetadataError:
    return InvalidMetadataError(
        f"asset {name!r} was refused",
        why="it is partitioned, and does not say which column holds the partition",
        mend='set its metadata "partition_expr" to the name of the column',
    )


def _declared_columns(metadata: Mapping[str, object]) -> dg.TableSchema | None:
    declared = metadata.get("dagster/column_schema")
    declared = declared.value if isinstance(declared, dg.TableSchemaMetadataValue) else declared
    return declared if isinstance(declared, dg.TableSchema) else None


def _partition_keys(context: dg.OutputContext | dg.InputContext) -> list[str] | None:
    return list(context.asset_partition_keys) if context.has_asset_partitions else None
