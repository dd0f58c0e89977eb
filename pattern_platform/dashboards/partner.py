"""What a partner does, who knows Delta Lake and nothing of this platform: writes the prices of its advertisements."""

from __future__ import annotations

import polars as pl

PRICES = {"ad 1": 12, "ad 2": 7, "ad 3": 30}


def write_prices(lake: str, prices: dict[str, int] = PRICES, *, storage_options: dict[str, str] | None = None) -> None:
    """Replace the prices.

    Args:
        lake: Folder of the Delta tables, or its URI; the table is `partners/ad_prices` in it.
        prices: Cents for an impression, by advertisement.
        storage_options: How an object store is reached.
    """
    rows = pl.DataFrame({"ad_id": list(prices), "cents": list(prices.values())})
    rows.write_delta(f"{lake}/partners/ad_prices", mode="overwrite", storage_options=storage_options)
