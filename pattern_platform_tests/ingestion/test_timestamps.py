"""Text -> moments: what was written comes back to the microsecond, or not at all. The oracle is Python's own."""

# ruff: noqa: DTZ001 - moments without a zone are what is read here

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pattern_platform.ingestion.timestamps import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

ZONES = (
    "Europe/Paris",
    "America/New_York",
    "America/Sao_Paulo",  # changed at midnight
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Apia",  # left out a day
    "Asia/Kathmandu",  # 5:45, never changes
    "UTC",
)
# Round each of these a clock went forward, or back.
CHANGES = (
    datetime(2024, 3, 31, 2),
    datetime(2024, 10, 27, 2),
    datetime(2024, 3, 10, 2),
    datetime(2024, 11, 3, 1),
    datetime(2018, 11, 4, 0),
    datetime(2018, 2, 17, 23),
    datetime(2024, 4, 7, 1, 30),
    datetime(2024, 10, 6, 2),
    datetime(2011, 12, 30, 12),
)
near = st.builds(
    lambda change, seconds, micros: change + timedelta(seconds=seconds, microseconds=micros),
    st.sampled_from(CHANGES),
    st.integers(-90_000, 90_000),
    st.sampled_from([0, 1, 500_000, 999_999]),
)
anywhere = st.datetimes(datetime(1980, 1, 1), datetime(2036, 12, 31))
quick = settings(max_examples=40, deadline=None)


def parsed(text: Sequence[str | None], timestamp_format: str = "", zone: str | None = None) -> list[datetime | None]:
    frame = pl.DataFrame({"text": text}, schema={"text": pl.String})
    column = frame.select(parse_timestamp(pl.col("text"), timestamp_format, zone)).to_series()
    assert column.dtype == pl.Datetime("us", "UTC")
    return column.to_list()


def expected(naive: datetime, zone: str) -> datetime | None:
    """The moment of a local time; None where a clock showed it twice, or never."""
    folds = {naive.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC) for fold in (0, 1)}
    if len(folds) > 1:
        return None
    (moment,) = folds
    return moment if moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == naive else None


@quick
@given(st.lists(st.datetimes(datetime(1000, 1, 1), datetime(9998, 12, 31)), min_size=1), st.integers(-14 * 60, 14 * 60))
def test_iso_8601_with_an_offset_comes_back(moments: list[datetime], minutes: int) -> None:
    aware = [moment.replace(tzinfo=timezone(timedelta(minutes=minutes))) for moment in moments]
    assert parsed([moment.isoformat() for moment in aware]) == aware
    assert parsed([moment.isoformat(" ") for moment in aware]) == aware
    utc = [moment.astimezone(UTC) for moment in aware]
    assert parsed([moment.isoformat().replace("+00:00", "Z") for moment in utc]) == utc


@pytest.mark.parametrize("zone", ZONES)
@settings(max_examples=30, deadline=None)
@given(naive=st.lists(st.one_of(near, anywhere), min_size=1, max_size=60))
def test_local_times_are_those_of_their_zone_or_none(naive: list[datetime], zone: str) -> None:
    wanted = [expected(moment, zone) for moment in naive]
    assert parsed([moment.isoformat() for moment in naive], "", zone) == wanted
    assert parsed([moment.isoformat(" ") for moment in naive], "", zone) == wanted
    written = [moment.strftime("%d/%m/%Y %H:%M:%S.%f") for moment in naive]
    assert parsed(written, "%d/%m/%Y %H:%M:%S%.f", zone) == wanted


def test_the_oracle_knows_of_gaps_and_of_hours_that_are_there_twice() -> None:
    """The negative control: were there none among the examples, the test above would show nothing."""
    for zone in set(ZONES) - {"UTC", "Asia/Kathmandu"}:
        round_changes = [change + timedelta(minutes=15 * n) for change in CHANGES for n in range(-96, 96)]
        assert None in [expected(moment, zone) for moment in round_changes], zone


HOURS = {
    "spring in Paris": ("Europe/Paris", "2024-03-31 02:30:00", None),
    "before": ("Europe/Paris", "2024-03-31 01:59:59.999999", datetime(2024, 3, 31, 0, 59, 59, 999_999, UTC)),
    "after": ("Europe/Paris", "2024-03-31 03:00:00", datetime(2024, 3, 31, 1, tzinfo=UTC)),
    "autumn in Paris": ("Europe/Paris", "2024-10-27 02:00:00", None),
    "last of both": ("Europe/Paris", "2024-10-27 02:59:59.999999", None),
    "behind both": ("Europe/Paris", "2024-10-27 03:00:00", datetime(2024, 10, 27, 2, tzinfo=UTC)),
    "midnight that was none": ("America/Sao_Paulo", "2018-11-04", None),
    "half an hour": ("Australia/Lord_Howe", "2024-10-06 02:15:00", None),
    "day that was none": ("Pacific/Apia", "2011-12-30 12:00:00", None),
    "day": ("Europe/Paris", "2024-05-06", datetime(2024, 5, 5, 22, tzinfo=UTC)),
}


