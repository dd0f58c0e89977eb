"""DuckDB files: connections as short as their statements, one transaction for what belongs together, quoted names.

DuckDB lets one process hold a file at a time, and readers count. So nobody keeps a connection: whoever finds the file
taken waits, up to a limit. Inside a process one transaction at a time writes, and readers see the one before it.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl

from pattern_platform.errors import ChangedTypeError, DatabaseLockedError, UnsafeAssetKeyError, UnsupportedStorageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    import dagster as dg

    from pattern_platform.lake.window import Bound, Window

WAIT_SECONDS = 120.0
_PAUSE_SECONDS = 0.05
# By another process; in this one, set up otherwise, or by a thread that is closing it.
_TAKEN = ("Could not set lock on file", "different configuration", "Unique file handle conflict")
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "custom_user_agent": "dagster"
}  # as of DuckDBResource: within a process a file has one configuration
_SOURCE = "pattern_platform_rows"

_turns: dict[Path, threading.Lock] = {}


@dataclass(frozen=True)
class TableName:
    """Where an asset lives in a database.

    Args:
        catalog: Name under which DuckDB attached the file; without it a schema of that name would be ambiguous.
        schema: The part of the asset key before the last, ``main`` where there is none.
        name: The last part of the asset key.
    """

    catalog: str
    schema: str
    name: str

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, key: dg.AssetKey) -> TableName:
        """The table of an asset.

        Raises:
            UnsafeAssetKeyError: A part of the key is empty.
        """
        *_, schema, name = ("main", *key.path)
        if not schema or not name:
            raise UnsafeAssetKeyError(
                f"asset key {key.to_user_string()!r} was refused",
                why="an empty part names neither a table nor a schema",
                mend="give the part a name",
            )
        (catalog,) = connection.execute("SELECT current_database()").fetchall()[0]
        return cls(catalog, schema, name)

    def beside(self, suffix: str) -> TableName:
        """The table of a suffix beside this one."""
        return TableName(self.catalog, self.schema, self.name + suffix)

    def suffixes(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """What the tables beside this one add to its name, without the registry."""
        rows = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = ? AND lower(schema_name) = lower(?) "
            "AND starts_with(lower(table_name), lower(?)) ORDER BY table_oid",
            [self.catalog, self.schema, f"{self.name}__"],
        )
        return [name for (found,) in rows.fetchall() if (name := found[len(self.name) + 2 :]) != "loads"]

    def sql(self, suffix: str = "") -> str:
        """The name as SQL reads it, of the table or of one beside it."""
        return ".".join(map(quoted, (self.catalog, self.schema, self.name + suffix)))

    def make_schema(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the schema where there is none."""
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(self.catalog)}.{quoted(self.schema)}")

    def exists(self, connection: duckdb.DuckDBPyConnection, suffix: str = "") -> bool:
        """Whether there is a table or view of this name; names differ in more than case."""
        found = connection.execute(
            "SELECT count(*) FROM information_schema.tables WHERE table_catalog = $catalog "
            "AND lower(table_schema) = lower($schema) AND lower(table_name) = lower($name)",
            {"catalog": self.catalog, "schema": self.schema, "name": self.name + suffix},
        )
        return found.fetchall()[0][0] > 0


def quoted(identifier: str) -> str:
    """An identifier as SQL reads it, whatever it contains."""
    return '"' + identifier.replace('"', '""') + '"'


# Connections --------------------------------------------------------------------------------------------------------


@contextmanager
def connected(database: str) -> Generator[duckdb.DuckDBPyConnection]:
    """Hold a database for some statements; times come back in UTC.

    Args:
        database: Path of the file; it is made where there is none, with its folder.

    Raises:
        DatabaseLockedError: Someone else held it for longer than the limit.
        UnsupportedStorageError: The database is not a file.
    """
    connection = _opened(path_of(database))
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()  # what was not committed is rolled back


