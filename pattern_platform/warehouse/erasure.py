"""The rows of a subject in DuckDB files: found, and gone with the blocks that held them.

A row is deleted by leaving it out: the file is written anew with everything that is in it but those rows, and put in
the place of the old one at once. So a file is never half erased, and no freed block keeps what it held. A row is the
subject's where a column of a listed name holds its key, or a field of that name in a nested or a JSON value.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from pattern_platform.errors import RowCountError, UnreadableFileError
from pattern_platform.lake.mentions import names
from pattern_platform.warehouse.database import connected, rewritten
from pattern_platform.warehouse.names import TableName, quoted
from pattern_platform.warehouse.recounts import Removed, recount_loads, recount_versions

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from pattern_platform.lake.subject import Subject

_MAIN = "main"
_AT_ONCE = 1000
# What is in a file besides rows, as text; what each function of the catalogue says of it.
_DEFINITIONS = {
    "schemas": "schema_name, comment",
    "tables": "schema_name, table_name, sql, comment",
    "columns": "schema_name, table_name, column_name, data_type, column_default, comment",
    "views": "schema_name, view_name, sql, comment",
    "indexes": "schema_name, table_name, index_name, sql, comment",
    "constraints": "schema_name, table_name, constraint_text",
    "sequences": "schema_name, sequence_name, last_value, comment",
    "types": "schema_name, type_name, labels, comment",
    "functions": "schema_name, function_name, parameters, macro_definition, comment",
}
_WITH_INTERNAL = ("schemas", "tables", "columns", "views", "types", "functions")


def find_in_database(database: Path, subject: Subject) -> dict[str, int]:
    """Count the rows of a subject.

    Args:
        database: The file.
        subject: Whose rows.

    Returns:
        Rows by table, as ``schema.table``; tables without are left out.

    Raises:
        DatabaseLockedError: Someone else held the file for longer than the limit.
        UnreadableFileError: It is damaged.
    """
    with _readable(database), connected(str(database)) as connection:
        found = {}
        for table in _tables(connection, _current(connection)):
            statement = f"SELECT count(*) FROM {table.sql()} WHERE {_of_subject(connection, table, subject)}"
            if rows := connection.execute(statement, {"key": subject.key}).fetchall()[0][0]:
                found[_named(table)] = rows
    return found


def erase_from_database(database: Path, subject: Subject) -> dict[str, int]:
    """Write a file anew without the rows of a subject, and with its registries as they are then.

    Args:
        database: The file. It is written anew also where it holds no such row: a deleted one may be in its blocks.
        subject: Whose rows.

    Returns:
        Rows by table, as :func:`find_in_database`.

    Raises:
        DatabaseLockedError: As of :func:`find_in_database`.
        UnreadableFileError: As of :func:`find_in_database`, or a row refers to one of the subject by a foreign key.
        RowCountError: The new file would not hold all that the old one does. The old one stays.
    """
    with _readable(database), rewritten(str(database)) as (connection, new):
        old = _current(connection)
        connection.execute(f"COPY FROM DATABASE {quoted(old)} TO {new} (SCHEMA)")
        removed = {table: _copy(connection, table, new, subject) for table in _tables(connection, old)}
        _refuse_unlike(connection, old, new)
        recount_loads(connection, new, removed, subject.key)
        recount_versions(connection, new)
    return {_named(table): lost.rows for table, lost in removed.items() if lost.rows}


def left_in_database(database: Path, subject: Subject) -> list[str]:
    """Where a subject is still named: in any value of any table, and in what defines tables, views and types.

    Args:
        database: The file.
        subject: Who.

    Raises:
        DatabaseLockedError: As of :func:`find_in_database`.
        UnreadableFileError: As of :func:`find_in_database`.
    """
    if subject.key.isdecimal():  # any number: told by its column alone
        return list(find_in_database(database, subject))
    with _readable(database), connected(str(database)) as connection:
        catalog = _current(connection)
        left = [f"definition of {kind}" for kind in _DEFINITIONS if names(_defined(connection, catalog, kind), subject)]
        for table in _tables(connection, catalog):
            for column in _columns(connection, table):
                texts = f"SELECT DISTINCT CAST({quoted(column)} AS VARCHAR) AS value FROM {table.sql()}"
                values = connection.execute(f"FROM ({texts}) WHERE {_mentions('value')}", {"key": subject.key})
                while some := values.fetchmany(_AT_ONCE):
                    if any(names(value, subject) for (value,) in some):
                        left.append(f"{_named(table)}.{column}")
                        break
    return left


def _copy(connection: duckdb.DuckDBPyConnection, table: TableName, new: str, subject: Subject) -> Removed:
    """Copy the rows that are not the subject's, and tell which were left out."""
    into = TableName(new, table.schema, table.name)
    columns = ", ".join(map(quoted, _columns(connection, table, generated=False)))
    condition, key = _of_subject(connection, table, subject), {"key": subject.key}
    kept = f"SELECT {columns} FROM {table.sql()} WHERE NOT {condition}"
    connection.execute(f"INSERT INTO {into.sql()} ({columns}) {kept}", key)
    counts = [f"(SELECT count(*) FROM {table.sql()} WHERE {condition})"]
    counts += [f"(SELECT count(*) FROM {name.sql()})" for name in (table, into)]
    ((removed, before, after),) = connection.execute(f"SELECT {', '.join(counts)}", key).fetchall()
    if before != removed + after:
        raise RowCountError(
            f"table {_named(table)!r} was not written anew",
            why=f"of {before} rows {removed} were to go, and {after} are in the new file",
            mend="run again; where that does not help, report it with the versions that the receipt names",
        )
    return Removed(removed, condition)


