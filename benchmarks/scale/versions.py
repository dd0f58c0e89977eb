"""The version table of a stateful merger, by the partitions that it names.

The log is that of two real merges, the second of which is repeated under later hours, versions and file names.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import TYPE_CHECKING, cast

import polars as pl

from benchmarks.contexts import PREFIX, hour, output
from benchmarks.data import HOUR, START
from benchmarks.measure import in_new_thread
from benchmarks.scale.points import measured_point, timed_point
from pattern_platform.lake.completeness import partition_app_id
from pattern_platform.lake.log import commit_path
from pattern_platform.lake.maintenance import checkpoint
from pattern_platform.lake.snapshot import open_table
from pattern_platform.lake.version_table import read_lineage, read_version_table, version_table_of, write_version_table
from pattern_platform.patterns.idempotency.stateful_merger import StatefulMergerIOManager

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.scale.points import Point
    from pattern_platform.lake.snapshot import Snapshot

_PARTITIONS = "partitions"
_KEYS = {"merge_keys": ["id"]}  # the table has no column of hours: every hour changes the same rows


def by_partitions(folder: Path, sizes: Sequence[int], rounds: int) -> Iterator[Point]:
    """Read it, rebuild it from the log, write it, and merge one more hour.

    Args:
        folder: Where the tables are made.
        sizes: Numbers of partitions.
        rounds: How often each point is measured.
    """
    for size in sizes:
        root = folder / f"versions_{size}"
        manager = StatefulMergerIOManager(root_uri=str(root))
        table = root / PREFIX / "users"
        for number in range(2):
            _merge(manager, number)
        _repeat_last_merge(table, size)
        checkpoint(table)
        side = version_table_of(table)

        def without(_: int, *, side: Path = side) -> None:
            shutil.rmtree(side, ignore_errors=True)

        first = partial(in_new_thread, lambda _, t=table: write_version_table(t))
        yield timed_point("rebuild from the log, and write", _PARTITIONS, size, first, without, min(rounds, 3))
        (file,) = cast("Snapshot", open_table(side)).files["size_bytes"]
        yield measured_point("version table, size", _PARTITIONS, size, file / 1e6, "MB")
        read = partial(in_new_thread, lambda _, t=table: read_lineage(cast("Snapshot", open_table(t))))
        yield timed_point("read, first of a process", _PARTITIONS, size, read, lambda _: None, rounds)
        ask = partial(in_new_thread, lambda _, t=table: read_version_table(str(t)))
        yield timed_point("read_version_table", _PARTITIONS, size, ask, lambda _: None, rounds)
        merge = partial(in_new_thread, partial(_merge, manager))
        curve = "merge one more hour, first of a process"
        yield timed_point(curve, _PARTITIONS, size, merge, lambda n, s=size: s + n, rounds)


def _merge(manager: StatefulMergerIOManager, number: int) -> None:
    rows = pl.DataFrame({"id": [1, 2, 3]}).with_columns(value=pl.lit(number))
    manager.handle_output(output("users", hour(number), metadata=_KEYS), rows)


def _repeat_last_merge(table: Path, partitions: int) -> None:
    """Commits as if the hours up to a number of partitions had been merged; each replaces the one file of the table."""
    last = cast("Snapshot", open_table(table)).version
    actions = [json.loads(line) for line in commit_path(table, last).read_text().splitlines()]
    (info,) = [action["commitInfo"] for action in actions if "commitInfo" in action]
    (removed,) = [action["remove"] for action in actions if "remove" in action]
    (added,) = [action["add"] for action in actions if "add" in action]
    (recorded,) = [action["txn"] for action in actions if "txn" in action]
    size = (table / added["path"]).read_bytes()
    for number in range(2, partitions):
        version = last + number - 1
        start = START + number * HOUR
        removed["path"], added["path"] = added["path"], f"part-{version:032x}.parquet"
        recorded["appId"], recorded["version"] = partition_app_id(hour(number)), version
        info |= {
            "timestamp": info["timestamp"] + 1,
            "pattern_platform.partition": hour(number),
            "pattern_platform.position": start.strftime("%Y-%m-%dT%H:%M:%S"),
            "pattern_platform.previous": hour(number - 1),
            "pattern_platform.base": version - 1,
        }
        commit_path(table, version).write_text("\n".join(json.dumps(action) for action in actions) + "\n")
    (table / added["path"]).write_bytes(size)
