"""Lands made-up measurements of page loads, one CSV file per region; nobody says beforehand which there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pattern_platform.lake.whole_file import whole_file
from pattern_platform.visits.landing_files import random_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HEADER = ("page", "load_ms")
PAGES = ("home", "index", "categories", "about", "contact")
REGIONS = ("eu-central", "eu-north", "eu-west", "us-east", "us-west", "sa-east", "ap-south", "ap-east")


def write_regions(landing: Path, regions: Sequence[str] = REGIONS, *, loads: int = 20, seed: int = 7) -> list[Path]:
    """Write the landing files of regions.

    Args:
        landing: Folder of the landing zone; the files go to `page_speed/<region>.csv` in it.
        regions: Names of the regions.
        loads: Measured loads of each page.
        seed: Any integer; the same seed makes the same files.

    Returns:
        The paths of the files, in the order of the regions.
    """
    return [_write_region(landing, region, loads, seed) for region in regions]


def _write_region(landing: Path, region: str, loads: int, seed: int) -> Path:
    random = random_of(seed, "page_speed", region)
    latency = 40 + int(random.randint(0, 200))
    lines: list[str] = [",".join(HEADER)]
    for page in PAGES:
        spread = random.random_sample(loads) ** 3 * 900
        lines += [f"{page},{latency + int(extra)}" for extra in spread.tolist()]
    path = landing / "page_speed" / f"{region}.csv"
    with whole_file(path) as unfinished:
        unfinished.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path
