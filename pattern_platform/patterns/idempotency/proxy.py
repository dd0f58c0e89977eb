"""Proxy: every full load is a new table that never changes, behind one name that is moved.

Problem: a table that is replaced by every load has no yesterday. A load that turns out wrong is what everybody reads,
and what they read before is gone.

Guarantee: a run writes its load as a NEW Delta table ``<asset>/<run id>``, in one commit, append-only, its files made
read-only; no writer of the platform takes it again, and the same run repeated finds it and leaves it. Consumers know
one name, a DuckDB view over the Parquet files of one version. Write, audit, publish: the load is registered, its
``audit_check`` look at the version that nobody sees yet, and ``publication_asset`` moves the view in one transaction to
a version that passed them all. A publication that fails is repeated alone, and publishes the same version; a load that
fails leaves the view where it was. Any earlier version is read by its number (``table_version``) or by the time at
which it was shown (``as_of``); rolling back moves the view, and is recorded. ``retention_asset`` removes old versions,
never one that is shown, or under a legal hold.

Readers without views read the manifest ``<view>/_symlink_format_manifest/manifest``: the files of the shown version, a
line each. It follows the view, and is mended by the next publication where a run died in between.

As an input the view's asset is what is shown; the loading asset is what was loaded last, for audits.

Limits: a version costs a whole copy of the data; ``proxy_native`` shows versions of one table instead. A load has no
partitions. Root ignores read-only files. The view names files by their path: the root stays where it is.

Shown by: ``internal/device_catalogue`` and ``published/device_catalogue``.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from dagster_deltalake import AzureConfig, GcsConfig, LocalConfig, S3Config
from pydantic import Field

from pattern_platform.errors import InvalidMetadataError, MissingTableError
from pattern_platform.lake.checks import input_name, refuse_unknown_columns
from pattern_platform.lake.declarations import ProxyInputDeclaration, parse
from pattern_platform.lake.frames import from_lazy, to_lazy
from pattern_platform.lake.immutable import write_once
from pattern_platform.lake.location import location_of, refuse_around, unsupported_storage
from pattern_platform.lake.schema import casts_to, column_schema, stored_schema
from pattern_platform.lake.window import Window
from pattern_platform.warehouse.database import connected, path_of, transaction
from pattern_platform.warehouse.names import refuse_reserved
from pattern_platform.warehouse.publications import Publications
from pattern_platform.warehouse.versions import Versions, snapshot_of

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb


class ProxyIOManager(dg.ConfigurableIOManager):
    """Keep every load as a table of its own, and load what a view shows.

    Args:
        root_uri: Folder of all tables.
        database: Path of the DuckDB file of the views. The last part of an asset key names the view, the part before
            it the schema.
        storage: Storage of the root, one of the config classes of ``dagster_deltalake``.
    """

    root_uri: str
    database: str
    storage: LocalConfig | S3Config | AzureConfig | GcsConfig = Field(default=LocalConfig(), discriminator="provider")

    def folder_of(self, key: dg.AssetKey) -> Path:
        """Folder of an asset's tables, or of a view's manifest.

        Raises:
            UnsafeAssetKeyError: As of :func:`location_of`.
            UnsupportedStorageError: The root is on an object store.
        """
        if not isinstance(self.storage, LocalConfig):
            raise unsupported_storage(self.root_uri, self.storage.provider)
        return location_of(key, self.root_uri)

    def refuse_spec(self, spec: dg.AssetSpec) -> None:
        """Refuse an asset that could not be stored, by its declaration alone."""
        path_of(self.database)
        self.folder_of(spec.key)
        refuse_reserved(spec.key)
        if spec.partitions_def is not None:
            raise _partitioned(spec.key)

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Write a load as a table of its own, and register it. Nobody sees it before it is published."""
        if context.has_asset_partitions:
            raise _partitioned(context.asset_key)
        refuse_reserved(context.asset_key)
        name, folder = context.asset_key.to_user_string(), self.folder_of(context.asset_key)
        refuse_table(folder, name)
        rows = to_lazy(obj)
        given = rows.collect_schema()
        casts, _ = casts_to(stored_schema(given), given, "strict")
        metadata = {"pattern": "proxy", "asset": name, "run_id": context.run_id}
        snapshot = write_once(rows.select(casts), folder / context.run_id, metadata=metadata)
        count = int(snapshot.files["num_records"].sum())
        with transaction(self.database) as connection:
            versions = Versions.of(connection, context.asset_key).registered(snapshot, context.run_id, rows=count)
            versions.write(connection)
        (version,) = versions.rows.filter(uri=str(snapshot.table))["version"]
        context.add_output_metadata(
            {
                "dagster/row_count": count,
                "dagster/uri": str(snapshot.table),
                "dagster/column_schema": column_schema(snapshot.schema),
                "proxy/version": version,
            }
        )

    def load_input(self, context: dg.InputContext) -> object:
        """Load what a view shows, or what was loaded last where the asset is no view."""
        name = context.asset_key.to_user_string()
        declared = parse(ProxyInputDeclaration, context.definition_metadata, of=f"input {input_name(context)!r}")
        if not path_of(self.database).exists():
            raise _nothing(input_name(context), name)
        with connected(self.database) as connection:
            snapshot = snapshot_of(_version(connection, context, declared))
        refuse_unknown_columns(declared.columns, snapshot.schema, input_name(context), name)
        rows = snapshot.scan(Window()).select(declared.columns or pl.all())
        return from_lazy(rows, context.dagster_type.typing_type)


def _version(
    connection: duckdb.DuckDBPyConnection, context: dg.InputContext, declared: ProxyInputDeclaration
) -> dict[str, Any]:
    """The version that an input asks for, as a row of its registry.

    Raises:
        MissingTableError: Nothing was loaded, or nothing published, by then.
    """
    name, at = context.asset_key.to_user_string(), datetime.fromisoformat(declared.as_of) if declared.as_of else None
    publications = Publications.of(connection, context.asset_key)
    if publications.rows.is_empty():
        versions = Versions.of(connection, context.asset_key)
        found = versions.newest(at)
    else:
        found = publications.current(at)
        versions = Versions.of(connection, dg.AssetKey.from_user_string(publications.rows["asset"][-1]))
    if declared.table_version is not None:
        return versions.get(declared.table_version)
    if found is None:
        raise _nothing(input_name(context), name)
    return versions.get(found["version"])


def refuse_table(folder: Path, name: str) -> None:
    """Refuse a folder that is a table itself, or holds tables of other assets deeper inside.

    Raises:
        UnsafeAssetKeyError: As of :func:`refuse_around`.
        InvalidMetadataError: It is a table.
    """
    if (folder / "_delta_log").exists():
        raise InvalidMetadataError(
            f"asset {name!r} was refused",
            why="there is a table in its folder, which another IO manager wrote",
            mend="give the asset another key, or move the table away",
        )
    for run in folder.glob("*/"):
        refuse_around(run, name)


def _partitioned(key: dg.AssetKey) -> InvalidMetadataError:
    return InvalidMetadataError(
        f"asset {key.to_user_string()!r} was refused",
        why="it is partitioned, and a version is a full load",
        mend="leave its partitions out, or store it in one Delta table and publish its versions (proxy_native)",
    )


def _nothing(of: str, name: str) -> MissingTableError:
    return MissingTableError(
        f"input {of!r} was refused",
        why=f"no version of {name!r} was loaded, or none published, by then",
        mend=f"materialize {name!r} first",
    )
