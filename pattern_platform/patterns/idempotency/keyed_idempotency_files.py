"""Keyed Idempotency for files: the name of a file is the key of its partition.

Problem: an export that names its files after the moment of the run leaves one more file with every retry, and its
readers count the rows twice.

Guarantee: a partition is one file, ``<partition key>.csv``, so every repetition replaces it. It is written beside and
moved over the old one: readers see the old file or the new one, and a run that dies leaves the old one.

Limits: one file a partition. A CSV file keeps no types: as an input it comes back as texts. The file of a run that was
killed stays behind, hidden, and in nobody's way.

Shown by: ``exports/sessions`` (daily).
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Dagster reads the annotations of a resource

import polars as pl

from pattern_platform.errors import UnsupportedTypeError
from pattern_platform.lake.checks import listed
from pattern_platform.lake.file_io_manager import FileIOManager
from pattern_platform.lake.whole_file import whole_file


class KeyedFilesIOManager(FileIOManager):
    """Write each partition as one CSV file, named by its key.

    Args:
        root_uri: Folder of all files. They are ``<root_uri>/<asset key parts joined by />/<partition key>.csv``.
        header: Whether the first line names the columns.
    """

    header: bool = True

    def place_of(self, folder: Path, partition: str) -> Path:
        """One file."""
        return folder / f"{partition}.csv"

    def write(self, rows: pl.LazyFrame, place: Path) -> None:
        """Write the file beside, and move it over the old one.

        Raises:
            UnsupportedTypeError: A line has no place for a column.
        """
        if untextual := [c for c, t in rows.collect_schema().items() if t.is_nested() or t == pl.Binary]:
            raise UnsupportedTypeError(
                f"column(s) {listed(untextual)} were refused",
                why="a value of a CSV file is one text",
                mend='make one text of it in the asset, for example pl.col("<column>").list.join(" ")',
            )
        with whole_file(place) as unfinished:
            rows.sink_csv(unfinished, include_header=self.header)

    def scan(self, place: Path) -> pl.LazyFrame:
        """The lines as texts."""
        return pl.scan_csv(place, has_header=self.header, infer_schema=False, glob=False, raise_if_empty=False)
