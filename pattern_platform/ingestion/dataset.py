"""The description of a data set: all that tells one ingestion from another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import dagster as dg
    import dataframely as dy

    from pattern_platform.ingestion.http.source import HttpSource


@dataclass(frozen=True)
class Dataset:
    """A source of landed files.

    Args:
        name: Name of the assets: ``raw/<name>``, ``clean/<name>``, ``quarantine/<name>``.
        description: What a row is, one sentence.
        owner: Team or person, as Dagster writes it (``team:web``).
        landing: Files of a partition below the landing folder: a glob with ``strftime`` fields of the partition's
            start in the time zone of ``partitions``, such as ``visits/date=%Y-%m-%d/hour=%H/*.jsonl.gz``.
        format: ``jsonl`` (an object a line), ``csv`` (with a header) or ``parquet``; text may be compressed.
        partitions: What one landed partition is; None where the files are loaded as a whole, or as they come.
        contract: Columns and rules of a clean row. A column's metadata ``source`` says where it is in the record, with
            dots for nested objects, ``$`` for all of it; its name when absent. The primary key is what duplicates are
            told by.
        time_column: Column of the contract that must lie inside the landed partition.
        header: The columns of a csv or parquet file. Without, a record is kept whole, as JSON.
        may_be_absent: Columns of the header that a file need not have: they are null there.
        null_values: Spellings of a missing value in a csv file.
        stage: How far it is brought: ``raw``, or ``clean``.
        source: Where its files are fetched from; None where they are delivered.
        incremental_field: Column that grows with what is new: the high-water mark where there are no partitions, else
            when an event arrived.
        new_columns: What becomes of columns that the source adds: ``refuse`` stops the partition, ``keep`` takes them
            over as text, ``ignore`` leaves them out.
        timestamp_format: Of timestamps in the record: ``strftime`` fields, ``epoch_seconds`` or
            ``epoch_milliseconds``; ISO 8601 when empty.
        time_zone: Of timestamps that do not say theirs; None where that is a mistake.
        personal_data: Columns of the contract that hold personal data.
        retention_days: How long personal data is kept; None for ever.
        allowed_lateness: For how many partitions after its own an event is still brought into it; None where the
            partition is that in which it arrived.
        contract_name: Where the contract is, for the catalogue.
    """

    name: str
    description: str
    owner: str
    landing: str
    format: Literal["jsonl", "csv", "parquet"]
    partitions: dg.TimeWindowPartitionsDefinition | None
    contract: type[dy.Schema]
    time_column: str | None
    header: tuple[str, ...] = ()
    may_be_absent: tuple[str, ...] = ()
    null_values: tuple[str, ...] = ("",)
    stage: Literal["raw", "clean"] = "clean"
    source: HttpSource | None = None
    incremental_field: str | None = None
    new_columns: Literal["refuse", "keep", "ignore"] = "refuse"
    timestamp_format: str = ""
    time_zone: str | None = None
    personal_data: tuple[str, ...] = ()
    retention_days: int | None = None
    allowed_lateness: int | None = None
    contract_name: str = ""

    def window(self, partition: str | None) -> dg.TimeWindow | None:
        """The time of a partition; None where there are none."""
        if partition is None or self.partitions is None:
            return None
        return self.partitions.time_window_for_partition_key(partition)

    @property
    def sources(self) -> dict[str, str]:
        """Where each column of the contract is in the record."""
        columns = self.contract.columns().items()
        return {name: (column.metadata or {}).get("source", name) for name, column in columns}
