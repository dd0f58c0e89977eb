"""The body of a page: whether it is what it says, and how many rows it has."""

from __future__ import annotations

import codecs
import glob
import json
from typing import TYPE_CHECKING, Literal

import duckdb
import polars as pl

if TYPE_CHECKING:
    from pathlib import Path

Format = Literal["jsonl", "csv", "json"]
_CHUNK = 1 << 20
_ROWS = 10_000
_OBJECTS = "SELECT json::VARCHAR, json_type(json) FROM read_json_objects($file, format = 'array')"


class WrongBodyError(Exception):
    """A body is not of the format that its source declares; the message quotes none of it."""


def land_body(form: Format, body: Path, landed: Path) -> int:
    """Land a body as a file of lines or of csv.

    A malformed line of jsonl lands as it is, to be quarantined with its reason like that of any other file; a body
    without a single object is no jsonl.

    Args:
        form: The format that is declared.
        body: What was fetched.
        landed: The file to write; jsonl and csv are moved there, as they are.

    Returns:
        The number of rows.

    Raises:
        WrongBodyError: It is not of the format.
    """
    if form == "json":
        return _array_to_lines(body, landed)
    _refuse_no_text(body)
    rows = _lines(body) if form == "jsonl" else _csv_rows(body)
    body.replace(landed)
    return rows


def ends_inside_a_line(body: Path) -> bool:
    """Whether a body breaks off before the end of a line."""
    with body.open("rb") as opened:
        opened.seek(0, 2)
        opened.seek(max(opened.tell() - 1, 0))
        return opened.read() not in (b"", b"\n")


def _refuse_no_text(body: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with body.open("rb") as opened:
        try:
            while chunk := opened.read(_CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise WrongBodyError("it is not UTF-8 text") from None


def _lines(body: Path) -> int:
    rows, has_object = 0, False
    with body.open("rb") as lines:
        for rows, line in enumerate(lines, start=1):  # noqa: B007 - counted to the end
            has_object = has_object or _is_object(line)
    if rows and not has_object:
        raise WrongBodyError("none of its lines is a JSON object")
    return rows


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _csv_rows(body: Path) -> int:
    with body.open("rb") as opened:
        if opened.read(_CHUNK).lstrip()[:1] in (b"<", b"{", b"["):
            raise WrongBodyError("it is HTML or JSON, not csv")
    try:
        lines = pl.scan_csv(body, infer_schema=False, glob=False)
        # The values of each column are counted, because a count of lines alone does not look into them.
        return lines.select(pl.all().count() + pl.all().null_count()).collect(engine="streaming").item(0, 0)
    except pl.exceptions.NoDataError:
        raise WrongBodyError("it has no header") from None
    except pl.exceptions.PolarsError:
        raise WrongBodyError("it is not csv") from None


def _array_to_lines(body: Path, landed: Path) -> int:
    """Land an array of objects, each on a line and otherwise as it was written: numbers keep their digits."""
    if not body.stat().st_size:
        raise WrongBodyError("it is empty, not an array")
    rows = 0
    with duckdb.connect() as connection, landed.open("w", encoding="utf-8", newline="\n") as lines:
        try:
            objects = connection.execute(_OBJECTS, {"file": glob.escape(str(body))})
            while batch := objects.fetchmany(_ROWS):
                if any(kind != "OBJECT" for _, kind in batch):
                    raise WrongBodyError("an element of its array is not an object")
                # A string of JSON holds no line break; what is between its fields may.
                lines.writelines(text.replace("\r", " ").replace("\n", " ") + "\n" for text, _ in batch)
                rows += len(batch)
        except duckdb.Error:
            raise WrongBodyError("it is not an array of JSON objects of at most 16 MB each") from None
    return rows
