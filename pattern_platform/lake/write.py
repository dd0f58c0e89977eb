"""What a pattern is given to bring into its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import polars as pl

    from pattern_platform.lake.declarations import TableDeclaration
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.window import Window


@dataclass(frozen=True)
class Write:
    """A checked batch on its way into a table.

    Args:
        table: Directory of the table.
        snapshot: The table as it was found; None before the first write.
        schema: Columns of the table, with those that this batch adds at the end.
        rows: The batch with exactly these columns and types.
        window: The rows that the run owns.
        rows_are_checked: Whether every row is known to be inside; a lazy batch is known only once it is written.
        declaration: What the asset declares.
        metadata: What the commit records about its run.
        app_ids: What the commit completes.
    """

    table: Path
    snapshot: Snapshot | None
    schema: pl.Schema
    rows: pl.LazyFrame
    window: Window
    rows_are_checked: bool
    declaration: TableDeclaration
    metadata: Mapping[str, object]
    app_ids: Sequence[str]
