"""A table in units that are thrown away whole: their tables, the view over them, freezing, and changes of the schema.

Every function here runs inside the transaction of its caller, so a reader sees the units and the view as they were or
as they will be. None deletes a row.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

import duckdb
import polars as pl

from pattern_platform.errors import (
    InvalidMetadataError,
    ReplayUnitError,
    TooManyUnitsError,
    UnsupportedTableError,
)
from pattern_platform.lake.checks import listed
from pattern_platform.lake.lineage import replay_commands
from pattern_platform.lake.schema import casts_to
from pattern_platform.warehouse.loads import Loads
from pattern_platform.warehouse.names import quoted
from pattern_platform.warehouse.rows import comment, insert, set_comment, stored_name
from pattern_platform.warehouse.unit_calendar import FROZEN, FULL, end_of, frozen_name

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from pattern_platform.warehouse.names import TableName
    from pattern_platform.warehouse.unit_calendar import Unit

MOST_UNITS = 1000  # the view is bound again by every reader: a tenth of a second for so many
_WARN_FROM = 800
_LENGTHS = ("day", "week", "month", "year")
_TYPE = re.compile(r"[\w ]+(\([\d, ]+\))?(\[\])*")


@dataclass(frozen=True)
class Units:
    """The units of an asset.

    Args:
        connection: Inside a transaction, where something is changed.
        table: The view that consumers know; a unit is ``<name>__<unit>`` beside it.
        loads: Which partitions are in which unit.
    """

    connection: duckdb.DuckDBPyConnection
    table: TableName
    loads: Loads

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, table: TableName, asset: str) -> Units:
        """The units of an asset, which need not exist."""
        return cls(connection, table, Loads.of(connection, table, asset))

    @property
    def names(self) -> list[str]:
        """The units in their order."""
        return sorted(set(self.loads.rows["unit"]), key=lambda unit: unit.removeprefix(FROZEN))

    def columns(self) -> dict[str, dict[str, str]]:
        """The columns of each unit with their types as SQL reads them, from the catalogue alone."""
        rows = self.connection.execute(
            "SELECT lower(table_name), column_name, data_type FROM duckdb_columns() WHERE database_name = ? "
            "AND lower(schema_name) = lower(?) AND starts_with(lower(table_name), lower(?)) "
            "ORDER BY table_name, column_index",
            [self.table.catalog, self.table.schema, f"{self.table.name}__"],
        )
        found: dict[str, dict[str, str]] = {unit: {} for unit in self.names}
        for name, column, dtype in rows.fetchall():
            if (unit := name[len(self.table.name) + 2 :]) in found:
                found[unit][column] = dtype
        return found

    def schema(self, columns: Mapping[str, Mapping[str, str]]) -> pl.Schema:
        """The columns of all units, those of later units last.

        Args:
            columns: As of :meth:`columns`.
        """
        first_with: dict[str, str] = {}
        for unit, of_unit in columns.items():
            for column in of_unit:
                first_with.setdefault(column, unit)
        schema: dict[str, pl.DataType] = {}
        for unit in dict.fromkeys(first_with.values()):
            found = self.connection.table(self.sql(unit)).limit(0).pl().schema
            schema |= {column: found[column] for column, holder in first_with.items() if holder == unit}
        return pl.Schema({column: schema[column] for column in first_with})

    def sql(self, unit: str) -> str:
        """Name of a unit as SQL reads it."""
        return self.table.sql(f"__{unit}")

    # Changes ----------------------------------------------------------------------------------------------------------

    def reset(self, unit: str, *, truncate: bool) -> None:
        """Throw a unit's rows away, whatever they are.

        Raises:
            UnsupportedTableError: There is a table of its name that is none of the units.
        """
        if unit not in self.names and self.table.exists(self.connection, f"__{unit}"):
            raise UnsupportedTableError(
                f"unit {unit!r} of {self.table.name!r} was refused",
                why="there is a table of its name that the platform did not make",
                mend="rename or drop it, then run again",
            )
        if truncate and self.table.exists(self.connection, f"__{unit}"):
            self.connection.execute(f"TRUNCATE {self.sql(unit)}")
        else:
            self.connection.execute(f"DROP TABLE IF EXISTS {self.sql(unit)}")

    def load(self, unit: str, rows: pl.DataFrame) -> None:
        """Append rows to a unit, which is made, and gets new columns, as the rows ask for."""
        insert(self.connection, self.sql(unit), rows)

    def expose(self, columns: Mapping[str, Mapping[str, str]]) -> None:
        """Record which partitions the units hold, and swap the view for one over all units, unless it is that already.

        Args:
            columns: As of :meth:`columns`, after all changes.

        Raises:
            TooManyUnitsError: The view would be over more units than it can bear.
        """
        units = self.names
        if len(units) > MOST_UNITS:
            raise TooManyUnitsError(
                f"unit {units[-1]!r} of {self.table.name!r} was refused",
                why=f"the view would be over {len(units)} tables, and {MOST_UNITS} is the most that it bears",
                mend="freeze old units into months or years, then run again",
            )
        over = sha256(json.dumps([[unit, columns[unit]] for unit in units]).encode()).hexdigest()
        if comment(self.connection, self.table, "view") != over:
            # Bare names, which a view finds beside itself: of names with a catalogue DuckDB keeps the rest, which is
            # ambiguous where file and schema are called the same.
            self.connection.execute(f"USE {quoted(self.table.catalog)}.{quoted(self.table.schema)}")
            parts = " UNION ALL BY NAME ".join(f"FROM {quoted(f'{self.table.name}__{unit}')}" for unit in units)
            self.connection.execute(f"CREATE OR REPLACE VIEW {self.table.sql()} AS {parts}")
            set_comment(self.connection, self.table, over, "view")  # gone where someone else makes or drops the view
        self.loads.write(self.connection, self.table)

    @property
    def warning(self) -> str | None:
        """What to say when the most units are near."""
        if len(self.names) < _WARN_FROM:
            return None
        return f"{len(self.names)} units of at most {MOST_UNITS}: freeze old ones into months or years"

    def frozen(self, into: Literal["month", "year"], before: dt.date, *, unit: Unit) -> Units:
        """Put the units of whole months or years together.

        Args:
            into: What they become: ``<name>__frozen_YYYYMM`` or ``<name>__frozen_YYYY``. A unit belongs where it
                starts.
            before: The first day that stays as it is, with the month or year around it.
            unit: What the table is divided into.

        Returns:
            The units after it, not exposed yet. The partitions of a frozen unit cannot be loaded again.

        Raises:
            InvalidMetadataError: They would not become longer.
            ReplayUnitError: Partitions of them wait for their replay.
        """
        if _LENGTHS.index(into) <= _LENGTHS.index(unit):
            raise InvalidMetadataError(
                f"freezing {self.table.name!r} into a {into} was refused",
                why=f"its units are no shorter, each is a {unit}",
                mend="freeze into something longer",
            )
        target = {
            name: frozen
            for name in self.names
            if name != FULL and (frozen := frozen_name(name, into)) != name and end_of(frozen, unit) <= before
        }
        waiting = self.loads.rows.filter(pl.col("unit").is_in(list(target)), pl.col("rows").is_null())["partition"]
        if waiting.len():
            raise ReplayUnitError(
                f"freezing {self.table.name!r} was refused",
                why="partitions of a frozen unit cannot be loaded again, and some wait for their replay",
                mend=f"replay them before:\n{replay_commands(self.loads.asset, waiting)}",
            )
        for name, frozen in target.items():
            self.load(frozen, self.connection.table(self.sql(name)).pl())
            self.connection.execute(f"DROP TABLE {self.sql(name)}")
        rows = self.loads.rows.with_columns(pl.col("unit").replace(target))
        return replace(self, loads=replace(self.loads, rows=rows))

    def align(self, types: Mapping[str, str]) -> list[str]:
        """Bring every unit to the columns of all, and some columns to wider types.

        Args:
            types: New types by column, as SQL reads them.

        Returns:
            The units that were changed.

        Raises:
            InvalidMetadataError: There is no such column.
            LossyCastError: A new type does not hold every value of the old one.
            ChangedTypeError: The types do not belong together.
        """
        before = self.columns()
        schema = self.schema(before)
        if unknown := [column for column in types if column not in schema]:
            raise InvalidMetadataError(
                f"a change of column(s) {listed(unknown)} was refused",
                why=f"{self.table.name!r} has the columns {', '.join(schema)}",
                mend="name columns of the table",
            )
        wider = {column: self._type(column, text) for column, text in types.items()}
        for column, (_, dtype) in wider.items():
            casts_to(pl.Schema({column: dtype}), pl.Schema({column: schema[column]}), "strict")
        every = {column: dtype for columns in before.values() for column, dtype in columns.items()}
        every |= {column: name for column, (name, _) in wider.items()}
        changed = []
        for unit, columns in before.items():
            statements = [f"ADD COLUMN {quoted(c)} {t}" for c, t in every.items() if c not in columns]
            statements += [f"ALTER {quoted(c)} SET DATA TYPE {every[c]}" for c, t in columns.items() if t != every[c]]
            for statement in statements:
                self.connection.execute(f"ALTER TABLE {self.sql(unit)} {statement}")
            changed += [unit] if statements else []
        return changed

    def _type(self, column: str, text: str) -> tuple[str, pl.DataType]:
        """A type as the catalogue names it, and as Polars does."""
        try:
            found = (
                self.connection.sql(f"SELECT CAST(NULL AS {text}) AS new, typeof(new)")
                if _TYPE.fullmatch(text)
                else None
            )
        except duckdb.Error:
            found = None
        name, dtype = (found.fetchall()[0][1], found.limit(0).pl().schema["new"]) if found else (None, pl.Null())
        if name is None or name != stored_name(self.connection, dtype):
            raise InvalidMetadataError(
                f"type {text!r} of column {column!r} was refused",
                why="DuckDB has no such type, or no batch could have it: a frame has no such type",
                mend="write it as SQL does, for example BIGINT or DECIMAL(18, 2)",
            )
        return name, dtype


def optional(columns: Mapping[str, Mapping[str, str]]) -> set[str]:
    """The columns that some unit does without.

    Args:
        columns: As of :meth:`Units.columns`.
    """
    having = Counter(column for of_unit in columns.values() for column in of_unit)
    return {column for column, units in having.items() if units < len(columns)}
