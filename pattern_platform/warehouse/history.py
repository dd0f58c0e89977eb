"""The tables of an asset whose state is rebuilt from its history: what is in them, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.errors import InvalidMetadataError, UnsupportedTableError
from pattern_platform.lake.changes import REASON
from pattern_platform.lake.checks import listed
from pattern_platform.lake.lineage import Lineage, Record
from pattern_platform.lake.version_table import version_frame
from pattern_platform.warehouse.names import TableName
from pattern_platform.warehouse.rows import insert

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import dagster as dg
    import duckdb

    from pattern_platform.lake.changes import Changes

_HISTORY, _VERSIONS, _QUARANTINE = "__history", "__versions", "__quarantine"
PARTITION, POSITION, DELETED = "_partition", "_position", "_deleted"
_REASON, _RUN = "_reason", "_run_id"


@dataclass(frozen=True)
class HistoryTables:
    """Tables beside each other: the state, its history, which partitions it holds, and the rows that were set aside.

    Args:
        connection: Open for as long as the tables are used; inside a transaction, where they are written.
        asset: Whose tables they are.
        table: Where they are.
    """

    connection: duckdb.DuckDBPyConnection
    asset: str
    table: TableName

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, key: dg.AssetKey) -> HistoryTables:
        """The tables of an asset, which need not exist."""
        return cls(connection, key.to_user_string(), TableName.of(connection, key))

    @property
    def state(self) -> str:
        """Name of the state as SQL reads it."""
        return self.table.sql()

    @property
    def history(self) -> str:
        """Name of the history as SQL reads it."""
        return self.table.sql(_HISTORY)

    @property
    def schema(self) -> pl.Schema:
        """The columns of the state, as the history knows them."""
        history = self.connection.table(self.history).limit(0).pl().schema
        return pl.Schema({c: t for c, t in history.items() if c not in (PARTITION, POSITION, DELETED)})

    def lineage(self) -> Lineage:
        """Which partitions were merged, and in which order; an empty lineage where there are no tables.

        Raises:
            UnsupportedTableError: The tables are not those of this asset, or one of them is gone.
        """
        there = {suffix: self.table.exists(self.connection, suffix) for suffix in ("", _HISTORY, _VERSIONS)}
        if not any(there.values()):
            return Lineage()
        if gone := [self.table.name + suffix for suffix, found in there.items() if not found]:
            raise UnsupportedTableError(
                f"table {self.table.name!r} of asset {self.asset!r} was refused",
                why=f"there is no {listed(gone)} beside it, so the platform did not make it, or cannot rebuild it",
                mend="give the asset another key, or drop what is left of its tables and replay its partitions",
            )
        rows = self._versions()
        if others := sorted(set(rows["asset"]) - {self.asset}):
            raise UnsupportedTableError(
                f"table {self.table.name!r} of asset {self.asset!r} was refused",
                why=f"it belongs to asset {listed(others)}: two parts of a key name a table, whatever their case",
                mend="give one of the two assets another key",
            )
        return _lineage(
            Record(r["position"], r["execution_time"], r["table_version"], r["run_id"], r["recorded_at"])
            for r in rows.iter_rows(named=True)
        )

    def refuse_other_keys(self, merge_keys: Sequence[str]) -> None:
        """Refuse keys by which the history was not merged: it may hold one of them twice in a partition.

        Raises:
            InvalidMetadataError: Names both.
        """
        merged_by = self._versions()["merge_keys"][0].to_list()
        if set(merged_by) != set(merge_keys):
            raise InvalidMetadataError(
                f'metadata "merge_keys" of asset {self.asset!r} was refused',
                why=f"its history was merged by {listed(merged_by)}, and it declares {listed(merge_keys)}",
                mend="declare what the history has, or drop the asset's tables and replay its partitions",
            )

    def replace_changes(self, key: str, position: str, changes: Changes) -> None:
        """Replace what the history holds of a partition."""
        self._forget(key, _HISTORY)
        for rows, deleted in ((changes.upserts, False), (changes.deletes, True)):
            of_a_change = {PARTITION: key, POSITION: position, DELETED: deleted}
            insert(
                self.connection,
                self.history,
                rows.with_columns(pl.lit(value).alias(column) for column, value in of_a_change.items()),
            )

    def set_aside(self, key: str, run_id: str, bad: pl.DataFrame) -> None:
        """Replace the bad rows of a partition, which came with the column :data:`REASON`."""
        self._forget(key, _QUARANTINE)
        if bad.height:
            rows = bad.rename({REASON: _REASON}).with_columns(pl.lit(key).alias(PARTITION), pl.lit(run_id).alias(_RUN))
            insert(self.connection, self.table.sql(_QUARANTINE), rows)

    def write_versions(self, lineage: Lineage, merge_keys: Sequence[str]) -> None:
        """Replace the table that shows which partitions the state holds."""
        whose = (pl.lit(self.asset).alias("asset"), pl.lit(list(merge_keys)).alias("merge_keys"))
        self.connection.execute(f"DROP TABLE IF EXISTS {self.table.sql(_VERSIONS)}")
        insert(self.connection, self.table.sql(_VERSIONS), version_frame(lineage).with_columns(whose))

    def _versions(self) -> pl.DataFrame:
        return self.connection.table(self.table.sql(_VERSIONS)).pl()

    def _forget(self, key: str, suffix: str) -> None:
        if self.table.exists(self.connection, suffix):
            of_partition = f"DELETE FROM {self.table.sql(suffix)} WHERE {PARTITION} = $key"
            self.connection.execute(of_partition, {"key": key})


def extended(lineage: Lineage, key: str, position: str, run_id: str) -> Lineage:
    """The lineage after one more partition. A version is a counter here; the first run makes version 1."""
    version = max(lineage.version, 0) + 1
    return _lineage({**lineage.records, key: Record(position, key, version, run_id, datetime.now(UTC))}.values())


def _lineage(records: Iterable[Record]) -> Lineage:
    """A lineage from its records alone; the newest of them is the last commit."""
    ordered = {record.partition: record for record in sorted(records, key=lambda record: record.position)}
    return Lineage(version=max(record.version for record in ordered.values()), records=ordered)


def refuse_columns(asset: str, columns: Iterable[str]) -> None:
    """Refuse columns that the tables use themselves.

    Raises:
        InvalidMetadataError: A column says where a row of the history or the quarantine comes from.
    """
    if taken := [column for column in columns if column.lower() in (PARTITION, POSITION, DELETED, _REASON, _RUN)]:
        raise InvalidMetadataError(
            f"column(s) {listed(taken)} of asset {asset!r} were refused",
            why="the history and the quarantine say with them where a row comes from",
            mend="rename them in the asset",
        )
