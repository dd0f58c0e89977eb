"""DuckDB files of a namespace in its clone: copied while nobody else has them, and what they name moved along."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from pattern_platform.errors import UnsupportedTableError
from pattern_platform.operations.namespaces.folders import PARTS
from pattern_platform.warehouse.database import connected
from pattern_platform.warehouse.names import TableName

if TYPE_CHECKING:
    from pathlib import Path

_GLOB = re.compile(r"([*?\[])")  # what DuckDB takes for a pattern in a path


@dataclass(frozen=True)
class Move:
    """The paths of one namespace as those of another.

    Args:
        source: Absolute root of the one.
        target: Absolute root of the other.
    """

    source: Path
    target: Path

    def path(self, path: str, *, of: str) -> str:
        """A path below the source as it is below the target.

        Args:
            path: The path.
            of: What names it.

        Raises:
            UnsupportedTableError: It is not below the source.
        """
        if any(path.startswith(f"{self.source / part}/") for part in PARTS):
            return f"{self.target}{path.removeprefix(str(self.source))}"
        raise UnsupportedTableError(
            f"a clone of {of} was refused",
            why=f"it names a path that is not below {self.source}, where both namespaces would meet",
            mend="materialize what it belongs to again, so that it names where the tables are now; then clone again",
        )

    def sql(self, statement: str) -> str:
        """A statement whose texts name files below the target where they named files below the source."""
        for escaped in (lambda path: _GLOB.sub(r"[\1]", path), str):  # both are the same where no sign is special
            for part in PARTS:
                before, after = (escaped(f"{root / part}/").replace("'", "''") for root in (self.source, self.target))
                for start in ("'", "'file://"):
                    statement = statement.replace(start + before, start + after)
        return statement


def copy_database(file: Path, target: Path, move: Move) -> bool:
    """Copy a DuckDB file.

    Args:
        file: The file.
        target: The copy.
        move: From the namespace to its clone.

    Returns:
        Whether it names paths, which :func:`move_paths` has still to move.

    Raises:
        DatabaseLockedError: Someone else held the file for too long.
    """
    with connected(str(file)) as connection:
        connection.execute("CHECKPOINT")
        # By another process: when a process closes a file that it also has open elsewhere, the kernel takes away all
        # of its locks on it, DuckDB's among them.
        subprocess.run(["cp", "-p", "--", file, target], check=True)  # noqa: S603, S607 - paths, behind --
        return bool(_registries(connection) or _views(connection, move))


def move_paths(file: Path, move: Move) -> None:
    """Let the registries of versions of a copied DuckDB file name, and its views show, the tables of the clone.

    Args:
        file: The copy.
        move: From the namespace to its clone, whose tables must be there.

    Raises:
        UnsupportedTableError: A registry names a table outside of the namespace, a view files that are not there.
    """
    with connected(str(file)) as connection:
        for table in _registries(connection):
            uris = connection.execute(f"SELECT DISTINCT uri FROM {table.sql()}").fetchall()  # noqa: S608 - quoted
            for (uri,) in uris:
                moved = move.path(uri, of=f"{file.name}, {table.name}")
                connection.execute(f"UPDATE {table.sql()} SET uri = ? WHERE uri = ?", [moved, uri])  # noqa: S608 - quoted
        for view, sql in _views(connection, move).items():
            try:
                connection.execute(sql.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))
            except duckdb.Error as error:
                raise UnsupportedTableError(
                    f"a clone of {file.name} was refused",
                    why=f"view {view} cannot be made anew: see the error below this one",
                    mend="publish it again, or drop it; then clone again",
                ) from error


def _views(connection: duckdb.DuckDBPyConnection, move: Move) -> dict[str, str]:
    """The views that name files of the namespace, each with the statement that names those of the clone."""
    found = connection.execute(
        "SELECT schema_name || '.' || view_name, sql FROM duckdb_views() WHERE NOT internal "
        "AND database_name = current_database() ORDER BY view_oid"
    )
    return {view: moved for view, sql in found.fetchall() if (moved := move.sql(sql)) != sql}


def _registries(connection: duckdb.DuckDBPyConnection) -> list[TableName]:
    """The registries of versions, see :mod:`pattern_platform.warehouse.versions`."""
    found = connection.execute(
        "SELECT database_name, schema_name, table_name FROM duckdb_columns() WHERE NOT internal "
        "AND database_name = current_database() AND ends_with(table_name, '__versions') "
        "AND column_name IN ('uri', 'table_id', 'delta_version') GROUP BY ALL HAVING count(*) = 3"
    )
    return [TableName(*name) for name in found.fetchall()]
