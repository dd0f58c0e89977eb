"""Sessions hour by hour: what is open is carried, each is closed once, and no hour runs out of its turn."""

from __future__ import annotations

import datetime as dt
import shutil
from collections import Counter
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from deltalake import DeltaTable, write_deltalake
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pattern_platform.visits import hourly_sessions as module
from pattern_platform.visits.assets import HOURS
from pattern_platform.visits.hourly_sessions import CHECKS, sessions_after, sessions_by_hour
from pattern_platform.visits.sessions import GAP, sessions_of
from pattern_platform_tests.lake.tables import contents
from pattern_platform_tests.patterns.idempotency.warehouse_tables import QUICK
from pattern_platform_tests.platform import Platform, errors, told
from pattern_platform_tests.visits.blog import succeeded, written_visits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

HOUR, SECOND = dt.timedelta(hours=1), dt.timedelta(seconds=1)
START = dt.datetime(2024, 5, 6, tzinfo=dt.UTC)
KEYS = HOURS.get_partition_keys()
LOG = {"user_id": pl.String, "append_time": pl.Datetime("us", "UTC")}
TABLE = sessions_by_hour.key.path
Log = list[tuple[str, dt.datetime]]
Row = dict[str, Any]


def at(clock: str, day: int = 0) -> dt.datetime:
    """A time of Monday, or of the day after."""
    return dt.datetime.fromisoformat(f"{START.date()}T{clock}+00:00") + dt.timedelta(days=day)


def hour_of(moment: dt.datetime) -> int:
    """Number of an hour, from midnight of Monday on."""
    return (moment - START) // HOUR


def frame(log: Log) -> pl.DataFrame:
    return pl.DataFrame(log, schema=LOG, orient="row")


# The oracle: the whole log is cut at once, and each hour is told what it could have seen of it ------------------------


def cut(log: Iterable[tuple[str, dt.datetime]]) -> list[list[dt.datetime]]:
    """The visits of each session."""
    done: dict[str, list[list[dt.datetime]]] = {}
    for user, moment in sorted(log, key=itemgetter(1)):
        own = done.setdefault(user, [])
        if not own or moment - own[-1][-1] > dt.timedelta(minutes=30):
            own.append([])
        own[-1].append(moment)
    return [session for own in done.values() for session in own]


def by_hand(log: Log, number: int) -> list[Row]:
    """The rows of an hour: the sessions that have visits of it, or were open at its start."""
    hour, half = START + number * HOUR, dt.timedelta(minutes=30)
    rows = [
        {
            "hour": hour,
            "user_id": user,
            "first_append": session[0],
            "last_append": session[-1],
            "visits": len(session),
            "is_open": session[-1] >= hour + half,
        }
        for user in {user for user, _ in log}
        for session in cut((u, moment) for u, moment in log if u == user and moment < hour + HOUR)
        if session[-1] >= hour - half
    ]
    return sorted(rows, key=itemgetter("user_id", "first_append"))


def rows_by_hand(log: Log, *numbers: int) -> list[Row]:
    return [row for number in numbers for row in by_hand(log, number)]


# The function, hour after hour ----------------------------------------------------------------------------------------


def carried(log: Log, hours: int) -> list[pl.DataFrame]:
    """Each hour made of the one before it and of its own visits."""
    state, states = sessions_after(START - HOUR, module._SCHEMA.to_frame(), frame([])), []
    for hour in (START + n * HOUR for n in range(hours)):
        arrived = frame([visit for visit in log if hour <= visit[1] < hour + HOUR])
        state = sessions_after(hour, state, arrived)
        states.append(state)
    return states


# Until the next visit: at once, the longest pause of a session and just more, an hour less or more than a session's.
PAUSES = st.sampled_from([0, 60, 29 * 60, 30 * 60, 30 * 60 + 1e-6, 30 * 60 + 1, 59 * 60, 90 * 60, 150 * 60])
VISITS = st.lists(st.tuples(st.sampled_from(["u1", "u2", "ü 3"]), PAUSES), max_size=30)


def log_of(drawn: Sequence[tuple[str, float]], first: float, *, until: dt.datetime) -> Log:
    moment, log = START + dt.timedelta(minutes=first), []
    for user, pause in drawn:
        moment += dt.timedelta(seconds=pause)
        if moment < until:
            log.append((user, moment))
    return log


