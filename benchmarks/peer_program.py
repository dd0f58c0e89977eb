"""The official IO manager, in an environment of its own: reads commands from its input, a line of JSON each.

It imports nothing of the platform, and shares with it the frames (as Parquet files) and the contexts.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from dagster_deltalake import LocalConfig
from dagster_deltalake_polars import DeltaLakePolarsIOManager  # ty: ignore[import-not-found]
from deltalake import DeltaTable, write_deltalake

from benchmarks.contexts import PREFIX, input_of, output
from benchmarks.measure import Sample, timed


def official(root: str) -> tuple[dg.IOManager, dict[str, Any]]:
    """The IO manager and the configuration that it looks for in its contexts."""
    factory = DeltaLakePolarsIOManager(root_uri=root, storage_options=LocalConfig())
    config = {"root_uri": root, "mode": "overwrite", "overwrite_schema": False, "storage_options": {"local": {}}}
    return factory.create_io_manager(dg.build_init_resource_context()), config


class Program:
    """What the benchmark asks for.

    Args:
        root: Folder of the tables.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.manager, self.config = official(root)
        self.frames: dict[str, pl.DataFrame] = {}

    def frame(self, path: str) -> pl.DataFrame:
        """A frame, kept, so that no write is the first to touch its memory."""
        if path not in self.frames:
            self.frames[path] = pl.read_parquet(path)
        return self.frames[path]

    def build(self, table: str, frame: str) -> Sample:
        """Make a table of the days of a frame in one write, with a checkpoint; tells its number of files."""
        path = Path(self.root, PREFIX, table)
        path.mkdir(parents=True)
        write_deltalake(path, self.frame(frame), partition_by=["day"])
        DeltaTable(path).create_checkpoint()
        return Sample(len(DeltaTable(path).file_uris()))

    def write(self, table: str, frame: str, key: str) -> Sample:
        """Overwrite the partition of a day."""
        batch = self.frame(frame)
        prepare = lambda _: output(table, key, config=self.config)  # noqa: E731
        return timed(lambda context: self.manager.handle_output(context, batch), prepare)(0)

    def read(self, table: str, key: str, rows: int) -> Sample:
        """Load the partition of a day into a DataFrame."""
        prepare = lambda _: input_of(table, key, kind=pl.DataFrame, config=self.config)  # noqa: E731
        heights: list[int] = []
        sample = timed(lambda context: _keep(self.manager.load_input(context), heights), prepare)(0)
        if heights != [rows]:
            message = f"{heights} rows instead of {rows}"
            raise AssertionError(message)
        return sample

    def count(self, table: str) -> Sample:
        """Rows of a table."""
        return Sample(DeltaTable(Path(self.root, PREFIX, table)).count())


def _keep(frame: pl.DataFrame, heights: list[int]) -> pl.DataFrame:
    heights.append(frame.height)
    return frame


def main(root: str) -> None:
    """Answer each line of the input with a line."""
    logging.disable(logging.CRITICAL)
    program = Program(root)
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        sample: Sample = getattr(program, command.pop("do"))(**command)
        print(json.dumps([sample.value, sample.cpu]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
