"""The process that forks the writers, once for each process of pytest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pattern_platform_tests.harness.processes import Zygote

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


@pytest.fixture
def soak() -> int:
    """Kills and rounds of the long forms."""
    return int(os.environ.get("SOAK", "500"))
