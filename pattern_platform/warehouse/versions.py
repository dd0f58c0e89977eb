"""The versions of an asset: a registry beside the name that they are shown under, with where each is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pattern_platform.errors import MissingVersionError, UnsupportedTableError
from pattern_platform.lake.checks import listed
from pattern_platform.lake.snapshot import open_version
from pattern_platform.warehouse.names import TableName
from pattern_platform.warehouse.rows import insert

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import dagster as dg
    import duckdb

    from pattern_platform.lake.snapshot import Snapshot

TIME = pl.Datetime("us", "UTC")
VERSIONS = "__versions"
_VERSION = pl.Schema(
    {
        "asset": pl.String,
        "version": pl.Int64,
        "uri": pl.String,
        "table_id": pl.String,
        "delta_version": pl.Int64,
        "run_id": pl.String,
        "rows": pl.Int64,
        "loaded_at": TIME,
        "audits": pl.List(pl.String),
        "legal_hold": pl.String,
        "removed_at": TIME,
    }
)


@dataclass(frozen=True)
class Versions:
    """The versions of an asset.

    Args:
        table: What the asset's key names; the registry is beside it.
        asset: The asset.
        rows: A row for each full load: ``version`` (1, 2, 3, ...), ``uri``, ``table_id`` and ``delta_version`` (where
            it is), ``run_id``, ``rows``, ``loaded_at``, ``audits`` (those that it passed), ``legal_hold`` (its reason;
            null where there is none), ``removed_at`` (null while it is there).
    """

    table: TableName
    asset: str
    rows: pl.DataFrame

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, key: dg.AssetKey) -> Versions:
        """The versions of an asset; none where nothing was loaded.

        Raises:
            UnsupportedTableError: The registry is another asset's.
        """
        table, asset = TableName.of(connection, key), key.to_user_string()
        return cls(table, asset, read_registry(connection, table.beside(VERSIONS), _VERSION, owner={"asset": asset}))

    def newest(self, at: datetime | None = None, *, of_run: str | None = None) -> dict[str, Any] | None:
        """The version that was loaded last, in all or at a time, by any run or by one, as a row."""
        rows = (self.rows if at is None else self.rows.filter(pl.col("loaded_at") <= at)).sort("version")
        rows = rows if of_run is None else rows.filter(run_id=of_run)
        return rows.row(-1, named=True) if rows.height else None

    def get(self, version: int) -> dict[str, Any]:
        """A version as a row.

        Raises:
            MissingVersionError: It was never loaded, or is removed.
        """
        found = self.rows.filter(version=version)
        if found.is_empty() or found["removed_at"][0] is not None:
            there = ", ".join(map(str, self.rows.filter(pl.col("removed_at").is_null())["version"]))
            raise MissingVersionError(
                f"version {version} of {self.asset!r} was refused",
                why="it was never loaded" if found.is_empty() else f"it was removed at {found['removed_at'][0]}",
                mend=f"choose one of {there}" if there else f"materialize {self.asset!r} first",
            )
        return found.row(0, named=True)

    def registered(self, snapshot: Snapshot, run_id: str, *, rows: int) -> Versions:
        """With a version of a table, as the newest; as they are where it is one of them."""
        uri = str(snapshot.table)
        if self.rows.filter(uri=uri, table_id=snapshot.table_id, delta_version=snapshot.version).height:
            return self
        told = {
            "asset": self.asset,
            "version": (self.newest() or {"version": 0})["version"] + 1,
            "uri": uri,
            "table_id": snapshot.table_id,
            "delta_version": snapshot.version,
            "run_id": run_id,
            "rows": rows,
            "loaded_at": datetime.now(UTC),
            "audits": [],
        }
        return replace(self, rows=pl.concat([self.rows, pl.DataFrame([told], schema=_VERSION)]))

    def audited(self, version: int, audit: str, *, passed: bool) -> Versions:
        """With the outcome of an audit; only what it was last counts."""
        others = pl.col("audits").list.filter(pl.element() != audit)
        audits = others.list.concat(pl.lit([audit])) if passed else others
        return self._with(version, audits=audits)

    def held(self, version: int, reason: str | None) -> Versions:
        """With a legal hold on a version, or without.

        Args:
            version: The version; one that is removed cannot be held.
            reason: Why it must be kept; None lifts the hold.

        Raises:
            MissingVersionError: As of :meth:`get`.
        """
        self.get(version)
        return self._with(version, legal_hold=pl.lit(reason, dtype=pl.String))

    def removed(self, versions: Iterable[int]) -> Versions:
        """Without some versions, which stay known."""
        gone = pl.when(pl.col("version").is_in(list(versions))).then(pl.lit(datetime.now(UTC), dtype=TIME))
        return replace(self, rows=self.rows.with_columns(gone.otherwise(pl.col("removed_at")).alias("removed_at")))

    def write(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Replace the registry, inside a transaction."""
        write_registry(connection, self.table.beside(VERSIONS), self.rows)

    def _with(self, version: int, **columns: pl.Expr) -> Versions:
        chosen = pl.col("version") == version
        changed = [pl.when(chosen).then(new).otherwise(pl.col(name)).alias(name) for name, new in columns.items()]
        return replace(self, rows=self.rows.with_columns(changed))


def snapshot_of(version: dict[str, Any]) -> Snapshot:
    """The table of a version.

    Raises:
        MissingVersionError: It is gone, although nobody removed the version.
    """
    snapshot = open_version(Path(version["uri"]), version["delta_version"])
    if snapshot.table_id != version["table_id"]:
        raise MissingVersionError(
            f"version {version['version']} of {version['asset']!r} was refused",
            why="its table was removed, and another was made in its place",
            mend="choose another version, or materialize the asset again",
        )
    return snapshot


# Registries ---------------------------------------------------------------------------------------------------------


def read_registry(
    connection: duckdb.DuckDBPyConnection, table: TableName, schema: pl.Schema, *, owner: Mapping[str, str]
) -> pl.DataFrame:
    """Read a registry; an empty one where there is none.

    Args:
        connection: Open.
        table: The registry.
        schema: Its columns.
        owner: The column that names whose it is, and who asks.

    Raises:
        UnsupportedTableError: It is someone else's.
    """
    if not table.exists(connection):
        return pl.DataFrame(schema=schema)
    rows = connection.table(table.sql()).pl().select(schema.names())
    ((column, name),) = owner.items()
    if others := sorted(set(rows[column]) - {name}):
        raise UnsupportedTableError(
            f"{name!r} was refused",
            why=f"{table.name!r} belongs to {listed(others)}: two parts of a key name a table, whatever their case",
            mend="give one of the two assets another key",
        )
    return rows


def write_registry(connection: duckdb.DuckDBPyConnection, table: TableName, rows: pl.DataFrame) -> None:
    """Replace a registry, inside a transaction."""
    table.make_schema(connection)
    connection.execute(f"DROP TABLE IF EXISTS {table.sql()}")
    insert(connection, table.sql(), rows)
