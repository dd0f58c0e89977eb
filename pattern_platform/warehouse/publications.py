"""Versions of an asset and the view that shows one of them: registries and view in one DuckDB file, one transaction.

``<asset>__versions`` has a row for each full load, ``<view>__publications`` one for each time that the view moved; its
last row tells where the view is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pattern_platform.errors import MissingVersionError, UnsupportedTableError
from pattern_platform.lake.checks import listed
from pattern_platform.lake.snapshot import open_version
from pattern_platform.warehouse.names import TableName, quoted
from pattern_platform.warehouse.rows import insert, stored_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import dagster as dg
    import duckdb

    from pattern_platform.lake.snapshot import Snapshot

_GLOB = re.compile(r"([*?\[])")  # what DuckDB takes for a pattern in a path
_TIME = pl.Datetime("us", "UTC")
_VERSIONS, _PUBLICATIONS = "__versions", "__publications"
_VERSION = pl.Schema(
    {
        "asset": pl.String,
        "version": pl.Int64,
        "uri": pl.String,
        "table_id": pl.String,
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
    {
        "view": pl.String,
        "number": pl.Int64,
        "asset": pl.String,
        "version": pl.Int64,
        "action": pl.String,
        "run_id": pl.String,
        "published_at": _TIME,
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
        return cls(table, asset, _read(connection, table.beside(_VERSIONS), _VERSION, owner={"asset": asset}))

    def newest(self, at: datetime | None = None) -> dict[str, Any] | None:
        """The version that was loaded last, now or at a time, as a row."""
        rows = (self.rows if at is None else self.rows.filter(pl.col("loaded_at") <= at)).sort("version")
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
        rows: A row for each time that it moved, by ``number``: ``asset`` and ``version`` that it shows since,
            ``action`` (``publish``, ``roll back`` to a version that was published before, ``restore`` of a view that
            someone dropped), ``run_id``, ``published_at``.
    """

    table: TableName
    view: str
    rows: pl.DataFrame

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, key: dg.AssetKey) -> Publications:
        """The publications of a view; none where nothing was published.

        Raises:
            UnsupportedTableError: The registry is another view's.
        """
        table, view = TableName.of(connection, key), key.to_user_string()
        rows = _read(connection, table.beside(_PUBLICATIONS), _PUBLICATION, owner={"view": view})
        return cls(table, view, rows.sort("number"))

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
        is_shown = current and (current["asset"], current["version"]) == (asset, version["version"])
        if is_shown and self.table.exists(connection):
            return None
        shown_before = self.rows.filter(asset=asset, version=version["version"]).height
        self.table.make_schema(connection)
        connection.execute(f"CREATE OR REPLACE VIEW {self.table.sql()} AS {_query(connection, snapshot_of(version))}")
        action = "restore" if is_shown else "roll back" if shown_before else "publish"
        told = (self.view, self.rows.height + 1, asset, version["version"], action, run_id, datetime.now(UTC))
        rows = pl.concat([self.rows, pl.DataFrame([told], schema=_PUBLICATION, orient="row")])
        _write(connection, self.table.beside(_PUBLICATIONS), rows)
        return action


def shown_versions(connection: duckdb.DuckDBPyConnection, asset: str) -> set[int]:
    """The versions of an asset that some view of the file shows now."""
    found = connection.execute(
        "SELECT database_name, schema_name, table_name FROM duckdb_tables() WHERE database_name = current_database() "
        f"AND ends_with(table_name, '{_PUBLICATIONS}')"
    )
    last = [
        connection.table(TableName(*name).sql()).pl().sort("number").row(-1, named=True) for name in found.fetchall()
    ]
    return {publication["version"] for publication in last if publication["asset"] == asset}


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


def files_of(snapshot: Snapshot) -> list[str]:
    """The paths of the files of a version."""
    return [str(snapshot.table / path) for path in snapshot.files["path"]]


def _query(connection: duckdb.DuckDBPyConnection, snapshot: Snapshot) -> str:
    """A query of the files of a version: scans of Parquet files, which need no extension."""
    types = {column: stored_name(connection, dtype) for column, dtype in snapshot.schema.items()}
    typed = ", ".join(f"CAST(NULL AS {dtype}) AS {quoted(column)}" for column, dtype in types.items())
    parts = [f"SELECT {typed} WHERE false"]  # every column, also one that no file has
    by = snapshot.partition_columns
    groups = snapshot.files.partition_by([f"min.{c}" for c in by]) if by else [snapshot.files]
    for group in groups:
        files = ", ".join(_literal(_GLOB.sub(r"[\1]", str(snapshot.table / path))) for path in group["path"])
        values = [f", CAST({_literal(group[f'min.{c}'][0])} AS {types[c]}) AS {quoted(c)}" for c in by]
        if files:
            scan = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
            parts.append(f"SELECT *{''.join(values)} FROM {scan}")
    return f"SELECT {', '.join(map(quoted, types))} FROM ({' UNION ALL BY NAME '.join(parts)})"


def _literal(value: object) -> str:
    """A value as SQL reads it, as text."""
    return "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"


def _read(
    connection: duckdb.DuckDBPyConnection, table: TableName, schema: pl.Schema, *, owner: Mapping[str, str]
) -> pl.DataFrame:
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


def _write(connection: duckdb.DuckDBPyConnection, table: TableName, rows: pl.DataFrame) -> None:
    table.make_schema(connection)
    connection.execute(f"DROP TABLE IF EXISTS {table.sql()}")
    insert(connection, table.sql(), rows)
