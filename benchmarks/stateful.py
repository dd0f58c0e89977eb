"""What a backfill costs over the merge that it ends in, by how far back it restores, and a run by what is recorded."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING

import polars as pl
from deltalake import DeltaTable

from benchmarks.contexts import PREFIX, day, output
from benchmarks.data import changes_of_day, keyed_day, merged
from benchmarks.measure import Bench, Row, Sample, alternate, in_new_thread, timed
from benchmarks.merge_program import KEYS
from pattern_platform.lake.snapshot import open_table
from pattern_platform.lake.version_table import read_lineage, read_version_table, version_table_of
from pattern_platform.patterns.idempotency.merger import MergerIOManager
from pattern_platform.patterns.idempotency.stateful_merger import StatefulMergerIOManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import dagster as dg

_ROWS, _CHANGES = 1_000_000, 100_000
_SMALL_ROWS, _SMALL_CHANGES = 10_000, 1_000
_LARGE_DAY = 2  # day 0 brings a million rows, day 1 a small file beside them, day 2 changes the million, the others the
_DISTANCES = (
    1,
    50,
    300,
)  # small file. None of the commits that are measured is a twentieth, which writes a checkpoint.
_FEW, _MANY = 10, 365


@dataclass(frozen=True)
class _Chain:
    """A table whose days were merged one after the other, and copies of it as single days left it.

    Args:
        root: Folder of the tables.
        ours: The stateful merger.
    """

    root: Path
    ours: StatefulMergerIOManager

    def build(self, days: int, kept: set[int]) -> None:
        """Merge the days, and keep a copy after some of them."""
        for number in range(days):
            self.ours.handle_output(_context("chain", number), _batch(number))
            if number + 1 in kept:
                self.copy("chain", _after(number + 1))

    def copy(self, source: str, name: str) -> Path:
        """A copy of a table and of its version table, by links: no file of either is ever changed in place."""
        target = self.root / PREFIX / name
        for copied in (target, version_table_of(target)):
            original = copied.with_name(copied.name.replace(name, source, 1))
            shutil.copytree(original, copied, copy_function=os.link)
        return target


def run(bench: Bench) -> Iterator[Row]:
    """Compare backfills with the merge alone, and a run after 365 partitions with one after ten."""
    root = bench.folder / "stateful"
    chain = _Chain(root, StatefulMergerIOManager(root_uri=str(root)))
    distances = _DISTANCES[:2] if bench.quick else _DISTANCES
    chain.build(_MANY, {_LARGE_DAY, _FEW, _MANY, *(_LARGE_DAY + 1 + distance for distance in distances)})
    yield from _backfills(bench, chain, distances)
    yield from _recorded(bench, chain)


def _backfills(bench: Bench, chain: _Chain, distances: tuple[int, ...]) -> Iterator[Row]:
    batch, expected = _batch(_LARGE_DAY), _expected()
    plain = MergerIOManager(root_uri=str(chain.root))
    case = partial(_case, chain, number=_LARGE_DAY, batch=batch, expected=expected)
    samples = alternate(
        {
            "merge": case(plain, _LARGE_DAY),
            "newest": case(chain.ours, _LARGE_DAY),
            **{str(distance): case(chain.ours, _LARGE_DAY + 1 + distance) for distance in distances},
        },
        bench.rounds,
    )
    for distance in distances:
        what, sample = f"backfill of 100k changes, restores over {distance} later partition(s)", samples[str(distance)]
        yield Row(what, "the merger alone", sample, samples["merge"], goal=1.2)
        yield Row(what, "the same run, nothing to restore", sample, samples["newest"], goal=1.2)


def _recorded(bench: Bench, chain: _Chain) -> Iterator[Row]:
    for how, cold in (("", False), (", first of a process", True)):
        samples = alternate(
            {
                str(days): _case(chain, chain.ours, days, number=days, batch=_batch(days), cold=cold)
                for days in (_FEW, _MANY)
            },
            bench.rounds,
        )
        what = f"stateful merge of 1,000 changes after {_MANY} partitions{how}"
        yield Row(what, f"after {_FEW}", samples[str(_MANY)], samples[str(_FEW)], goal=1.3)


def _case(
    chain: _Chain,
    manager: MergerIOManager,
    days: int,
    *,
    number: int,
    batch: pl.DataFrame,
    expected: pl.DataFrame | None = None,
    cold: bool = False,
) -> Callable[[int], Sample]:
    """A merge into a fresh copy of the table after some days; the copy is gone when the next is made.

    Args:
        chain: Where the copies are.
        manager: What merges.
        days: Number of days that the table has.
        number: The day that is merged.
        batch: Its batch.
        expected: The rows of the table after it.
        cold: Whether what is timed opens the tables; a thread that ran the partition before has them open.
    """
    copies = count()
    name = f"{'cold' if cold else 'warm'}-{type(manager).__name__}-{days}"

    def prepare(_: int) -> dg.OutputContext:
        copy = next(copies)
        if copy:
            _remove(chain.root / PREFIX / f"{name}-{copy - 1}")
        table = chain.copy(_after(days), f"{name}-{copy}")
        if not cold and (snapshot := open_table(table)):
            read_lineage(snapshot)
        return _context(table.name, number)

    def merge(context: dg.OutputContext) -> None:
        manager.handle_output(context, batch)

    step = timed(partial(in_new_thread, merge) if cold else merge, prepare)

    def case(turn: int) -> Sample:
        sample = step(turn)
        if turn == 0:
            _check(
                chain.root / PREFIX / f"{name}-0", expected, max(days, number + 1) if manager is chain.ours else days
            )
        return sample

    return case


def _check(table: Path, expected: pl.DataFrame | None, recorded: int) -> None:
    if expected is not None and not pl.read_delta(str(table)).sort("id").equals(expected):
        message = f"{table.name} has other rows than the batches ask for"
        raise AssertionError(message)
    if read_version_table(str(table)).height != recorded or DeltaTable(table).count() != _ROWS + _SMALL_ROWS:
        message = f"{table.name} has not the rows, or not the recorded partitions, that the batches make"
        raise AssertionError(message)


def _remove(table: Path) -> None:
    for folder in (table, version_table_of(table)):
        shutil.rmtree(folder)


def _after(days: int) -> str:
    return f"after-{days}"


def _context(table: str, number: int) -> dg.OutputContext:
    return output(table, day(number), metadata=KEYS)


def _batch(number: int) -> pl.DataFrame:
    """What a day brings; see ``_LARGE_DAY``."""
    if number == _LARGE_DAY:
        return changes_of_day(0, _ROWS, _CHANGES)[0]
    if number == 0:
        rows = keyed_day(0, _ROWS)
    elif number == 1:
        rows = _small_rows()
    else:
        rows = _small_rows().gather_every(_SMALL_ROWS // _SMALL_CHANGES).with_columns(dwell_s=pl.lit(float(number)))
    return rows.with_columns(deleted=False)


@cache
def _small_rows() -> pl.DataFrame:
    return keyed_day(1, _ROWS).head(_SMALL_ROWS)


def _expected() -> pl.DataFrame:
    return merged(pl.concat([keyed_day(0, _ROWS), _small_rows()]), _batch(_LARGE_DAY))
