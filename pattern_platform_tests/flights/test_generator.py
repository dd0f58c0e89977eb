"""The flights generator: the year as published, and the sample committed with the project."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pattern_platform.flights.generator import write_days

SAMPLE = Path(__file__).parents[2] / "data" / "landing"
HEADER = (
    b"year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,"
    b"origin,dest,air_time,distance,hour,minute,time_hour\n"
)


def test_the_whole_year_is_365_days_with_the_header_of_the_source(tmp_path: Path) -> None:
    paths = write_days(tmp_path)
    assert paths == sorted(tmp_path.glob("flights/date=2013-*-*/flights.csv"))
    assert len(paths) == 365
    rows = 0
    for path in paths:
        header, *flights = path.read_bytes().splitlines(keepends=True)
        assert header == HEADER
        year, month, day = (int(part) for part in path.parent.name.removeprefix("date=").split("-"))
        assert all(flight.startswith(f"{year},{month},{day},".encode()) for flight in flights)
        rows += len(flights)
    assert rows == 336_776


def test_the_sample_is_what_the_generator_makes_today(tmp_path: Path) -> None:
    made = {path.relative_to(tmp_path): path.read_bytes() for path in write_days(tmp_path, days=3)}
    committed = {path.relative_to(SAMPLE): path.read_bytes() for path in SAMPLE.glob("flights/*/*")}
    assert made == committed


def test_values_keep_the_text_of_the_source(tmp_path: Path) -> None:
    (path,) = write_days(tmp_path, days=1)
    lines = path.read_bytes().splitlines()
    assert lines[1] == b"2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
    assert lines[-1].startswith(b"2013,1,1,NA,")


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install pattern-platform\[flights\]"):
        write_days(tmp_path, days=1)


def test_fewer_than_one_day_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        write_days(tmp_path, days=0)
