"""Lands made-up changes of the blog's users as change data capture delivers them, one file per UTC hour.

Delivery is at least once and out of order: an hour's file holds what changed in the hour and what the hour before left
over, and both follow from the seed alone. Users and logins are named as the visits generator names them. What is rare
has its fixed hours of the day, so that a day of any seed has all of it.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from pattern_platform.visits.landing_files import random_of, start_of_utc_hour, write_gzip_lines

if TYPE_CHECKING:
    from pathlib import Path

USERS = 50  # Changes are of the first users of the visits; the visitors after them are in no change.
SINGLE_CHANGES = (5, 10)  # Users that change once in the hour, at least and at most.
DELETE_RATE = 0.15  # Of single changes.
NO_EMAIL_RATE = 0.1  # Of upserts; an address is no duty.

# The changes of the one user that changes three times in an hour, hour by hour in turn. The second of them arrives in
# the next hour, after the third, and is outdated by then: it must neither undo it, nor take the user away.
BUSY_OPS = (("upsert", "upsert", "upsert"), ("upsert", "delete", "upsert"), ("upsert", "delete", "delete"))

RETURNING_USER = 7  # Has no other changes than these: deleted in the morning, created again at noon.
RETURNING_OPS = {1: "upsert", 6: "delete", 12: "upsert"}
UNKNOWN_USER = 999_999  # Was never created, and is deleted all the same.
UNKNOWN_HOURS = (4, 16)

# One record of each hour is delivered twice within the hour, the same bytes, and another once more in the next hour:
# with a new append time, but in these hours with the old one, so the same bytes again, which belong to the hour before.
STALE_HOURS = (5, 17)

# A line that no reader can use, on top of the others.
BAD_LINES = {2: "malformed", 7: "unknown op", 11: "no user_id", 15: "malformed", 19: "null user_id", 22: "unknown op"}
UNKNOWN_OP = "truncate"

COUNTRIES = ("DE", "ES", "FR", "GB", "PL", "US")
EMAIL_DOMAINS = ("example.com", "example.net", "example.org")  # Reserved names, so nobody's address.
PLANS = ("free", "free", "member")

_HOUR = timedelta(hours=1)
_HOUR_MS = 3_600_000
_MAX_DELAY_MS = 300_000
_MAX_REPEAT_MS = 60_000
_DRAWS = 2**31
_SEQUENCES = 100  # Of an hour, more than it has changes: like positions in a log, they grow and leave gaps.


def write_hour(landing: Path, hour: datetime, *, seed: int) -> Path:
    """Write the landing file of one hour; the content depends on the hour and the seed alone.

    The file appears whole or not at all, and replaces one that is already there.

    Args:
        landing: Folder of the landing zone; the file goes to `user_changes/date=YYYY-MM-DD/hour=HH/changes.jsonl.gz`.
        hour: Start of the hour, with a timezone; named in UTC in the layout.
        seed: Any integer; each seed gives other changes.

    Returns:
        The path of the file.

    Raises:
        ValueError: `hour` has no timezone or is not the start of an hour.
    """
    hour = start_of_utc_hour(hour)
    deliveries = sorted([*_deliveries(hour - _HOUR, seed), *_deliveries(hour, seed)], key=lambda delivery: delivery[0])
    lines = [line for arrival, line in deliveries if hour <= arrival < hour + _HOUR]

    path = landing / "user_changes" / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}" / "changes.jsonl.gz"
    write_gzip_lines(path, [lines])
    return path


def write_hours(landing: Path, first_day: date, *, days: int, seed: int) -> list[Path]:
    """Write the landing files of all hours of whole UTC days.

    Args:
        landing: Folder of the landing zone.
        first_day: First UTC day. Its first file has what the hour before it left over.
        days: Number of days, each with 24 files.
        seed: Any integer; each seed gives other changes.

    Returns:
        The paths of the files, oldest hour first.
    """
    midnight = datetime.combine(first_day, time(), tzinfo=UTC)
    return [write_hour(landing, midnight + n * _HOUR, seed=seed) for n in range(24 * days)]


def _deliveries(hour: datetime, seed: int) -> list[tuple[datetime, str]]:
    """Draw what changed in the hour, as lines with the time of their arrival, in this hour or in the next."""
    random = random_of(seed, "user changes", hour.isoformat())
    id_prefix = random.bytes(6).hex()
    plan = _plan(random, hour.hour)
    moments = random.randint(0, _HOUR_MS, size=len(plan), dtype=np.int64)
    moments[: len(BUSY_OPS[0])].sort()  # The first of the plan are the changes of one user, in their order.
    delays = random.random_sample(len(plan)) ** 2
    draws = random.randint(0, _DRAWS, size=(len(plan), 4), dtype=np.int64).tolist()

    deliveries, delivered = [], []
    for number, planned in enumerate(np.argsort(moments, kind="stable").tolist()):
        (user, op, fate), moment, delay = plan[planned], int(moments[planned]), float(delays[planned])
        # Late is some time in the next hour; anything else arrives within the hour.
        arrival = (
            _HOUR_MS * (1 + delay) if fate == "late" else moment + delay * min(_MAX_DELAY_MS, _HOUR_MS - 1 - moment)
        )
        arrives = hour + timedelta(milliseconds=int(arrival))
        record = {
            "change_id": f"{id_prefix}{number:04x}",
            "op": op,
            "user_id": f"user-{user:06d}",
            "sequence": int(hour.timestamp()) // 3600 * _SEQUENCES + number,
            "changed_at": _iso(hour + timedelta(milliseconds=moment)),
            "append_time": _iso(arrives),
            **_attributes(user, op, draws[planned]),
        }
        deliveries.append((arrives, _line(record, fate, draws[planned][0])))
        if fate == "on time":
            delivered.append((arrives, record))

    twice, again = random.randint(0, len(delivered), size=2, dtype=np.int64).tolist()
    wait, since = random.randint(0, _DRAWS, size=2, dtype=np.int64).tolist()
    arrives, record = delivered[twice]
    last = hour + timedelta(milliseconds=_HOUR_MS - 1)
    deliveries.append((min(arrives + timedelta(milliseconds=wait % _MAX_REPEAT_MS), last), _json(record)))

    _, record = delivered[again]
    arrives = hour + timedelta(milliseconds=_HOUR_MS + since % _HOUR_MS)
    stamp = {} if arrives.hour in STALE_HOURS else {"append_time": _iso(arrives)}
    return [*deliveries, (arrives, _json(record | stamp))]


def _plan(random: np.random.RandomState, hour: int) -> list[tuple[int, str, str]]:
    """Draw who changes in an hour of the day and how, and what becomes of it: on time, late or a bad line."""
    drawn = np.argsort(random.random_sample(USERS), kind="stable").tolist()
    busy, *others = [user for user in drawn if user != RETURNING_USER]
    first, second, third = BUSY_OPS[hour % len(BUSY_OPS)]
    plan = [(busy, first, "on time"), (busy, second, "late"), (busy, third, "on time")]

    least, most = SINGLE_CHANGES
    count = int(random.randint(least, most + 1, dtype=np.int64))
    deleted = random.random_sample(count) < DELETE_RATE
    plan += [(user, "delete" if gone else "upsert", "on time") for user, gone in zip(others, deleted, strict=False)]
    if hour in RETURNING_OPS:
        plan.append((RETURNING_USER, RETURNING_OPS[hour], "on time"))
    if hour in UNKNOWN_HOURS:
        plan.append((UNKNOWN_USER, "delete", "on time"))
    if hour in BAD_LINES:
        plan.append((others[-1], "upsert", BAD_LINES[hour]))
    return plan


def _attributes(user: int, op: str, draw: list[int]) -> dict[str, str | None]:
    if op == "delete":
        return dict.fromkeys(("login", "email", "country", "plan"))
    login = f"login-{user:06d}"
    email = f"{login}@{EMAIL_DOMAINS[draw[1] % len(EMAIL_DOMAINS)]}"
    return {
        "login": login,
        "email": None if draw[0] < NO_EMAIL_RATE * _DRAWS else email,
        "country": COUNTRIES[draw[2] % len(COUNTRIES)],
        "plan": PLANS[draw[3] % len(PLANS)],
    }


def _line(record: dict[str, Any], fate: str, draw: int) -> str:
    if fate == "malformed":
        # Cut after the change_id, so two malformed lines are never the same.
        line = _json(record)
        return line[: 40 + draw % (len(line) - 40)]
    if fate == "unknown op":
        return _json(record | {"op": UNKNOWN_OP})
    if fate == "no user_id":
        return _json({name: value for name, value in record.items() if name != "user_id"})
    if fate == "null user_id":
        return _json(record | {"user_id": None})
    return _json(record)


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"))


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
