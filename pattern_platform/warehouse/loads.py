"""Which partitions a table holds, and from which run: a registry beside the table, in its transaction.

A partition that was loaded empty is told from one that was never loaded, and a table that the platform did not make
from one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.errors import UnsupportedTableError
from pattern_platform.lake.checks import listed
from pattern_platform.warehouse.rows import insert

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb

    from pattern_platform.warehouse.names import TableName

SUFFIX = "__loads"
WHOLE = ""  # what an asset without partitions loads; no partition key is empty
_SCHEMA = pl.Schema(
    {
        "asset": pl.String,
        "partition": pl.String,
        "unit": pl.String,
        "rows": pl.Int64,
        "run_id": pl.String,
        "loaded_at": pl.Datetime("us", "UTC"),
    }
)


@dataclass(frozen=True)
class Loads:
    """The registry of an asset.

    Args:
        asset: Whose it is.
        rows: A row for each partition: ``asset``, ``partition``, ``unit`` (what a pattern divides the table into),
            ``rows`` (null where the partition is known and not in the table now), ``run_id``, ``loaded_at``.
    """

    asset: str
    rows: pl.DataFrame

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, table: TableName, asset: str) -> Loads:
        """Read the registry of a table; an empty one where there is neither.

        Raises:
            UnsupportedTableError: There is a table without a registry, or it is another asset's.
        """
        registry = table.beside(SUFFIX)
        rows = connection.table(registry.sql()).pl() if registry.exists(connection) else None
        return cls.checked(asset, rows, table=table.name, table_exists=rows is None and table.exists(connection))

    @classmethod
    def checked(cls, asset: str, rows: pl.DataFrame | None, *, table: str, table_exists: bool) -> Loads:
        """A registry as it was read; None where there is none.

        Raises:
            UnsupportedTableError: As of :meth:`of`.
        """
        if rows is None and table_exists:
            raise UnsupportedTableError(
                f"table {table!r} of asset {asset!r} was refused",
                why=f"there is no {table + SUFFIX!r} beside it, so the platform did not make it",
                mend="give the asset another key, or drop the table and materialize the asset again",
            )
        found = cls.none(asset) if rows is None else cls(asset, rows.select(_SCHEMA.names()))
        if others := sorted(set(found.rows["asset"]) - {asset}):
            raise UnsupportedTableError(
                f"table {table!r} of asset {asset!r} was refused",
                why=f"it belongs to asset {listed(others)}: two parts of a key name a table, whatever their case",
                mend="give one of the two assets another key",
            )
        return found

    @classmethod
    def none(cls, asset: str) -> Loads:
        """The registry of an asset that was never loaded."""
        return cls(asset, pl.DataFrame(schema=_SCHEMA))

    @property
    def held(self) -> list[str]:
        """The partitions whose rows are in the table."""
        return self.rows.drop_nulls("rows")["partition"].to_list()

    @property
    def dropped(self) -> list[str]:
        """The partitions that were in the table, and wait for their replay."""
        return self.rows.filter(pl.col("rows").is_null())["partition"].to_list()

    def with_partitions(self, rows: Mapping[str, int | None], run_id: str, *, unit: str = "") -> Loads:
        """The registry after a run.

        Args:
            rows: Number of rows by partition; None for a partition that is no longer in the table.
            run_id: The run.
            unit: What the table keeps them in.
        """
        told = {"asset": self.asset, "unit": unit, "run_id": run_id, "loaded_at": datetime.now(UTC)}
        new = pl.DataFrame([{"partition": key, "rows": n, **told} for key, n in rows.items()], schema=_SCHEMA)
        return replace(self, rows=pl.concat([self.rows.join(new, on="partition", how="anti"), new]))

    def write(self, connection: duckdb.DuckDBPyConnection, table: TableName) -> None:
        """Replace the registry of a table, inside its transaction."""
        registry = table.sql(SUFFIX)
        connection.execute(f"DROP TABLE IF EXISTS {registry}")
        insert(connection, registry, self.rows)
