"""Edits of a table's log in place: what it keeps of rows that are no more, bounds above all.

A commit is JSON, a checkpoint Parquet; both hold actions, and an edit of an action is the same for both. Each file is
replaced as a whole. The times of commits stay, but for a microsecond: a table is read as of a time by them, and whoever
holds an open table finds by them that it has changed. On an object store an edited commit has the time of its edit.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pattern_platform.errors import UnreadableLogError
from pattern_platform.lake.whole_file import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pattern_platform.lake.object_path import LakePath

Action = dict[str, Any]
# Beside the log: the checksums of Hadoop and Spark, which no longer fit and which no reader needs, and what interrupted
# writers left.
_ASIDE = ("*.crc", "*.tmp", ".*")
_MICROSECOND = 1000  # in nanoseconds; Delta Lake counts milliseconds


def log_files(table: LakePath) -> list[LakePath]:
    """The commits and checkpoints of a table, in the order of their versions."""
    found = (table / "_delta_log").glob("*")
    return sorted(file for file in found if file.name[0].isdecimal() and file.suffix in {".json", ".parquet"})


def read_actions(file: LakePath) -> list[Action]:
    """The actions of a commit or a checkpoint, each a dictionary with one key.

    Raises:
        UnreadableLogError: The file is damaged.
    """
    try:
        if file.suffix == ".json":
            return [json.loads(line) for line in _lines_of(file)]
        rows = pq.read_table(pa.BufferReader(file.read_bytes())).to_pylist(maps_as_pydicts="strict")
    except (ValueError, pa.ArrowException) as error:
        raise UnreadableLogError(
            f"table {file.parents[1].name!r} was refused",
            why=f"{file.name} of its log is damaged, and nobody can say what it holds",
            mend=f"bring _delta_log/{file.name} back from a backup, then run again",
        ) from error
    actions = ({kind: body for kind, body in row.items() if body is not None} for row in rows)
    return [action for action in actions if action]


def named_files(table: LakePath) -> dict[str, Mapping[str, str | None]]:
    """The data files that the log names as part of a version, by path as on disk, with their partition values."""
    actions = (action.get("add") for file in log_files(table) for action in read_actions(file))
    return {unquote(add["path"]): add.get("partitionValues") or {} for add in actions if add}


def edit_log(table: LakePath, edit: Callable[[Action], Action | None]) -> int:
    """Edit every action of a log, file by file in the order of the versions.

    Args:
        table: Directory of the table, locked.
        edit: Gives the action as it shall be, or None for one that goes.

    Returns:
        How many files changed.
    """
    changed = sum(_edited(file, edit) for file in log_files(table))
    if changed:
        for file in log_files(table):
            if isinstance(file, Path):
                _move_on(file, file.stat())
        for pattern in _ASIDE:
            for file in (table / "_delta_log").glob(pattern):
                file.unlink(missing_ok=True)
    return changed


def _edited(file: LakePath, edit: Callable[[Action], Action | None]) -> bool:
    before = read_actions(file)
    after = [edit(action) for action in before]
    if before == after:
        return False
    with whole_file(file) as unfinished:
        if file.suffix == ".json":
            unfinished.write_text("".join(_lines(file, before, after)))
        else:
            schema = pq.read_schema(pa.BufferReader(file.read_bytes()))
            kept = [action for action in after if action is not None]
            pq.write_table(pa.Table.from_pylist(kept, schema=schema), unfinished)
        if isinstance(file, Path):
            shutil.copymode(file, unfinished)
            _move_on(unfinished, file.stat())
    return True


def _lines(file: LakePath, before: list[Action], after: list[Action | None]) -> Iterator[str]:
    """The lines of a commit; those that did not change as they were written."""
    for line, old, new in zip(_lines_of(file), before, after, strict=True):
        if new is not None:
            yield (line if new == old else json.dumps(new, ensure_ascii=False, separators=(",", ":"))) + "\n"


def _lines_of(file: LakePath) -> list[str]:
    lines = file.read_bytes().decode().split("\n")  # a value may hold what ends a line elsewhere
    return [line for line in lines if line]


def _move_on(file: Path, times: os.stat_result) -> None:
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + _MICROSECOND))


def without_bounds(stats: str, is_out: Callable[[tuple[str, ...], Any], bool]) -> str:
    """Statistics of a file without some bounds, a minimum and its maximum together; a bound less is always right.

    Args:
        stats: As the log keeps them.
        is_out: Asked for each bound, with the names of its column and the fields in it.
    """
    known = json.loads(stats)
    bounds = [known[side] for side in ("minValues", "maxValues") if known.get(side)]
    out = {place for side in bounds for place, bound in _bounds(side) if is_out(place, bound)}
    if not out:
        return stats
    for place in out:
        for side in bounds:
            _drop(side, place)
    return json.dumps(known, ensure_ascii=False)  # as statistics.delta_stats


def _bounds(side: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, bound in side.items():
        if isinstance(bound, dict):
            yield from _bounds(bound, (*above, name))
        else:
            yield (*above, name), bound


def _drop(side: dict[str, Any], place: tuple[str, ...]) -> None:
    for name in place[:-1]:
        side = side.get(name, {})
    side.pop(place[-1], None)
