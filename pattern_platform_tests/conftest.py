"""The tests are of the namespace ``main``, whatever branch they are run on, and as wide as each of them says."""

from __future__ import annotations

import os

os.environ["PATTERN_PLATFORM_NAMESPACE"] = "main"
os.environ.pop("COLUMNS", None)  # of a worker of pytest-xdist; the console would keep it