@contextmanager
def transaction(database: str) -> Generator[duckdb.DuckDBPyConnection]:
    """Do all of it or nothing: commit at the end, and leave the database as it was where an error comes before.

    Args:
        database: As of :func:`connected`.

    Raises:
        DatabaseLockedError: As of :func:`connected`, or because of another thread.
        UnsupportedStorageError: As of :func:`connected`.
    """
    path = path_of(database)
    turn = _turns.setdefault(path, threading.Lock())
    if not turn.acquire(timeout=WAIT_SECONDS):
        raise _locked(path, "another thread of this process writes to it")
    try:
        with connected(database) as connection:
            connection.begin()
            yield connection
            connection.commit()
    finally:
        turn.release()


def path_of(database: str) -> Path:
    """The file of a database.

    Raises:
        UnsupportedStorageError: It is in memory, where nothing outlives a statement, or at a server.
    """
    if not database or database.startswith((":memory:", "md:", "motherduck:")):
        raise UnsupportedStorageError(
            f"database {database!r} was refused",
            why="a connection is as short as its statements, and this is not a file",
            mend="give the path of a DuckDB file",
        )
    return Path(database).absolute()


def _opened(path: Path) -> duckdb.DuckDBPyConnection:
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return duckdb.connect(str(path), config=_CONFIG)
        except duckdb.Error as error:
            if not any(reason in str(error) for reason in _TAKEN):
                raise
            if time.monotonic() > deadline:
                raise _locked(path, str(error).split("See also")[0].strip()) from error
        time.sleep(_PAUSE_SECONDS)


def _locked(path: Path, holder: str) -> DatabaseLockedError:
    return DatabaseLockedError(
        f"database {str(path)!r} was given up after {WAIT_SECONDS:g} s",
        why=f"one process holds a DuckDB file at a time, readers included: {holder}",
        mend="end that process, or let it open the file for its statements alone; then run again",
    )


# Rows ---------------------------------------------------------------------------------------------------------------


def create(
    connection: duckdb.DuckDBPyConnection, table: str, rows: pl.DataFrame, *, constraints: Sequence[str] = ()
) -> None:
    """Make a table for some rows, without them, unless it is there.

    Args:
        connection: Inside its transaction.
        table: Name of the table as SQL reads it.
        rows: The rows.
        constraints: What every row keeps, as SQL writes it.
    """
    connection.register(_SOURCE, rows)
    # Its columns are named: a table that is made AS SELECT without rows loses, in DuckDB 2.0.0, what the same
    # transaction inserts into it, from 122,880 rows on.
    columns = [f"{quoted(c)} {dtype}" for c, dtype in types(connection, f"temp.main.{quoted(_SOURCE)}").items()]
    connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({', '.join([*columns, *constraints])})")
    connection.unregister(_SOURCE)


def comment(connection: duckdb.DuckDBPyConnection, table: TableName) -> str | None:
    """The comment of a table."""
    found = connection.execute(
        "SELECT comment FROM duckdb_tables() WHERE database_name = ? AND lower(schema_name) = lower(?) "
        "AND lower(table_name) = lower(?)",
        [table.catalog, table.schema, table.name],
    ).fetchall()
    return found[0][0] if found else None


def set_comment(connection: duckdb.DuckDBPyConnection, table: TableName, text: str) -> None:
    """Keep a text with a table."""
    escaped = text.replace("'", "''")
    connection.execute(f"COMMENT ON TABLE {table.sql()} IS '{escaped}'")


def insert(connection: duckdb.DuckDBPyConnection, table: str, rows: pl.DataFrame) -> None:
    """Insert rows by the names of their columns.

    Args:
        connection: Inside its transaction.
        table: Name of the table as SQL reads it; the table is made, and gets new columns, as the rows ask for.
        rows: The rows, with types of :func:`pattern_platform.lake.schema.stored_type`.

    Raises:
        ChangedTypeError: A column of the table is of another type. DuckDB would cast the values, and name one of them
            in its error where it cannot.
    """
    with _registered(connection, table, rows) as source:
        connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM {source}")


