"""Stores of rows by key: what each of them can do, and the one that is embedded.

Which store it is, is configuration. What a row may hold is therefore what every store keeps exactly.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import dagster as dg
import duckdb
import polars as pl

from pattern_platform.errors import UnreachableStoreError, UnsupportedTypeError
from pattern_platform.lake.schema import stored_schema
from pattern_platform.warehouse.database import connected, path_of, transaction
from pattern_platform.warehouse.loads import Loads
from pattern_platform.warehouse.names import TableName, quoted
from pattern_platform.warehouse.rows import upsert

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pattern_platform.lake.subject import Subject


PARTITION = "_partition"  # which partition wrote a row last; not part of what consumers load
_SCALARS = (pl.String, pl.Int16, pl.Int32, pl.Int64, pl.Float32, pl.Float64, pl.Boolean, pl.Date, pl.Datetime)


class KeyedTable(Protocol):
    """The rows of an asset in a store, open for one transaction."""

    @property
    @abstractmethod
    def schema(self) -> pl.Schema | None:
        """The columns, the key among them; None where there is nothing yet."""

    @property
    @abstractmethod
    def partitions(self) -> list[str]:
        """The partitions that were written."""

    @abstractmethod
    def keys(self, partitions: Sequence[str]) -> set[str]:
        """The keys that some partitions wrote last."""

    @abstractmethod
    def write(self, rows: pl.DataFrame, *, delete: Sequence[str], counted: Mapping[str, int], run_id: str) -> None:
        """Insert the rows of new keys, replace those of known keys, and delete some, all or nothing.

        Args:
            rows: Rows with the key, and with :data:`PARTITION`.
            delete: Keys to delete.
            counted: Rows by partition, for the record of what was written.
            run_id: The run.
        """

    @abstractmethod
    def read(self, partitions: Sequence[str] | None) -> pl.DataFrame:
        """The rows of some partitions, or of all of them."""


class KeyedStore(dg.Config):
    """Where rows are kept by their key."""

    @abstractmethod
    def opened(self, asset: dg.AssetKey, key_name: str, *, writing: bool) -> AbstractContextManager[KeyedTable]:
        """Open the rows of an asset.

        Args:
            asset: The asset.
            key_name: Column of the key.
            writing: Whether rows are written; a reader makes nothing.
        """

    @property
    @abstractmethod
    def uri(self) -> str:
        """Where it is, without a secret."""

    def refuse(self) -> None:
        """Refuse a store that cannot be, by its configuration alone."""


class ServedStore(KeyedStore):
    """A store that a server keeps, so that its rows are in no folder of the platform.

    What is asked and erased here is of every asset that the store holds, also of one that is no longer defined.
    """

    @abstractmethod
    def find(self, subject: Subject) -> dict[str, int]:
        """Count the rows of a subject, by asset; assets without are left out.

        Raises:
            UnreachableStoreError: The server does not answer, or does not let us in.
        """

    @abstractmethod
    def erase(self, subject: Subject) -> dict[str, int]:
        """Delete the rows of a subject for good, and count them as :meth:`find` does.

        What the server keeps beside its tables, such as backups and logs of its own, is for whoever runs it.

        Raises:
            UnreachableStoreError: As of :meth:`find`.
        """

    @abstractmethod
    def left(self, subject: Subject) -> list[str]:
        """Where a subject is still named, in any value.

        Raises:
            UnreachableStoreError: As of :meth:`find`.
        """

    def unreachable(self, error: Exception) -> UnreachableStoreError:
        """The error for a server that does not answer; what its driver says may name a password."""
        return UnreachableStoreError(
            f"the store at {self.uri} was refused",
            why=f"it cannot be reached, or refuses us ({type(error).__name__})",
            mend="see that the server runs and that its URL has a user who may read and write; then run again",
        )


def keyed_schema(schema: pl.Schema) -> pl.Schema:
    """The types under which every store keeps the columns of a batch.

    Args:
        schema: Schema of the batch.

    Raises:
        UnsupportedTypeError: Not every store keeps a type exactly.
    """
    stored = {c: pl.Int16() if t == pl.Int8 else t for c, t in stored_schema(schema).items()}
    for column, dtype in stored.items():
        inner = dtype.inner if isinstance(dtype, pl.List) else dtype
        if inner not in _SCALARS:
            raise UnsupportedTypeError(
                f"column {column!r} of type {dtype} was refused",
                why="not every store keeps it exactly, as all do texts, numbers, flags, dates, times and lists of them",
                mend="cast it in the asset, a struct for example with .struct.json_encode()",
            )
    return pl.Schema(stored)


def without_secrets(url: str) -> str:
    """A URL without user, password and parameters, for metadata and messages."""
    scheme, _, rest = url.split("?", maxsplit=1)[0].partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


# DuckDB ---------------------------------------------------------------------------------------------------------------


class DuckDBStore(KeyedStore):
    """A table in a DuckDB file. The last part of an asset key names it, the part before it the schema.

    Args:
        database: Path of the file.
    """

    kind: Literal["duckdb"] = "duckdb"
    database: str

    @property
    def uri(self) -> str:
        """Path of the file."""
        return str(path_of(self.database))

    def refuse(self) -> None:
        """Refuse a database that is no file.

        Raises:
            UnsupportedStorageError: As of :func:`path_of`.
        """
        path_of(self.database)

    @contextmanager
    def opened(self, asset: dg.AssetKey, key_name: str, *, writing: bool) -> Generator[KeyedTable]:
        """Open the table; where there is no file, a reader looks into an empty database."""
        there = path_of(self.database).exists()
        with (
            transaction(self.database)
            if writing
            else connected(self.database)
            if there
            else duckdb.connect() as connection
        ):
            table = TableName.of(connection, asset)
            if writing:
                table.make_schema(connection)
            yield _DuckDBTable(connection, table, Loads.of(connection, table, asset.to_user_string()), key_name)


@dataclass(frozen=True)
class _DuckDBTable:
    connection: duckdb.DuckDBPyConnection
    table: TableName
    loads: Loads
    key_name: str

    @property
    def schema(self) -> pl.Schema | None:
        if not self.table.exists(self.connection):
            return None
        found = self.connection.table(self.table.sql()).limit(0).pl().schema
        return pl.Schema({column: dtype for column, dtype in found.items() if column != PARTITION})

    @property
    def partitions(self) -> list[str]:
        return self.loads.held

    def keys(self, partitions: Sequence[str]) -> set[str]:
        if not self.table.exists(self.connection):
            return set()
        statement = f"SELECT {quoted(self.key_name)} FROM {self.table.sql()} WHERE {PARTITION} IN (SELECT unnest(?))"
        return {key for (key,) in self.connection.execute(statement, [list(partitions)]).fetchall()}

    def write(self, rows: pl.DataFrame, *, delete: Sequence[str], counted: Mapping[str, int], run_id: str) -> None:
        upsert(self.connection, self.table.sql(), rows, self.key_name)
        statement = f"DELETE FROM {self.table.sql()} WHERE {quoted(self.key_name)} IN (SELECT unnest(?))"
        self.connection.execute(statement, [list(delete)])
        self.loads.with_partitions(counted, run_id).write(self.connection, self.table)

    def read(self, partitions: Sequence[str] | None) -> pl.DataFrame:
        rows = self.connection.table(self.table.sql()).pl()
        if partitions is not None:
            rows = rows.filter(pl.col(PARTITION).is_in(partitions))
        return rows.drop(PARTITION)
