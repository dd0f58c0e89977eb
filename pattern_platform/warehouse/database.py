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

from pattern_platform.errors import ChangedTypeError, DatabaseLockedError, UnsafeAssetKeyError, UnsupportedStorageError

if TYPE_CHECKING:
    from collections.abc import Generator

    import dagster as dg
    import polars as pl

WAIT_SECONDS = 120.0
_PAUSE_SECONDS = 0.05
_TAKEN = ("Could not set lock on file", "different configuration")  # by another process; in this one, set up otherwise
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
            return duckdb.connect(str(path))
        except (duckdb.IOException, duckdb.ConnectionException) as error:
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
    connection.register(_SOURCE, rows)
    source = f"temp.main.{quoted(_SOURCE)}"
    given = types(connection, source)
    # Its columns are named: a table that is made AS SELECT without rows loses, in DuckDB 2.0.0, what the same
    # transaction inserts into it, from 122,880 rows on.
    columns = ", ".join(f"{quoted(column)} {dtype}" for column, dtype in given.items())
    connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
    held = types(connection, table)
    for column, dtype in given.items():
        if column not in held:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(column)} {dtype}")
        elif held[column] != dtype:
            raise ChangedTypeError(
                f"column {column!r} of type {dtype} was refused",
                why=f"the table {table} keeps {held[column]}",
                mend="convert it in the asset, or remove the table where it is left over",
            )
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM {source}")  # noqa: S608 - names are quoted
    connection.unregister(_SOURCE)


def types(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """The columns of a table with their types, both as SQL reads a definition."""
    return {column: dtype for column, dtype, *_ in connection.execute(f"DESCRIBE {table}").fetchall()}
