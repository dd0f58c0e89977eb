"""Rows by key in PostgreSQL: staged with ``COPY``, upserted in one transaction."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import dagster as dg
import polars as pl

from pattern_platform.errors import InvalidMetadataError, LossyCastError, MissingDriverError, UnsafeAssetKeyError
from pattern_platform.lake.checks import listed
from pattern_platform.lake.mentions import mentioned
from pattern_platform.warehouse.keyed_store import PARTITION, KeyedTable, ServedStore, without_secrets
from pattern_platform.warehouse.loads import SUFFIX, Loads
from pattern_platform.warehouse.names import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from types import ModuleType

    from adbc_driver_manager.dbapi import Cursor

    from pattern_platform.lake.subject import Subject

_STAGING, _STAGED_LOADS = "pattern_platform_rows", "pattern_platform_loads"
_LONGEST_NAME = 63
_PLACE = "_place"  # of a row in its table, while nobody writes


class PostgresStore(ServedStore):
    """A table in PostgreSQL. The last part of an asset key names it, the part before it the schema.

    Args:
        url: As ``postgresql://user:password@host:5432/database``; take the password from the environment.
    """

    kind: Literal["postgres"] = "postgres"
    url: str

    @property
    def uri(self) -> str:
        """The server and the database, without user and password."""
        return without_secrets(self.url)

    @contextmanager
    def opened(self, asset: dg.AssetKey, key_name: str, *, writing: bool) -> Generator[KeyedTable]:
        """Open the table; writers of one asset follow each other."""
        dbapi = _driver()
        *_, schema, name = ("public", *asset.path)
        stored = {schema: schema, name: name + SUFFIX}  # the longest name that begins with it
        if unnamed := [part for part, kept in stored.items() if not part or len(kept.encode()) > _LONGEST_NAME]:
            raise UnsafeAssetKeyError(
                f"asset key {asset.to_user_string()!r} was refused",
                why=f"{unnamed[0]!r} is empty, or longer with {SUFFIX!r} than the {_LONGEST_NAME} bytes of a name",
                mend="give the part another name",
            )
        with dbapi.connect(self.url) as connection, connection.cursor() as cursor:
            if not writing:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # registry and rows of one moment
            cursor.execute("SET LOCAL TimeZone = 'UTC'")
            if writing:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))::text", (f"{schema}.{name}",))
                cursor.fetchall()
                cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
            yield _PostgresTable.of(cursor, schema, name, asset.to_user_string(), key_name)
            connection.commit()  # without it everything is rolled back

    def find(self, subject: Subject) -> dict[str, int]:
        """Count the rows with the key in one of the subject's columns."""
        return self._of_each(lambda table: table.rows_of(subject, subject.in_row).height, writing=False)

    def erase(self, subject: Subject) -> dict[str, int]:
        """Delete those rows, and write their tables anew: a deleted row stays in its page."""
        return self._of_each(lambda table: table.erase(subject), writing=True)

    def left(self, subject: Subject) -> list[str]:
        """The assets of which a row names the subject."""
        return list(
            self._of_each(
                lambda table: table.rows_of(subject, lambda schema: mentioned(schema, subject)).height, writing=False
            )
        )

    def _of_each(self, count: Callable[[_PostgresTable], int], *, writing: bool) -> dict[str, int]:
        """A count by asset, where it is not zero."""
        dbapi, found = _driver(), {}
        try:
            for asset in self._assets():
                with self.opened(dg.AssetKey.from_user_string(asset), "", writing=writing) as table:
                    found[asset] = count(cast("_PostgresTable", table))
            if writing:
                with dbapi.connect(self.url, autocommit=True) as connection, connection.cursor() as cursor:
                    for asset in found:
                        *_, schema, name = ("public", *dg.AssetKey.from_user_string(asset).path)
                        cursor.execute(f"VACUUM (FULL) {quoted(schema)}.{quoted(name)}")
        except dbapi.OperationalError as error:
            raise self.unreachable(error) from error
        return {asset: rows for asset, rows in found.items() if rows}

    def _assets(self) -> list[str]:
        """The assets whose rows are here, as their registries name them."""
        with _driver().connect(self.url) as connection, connection.cursor() as cursor:
            named = SUFFIX.replace("_", r"\_")
            cursor.execute(
                "SELECT table_schema::text, table_name::text FROM information_schema.tables "
                f"WHERE table_name LIKE '%{named}' ORDER BY table_schema, table_name"
            )
            registries = [".".join(map(quoted, name)) for name in cast("list[tuple[str, str]]", cursor.fetchall())]
            found: set[str] = set()
            for registry in registries:
                cursor.execute(f"SELECT DISTINCT asset FROM {registry}")
                found |= {asset for (asset,) in cast("list[tuple[str]]", cursor.fetchall())}
        return sorted(found)


