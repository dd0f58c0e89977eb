"""A change set: files to add and files to remove. Every write of the platform is one, committed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from pattern_platform.lake.files import DataFile


@dataclass(frozen=True)
class ChangeSet:
    """What one commit does to a table.

    Args:
        add: Files that the commit makes part of the table.
        remove: Rows of :attr:`Snapshot.files` that leave the table.
        written: The files of ``add`` that the plan wrote itself; a plan that is made again writes them anew.
        rows: What happens to rows, by the name that is reported: ``inserted``, ``updated``, ``deleted``, ``ignored``.
        metadata: What the commit records about the plan, beside what it records about the run.
        data_change: Whether a reader of changes sees any; false for compaction.
    """

    add: Sequence[DataFile]
    remove: pl.DataFrame
    written: Sequence[DataFile] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    data_change: bool = True
