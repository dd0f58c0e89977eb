"""The declaration of a source over HTTP."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pattern_platform.errors import SourceRefusedError
from pattern_platform.ingestion.http.urls import check_template, filled, masked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from pattern_platform.ingestion.http.bodies import Format

_ENVIRONMENT = "env:"
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True)
class HttpSource:
    """Where the landed files of a data set come from.

    Args:
        url: Of the first page of a partition: a template with ``{start}`` and ``{end}``, the half-open window in UTC,
            ISO 8601 or as ``{start:%Y-%m-%d}`` says.
        format: ``jsonl``, ``csv`` (each page with its header) or ``json`` (an array of objects, landed as jsonl).
        headers: Sent to the host of ``url`` alone. A value ``env:NAME`` is that of an environment variable.
        most_attempts: How often a page is asked for, the first time included.
        first_wait: The first wait is drawn from 0 to so many seconds; each further range is twice as wide.
        longest_wait: No range is wider, in seconds.
        longest_wait_after: Longest ``Retry-After`` that is waited for, in seconds.
        timeout: Longest time without a byte, in seconds.
        most_bytes: Largest page, decompressed.

    Raises:
        SourceRefusedError: What is declared cannot be asked for.
    """

    url: str = field(repr=False)
    format: Format
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    most_attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 60.0
    longest_wait_after: float = 600.0
    timeout: float = 30.0
    most_bytes: int = 1 << 28

    def __post_init__(self) -> None:
        check_template(self.url)
        if self.format not in ("jsonl", "csv", "json"):
            raise self._refused(f"its format is {self.format!r}", "declare jsonl, csv or json")
        if min(self.most_attempts, self.most_bytes) < 1 or self.timeout <= 0:
            raise self._refused("most_attempts, most_bytes or timeout is not positive", "leave the default")
        if min(self.first_wait, self.longest_wait, self.longest_wait_after) < 0:
            raise self._refused("a wait is negative", "give seconds, 0 for none")
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise self._refused(f"{name!r} is no name of a header", "leave out its colon and spaces")
            if _ENVIRONMENT in value.lstrip()[1:]:
                why = f"the value of header {name} names an environment variable in its middle"
                raise self._refused(why, 'let the variable hold the whole value, "Bearer ..." for example')

    def url_of(self, start: datetime, end: datetime) -> str:
        """The URL of a partition's first page.

        Raises:
            SourceRefusedError: The window has no zone, or is empty.
        """
        if start.tzinfo is None or end.tzinfo is None or start >= end:
            raise self._refused(
                f"the window from {start} to {end} is empty or has no zone", "give a partition's window"
            )
        return filled(self.url, start, end)

    def header_values(self) -> dict[str, str]:
        """The headers as they are sent.

        Raises:
            SourceRefusedError: A variable is not set, or a value cannot be sent.
        """
        values = {}
        for name, value in self.headers.items():
            variable = value.removeprefix(_ENVIRONMENT) if value.startswith(_ENVIRONMENT) else None
            if variable is not None and variable not in os.environ:
                why = f"environment variable {variable!r} of header {name} is not set"
                raise self._refused(why, "set it where the run is executed")
            values[name] = value if variable is None else os.environ[variable]
            if not (values[name].isascii() and values[name].isprintable() and values[name] == values[name].strip()):
                why = f"the value of header {name} has a line break, a space around it or characters beyond ASCII"
                raise self._refused(why, "set it without them")
        return values

    def _refused(self, why: str, mend: str) -> SourceRefusedError:
        return SourceRefusedError(f"the source {masked(self.url)} was refused", why=why, mend=mend)
