"""Processes that begin as copies of one that has imported what they need: an import takes a second, a copy no time.

Whatever is imported there leaves Polars idle: a copy would miss its threads.
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

_FIRST_INSTANCE = "pattern_platform_tests.harness.first_instance"


def forks_of(module: str) -> ForkServerContext:
    """The processes of a module of tests.

    Args:
        module: Its ``__name__``.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module, _FIRST_INSTANCE])
    return context
