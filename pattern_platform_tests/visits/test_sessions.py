"""Sessions: cut as plain Python cuts them, and kept under the same keys whatever is replayed.

Scenarios K-2, K-3, K-5 and K-7 on the platform's own assets, in the store and the files that they have there.
"""

from __future__ import annotations

import csv
import datetime as dt
from hashlib import sha256
from itertools import count
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pattern_platform.patterns.idempotency.keyed_idempotency import KeyedIdempotencyIOManager
from pattern_platform.visits import assets as visits_module
from pattern_platform.visits import sessions as module
from pattern_platform.visits.assets import DAYS
from pattern_platform.visits.sessions import exported_sessions, sessions, sessions_of
from pattern_platform_tests.patterns.idempotency.warehouse_tables import QUICK
from pattern_platform_tests.platform import Platform, errors, told
from pattern_platform_tests.visits.blog import MONDAY, TUESDAY, clean, correct, run, succeeded, written_visits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

PARTS = (visits_module, module)
UTC = dt.UTC
LOG = {
    "visit_id": pl.String,
    "user_id": pl.String,
    "append_time": pl.Datetime("us", "UTC"),
    "event_time": pl.Datetime("us", "UTC"),
    "page": pl.String,
}
Visit = dict[str, Any]
START = dt.datetime(2024, 5, 6, tzinfo=UTC)


def at(clock: str, day: str = MONDAY) -> dt.datetime:
    return dt.datetime.fromisoformat(f"{day}T{clock}+00:00")


def seen(user: str, page: str, event: str, append: str = "", *, number: int = 0) -> Visit:
    times = {"event_time": at(event), "append_time": at(append or event)}
    return {"visit_id": f"{number:03}{user}{page}", "user_id": user, "page": page, **times}


def frame(visits: Iterable[Visit]) -> pl.DataFrame:
    return pl.DataFrame(list(visits), schema=LOG)


# The oracle -----------------------------------------------------------------------------------------------------------


def by_hand(visits: Iterable[Visit]) -> list[Visit]:
    """The sessions of some visits, one visit after the other."""
    open_sessions: dict[str, list[Visit]] = {}
    done: list[list[Visit]] = []
    for visit in sorted(visits, key=itemgetter("append_time", "visit_id")):
        current = open_sessions.get(visit["user_id"])
        last = current[-1]["append_time"] if current else None
        pause = visit["append_time"] - last if last else None
        if (
            current is None
            or pause is None
            or last is None
            or pause > dt.timedelta(minutes=30)
            or last.date() != visit["append_time"].date()
        ):
            current = open_sessions[visit["user_id"]] = []
            done.append(current)
        current.append(visit)
    return sorted(
        (
            {
                "user_id": session[0]["user_id"],
                "first_append": session[0]["append_time"],
                "last_append": session[-1]["append_time"],
                "visits": len(session),
                "pages": [v["page"] for v in sorted(session, key=itemgetter("event_time", "visit_id"))],
            }
            for session in done
        ),
        key=itemgetter("first_append", "user_id"),
    )


