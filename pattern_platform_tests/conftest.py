"""The tests are of the namespace ``main``, whatever branch they are run on, and as wide as each of them says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

os.environ["PATTERN_PLATFORM_NAMESPACE"] = "main"
os.environ.pop("COLUMNS", None)  # of a worker of pytest-xdist; the console would keep it


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What the tests of the services import is installed for `make test-services` alone."""
    return True if collection_path.name == "services" and "not services" in config.option.markexpr else None
