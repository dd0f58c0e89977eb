"""What is refused of a batch, and of a declaration that contradicts its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.errors import InvalidMetadataError, NullInRequiredColumnError, RowsOutsidePartitionError
from pattern_platform.lake.files import scan_files, statistics_frame

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import dagster as dg

    from pattern_platform.lake.declarations import TableDeclaration
    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.window import Window
    from pattern_platform.lake.write import Write

_NAMED_AT_MOST = 10


def refuse_outside(rows: pl.LazyFrame, window: Window) -> None:
    """Refuse a batch with rows that belong to another partition, or to none.

    Raises:
        RowsOutsidePartitionError: Names the number of such rows, never the rows.
    """
    if outside := rows.select((~window.rows).sum()).collect().item():
        raise outside_refusal(outside, window)


def outside_refusal(rows: int, window: Window) -> RowsOutsidePartitionError:
    """The refusal of a number of rows that are outside of a window."""
    return RowsOutsidePartitionError(
        f"{rows} row(s) were refused",
        why=f"their {', '.join(window.columns)} is not in partition(s) {listed(window.pieces)}",
        mend="filter them in the asset, or write them in the run of their own partition",
    )


def refuse_unfit(batch: Sequence[DataFile], write: Write) -> None:
    """Check what a lazy batch turned out to hold; the footers answer, and a file is read only where they cannot.

    Raises:
        NullInRequiredColumnError: Nulls in a column that the table declares NOT NULL.
        RowsOutsidePartitionError: As :func:`refuse_outside`.
    """
    partition_columns = write.declaration.partition_by
    files = statistics_frame(batch, {**write.window.columns, **{c: write.schema[c] for c in partition_columns}})
    required = write.snapshot.required if write.snapshot else frozenset()
    refuse_nulls_of_files(batch, required, write.table, write.schema, partition_columns)
    if write.rows_are_checked:
        return
    inside, _ = write.window.split(files)
    if inside.height < files.height:
        unsure = files.join(inside, on="path", how="anti")
        refuse_outside(scan_files(write.table, unsure, write.schema, partition_columns), write.window)


def refuse_nulls_of_files(
    files: Sequence[DataFile],
    required: Collection[str],
    table: LakePath,
    schema: pl.Schema,
    partition_columns: Sequence[str] = (),
) -> None:
    """Refuse nulls in new files, in columns that the table declares NOT NULL.

    Args:
        files: The files.
        required: Those columns.
        table: Directory of the table.
        schema: Columns of the files, and the physical partition columns.
        partition_columns: Physical partition columns.

    Raises:
        NullInRequiredColumnError: Names the columns.
    """
    nulls = {c for c in required for f in files if c in f.statistics and f.statistics[c].nulls}
    if unknown := [c for c in required if any(c not in f.statistics for f in files)]:  # such as lists: no footer counts
        found = statistics_frame(files, {c: schema[c] for c in partition_columns})
        counted = scan_files(table, found, schema, partition_columns).select(pl.col(unknown).null_count()).collect()
        nulls.update(c for c in unknown if counted[c].item())
    _refuse_nulls_in(nulls)


def refuse_nulls(rows: pl.DataFrame, required: Iterable[str]) -> None:
    """Refuse nulls in columns that the table declares NOT NULL.

    Raises:
        NullInRequiredColumnError: Names the columns.
    """
    _refuse_nulls_in({column for column in required if rows[column].null_count()})


def _refuse_nulls_in(columns: Iterable[str]) -> None:
    if nulls := sorted(columns):
        raise NullInRequiredColumnError(
            f"nulls in column(s) {listed(nulls)} were refused",
            why="the table declares them NOT NULL",
            mend="drop or fill these rows in the asset",
        )


def refuse_layout(declaration: TableDeclaration, schema: pl.Schema, snapshot: Snapshot | None, name: str) -> None:
    """Refuse physical partition columns that the table cannot have.

    Raises:
        InvalidMetadataError: ``partition_by`` names no column, or leaves none, or is not the layout of the table.
    """
    wanted = declaration.partition_by
    unknown = [column for column in wanted if column not in schema]
    if unknown or (wanted and len(set(wanted)) >= len(schema)):
        raise InvalidMetadataError(
            f'metadata "partition_by" of asset {name!r} was refused',
            why=f"there is no column {listed(unknown)}" if unknown else "no column would be left in the files",
            mend=f"choose some of the columns {', '.join(schema)}",
        )
    if untextual := [column for column in wanted if schema[column].is_nested() or schema[column] == pl.Binary]:
        raise InvalidMetadataError(
            f'metadata "partition_by" of asset {name!r} was refused',
            why=f"column(s) {listed(untextual)} have no text form, and a partition value is kept as text",
            mend="choose columns of other types",
        )
    if snapshot and snapshot.partition_columns != wanted:
        raise InvalidMetadataError(
            f'metadata "partition_by" of asset {name!r} was refused',
            why=f"the table is partitioned by {list(snapshot.partition_columns)}, the asset declares {list(wanted)}",
            mend="declare what the table has, or write to a new table: the layout of a table does not change",
        )


def refuse_unknown_columns(columns: Sequence[str] | None, schema: Mapping[str, object], of: str, name: str) -> None:
    """Refuse a projection to columns that a table does not have.

    Args:
        columns: The projection; None for all columns.
        schema: The table's columns.
        of: The input.
        name: The asset that it reads.

    Raises:
        InvalidMetadataError: Names the columns.
    """
    if unknown := [column for column in columns or () if column not in schema]:
        raise InvalidMetadataError(
            f'metadata "columns" of input {of!r} was refused',
            why=f"{name!r} has no column(s) {listed(unknown)}; it has {', '.join(schema)}",
            mend="name columns of the table",
        )


def input_name(context: dg.InputContext) -> str:
    """What an input is called; the asset, where it is loaded outside of a run, as by ``load_asset_value``."""
    return context.name if context.has_input_name else context.asset_key.to_user_string()


def listed(names: Sequence[str] | Mapping[str, object]) -> str:
    """Names for an error message, not more than a reader takes in."""
    shown = [repr(name) for name in list(names)[:_NAMED_AT_MOST]]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
