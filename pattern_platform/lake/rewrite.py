"""A rewrite of rows: which rows of which files change, and the files as they shall be."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import polars as pl
import pyarrow as pa

from pattern_platform.errors import InvalidErasureError, MissingTableError, UnsupportedTableError
from pattern_platform.lake.files import partition_value, scan_file
from pattern_platform.lake.object_path import ObjectPath, files_below
from pattern_platform.lake.snapshot import Snapshot, open_table, refuse_unwritable
from pattern_platform.lake.statistics import read_footer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pattern_platform.lake.log_scrub import Action
    from pattern_platform.lake.object_path import LakePath

_AT_WORK_SECONDS = 600  # a stream writes more often than that
_MAGIC = b"PAR1"  # how a Parquet file begins
APPEND_ONLY = "delta.appendOnly"


class Rewrite(Protocol):
    """What is rewritten, and how."""

    def touched(self, schema: pl.Schema) -> pl.Expr:
        """The rows that change, of files with some columns."""
        ...

    def rewritten(self, rows: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
        """Rows as they shall be; the others among them as they are."""
        ...

    def is_gone(self, path: str) -> bool:
        """Whether all of a file goes, for its folder says whose it is."""
        ...

    def scrubbed(self, action: Action, table: LakePath) -> Action | None:
        """An action of the log without what it keeps of those rows; None for a file that is gone."""
        ...


def opened(table: LakePath) -> Snapshot:
    """A table whose files may be rewritten.

    Raises:
        MissingTableError: There is none.
        UnsupportedTableError: It is of a kind that cannot be rewritten.
    """
    snapshot = open_table(table)
    if snapshot is None:
        raise MissingTableError(
            f"table {table.name!r} was refused", why="there is no Delta table", mend="give the folder of a table"
        )
    # Append-only binds writers. What must be forgotten is forgotten there too, without a commit that would break it.
    refuse_unwritable(replace(snapshot, properties={k: v for k, v in snapshot.properties.items() if k != APPEND_ONLY}))
    elsewhere = any(path.startswith("/") or "://" in path for path in snapshot.files["path"])
    if elsewhere or '"type":"map"' in snapshot.handle.schema().to_json().replace(" ", ""):
        raise UnsupportedTableError(
            f"table {table.name!r} was refused",
            why="it names files outside its folder, as a shallow clone does"
            if elsewhere
            else "it has a column of maps, which this writer would store as lists",
            mend="rewrite it with the engine that made it",
        )
    return snapshot


# Live files ---------------------------------------------------------------------------------------------------------


def live_files(snapshot: Snapshot) -> dict[str, Mapping[str, str | None]]:
    """The live files with their partition values, as the log writes them."""
    columns = snapshot.partition_columns
    return {
        file["path"]: {c: partition_value(file[f"partition.{c}"]) for c in columns}
        for file in snapshot.files.iter_rows(named=True)
    }


def touched_files(snapshot: Snapshot, rewrite: Rewrite) -> dict[str, int]:
    """The live files that hold touched rows, with their number."""
    counted = {path: _counted_live(snapshot, path, values, rewrite) for path, values in live_files(snapshot).items()}
    return {path: rows for path, rows in counted.items() if rows}


# One file -----------------------------------------------------------------------------------------------------------


def _counted_live(snapshot: Snapshot, path: str, values: Mapping[str, str | None], rewrite: Rewrite) -> int:
    """How many rows of a live file change."""
    try:
        return count_touched(snapshot, path, values, rewrite)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InvalidErasureError(
            f"a rewrite of table {snapshot.table.name!r} was refused",
            why=f"its file {path.rpartition('/')[2]} cannot be read, and nobody can say which rows it holds",
            mend="bring the file back from a backup, or materialize its partition again; then run again",
        ) from error


def count_touched(snapshot: Snapshot, path: str, values: Mapping[str, str | None], rewrite: Rewrite) -> int:
    """How many rows of a file change.

    Args:
        snapshot: The table.
        path: The file, by path below the table.
        values: Its partition values, as the log writes them.
        rewrite: What changes.
    """
    rows = _rows(snapshot, path, values)
    return rows.filter(rewrite.touched(rows.collect_schema())).select(pl.len()).collect(engine="streaming").item()


def rewritten_rows(snapshot: Snapshot, path: str, values: Mapping[str, str | None], rewrite: Rewrite) -> pl.LazyFrame:
    """The rows of a file as they shall be, with the columns that it has, in the types that Delta Lake knows."""
    own = scan_file(snapshot.table / path).collect_schema()
    rows = _rows(snapshot, path, values)
    return rewrite.rewritten(rows, rows.collect_schema()).select(*own)


def _rows(snapshot: Snapshot, path: str, values: Mapping[str, str | None]) -> pl.LazyFrame:
    """The rows of a file, its partition values among them, and nulls for the columns of the table that it lacks."""
    file = snapshot.table / path
    own = scan_file(file).collect_schema()
    given = [_literal(snapshot, column, text) for column, text in values.items() if text and column in snapshot.schema]
    known = {*own, *(column for column, text in values.items() if text)}
    lacking = [pl.lit(None, dtype=dtype).alias(c) for c, dtype in snapshot.schema.items() if c not in known]
    moments = [
        pl.col(c).dt.cast_time_unit("us") for c, t in own.items() if isinstance(t, pl.Datetime) and t.time_unit != "us"
    ]
    return scan_file(file).with_columns(*moments, *given, *lacking)


def _literal(snapshot: Snapshot, column: str, text: str) -> pl.Expr:
    """A partition value, which the log keeps as text; moments are in UTC, with a Z or without."""
    dtype = snapshot.schema[column]
    zoned = isinstance(dtype, pl.Datetime) and dtype.time_zone and not text.endswith("Z")
    value = pa.array([f"{text}Z" if zoned else text]).cast(pl.Series(column, [], dtype).to_arrow().type)
    return pl.lit(pl.Series(value)[0], dtype=dtype).alias(column)


# Files on disk ------------------------------------------------------------------------------------------------------


def data_files(table: LakePath) -> Iterator[str]:
    """The data files below a table, whatever they are called, by path below it."""
    for path in files_below(table):
        if "_delta_log" not in path.split("/") and _is_data(table / path):
            yield path


def _is_data(file: LakePath) -> bool:
    if file.suffix == ".parquet":
        return True
    with suppress(FileNotFoundError):
        if isinstance(file, ObjectPath):
            return file.footer().endswith(_MAGIC)
        with file.open("rb") as begun:
            return begun.read(len(_MAGIC)) == _MAGIC
    return False


def is_readable(file: LakePath) -> bool:
    """Whether a file has the footer that a Parquet file ends with."""
    try:
        read_footer(file)
    except (OSError, pa.ArrowException):
        return False
    return True


def is_at_work(file: LakePath) -> bool:
    """Whether a file was written to so recently that its writer may be at work on it."""
    return time.time() - file.stat().st_mtime < _AT_WORK_SECONDS
