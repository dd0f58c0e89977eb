"""What the columns of an unknown file are, by all of their values."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dataframely as dy
import polars as pl

from pattern_platform.errors import UnreadableFileError
from pattern_platform.ingestion.landing import other_separator
from pattern_platform.ingestion.registry.contract_file import TAKEN
from pattern_platform.ingestion.timestamps import parse_timestamp

if TYPE_CHECKING:
    from pathlib import Path

_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_COMPRESSED = {".gz", ".zst"}
_ROWS = 100_000  # are enough to tell what a column is
_MOST_CATEGORIES, _OF_EACH = 12, 10
_ABSENT = ("NA", "N/A", "NULL", "null", "None", "none", "nan", "NaN", "-", "\\N")
# What a number would lose is kept as text: leading zeros and signs, digits beyond its width.
_INTEGER, _NUMBER = r"^-?(0|[1-9]\d{0,17})$", r"^-?(0|[1-9]\d{0,14})(\.\d{1,15})?([eE][+-]?\d{1,3})?$"
_EPOCHS = {"epoch_seconds": (10**9, 2 * 10**9), "epoch_milliseconds": (10**12, 2 * 10**12)}  # 2001 to 2033
_NAMED_AS_TIME = ("ts", "time", "timestamp", "at", "date", "epoch")


@dataclass(frozen=True)
class Column:
    """A column as it was found.

    Args:
        name: Its name in the contract.
        source: Where it is in the record.
        type: Of the contract.
        values: As text, null where missing.
    """

    name: str
    source: str
    type: str
    values: pl.Series

    @property
    def is_optional(self) -> bool:
        """Whether it is missing somewhere."""
        return self.values.null_count() > 0

    def tells_time(self, granularity: str) -> bool:
        """Whether it can tell a partition."""
        return not self.is_optional and (self.type == "timestamp" or (self.type == "date" and granularity != "hour"))

    def declared(self, *, is_key: bool) -> dict[str, Any]:
        """Its entry in the contract."""
        about: dict[str, Any] = {"type": self.type}
        given = self.values.drop_nulls()
        different = given.n_unique()
        if (
            self.type == "text"
            and 1 < different <= _MOST_CATEGORIES
            and given.len() > _OF_EACH * different
            and not is_key
        ):
            about = {"type": "category", "values": sorted(given.unique())}
        if is_key:
            about["key"] = True
        elif self.is_optional:
            about["optional"] = True
        if self.source != self.name:
            about["source"] = self.source
        return {**about, "description": "To be described."}


def read_any(file: Path) -> tuple[str, pl.DataFrame, list[str]]:
    """Read a landed file, whatever it holds.

    Args:
        file: The file.

    Returns:
        Its format; its rows, of nested objects a column each field, with dots; and what holds no plain value.

    Raises:
        UnreadableFileError: It is none of the formats, or has no rows.
    """
    suffixes = [suffix for suffix in file.suffixes if suffix not in _COMPRESSED]
    file_format = _FORMATS.get(suffixes[-1] if suffixes else "")
    if file_format is None or not file.is_file():
        raise _unreadable(file, f"it is not there, or its name ends in none of {', '.join(_FORMATS)}, with .gz or .zst")
    try:
        if file_format == "csv":
            if separator := other_separator(pl.read_csv(file, infer_schema=False, n_rows=0, glob=False).columns):
                raise _unreadable(file, f"its columns are separated by {separator!r}, not by ','")
            rows = pl.read_csv(file, infer_schema=False, n_rows=_ROWS, glob=False)
        elif file_format == "parquet":
            rows = pl.read_parquet(file, n_rows=_ROWS, glob=False)
        else:
            rows = pl.scan_ndjson([file], infer_schema_length=_ROWS, n_rows=_ROWS).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unreadable(file, f"it cannot be read as {file_format} ({type(error).__name__})") from error
    if not rows.height:
        raise _unreadable(file, "it has no rows")
    while nested := [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.Struct) and dtype.fields]:
        rows = rows.with_columns(pl.col(c).name.prefix_fields(f"{c}.") for c in nested).unnest(*nested)
    left_out = [name for name, dtype in rows.schema.items() if dtype.is_nested() or dtype in (pl.Binary, pl.Null)]
    if file_format == "parquet" and left_out:
        raise _unreadable(file, f"{', '.join(left_out)}: no plain values, which Parquet files must have; deliver jsonl")
    return file_format, rows.drop(left_out), left_out


def columns_of(rows: pl.DataFrame, file_format: str) -> tuple[list[Column], list[str], str]:
    """What the columns of a file are.

    Args:
        rows: As of :func:`read_any`.
        file_format: Likewise.

    Returns:
        The columns; spellings of a missing value; and the timestamp format, empty for ISO 8601.
    """
    texts = rows.select(_as_text(column, dtype) for column, dtype in rows.schema.items())
    absent = _null_values(texts) if file_format == "csv" else []
    if file_format == "csv":
        texts = texts.with_columns(pl.when(~pl.all().is_in(["", *absent])).then(pl.all()))
    types = {}
    for name, dtype in rows.schema.items():
        found = _type(texts[name].drop_nulls())
        # In a csv file everything is text; elsewhere a text is one, whatever it looks like.
        loose = file_format == "csv" or dtype != pl.String or found in ("timestamp", "date")
        types[name] = found if loose else "text"
    epoch = ""
    if "timestamp" not in types.values():
        epoch, times = _epochs(texts, types)
        types |= dict.fromkeys(times, "timestamp")
    names = _names(rows.columns)
    columns = [
        Column(names[source], source, types[source], texts[source].alias(names[source])) for source in texts.columns
    ]
    return columns, absent, epoch


def _unreadable(file: Path, why: str) -> UnreadableFileError:
    return UnreadableFileError(f"file {file.name} was refused", why=why, mend="name a landed file that has rows")


def _as_text(column: str, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        return pl.col(column).dt.to_string("iso:strict")
    return pl.col(column).cast(pl.String)


def _names(sources: list[str]) -> dict[str, str]:
    """A name for each column that a contract can have."""
    names: dict[str, str] = {}
    for source in sources:
        plain = unicodedata.normalize("NFKD", source).encode("ascii", "ignore").decode()
        name = re.sub(r"\W+", "_", plain).strip("_")
        name = name if re.match(r"[A-Za-z]", name) else f"c_{name}".rstrip("_")
        folded = {taken.lower() for taken in names.values()}
        while name.lower() in folded or name in TAKEN or hasattr(dy.Schema, name):
            name += "_"
        names[source] = name
    return names


def _null_values(rows: pl.DataFrame) -> list[str]:
    """Spellings of a missing value that keep some column from being more than text."""
    found: set[str] = set()
    for column in rows.get_columns():
        there = set(column.unique()) & set(_ABSENT)
        given = column.filter(column.is_not_null() & ~column.is_in(["", *there]))
        if there and _type(given) != "text":
            found |= there
    return sorted(found)


def _epochs(rows: pl.DataFrame, types: dict[str, str]) -> tuple[str, list[str]]:
    """The integers that count time since 1970."""
    named = [c for c, t in types.items() if t == "integer" and c.lower().rpartition("_")[2] in _NAMED_AS_TIME]
    for epoch, (first, last) in _EPOCHS.items():
        if times := [c for c in named if rows[c].drop_nulls().cast(pl.Int64).is_between(first, last).all()]:
            return epoch, times
    return "", []


def _type(given: pl.Series) -> str:
    if not given.len():
        return "text"
    text = pl.col("v")
    tests = {
        "boolean": text.is_in(["true", "false"]),
        "integer": text.str.contains(_INTEGER),
        "number": text.str.contains(_NUMBER),
        "date": text.str.to_date("%Y-%m-%d", strict=False).is_not_null(),
        "timestamp": parse_timestamp(text, "", "UTC").is_not_null(),
    }
    fits = pl.DataFrame({"v": given}).select(test.all().alias(name) for name, test in tests.items()).row(0, named=True)
    return next((name for name, fit in fits.items() if fit), "text")
