"""Lands made-up likes of the blog's posts, one CSV file per UTC day, with a little dirt."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from pattern_platform.lake.whole_file import whole_file
from pattern_platform.visits.landing_files import random_of

if TYPE_CHECKING:
    from pathlib import Path

HEADER = ("like_id", "liked_at", "user_id", "post", "author")
AUTHORS = 14
_POSTS = 60
_DAY_SECONDS = 86_400


def write_days(landing: Path, first_day: date, *, days: int, likes: int, seed: int) -> list[Path]:
    """Write the landing files of whole UTC days.

    Args:
        landing: Folder of the landing zone; the files go to `likes/date=YYYY-MM-DD/likes.csv` in it.
        first_day: First UTC day.
        days: Number of days.
        likes: Likes of a day; one in a hundred is delivered twice, one in a hundred lacks its post.
        seed: Any integer; the same seed makes the same files.

    Returns:
        The paths of the files, oldest day first.
    """
    return [_write_day(landing, first_day + timedelta(days=n), likes, seed) for n in range(days)]


def _write_day(landing: Path, day: date, likes: int, seed: int) -> Path:
    random = random_of(seed, "likes", day.isoformat())
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    seconds = sorted(random.randint(0, _DAY_SECONDS, size=likes).tolist())
    posts = (random.random_sample(likes) ** 2 * _POSTS).astype(int) + 1  # the first posts are liked most
    users, dirt = random.randint(0, 200, size=likes), random.randint(0, 100, size=likes)
    path = landing / "likes" / f"date={day}" / "likes.csv"
    lines: list[str] = [",".join(HEADER)]
    for n, (second, post, user) in enumerate(zip(seconds, posts.tolist(), users.tolist(), strict=True)):
        at = f"{midnight + timedelta(seconds=second):%Y-%m-%dT%H:%M:%SZ}"
        named = "" if dirt[n] == 1 else f"post-{post}"
        line = f"{day:%Y%m%d}-{n:05},{at},user-{user:06d},{named},author-{post % AUTHORS:02d}"
        lines += [line, line] if dirt[n] == 0 else [line]
    with whole_file(path) as unfinished:
        unfinished.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path
