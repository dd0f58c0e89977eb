"""The description of a data set: all that tells one ingestion from another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import dagster as dg
    import dataframely as dy


@dataclass(frozen=True)
class Dataset:
    """A source of landed files.

    Args:
        name: Name of the assets: ``raw/<name>``, ``clean/<name>``, ``quarantine/<name>``.
        description: What a row is, one sentence.
        owner: Team or person, as Dagster writes it (``team:web``).
        landing: Files of a partition below the landing folder: a glob with ``strftime`` fields of the partition's
            start in the time zone of ``partitions``, such as ``visits/date=%Y-%m-%d/hour=%H/*.jsonl.gz``.
        format: ``jsonl`` (an object a line) or ``csv`` (with a header); either may be compressed.
        partitions: What one landed partition is.
        contract: Columns and rules of a clean row. A column's metadata ``source`` says where it is in the record, with
            dots for nested objects; its name when absent. The primary key is what duplicates are told by.
        time_column: Column of the contract that must lie inside the landed partition.
        header: The columns of a csv file, exactly and in order.
        null_values: Spellings of a missing value in a csv file.
    """

    name: str
    description: str
    owner: str
    landing: str
    format: Literal["jsonl", "csv"]
    partitions: dg.TimeWindowPartitionsDefinition
    contract: type[dy.Schema]
    time_column: str
    header: tuple[str, ...] = ()
    null_values: tuple[str, ...] = ("",)
