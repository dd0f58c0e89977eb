"""What one version of a table holds: live files with their statistics, schema, properties.

Opening a table costs its log, so each thread keeps the tables that it used last and asks only for what is new. A table
that was deleted and made again under the same path is noticed by its newest commit file and opened afresh.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

import polars as pl
from deltalake.exceptions import DeltaError, TableNotFoundError

from pattern_platform.errors import MissingVersionError, UnreadableVersionError, UnsupportedTableError
from pattern_platform.lake.files import scan_files
from pattern_platform.lake.log import checkpoint_version, commit_file, is_in_log, readable, refuse_torn
from pattern_platform.lake.object_path import delta_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deltalake import DeltaTable

    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.window import Window

_OPEN_TABLES_PER_THREAD = 32
_READ_FEATURES = {"timestampNtz"}
_WRITE_FEATURES = {
    "timestampNtz",
    "appendOnly",
    "invariants",
    "checkConstraints",
    "changeDataFeed",
    "generatedColumns",
    "identityColumns",
}  # each of them is refused below where a table really uses it
_UNWRITABLE_PROPERTIES = {
    "delta.appendOnly": "true",
    "delta.enableChangeDataFeed": "true",
    "delta.enableDeletionVectors": "true",
}
_UNWRITABLE_FIELDS = ("delta.invariants", "delta.generationExpression", "delta.identity")


class _OpenTables(threading.local):
    """The newest snapshots of this thread, the last used last, each with its commit file."""

    def __init__(self) -> None:
        self.by_path: OrderedDict[LakePath, tuple[Snapshot, tuple[int | str, int]]] = OrderedDict()


_open_tables = _OpenTables()


@dataclass(frozen=True)
class Snapshot:
    """One version of a table.

    Args:
        table: Directory of the table.
        table_id: Identity of the table; one that is made anew under the same path has another.
        version: The version.
        schema: Columns with their stored types.
        partition_columns: Physical partition columns.
        properties: Table properties.
        required: Columns that are declared NOT NULL.
        files: The live files, one a row: ``path`` (as on disk), ``size_bytes``, ``num_records``, and for each column
            with statistics ``min.<column>``, ``max.<column>``, ``null_count.<column>``.
        handle: The open table; it may move on to later versions.
    """

    table: LakePath
    table_id: str
    version: int
    schema: pl.Schema
    partition_columns: tuple[str, ...]
    properties: dict[str, str]
    required: frozenset[str]
    files: pl.DataFrame
    handle: DeltaTable

    def same_shape(self, other: Snapshot) -> bool:
        """Whether both are of one table, with the same columns, layout and NOT NULL columns."""
        return (self.table_id, self.schema, self.partition_columns, self.required) == (
            other.table_id,
            other.schema,
            other.partition_columns,
            other.required,
        )

    @property
    def is_plain(self) -> bool:
        """Whether the live files hold the rows as they are, under their names."""
        protocol = self.handle.protocol()
        is_mapped = protocol.min_reader_version == 2  # noqa: PLR2004 - column mapping
        return not is_mapped and not set(protocol.reader_features or ()) - _READ_FEATURES

    def scan(self, window: Window, files: tuple[pl.DataFrame, pl.DataFrame] | None = None) -> pl.LazyFrame:
        """The rows of a window; files that hold no row of it are not opened.

        Args:
            window: Which rows.
            files: What ``window.split(snapshot.files)`` gives, where the caller has asked already.
        """
        if not self.is_plain:
            return pl.scan_delta(delta_table(self.table, self.version)).filter(window.rows)
        inside, astride = files or window.split(self.files)
        whole = scan_files(self.table, inside, self.schema, self.partition_columns)
        if astride.is_empty():
            return whole
        part = scan_files(self.table, astride, self.schema, self.partition_columns).filter(window.rows)
        return pl.concat([whole, part])

    def recorded(self, app_id: str) -> bool:
        """Whether a commit up to this version carries an application transaction id."""
        return self.handle.transaction_version(app_id) is not None


def open_table(table: LakePath) -> Snapshot | None:
    """The newest version of a table, or None where there is no table.

    Args:
        table: Directory of the table.

    Raises:
        TornCommitError: A commit file is empty.
        UnreadableLogError: The log is damaged.
    """
    known, commit = _open_tables.by_path.pop(table, (None, None))
    if known is not None and commit_file(table, known.version) == commit:
        if commit_file(table, known.version + 1) is None:
            snapshot = known
        else:
            with readable(table):
                known.handle.update_incremental()
            refuse_torn(table, known.version, known.handle.version())
            snapshot = _snapshot(table, known.handle)
    else:
        try:
            with readable(table):
                handle = delta_table(table)
        except TableNotFoundError:
            return None
        refuse_torn(table, checkpoint_version(table), handle.version())
        snapshot = _snapshot(table, handle)
    if snapshot is not known:
        commit = commit_file(table, snapshot.version)
    if commit is not None:
        _open_tables.by_path[table] = snapshot, commit
        if len(_open_tables.by_path) > _OPEN_TABLES_PER_THREAD:
            _open_tables.by_path.popitem(last=False)
    return snapshot


def open_version(table: LakePath, version: int) -> Snapshot:
    """A given version of a table.

    Raises:
        MissingVersionError: There is no such version, or its log was cleaned up, or lacks a commit.
        UnreadableVersionError: The log holds it, and it could not be read.
        TornCommitError: Its commit file is empty.
    """
    try:
        handle = delta_table(table, version)
    except (DeltaError, OverflowError) as error:
        if _is_listed(table, version):
            raise UnreadableVersionError(
                f"version {version} of {table.name!r} could not be read",
                why="the table's log holds it, and reading it failed: see the error below this one",
                mend=f"run again; where that does not help, bring {table.name}/_delta_log back from a backup",
            ) from error
        raise MissingVersionError(
            f"version {version} of {table.name!r} was refused",
            why="the table's log does not hold it: it was never written, was cleaned up, or commits of it are lost",
            mend=f'choose a version of DeltaTable("{table}").history()',
        ) from error
    commit_file(table, version)
    return _snapshot(table, handle)


def _is_listed(table: LakePath, version: int) -> bool:
    """Whether the names of the log's files alone say that a version can be read; asked after reading it failed."""
    try:
        return is_in_log(version, {path.name for path in (table / "_delta_log").iterdir()})
    except (FileNotFoundError, NotADirectoryError):
        return False