@given(VISITS, st.integers(0, 24 * 60))
@example([("u1", 0), *[("u1", 1800.0)] * 8], 23 * 60)
@example([("u1", 0), ("u1", 1801.0)], 23 * 60 + 45)
@settings(QUICK, max_examples=25)
def test_every_hour_is_what_the_whole_log_says_of_it(drawn: list[tuple[str, float]], first: int) -> None:
    """However many hours lie before it: what is carried is all that an hour needs of them."""
    log = log_of(drawn, first, until=START + 48 * HOUR)
    states = carried(log, 50)
    assert [state.to_dicts() for state in states] == [by_hand(log, number) for number in range(50)]
    assert {state.schema == module._SCHEMA for state in states} == {True}


@given(VISITS, st.integers(0, 24 * 60))
@settings(QUICK, max_examples=15)
def test_each_session_is_closed_in_exactly_one_hour_and_loses_no_visit(
    drawn: list[tuple[str, float]], first: int
) -> None:
    log = log_of(drawn, first, until=START + 48 * HOUR)
    closed = [row for state in carried(log, 50) for row in state.to_dicts() if not row["is_open"]]
    assert sum(row["visits"] for row in closed) == len(log)
    assert max(Counter((row["user_id"], row["first_append"]) for row in closed).values(), default=1) == 1
    assert len(closed) == len(cut_of_each_user(log))


def cut_of_each_user(log: Log) -> list[list[dt.datetime]]:
    return [session for user in sorted({user for user, _ in log}) for session in cut(v for v in log if v[0] == user)]


@given(VISITS, st.integers(30, 22 * 60))
@settings(QUICK, max_examples=15)
def test_within_a_day_the_sessions_are_those_of_the_day(drawn: list[tuple[str, float]], first: int) -> None:
    """Parity with `sessions`, which cuts a day at once and ends each session with it."""
    log = log_of(drawn, first, until=at("23:30:00"))  # so none goes on after midnight
    columns = ["user_id", "first_append", "last_append", "visits"]
    visits = frame(log).with_row_index("visit_id").with_columns(event_time="append_time", page=pl.lit("A"))
    daily = sessions_of(visits.lazy()).collect().select(columns).sort(columns)
    hourly = pl.concat(carried(log, 24)).filter(~pl.col("is_open"))
    assert hourly.select(columns).sort(columns).equals(daily)


def test_the_gap_is_half_an_hour() -> None:
    """What the oracles write out."""
    assert dt.timedelta(minutes=30) == GAP


# The asset, over a log that a test writes -----------------------------------------------------------------------------


class Hours(Platform):
    """Sessions by hour over visits that a test puts into the log; what became of an hour no other test knows."""

    def __init__(self, folder: Path, log: Log = (), last: int = 23) -> None:
        self.log: pl.DataFrame = frame([])
        self.visits = written_visits(HOURS, lambda: self.log)
        super().__init__(folder, [self.visits, *module.ASSETS, *module.CHECKS])
        self.instance = dg.DagsterInstance.ephemeral()
        if log:
            self.append(log, 0, last)

    def beside(self, folder: Path) -> Hours:
        """The same visits in another folder, of which no sessions were made."""
        shutil.copytree(self.lake / "clean", folder / "lake" / "clean")
        return Hours(folder)

    def append(self, log: Log, first: int, last: int) -> None:
        """The log now holds these visits of some hours."""
        self.log = frame([visit for visit in log if first <= hour_of(visit[1]) <= last])
        succeeded(self.run_range([self.visits.key], KEYS[first], KEYS[last]))

    def hour(self, number: int) -> dg.ExecuteInProcessResult:
        return self.run([sessions_by_hour.key], KEYS[number])

    def hours(self, first: int, last: int) -> dg.ExecuteInProcessResult:
        """Hours that follow each other, in one run."""
        return self.run_range([sessions_by_hour.key], KEYS[first], KEYS[last])

    def made(self, first: int, last: int) -> list[Row]:
        succeeded(self.hours(first, last))
        return self.stored()

    def stored(self, *numbers: int) -> list[Row]:
        """The rows of some hours, or all, as delta-rs hands them to PyArrow."""
        rows = pl.DataFrame(DeltaTable(self.lake.joinpath(*TABLE)).to_pyarrow_table()).to_dicts()
        kept = [row for row in rows if not numbers or hour_of(row["hour"]) in numbers]
        return sorted(kept, key=itemgetter("hour", "user_id", "first_append"))


def last_hour(blog: Hours) -> list[tuple[str, int, bool]]:
    """User, visits and whether it is open, of each session of the newest hour."""
    rows = blog.stored()
    newest = max((row["hour"] for row in rows), default=None)
    return [(row["user_id"], row["visits"], row["is_open"]) for row in rows if row["hour"] == newest]


