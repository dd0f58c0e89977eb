"""Attempts that are repeated where the next may succeed: exponential back-off, full jitter, ``Retry-After`` honoured.

They are repeated inside the run, by tenacity. A ``dagster.RetryPolicy`` repeats a whole step, with all that was fetched
by then, and cannot wait for as long as a server asks to. It is right around this: for a source that stays away for
longer than a run should wait.

Loads need that policy alone. ``lake.commit`` plans a commit that meets another one again, 25 times and with jitter, and
``warehouse.database`` waits for a file that somebody holds; what outlasts them, and an error of the system or of the
network, which passes as it is, is repeated by the policy. A write that is repeated is harmless, also when it failed
after its commit. No policy repeats a refusal.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NoReturn, TypeVar

import dagster as dg
import tenacity

from pattern_platform.errors import SourceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class TransientError(Exception):
    """An attempt failed, and the next may succeed.

    Args:
        why: What happened, without secrets.
        retry_after: Seconds that the other side asks to wait; 0 when it does not.
    """

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


def retried(
    attempt: Callable[[], T],
    what: str,
    *,
    most_attempts: int,
    first_wait: float,
    longest_wait: float,
    longest_wait_after: float,
) -> T:
    """Repeat what fails with a :class:`TransientError`; any other error passes at once.

    Args:
        attempt: What is to be done.
        what: What it is, for messages: without secrets.
        most_attempts: How often it is tried, the first time included.
        first_wait: The first wait is drawn from 0 to so many seconds; each further range is twice as wide.
        longest_wait: No range is wider, in seconds.
        longest_wait_after: A longer wait that the other side asks for, in seconds, is not waited for.

    Raises:
        SourceUnavailableError: The last attempt failed too, or the other side asks to come back much later.
    """
    drawn = tenacity.wait_random_exponential(multiplier=first_wait, max=longest_wait)

    def wait(state: tenacity.RetryCallState) -> float:
        return max(drawn(state), _failure_of(state).retry_after)

    def stop(state: tenacity.RetryCallState) -> bool:
        return state.attempt_number >= most_attempts or _failure_of(state).retry_after > longest_wait_after

    def report(state: tenacity.RetryCallState) -> None:
        number, pause = state.attempt_number, state.upcoming_sleep
        dg.get_dagster_logger().warning(
            "%s: attempt %d of %d failed: %s; the next in %.1f s",
            what,
            number,
            most_attempts,
            _failure_of(state),
            pause,
        )

    def give_up(state: tenacity.RetryCallState) -> NoReturn:
        failure, attempts = _failure_of(state), state.attempt_number
        asked = f", and asks to wait for {failure.retry_after:.0f} s" if failure.retry_after else ""
        raise SourceUnavailableError(
            f"{what} was given up after {attempts} attempt{'s' * (attempts > 1)}",
            why=f"{failure}{asked}",
            mend="run again later: what was fetched is kept, and is not fetched again",
        ) from None  # the error of a library quotes the URL, with its secrets

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=stop,
        wait=wait,
        before_sleep=report,
        retry_error_callback=give_up,
    )(attempt)


def seconds_to_wait(retry_after: str | None) -> float:
    """How long a ``Retry-After`` header asks to wait, by RFC 9110: seconds or a date; 0 for none and for no such thing.

    Args:
        retry_after: Value of the header.
    """
    if retry_after is None:
        return 0.0
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max((parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):  # no date, or one without a zone
        return 0.0


def _failure_of(state: tenacity.RetryCallState) -> TransientError:
    failure = state.outcome and state.outcome.exception()
    assert isinstance(failure, TransientError)  # noqa: S101 - no other error is repeated
    return failure
