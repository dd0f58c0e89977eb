"""Data Overwrite: a run replaces its own partition, whole, and nothing else.

Problem: a task that is retried or backfilled must not leave its rows twice, and must not keep rows that the corrected
input no longer has.

Guarantee: after the run the partition holds exactly the rows of the batch, in one commit; an empty batch empties it;
every other row of the table is as before. Readers see the old partition or the new one, nothing between. Any order
and any repetition of runs ends in the same table.

Limits: rows that do not belong to the partition fail the run. Replaced files stay on disk until a vacuum, so older
versions can be read. Two runs of one partition at the same time both succeed, the later commit wins.

Shown by: ``aggregated/visits_by_hour`` (hourly) and ``aggregated/visits_cube`` (daily).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.checks import refuse_unfit
from pattern_platform.lake.commit import Commit, commit, ready_table
from pattern_platform.lake.files import scan_files, write_files, written_for
from pattern_platform.lake.io_manager import DeltaIOManager, Durability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pattern_platform.lake.files import DataFile
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.window import Window
    from pattern_platform.lake.write import Write


class DataOverwriteIOManager(DeltaIOManager):
    """Replace the run's partitions, or the whole table of an unpartitioned asset, in one commit."""

    def write(self, write: Write) -> list[Commit]:
        """Write the batch beside the table, then swap it in."""
        durable = self.durability is Durability.FSYNC
        with written_for(write.table) as batch:
            batch.extend(write.batch.write_files(write, durable=durable))
            refuse_unfit(batch, write)
            snapshot = ready_table(
                write.table,
                write.snapshot,
                write.schema,
                partition_by=write.declaration.partition_by,
                properties=self.properties,
            )
        made = commit(
            snapshot,
            write.window,
            partial(plan, batch=batch, window=write.window, durable=durable),
            batch=batch,
            metadata={"pattern": "data_overwrite", **write.metadata},
            app_ids=write.app_ids,
            durable=durable,
        )
        return [made]


def plan(snapshot: Snapshot, batch: Sequence[DataFile], window: Window, *, durable: bool = False) -> ChangeSet:
    """Remove the files of the window, add the batch; files that also hold other rows are rewritten.

    Args:
        snapshot: The table.
        batch: New files, every row inside the window.
        window: What the run owns.
        durable: Whether files that the plan writes are synced to the disk.
    """
    inside, astride = window.split(snapshot.files)
    with written_for(snapshot.table) as neighbours:
        for file in astride.partition_by("path"):
            rows = scan_files(snapshot.table, file, snapshot.schema, snapshot.partition_columns)
            total, owned = rows.select(total=pl.len(), owned=window.rows.sum()).collect().row(0)
            if owned:
                inside = pl.concat([inside, file])
            if 0 < owned < total:
                neighbours.extend(
                    write_files(
                        rows.filter(~window.rows),
                        snapshot.table,
                        keys={},
                        partition_by=snapshot.partition_columns,
                        durable=durable,
                    )
                )
    kept = sum(file.rows for file in neighbours)
    return ChangeSet(
        add=[*batch, *neighbours],
        remove=inside,
        written=neighbours,
        # Files of other writers that count no rows count as empty.
        rows={"inserted": sum(file.rows for file in batch), "deleted": int(inside["num_records"].sum()) - kept},
    )