def test_a_session_over_three_hours_is_one(tmp_path: Path) -> None:
    moments = [at("09:50:00"), at("10:15:00"), at("10:45:00"), at("11:10:00"), at("12:05:00")]
    blog = Hours(tmp_path, [("u1", moment) for moment in moments[:4]])
    rows = blog.made(0, 12)
    assert [(row["hour"].hour, row["visits"], row["is_open"]) for row in rows] == [
        *[(9, 1, True), (10, 3, True), (11, 4, False)]
    ]
    assert {row["first_append"] for row in rows} == {moments[0]}
    assert rows[-1]["last_append"] == moments[3]


EDGES = {
    "within an hour": at("10:10:00"),
    "over the end of an hour": at("10:45:00"),
    "to the start of an hour": at("10:30:00"),
    "over midnight": at("23:45:00"),
    "to midnight": at("23:30:00"),
}


def test_a_pause_of_half_an_hour_goes_on_and_a_second_more_starts_anew(tmp_path: Path) -> None:
    goes_on = [(edge, moment) for edge, first in EDGES.items() for moment in (first, first + GAP)]
    anew = [(f"not {edge}", moment + SECOND * (moment != EDGES[edge])) for edge, moment in goes_on]
    log = sorted([*goes_on, *anew], key=itemgetter(1))
    blog = Hours(tmp_path, log, 25)
    for first, last in ((0, 9), (10, 10), (11, 11), (12, 22), (23, 23), (24, 24), (25, 25)):
        succeeded(blog.hours(first, last) if first < last else blog.hour(first))  # it goes from one run into the next
    assert blog.stored() == rows_by_hand(log, *range(26))
    closed = sorted((row["user_id"], row["visits"]) for row in blog.stored() if not row["is_open"])
    assert closed == sorted([*((edge, 2) for edge in EDGES), *((f"not {edge}", 1) for edge in EDGES for _ in range(2))])


def test_an_hour_without_visits_keeps_what_is_open_until_the_gap_has_passed(tmp_path: Path) -> None:
    log = [("open", at("00:30:00")), ("closed", at("00:29:59"))]
    blog = Hours(tmp_path, log, 2)
    succeeded(blog.hour(0))
    assert last_hour(blog) == [("closed", 1, False), ("open", 1, True)]
    succeeded(blog.hour(1))
    assert [(row["user_id"], row["visits"], row["is_open"]) for row in blog.stored(1)] == [("open", 1, False)]
    succeeded(blog.hour(2))
    assert blog.stored(2) == []
    blog.append([("open", at("03:40:00"))], 3, 3)
    succeeded(blog.hour(3))
    assert last_hour(blog) == [("open", 1, True)]  # another one


# A day of three users: sessions over hours, an hour without a visit, one session over midnight.
DAY_LOG = sorted(
    [
        *[("u1", START + n * dt.timedelta(minutes=25)) for n in range(20)],
        *[("u2", at("02:00:00") + n * dt.timedelta(minutes=31)) for n in range(15)],
        *[("u3", at("12:00:00") + n * GAP + SECOND * (n > 9)) for n in range(26)],
    ],
    key=itemgetter(1),
)


def test_a_day_in_one_run_is_as_one_by_one_and_as_in_any_split(tmp_path: Path) -> None:
    whole = Hours(tmp_path, DAY_LOG, 24)
    expected = rows_by_hand(DAY_LOG, *range(24))
    assert whole.made(0, 23) == expected
    for name, split in {"one by one": range(25), "some together": [0, 1, 12, 13, 24]}.items():
        parts = whole.beside(tmp_path / name)
        for first, end in pairwise(split):
            succeeded(parts.hours(first, end - 1) if end - first > 1 else parts.hour(first))
        assert parts.stored() == expected
        succeeded(parts.hour(24))
        assert [row["visits"] for row in parts.stored(24) if row["user_id"] == "u3"] == [16]  # goes on over midnight


def test_everything_twice_is_the_same(tmp_path: Path) -> None:
    blog = Hours(tmp_path, DAY_LOG, 8)
    blog.made(0, 1)
    before = blog.made(2, 8)
    succeeded(blog.hour(8))
    assert blog.stored() == before == rows_by_hand(DAY_LOG, *range(9))
    assert blog.made(2, 5) == before