@dataclass(frozen=True)
class _PostgresTable:
    cursor: Cursor
    schema_name: str
    name: str
    loads: Loads
    key_name: str

    @classmethod
    def of(cls, cursor: Cursor, schema: str, name: str, asset: str, key_name: str) -> _PostgresTable:
        table = cls(cursor, schema, name, Loads.none(asset), key_name)
        rows = table._select(f"SELECT * FROM {table.sql(SUFFIX)}") if table.exists(SUFFIX) else None
        loads = Loads.checked(asset, rows, table=name, table_exists=table.exists())
        return cls(cursor, schema, name, loads, key_name)

    def sql(self, suffix: str = "") -> str:
        return f"{quoted(self.schema_name)}.{quoted(self.name + suffix)}"

    def exists(self, suffix: str = "") -> bool:
        self.cursor.execute(
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = $1 AND table_name = $2",
            (self.schema_name, self.name + suffix),
        )
        return cast("list[tuple[int]]", self.cursor.fetchall())[0][0] > 0

    @property
    def schema(self) -> pl.Schema | None:
        if not self.exists():
            return None
        found = self._select(f"SELECT * FROM {self.sql()} LIMIT 0").schema
        return pl.Schema({column: dtype for column, dtype in found.items() if column != PARTITION})

    @property
    def partitions(self) -> list[str]:
        return self.loads.held

    def keys(self, partitions: Sequence[str]) -> set[str]:
        if not self.exists():
            return set()
        statement = f"SELECT {quoted(self.key_name)} FROM {self.sql()} WHERE {PARTITION} = ANY($1)"
        self.cursor.execute(statement, (list(partitions),))
        return {key for (key,) in self.cursor.fetchall()}

    def write(self, rows: pl.DataFrame, *, delete: Sequence[str], counted: Mapping[str, int], run_id: str) -> None:
        key = quoted(self.key_name)
        _refuse_unstorable(rows)
        # Never appended to the table itself: binary COPY does not look at its types.
        self.cursor.adbc_ingest(_STAGING, rows.to_arrow(), mode="create", temporary=True)
        self._make_columns(rows)
        names = ", ".join(map(quoted, rows.columns))
        replaced = ", ".join(f"{quoted(c)} = excluded.{quoted(c)}" for c in rows.columns if c != self.key_name)
        self.cursor.execute(
            f"INSERT INTO {self.sql()} ({names}) SELECT {names} FROM {_STAGING} ORDER BY {key} "
            f"ON CONFLICT ({key}) DO UPDATE SET {replaced}"
        )
        if delete:
            self.cursor.execute(f"DELETE FROM {self.sql()} WHERE {key} = ANY($1)", (list(delete),))
        self._write_loads(self.loads.with_partitions(counted, run_id).rows)

    def _write_loads(self, rows: pl.DataFrame) -> None:
        """Replace the registry by its rows: a table that is dropped and made again would be locked against inputs."""
        self.cursor.adbc_ingest(_STAGED_LOADS, rows.to_arrow(), mode="create", temporary=True)
        registry = self.sql(SUFFIX)
        self.cursor.execute(f"CREATE TABLE IF NOT EXISTS {registry} AS SELECT * FROM {_STAGED_LOADS} WITH NO DATA")
        self.cursor.execute(f"DELETE FROM {registry}")
        self.cursor.execute(f"INSERT INTO {registry} SELECT * FROM {_STAGED_LOADS}")

    def read(self, partitions: Sequence[str] | None) -> pl.DataFrame:
        if partitions is None:
            rows = self._select(f"SELECT * FROM {self.sql()}")
        else:
            rows = self._select(f"SELECT * FROM {self.sql()} WHERE {PARTITION} = ANY($1)", list(partitions))
        return rows.drop(PARTITION)

    def rows_of(self, subject: Subject, chosen: Callable[[pl.Schema], pl.Expr]) -> pl.DataFrame:
        """Rows of a subject, with the place where each is stored."""
        schema = self.schema
        if schema is None:
            return pl.DataFrame(schema={_PLACE: pl.String, PARTITION: pl.String})
        # The key, or what may be written as an escape: quick to tell of most rows that it is not there.
        may = " OR ".join(rf"strpos({quoted(c)}::text, $1) > 0 OR strpos({quoted(c)}::text, '\') > 0" for c in schema)
        rows = self._select(f"SELECT ctid::text AS {_PLACE}, * FROM {self.sql()} WHERE {may}", subject.key)
        return rows.filter(chosen(schema))

    def erase(self, subject: Subject) -> int:
        """Delete the rows of a subject."""
        gone = self.rows_of(subject, subject.in_row)
        if gone.height:
            places = gone[_PLACE].to_list()
            self.cursor.execute(f"DELETE FROM {self.sql()} WHERE ctid = ANY($1::text[]::tid[])", (places,))
            for partition, rows in gone[PARTITION].value_counts().iter_rows():
                self.cursor.execute(
                    f"UPDATE {self.sql(SUFFIX)} SET rows = rows - $1 WHERE partition = $2", (rows, partition)
                )
        return gone.height

    def _make_columns(self, rows: pl.DataFrame) -> None:
        """Make the table, or its new columns, as the staged rows are."""
        if not self.exists():
            self.cursor.execute(f"CREATE TABLE {self.sql()} AS SELECT * FROM {_STAGING} WITH NO DATA")
            self.cursor.execute(f"ALTER TABLE {self.sql()} ADD PRIMARY KEY ({quoted(self.key_name)})")
            return
        held = self.schema or {}
        if new := [column for column in rows.columns if column not in held and column != PARTITION]:
            self.cursor.execute(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
                f"WHERE attrelid = '{_STAGING}'::regclass AND attnum > 0"
            )
            types = dict(cast("list[tuple[str, str]]", self.cursor.fetchall()))
            for column in new:
                self.cursor.execute(f"ALTER TABLE {self.sql()} ADD COLUMN {quoted(column)} {types[column]}")

    def _select(self, statement: str, *parameters: object) -> pl.DataFrame:
        self.cursor.execute(statement, parameters or None)
        return cast("pl.DataFrame", pl.from_arrow(self.cursor.fetch_arrow_table()))


def _driver() -> ModuleType:
    try:
        from adbc_driver_postgresql import dbapi  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDriverError(
            "a store in PostgreSQL was refused", why=str(error), mend='install "pattern-platform[postgres]"'
        ) from error
    return dbapi


def _refuse_unstorable(rows: pl.DataFrame) -> None:
    """Refuse what PostgreSQL would cut off, or cannot hold.

    Raises:
        InvalidMetadataError: The name of a column is too long.
        LossyCastError: A text has a NUL in it.
    """
    if long := [column for column in rows.columns if len(column.encode()) > _LONGEST_NAME]:
        raise InvalidMetadataError(
            f"column(s) {listed(long)} were refused",
            why=f"PostgreSQL cuts names off after {_LONGEST_NAME} bytes",
            mend="rename them in the asset",
        )
    texts = {c: rows[c].explode() if isinstance(t, pl.List) else rows[c] for c, t in rows.schema.items()}
    if nul := [c for c, v in texts.items() if v.dtype == pl.String and v.str.contains("\0", literal=True).any()]:
        raise LossyCastError(
            f"column(s) {listed(nul)} were refused",
            why="PostgreSQL has no texts with NUL (U+0000) in them",
            mend="replace it in the asset",
        )
