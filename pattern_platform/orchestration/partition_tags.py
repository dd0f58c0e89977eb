"""The tags that tell Dagster the partitions of a run."""

from __future__ import annotations

PARTITION = "dagster/partition"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def partition_tags(first: str, last: str) -> dict[str, str]:
    """The tags of a run over partitions that follow each other.

    Args:
        first: The first partition.
        last: The last one; the same for a run of one partition.
    """
    return {PARTITION: first} if first == last else {RANGE_START: first, RANGE_END: last}