@pytest.mark.parametrize(("zone", "text", "moment"), HOURS.values(), ids=HOURS)
def test_hours_of_a_clock_change(zone: str, text: str, moment: datetime | None) -> None:
    assert parsed([text], "", zone) == [moment]


def test_an_offset_tells_the_hour_that_is_there_twice() -> None:
    written = ["2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00", "2024-10-27T02:30:00"]
    first = datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert parsed(written, "", "Europe/Paris") == [first, first + timedelta(hours=1), None]
    assert parsed(written[:2], "%Y-%m-%dT%H:%M:%S%z") == [first, first + timedelta(hours=1)]


@quick
@given(st.lists(st.integers(-62_135_596_800, 253_402_300_798), min_size=1))
def test_seconds_and_milliseconds_come_back(seconds: list[int]) -> None:
    wanted = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second) for second in seconds]
    assert parsed([str(second) for second in seconds], "epoch_seconds") == wanted
    millis = [moment + timedelta(milliseconds=7) for moment in wanted]
    assert parsed([str(second * 1000 + 7) for second in seconds], "epoch_milliseconds") == millis


@quick
@given(st.one_of(st.integers(max_value=-62_135_596_801), st.integers(min_value=253_402_300_800)))
def test_a_number_that_is_no_moment_of_years_1_to_9999_is_none(number: int) -> None:
    """Nanoseconds in the place of milliseconds, most of the time: they must not wrap round to some day."""
    assert parsed([str(number)], "epoch_seconds") == [None]
    assert parsed([str(number * 1000)], "epoch_milliseconds") == [None]


@pytest.mark.parametrize("text", ["1714953600.5", "1e9", "", "soon", "2024-05-06T00:00:00Z", "0x10", "1 714 953 600"])
def test_what_is_no_whole_number_is_no_epoch(text: str) -> None:
    assert parsed([text], "epoch_seconds") == [None]


NONE = {
    "no zone": "2024-05-06T05:01:00",
    "day alone": "2024-05-06",
    "word": "yesterday",
    "empty": "",
    "month 13": "2024-13-06T05:01:00Z",
    "30 February": "2024-02-30T05:01:00Z",
    "hour 25": "2024-05-06T25:01:00Z",
    "American": "05/06/2024 05:01:00",
    "number": "1714953600",
    "more behind": "2024-05-06T05:01:00Z!",
}


@pytest.mark.parametrize("text", NONE.values(), ids=NONE)
def test_what_is_no_moment_by_itself_is_none(text: str) -> None:
    assert parsed([text, "2024-05-06T05:01:00Z", None]) == [None, datetime(2024, 5, 6, 5, 1, tzinfo=UTC), None]


@pytest.mark.parametrize("text", [text for name, text in NONE.items() if name not in ("no zone", "day alone")])
def test_nor_does_a_zone_make_it_one(text: str) -> None:
    assert parsed([text], "", "Europe/Paris") == [None]


FORMATS = {
    "German": ("06.05.2024 17:01", "%d.%m.%Y %H:%M", "Europe/Berlin", datetime(2024, 5, 6, 15, 1, tzinfo=UTC)),
    "twelve hours": ("05/06/2024 05:01 PM", "%m/%d/%Y %I:%M %p", "UTC", datetime(2024, 5, 6, 17, 1, tzinfo=UTC)),
    "compact": ("20240506170159", "%Y%m%d%H%M%S", "UTC", datetime(2024, 5, 6, 17, 1, 59, tzinfo=UTC)),
    "day": ("06.05.2024", "%d.%m.%Y", "UTC", datetime(2024, 5, 6, tzinfo=UTC)),
    "offset": ("06/May/2024:17:01:00 +0200", "%d/%b/%Y:%H:%M:%S %z", None, datetime(2024, 5, 6, 15, 1, tzinfo=UTC)),
    "another format": ("2024-05-06 17:01", "%d.%m.%Y %H:%M", "UTC", None),
    "gap": ("31.03.2024 02:30", "%d.%m.%Y %H:%M", "Europe/Berlin", None),
}


@pytest.mark.parametrize(("text", "form", "zone", "moment"), FORMATS.values(), ids=FORMATS)
def test_a_format_of_the_source_is_the_only_one(
    text: str, form: str, zone: str | None, moment: datetime | None
) -> None:
    assert parsed([text], form, zone) == [moment]


def test_minutes_are_enough() -> None:
    """ISO 8601 lets the seconds out, and so do many exports."""
    moment = datetime(2024, 5, 6, 5, 1, tzinfo=UTC)
    assert parsed(["2024-05-06T05:01Z", "2024-05-06T07:01+02:00"]) == [moment, moment]
    assert parsed(["2024-05-06T05:01", "2024-05-06 05:01"], "", "UTC") == [moment, moment]


def test_nanoseconds_are_cut_off() -> None:
    assert parsed(["2024-05-06T05:01:00.123456789Z"]) == [datetime(2024, 5, 6, 5, 1, 0, 123_456, UTC)]
