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


def keyed_day(number: int, rows: int) -> pl.DataFrame:
    """One day of :func:`daily` with a unique, even key ``id``, which grows from day to day and within a day."""
    first = 2 * number * rows
    return daily(rows, START + number * DAY).select(pl.int_range(first, first + 2 * rows, 2).alias("id"), pl.all())


def changes_of_day(number: int, rows: int, changes: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Changes by key, spread evenly over a day: 80 % updates, 10 % soft deletes, 10 % inserts; and what undoes them.

    Args:
        number: Of the day.
        rows: Rows of the day, see :func:`keyed_day`.
        changes: Number of changes.

    Returns:
        Two batches, each with the columns of the day and ``deleted``, and each as many changes of each kind.
    """
    matched = changes * 9 // 10
    stored = keyed_day(number, rows).gather_every(rows // matched).head(matched)
    new = stored.gather_every(9).with_columns(pl.col("id") + 1)
    updated = stored.with_columns(
        pl.format("{}/changed", "page").alias("page"), pl.col("dwell_s") + 1, deleted=pl.int_range(pl.len()) % 9 == 4
    )
    return (
        pl.concat([updated, new.with_columns(deleted=False)]),
        pl.concat([stored.with_columns(deleted=False), new.with_columns(deleted=True)]),
    )


def merged(rows: pl.DataFrame, changes: pl.DataFrame) -> pl.DataFrame:
    """What the rows are after the changes, by ``id``, in its order."""
    kept = rows.join(changes, on="id", how="anti")
    return pl.concat([kept, changes.filter(~pl.col("deleted")).drop("deleted")]).sort("id")


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
