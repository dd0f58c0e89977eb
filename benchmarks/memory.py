"""Peak memory of a lazy batch of 8M rows on its way into a table, and of a lazy aggregate over it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.measure import Bench, Row, Sample, alternate
from benchmarks.peers import NOT_INSTALLED, PEER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_ROWS = 8_000_000
_ROUNDS = 3
# A process inherits the peak of the one that starts it, so a small one stands between.
_BETWEEN = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


def run(bench: Bench) -> Iterator[Row]:
    """Compare the peaks of fresh processes, each of which does one write or one read."""
    folder = bench.folder / "memory"
    folder.mkdir()
    source = folder / "source.parquet"
    subprocess.run(
        [sys.executable, "-c", f"from benchmarks.data import write_source; write_source({str(source)!r}, {_ROWS})"],
        check=True,
    )
    programs = {"ours": sys.executable, "bare": sys.executable}
    if bench.peer:
        programs["peer"] = str(bench.peer.python)
    for action, bare, goal in (("write", "sink_delta", 1.0), ("read", "scan_delta", None)):
        cases = {kind: _case(python, kind, action, source) for kind, python in programs.items()}
        samples = alternate(cases, 1 if bench.quick else _ROUNDS, warm_ups=0)
        case = f"peak memory, {action} 8M rows x 7 columns lazily"
        yield Row(case, bare, samples["ours"], samples["bare"], goal=goal, unit="MB")
        if bench.peer:
            yield Row(case, PEER, samples["ours"], samples["peer"], goal=1.0, unit="MB")
        else:
            yield Row(case, PEER, samples["ours"], note=NOT_INSTALLED, unit="MB")


def _case(python: str, kind: str, action: str, source: Path) -> Callable[[int], Sample]:
    module, root = "benchmarks.memory_program", source.parent / kind
    return lambda _: peak_of(python, "-m", module, kind, action, source, root)[0]


def peak_of(python: str, *program: str | Path) -> tuple[Sample, Sample]:
    """Peak memory of a program in a process of its own, and what of it came after its imports, as it tells them."""
    done = subprocess.run(
        [python, "-c", _BETWEEN, python, *program], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    told = json.loads(done.stdout.splitlines()[-1])
    return Sample(told["peak_mb"]), Sample(told["peak_mb"] - told["before_mb"])
