"""One merge of a batch by key, ours or that of delta-rs; as a program, in a fresh process that prints its peak memory.

It imports the platform for our side alone: every side pays for Dagster, as every run of Dagster does.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable

from benchmarks.contexts import PREFIX, day, output
from benchmarks.memory_program import printed_measurement

KEYS: dict[str, Any] = {"merge_keys": ["id"], "soft_delete": "deleted"}
# A batch of one day, a batch of no particular day, and a table whose files are found by the bounds of their keys alone.
BY_DAY = {**KEYS, "partition_expr": "day", "partition_by": ["day"]}
OF_ALL_DAYS = {**KEYS, "partition_by": ["day"]}
NOT_PARTITIONED = {**KEYS, "partition_expr": "day"}


def merge_by_deltalake(table: DeltaTable, batch: pl.DataFrame, partition: str | None, *, streamed: bool = True) -> None:
    """Merge a batch as delta-rs does.

    Args:
        table: The open table.
        batch: Rows of the table with the soft-delete column ``deleted``.
        partition: The day that is said in the predicate; None for a predicate with the key alone.
        streamed: How delta-rs reads the batch: as it comes, its default, or all of it first.
    """
    predicate = "t.id = s.id" + (f" AND t.day = '{partition}'" if partition else "")
    (
        table.merge(batch, predicate, source_alias="s", target_alias="t", streamed_exec=streamed)
        .when_matched_delete("s.deleted")
        .when_matched_update_all(except_cols=["deleted"])
        .when_not_matched_insert_all("NOT s.deleted", except_cols=["deleted"])
        .execute()
    )


def main(side: str, scope: str, root: str, table: str, batch: str) -> None:
    """Merge a batch.

    Args:
        side: ``ours`` or ``deltalake``.
        scope: ``day`` for a batch of the first day, ``all`` for one of all days.
        root: Folder of the tables.
        table: Name of the table.
        batch: The Parquet file with the batch.
    """
    changes, partition = pl.read_parquet(batch), day(0) if scope == "day" else None
    context = output(table, day(0), metadata=BY_DAY if partition else OF_ALL_DAYS)
    if side == "ours":
        from pattern_platform.patterns.idempotency.merger import MergerIOManager  # noqa: PLC0415

        merge = partial(MergerIOManager(root_uri=root).handle_output, context, changes)
    else:
        merge = lambda: merge_by_deltalake(DeltaTable(Path(root, PREFIX, table)), changes, partition)  # noqa: E731
    with printed_measurement():
        merge()


if __name__ == "__main__":
    main(*sys.argv[1:])
