"""What a partner does, who knows Delta Lake and nothing of this platform: writes the prices of its advertisements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from pathlib import Path

PRICES = {"ad 1": 12, "ad 2": 7, "ad 3": 30}


def write_prices(lake: Path, prices: dict[str, int] = PRICES) -> None:
    """Replace the prices.

    Args:
        lake: Folder of the Delta tables; the table is `partners/ad_prices` in it.
        prices: Cents for an impression, by advertisement.
    """
    rows = pl.DataFrame({"ad_id": list(prices), "cents": list(prices.values())})
    table = lake / "partners" / "ad_prices"
    table.parent.mkdir(parents=True, exist_ok=True)
    rows.write_delta(str(table), mode="overwrite")
