"""What a pattern is given to bring into its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pattern_platform.lake.completeness import WHOLE_TABLE, partition_app_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import dagster as dg
    import polars as pl

    from pattern_platform.lake.batch import Batch
    from pattern_platform.lake.declarations import MergerDeclaration, TableDeclaration
    from pattern_platform.lake.object_path import LakePath
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
        batch: Rows with exactly these columns and types, and the columns that the declaration does not store.
        keys: Partition keys of the run; None for an asset without partitions.
        definition: Partitions of the asset.
        window: The rows that the run owns.
        rows_are_checked: Whether rows outside are refused before they are written; lazy ones are looked at afterwards.
        declaration: What the asset declares.
        metadata: What the commit records about its run.
    """

    name: str
    table: LakePath
    snapshot: Snapshot | None
    schema: pl.Schema
    batch: Batch
    keys: Sequence[str] | None
    definition: dg.PartitionsDefinition | None
    window: Window
    rows_are_checked: bool
    declaration: TableDeclaration
    metadata: Mapping[str, object]

    @property
    def merger(self) -> MergerDeclaration:
        """What an asset declares that is known to be merged by key."""
        return cast("MergerDeclaration", self.declaration)

    @property
    def app_ids(self) -> list[str]:
        """The application transaction ids of what the commit completes."""
        return [WHOLE_TABLE] if self.keys is None else [partition_app_id(key) for key in self.keys]

    @property
    def partitions(self) -> dg.PartitionsDefinition:
        """Partitions of an asset that is known to have some."""
        return cast("dg.PartitionsDefinition", self.definition)
