"""A change set: files to add and files to remove. Every write of the platform is one, committed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from pattern_platform.lake.files import DataFile


@dataclass(frozen=True)
class ChangeSet:
    """What one commit does to a table.

    Args:
        add: New files that the commit makes part of the table: the batch first, then rewritten rows.
        remove: Rows of :attr:`Snapshot.files` that leave the table.
        rewritten: The files of ``add`` that hold rows which were in the table before.
    """

    add: Sequence[DataFile]
    remove: pl.DataFrame
    rewritten: Sequence[DataFile] = ()

    @property
    def rows_kept(self) -> int:
        """Rows that moved from removed files into new ones, unchanged."""
        return sum(file.rows for file in self.rewritten)

    @property
    def rows_inserted(self) -> int:
        """Rows of the batch."""
        return sum(file.rows for file in self.add) - self.rows_kept

    @property
    def rows_deleted(self) -> int:
        """Rows that left the table; files of other writers that count none count as empty."""
        return int(self.remove["num_records"].sum()) - self.rows_kept
