"""The generator of user changes: what a seed promises, what it lands for a merge to cope with, and the sample."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.ingestion.cleaning import DUPLICATE, Cleaned, clean_rows
from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.landing import read_landed
from pattern_platform.ingestion.parsing import MALFORMED
from pattern_platform.lake.partitions import window_of
from pattern_platform.visits import user_changes
from pattern_platform.visits.contract import UserChange
from pattern_platform.visits.user_changes import write_hour, write_hours

FIRST = date(2024, 5, 6)
NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
HOURS = [datetime(2024, 5, 6, tzinfo=UTC) + timedelta(hours=n) for n in range(48)]
SAMPLE = Path(__file__).parents[2] / "data" / "landing"
USER_CHANGES = Dataset(
    name="user_changes",
    description="Changes of the blog's users.",
    owner="team:web",
    landing="user_changes/date=%Y-%m-%d/hour=%H/*.jsonl.gz",
    format="jsonl",
    partitions=dg.HourlyPartitionsDefinition("2024-05-06-00:00", "2024-05-08-00:00"),
    contract=UserChange,
    time_column="append_time",
)
OUTSIDE = "append_time: outside the landed partition"


@pytest.fixture(scope="module")
def landed() -> dict[datetime, list[str]]:
    """Lines of the sample, by landed hour."""
    return {hour: lines(path_of(hour, SAMPLE)) for hour in HOURS}


@pytest.fixture(scope="module")
def changes(landed: dict[datetime, list[str]]) -> list[tuple[datetime, dict[str, Any]]]:
    """Usable records of the sample and the hours in which they landed first, in the order of the source."""
    first: dict[str, tuple[datetime, dict[str, Any]]] = {}
    for hour, hour_lines in landed.items():
        for line in hour_lines:
            if dirt_of(line) is None:
                record = json.loads(line)
                first.setdefault(record["change_id"], (hour, record))
    return sorted(first.values(), key=lambda change: change[1]["sequence"])


def test_same_seed_gives_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        write_hour(tmp_path / name, NOON, seed=seed).read_bytes()
        for name, seed in (("first", 7), ("again", 7), ("other", 8))
    )
    assert first == again
    assert gzip.decompress(first) != gzip.decompress(other)


def test_an_hour_does_not_depend_on_the_other_hours(tmp_path: Path) -> None:
    paths = write_hours(tmp_path / "days", date(2024, 5, 5), days=2, seed=7)
    for hour in (NOON, HOURS[0]):
        alone = write_hour(tmp_path / "alone", hour, seed=7)
        together = tmp_path / "days" / alone.relative_to(tmp_path / "alone")
        assert together in paths
        assert alone.read_bytes() == together.read_bytes()


def test_layout_names_the_hour_in_utc_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = write_hour(tmp_path, NOON.astimezone(timezone(timedelta(hours=2))), seed=7)
    assert path == tmp_path / "user_changes" / "date=2024-05-06" / "hour=12" / "changes.jsonl.gz"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("hour", [NOON.replace(tzinfo=None), NOON.replace(minute=5)])
def test_what_is_not_the_start_of_an_hour_is_refused(tmp_path: Path, hour: datetime) -> None:
    with pytest.raises(ValueError, match="start of a UTC hour"):
        write_hour(tmp_path, hour, seed=7)


def test_the_sample_is_what_the_generator_makes_today(tmp_path: Path) -> None:
    made = {path.relative_to(tmp_path): lines(path) for path in write_hours(tmp_path, FIRST, days=2, seed=7)}
    committed = {path.relative_to(SAMPLE): lines(path) for path in SAMPLE.glob("user_changes/*/*/*")}
    assert made == committed
    assert len(made) == 48
    assert all(10 <= len(made_lines) <= 20 for made_lines in made.values())


@pytest.mark.skipif(
    sys.platform != "linux" or "ng" in zlib.ZLIB_RUNTIME_VERSION, reason="another zlib compresses to other bytes"
)
def test_the_command_makes_the_sample_byte_for_byte(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["generate", "users", "--landing", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert sorted(tmp_path.rglob("*.gz")) == [path_of(hour, tmp_path) for hour in HOURS]
    for hour in HOURS:
        assert path_of(hour, tmp_path).read_bytes() == path_of(hour, SAMPLE).read_bytes()


@pytest.mark.parametrize("seed", range(20))
def test_every_seed_lands_the_documented_dirt(tmp_path: Path, seed: int) -> None:
    paths = write_hours(tmp_path, FIRST, days=1, seed=seed)
    count = Counter(dirt_of(line) for path in paths for line in lines(path))
    bad = Counter(user_changes.BAD_LINES.values())
    assert count["malformed record"] == bad["malformed"]
    assert count["op is upsert or delete"] == bad["unknown op"]
    assert count["user_id: missing"] == bad["no user_id"] + bad["null user_id"]
    assert sum(len(lines(path)) - len(set(lines(path))) for path in paths) == 24


def test_users_are_those_of_the_visits(changes: list[tuple[datetime, dict[str, Any]]]) -> None:
    visitors = set()
    for path in SAMPLE.glob("visits/*/*/*"):
        for line in lines(path):
            if line.endswith("}}}"):
                visit = json.loads(line)
                visitors.add((str(visit.get("user_id")), visit["context"]["user"]["login"]))
    changed = {(change["user_id"], change["login"]) for _, change in changes if change["op"] == "upsert"}
    assert len(changed) == user_changes.USERS
    assert changed < visitors


def test_the_sequence_grows_as_the_source_changes(changes: list[tuple[datetime, dict[str, Any]]]) -> None:
    assert len({change["sequence"] for _, change in changes}) == len(changes)
    moments = [change["changed_at"] for _, change in changes]
    assert moments == sorted(moments)
    for hour, change in changes:
        appended, changed = (datetime.fromisoformat(change[name]) for name in ("append_time", "changed_at"))
        assert hour <= appended < hour + timedelta(hours=1)
        assert changed <= appended


def test_upserts_have_attributes_and_deletes_none(changes: list[tuple[datetime, dict[str, Any]]]) -> None:
    given = {"upsert": Counter[str](), "delete": Counter[str]()}
    for _, change in changes:
        given[change["op"]].update(n for n in ("login", "email", "country", "plan") if change[n] is not None)
    upserts = sum(change["op"] == "upsert" for _, change in changes)
    assert given["delete"] == {}
    assert given["upsert"]["login"] == given["upsert"]["country"] == given["upsert"]["plan"] == upserts
    assert 0.8 * upserts < given["upsert"]["email"] < upserts
    assert {change["plan"] for _, change in changes} == {"free", "member", None}


def test_every_hour_a_user_changes_several_times_and_one_of_the_changes_is_overtaken(
    changes: list[tuple[datetime, dict[str, Any]]],
) -> None:
    made: dict[tuple[str, str], list[tuple[datetime, dict[str, Any]]]] = defaultdict(list)
    for hour, change in changes:
        made[change["changed_at"][:13], change["user_id"]].append((hour, change))
    overtaken = []
    for several in made.values():
        hours = [hour for hour, _ in several]
        if len(several) == 3 and hours[1] > hours[2]:
            overtaken.append(tuple(change["op"] for _, change in several))
    # Of the last hour nothing arrives late: the next one did not land.
    assert overtaken == [user_changes.BUSY_OPS[hour.hour % 3] for hour in HOURS[:-1]]


def test_a_record_is_delivered_again_in_its_hour_and_in_the_next(landed: dict[datetime, list[str]]) -> None:
    for hour, following in pairwise(HOURS):
        repeated = [line for line, times in Counter(landed[hour]).items() if times > 1]
        assert len(repeated) == 1
        before = {line[:40]: line for line in landed[hour]}
        again = [line for line in landed[following] if line[:40] in before]
        assert len(again) == 1
        assert (again[0] in landed[hour]) == (following.hour in user_changes.STALE_HOURS)
        first, second = json.loads(before[again[0][:40]]), json.loads(again[0])
        assert first | {"append_time": second["append_time"]} == second


def test_an_unknown_user_is_deleted_and_another_returns(changes: list[tuple[datetime, dict[str, Any]]]) -> None:
    ops = defaultdict(list)
    for _, change in changes:
        ops[change["user_id"]].append(change["op"])
    assert ops[f"user-{user_changes.UNKNOWN_USER:06d}"] == ["delete"] * 4
    assert ops[f"user-{user_changes.RETURNING_USER:06d}"] == ["upsert", "delete", "upsert"] * 2


def test_good_lines_are_clean_and_each_bad_one_is_in_quarantine_with_its_reason(
    landed: dict[datetime, list[str]],
) -> None:
    reasons: Counter[str] = Counter()
    for hour, hour_lines in landed.items():
        expected, good = [], []
        for line in hour_lines:
            reason = dirt_of(line) or (DUPLICATE if line in good else None)
            if reason is None and json.loads(line)["append_time"] < f"{hour:%Y-%m-%dT%H}":
                reason = OUTSIDE
            if reason is None:
                good.append(line)
            else:
                expected.append((line, [reason]))
        cleaned = clean(hour)
        assert list(cleaned.quarantine.select("record", "reasons").iter_rows()) == expected
        assert cleaned.clean.to_dicts() == [record_of(line) for line in good]
        assert cleaned.clean.schema == pl.Schema(UserChange)
        reasons.update(reason for _, (reason,) in expected)
    assert reasons == {
        MALFORMED: 4,
        "op is upsert or delete": 4,
        "user_id: missing": 4,
        OUTSIDE: 4,
        DUPLICATE: 48,
    }


def clean(hour: datetime) -> Cleaned:
    key = f"{hour:%Y-%m-%d-%H:%M}"
    raw = read_landed(USER_CHANGES, SAMPLE, key)
    return clean_rows(
        USER_CHANGES, raw, window_of([key], USER_CHANGES.partitions, "append_time", pl.Schema(UserChange))
    )


def record_of(line: str) -> dict[str, Any]:
    record = json.loads(line)
    return record | {name: datetime.fromisoformat(record[name]) for name in ("changed_at", "append_time")}


def path_of(hour: datetime, landing: Path) -> Path:
    return landing / f"user_changes/date={hour:%Y-%m-%d}/hour={hour:%H}/changes.jsonl.gz"


def lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def dirt_of(line: str) -> str | None:
    """The reason for which a line by itself is of no use."""
    try:
        change = json.loads(line)
    except json.JSONDecodeError:
        return MALFORMED
    if change.get("user_id") is None:
        return "user_id: missing"
    return None if change["op"] in {"upsert", "delete"} else "op is upsert or delete"
