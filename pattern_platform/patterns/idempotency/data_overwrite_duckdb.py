"""Data Overwrite in DuckDB: a run deletes the rows of its own partition and inserts the batch, in one transaction.

Problem: a warehouse table has no files to swap. A ``DELETE`` and an ``INSERT`` that are two transactions lose the
partition when the run dies between them, and show it empty to whoever reads meanwhile.

Guarantee: that of ``data_overwrite``. After the run the partition holds exactly the rows of the batch, an empty batch
empties it, every other row is as before, and no reader sees anything between. A run that dies leaves everything as it
was. ``<name>__loads`` tells which run loaded which partition, so an empty partition is told from one never loaded.

Limits: the cost of the ``DELETE`` grows with the table (see ``fast_metadata_cleaner``). The batch is held in memory.
One process holds a DuckDB file at a time, readers included.

Shown by: ``warehouse/visits_cube`` (daily).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pattern_platform.lake.schema import column_schema
from pattern_platform.warehouse.io_manager import DuckDBIOManager, Load
from pattern_platform.warehouse.loads import Loads
from pattern_platform.warehouse.rows import replace

if TYPE_CHECKING:
    import polars as pl


class WarehouseOverwriteIOManager(DuckDBIOManager):
    """Replace the run's partitions, or the whole table of an unpartitioned asset, in one transaction.

    Args:
        database: Path of the DuckDB file. The last part of an asset key names the table, the part before it the schema.
    """

    def write(self, load: Load, value: object) -> dict[str, Any]:
        """Delete, insert, record."""
        loads = Loads.of(load.connection, load.table, load.asset)
        schema = load.connection.table(load.table.sql()).limit(0).pl().schema if loads.rows.height else None
        batch = load.fitted(cast("pl.DataFrame", value), schema)
        deleted = replace(load.connection, load.table, batch, load.window(batch.schema))
        loads.with_partitions(load.counted(batch), load.run_id).write(load.connection, load.table)
        return {
            "dagster/row_count": len(load.connection.table(load.table.sql())),
            "dagster/column_schema": column_schema(batch.schema),
            "duckdb/rows_inserted": batch.height,
            "duckdb/rows_deleted": deleted,
        }