def upsert(connection: duckdb.DuckDBPyConnection, table: str, rows: pl.DataFrame, key: str) -> None:
    """Insert rows of new keys, and replace those of known keys.

    Args:
        connection: Inside its transaction.
        table: As of :func:`insert`.
        rows: The rows, each with a key of its own.
        key: Column of the key.

    Raises:
        ChangedTypeError: As of :func:`insert`.
    """
    with _registered(connection, table, rows) as source:
        connection.execute(
            f"MERGE INTO {table} USING {source} USING ({quoted(key)}) "
            "WHEN MATCHED THEN UPDATE BY NAME WHEN NOT MATCHED THEN INSERT BY NAME"
        )


@contextmanager
def _registered(connection: duckdb.DuckDBPyConnection, table: str, rows: pl.DataFrame) -> Generator[str]:
    """Rows under a name that SQL can read, with a table that has their columns."""
    create(connection, table, rows)
    connection.register(_SOURCE, rows)
    source = f"temp.main.{quoted(_SOURCE)}"
    held = types(connection, table)
    for column, dtype in types(connection, source).items():
        if column not in held:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(column)} {dtype}")
        elif held[column] != dtype:
            raise ChangedTypeError(
                f"column {column!r} of type {dtype} was refused",
                why=f"the table {table} keeps {held[column]}",
                mend="convert it in the asset, or remove the table where it is left over",
            )
    yield source
    connection.unregister(_SOURCE)


def where(window: Window) -> tuple[str, list[object]]:
    """The rows of a window as a condition with its parameters, both in the order of its placeholders.

    Args:
        window: The rows; of a whole table the condition is true of each.
    """
    if window.is_whole_table:
        return "true", []
    first, *others = window.columns
    parameters: list[object] = []
    boxes = [
        "("
        + " AND ".join([_in_bounds(first, firsts, parameters), *(_in_bounds(c, [b], parameters) for c, b in rest)])
        + ")"
        for firsts, bounds in window.boxes
        for rest in [list(zip(others, bounds, strict=True))]
    ]
    return " OR ".join(boxes) or "false", parameters


def _in_bounds(column: str, bounds: Sequence[Bound], parameters: list[object]) -> str:
    conditions = []
    for bound in bounds:
        parameters.extend([bound.lower] if bound.is_value else [bound.lower, bound.upper])
        name = quoted(column)
        conditions.append(f"{name} = ?" if bound.is_value else f"({name} >= ? AND {name} < ?)")
    return "(" + " OR ".join(conditions) + ")"


def select(connection: duckdb.DuckDBPyConnection, table: str, window: Window, columns: Iterable[str]) -> pl.DataFrame:
    """Read the rows of a window.

    Args:
        connection: Open.
        table: Name of the table or view as SQL reads it.
        window: The rows.
        columns: The columns, in their order.
    """
    condition, parameters = where(window)
    wanted = ", ".join(map(quoted, columns))
    return connection.sql(f"SELECT {wanted} FROM {table} WHERE {condition}", params=parameters or None).pl()


def replace(connection: duckdb.DuckDBPyConnection, table: TableName, rows: pl.DataFrame, window: Window) -> int:
    """Delete the rows of a window and insert others in their place.

    Args:
        connection: Inside its transaction.
        table: The table; as of :func:`insert`.
        rows: The rows, each inside the window.
        window: What they replace.

    Returns:
        How many rows were deleted.

    Raises:
        ChangedTypeError: As of :func:`insert`.
    """
    deleted = 0
    if table.exists(connection):
        condition, parameters = where(window)
        statement = f"DELETE FROM {table.sql()} WHERE {condition}"
        deleted = connection.execute(statement, parameters).fetchall()[0][0]
    insert(connection, table.sql(), rows)
    return deleted


def stored_name(connection: duckdb.DuckDBPyConnection, dtype: pl.DataType) -> str:
    """The type under which a frame's column is kept, as SQL reads it."""
    connection.register(_SOURCE, pl.DataFrame(schema={"column": dtype}))
    found = types(connection, f"temp.main.{quoted(_SOURCE)}")
    connection.unregister(_SOURCE)
    return found["column"]


def types(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """The columns of a table with their types, both as SQL reads a definition."""
    return {column: dtype for column, dtype, *_ in connection.execute(f"DESCRIBE {table}").fetchall()}