def _of_subject(connection: duckdb.DuckDBPyConnection, table: TableName, subject: Subject) -> str:
    """The rows of a subject, as a condition that is never null; its parameter is ``$key``."""
    names = {name.lower() for name in subject.columns}
    fields = [_literal(f"$..{json.dumps(name)}") for name in subject.columns]
    conditions = ["$key IS NULL"]
    for column, dtype in _columns(connection, table).items():
        name = quoted(column)
        if column.lower() in names:
            conditions.append(
                f"list_contains(CAST({name} AS VARCHAR[]), $key)"
                if dtype.endswith("]")
                else f"CAST({name} AS VARCHAR) = $key"
            )
        is_text = dtype in ("VARCHAR", "JSON")
        if is_text or dtype.endswith("]") or dtype.startswith(("STRUCT", "MAP", "UNION")):
            record = name if is_text else f"to_json({name})"
            named = " OR ".join(f"list_contains(json_extract_string({record}, {path}), $key)" for path in fields)
            may = f"{_mentions(name)} AND json_valid({name})" if is_text else f"{name} IS NOT NULL"
            conditions.append(f"CASE WHEN {may} THEN {named} END")
    return f"coalesce({' OR '.join(conditions)}, false)"


def _mentions(name: str) -> str:
    """Whether a text may hold the key, as it is or with escapes: quick to tell of most that do not."""
    return rf"(contains({name}, $key) OR contains({name}, '\'))"


def _tables(connection: duckdb.DuckDBPyConnection, catalog: str) -> list[TableName]:
    """The tables of a file, those that others refer to first."""
    found = connection.execute(
        "SELECT database_name, schema_name, table_name FROM duckdb_tables() "
        "WHERE database_name = ? AND NOT internal ORDER BY table_oid",
        [catalog],
    )
    return [TableName(*name) for name in found.fetchall()]


def _columns(connection: duckdb.DuckDBPyConnection, table: TableName, *, generated: bool = True) -> dict[str, str]:
    """The columns of a table with their types as SQL reads them."""
    found = connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = ? AND schema_name = ? "
        "AND table_name = ? AND (? OR NOT is_generated) ORDER BY column_index",
        [table.catalog, table.schema, table.name, generated],
    )
    return dict(found.fetchall())


def _defined(connection: duckdb.DuckDBPyConnection, catalog: str, kind: str) -> str:
    """What the catalogue says of all tables, views or the like of a file, as one text."""
    own = "AND NOT internal" if kind in _WITH_INTERNAL else ""
    rows = connection.execute(
        f"SELECT {_DEFINITIONS[kind]} FROM duckdb_{kind}() WHERE database_name = ? {own} ORDER BY ALL", [catalog]
    )
    return "\n".join(repr(row) for row in rows.fetchall())


def _refuse_unlike(connection: duckdb.DuckDBPyConnection, old: str, new: str) -> None:
    """Refuse a new file that lacks a table, a view, an index or the like of the old one.

    Raises:
        RowCountError: Names what differs.
    """
    if unlike := [k for k in _DEFINITIONS if _defined(connection, old, k) != _defined(connection, new, k)]:
        raise RowCountError(
            f"database {old!r} was not written anew",
            why=f"its {', '.join(unlike)} would not be the same in the new file",
            mend="report it, with the version of DuckDB; the file is as it was",
        )


@contextmanager
def _readable(database: Path) -> Generator[None]:
    """Name the file where DuckDB finds it damaged; a message of DuckDB may quote a value.

    Raises:
        UnreadableFileError: In place of its error.
    """
    try:
        yield
    except duckdb.Error as error:
        raise UnreadableFileError(
            f"database {database.name!r} was refused",
            why=f"it cannot be read, or not written anew ({type(error).__name__})",
            mend="see the error below this one; bring it back from a backup, or move it away, then run again",
        ) from error


def _current(connection: duckdb.DuckDBPyConnection) -> str:
    return connection.execute("SELECT current_database()").fetchall()[0][0]


def _named(table: TableName) -> str:
    return table.name if table.schema == _MAIN else f"{table.schema}.{table.name}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
