"""Windows: bounds of partition keys, which rows and which files are inside, and what is recorded of each key."""

from __future__ import annotations

import datetime as dt
from typing import Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pattern_platform.errors import InexpressiblePartitionError
from pattern_platform.lake.partitions import window_of
from pattern_platform.lake.window import Bound, Window

NOON = dt.datetime(2024, 5, 6, 12, tzinfo=dt.UTC)
MS = dt.timedelta(milliseconds=1)
HOUR = dt.timedelta(hours=1)
ZONED = pl.Datetime("us", "UTC")


def window(*bounds: tuple[Any, Any] | str, dtype: pl.DataType = ZONED) -> Window:
    """A window of one column ``c``; a pair is a range, a text a value."""
    made = [Bound(b) if isinstance(b, str) else Bound(*b) for b in bounds]
    return Window({"c": dtype}, {f"k{n}": (bound,) for n, bound in enumerate(made)})


def hours(*starts: int) -> Window:
    return window(*((NOON + n * HOUR, NOON + (n + 1) * HOUR) for n in starts))


def files(*bounds: tuple[Any, Any, int | None], dtype: pl.DataType = ZONED) -> pl.DataFrame:
    """Files named by their position with ``(minimum, maximum, nulls)`` of the column ``c``."""
    low, high, nulls = zip(*bounds, strict=True)
    return pl.DataFrame(
        {
            "path": [str(n) for n in range(len(bounds))],
            "min.c": pl.Series(low, dtype=dtype),
            "max.c": pl.Series(high, dtype=dtype),
            "null_count.c": pl.Series(nulls, dtype=pl.Int64),
        }
    )


def sides(window: Window, files: pl.DataFrame) -> tuple[list[str], list[str]]:
    inside, astride = window.split(files)
    return sorted(inside["path"]), sorted(astride["path"])


@pytest.mark.parametrize(
    ("low", "high", "side"),
    [
        (NOON, NOON + HOUR / 2, "inside"),
        (NOON, NOON + HOUR - MS, "inside"),
        (NOON, NOON + HOUR - MS / 2, "astride"),  # a maximum cut to milliseconds may hide a row of the next hour
        (NOON, NOON + HOUR, "astride"),
        (NOON - HOUR, NOON + 3 * HOUR, "astride"),
        (NOON - HOUR, NOON, "astride"),
        (NOON - HOUR, NOON - MS, "outside"),
        (NOON - HOUR, NOON - MS / 2, "astride"),
        (NOON + HOUR, NOON + HOUR, "outside"),
        (NOON + HOUR - MS, NOON + 2 * HOUR, "astride"),
        (None, None, "astride"),
        (NOON, None, "astride"),
        (None, NOON, "astride"),
        (NOON + HOUR, None, "outside"),
    ],
)
def test_files_beside_an_hour(low: dt.datetime | None, high: dt.datetime | None, side: str) -> None:
    inside, astride = sides(hours(0), files((low, high, 0)))
    assert ("inside" if inside else "astride" if astride else "outside") == side


def test_a_file_with_nulls_is_never_inside() -> None:
    assert sides(hours(0), files((NOON, NOON, 1), (NOON, NOON, None))) == ([], ["0", "1"])


def test_neighbouring_hours_are_one_range() -> None:
    two_hours = files((NOON, NOON + 2 * HOUR - MS, 0))
    assert sides(hours(0, 1), two_hours) == (["0"], [])
    assert sides(hours(1, 0), two_hours) == (["0"], [])
    assert sides(hours(0, 2), two_hours) == ([], ["0"])


def test_a_file_in_the_gap_of_two_hours_is_outside() -> None:
    gap = files((NOON + HOUR, NOON + HOUR * 2 - MS, 0), (NOON, NOON + 3 * HOUR - MS, 0))
    assert sides(hours(0, 2), gap) == ([], ["1"])


@pytest.mark.parametrize(
    ("low", "high", "side"),
    [("b", "b", "inside"), ("a", "c", "astride"), ("b", "c", "astride"), ("c", "d", "outside"), ("a", "a", "outside"),
     (None, None, "astride"), ("a", "b", "astride")],
)  # fmt: skip
def test_files_beside_a_value(low: str | None, high: str | None, side: str) -> None:
    inside, astride = sides(window("b", dtype=pl.String()), files((low, high, 0), dtype=pl.String()))
    assert ("inside" if inside else "astride" if astride else "outside") == side


def test_files_without_statistics_are_astride() -> None:
    assert sides(hours(0), pl.DataFrame({"path": ["0"]})) == ([], ["0"])


def test_no_partitions_own_nothing() -> None:
    nothing = Window({"c": ZONED}, {})
    assert sides(nothing, files((NOON, NOON, 0), (None, None, None))) == ([], [])
    assert pl.DataFrame({"c": [NOON]}).select(nothing.rows.first()).item() is False


def test_no_columns_own_everything() -> None:
    assert sides(Window(), files((NOON, NOON, 0), (None, None, None))) == (["0", "1"], [])


def test_two_columns_must_both_be_inside() -> None:
    both = Window({"c": ZONED, "r": pl.String()}, {"k": (Bound(NOON, NOON + HOUR), Bound("eu"))})
    regions = files((NOON, NOON, 0), (NOON, NOON, 0), (NOON, NOON, 0), (NOON + HOUR, NOON + HOUR, 0)).with_columns(
        pl.Series("min.r", ["eu", "eu", "us", "eu"]),
        pl.Series("max.r", ["eu", "us", "us", "eu"]),
        pl.Series("null_count.r", [0, 0, 0, 0]),
    )
    assert sides(both, regions) == (["0"], ["1"])