def key_by_hand(session: Visit) -> str:
    first = session["first_append"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return sha256(f'["{session["user_id"]}","{first}"]'.encode()).hexdigest()


def keyed_by_hand(visits: Iterable[Visit]) -> list[Visit]:
    """The sessions with their keys, in the order of :func:`stored`."""
    return sorted(({"session_id": key_by_hand(s), **s} for s in by_hand(visits)), key=itemgetter("session_id"))


# Minutes until the next visit reaches the log: at once, the longest pause of a session, just more, and some hours.
PAUSES = st.sampled_from([0.0, 0.0, 1.0, 29.0, 30.0, 30.0 + 1 / 60_000_000, 31.0, 300.0])
VISITS = st.lists(
    st.tuples(st.sampled_from(["u1", "u2", "ü 3"]), PAUSES, st.integers(-60, 60), st.sampled_from("ABC")), max_size=25
)


def visits_of(drawn: Sequence[tuple[str, float, int, str]], start: dt.datetime) -> list[Visit]:
    moment, visits = start, []
    for number, (user, pause, late, page) in enumerate(drawn):
        moment += dt.timedelta(minutes=pause)
        # Not in the order of the log: of visits at once, any may be first.
        visit_id = f"{number * 7 % 25:02}"
        event = moment - dt.timedelta(minutes=late)
        visits.append({"visit_id": visit_id, "user_id": user, "append_time": moment, "event_time": event, "page": page})
    return visits


@given(VISITS, st.integers(0, 24 * 60), st.randoms(use_true_random=False))
@example([("u1", 0.0, 0, "A"), ("u1", 30.0, 0, "B")], 23 * 60 + 45, None)  # midnight in between
@example([("u1", 0.0, 0, "A"), ("u1", 30.0, 0, "B"), ("u1", 30.0 + 1 / 60_000_000, 0, "C")], 0, None)
@QUICK
def test_sessions_are_those_that_plain_python_cuts(
    drawn: list[tuple[str, float, int, str]], minute: int, shuffled: Any
) -> None:
    visits = visits_of(drawn, START + dt.timedelta(minutes=minute))
    if shuffled:
        shuffled.shuffle(visits)
    assert sessions_of(frame(visits).lazy()).collect().to_dicts() == by_hand(visits)


def test_a_pause_of_exactly_the_gap_does_not_end_a_session() -> None:
    """The negative control of the oracle: one microsecond more does."""
    assert dt.timedelta(minutes=30) == module.GAP
    visits = [seen("u1", "A", "10:00:00"), seen("u1", "B", "10:30:00"), seen("u1", "C", "11:00:00.000001")]
    assert [s["visits"] for s in by_hand(visits)] == [2, 1]


# The platform's asset over a log that a test writes -------------------------------------------------------------------


class Blog(Platform):
    """The two assets of sessions, over visits that a test puts into the log."""

    def __init__(self, folder: Path) -> None:
        self.log: pl.DataFrame = frame([])
        self.visits = written_visits(DAYS, lambda: self.log)
        super().__init__(folder, [self.visits, *module.ASSETS, *module.CHECKS])

    def append(self, visits: Iterable[Visit], *days: str) -> None:
        """The log now holds these visits of some days."""
        first, last = days[0], days[-1]
        inside = [v for v in visits if first <= v["append_time"].date().isoformat() <= last]
        self.log = frame(inside)
        succeeded(self.run_range([self.visits.key], first, last))

    def replay(self, visits: Iterable[Visit], day: str = MONDAY) -> dict[str, Any]:
        """The log of a day holds these visits, and its sessions are made anew."""
        self.append(visits, day)
        return told(self.run([sessions.key], day), sessions.key)


def stored(blog: Platform) -> list[Visit]:
    """The sessions as DuckDB has them, without when they were written."""
    rows = blog.sql("sessions", "SELECT * EXCLUDE (ingestion_time, _partition) FROM sessions.main.sessions ORDER BY 1")
    return rows.to_dicts()


def times(blog: Platform) -> dict[str, dt.datetime]:
    return dict(blog.sql("sessions", "SELECT session_id, ingestion_time FROM sessions.main.sessions").rows())


BOOK = [seen("u1", "A", "03:03:20"), seen("u1", "B", "03:03:26"), seen("u1", "C", "03:05:26")]
LATE = [
    seen("u1", "H", "10:00:00", "10:01:00"),
    seen("u1", "P", "10:15:00", "10:16:00"),
    seen("u1", "C", "10:30:00", "10:31:00"),
]
WITH_LATE = [*LATE, seen("u1", "S", "09:55:00", "10:40:00")]


def test_the_platform_keeps_sessions_in_duckdb(tmp_path: Path) -> None:
    manager = Blog(tmp_path).resources["keyed_idempotency"]
    assert isinstance(manager, KeyedIdempotencyIOManager)
    assert manager.store.uri == str(tmp_path / "warehouse/sessions.duckdb")


def test_k_2_a_replay_has_the_same_key_and_a_later_time(tmp_path: Path) -> None:
    blog = Blog(tmp_path)
    blog.replay(BOOK)
    (first,) = stored(blog)
    assert (first["user_id"], first["pages"], first["visits"]) == ("u1", ["A", "B", "C"], 3)
    before = times(blog)
    blog.replay([*BOOK, seen("u2", "D", "04:55:26")])
    assert [s["user_id"] for s in sorted(stored(blog), key=itemgetter("user_id"))] == ["u1", "u2"]
    assert first in stored(blog)
    assert times(blog)[first["session_id"]] > before[first["session_id"]]


def test_k_3_a_late_visit_moves_no_key(tmp_path: Path) -> None:
    blog = Blog(tmp_path)
    blog.replay(LATE)
    (before,) = stored(blog)
    assert before["pages"] == ["H", "P", "C"]
    blog.replay(WITH_LATE)
    (after,) = stored(blog)
    assert after["session_id"] == before["session_id"] == key_by_hand(after)
    assert after["pages"] == ["S", "H", "P", "C"]
    assert (after["first_append"], after["last_append"]) == (at("10:01:00"), at("10:40:00"))


@pytest.mark.parametrize("lost_keys", ["keep", "refuse"])
def test_k_3_a_key_of_the_event_time_moves(tmp_path: Path, lost_keys: str) -> None:
    """The negative control: the same visits, cut and keyed by when they were opened, are two sessions or a refusal."""
    numbers = count()
    logs = (LATE, WITH_LATE)

    @dg.asset(
        key=["sessions"],
        partitions_def=DAYS,
        io_manager_key="keyed_idempotency",
        metadata={
            "partition_expr": "first_append",
            "key_columns": ["user_id", "first_append"],
            "key_name": "session_id",
            "lost_keys": lost_keys,
        },
    )
    def by_event() -> pl.LazyFrame:
        visits = frame(logs[next(numbers)]).lazy()
        return sessions_of(visits.with_columns(append_time=pl.col("event_time")))

    blog = Platform(tmp_path, [by_event])
    assert blog.run([by_event.key], MONDAY).success
    result = blog.run([by_event.key], MONDAY)
    if lost_keys == "refuse":
        assert errors(result)[0].startswith("LostKeysError")
        assert len(stored(blog)) == 1
    else:
        assert result.success
        assert sorted(s["pages"] for s in stored(blog)) == [["H", "P", "C"], ["S", "H", "P", "C"]]


def test_k_5_two_users_at_once_are_two_sessions(tmp_path: Path) -> None:
    blog = Blog(tmp_path)
    blog.replay([seen("u1", "A", "10:00:00"), seen("u2", "A", "10:00:00")])
    ids = {s["user_id"]: s["session_id"] for s in stored(blog)}
    assert len({*ids.values()}) == len(ids) == 2


def test_a_session_ends_with_its_day(tmp_path: Path) -> None:
    """A day is made of its own visits alone, so the order of the days is the same to it."""
    visits = [
        seen("u1", "A", "23:50:00"),
        seen("u1", "B", "23:59:59.999999"),
        {**seen("u1", "C", "00:00:00"), "append_time": at("00:00:00", TUESDAY)},
    ]
    for days in ((MONDAY, TUESDAY), (TUESDAY, MONDAY)):
        blog = Blog(tmp_path / days[0])
        blog.append(visits, MONDAY, TUESDAY)
        for day in days:
            told(blog.run([sessions.key], day), sessions.key)
        assert stored(blog) == keyed_by_hand(visits)
        assert sorted(s["pages"] for s in stored(blog)) == [["A", "B"], ["C"]]


@given(VISITS, st.lists(st.integers(0, 25), max_size=2))
@example([("u1", 0.0, 0, "A"), ("u1", 0.0, 0, "B"), ("u1", 30.0, 60, "C")], [1, 2])
@settings(QUICK, max_examples=4)
def test_any_replay_of_a_growing_log_ends_in_the_same_sessions(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, float, int, str]], cuts: list[int]
) -> None:
    """The log of a day is read up to some places, and then whole: as if it was read once."""
    blog = Blog(tmp_path_factory.mktemp("blog"))
    log = [v for v in visits_of(drawn, START) if v["append_time"].date() == START.date()]
    before: set[str] = set()
    for cut in (*sorted(cuts), len(log)):
        assert blog.replay(log[:cut])["keyed/keys_lost"] == 0
        assert stored(blog) == keyed_by_hand(log[:cut])
        found = {s["session_id"] for s in stored(blog)}
        assert before <= found
        before = found


