"""One more partition of a million rows, by how many the table has already."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from deltalake import DeltaTable

from benchmarks.contexts import PREFIX, hour, output
from benchmarks.data import HOUR, START, visits
from benchmarks.measure import Bench, Row, Sample, alternate, in_new_thread, timed
from benchmarks.tables import build_hours
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROWS = 1_000_000
_SIZES = (10, 50, 100, 500, 5_000)
_BASE = 50
_ROWS_BEFORE = 2_000
_GOAL = 1.3


def run(bench: Bench) -> Iterator[Row]:
    """Append a partition in turns to tables of 10 to 5,000 partitions, with their handles warm and cold."""
    root = bench.folder / "growth"
    manager = DataOverwriteIOManager(root_uri=str(root))
    sizes = tuple(n for n in _SIZES if n in (_BASE, _SIZES[-1])) if bench.quick else _SIZES
    for size in sizes:
        build_hours(manager, f"t{size}", size, _ROWS_BEFORE)

    added = dict.fromkeys(sizes, 0)

    def append(size: int, *, cold: bool) -> Callable[[int], Sample]:
        def prepare(_: int) -> tuple[object, object]:
            index = size + added[size]
            added[size] += 1
            return output(f"t{size}", hour(index)), visits(_ROWS, START + index * HOUR)

        if cold:
            return timed(lambda arguments: in_new_thread(manager.handle_output, *arguments), prepare)
        return timed(lambda arguments: manager.handle_output(*arguments), prepare)

    for how, cold in (("", False), (", first of a process", True)):
        samples = alternate({str(n): append(n, cold=cold) for n in sizes}, bench.rounds)
        for size in sizes:
            if size != _BASE:
                yield Row(
                    f"1M-row partition after {size:,}{how}",
                    f"after {_BASE}",
                    samples[str(size)],
                    samples[str(_BASE)],
                    goal=_GOAL,
                )
    table = DeltaTable(root / PREFIX / f"t{sizes[-1]}")
    cpu, wall = time.process_time(), time.perf_counter()
    table.create_checkpoint()
    sample = Sample((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3)
    yield Row(f"checkpoint of {sizes[-1]:,} partitions", "nothing", [sample], note="every 20th commit pays it")
