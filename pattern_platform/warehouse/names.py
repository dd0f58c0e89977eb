"""Names of tables as SQL reads them, whatever they contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pattern_platform.errors import UnsafeAssetKeyError

if TYPE_CHECKING:
    import dagster as dg
    import duckdb


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


def refuse_reserved(key: dg.AssetKey) -> None:
    """Refuse a name that a table beside another may have.

    Raises:
        UnsafeAssetKeyError: The last part of the key has two underscores, or would end with one before them.
    """
    if "__" in f"{key.path[-1]}_":
        raise UnsafeAssetKeyError(
            f"asset key {key.to_user_string()!r} was refused",
            why="names with '__' are those of tables beside another, such as its registry; so may one with '_' last",
            mend="choose another name",
        )
