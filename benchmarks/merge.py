"""100,000 changes by key, of one day or of all days, merged into tables of up to 50M rows: ours against delta-rs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from deltalake import DeltaTable

from benchmarks.contexts import PREFIX, day, output
from benchmarks.data import changes_of_day, keyed_day, merged
from benchmarks.measure import Bench, Row, Sample, alternate, in_new_thread, timed
from benchmarks.memory import peak_of
from benchmarks.merge_program import BY_DAY, NOT_PARTITIONED, OF_ALL_DAYS, merge_by_deltalake
from pattern_platform.lake.changeset import ChangeSet
from pattern_platform.lake.commit import commit, ready_table
from pattern_platform.lake.files import DataFile, write_files
from pattern_platform.patterns.idempotency.merger import MergerIOManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeAlias

    import dagster as dg

    _Merge: TypeAlias = Callable[[pl.DataFrame, dg.OutputContext], object]

_ROWS = 1_000_000  # a day, and a file
_CHANGES = 100_000
_SIZES = (1, 10, 50)  # days
_SPREAD = 10
_FEW_ROUNDS = 3  # of what takes seconds
_LITERAL, _KEYS = "delta-rs merge, partition literal", "delta-rs merge, keys alone"
_NOT_STREAMED = "delta-rs merge, keys alone, not streamed"


@dataclass(frozen=True)
class _Days:
    """Files of one day each, written once: a table links those that it begins with.

    Args:
        folder: Where they are.
        files: By day.
        partition_by: Physical partition columns.
    """

    folder: Path
    files: list[DataFile]
    partition_by: tuple[str, ...]

    def table(self, path: Path, days: int) -> Path:
        """A table of the first days, made of links."""
        schema = keyed_day(0, 1).schema
        snapshot = ready_table(path, None, schema, partition_by=self.partition_by, properties={})
        for file in self.files[:days]:
            (path / file.path).parent.mkdir(exist_ok=True)
            os.link(self.folder / file.path, path / file.path)
        commit(
            snapshot,
            None,
            lambda current: ChangeSet(self.files[:days], current.files.clear()),
            metadata={"pattern": "-"},
        )
        return path


class _Target:
    """A table into which a batch and the batch that undoes it are merged by turns, so that every merge is as much work.

    Args:
        table: Directory of the table.
        days: Its number of days.
        changed: Number of days that the batches change.
        metadata: Of the asset, where it is ours.
    """

    def __init__(self, table: Path, days: int, changed: int, metadata: Mapping[str, Any]) -> None:
        self.table, self.days, self.changed, self.metadata = table, days, changed, metadata
        parts = [changes_of_day(number, _ROWS, _CHANGES // changed) for number in range(changed)]
        self.batches = [pl.concat(part) for part in zip(*parts, strict=True)]
        self.merges = 0
        self.handle = DeltaTable(table)

    def case(self, merge: _Merge) -> Callable[[int], Sample]:
        """A case for :func:`alternate`; what the first two merges made of the table is looked at."""
        calls, step = count(), timed(lambda arguments: merge(*arguments), self._prepared)

        def case(number: int) -> Sample:
            sample = step(number)
            self.merges += 1
            if next(calls) < 2:
                self._check()
            return sample

        return case

    def settle(self, merge: _Merge) -> None:
        """Bring the table back to what it was at first."""
        if self.merges % 2:
            self.case(merge)(0)
        self._check()

    def _prepared(self, _: int) -> tuple[pl.DataFrame, dg.OutputContext]:
        self.handle.update_incremental()
        live = {Path(uri.removeprefix("file://")) for uri in self.handle.file_uris()}
        for path in self.table.glob("**/*.parquet"):
            if path not in live and path.parent.name != "_delta_log":
                path.unlink()
        return self.batches[self.merges % 2], output(self.table.name, day(0), metadata=self.metadata)

    def _check(self) -> None:
        after_changes = self.merges % 2 == 1
        for number in range(self.changed):
            expected, key = keyed_day(number, _ROWS), pl.lit(day(number)).str.to_date()
            if after_changes:
                expected = merged(expected, self.batches[0].filter(pl.col("day") == key))
            found = pl.scan_delta(self.table).filter(pl.col("day") == key).sort("id").collect()
            if not found.equals(expected):
                message = f"{self.table.name}: {day(number)} has other rows than the batch asks for"
                raise AssertionError(message)
        if DeltaTable(self.table).count() != self.days * _ROWS:  # as many rows are inserted as are deleted
            message = f"{self.table.name}: it has not as many rows as before"
            raise AssertionError(message)


@dataclass(frozen=True)
class _Tables:
    """The tables, by their days: ours, that of delta-rs, and ours without physical partitions."""

    root: Path
    sizes: tuple[int, ...]
    ours: dict[int, Path]
    theirs: dict[int, Path]
    flat: dict[int, Path]


def run(bench: Bench) -> Iterator[Row]:
    """Compare merges of a day by the size of the table, merges all over a table, and the memory that both take."""
    root = bench.folder / "merge"
    tables = _tables(root, tuple(n for n in _SIZES if n <= _SPREAD) if bench.quick else _SIZES)
    manager = MergerIOManager(root_uri=str(root))
    yield from _one_day(bench, manager, tables)
    yield from _spread(bench, manager, tables)
    yield from _memory(bench, tables)


def _tables(root: Path, sizes: tuple[int, ...]) -> _Tables:
    hive, flat = _Days(root / "hive", [], ("day",)), _Days(root / "flat", [], ())
    for number in range(max(sizes)):
        frame = keyed_day(number, _ROWS).lazy()
        for days in (hive, flat):
            days.files.extend(write_files(frame, days.folder, keys={}, partition_by=days.partition_by))
    made = [
        {size: days.table(root / PREFIX / f"{kind}{size}", size) for size in sizes}
        for kind, days in (("ours", hive), ("theirs", hive), ("flat", flat))
    ]
    return _Tables(root, sizes, *made)


def _ours(manager: MergerIOManager) -> _Merge:
    return lambda batch, context: manager.handle_output(context, batch)


def _theirs(target: _Target, partition: str | None, *, streamed: bool = True) -> _Merge:
    return lambda batch, _: merge_by_deltalake(target.handle, batch, partition, streamed=streamed)


def _one_day(bench: Bench, manager: MergerIOManager, tables: _Tables) -> Iterator[Row]:
    cases: dict[str, Callable[[int], Sample]] = {}
    slow: dict[int, dict[str, Callable[[int], Sample]]] = {}
    targets: list[tuple[_Target, _Merge]] = []
    merge_ours = _ours(manager)
    for size in tables.sizes:
        ours, theirs, flat = (
            _Target(tables.ours[size], size, 1, BY_DAY),
            _Target(tables.theirs[size], size, 1, BY_DAY),
            _Target(tables.flat[size], size, 1, NOT_PARTITIONED),
        )
        literal = _theirs(theirs, day(0))
        targets += [(ours, merge_ours), (flat, merge_ours), (theirs, literal)]
        cases[f"ours {size}"] = ours.case(merge_ours)
        cases[f"flat {size}"] = flat.case(merge_ours)
        cases[f"theirs {size}"] = theirs.case(literal)
        if size == _SPREAD:
            cases["ours cold"] = ours.case(partial(in_new_thread, merge_ours))
            cases["theirs cold"] = theirs.case(partial(_theirs_cold, theirs.table))
        if size > 1:
            slow[size] = {
                "ours": cases[f"ours {size}"],
                _KEYS: theirs.case(_theirs(theirs, None)),
                _NOT_STREAMED: theirs.case(_theirs(theirs, None, streamed=False)),
            }
    samples = alternate(cases, bench.rounds, warm_ups=2)
    case = "merge 100k changes of one day, {}M rows"
    for size in tables.sizes:
        ours, theirs, flat = (samples[f"{kind} {size}"] for kind in ("ours", "theirs", "flat"))
        yield Row(case.format(size), _LITERAL, ours, theirs, goal=0.4)
        yield Row(f"{case.format(size)}, no partition_by", _LITERAL, flat, theirs)
    yield Row(
        f"{case.format(_SPREAD)}, first of a process", _LITERAL, samples["ours cold"], samples["theirs cold"], goal=0.4
    )
    for size in tables.sizes[1:]:
        yield Row(case.format(size), "1M rows", samples[f"ours {size}"], samples["ours 1"], goal=1.3)
    for size, of_size in slow.items():
        few = alternate(of_size, 1 if bench.quick else min(bench.rounds, _FEW_ROUNDS), warm_ups=0)
        for against in (_KEYS, _NOT_STREAMED):
            goal = 0.05 if against == _KEYS and size == _SIZES[-1] else None
            yield Row(case.format(size), against, few["ours"], few[against], goal=goal)
    for target, merge in targets:
        target.settle(merge)


def _theirs_cold(table: Path, batch: pl.DataFrame, _: dg.OutputContext) -> None:
    merge_by_deltalake(DeltaTable(table), batch, day(0))


def _spread(bench: Bench, manager: MergerIOManager, tables: _Tables) -> Iterator[Row]:
    ours, theirs = (_Target(kind[_SPREAD], _SPREAD, _SPREAD, OF_ALL_DAYS) for kind in (tables.ours, tables.theirs))
    merge_ours, merge_theirs = _ours(manager), _theirs(theirs, None)
    cases = {
        "ours": ours.case(merge_ours),
        _KEYS: theirs.case(merge_theirs),
        _NOT_STREAMED: theirs.case(_theirs(theirs, None, streamed=False)),
    }
    samples = alternate(cases, 1 if bench.quick else min(bench.rounds, _FEW_ROUNDS))
    for against in (_KEYS, _NOT_STREAMED):
        case = f"merge 100k changes of every day, {_SPREAD}M rows"
        yield Row(case, against, samples["ours"], samples[against], goal=0.5)
    ours.settle(merge_ours)
    theirs.settle(merge_theirs)


def _memory(bench: Bench, tables: _Tables) -> Iterator[Row]:
    """Compare the peaks of fresh processes, each of which merges once."""
    for scope, changed, against, goal in (("day", 1, _LITERAL, 0.7), ("all", _SPREAD, _KEYS, 0.33)):
        peaks: dict[str, list[tuple[Sample, Sample]]] = {"ours": [], "deltalake": []}
        cases = {
            side: _peak(_Target(table, _SPREAD, changed, BY_DAY), side, scope, tables.root, peaks[side])
            for side, table in (("ours", tables.ours[_SPREAD]), ("deltalake", tables.theirs[_SPREAD]))
        }
        alternate(cases, 2 if bench.quick else min(bench.rounds, _FEW_ROUNDS + 1), warm_ups=0)
        case = f"peak memory, merge 100k changes of {'one' if scope == 'day' else 'every'} day, {_SPREAD}M rows"
        (ours, ours_more), (theirs, theirs_more) = (zip(*peaks[side], strict=True) for side in peaks)
        yield Row(case, against, ours, theirs, goal=goal, unit="MB")
        yield Row(f"{case}, without imports and batch", against, ours_more, theirs_more, unit="MB")


def _peak(
    target: _Target, side: str, scope: str, root: Path, peaks: list[tuple[Sample, Sample]]
) -> Callable[[int], Sample]:
    def merge(batch: pl.DataFrame, _: dg.OutputContext) -> None:
        path = root / f"{side}-{scope}.parquet"
        batch.write_parquet(path)
        program = ("benchmarks.merge_program", side, scope, root, target.table.name, path)
        peaks.append(peak_of(sys.executable, "-m", *program))

    return target.case(merge)
