"""What a caller asks to be run: found by its name, and refused before it is launched where it could only fail."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from pattern_platform.errors import SubmissionError
from pattern_platform.lake.checks import listed
from pattern_platform.orchestration.graphql.answers import Asset
from pattern_platform.orchestration.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pattern_platform.orchestration.graphql.answers import Job
    from pattern_platform.orchestration.graphql.webserver import Webserver


@dataclass(frozen=True)
class Submission(Task):
    """What was asked for under a key of the caller.

    Args:
        name: The job, or the key of the asset.
        first: The first partition; empty where it has none.
        last: The last one.
        config: The run config, as JSON.
        run_key: What the caller calls it.
    """

    name: str
    first: str
    last: str
    config: str
    run_key: str


def resolved(webserver: Webserver, name: str) -> Asset | Job:
    """The one job or asset of a name.

    Args:
        webserver: Of the platform.
        name: A job, the key of an asset, or its last part.

    Raises:
        SubmissionError: There is none, or there are several.
    """
    names = webserver.names()
    jobs = [(f"job {job} of {location[0]}", (job, location)) for job, location in names.jobs if job == name]
    exact = [(f"asset {key}", key) for key in names.assets if key == name]
    same_end = [(f"asset {key}", key) for key in names.assets if key.rpartition("/")[2] == name]
    candidates = [*jobs, *exact] or same_end
    if len(candidates) > 1:
        raise SubmissionError(
            f"a run of {name!r} was refused",
            why=f"several are called so: {', '.join(text for text, _ in candidates)}",
            mend="write the whole key of the asset; jobs of one name must be renamed",
        )
    if not candidates:
        known = [*(job for job, _ in names.jobs), *names.assets]
        raise SubmissionError(
            f"a run of {name!r} was refused",
            why="no job and no asset that can be materialized is called so",
            mend=_close(name, known, [key.rpartition("/")[2] for key in known]),
        )
    ((_, found),) = candidates
    return webserver.asset(found) if isinstance(found, str) else webserver.job(*found)


def asked(name: str, partition: str | None, partitions: tuple[str, str] | None) -> tuple[str, str]:
    """The first and the last partition; both empty where none was named."""
    if partition is not None and partitions is not None:
        raise SubmissionError(
            f"a run of {name!r} was refused",
            why="it names one partition, and the first and last of several",
            mend="give `partition` or `partitions`",
        )
    if partitions is not None:
        first, last = partitions
        return first, last
    return partition or "", partition or ""


def refuse_partitions(target: Asset | Job, name: str, first: str, last: str) -> None:
    """Refuse what would fail in the run, or run something else, before it is launched."""
    known, what = target.partitions, f"a run of {name!r} was refused"
    if known and not first:
        raise SubmissionError(
            what, why=f"it is partitioned: {known[0]} to {known[-1]}", mend="say which `partition`, or `partitions`"
        )
    if first and not known:
        raise SubmissionError(what, why="it has no partitions now", mend="leave `partition` out")
    if unknown := list(dict.fromkeys(key for key in (first, last) if key and key not in known)):
        raise SubmissionError(
            what,
            why=f"it has no partition {listed(unknown)}; it has {known[0]} to {known[-1]}",
            mend=_close(unknown[0], known, known),
        )
    if not first:
        return
    size = known.index(last) - known.index(first) + 1
    if size < 1:
        raise SubmissionError(what, why=f"{last} is before {first}", mend="turn the `partitions` round")
    if isinstance(target, Asset) and target.per_run is not None and size > target.per_run:
        raise SubmissionError(
            what,
            why=f"{first} to {last} are {size} partitions, and one run takes {target.per_run}",
            mend="submit them in several runs (`pattern-platform backfill` does), or give the asset a backfill policy",
        )


def _close(name: str, known: Sequence[str], texts: Sequence[str]) -> str:
    """Which of the known names may have been meant.

    Args:
        name: As it was written.
        known: The names.
        texts: A shorter form of each.
    """
    short = set(get_close_matches(name.rpartition("/")[2], set(texts)))
    close = {*get_close_matches(name, set(known)), *(k for k, t in zip(known, texts, strict=True) if t in short)}
    return f"did you mean {', '.join(sorted(close))}?" if close else "see the names in the UI"
