"""Proxy with native versioning: one Delta table, and a view that shows one of its versions.

Problem: a table that keeps its own versions needs no copy for each load. But its readers follow the newest version,
also while it is being written in several runs, and before anybody looked at it.

Guarantee: that of ``proxy`` for what is shown. The table is written by any Delta IO manager, partition by partition.
``native_audit_check`` registers the version that it looks at, ``publication_asset`` moves the view to one that passed
all audits, rolling back and reading as of a time move to an earlier one. A vacuum by the platform keeps the files of
registered versions (``_pinned_versions.json`` in the table's folder) until ``retention_asset`` lets them go.

Limits: the table itself is not immutable: who knows its path reads what is newest. A vacuum by others knows no pins.

Shown by: ``aggregated/visits_cube`` and ``published/visits_cube``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pattern_platform.errors import UnsupportedStorageError
from pattern_platform.lake.object_path import ObjectPath
from pattern_platform.lake.snapshot import open_table
from pattern_platform.orchestration.publications import audit_check, pin_registered
from pattern_platform.warehouse.database import transaction
from pattern_platform.warehouse.versions import Versions

if TYPE_CHECKING:
    from collections.abc import Callable

    import dagster as dg
    import polars as pl


def native_audit_check(
    asset: dg.AssetKey,
    name: str,
    examine: Callable[[pl.LazyFrame], dg.AssetCheckResult],
    *,
    description: str,
    io_manager_key: str,
    table_io_manager_key: str,
) -> dg.AssetChecksDefinition:
    """A blocking check of the newest version of a Delta table, which is registered as one that may be published.

    Args:
        asset: The asset that the table belongs to.
        name: Name of the check, as the publication names it.
        examine: Gets the rows of that version.
        description: What is examined.
        io_manager_key: The IO manager of the views.
        table_io_manager_key: The IO manager of the table.
    """

    def register(resources: Any, run_id: str) -> None:  # noqa: ANN401 - a class made at run time
        snapshot = open_table(getattr(resources, table_io_manager_key).table_path(asset))
        if snapshot is None:
            return
        if isinstance(snapshot.table, ObjectPath):
            raise UnsupportedStorageError(
                f"the versions of {asset.to_user_string()!r} were not registered",
                why="a DuckDB view shows them, and DuckDB reads object stores with an extension alone, a download",
                mend="give the asset an IO manager whose root_uri is a folder",
            )
        rows = int(snapshot.files["num_records"].sum())
        proxy = getattr(resources, io_manager_key)
        with transaction(proxy.database) as connection:
            versions = Versions.of(connection, asset).registered(snapshot, run_id, rows=rows)
            # Before the registry: pinned and not registered costs disk, registered and not pinned costs the files.
            pin_registered(versions, proxy.folder_of(asset))
            versions.write(connection)

    return audit_check(
        asset,
        name,
        examine,
        io_manager_key,
        description=description,
        register=register,
        needs={table_io_manager_key},
    )
