"""Data Overwrite on plain directories: a run replaces the whole directory of its partition.

Problem: readers that know no table format, only directories of Parquet files, see a directory half deleted and half
written while a partition is replaced, and what a run left that died in between.

Guarantee: that of ``data_overwrite``, directory by directory. ``partition=<key>`` is a link to a directory that is
complete; a run writes a new one beside it and moves the link. Readers list the old directory or the new one, and none
is ever half of each: no two files have the same name. The directory that was replaced stays until the next run of its
partition, for readers that resolve the link before they list it.

Limits: a reader that lists through the link, and opens a file after it was moved, does not find it and lists again. A
run over several partitions replaces them one after the other, not at once. No directory knows the columns of
another. Directories that are written are hidden (their names begin with a dot), and those of a run that was killed are
removed a day later. Where links are not kept (object stores), use a table format.

Shown by: ``exports/visits_by_hour`` (daily).
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path  # noqa: TC003 - Dagster reads the annotations of a resource
from uuid import uuid4

import polars as pl

from pattern_platform.errors import UnsupportedTableError
from pattern_platform.lake.file_io_manager import FileIOManager
from pattern_platform.lake.files import write_files
from pattern_platform.lake.lock import table_lock
from pattern_platform.lake.whole_file import whole_file

_ABANDONED_SECONDS = 24 * 3600.0


class DirectoryOverwriteIOManager(FileIOManager):
    """Replace the directories of the run's partitions, each at once.

    Args:
        root_uri: Folder of all directories. They are
            ``<root_uri>/<asset key parts joined by />/partition=<partition key>``.
    """

    def place_of(self, folder: Path, partition: str) -> Path:
        """A directory, by the convention of Hive."""
        return folder / f"partition={partition}"

    def write(self, rows: pl.LazyFrame, place: Path) -> None:
        """Write a directory beside, and move the link to it.

        Raises:
            UnsupportedTableError: There is a directory that is no link.
        """
        if place.exists() and not place.is_symlink():
            raise UnsupportedTableError(
                f"directory {place.name!r} was refused",
                why="it is no link, so something else made it, and it cannot be replaced at once",
                mend="move it away, then run again",
            )
        complete = place.parent / f".{place.name}.{uuid4().hex}"
        unfinished = place.parent / f".writing.{complete.name}"
        unfinished.mkdir(parents=True)
        try:
            if not write_files(rows, unfinished, keys={}):
                rows.sink_parquet(unfinished / "part-0.parquet")  # no rows, and still their columns
            with table_lock(place.parent):
                replaced = place.readlink() if place.is_symlink() else None
                unfinished.rename(complete)
                with whole_file(place) as link:
                    link.symlink_to(complete.name)
                _remove_others(place, {complete.name, str(replaced)})
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def scan(self, place: Path) -> pl.LazyFrame:
        """The rows of the files, as they are listed now."""
        return pl.scan_parquet(sorted(place.resolve().glob("*.parquet")), glob=False, hive_partitioning=False)


def _remove_others(place: Path, kept: set[str]) -> None:
    """Remove what earlier runs of a partition replaced, and what runs began that were killed a day ago or more."""
    for entry in place.parent.iterdir():
        partition = entry.name.rpartition(".")[0]  # the rest is the entry's own
        replaced = partition == f".{place.name}" and entry.name not in kept and not entry.is_symlink()
        begun = partition in (f".{place.name}", f".writing..{place.name}") and entry.name not in kept
        with suppress(FileNotFoundError):  # its run has just given up
            if replaced:
                shutil.rmtree(entry)
            elif begun and entry.lstat().st_mtime < time.time() - _ABANDONED_SECONDS:
                entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)
