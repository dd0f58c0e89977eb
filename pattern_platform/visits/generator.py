"""Lands made-up blog visits, one compressed JSON-lines file per UTC hour, with realistic dirt at known rates.

Every draw is a `numpy.random.RandomState` integer or uniform float, whose streams numpy keeps frozen, so a seed
yields the same lines with any version of Python, numpy or Polars.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pattern_platform.visits.landing_files import random_of, start_of_utc_hour, write_gzip_lines

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

LATE_RATE = 0.04  # An event hour before the file's hour, on the same UTC day (so none in hour 00).
DUPLICATE_RATE = 0.01  # The same line a second time, next or a few lines further down.
MALFORMED_RATE = 0.005  # A line cut short, so it is no JSON.
MISSING_RATE = 0.005  # One of REQUIRED_FIELDS without its key or, as often, null.
MISTYPED_RATE = 0.005  # One of MISTYPED_VALUES in place of the real value.
OTHER_DAY_RATE = 0.003  # An event time moved by one of OTHER_DAY_SHIFTS, in days.
QUIET_HOUR = 3  # The UTC hour of every day in which nothing arrives: its file exists and holds no line.

REQUIRED_FIELDS = ("visit_id", "event_time", "user_id", "page")
MISTYPED_VALUES = (
    *({"event_time": "yesterday"}, {"keep_private": "maybe"}, {"page": 404}),
    *({"user_id": 12}, {"user_id": {"id": 12}}),
)
OTHER_DAY_SHIFTS = (-2, -1, -1, 1)

# Visits of each UTC hour in percent of an average hour; they add up to 2,400 without the quiet hour.
DAILY_CURVE = (
    *(60, 40, 20, 10, 15, 30),
    *(60, 90, 120, 140, 145, 140),
    *(135, 130, 130, 130, 130, 130),
    *(135, 145, 150, 145, 110, 70),
)
PAGES = ("home", "home", "home", "index", "categories", "about", "contact")
POSTS = 60
REFERRALS = ("Google Search", "LinkedIn", "Medium", "StackOverflow", "Twitter", "newsletter", "direct")
ADS = ("ad 1", "ad 2", "ad 3", "ad 4", *[None] * 12)  # Three sessions in four come without one.
NETWORKS = ("Wi-Fi", "LAN", "4G", "5G")
BROWSERS = (("Firefox", "125.0"), ("Firefox", "124.0.2"), ("Chrome", "124.0"), ("Chrome", "123.0"), ("Safari", "17.4"))
DEVICES = (("PC", "Windows 11"), ("PC", "Ubuntu 22.04"), ("Mac", "Sonoma 14.4"), ("iPhone", "15"), ("Android", "14"))

_OPENS_SESSION, _POST, _REGULAR = 0.25, 0.65, 0.5  # Shares of visits, of pages, of sessions.
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_MAX_DELAY_MS = 90_000
_MAX_LATE_HOURS = 6
_DRAWS = 2**31
_BATCH = 100_000  # Lines are made and written this many visits at a time, which bounds the memory of a large hour.

_RECORD = pl.struct(
    *("visit_id", "event_time", "append_time", "user_id", "page", "keep_private"),
    pl.struct(
        *("referral", "ad_id"),
        pl.struct("ip", "login", "connected_since").alias("user"),
        pl.struct("browser", "browser_version", "network_type", "device_type", "device_version").alias("technical"),
    ).alias("context"),
)


def write_hour(landing: Path, hour: datetime, *, rows: int, seed: int) -> Path:
    """Write the landing file of one hour; the content depends on the hour, the rows and the seed alone.

    The file appears whole or not at all, and replaces one that is already there.

    Args:
        landing: Folder of the landing zone; the file goes to `visits/date=YYYY-MM-DD/hour=HH/visits.jsonl.gz` in it.
        hour: Start of the hour, with a timezone; named in UTC in the layout.
        rows: Number of visits, zero or more; the repeated lines of duplicates come on top.
        seed: Any integer; each seed gives other visits.

    Returns:
        The path of the file.

    Raises:
        ValueError: `hour` has no timezone or is not the start of an hour.
    """
    hour = start_of_utc_hour(hour)
    path = landing / "visits" / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}" / "visits.jsonl.gz"
    write_gzip_lines(path, _batches_of_lines(hour, rows, seed))
    return path


def write_days(
    landing: Path,
    first_day: date,
    *,
    days: int,
    rows_per_hour: int,
    seed: int,
    withhold: Collection[datetime] = (),
) -> list[Path]:
    """Write the landing files of whole UTC days.

    Args:
        landing: Folder of the landing zone.
        first_day: First UTC day.
        days: Number of days, each with 24 files less the withheld ones.
        rows_per_hour: Visits of an average hour; `rows_in_hour` tells how many a given hour has.
        seed: Any integer; each seed gives other visits.
        withhold: Starts of hours to leave out, with a timezone: neither file nor folder is made for them. To land
            one later, call `write_hour` with `rows=rows_in_hour(hour, rows_per_hour)` and the same seed.

    Returns:
        The paths of the files, oldest hour first.

    Raises:
        ValueError: A withheld hour has no timezone or is not the start of an hour.
    """
    withheld = {start_of_utc_hour(hour) for hour in withhold}
    midnight = datetime.combine(first_day, time(), tzinfo=UTC)
    hours = (midnight + timedelta(hours=n) for n in range(24 * days))
    return [
        write_hour(landing, hour, rows=rows_in_hour(hour, rows_per_hour), seed=seed)
        for hour in hours
        if hour not in withheld
    ]


def rows_in_hour(hour: datetime, rows_per_hour: int) -> int:
    """Tell how many visits `write_days` gives an hour: busy by day, few at night, none in `QUIET_HOUR`.

    Args:
        hour: Start of the hour, with a timezone.
        rows_per_hour: Visits of an average hour.

    Returns:
        The number of visits, at least one outside `QUIET_HOUR` when `rows_per_hour` is positive.

    Raises:
        ValueError: `hour` has no timezone or is not the start of an hour.
    """
    utc_hour = start_of_utc_hour(hour).hour
    return 0 if utc_hour == QUIET_HOUR else math.ceil(rows_per_hour * DAILY_CURVE[utc_hour] / 100)


def _batches_of_lines(hour: datetime, rows: int, seed: int) -> Iterator[list[str]]:
    if rows == 0:
        return
    random = random_of(seed, hour.isoformat())
    hour_ms = int(hour.timestamp()) * 1000
    id_prefix = random.bytes(8).hex()
    views = _views(random, hour, rows)
    sessions = _sessions(random, views["session"].n_unique(), _users(50 + rows // 4, seed))
    for start in range(0, rows, _BATCH):
        batch = views.slice(start, _BATCH)
        times = pl.from_epoch(pl.col("event_time", "append_time", "connected_since") + hour_ms, "ms")
        records = pl.concat([batch, sessions[batch["session"]]], how="horizontal").with_columns(
            times.dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
            visit_id=pl.Series([f"{id_prefix}{start + n:08x}" for n in range(len(batch))]),
        )
        lines = records.select(_RECORD.struct.json_encode()).to_series().to_list()
        yield _with_dirt(lines, batch["dirt"].to_list(), batch["draw"].to_list())


def _views(random: np.random.RandomState, hour: datetime, rows: int) -> pl.DataFrame:
    """Draw the page views in order of arrival, with times in ms since the start of the hour."""
    # One view in four opens a session; the others continue the one before, two seconds to two minutes later.
    opens = random.random_sample(rows) < _OPENS_SESSION
    opens[0] = True
    session = np.cumsum(opens) - 1
    waits = 2_000 + (random.random_sample(rows) ** 2 * 118_000).astype(np.int64)
    elapsed = np.cumsum(np.where(opens, 0, waits))
    elapsed -= elapsed[opens][session]

    # A session starts early enough to end within the hour, and a view arrives within the hour too.
    length = elapsed[np.append(np.flatnonzero(opens)[1:], rows) - 1]
    start = (random.random_sample(len(length)) * np.maximum(_HOUR_MS - length, 1)).astype(np.int64)
    event = np.minimum(start[session] + elapsed, _HOUR_MS - 1)
    delay = random.random_sample(rows) * np.minimum(_MAX_DELAY_MS, _HOUR_MS - 1 - event)
    append = event + delay.astype(np.int64)

    fixed = np.array(PAGES)[random.randint(0, len(PAGES), size=rows, dtype=np.int64)]
    post = np.array([f"post-{n + 1}" for n in range(POSTS)])[(random.random_sample(rows) ** 2 * POSTS).astype(np.int64)]
    page = np.where(random.random_sample(rows) < _POST, post, fixed)

    rates = (LATE_RATE, DUPLICATE_RATE, MALFORMED_RATE, MISSING_RATE, MISTYPED_RATE, OTHER_DAY_RATE)
    kinds = np.array(["late", "duplicate", "malformed", "missing", "mistyped", "other day", "clean"])
    dirt = kinds[np.searchsorted(np.cumsum(rates), random.random_sample(rows), side="right")]
    # One number per view for whatever its dirt has to choose: how late, which field, where to cut.
    draw = random.randint(0, _DRAWS, size=rows, dtype=np.int64)
    # Squared, so most late events are of the hour just before.
    back = (draw / _DRAWS) ** 2 * min(hour.hour, _MAX_LATE_HOURS) * _HOUR_MS
    event = np.where((dirt == "late") & (hour.hour > 0), -1 - back.astype(np.int64), event)
    event += np.where(dirt == "other day", np.array(OTHER_DAY_SHIFTS)[draw % len(OTHER_DAY_SHIFTS)], 0) * _DAY_MS

    views = {"session": session, "event_time": event, "append_time": append, "page": page, "dirt": dirt, "draw": draw}
    return pl.DataFrame(views)[np.argsort(append, kind="stable")]


def _sessions(random: np.random.RandomState, count: int, users: pl.DataFrame) -> pl.DataFrame:
    """Draw who browses in each session, where they came from and since when they are signed in."""
    # Half of the sessions are of regulars, the first quarter of the users.
    anyone = random.randint(0, len(users), size=count, dtype=np.int64)
    user = np.where(random.random_sample(count) < _REGULAR, anyone // 4, anyone)
    draw = random.randint(0, _DRAWS, size=(count, 3), dtype=np.int64)
    return users[user].with_columns(
        referral=pl.Series(REFERRALS)[draw[:, 0] % len(REFERRALS)],
        ad_id=pl.Series(ADS)[draw[:, 1] % len(ADS)],
        connected_since=-(draw[:, 2] % (20 * _DAY_MS)),
    )


def _users(count: int, seed: int) -> pl.DataFrame:
    """Draw the users of a seed: the first ones are the same however many are asked for, so they recur in all hours."""
    draw = random_of(seed, "users").randint(0, _DRAWS, size=(count, 5), dtype=np.int64)
    browsers = pl.DataFrame(BROWSERS, ["browser", "browser_version"], orient="row")[draw[:, 0] % len(BROWSERS)]
    devices = pl.DataFrame(DEVICES, ["device_type", "device_version"], orient="row")[draw[:, 1] % len(DEVICES)]
    return pl.concat([browsers, devices], how="horizontal").with_columns(
        network_type=pl.Series(NETWORKS)[draw[:, 2] % len(NETWORKS)],
        user_id=pl.Series([f"user-{n:06d}" for n in range(count)]),
        login=pl.Series([f"login-{n:06d}" for n in range(count)]),
        # Of the private network 10.0.0.0/8, so nobody's address.
        ip=pl.Series([f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in draw[:, 3].tolist()]),
        keep_private=draw[:, 4] % 5 == 0,
    )


def _with_dirt(lines: list[str], dirt: list[str], draw: list[int]) -> list[str]:
    repeats = []
    for n, kind in enumerate(dirt):
        if kind == "malformed":
            # Cut after the visit_id, so two malformed lines are never the same.
            lines[n] = lines[n][: 40 + draw[n] % (len(lines[n]) - 40)]
        elif kind == "missing":
            record = json.loads(lines[n]) | {REQUIRED_FIELDS[draw[n] // 2 % len(REQUIRED_FIELDS)]: None}
            # Half of the missing fields keep their key with a null; no other field at this level is ever null.
            kept = record if draw[n] % 2 else {name: value for name, value in record.items() if value is not None}
            lines[n] = json.dumps(kept, separators=(",", ":"))
        elif kind == "mistyped":
            record = json.loads(lines[n]) | MISTYPED_VALUES[draw[n] % len(MISTYPED_VALUES)]
            lines[n] = json.dumps(record, separators=(",", ":"))
        elif kind == "duplicate":
            repeats.append((min(n + draw[n] % 20, len(lines) - 1), lines[n]))
    for after, line in repeats:
        lines[after] = f"{lines[after]}\n{line}"
    return lines
