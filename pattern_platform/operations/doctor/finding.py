"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        outcome: How it is.
        what: What there is.
        why: What comes of it; empty where it is well.
        mend: What to do about it.
    """

    outcome: Outcome
    what: str
    why: str = ""
    mend: str = ""


def ok(what: str) -> Finding:
    """It is well, or it does not apply."""
    return Finding(Outcome.OK, what)


def warning(what: str, *, why: str, mend: str) -> Finding:
    """It may be well; whoever runs the deployment knows."""
    return Finding(Outcome.WARNING, what, why, mend)


def failure(what: str, *, why: str, mend: str) -> Finding:
    """Runs will fail, wait for ever, or lose something."""
    return Finding(Outcome.FAILURE, what, why, mend)
