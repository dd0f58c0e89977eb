"""The registry of the example for other days."""

from __future__ import annotations

import csv
import shutil
from datetime import date, timedelta
from typing import TYPE_CHECKING

from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = CHECKOUT / "data" / "registry.csv"


def registry_of(folder: Path, starts: str, days: int) -> Path:
    """Write the sample's registry with other days of the blog, and as many of the flights."""
    shutil.copytree(SAMPLE.parent / "contracts", folder / "contracts", dirs_exist_ok=True)
    with SAMPLE.open(newline="") as sample:
        rows = list(csv.DictReader(sample))
    for row in rows:
        first = date.fromisoformat(row["starts"] if row["name"] in ("flights", "device_updates") else starts)
        row["starts"] = first.isoformat()
        if row["name"] != "device_updates":
            row["ends"] = (first + timedelta(days=days)).isoformat()
    path = folder / "registry.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
