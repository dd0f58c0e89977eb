"""The rows that every case writes and reads: visits of a shop, a function of their number and start alone."""

from __future__ import annotations

import datetime as dt

import polars as pl

START = dt.datetime(2004, 1, 1, tzinfo=dt.UTC)  # Dagster has no partitions in the future, and 5,000 days are 14 years
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
_COUNTRIES = [
    "AT",
    "BE",
    "CH",
    "CZ",
    "DE",
    "DK",
    "ES",
    "FI",
    "FR",
    "GB",
    "IE",
    "IT",
    "NL",
    "NO",
    "PL",
    "PT",
    "SE",
    "US",
]


def visits(rows: int, start: dt.datetime, span: dt.timedelta = HOUR) -> pl.DataFrame:
    """Visits, evenly spread over a span of time, sorted by time.

    Args:
        rows: Number of rows.
        start: First moment, in UTC.
        span: The visits are in ``[start, start + span)``.

    Returns:
        Eight columns of the kinds that the example's visits have, about 75 MB for a million rows: a timestamp, four
        strings of which one is a key, an integer, a float and a boolean.
    """
    row = pl.int_range(rows, dtype=pl.Int64)
    step = span // rows // dt.timedelta(microseconds=1)
    return pl.select(
        ts=pl.lit(start, dtype=pl.Datetime("us", "UTC")) + pl.duration(microseconds=row * step),
        visit_id=pl.format("{}{}", row.first().hash(int(start.timestamp())), row.cast(pl.String).str.zfill(8)),
        user_id=pl.format("user-{}", (row.hash(1) % 100_000).cast(pl.String).str.zfill(6)),
        bytes_sent=(row.hash(2) % 100_000).cast(pl.Int64),
        page=pl.format("/product/{}", row.hash(3) % 5_000),
        country=pl.Series(_COUNTRIES).gather(row.hash(4) % len(_COUNTRIES)),
        dwell_s=(row.hash(5) % 1_000_000).cast(pl.Float64) / 1_000,
        is_mobile=row.hash(6) % 2 == 0,
    )


def daily(rows: int, start: dt.datetime, days: int = 1) -> pl.DataFrame:
    """The same visits with their date in place of their time: the official IO manager can partition by that."""
    frame = visits(rows, start, days * DAY)
    return frame.select(pl.col("ts").dt.date().alias("day"), pl.exclude("ts"))


def write_source(path: str, rows: int) -> None:
    """A Parquet file of one day of visits, without their country, for :func:`lazy_day`."""
    chunk = 1_000_000
    frames = (daily(chunk, START).drop("country").lazy() for _ in range(rows // chunk))
    pl.concat(list(frames)).sink_parquet(path, row_group_size=250_000)


def lazy_day(path: str) -> pl.LazyFrame:
    """The file of :func:`write_source` as a lazy batch of seven columns, one of them computed on the way."""
    return (
        pl.scan_parquet(path)
        .drop("is_mobile")
        .with_columns(kb_per_s=pl.col("bytes_sent") / 1_000 / (pl.col("dwell_s") + 1))
    )