def _snapshot(table: LakePath, handle: DeltaTable) -> Snapshot:
    fields = handle.schema().fields
    metadata = handle.metadata()
    files = pl.DataFrame(handle.get_add_actions(flatten=True))
    if files["path"].str.contains("%", literal=True).any():
        files = files.with_columns(pl.col("path").map_elements(unquote, return_dtype=pl.String))
    for column in metadata.partition_columns:
        value = pl.col(f"partition.{column}")
        files = files.with_columns(
            value.alias(f"min.{column}"),
            value.alias(f"max.{column}"),
            pl.when(value.is_null()).then("num_records").otherwise(0).alias(f"null_count.{column}"),
        )
    return Snapshot(
        table=table,
        table_id=str(metadata.id),
        version=handle.version(),
        schema=pl.Schema(handle.schema().to_arrow()),
        partition_columns=tuple(metadata.partition_columns),
        properties={k: v for k, v in metadata.configuration.items() if v is not None},
        required=frozenset(f.name for f in fields if not f.nullable),
        files=files,
        handle=handle,
    )


def refuse_unwritable(snapshot: Snapshot) -> None:
    """Refuse tables whose protocol asks for more than change sets of plain files.

    Raises:
        UnsupportedTableError: The table uses constraints, generated columns, change data feed, column mapping,
            deletion vectors, or is append-only.
    """
    protocol = snapshot.handle.protocol()
    in_use = [
        *(f"feature {f}" for f in sorted(set(protocol.writer_features or ()) - _WRITE_FEATURES)),
        *(f"property {k}" for k in unwritable_properties(snapshot.properties)),
        *(f"{k} of column {f.name}" for f in snapshot.handle.schema().fields for k in _unwritable_metadata(f.metadata)),
    ]
    if in_use:
        raise UnsupportedTableError(
            f"writing to table {snapshot.table.name!r} was refused",
            why=f"it uses {', '.join(in_use)}, which this writer would not honour",
            mend="write it with the engine that made it, or let the platform make a table of its own",
        )


def unwritable_properties(properties: Mapping[str, str]) -> list[str]:
    """The properties, of a table or wanted for one, that ask for more than change sets of plain files."""
    return [
        key
        for key, value in properties.items()
        if _UNWRITABLE_PROPERTIES.get(key) == value
        or key.startswith("delta.constraints.")
        or (key == "delta.columnMapping.mode" and value != "none")
        or key == "delta.setTransactionRetentionDuration"  # delta-rs forgets transaction ids by it, and partitions are
    ]


def _unwritable_metadata(metadata: dict[str, object]) -> list[str]:
    return [key for key in metadata if key.startswith(_UNWRITABLE_FIELDS)]
