"""The curves of docs/scale.md can still be measured, and the simulator follows from what it is given."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from benchmarks.scale import keys, logs, storage, versions
from benchmarks.scale.__main__ import Part, app
from benchmarks.scale.forecast import calibrated
from benchmarks.scale.launched import ALL, CPU_OF_DAY, CPU_OF_LAUNCH, CPU_OF_RUN, RUNS, START, WORK
from benchmarks.scale.points import measured_point, read_points, write_points
from benchmarks.scale.simulate import Costs, Fleet, Queue, backfill_seconds
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.scale.points import Point

MEASURED = CHECKOUT / "docs" / "scale"
PAGE = CHECKOUT / "docs" / "scale.md"
COSTS = Costs(launch=0.1, start=2, run=0.3, partition=0.1, commit=0.1)
ONE = Fleet(hosts=1, slots=4, cores=4)


@pytest.mark.parametrize(
    ("curves", "size", "expected"),
    [
        (logs.by_live_files, 5, {"open, cold", "checkpoint, write", "commit an hour"}),
        (logs.by_commits, 5, {"open, cold, commits in the log", "open, cold, no checkpoint"}),
        (keys.by_keys, 2_000, {"merge 1,000 neighbours, 10,000 rows a file"}),
        (versions.by_partitions, 4, {"read, first of a process", "merge one more hour, first of a process"}),
        (storage.in_sqlite, 5, {"get_materialized_partitions", "left by a run of one partition"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_short_form_of_a_curve(
    curves: Callable[[Path, Sequence[int], int], Iterator[Point]], size: int, expected: set[str], tmp_path: Path
) -> None:
    points = list(curves(tmp_path, [size], 1))
    assert expected <= {point.curve for point in points}
    assert all(point.median > 0 for point in points)
    write_points(points, tmp_path / "kept" / "points.csv")
    assert read_points(tmp_path / "kept" / "points.csv") == points


def test_a_table_of_linked_files_is_one_that_the_platform_reads(tmp_path: Path) -> None:
    list(logs.by_live_files(tmp_path, [5], 1))
    snapshot = logs.open_table(tmp_path / "files_5")
    assert snapshot
    assert snapshot.files.height == 5
    assert snapshot.scan(logs.Window()).collect().height == 50


def test_partitions_that_were_never_merged_are_named_by_the_version_table(tmp_path: Path) -> None:
    list(versions.by_partitions(tmp_path, [6], 1))
    table = versions.read_version_table(str(tmp_path / "versions_6" / versions.PREFIX / "users"))
    assert table.height == 7  # and the one that was merged to be measured
    assert set(table["status"]) == {"current"}


# The simulator --------------------------------------------------------------------------------------------------------


def test_one_run_takes_what_it_costs() -> None:
    assert backfill_seconds(24, 24, COSTS, ONE, Queue(4)) == pytest.approx(0.1 + 2 + 0.3 + 24 * 0.1 + 0.1)


def test_runs_one_at_a_time_follow_each_other() -> None:
    alone = 2.6
    assert backfill_seconds(10, 1, COSTS, ONE, Queue(1)) >= 10 * alone
    assert backfill_seconds(10, 1, COSTS, ONE, Queue(4)) < 10 * alone / 2  # the negative control


def test_a_limit_of_the_tag_holds_whatever_the_hosts() -> None:
    many = replace(ONE, hosts=20)
    limited = backfill_seconds(40, 1, COSTS, many, Queue(80, of_tag=2))
    assert limited == pytest.approx(backfill_seconds(40, 1, COSTS, many, Queue(2)))
    assert limited > 40 * 2.5 / 2 > 3 * backfill_seconds(40, 1, COSTS, many, Queue(80))


def test_slots_without_cores_are_of_no_use() -> None:
    few, many = (backfill_seconds(60, 1, COSTS, Fleet(1, slots, 2), Queue(40)) for slots in (2, 20))
    assert many == pytest.approx(few, rel=0.15)
    assert backfill_seconds(60, 1, COSTS, Fleet(1, 20, 20), Queue(40)) < many / 3


def test_the_daemon_and_the_lock_are_bounds_too() -> None:
    fleet = Fleet(hosts=50, slots=10, cores=10)
    slow = replace(COSTS, launch=1)
    assert backfill_seconds(100, 1, slow, fleet, Queue(500)) >= 100
    slow = replace(COSTS, launch=0, commit=1)
    assert backfill_seconds(100, 1, slow, fleet, Queue(500)) >= 100


def test_runs_of_many_partitions_start_less_often() -> None:
    singly, batched = (backfill_seconds(240, count, COSTS, ONE, Queue(4)) for count in (1, 24))
    assert batched < singly / 5


def test_costs_are_taken_from_the_processor_time_of_runs_that_were_alone() -> None:
    alone = {START: 8, WORK: 2, CPU_OF_RUN: 3, CPU_OF_DAY: 3 + 23 * 0.1}
    points = [measured_point(curve, "runs at once", 1, value, "s") for curve, value in alone.items()]
    others = [measured_point(curve, "runs at once", 4, 99, "s") for curve in alone]
    for at_once, seconds in ((1, 60), (4, 24)):  # the servers use 0.2 s a run, and 0.1 s a second
        points.append(measured_point(ALL, "runs at once", at_once, seconds, "s"))
        points.append(measured_point(CPU_OF_LAUNCH, "runs at once", at_once, 0.2 + 0.1 * seconds / RUNS, "s"))
    found = calibrated([*others, *points])
    assert (found.launch, found.start, found.run, found.partition) == pytest.approx((0.2, 2.4, 0.5, 0.1))


# The page -------------------------------------------------------------------------------------------------------------


def test_every_curve_of_the_page_is_kept_beside_it() -> None:
    kept = {file.stem for file in MEASURED.glob("*.csv")}
    assert kept == {part.value for part in Part}
    for file in MEASURED.glob("*.csv"):
        assert read_points(file), file


def test_the_commands_of_the_page_exist() -> None:
    commands = re.findall(r"python -m benchmarks\.scale ([^`\n]*)", PAGE.read_text())
    for command in commands:
        assert CliRunner().invoke(app, [*command.split(), "--help"]).exit_code == 0, command
    named = {word for command in commands for word in command.partition(" --")[0].split()}
    assert named == {"measure", "simulate", *(part.value for part in Part)}
