"""Which partitions of a table have been written.

A commit records the partitions that it completes as application transaction ids. They survive checkpoints and log
clean-up, so a partition that was written empty is told from one that was never written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.lake.window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pattern_platform.lake.snapshot import Snapshot

WHOLE_TABLE = "pattern_platform/table"


def partition_app_id(key: str) -> str:
    """The application transaction id under which a commit records that it completed a partition."""
    return f"pattern_platform/partition={key}"


def missing_partitions(
    snapshot: Snapshot, window: Window, files: tuple[pl.DataFrame, pl.DataFrame], keys: Sequence[str] | None = None
) -> list[str]:
    """The partitions of a window that were never written: no commit records them, and no row is theirs.

    Args:
        snapshot: The table.
        window: The partitions.
        files: What ``window.split(snapshot.files)`` gives.
        keys: The partitions, where no column holds them and so the window is the whole table.
    """
    if window.is_whole_table and keys is not None:
        return [key for key in keys if not snapshot.recorded(partition_app_id(key))]
    if window.is_whole_table:
        return [] if snapshot.files.height or snapshot.recorded(WHOLE_TABLE) else ["(the whole table)"]
    if not window.pieces:
        return []
    inside, _ = files
    if len(window.pieces) == 1 and inside.height:
        return []  # the common case: one partition, which has a file of its own
    sure, maybe = window.present(pl.concat(files))
    unsure = [key for key in window.pieces if key not in sure and not snapshot.recorded(partition_app_id(key))]
    if doubtful := [key for key in unsure if key in maybe]:
        pieces = {key: Window(window.columns, {key: window.pieces[key]}) for key in doubtful}
        found = (
            snapshot.scan(window, files).select(piece.rows.any().alias(key) for key, piece in pieces.items()).collect()
        )
        return [key for key in unsure if key not in pieces or not found[key].item()]
    return unsure
