"""Rows of DuckDB tables: made, inserted, upserted, replaced and read, by the names of their columns."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import polars as pl

from pattern_platform.errors import ChangedTypeError
from pattern_platform.warehouse.names import quoted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    import duckdb

    from pattern_platform.lake.window import Bound, Window
    from pattern_platform.warehouse.names import TableName

_SOURCE = "pattern_platform_rows"


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


def comment(
    connection: duckdb.DuckDBPyConnection, table: TableName, kind: Literal["table", "view"] = "table"
) -> str | None:
    """The text that is kept with a table or a view; None where there is none."""
    found = connection.execute(
        f"SELECT comment FROM duckdb_{kind}s() WHERE database_name = ? AND lower(schema_name) = lower(?) "
        f"AND lower({kind}_name) = lower(?)",
        [table.catalog, table.schema, table.name],
    ).fetchall()
    return found[0][0] if found else None


def set_comment(
    connection: duckdb.DuckDBPyConnection, table: TableName, text: str, kind: Literal["table", "view"] = "table"
) -> None:
    """Keep a text with a table or a view."""
    escaped = text.replace("'", "''")
    connection.execute(f"COMMENT ON {kind} {table.sql()} IS '{escaped}'")


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
