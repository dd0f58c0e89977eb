"""One running Dagster for all tests of the folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pattern_platform_tests.daemon.days import launch
from pattern_platform_tests.daemon.flow import run
from pattern_platform_tests.daemon.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pattern_platform_tests.daemon.flow import Flow


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        stack.files.ask("schedule")  # it ticks once a minute: whoever looks at its run need not wait
        yield stack


@pytest.fixture(scope="session")
def backfills(stack: Stack) -> dict[str, list[str]]:
    return launch(stack)


@pytest.fixture(scope="session")
def flow(stack: Stack, backfills: dict[str, list[str]]) -> Flow:
    assert backfills  # which go on meanwhile: both wait more than they work
    return run(stack)
