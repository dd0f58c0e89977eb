"""One write or read in a fresh process; prints its peak memory. Run by ``benchmarks.memory`` in either environment."""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg  # noqa: TC002 - every side pays for it, as every run of Dagster does
import polars as pl

from benchmarks.contexts import PREFIX, day, input_of, output
from benchmarks.data import lazy_day

if TYPE_CHECKING:
    from collections.abc import Generator

_TABLE = "day"


def main(kind: str, action: str, source: str, root: str) -> None:
    """Write a lazy batch of one day, or aggregate it lazily from the table.

    Args:
        kind: ``ours``, ``peer``, or ``bare`` for Polars alone.
        action: ``write`` or ``read``.
        source: The Parquet file with the rows.
        root: Folder of the tables.
    """
    manager: dg.IOManager | None = None
    config = None
    if kind == "ours":
        from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager  # noqa: PLC0415

        manager = DataOverwriteIOManager(root_uri=root)
    elif kind == "peer":
        from benchmarks.peer_program import official  # noqa: PLC0415

        manager, config = official(root)
    with printed_measurement():
        if action == "write" and manager:
            manager.handle_output(output(_TABLE, day(0), config=config), lazy_day(source))
        elif action == "write":
            Path(root, PREFIX).mkdir(parents=True, exist_ok=True)
            lazy_day(source).sink_delta(f"{root}/{PREFIX}/{_TABLE}", mode="overwrite")
        else:
            context = input_of(_TABLE, day(0), kind=pl.LazyFrame, config=config)
            frame = manager.load_input(context) if manager else pl.scan_delta(f"{root}/{PREFIX}/{_TABLE}")
            frame.group_by("page").agg(pl.sum("dwell_s"), pl.max("user_id")).collect(engine="streaming")


@contextmanager
def printed_measurement() -> Generator[None]:
    """Print how long the statements inside take, and the peak memory of this process before and after them."""
    before = _peak_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(
        json.dumps(
            {
                "peak_mb": _peak_mb(),
                "before_mb": before,
                "wall_ms": (time.perf_counter() - wall) * 1e3,
                "cpu_ms": (time.process_time() - cpu) * 1e3,
            }
        )
    )


def _peak_mb() -> float:
    """Peak memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
