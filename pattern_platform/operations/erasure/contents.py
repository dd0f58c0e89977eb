"""What is done with each kind of content: rows of a subject counted, erased, and looked for once more."""

from __future__ import annotations

import csv
import shutil
import sqlite3
import zlib
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
from deltalake.exceptions import DeltaError

from pattern_platform.errors import UnreadableFileError
from pattern_platform.lake.erasure import erase_from_table, find_in_table, left_in_table
from pattern_platform.lake.mentions import mentioned, names
from pattern_platform.lake.whole_file import whole_file
from pattern_platform.operations.erasure import texts
from pattern_platform.operations.erasure.places import Content
from pattern_platform.warehouse.erasure import erase_from_database, find_in_database, left_in_database

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from pattern_platform.lake.erasure import TableErasure
    from pattern_platform.lake.subject import Subject
    from pattern_platform.operations.erasure.places import Place

_TEXTS = (Content.CSV, Content.LINES, Content.JSON)
_OF_POLARS = "ARROW:schema"  # of a Parquet file, which Polars writes itself
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    csv.Error,
    zlib.error,
    sqlite3.Error,
    pl.exceptions.PolarsError,
    DeltaError,
)


@dataclass(frozen=True)
class Erased:
    """What was, or would be, erased in a place.

    Args:
        place: Name of the place, of a DuckDB file with the table.
        kind: Kind of the place, or ``store``.
        rows: How many rows; of a Delta table those of its newest version.
        versions: The versions of a Delta table that were committed.
        files: Data files of a Delta table that held the subject, older versions included.
        log_files: Files of its log that did.
    """

    place: str
    kind: str
    rows: int
    versions: tuple[int, ...] = ()
    files: int = 0
    log_files: int = 0


def find(place: Place, subject: Subject) -> list[Erased]:
    """What is there of a subject; nothing is changed.

    Raises:
        UnreadableFileError: The file is damaged.
        DatabaseLockedError: Someone else holds it.
        PatternPlatformError: A Delta table is damaged.
    """
    found: list[Erased] = []
    if not place.path.exists():
        return found  # it was there a moment ago, such as a log that is kept for some days
    with _named(place):
        match place.content:
            case Content.TABLE:
                found = _of_table(place, find_in_table(place.path, subject))
            case Content.DATABASE:
                found = _of_database(place, find_in_database(place.file, subject))
            case Content.PARQUET:
                found = _of_file(place, _count_parquet(place.file, subject))
            case Content.CSV | Content.LINES | Content.JSON if not place.kept:
                found = _of_file(place, texts.count(place.file, place.content, subject))
            case Content.TEXT | Content.CSV | Content.LINES | Content.JSON:
                texts.mentions(place.file, subject)  # it can be read
    return found


def erase(place: Place, subject: Subject, metadata: Mapping[str, object]) -> list[Erased]:
    """Erase a subject from a place.

    Args:
        place: The place; one that is kept stays as it is.
        subject: Who.
        metadata: For the commits of a Delta table.

    Raises:
        UnreadableFileError: The file is damaged, or cannot be written.
        DatabaseLockedError: Someone else holds it.
        PatternPlatformError: A Delta table was refused.
    """
    if place.kept or not place.path.exists():
        return []
    with _named(place):
        match place.content:
            case Content.TABLE:
                return _of_table(place, erase_from_table(place.path, subject, metadata=metadata))
            case Content.DATABASE:
                return _of_database(place, erase_from_database(place.file, subject))
            case Content.PARQUET:
                return _of_file(place, _erase_parquet(place.file, subject))
            case Content.UNFINISHED:
                place.file.unlink(
                    missing_ok=True
                )  # of a run that was killed; one that is under way fails, and is repeated
        return _of_file(place, texts.erase(place.file, place.content, subject)) if place.content in _TEXTS else []


