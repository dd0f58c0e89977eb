"""The visits generator: what a seed promises, the dirt it lands and the sample committed with the project."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from pattern_platform.visits import generator
from pattern_platform.visits.generator import QUIET_HOUR, rows_in_hour, write_days, write_hour

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
WITHHELD = datetime(2024, 5, 7, 13, tzinfo=UTC)
SAMPLE = Path(__file__).parents[2] / "data" / "landing"
ROWS = 20_000


@pytest.fixture(scope="module")
def noon_lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Lines of one large hour."""
    return _lines(write_hour(tmp_path_factory.mktemp("landing"), NOON, rows=ROWS, seed=7))


def test_same_seed_gives_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        write_hour(tmp_path / name, NOON, rows=500, seed=seed).read_bytes()
        for name, seed in (("first", 7), ("again", 7), ("other", 8))
    )
    assert first == again
    assert gzip.decompress(first) != gzip.decompress(other)


def test_an_hour_does_not_depend_on_the_other_hours(tmp_path: Path) -> None:
    write_days(tmp_path / "days", date(2024, 5, 5), days=2, rows_per_hour=80, seed=7)
    alone = write_hour(tmp_path / "alone", NOON, rows=rows_in_hour(NOON, 80), seed=7)
    assert alone.read_bytes() == (tmp_path / "days" / alone.relative_to(tmp_path / "alone")).read_bytes()


def test_layout_names_the_hour_in_utc_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    paris_noon = datetime(2024, 5, 6, 12, tzinfo=timezone(timedelta(hours=2)))
    path = write_hour(tmp_path, paris_noon, rows=1, seed=7)
    assert path == tmp_path / "visits" / "date=2024-05-06" / "hour=10" / "visits.jsonl.gz"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("hour", [NOON.replace(tzinfo=None), NOON.replace(minute=5)])
def test_what_is_not_the_start_of_an_hour_is_refused(tmp_path: Path, hour: datetime) -> None:
    with pytest.raises(ValueError, match="start of a UTC hour"):
        write_hour(tmp_path, hour, rows=1, seed=7)
    with pytest.raises(ValueError, match="start of a UTC hour"):
        write_days(tmp_path, NOON.date(), days=1, rows_per_hour=1, seed=7, withhold=[hour])


def test_a_withheld_hour_is_absent_and_the_quiet_hour_is_empty(tmp_path: Path) -> None:
    paths = write_days(tmp_path, WITHHELD.date(), days=1, rows_per_hour=20, seed=7, withhold=[WITHHELD])
    day = tmp_path / "visits" / "date=2024-05-07"
    assert len(paths) == 23
    assert paths == sorted(day.glob("hour=*/visits.jsonl.gz"))
    assert not (day / "hour=13").exists()
    assert [path.parent.name for path in paths if not _lines(path)] == [f"hour={QUIET_HOUR:02}"]


def test_dirt_comes_at_the_documented_rates(noon_lines: list[str]) -> None:
    count = Counter(_dirt_of(line, NOON) for line in noon_lines)
    repeats = len(noon_lines) - ROWS
    assert repeats == len(noon_lines) - len(set(noon_lines))
    assert count["late"] / ROWS == pytest.approx(generator.LATE_RATE, rel=0.1)
    assert repeats / ROWS == pytest.approx(generator.DUPLICATE_RATE, rel=0.25)
    assert count["malformed"] / ROWS == pytest.approx(generator.MALFORMED_RATE, rel=0.3)
    assert count["missing"] / ROWS == pytest.approx(generator.MISSING_RATE, rel=0.3)
    assert count["mistyped"] / ROWS == pytest.approx(generator.MISTYPED_RATE, rel=0.3)
    assert count["other day"] / ROWS == pytest.approx(generator.OTHER_DAY_RATE, rel=0.4)


def test_hour_zero_has_no_late_event(tmp_path: Path) -> None:
    midnight = NOON.replace(hour=0)
    lines = _lines(write_hour(tmp_path, midnight, rows=2_000, seed=7))
    assert "late" not in {_dirt_of(line, midnight) for line in lines}


def test_clean_visits_are_unique_short_sessions_of_recurring_users(noon_lines: list[str]) -> None:
    visits = [json.loads(line) for line in dict.fromkeys(noon_lines) if _dirt_of(line, NOON) == "clean"]
    assert len({visit["visit_id"] for visit in visits}) == len(visits)
    assert 3 < len(visits) / len({visit["user_id"] for visit in visits}) < 8
    for visit in visits:
        appended, happened = (datetime.fromisoformat(visit[name]) for name in ("append_time", "event_time"))
        assert timedelta() <= appended - happened <= timedelta(seconds=90)
        assert NOON <= happened <= appended < NOON + timedelta(hours=1)
    assert set(visits[0]["context"]) == {"referral", "ad_id", "user", "technical"}


def test_the_sample_is_what_the_generator_makes_today(tmp_path: Path) -> None:
    made = {path.relative_to(tmp_path): _lines(path) for path in _make_sample(tmp_path)}
    committed = {path.relative_to(SAMPLE): _lines(path) for path in SAMPLE.glob("visits/*/*/*")}
    assert made == committed


@pytest.mark.skipif(
    sys.platform != "linux" or "ng" in zlib.ZLIB_RUNTIME_VERSION, reason="another zlib compresses to other bytes"
)
def test_the_sample_is_what_the_generator_makes_today_byte_for_byte(tmp_path: Path) -> None:
    for path in _make_sample(tmp_path):
        assert path.read_bytes() == (SAMPLE / path.relative_to(tmp_path)).read_bytes()


def _make_sample(landing: Path) -> list[Path]:
    return write_days(landing, NOON.date(), days=2, rows_per_hour=100, seed=7, withhold=[WITHHELD])


def _lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def _dirt_of(line: str, hour: datetime) -> str:
    try:
        visit = json.loads(line)
    except json.JSONDecodeError:
        return "malformed"
    if any(visit.get(name) is None for name in generator.REQUIRED_FIELDS):
        return "missing"
    if any(field in visit.items() for value in generator.MISTYPED_VALUES for field in value.items()):
        return "mistyped"
    event_hour = datetime.fromisoformat(visit["event_time"]).replace(minute=0, second=0, microsecond=0)
    if event_hour.date() != hour.date():
        return "other day"
    return "clean" if event_hour == hour else "late"
