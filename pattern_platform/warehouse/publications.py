"""Versions of an asset and the view that shows one of them: registries and view in one DuckDB file, one transaction.

``<asset>__versions`` has a row for each full load, ``<view>__publications`` one for each time that the view moved; its
last row tells where the view is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pattern_platform.errors import MissingVersionError, UnsupportedTableError
from pattern_platform.lake.snapshot import open_version
from pattern_platform.warehouse.database import TableName, insert, quoted, stored_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    import dagster as dg
    import duckdb

    from pattern_platform.lake.snapshot import Snapshot

_TIME = pl.Datetime("us", "UTC")
_VERSIONS, _PUBLICATIONS = "__versions", "__publications"
_VERSION = pl.Schema(
    {
        "version": pl.Int64,
        "uri": pl.String,
        "delta_version": pl.Int64,
        "run_id": pl.String,
        "rows": pl.Int64,
        "loaded_at": _TIME,
        "audits": pl.List(pl.String),
        "legal_hold": pl.String,
        "removed_at": _TIME,
    }
)
_PUBLICATION = pl.Schema(
    {"asset": pl.String, "version": pl.Int64, "action": pl.String, "run_id": pl.String, "published_at": _TIME}
)


@dataclass(frozen=True)
class Versions:
    """The versions of an asset.

    Args:
        table: What the asset's key names; the registry is beside it.
        asset: The asset.
        rows: A row for each full load: ``version`` (1, 2, 3, ...), ``uri`` and ``delta_version`` (where it is),
            ``run_id``, ``rows``, ``loaded_at``, ``audits`` (those that it passed), ``legal_hold`` (its reason; null
            where there is none), ``removed_at`` (null while it is there).
    """

    table: TableName
    asset: str
    rows: pl.DataFrame

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, key: dg.AssetKey) -> Versions:
        """The versions of an asset; none where nothing was loaded."""
        table = TableName.of(connection, key)
        return cls(table, key.to_user_string(), _read(connection, table.beside(_VERSIONS), _VERSION))

    @property
    def newest(self) -> dict[str, Any] | None:
        """The version that was loaded last, as a row."""
        return self.rows.sort("version").row(-1, named=True) if self.rows.height else None

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
        if self.rows.filter(uri=uri, delta_version=snapshot.version).height:
            return self
        told = {
            "version": (self.newest or {"version": 0})["version"] + 1,
            "uri": uri,
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
        gone = pl.when(pl.col("version").is_in(list(versions))).then(pl.lit(datetime.now(UTC), dtype=_TIME))
        return replace(self, rows=self.rows.with_columns(gone.otherwise(pl.col("removed_at")).alias("removed_at")))

    def write(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Replace the registry, inside a transaction."""
        _write(connection, self.table.beside(_VERSIONS), self.rows)

    def _with(self, version: int, **columns: pl.Expr) -> Versions:
        chosen = pl.col("version") == version
        changed = [pl.when(chosen).then(new).otherwise(pl.col(name)).alias(name) for name, new in columns.items()]
        return replace(self, rows=self.rows.with_columns(changed))


@dataclass(frozen=True)
class Publications:
    """Where a view was, and is.

    Args:
        table: The view.
        view: The asset that it belongs to.
        rows: A row for each time that it moved, in their order: ``asset`` and ``version`` that it shows since,
            ``action`` (``publish``, or ``roll back`` to a version that was published before), ``run_id``,
            ``published_at``.
    """

    table: TableName
    view: str
    rows: pl.DataFrame

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, key: dg.AssetKey) -> Publications:
        """The publications of a view; none where nothing was published."""
        table = TableName.of(connection, key)
        return cls(table, key.to_user_string(), _read(connection, table.beside(_PUBLICATIONS), _PUBLICATION))

    def current(self, at: datetime | None = None) -> dict[str, Any] | None:
        """Where the view is, or was at a time, as a row; None where nothing was published yet."""
        rows = self.rows if at is None else self.rows.filter(pl.col("published_at") <= at)
        return rows.row(-1, named=True) if rows.height else None

    def move(
        self, connection: duckdb.DuckDBPyConnection, asset: str, version: dict[str, Any], run_id: str
    ) -> str | None:
        """Let the view show a version, inside a transaction.

        Returns:
            What was done, or None where it showed it already.

        Raises:
            UnsupportedTableError: There is a table, or a view of someone else, under its name.
        """
        if self.rows.is_empty() and self.table.exists(connection):
            raise UnsupportedTableError(
                f"view {self.table.name!r} was refused",
                why="there is a table or view of this name that was never published",
                mend="give the asset another key, or drop it",
            )
        current = self.current()
        if current and (current["asset"], current["version"]) == (asset, version["version"]):
            return None
        shown_before = self.rows.filter(asset=asset, version=version["version"]).height
        self.table.make_schema(connection)
        connection.execute(f"CREATE OR REPLACE VIEW {self.table.sql()} AS {_query(connection, snapshot_of(version))}")
        action = "roll back" if shown_before else "publish"
        told = (asset, version["version"], action, run_id, datetime.now(UTC))
        rows = pl.concat([self.rows, pl.DataFrame([told], schema=_PUBLICATION, orient="row")])
        _write(connection, self.table.beside(_PUBLICATIONS), rows)
        return action


def shown_versions(connection: duckdb.DuckDBPyConnection, asset: str) -> set[int]:
    """The versions of an asset that some view of the file shows now."""
    found = connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = current_database() "
        f"AND ends_with(table_name, '{_PUBLICATIONS}')"
    )
    shown = set()
    for schema, name in found.fetchall():
        last = connection.table(f"{quoted(schema)}.{quoted(name)}").pl().sort("published_at").row(-1, named=True)
        shown |= {last["version"]} if last["asset"] == asset else set()
    return shown


def snapshot_of(version: dict[str, Any]) -> Snapshot:
    """The table of a version.

    Raises:
        MissingVersionError: It is gone, although nobody removed the version.
    """
    return open_version(Path(version["uri"]), version["delta_version"])


def files_of(snapshot: Snapshot) -> list[str]:
    """The paths of the files of a version."""
    return [str(snapshot.table / path) for path in snapshot.files["path"]]


def _query(connection: duckdb.DuckDBPyConnection, snapshot: Snapshot) -> str:
    """A query of the files of a version: a scan of Parquet files, which needs no extension."""
    if not (files := files_of(snapshot)):
        nothing = (f"CAST(NULL AS {stored_name(connection, t)}) AS {quoted(c)}" for c, t in snapshot.schema.items())
        return f"SELECT {', '.join(nothing)} WHERE false"
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    columns = ", ".join(map(quoted, snapshot.schema))
    return f"SELECT {columns} FROM read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"


def _read(connection: duckdb.DuckDBPyConnection, table: TableName, schema: pl.Schema) -> pl.DataFrame:
    if not table.exists(connection):
        return pl.DataFrame(schema=schema)
    return connection.table(table.sql()).pl().select(schema.names())


def _write(connection: duckdb.DuckDBPyConnection, table: TableName, rows: pl.DataFrame) -> None:
    table.make_schema(connection)
    connection.execute(f"DROP TABLE IF EXISTS {table.sql()}")
    insert(connection, table.sql(), rows)
