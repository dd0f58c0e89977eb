"""Data engineering patterns for Dagster and Delta Lake. The names below are the public interface."""

from pattern_platform.errors import PatternPlatformError
from pattern_platform.lake.version_table import read_version_table
from pattern_platform.orchestration.validation import validate_definitions
from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager
from pattern_platform.patterns.idempotency.fast_metadata_cleaner import FastMetadataCleanerIOManager
from pattern_platform.patterns.idempotency.keyed_idempotency import KeyedIdempotencyIOManager
from pattern_platform.patterns.idempotency.merger import MergerIOManager
from pattern_platform.patterns.idempotency.proxy import ProxyIOManager
from pattern_platform.patterns.idempotency.stateful_merger import StatefulMergerIOManager
from pattern_platform.patterns.idempotency.transactional_writer import TransactionalWriterIOManager

__all__ = [
    "DataOverwriteIOManager",
    "FastMetadataCleanerIOManager",
    "KeyedIdempotencyIOManager",
    "MergerIOManager",
    "PatternPlatformError",
    "ProxyIOManager",
    "StatefulMergerIOManager",
    "TransactionalWriterIOManager",
    "aligned_fan_in",
    "read_version_table",
    "validate_definitions",
]
