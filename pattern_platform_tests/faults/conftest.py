"""What the faults share with the harness."""

from __future__ import annotations

from pattern_platform_tests.harness.conftest import soak, zygote

__all__ = ["soak", "zygote"]