def left(place: Place, subject: Subject) -> list[str]:
    """Where a place still names a subject; a place that nobody can look into counts as one that does.

    Raises:
        UnreadableFileError: The file is damaged.
        DatabaseLockedError: Someone else holds it.
    """
    if not place.path.exists():
        return []
    with _named(place):
        match place.content:
            case Content.TABLE:
                return [f"{place.name}/{file}" for file in left_in_table(place.path, subject)]
            case Content.DATABASE:
                return [f"{place.name}: {where}" for where in left_in_database(place.file, subject)]
            case Content.CLOSED:
                return [f"{place.name}: cannot be looked into"]
            case Content.PARQUET:
                is_left = _mentioned_in_parquet(place.file, subject)
            case Content.SQLITE:
                is_left = texts.mentions(place.file, subject) or _mentioned_in_sqlite(place.file, subject)
            case _:
                is_left = texts.mentions(place.file, subject)
                if place.content in _TEXTS and not is_left:
                    is_left = texts.count(place.file, place.content, subject) > 0  # a number, in a column of its own
    return [place.name] if is_left else []


def _of_table(place: Place, found: TableErasure) -> list[Erased]:
    erased = Erased(place.name, place.kind, found.rows, tuple(found.versions), found.files, found.log_files)
    return [erased] if erased.rows or erased.files or erased.log_files else []


def _of_database(place: Place, rows: Mapping[str, int]) -> list[Erased]:
    return [Erased(f"{place.name}: {table}", place.kind, n) for table, n in rows.items()]


def _of_file(place: Place, rows: int) -> list[Erased]:
    return [Erased(place.name, place.kind, rows)] if rows else []


# Parquet and SQLite ---------------------------------------------------------------------------------------------------


def _scan(file: Path) -> pl.LazyFrame:
    return pl.scan_parquet(file, glob=False, hive_partitioning=False)


def _count_parquet(file: Path, subject: Subject) -> int:
    rows = _scan(file)
    return rows.filter(subject.in_row(rows.collect_schema())).select(pl.len()).collect().item()


def _erase_parquet(file: Path, subject: Subject) -> int:
    found = _count_parquet(file, subject)
    if found:
        rows, metadata = _scan(file), pl.read_parquet_metadata(file)
        with whole_file(file) as unfinished:
            kept = {name: value for name, value in metadata.items() if name != _OF_POLARS}
            rows.filter(~subject.in_row(rows.collect_schema())).sink_parquet(unfinished, metadata=kept)
            shutil.copystat(file, unfinished)  # as of texts.erase
    return found


def _mentioned_in_parquet(file: Path, subject: Subject) -> bool:
    rows, metadata = _scan(file), pl.read_parquet_metadata(file)
    told = " ".join(value for name, value in metadata.items() if name != _OF_POLARS)
    if names(told, subject):
        return True
    return rows.select(mentioned(rows.collect_schema(), subject).any()).collect().item()


def _mentioned_in_sqlite(file: Path, subject: Subject) -> bool:
    """Whether a value names a subject: one that goes on over pages is whole nowhere in the file's bytes."""
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            quoted = table.replace('"', '""')
            for row in connection.execute(f'SELECT * FROM "{quoted}"'):  # noqa: S608 - quoted
                for value in row:
                    if isinstance(value, bytes):
                        text = _inflated(value).decode(errors="replace")
                    elif isinstance(value, str):
                        text = value
                    else:
                        continue
                    if names(text, subject):
                        return True
    return False


def _inflated(value: bytes) -> bytes:
    """Dagster compresses what it keeps of definitions."""
    try:
        return zlib.decompress(value)
    except zlib.error:
        return value


@contextmanager
def _named(place: Place) -> Generator[None]:
    """Name the place where it cannot be read or written; what an engine says may quote a value.

    Raises:
        UnreadableFileError: In place of the engine's error.
    """
    try:
        yield
    except (*_UNREADABLE, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnreadableFileError(
            f"{place.name} was refused",
            why=f"it cannot be read or written as {place.content.value} ({reason or type(error).__name__})",
            mend="see who may read and write it; where it is damaged, bring it back from a backup or move it away, "
            "then run again",
        ) from error
