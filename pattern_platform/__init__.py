"""Data engineering patterns for Dagster and Delta Lake. The names below are the public interface."""

from pattern_platform.errors import PatternPlatformError
from pattern_platform.lake.version_table import read_version_table
from pattern_platform.orchestration.validation import validate_definitions
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager
from pattern_platform.patterns.idempotency.merger import MergerIOManager
from pattern_platform.patterns.idempotency.stateful_merger import StatefulMergerIOManager

__all__ = [
    "DataOverwriteIOManager",
    "MergerIOManager",
    "PatternPlatformError",
    "StatefulMergerIOManager",
    "aligned_fan_in",
    "read_version_table",
    "validate_definitions",
]
