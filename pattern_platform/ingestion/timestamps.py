"""Text -> moments, as a source writes them: ISO 8601, a format of its own, or a number of seconds."""

from __future__ import annotations

import polars as pl

EPOCHS = {"epoch_seconds": 1_000_000, "epoch_milliseconds": 1_000}  # in microseconds
_YEARS = (-62_135_596_800_000_000, 253_402_300_799_000_000)  # 1 to 9999, in microseconds
_NAIVE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_TO_MINUTES = r"^(\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2})(Z|[+-]\d{2}:?\d{2})$"


def parse_timestamp(text: pl.Expr, timestamp_format: str, time_zone: str | None) -> pl.Expr:
    """Moments in UTC; null for what is none, and for what a clock change makes ambiguous or skips.

    Args:
        text: The values.
        timestamp_format: ``strftime`` fields, a key of :data:`EPOCHS`, or empty for ISO 8601.
        time_zone: Of moments that do not say theirs; None where they are refused.
    """
    if microseconds := EPOCHS.get(timestamp_format):
        number = text.cast(pl.Int64, strict=False)
        first, last = (limit // microseconds for limit in _YEARS)
        number = pl.when(number.is_between(first, last)).then(number)
        return pl.from_epoch(number * microseconds, time_unit="us").dt.replace_time_zone("UTC")
    if "%z" in timestamp_format or "%Z" in timestamp_format or "%+" in timestamp_format:
        return _with_offset(text, timestamp_format)
    if timestamp_format:
        return _local(text, timestamp_format, time_zone or "UTC")
    exact = _with_offset(text.str.replace(_TO_MINUTES, "${1}:00${2}"), "%+")
    return pl.coalesce(exact, *(_local(text, each, time_zone) for each in _NAIVE if time_zone))


def _with_offset(text: pl.Expr, timestamp_format: str) -> pl.Expr:
    return text.str.to_datetime(timestamp_format, time_unit="us", strict=False).dt.convert_time_zone("UTC")


def _local(text: pl.Expr, timestamp_format: str, time_zone: str) -> pl.Expr:
    parsed = text.str.to_datetime(timestamp_format, time_unit="us", time_zone=None, strict=False)
    return parsed.dt.replace_time_zone(time_zone, ambiguous="null", non_existent="null").dt.convert_time_zone("UTC")
