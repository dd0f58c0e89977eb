"""Whether something still names a subject, in whatever way it is written: what a proof asks after an erasure.

A key that is a number is any number. So it counts where one of its columns says what it is, and nowhere else.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    from polars._typing import PolarsDataType

    from pattern_platform.lake.subject import Subject

_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4})+|\\[\"'/\\]")


def names(text: str, subject: Subject) -> bool:
    """Whether a text has the key as a whole word: as it is, or as JSON, CSV or DuckDB's lists write it.

    Args:
        text: The text.
        subject: Who.
    """
    if not may_name(text, subject):
        return False
    if subject.key.isdecimal():
        columns = "|".join(map(re.escape, subject.columns))
        return re.search(rf"(?:{columns})\W{{1,4}}{subject.key}(?!\w)", text) is not None
    return any(subject.is_word_of(each) for each in (text, _ESCAPES.sub(_read, text), text.replace('""', '"')))


def may_name(text: str, subject: Subject) -> bool:
    """Whether a text has the key in it, or something that may be read as it: quick to tell of most that do not."""
    return subject.key in text or "\\" in text or '""' in text


def mentioned(schema: Mapping[str, PolarsDataType], subject: Subject) -> pl.Expr:
    """Whether a row names a subject.

    Args:
        schema: Columns of the rows.
        subject: Who.
    """
    return subject.in_row(schema) if subject.key.isdecimal() else subject.mentioned(schema)


def _read(escape: re.Match[str]) -> str:
    written = escape.group()
    return json.loads(f'"{written}"') if written.startswith("\\u") else written[1]
