"""Data engineering patterns for Dagster and Delta Lake. The names below are the public interface."""

from pattern_platform.errors import PatternPlatformError
from pattern_platform.orchestration.validation import validate_definitions
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager

__all__ = ["DataOverwriteIOManager", "PatternPlatformError", "aligned_fan_in", "validate_definitions"]
