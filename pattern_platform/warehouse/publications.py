"""The view that shows one of the versions of an asset, and the registry of where it was.

Registries and views are in one DuckDB file, and move in one transaction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from pattern_platform.errors import UnsupportedTableError
from pattern_platform.warehouse.names import TableName, quoted
from pattern_platform.warehouse.rows import stored_name
from pattern_platform.warehouse.versions import TIME, read_registry, snapshot_of, write_registry

if TYPE_CHECKING:
    import dagster as dg
    import duckdb

    from pattern_platform.lake.snapshot import Snapshot

_GLOB = re.compile(r"([*?\[])")  # what DuckDB takes for a pattern in a path
_PUBLICATIONS = "__publications"
_PUBLICATION = pl.Schema(
    {
        "view": pl.String,
        "number": pl.Int64,
        "asset": pl.String,
        "version": pl.Int64,
        "action": pl.String,
        "run_id": pl.String,
        "published_at": TIME,
    }
)


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
        rows = read_registry(connection, table.beside(_PUBLICATIONS), _PUBLICATION, owner={"view": view})
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
        write_registry(connection, self.table.beside(_PUBLICATIONS), rows)
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
