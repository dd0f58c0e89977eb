"""Sample comments, as phones send them: most at once, some hours later, a few after they are of any use."""

from __future__ import annotations

import json
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from pattern_platform.lake.whole_file import whole_file
from pattern_platform.visits.landing_files import random_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date
    from pathlib import Path

LATE, TOO_LATE = 0.06, 0.01  # shares of the comments
_HOURS_LATE, _HOURS_TOO_LATE = (1, 5), (8, 12)
_USERS, _POSTS = 150, 50
_MOMENT = "%Y-%m-%dT%H:%M:%SZ"


def write_days(landing: Path, first_day: date, *, days: int, comments: int, seed: int) -> list[Path]:
    """Land hours of comments.

    Args:
        landing: Folder of landed files.
        first_day: First day.
        days: Number of days.
        comments: Number of comments written in an hour.
        seed: The same seed makes the same files.

    Returns:
        The files, one an hour, by the hour in which the comments arrived.
    """
    start = datetime.combine(first_day, time(), UTC)
    hours = [start + timedelta(hours=hour) for hour in range(24 * days)]
    arrived: dict[datetime, list[dict[str, Any]]] = {hour: [] for hour in hours}
    for hour in hours:
        for comment in _written(hour, comments, seed):
            of = comment["append_time"].replace(minute=0, second=0, microsecond=0)
            if of in arrived:  # what arrives after the last day is not there yet
                arrived[of].append(comment)
    files = []
    for hour, there in arrived.items():
        path = landing / hour.strftime("comments/date=%Y-%m-%d/hour=%H/comments.jsonl")
        ordered = sorted(there, key=lambda comment: (comment["append_time"], comment["comment_id"]))
        with whole_file(path) as unfinished:
            unfinished.write_text("".join(f"{json.dumps(_record(c), separators=(',', ':'))}\n" for c in ordered))
        files.append(path)
    return files


def _written(hour: datetime, comments: int, seed: int) -> Iterator[dict[str, Any]]:
    random = random_of("comments", seed, hour.isoformat())
    for number in range(comments):
        posted = hour + timedelta(seconds=int(random.randint(0, 3600)))
        drawn = float(random.uniform())
        delay = timedelta(seconds=int(random.randint(1, 90)))
        if drawn < TOO_LATE:
            delay += timedelta(hours=int(random.randint(*_HOURS_TOO_LATE)))
        elif drawn < TOO_LATE + LATE:
            delay += timedelta(hours=int(random.randint(*_HOURS_LATE)))
        yield {
            "comment_id": f"{hour:%Y%m%d%H}-{number:04}",
            "posted_at": posted,
            "append_time": posted + delay,
            "user_id": f"user-{random.randint(0, _USERS):06}",
            "post": f"post-{random.randint(1, _POSTS):02}",
            "words": int(random.randint(1, 200)),
            "network": str(random.choice(["LAN", "4G", "5G"])),
        }


def _record(comment: dict[str, Any]) -> dict[str, Any]:
    moments = {name: comment[name].strftime(_MOMENT) for name in ("posted_at", "append_time")}
    record = {**comment, **moments, "context": {"network": comment["network"]}}
    del record["network"]
    return record
