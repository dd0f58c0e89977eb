"""Lands updates of the devices that the blog is read on, one CSV file per day, and a correction of one of the days.

A row is a device as it is from that day on. The days are modelled on the devices of *Data Engineering Design Patterns*:
few enough to follow each through all of them.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from pattern_platform.visits.landing_files import whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HEADER = ("day", "id", "brand_name", "full_name", "processor_brand", "is_deleted")

DAYS = {
    date(2024, 5, 6): (
        ("iphone-11", "apple", "iphone-11", "bionic", "false"),
        ("iphone-12", "apple", "iphone-12", "bionic", "false"),
        ("galaxy-a33", "samsun", "galaxy-a33-5g", "exynos", "false"),  # misspelt
    ),
    date(2024, 5, 7): (
        ("iphone-11", "apple", "iphone-11-pro", "bionic", "false"),
        ("galaxy-a32", "samsung", "galaxy-a32-5g", "dimensity", "false"),
        ("redmi-note-9", "xiaom", "redmi-note-9-pro", "snapdragon", "false"),  # misspelt for good
        ("pixel-7", "google", "pixel-7-pro", "", "false"),
    ),
    date(2024, 5, 8): (
        ("galaxy-m54", "samsung", "galaxy-", "snapdragon", "false"),  # cut off
        ("iphone-14", "apple", "iphone-", "bionic", "false"),  # cut off
        ("iphone-15", "apple", "iphone-", "bionic", "false"),  # cut off, and there is no such device
        ("redmi-note-10", "xiaomi", "redmi-note-10-5g", "dimensity", "false"),
        ("pixel-7", "google", "pixel-7-pro", "tensor", "false"),
    ),
    date(2024, 5, 9): (
        ("galaxy-a33", "samsung", "galaxy-a33-5g", "exynos", "false"),  # no longer misspelt
        ("iphone-12", "apple", "iphone-12", "bionic", "true"),
        ("galaxy-m32", "samsung", "galaxy-m32", "helio", "false"),
    ),
    date(2024, 5, 10): (
        ("galaxy-m54", "samsung", "galaxy-m54", "exynos", "false"),
        ("iphone-se-4", "apple", "iphone-se-4", "bionic", "false"),
    ),
}

CORRECTED_DAY = date(2024, 5, 8)
CORRECTION = (
    ("galaxy-m54", "samsung", "galaxy-m54", "snapdragon", "false"),
    ("iphone-14", "apple", "iphone-14", "bionic", "false"),
    ("redmi-note-10", "xiaomi", "redmi-note-10-5g", "dimensity", "false"),
    ("pixel-7", "google", "pixel-7-pro", "tensor", "false"),
)


def write_days(landing: Path) -> list[Path]:
    """Write the landing files of all days, as they were delivered first.

    A file appears whole or not at all, and replaces one that is already there, a correction too.

    Args:
        landing: Folder of the landing zone; the files go to `device_updates/date=YYYY-MM-DD/devices.csv` in it.

    Returns:
        The paths of the files, oldest day first.
    """
    return [_write_day(landing, day, devices) for day, devices in DAYS.items()]


def write_correction(landing: Path) -> Path:
    """Deliver `CORRECTED_DAY` again: names that were cut off are whole, and a device that never was is left out.

    The file appears whole or not at all, and replaces that of the day.

    Args:
        landing: Folder of the landing zone, as for `write_days`.

    Returns:
        The path of the file.
    """
    return _write_day(landing, CORRECTED_DAY, CORRECTION)


def _write_day(landing: Path, day: date, devices: Sequence[Sequence[str]]) -> Path:
    path = landing / "device_updates" / f"date={day}" / "devices.csv"
    # No value has a comma or a quote, and bytes keep the line ends the same everywhere.
    rows = [HEADER, *((day.isoformat(), *device) for device in devices)]
    with whole_file(path) as temporary:
        temporary.write_bytes("".join(f"{','.join(row)}\n" for row in rows).encode())
    return path
