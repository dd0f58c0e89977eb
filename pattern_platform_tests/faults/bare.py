"""The engine without the platform: tables of two columns, stale handles, another writer in the middle of a write."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

ONCE = CommitProperties(max_commit_retries=0)


def batch(p: str, *n: int) -> pl.DataFrame:
    """Rows of partition ``p``."""
    return pl.DataFrame({"p": [p] * len(n), "n": n}, schema={"p": pl.String, "n": pl.Int64})


def rows(table: Path, version: int | None = None) -> list[tuple[Any, ...]]:
    """What delta-rs hands to PyArrow, sorted."""
    return sorted(pl.DataFrame(DeltaTable(table, version=version).to_pyarrow_table()).rows(), key=repr)


def version(table: Path) -> int:
    """The newest version."""
    return DeltaTable(table).version()


def operations(table: Path) -> list[str]:
    """What made the versions that the log still holds, oldest first."""
    return [entry["operation"] for entry in reversed(DeltaTable(table).history())]


def commit_file(table: Path, number: int) -> Path:
    """The file of one commit."""
    return table / "_delta_log" / f"{number:020}.json"


def four_files(table: Path) -> Path:
    """A table of four files: rows 1 and 2 of the partitions a and b."""
    for p in "ab":
        for n in (1, 2):
            write_deltalake(table, batch(p, n), mode="append", partition_by=["p"])
    return table


FOUR = [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def merge(table: DeltaTable, source: pl.DataFrame, on: str, **options: Any) -> None:
    """Update what matches, insert the rest."""
    merger = table.merge(source, on, source_alias="s", target_alias="t", **options)
    merger.when_matched_update_all().when_not_matched_insert_all().execute()


def aside(act: Callable[[], object]) -> None:
    """Act in a thread of its own and wait for it: delta-rs cannot be called from a reader that it is reading."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def interrupted(frame: pl.DataFrame, act: Callable[[], object]) -> pa.RecordBatchReader:
    """A reader of some rows; whoever reads it has opened the table, and waits while the act happens."""

    def batches() -> Iterator[pa.RecordBatch]:
        aside(act)
        yield from frame.to_arrow().to_batches()

    return pa.RecordBatchReader.from_batches(frame.to_arrow().schema, batches())


def child(code: str, *arguments: object, wrap: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Any:
    """Run code in a Python process of its own."""
    command = [*wrap, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **(env or {})})
