"""Restore as a part of a change set: remove what is not in the older version, add back what was.

A change set that was planned on the files of an older version becomes one of the newest version, so that no reader ever
sees the restored past.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pattern_platform.lake.files import DataFile, partition_value, row_count
from pattern_platform.lake.statistics import ColumnStatistics, has_bounds

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from pattern_platform.lake.changeset import ChangeSet
    from pattern_platform.lake.snapshot import Snapshot


def restored(change: ChangeSet, files: pl.DataFrame, snapshot: Snapshot) -> ChangeSet:
    """A change set on older files as one on the newest version of their table.

    Args:
        change: What is done to the older files.
        files: Live files of the older version; their data is on disk.
        snapshot: The newest version.
    """
    kept = files.join(change.remove, on="path", how="anti")
    return replace(
        change,
        add=[*change.add, *_data_files(kept.join(snapshot.files, on="path", how="anti"), snapshot)],
        remove=snapshot.files.join(kept, on="path", how="anti"),
    )


def _data_files(files: pl.DataFrame, snapshot: Snapshot) -> Iterator[DataFile]:
    """Live files of an older version as files that a commit can name again, with the statistics the log had."""
    columns = [c for c in snapshot.schema if "." not in c and f"null_count.{c}" in files.columns]
    bounded = {c for c in columns if has_bounds(snapshot.schema[c]) and f"min.{c}" in files.columns}
    for file in files.iter_rows(named=True):
        yield DataFile(
            path=file["path"],
            size=file["size_bytes"],
            rows=row_count(file["num_records"], snapshot.table / file["path"]),
            modified=file["modification_time"],
            partition_values={c: partition_value(file[f"partition.{c}"]) for c in snapshot.partition_columns},
            statistics={
                c: ColumnStatistics(
                    file[f"min.{c}"] if c in bounded else None,
                    file[f"max.{c}"] if c in bounded else None,
                    file[f"null_count.{c}"],
                )
                for c in columns
                if file[f"null_count.{c}"] is not None
            },
        )
