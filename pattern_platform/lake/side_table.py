"""Tables that the platform keeps beside a data table, such as its version table and its quarantine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.errors import ChangedTypeError
from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.commit import checkpoint_if_due, commit, ready_table
from pattern_platform.lake.files import write_files
from pattern_platform.lake.snapshot import open_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.window import Window


def replace_rows(
    table: LakePath,
    made: Callable[[], tuple[pl.DataFrame | pl.LazyFrame, Mapping[str, object]]],
    window: Window,
    *,
    metadata: Mapping[str, object],
    partition_by: Sequence[str] = (),
    durable: bool = False,
) -> None:
    """Replace the rows of a window, in one commit.

    Args:
        table: Directory of the table; it is made, and gets new columns, as the rows ask for.
        made: Makes the rows, with types that Delta Lake stores, and what the commit keeps of them; asked again where
            another writer was faster.
        window: Which rows they replace: all, or those of some physical partitions.
        metadata: Kept in the commit.
        partition_by: Physical partition columns.
        durable: Whether they are synced to the disk.

    Raises:
        ChangedTypeError: The table keeps a column with another type.
    """
    snapshot = open_table(table)
    given = made()[0].lazy().collect_schema()
    schema = {**snapshot.schema, **given} if snapshot else given
    if changed := [c for c, t in snapshot.schema.items() if t != schema[c]] if snapshot else []:
        raise ChangedTypeError(
            f"rows for table {table.name!r} were refused",
            why=f"it keeps column(s) {', '.join(changed)} with another type, from before the data table was made anew",
            mend=f"move {table.name} away, then run again",
        )

    def plan(current: Snapshot) -> ChangeSet:
        made_rows, about = made()
        rows = made_rows.lazy()
        there = rows.collect_schema()
        complete = rows.select(pl.col(c) if c in there else pl.lit(None, dtype=t).alias(c) for c, t in schema.items())
        files = write_files(complete, table, keys={}, partition_by=partition_by, durable=durable)
        return ChangeSet(add=files, remove=window.split(current.files)[0], written=files, metadata=about)

    ready = ready_table(table, snapshot, pl.Schema(schema), partition_by=partition_by, properties={})
    checkpoint_if_due(commit(ready, window, plan, metadata=metadata, durable=durable))