moments = st.integers(-3, 12).map(lambda n: NOON + n * HOUR / 4) | st.integers(-2, 2).map(
    lambda n: NOON + HOUR + dt.timedelta(microseconds=n)
)


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.integers(0, 2), min_size=1),
    st.lists(st.lists(moments | st.none(), min_size=1, max_size=3), min_size=1, max_size=4),
)
def test_split_agrees_with_the_rows(starts: set[int], contents: list[list[dt.datetime | None]]) -> None:
    """Inside: all rows are. Outside: none is. With statistics as other writers cut them, to milliseconds."""
    chosen = hours(*starts)
    bounds = []
    for rows in contents:
        known = [row for row in rows if row is not None]
        cut = [row.replace(microsecond=row.microsecond // 1000 * 1000) for row in known]
        bounds.append((min(cut, default=None), max(cut, default=None), len(rows) - len(known)))
    inside, astride = sides(chosen, files(*bounds))
    for n, rows in enumerate(contents):
        owned = pl.DataFrame({"c": pl.Series(rows, dtype=ZONED)}).select(chosen.rows).to_series()
        assert owned.null_count() == 0
        assert not (str(n) in inside and not owned.all())
        assert not (str(n) not in inside + astride and owned.any())


def test_which_hours_are_present() -> None:
    live = files((NOON, NOON, 0), (NOON + 2 * HOUR, NOON + 3 * HOUR, 0))
    assert hours(0, 1, 2, 3).present(live) == ({"k0"}, {"k2", "k3"})
    unknown = files((NOON, NOON, 0), (None, None, None))
    assert hours(0, 1).present(unknown) == (set(), {"k0", "k1"})


KEYED: dict[str, tuple[dg.PartitionsDefinition, str, pl.DataType, Bound]] = {
    "hour in utc": (
        dg.HourlyPartitionsDefinition("2024-05-06-00:00"), "2024-05-06-12:00", ZONED, Bound(NOON, NOON + HOUR)
    ),
    "the first of two hours": (
        dg.HourlyPartitionsDefinition("2024-11-03-00:00", timezone="America/New_York"), "2024-11-03-01:00", ZONED,
        Bound(dt.datetime(2024, 11, 3, 5, tzinfo=dt.UTC), dt.datetime(2024, 11, 3, 6, tzinfo=dt.UTC)),
    ),
    "the second of two hours": (
        dg.HourlyPartitionsDefinition("2024-11-03-00:00", timezone="America/New_York"), "2024-11-03-01:00-0500", ZONED,
        Bound(dt.datetime(2024, 11, 3, 6, tzinfo=dt.UTC), dt.datetime(2024, 11, 3, 7, tzinfo=dt.UTC)),
    ),
    "a naive hour is in utc": (
        dg.HourlyPartitionsDefinition("2024-05-06-00:00", timezone="Europe/Amsterdam"), "2024-05-06-12:00",
        pl.Datetime("us"), Bound((NOON - 2 * HOUR).replace(tzinfo=None), (NOON - HOUR).replace(tzinfo=None)),
    ),
    "a day of 25 hours": (
        dg.DailyPartitionsDefinition("2024-10-01", timezone="Europe/Amsterdam"), "2024-10-27", ZONED,
        Bound(dt.datetime(2024, 10, 26, 22, tzinfo=dt.UTC), dt.datetime(2024, 10, 27, 23, tzinfo=dt.UTC)),
    ),
    "a day of 23 hours": (
        dg.DailyPartitionsDefinition("2024-03-01", timezone="Europe/Amsterdam"), "2024-03-31", pl.Date(),
        Bound(dt.date(2024, 3, 31), dt.date(2024, 4, 1)),
    ),
    "a month": (
        dg.MonthlyPartitionsDefinition("2024-01-01"), "2024-02-01", pl.Date(),
        Bound(dt.date(2024, 2, 1), dt.date(2024, 3, 1)),
    ),
    "a value": (dg.StaticPartitionsDefinition(["o'x"]), "o'x", pl.String(), Bound("o'x")),
}  # fmt: skip


@pytest.mark.parametrize("what", KEYED)
def test_the_bound_of_a_key(what: str) -> None:
    definition, key, dtype, bound = KEYED[what]
    assert window_of([key], definition, "c", {"c": dtype}).pieces == {key: (bound,)}


@pytest.mark.parametrize("zone", ["Antarctica/Troll", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu"])
def test_days_of_odd_zones_are_days(zone: str) -> None:
    """Troll turns its clocks by two hours, Lord Howe by half an hour."""
    days = dg.DailyPartitionsDefinition("2024-01-01", end_date="2025-01-01", timezone=zone)
    pieces = window_of(days.get_partition_keys(), days, "c", {"c": pl.Date()}).pieces
    assert [bound.lower.isoformat() for (bound,) in pieces.values()] == days.get_partition_keys()


@pytest.mark.parametrize("cron", ["0 */12 * * *", "0 * * * *", "*/15 * * * *", "0 0,23 * * *"])
def test_a_date_cannot_tell_parts_of_a_day_apart(cron: str) -> None:
    parts = dg.TimeWindowPartitionsDefinition(
        dt.datetime.fromisoformat("2024-05-06"),
        "%Y-%m-%d-%H:%M",
        end=dt.datetime.fromisoformat("2024-05-08"),
        cron_schedule=cron,
    )
    with pytest.raises(InexpressiblePartitionError):
        window_of(parts.get_partition_keys(), parts, "c", {"c": pl.Date()})
