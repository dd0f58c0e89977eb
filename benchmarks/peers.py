"""Ours against the official IO manager, both in warm processes, on daily partitions by date.

By hour it cannot be compared: it takes the predicate of an hour for that of its day and fails, or loses the table.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from benchmarks.contexts import day, input_of, output
from benchmarks.data import START, daily
from benchmarks.measure import Bench, Row, Sample, alternate, timed
from benchmarks.tables import build_days
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PEER = "dagster-deltalake-polars"
NOT_INSTALLED = "not installed"
_PINNED = (
    "dagster==1.13.27",
    "dagster-deltalake==0.29.27",
    "dagster-deltalake-polars==0.29.27",
    "deltalake==1.6.6",
    "polars==2.1.0",
    "pyarrow==26.0.1",
)
_REPOSITORY = Path(__file__).parents[1]
_LARGE, _SMALL = 1_000_000, 1_000
_SIZES = (10, 100, 500, 5_000)


class Peer:
    """The official IO manager in a process of its own.

    Args:
        python: Interpreter of its environment.
        root: Folder of its tables.
    """

    def __init__(self, python: Path, root: Path) -> None:
        self.python = python
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.peer_program", str(root)],
            cwd=_REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()

    @classmethod
    def start(cls, root: Path) -> Peer | None:
        """Make the environment where it is not there yet, and start; None where that fails."""
        environment = _REPOSITORY / ".venv-peers"
        uv, python = _REPOSITORY / ".venv" / "bin" / "uv", environment / "bin" / "python"
        try:
            if not python.exists():
                subprocess.run([uv, "venv", "--quiet", "--clear", "--python", "3.11", environment], check=True)
            install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *_PINNED]
            subprocess.run(install, check=True)
            return cls(python, root)
        except (OSError, subprocess.CalledProcessError, RuntimeError):
            return None

    def ask(self, do: str, **arguments: str | int) -> Sample:
        """Have one thing done; see the methods of ``peer_program.Program``."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return Sample(*json.loads(self._answer()))

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None  # noqa: S101
        if line := self._process.stdout.readline():
            return line
        message = f"the program of {PEER} ended: run `python -m benchmarks.peer_program` to see why"
        raise RuntimeError(message)


def run(bench: Bench) -> Iterator[Row]:
    """Compare writes and reads of a large partition, and small writes by the number of partitions."""
    if bench.peer is None:
        yield Row("write and read of a partition", PEER, note=NOT_INSTALLED)
        return
    root = bench.folder / "peers"
    root.mkdir()
    manager = DataOverwriteIOManager(root_uri=str(root))
    yield from _large(bench, bench.peer, manager, root)
    for size in (10, 500) if bench.quick else _SIZES:
        yield _growth(bench, bench.peer, manager, root, size)


def _large(bench: Bench, peer: Peer, manager: DataOverwriteIOManager, root: Path) -> Iterator[Row]:
    before, batch = _stored(root, "before", 0, 3), _stored(root, "large", 1, 1, rows=_LARGE)
    peer.ask("build", table="large", frame=before)
    build_days(manager, "large", 3, _SMALL)
    frame = pl.read_parquet(batch)
    samples = alternate(
        {
            "ours": timed(lambda context: manager.handle_output(context, frame), lambda _: output("large", day(1))),
            "peer": lambda _: peer.ask("write", table="large", frame=batch, key=day(1)),
        },
        bench.rounds,
    )
    yield Row("write 1M rows x 8 columns, daily", PEER, samples["ours"], samples["peer"], goal=1.0)
    samples = alternate(
        {
            "ours": timed(manager.load_input, lambda _: input_of("large", day(1), kind=pl.DataFrame)),
            "peer": lambda _: peer.ask("read", table="large", key=day(1), rows=_LARGE),
        },
        bench.rounds,
    )
    yield Row("read 1M-row day", PEER, samples["ours"], samples["peer"], goal=1.0)


def _growth(bench: Bench, peer: Peer, manager: DataOverwriteIOManager, root: Path, size: int) -> Row:
    table = f"t{size}"
    files = peer.ask("build", table=table, frame=_stored(root, table, 0, size)).value
    build_days(manager, table, size, _SMALL)
    batch = _stored(root, f"{table}-more", size, 1)
    frame = pl.read_parquet(batch)
    ours: Callable[[int], Sample] = timed(
        lambda context: manager.handle_output(context, frame), lambda _: output(table, day(size))
    )
    samples = alternate(
        {"ours": ours, "peer": lambda _: peer.ask("write", table=table, frame=batch, key=day(size))}, bench.rounds
    )
    rows = peer.ask("count", table=table).value
    if files != size or rows != (size + 1) * _SMALL:
        message = f"the peer's {table} has {rows} rows and began with {files} files, so it was not the same work"
        raise AssertionError(message)
    return Row(f"{_SMALL:,}-row day after {size:,}", PEER, samples["ours"], samples["peer"], goal=1.0)


def _stored(root: Path, name: str, first: int, days: int, rows: int = _SMALL) -> str:
    """A frame of some days as a Parquet file, which both processes read before they are measured."""
    path = root / f"{name}.parquet"
    daily(rows * days, START + dt.timedelta(days=first), days).write_parquet(path)
    return str(path)
