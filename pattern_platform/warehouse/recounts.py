"""What the registries of a DuckDB file count once rows were erased, of partitions and of versions."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.errors import MissingVersionError
from pattern_platform.lake.window import Window
from pattern_platform.warehouse.loads import SUFFIX
from pattern_platform.warehouse.names import TableName, quoted
from pattern_platform.warehouse.versions import VERSIONS, snapshot_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb

_FORMATS = {10: "%Y-%m-%d", 16: "%Y-%m-%d-%H:%M"}  # how long a partition key is -> how it is written
_PARTITION = "_partition"


@dataclass(frozen=True)
class Removed:
    """What a table lost.

    Args:
        rows: How many rows.
        condition: Which, in SQL; its parameter is ``$key``.
    """

    rows: int
    condition: str


def recount_loads(
    connection: duckdb.DuckDBPyConnection, catalog: str, removed: Mapping[TableName, Removed], key: str
) -> None:
    """Let the registries of loaded partitions count the rows that are left.

    Args:
        connection: On the old file and the new one.
        catalog: Name of the new file.
        removed: What each table of the old file lost.
        key: Parameter of the conditions.
    """
    for table in removed:
        name = table.name.removesuffix(SUFFIX)
        family = [t for t in removed if t.schema == table.schema and f"{t.name}__".startswith(f"{name}__")]
        lost = [t for t in family if removed[t].rows]
        if name == table.name or not lost:
            continue
        registry = TableName(catalog, table.schema, table.name).sql()
        counted = dict(
            connection.execute(f'SELECT partition, "rows" FROM {registry} WHERE "rows" IS NOT NULL').fetchall()
        )
        for each in lost:
            for partition, rows in _by_partition(connection, each, removed[each], counted, key).items():
                connection.execute(f'UPDATE {registry} SET "rows" = "rows" - ? WHERE partition = ?', [rows, partition])


def recount_versions(connection: duckdb.DuckDBPyConnection, catalog: str) -> None:
    """Let the registries of versions count the rows that are left in the tables that they name.

    Args:
        connection: As of :func:`recount_loads`.
        catalog: As of :func:`recount_loads`.
    """
    found = connection.execute(
        "SELECT database_name, schema_name, table_name FROM duckdb_columns() WHERE database_name = ? "
        "AND ends_with(table_name, ?) AND column_name = 'delta_version'",  # other tables of that name count nothing
        [catalog, VERSIONS],
    )
    for registry in [TableName(*name).sql() for name in found.fetchall()]:
        there = connection.table(registry).pl().filter(pl.col("removed_at").is_null())
        for version in there.iter_rows(named=True):
            with suppress(MissingVersionError):  # its table was removed by hand: nothing to count
                rows = snapshot_of(version).scan(Window()).select(pl.len()).collect().item()
                if rows != version["rows"]:
                    statement = f'UPDATE {registry} SET "rows" = ? WHERE version = ?'
                    connection.execute(statement, [rows, version["version"]])


def _by_partition(
    connection: duckdb.DuckDBPyConnection, table: TableName, removed: Removed, counted: Mapping[str, int], key: str
) -> Mapping[str, int]:
    """How many rows each partition lost from a table.

    A column says it that holds the partition: the first by which every row is of a partition that the registry counts,
    and none has more rows than it counts. Where there is none, the sum of the registry is kept right, no more.
    """
    described = connection.execute(f"DESCRIBE {table.sql()}").fetchall()
    written = {_FORMATS.get(len(partition), "") for partition in counted}
    for column, dtype, *_ in sorted(described, key=lambda row: row[0] != _PARTITION):
        partition = quoted(column)
        if dtype.startswith(("DATE", "TIMESTAMP")) and len(written) == 1:
            partition = f"strftime({partition}, '{min(written)}')"
        elif dtype != "VARCHAR":
            continue
        parts = connection.execute(
            f"SELECT {partition}, count(*), count(*) FILTER ({removed.condition}) FROM {table.sql()} GROUP BY ALL",
            {"key": key},
        ).fetchall()
        if all(rows <= counted.get(part, 0) for part, rows, _ in parts):
            return {part: lost for part, _, lost in parts if lost}
    left, spread = removed.rows, {}
    for part, rows in counted.items():
        spread[part] = min(rows, left)
        left -= spread[part]
    return spread
