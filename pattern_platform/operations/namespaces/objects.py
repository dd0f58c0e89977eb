"""The lake of a namespace on an object store: cloned, measured, removed. There are no links there: bytes are copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from pattern_platform.lake.object_path import ObjectPath


class Size(NamedTuple):
    """How much a lake holds.

    Args:
        tables: Number of Delta tables.
        objects: Number of objects.
        size: Their bytes.
    """

    tables: int
    objects: int
    size: int


def tables_of(lake: ObjectPath) -> list[ObjectPath]:
    """The Delta tables of a lake, in the order of their names."""
    return sorted(log.parent for log in lake.rglob("_delta_log"))


def size_of(lake: ObjectPath) -> Size:
    """How much a lake holds; nothing where there is none."""
    found = lake.objects()
    return Size(len(tables_of(lake)), len(found), sum(stat.st_size for stat in found.values()))


def copy_lake(source: ObjectPath, target: ObjectPath) -> Size:
    """Copy a lake inside the store, each table whole: what a log names is copied before the log.

    A commit that comes while it is copied is in the copy or is not; one that a vacuum clashes with is tried again by
    whoever asked.

    Args:
        source: The lake.
        target: Where nothing is yet.

    Raises:
        FileNotFoundError: A vacuum removed an object meanwhile.
    """
    logs = [path for path in source.objects() if _is_of_log(path)]  # looked for first: what they name is there already
    data = [path for path in source.objects() if not _is_of_log(path)]
    for path in (*data, *logs):
        (source / path).copy(target / path)
    return size_of(target)


def remove_lake(lake: ObjectPath) -> Size:
    """Remove all below a place, the logs of tables first: a table of which half is left is no table to anybody."""
    removed = size_of(lake)
    for path in sorted(lake.objects(), key=lambda path: (not _is_of_log(path), path)):
        (lake / path).unlink(missing_ok=True)
    return removed


def _is_of_log(path: PurePosixPath) -> bool:
    return "_delta_log" in path.parts
