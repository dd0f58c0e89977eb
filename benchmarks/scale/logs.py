"""A table's log: opening it, planning and committing an overwrite, and checkpoints, by live files and by commits.

The files of a large table are made by linking a few Parquet files under new names. Each is committed with the
statistics of an hour of its own, through the platform's own commit: the log is as large as that of real data, while
nothing here reads a row.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import polars as pl

from benchmarks.contexts import hour
from benchmarks.data import HOUR, START, visits
from benchmarks.measure import in_new_thread
from benchmarks.scale.points import folder_megabytes, measured_point, timed_point
from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.commit import commit, ready_table
from pattern_platform.lake.completeness import partition_app_id
from pattern_platform.lake.files import write_files
from pattern_platform.lake.log import commit_path
from pattern_platform.lake.maintenance import checkpoint
from pattern_platform.lake.snapshot import Snapshot, open_table
from pattern_platform.lake.statistics import ColumnStatistics
from pattern_platform.lake.window import Bound, Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.scale.points import Point
    from pattern_platform.lake.files import DataFile

_ROWS = 10
_FILES_PER_COMMIT = 1_000
_LINKS = 10_000  # of one file; ext4 allows 65,000
_INTERVAL = 20  # commits from one checkpoint to the next, as the platform sets it
_DAY = 24
_LIVE, _COMMITS, _AFTER = "live files", "commits", "commits after the checkpoint"


def by_live_files(folder: Path, sizes: Sequence[int], rounds: int) -> Iterator[Point]:
    """A table of hours, a file each.

    Args:
        folder: Where the tables are made.
        sizes: Numbers of live files.
        rounds: How often each point is measured.
    """
    for size in sizes:
        table = folder / f"files_{size}"
        _make(table, size)
        checkpoint(table)
        newest = cast("Snapshot", open_table(table))
        last = table / "_delta_log" / f"{newest.version:020}.checkpoint.parquet"
        yield measured_point("checkpoint, size", _LIVE, size, last.stat().st_size / 1e6, "MB")
        yield timed_point("checkpoint, write", _LIVE, size, checkpoint, lambda _, t=table: t, rounds)
        yield timed_point("open, cold", _LIVE, size, partial(in_new_thread, open_table), lambda _, t=table: t, rounds)
        yield timed_point("open, nothing new", _LIVE, size, open_table, lambda _, t=table: t, rounds)
        for hours in (1, _DAY):
            window = _hours(size // 2, hours)
            curve = f"plan an overwrite of {hours} h (split)"
            yield timed_point(curve, _LIVE, size, window.split, lambda _, s=newest: s.files, rounds)
        yield timed_point("commit an hour", _LIVE, size, lambda f: _overwrite(*f), partial(_new_hour, table), rounds)
        for _ in range(_INTERVAL - 1 - rounds):
            _overwrite(*_new_hour(table, 0))
        curve = f"open, cold, {_INTERVAL - 1} commits after the checkpoint"
        yield timed_point(curve, _LIVE, size, partial(in_new_thread, open_table), lambda _, t=table: t, rounds)


def by_commits(folder: Path, sizes: Sequence[int], rounds: int) -> Iterator[Point]:
    """A table of one hour that is overwritten again and again: its log alone grows.

    The commits are copies of one that the platform made, under other versions and file names; each removes the file
    of the one before it.
    """
    for size in sizes:
        table = folder / f"commits_{size}"
        _make(table, 1)
        _repeat_last_commit(table, size)
        if size == sizes[-1]:
            yield from _without_checkpoint(table, sizes, rounds)
        checkpoint(table)
        curve = f"open, cold, {_COMMITS} in the log"
        yield timed_point(curve, _COMMITS, size, partial(in_new_thread, open_table), lambda _, t=table: t, rounds)
        yield timed_point("checkpoint of removed files", _COMMITS, size, checkpoint, lambda _, t=table: t, rounds)
        newest = cast("Snapshot", open_table(table))
        last = table / "_delta_log" / f"{newest.version:020}.checkpoint.parquet"
        yield measured_point("checkpoint of removed files, size", _COMMITS, size, last.stat().st_size / 1e6, "MB")
        yield measured_point("commits of the log, size", _COMMITS, size, folder_megabytes(table / "_delta_log"), "MB")


def _without_checkpoint(table: Path, sizes: Sequence[int], rounds: int) -> Iterator[Point]:
    for size in sizes:
        shorter = table.with_name(f"without_{size}")
        (shorter / "_delta_log").mkdir(parents=True)
        for version in range(size):
            os.link(commit_path(table, version), commit_path(shorter, version))
        curve = "open, cold, no checkpoint"
        yield timed_point(curve, _AFTER, size, partial(in_new_thread, open_table), lambda _, t=shorter: t, rounds)
        shutil.rmtree(shorter)


# Tables -------------------------------------------------------------------------------------------------------------


def _make(table: Path, hours: int) -> None:
    """A table of hours, a file each, in commits of a thousand with their partitions recorded as a run records them."""
    frame = visits(_ROWS, START)
    snapshot = ready_table(table, None, frame.schema, partition_by=(), properties={})
    for first in range(0, hours, _FILES_PER_COMMIT):
        if first % _LINKS == 0:
            (source,) = write_files(frame.lazy(), table, keys={})
        numbers = range(first, min(first + _FILES_PER_COMMIT, hours))
        added = [_file_of(table, source, number) for number in numbers]
        _committed(snapshot, added, _hours(first, len(added)), [hour(number) for number in numbers])
        snapshot = cast("Snapshot", open_table(table))


def _file_of(table: Path, source: DataFile, number: int) -> DataFile:
    """A file under a name of its own, with the times of an hour."""
    path = f"part-{uuid4().hex}.parquet"
    os.link(table / source.path, table / path)
    start = START + number * HOUR
    return replace(
        source, path=path, statistics={**source.statistics, "ts": ColumnStatistics(start, start + HOUR * 0.99, 0)}
    )


def _hours(first: int, count: int) -> Window:
    numbers = range(first, first + count)
    pieces = {hour(n): (Bound(START + n * HOUR, START + (n + 1) * HOUR),) for n in numbers}
    return Window({"ts": pl.Datetime("us", "UTC")}, pieces)


def _new_hour(table: Path, _: int) -> tuple[Path, DataFile]:
    (source,) = write_files(visits(_ROWS, START).lazy(), table, keys={})
    return table, source


def _overwrite(table: Path, file: DataFile) -> None:
    """Open the table, and replace its first hour; without the checkpoint that every twentieth commit writes."""
    snapshot = cast("Snapshot", open_table(table))
    _committed(snapshot, [file], _hours(0, 1), [hour(0)])


def _committed(snapshot: Snapshot, added: list[DataFile], window: Window, keys: list[str]) -> None:
    commit(
        snapshot,
        window,
        lambda current: ChangeSet(add=added, remove=window.split(current.files)[0]),
        batch=added,
        metadata={"pattern": "data_overwrite", "partitions": keys},
        app_ids=[partition_app_id(key) for key in keys],
    )


def _repeat_last_commit(table: Path, commits: int) -> None:
    _overwrite(*_new_hour(table, 0))
    last = cast("Snapshot", open_table(table)).version
    actions = [json.loads(line) for line in commit_path(table, last).read_text().splitlines()]
    (removed,) = [action["remove"] for action in actions if "remove" in action]
    (added,) = [action["add"] for action in actions if "add" in action]
    (recorded,) = [action["txn"] for action in actions if "txn" in action]
    for version in range(last + 1, commits):
        removed["path"], added["path"] = added["path"], f"part-{version:032x}.parquet"
        recorded["version"] = version
        commit_path(table, version).write_text("\n".join(json.dumps(action) for action in actions) + "\n")
