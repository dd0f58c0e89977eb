"""Concurrent runner: its declaration, and what writes side by side keep and lose.

That the queue holds the limit is shown with a daemon, elsewhere.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import dagster as dg
import polars as pl
import pytest

from pattern_platform import concurrent_runner
from pattern_platform.errors import InvalidMetadataError
from pattern_platform_tests.lake.tables import Table, Written, assert_same_rows, union

DAYS = dg.DailyPartitionsDefinition("2024-02-01")
T = TypeVar("T")
FIVE = [f"2024-02-0{day}" for day in range(1, 6)]


def side_by_side(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Run tasks at once, each in a thread of its own; the first error is raised."""
    with ThreadPoolExecutor(len(tasks)) as threads:
        return [future.result(timeout=50) for future in [threads.submit(task) for task in tasks]]


def of_day(day: str, rows: int = 10) -> pl.DataFrame:
    return pl.DataFrame({"moment": [day] * rows, "id": range(rows)})


@contextmanager
def of_thread(table: Table) -> Iterator[Table]:
    """The table for a thread: an ephemeral instance belongs to one, and has to be gone before it ends."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield table.with_(instance=instance)


def write_of(table: Table, value: object, day: str | None = None) -> Written:
    with of_thread(table) as own:
        return own.write(value, day)


def test_cr_5_partitions_that_are_written_side_by_side_lose_nothing(tmp_path: Path) -> None:
    table = Table(tmp_path, DAYS)
    started = threading.Barrier(len(FIVE), timeout=50)

    def write(day: str) -> int:
        def rows(_: object) -> pl.DataFrame:
            started.wait()  # all have begun before any writes
            return of_day(day)

        return write_of(table, rows, day).version

    versions = side_by_side([lambda day=day: write(day) for day in FIVE])
    assert_same_rows(table.rows(), union({day: of_day(day) for day in FIVE}))
    assert len(set(versions)) == len(FIVE)
    assert max(versions) == table.version


def test_cr_5_rewritten_side_by_side_they_are_as_one_after_the_other(tmp_path: Path) -> None:
    tables = {name: Table(tmp_path / name, DAYS) for name in ("side by side", "in their order")}
    for table in tables.values():
        for day in FIVE:
            table.write(of_day(day, 3), day)
    side_by_side([lambda day=day: write_of(tables["side by side"], of_day(day, 7), day) for day in FIVE])
    for day in FIVE:
        tables["in their order"].write(of_day(day, 7), day)
    assert_same_rows(tables["side by side"].rows(), tables["in their order"].rows())


def test_cr_3_a_partition_that_fails_stops_no_other(tmp_path: Path) -> None:
    table = Table(tmp_path, DAYS)
    started = threading.Barrier(len(FIVE), timeout=50)

    def write(day: str, *, fails: bool) -> None:
        def rows(_: object) -> pl.DataFrame:
            started.wait()
            if fails:
                raise dg.Failure
            return of_day(day)

        if not fails:
            write_of(table, rows, day)
            return
        with pytest.raises(dg.Failure):
            write_of(table, rows, day)

    side_by_side([lambda day=day: write(day, fails=day == FIVE[2]) for day in FIVE])
    assert table.rows()["moment"].unique().sort().to_list() == [*FIVE[:2], *FIVE[3:]]
    table.write(of_day(FIVE[2]), FIVE[2])
    assert_same_rows(table.rows(), union({day: of_day(day) for day in FIVE}))


class Counter:
    """What a concurrent runner is not for: each run adds one to what it read."""

    def __init__(self, root: Path) -> None:
        self.table = Table(root)
        self.table.write(pl.DataFrame({"count": [0]}))

    def add(self, after_reading: Callable[[], object] = lambda: None) -> None:
        def added(_: object) -> pl.DataFrame:
            count = self.count
            after_reading()
            return pl.DataFrame({"count": [count + 1]})

        write_of(self.table, added)

    @property
    def count(self) -> int:
        return int(self.table.rows()["count"].item())


def test_cr_6_a_shared_counter_loses_what_is_added_side_by_side(tmp_path: Path) -> None:
    """The counter-example: no IO manager mends that both read the same count. A single runner does."""
    counter = Counter(tmp_path)
    both_have_read = threading.Barrier(2, timeout=50)
    side_by_side([lambda: counter.add(both_have_read.wait)] * 2)
    assert counter.count == 1
    counter.add()
    counter.add()
    assert counter.count == 3


# Declarations ---------------------------------------------------------------------------------------------------------


def test_assets_carry_the_tags_of_the_work_and_of_the_tenant() -> None:
    work, tenant = concurrent_runner("page_speed", 3), concurrent_runner("tenant.a", 1)

    @dg.asset(tags={**work.tags, **tenant.tags})
    def page_speed() -> None: ...

    tags = page_speed.tags_by_key[page_speed.key]
    assert tags == {"concurrent_runner/page_speed": "3", "concurrent_runner/tenant.a": "1"}


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_under_which_nothing_could_run_is_refused(limit: int) -> None:
    with pytest.raises(InvalidMetadataError, match="'ingestion'"):
        concurrent_runner("ingestion", limit)


@pytest.mark.parametrize("name", ["", "a" * 64, "two words", "a/b", "é", "line\n", "*"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidMetadataError, match="1 to 63 letters"):
        concurrent_runner(name, 1)


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "a" * 63, "_a", ".a", "-"])
def test_a_name_that_is_accepted_is_one_that_dagster_takes(name: str) -> None:
    @dg.asset(tags=concurrent_runner(name, 10_000).tags)
    def of_a_name() -> None: ...

    dg.Definitions.validate_loadable(dg.Definitions([of_a_name]))