# The visits of the generator, from landed files -----------------------------------------------------------------------

BOTH = [sessions.key, exported_sessions.key]


def exported(blog: Platform, day: str) -> list[dict[str, str]]:
    with (blog.folder / f"exports/sessions/{day}.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def test_sessions_and_their_export_twice(blog: Platform) -> None:
    """X-2: a rerun changes nothing but when a row was written, and no byte of the files."""
    for day in (MONDAY, TUESDAY):
        run(blog, BOTH, day)
    expected = keyed_by_hand(clean(blog))
    assert len(expected) > 50
    assert stored(blog) == expected
    files = {file.name: file.read_bytes() for file in (blog.folder / "exports/sessions").iterdir()}
    before = times(blog)
    for day in (TUESDAY, MONDAY):
        run(blog, BOTH, day)
    assert stored(blog) == expected
    assert all(time > before[key] for key, time in times(blog).items())
    assert {file.name: file.read_bytes() for file in (blog.folder / "exports/sessions").iterdir()} == files
    assert set(files) == {f"{MONDAY}.csv", f"{TUESDAY}.csv"}


def test_the_export_says_what_the_store_holds(blog: Platform) -> None:
    run(blog, BOTH, MONDAY)
    lines = exported(blog, MONDAY)
    expected = sorted(keyed_by_hand(clean(blog, MONDAY)), key=itemgetter("first_append", "session_id"))
    assert [*lines[0]] == [*expected[0]]  # without the time of the write
    found = [
        {
            **line,
            "first_append": moment(line["first_append"]),
            "last_append": moment(line["last_append"]),
            "visits": int(line["visits"]),
            "pages": line["pages"].split(" "),
        }
        for line in lines
    ]
    assert found == expected


@pytest.fixture
def with_sessions(blog: Platform) -> Platform:
    run(blog, BOTH, MONDAY)
    return blog


def first_of_a_session(blog: Platform) -> tuple[int, Callable[[list[Visit]], list[Visit]]]:
    """The hour in which a session of several visits begins, and how its first visit is taken out of it."""
    session = next(s for s in stored(blog) if s["visits"] > 1 and s["first_append"] != s["last_append"])
    (gone,) = [
        v["visit_id"]
        for v in clean(blog, MONDAY)
        if (v["user_id"], v["append_time"]) == (session["user_id"], session["first_append"])
    ]
    return session["first_append"].hour, lambda records: [r for r in records if r.get("visit_id") != gone]


def test_k_7_an_hour_that_takes_away_the_first_visit_of_a_session_is_refused(with_sessions: Platform) -> None:
    blog = with_sessions
    before, files, written = stored(blog), exported(blog, MONDAY), times(blog)
    hour, taken = first_of_a_session(blog)
    correct(blog, MONDAY, hour, taken)
    assert keyed_by_hand(clean(blog, MONDAY)) != before
    result = blog.run(BOTH, MONDAY)
    assert not result.success
    (error,) = errors(result)
    assert error.startswith("LostKeysError")
    assert "'sessions'" in error
    assert "1 key(s)" in error
    assert '"lost_keys": "delete"' in error
    assert (stored(blog), exported(blog, MONDAY), times(blog)) == (before, files, written)


def test_k_7_the_source_brought_back_is_taken(with_sessions: Platform) -> None:
    blog = with_sessions
    before = stored(blog)
    hour, taken = first_of_a_session(blog)
    landed = blog.landed(hour, MONDAY).read_bytes()
    correct(blog, MONDAY, hour, taken)
    assert not blog.run(BOTH, MONDAY).success
    blog.landed(hour, MONDAY).write_bytes(landed)
    correct(blog, MONDAY, hour, lambda records: records)
    run(blog, BOTH, MONDAY)
    assert stored(blog) == before


def test_the_key_is_checked_to_be_unique(with_sessions: Platform) -> None:
    """The negative control of both checks: a session that is there twice is found."""
    blog = with_sessions
    in_store, in_file = module.CHECKS
    assert blog.evaluate(in_store, MONDAY).passed
    assert blog.evaluate(in_file, MONDAY).passed
    blog.execute("sessions", "INSERT INTO sessions.main.sessions FROM sessions.main.sessions LIMIT 1")
    assert not blog.evaluate(in_store, MONDAY).passed
    file = blog.folder / f"exports/sessions/{MONDAY}.csv"
    file.write_text(file.read_text() + file.read_text().splitlines()[1] + "\n")
    assert not blog.evaluate(in_file, MONDAY).passed