def test_a_corrected_hour_is_followed_by_those_after_it(tmp_path: Path) -> None:
    """A visit in the middle of a session never was: the session falls into two, hours later."""
    log = [("u1", at("10:15:00") + n * dt.timedelta(minutes=25)) for n in range(6)]  # 10:15 to 12:20
    blog = Hours(tmp_path, log, 13)
    blog.made(0, 13)
    assert [row["visits"] for row in blog.stored(12)] == [6]
    corrected = [visit for visit in log if visit[1] != at("11:05:00")]
    blog.append(corrected, 11, 11)
    succeeded(blog.hour(11))
    assert blog.stored(10, 11) == rows_by_hand(corrected, 10, 11)
    assert blog.stored(12) == rows_by_hand(log, 12)  # as it was
    for number in (12, 13):
        succeeded(blog.hour(number))
        assert blog.stored(number) == rows_by_hand(corrected, number)
    assert [(row["visits"], row["is_open"]) for row in blog.stored(12)] == [(3, False)]
    assert blog.stored() == rows_by_hand(corrected, *range(14))


def test_a_range_over_hours_that_are_there_takes_none_of_what_they_left(tmp_path: Path) -> None:
    """The corrected hour and its successors in one run: only the hour before the first is read."""
    log = [("u1", at("09:40:00") + n * dt.timedelta(minutes=25)) for n in range(8)]
    blog = Hours(tmp_path, log, 13)
    blog.made(0, 13)
    corrected = [visit for visit in log if hour_of(visit[1]) != 10]
    blog.append(corrected, 10, 10)
    assert blog.made(10, 13) == rows_by_hand(corrected, *range(14))


def refused(result: dg.ExecuteInProcessResult, *culprits: str) -> None:
    assert not result.success
    (error,) = errors(result)
    assert error.startswith("OutOfTurnError")
    for culprit in culprits:
        assert culprit in error, error


def test_an_hour_whose_predecessor_is_missing_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    blog = Hours(tmp_path, DAY_LOG, 5)
    launch = f"dg launch --assets aggregated/sessions_by_hour --partition {KEYS[1]}"
    refused(blog.hour(2), KEYS[2], KEYS[1], "was never materialized", launch)
    refused(blog.hours(2, 5), KEYS[2], KEYS[1])
    assert not blog.lake.joinpath(*TABLE).exists()
    succeeded(blog.hour(0))
    before = contents(blog.lake)
    refused(blog.hour(2), KEYS[1])
    assert contents(blog.lake) == before
    succeeded(blog.hour(1))
    succeeded(blog.hours(2, 3))


def test_no_hour_runs_after_one_that_failed_until_it_is_repaired(tmp_path: Path) -> None:
    blog = Hours(tmp_path, DAY_LOG, 0)
    blog.append(DAY_LOG, 2, 3)
    succeeded(blog.hour(0))
    (error,) = errors(blog.hour(1))
    assert error.startswith("MissingPartitionsError")  # its visits have not arrived
    before = contents(blog.lake)
    refused(blog.hour(2), KEYS[1], "which is failed")
    assert contents(blog.lake) == before
    blog.append(DAY_LOG, 1, 1)
    assert blog.made(1, 3) == rows_by_hand(DAY_LOG, *range(4))


def test_an_hour_that_failed_again_holds_back_the_next(tmp_path: Path) -> None:
    """Its rows are there, of before: nobody knows whether they are still true."""
    blog = Hours(tmp_path, DAY_LOG, 2)
    before = blog.made(0, 1)
    aside = blog.lake / "clean/aside"
    (blog.lake / "clean/visits").rename(aside)
    assert not blog.hour(1).success
    aside.rename(blog.lake / "clean/visits")
    refused(blog.hour(2), KEYS[1], "which is failed")
    assert blog.stored() == before


def test_the_first_hour_of_all_rests_on_nothing(tmp_path: Path) -> None:
    blog = Hours(tmp_path, DAY_LOG, 2)
    assert told(blog.hour(0), sessions_by_hour.key)["dagster/partition_row_count"] == len(by_hand(DAY_LOG, 0))
    assert told(blog.hour(0), sessions_by_hour.key)["dagster/partition_row_count"] == len(by_hand(DAY_LOG, 0))


def test_hours_without_any_visit_at_all_have_no_rows(tmp_path: Path) -> None:
    blog = Hours(tmp_path)
    blog.append([], 0, 3)
    assert blog.made(0, 1) == []
    succeeded(blog.hour(2))
    assert blog.stored() == []


def test_a_session_that_is_there_twice_is_found(tmp_path: Path) -> None:
    """The negative control of the check."""
    blog = Hours(tmp_path, DAY_LOG, 2)
    rows = blog.made(0, 1)
    (unique,) = CHECKS
    assert blog.evaluate(unique, KEYS[1]).passed
    again = pl.DataFrame([row for row in rows if row["hour"].hour == 1], schema=module._SCHEMA)
    write_deltalake(blog.lake.joinpath(*TABLE), again, mode="append")
    assert not blog.evaluate(unique, KEYS[1]).passed
    assert blog.evaluate(unique, KEYS[0]).passed
