"""What a pattern is given to bring into its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pattern_platform.lake.completeness import WHOLE_TABLE, partition_app_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import dagster as dg
    import polars as pl

    from pattern_platform.lake.declarations import TableDeclaration
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.window import Window


@dataclass(frozen=True)
class Write:
    """A checked batch on its way into a table.

    Args:
        name: The asset, for messages.
        table: Directory of the table.
        snapshot: The table as it was found; None before the first write.
        schema: Columns of the table, with those that this batch adds at the end.
        rows: The batch with exactly these columns and types, and the columns that the declaration does not store.
        keys: Partition keys of the run; None for an asset without partitions.
        definition: Partitions of the asset.
        window: The rows that the run owns.
        rows_are_checked: Whether every row is known to be inside; a lazy batch is known only once it is written.
        declaration: What the asset declares.
        metadata: What the commit records about its run.
    """

    name: str
    table: Path
    snapshot: Snapshot | None
    schema: pl.Schema
    rows: pl.LazyFrame
    keys: Sequence[str] | None
    definition: dg.PartitionsDefinition | None
    window: Window
    rows_are_checked: bool
    declaration: TableDeclaration
    metadata: Mapping[str, object]

    @property
    def app_ids(self) -> list[str]:
        """The application transaction ids of what the commit completes."""
        return [WHOLE_TABLE] if self.keys is None else [partition_app_id(key) for key in self.keys]

    @property
    def partitions(self) -> dg.PartitionsDefinition:
        """Partitions of an asset that is known to have some."""
        return cast("dg.PartitionsDefinition", self.definition)
