"""Transactional Writer: several tables, one transaction; readers see all of it or nothing.

Problem: a task that writes several tables, or one table in several steps, and dies between them leaves what nobody
asked for. A retry adds to it, and readers have used it meanwhile.

Guarantee: an asset returns a mapping from the names of its tables to frames, and ONE transaction replaces the run's
partitions in all of them (``DELETE`` and ``INSERT`` a table). The rules that it declares, a primary key and checks a
table, are the database's own: a row that breaks one rolls everything back. A run that fails or dies at any step leaves
every table as it was; a retry, and any repetition, leaves nothing twice. Readers see the tables before or after.

An input is the mapping, or with the metadata ``table`` one of its tables. The tables are ``<name>__<table>``.

Limits: the tables are in one DuckDB file; over two files, or two Delta tables, no commit is atomic: there, publish
through one pointer (see ``proxy``). For one Delta table see ``transactional_writer_delta``. The batch is held in
memory. The rules of a table with rows stay what they are. One process holds a DuckDB file at a time, readers included.

Shown by: ``warehouse/billing`` (daily): ad impressions and their totals, two tables, one truth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import duckdb

from pattern_platform.errors import BrokenRuleError, InvalidMetadataError, UnsupportedFrameError
from pattern_platform.lake.checks import input_name, listed
from pattern_platform.lake.declarations import (
    InputDeclaration,
    TableDeclaration,
    TableRules,
    TransactionDeclaration,
    TransactionInputDeclaration,
)
from pattern_platform.lake.frames import to_lazy
from pattern_platform.warehouse.io_manager import DuckDBIOManager, Load
from pattern_platform.warehouse.loads import Loads
from pattern_platform.warehouse.names import quoted
from pattern_platform.warehouse.rows import comment, create, replace, set_comment

if TYPE_CHECKING:
    import dagster as dg
    import polars as pl

    from pattern_platform.warehouse.inputs import Read
    from pattern_platform.warehouse.names import TableName

_BROKEN_CHECK = re.compile(
    r"Constraint Error: CHECK constraint failed on table .*? with expression (CHECK\(.*)", re.DOTALL
)


class TransactionalWriterIOManager(DuckDBIOManager):
    """Replace the run's partitions in several tables, in one transaction.

    Args:
        database: Path of the DuckDB file. The last part of an asset key begins the names of the tables, the part before
            it is the schema.
    """

    declaration: ClassVar[type[TableDeclaration]] = TransactionDeclaration
    input_declaration: ClassVar[type[InputDeclaration]] = TransactionInputDeclaration

    def prepared(self, value: object) -> object:
        """The frames, read before the file is held."""
        if not isinstance(value, Mapping):
            raise UnsupportedFrameError(
                f"a value of type {type(value).__name__} was refused",
                why="tables that are written together come as a mapping from their names to frames",
                mend='return {"<table>": frame, ...} with the tables that the asset declares',
            )
        return {name: to_lazy(frame).collect(engine="streaming") for name, frame in value.items()}

    def write(self, load: Load, value: object) -> dict[str, Any]:
        """Write the tables one after the other; the transaction around them is the caller's."""
        tables = cast("TransactionDeclaration", load.declared).tables
        frames = cast("dict[str, pl.DataFrame]", value)
        if set(frames) != set(tables):
            raise InvalidMetadataError(
                f"what asset {load.asset!r} returned was refused",
                why=f"it declares the tables {listed(tables)}, and returned {listed(frames)}",
                mend="return every declared table, one without rows as an empty frame with its columns",
            )
        loads = Loads.of(load.connection, load.table, load.asset)
        held = load.table.suffixes(load.connection)
        if loads.rows.height and {name.lower() for name in held} != {name.lower() for name in tables}:
            raise InvalidMetadataError(
                f'metadata "tables" of asset {load.asset!r} was refused',
                why=f"its partitions were loaded into {listed(held)}: another table would lack them, or keep old ones",
                mend="declare those, or drop the tables of the asset and replay its partitions",
            )
        metadata: dict[str, Any] = {}
        counted: dict[str, int] = {}
        for name, rules in tables.items():
            table = load.table.beside(f"__{name}")
            batch, deleted = _replaced(load, table, rules, frames[name])
            counted = {key: n + counted.get(key, 0) for key, n in load.counted(batch).items()}
            metadata[f"duckdb/{name}_rows_inserted"] = batch.height
            metadata[f"duckdb/{name}_rows_deleted"] = deleted
        if len(counted) == 1:
            metadata["dagster/partition_row_count" if load.keys else "dagster/row_count"] = sum(counted.values())
        loads.with_partitions(counted, load.run_id).write(load.connection, load.table)
        return metadata

    def read(self, read: Read) -> object:
        """One of the tables, or all of them by name."""
        wanted = cast("TransactionInputDeclaration", read.declared).table
        names = read.table.suffixes(read.connection)
        if wanted is None:
            return {name: read.rows(read.table.beside(f"__{name}")) for name in names}
        if wanted not in names:
            raise InvalidMetadataError(
                f'metadata "table" of input {input_name(read.context)!r} was refused',
                why=f"{read.context.asset_key.to_user_string()!r} has the tables {listed(names)}",
                mend="name one of them, or leave it out for all",
            )
        return self.as_asked(read.context, read.rows(read.table.beside(f"__{wanted}")))

    def nothing(self, context: dg.InputContext) -> object:
        """No table, or a frame without columns where one table is asked for."""
        return super().nothing(context) if "table" in context.definition_metadata else {}


def _replaced(load: Load, table: TableName, rules: TableRules, frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Replace the run's partitions in one table; a broken rule is an error that names the rule, not the row."""
    connection, exists = load.connection, table.exists(load.connection)
    if exists and comment(connection, table) != rules.model_dump_json():
        raise InvalidMetadataError(
            f"the rules of table {table.name!r} were refused",
            why="the table was made with others",
            mend="declare those, or drop the tables of the asset and replay its partitions",
        )
    batch = load.fitted(frame, connection.table(table.sql()).limit(0).pl().schema if exists else None)
    try:
        if not exists:
            _make(connection, table, rules, batch)
        return batch, replace(connection, table, batch, load.window(batch.schema))
    except duckdb.ConstraintException as error:
        broken = _BROKEN_CHECK.match(str(error))
        raise BrokenRuleError(
            f"rows for table {table.name!r} were refused",
            why=f"they break {broken[1].split(' (Error: ')[0]}"  # what comes then quotes the row
            if broken
            else f"they are there twice, or null, by {listed(rules.primary_key)}",
            mend="mend them in the asset; no table was changed",
        ) from None  # as DuckDB's own message does


def _make(connection: duckdb.DuckDBPyConnection, table: TableName, rules: TableRules, rows: pl.DataFrame) -> None:
    """Make a table with its rules, and keep them with it."""
    keys = ", ".join(map(quoted, rules.primary_key))
    constraints = [*([f"PRIMARY KEY ({keys})"] if keys else []), *(f"CHECK ({rule})" for rule in rules.checks)]
    try:
        create(connection, table.sql(), rows, constraints=constraints)
    except duckdb.Error as error:  # there is no row yet that it could quote
        raise InvalidMetadataError(
            f"the rules of table {table.name!r} were refused",
            why=str(error).splitlines()[0],
            mend="write them as SQL does, with columns of the table",
        ) from error
    set_comment(connection, table, rules.model_dump_json())
