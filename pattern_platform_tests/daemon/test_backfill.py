"""Backfills in few runs: what is submitted, what is repeated, and where an interrupted one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from pattern_platform.errors import BackfillError, PatternPlatformError, WebserverError
from pattern_platform.orchestration.backfill import Backfill, Standing
from pattern_platform.orchestration.graphql.webserver import Webserver
from pattern_platform_tests.daemon.flows import PARTS

if TYPE_CHECKING:
    from pattern_platform_tests.daemon.stack import Stack

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("daemon")]
FIRST, LAST = "2024-03-05-00:00", "2024-03-07-18:00"
STRETCH = PARTS.get_partition_keys_in_range(dg.PartitionKeyRange(FIRST, LAST))
BROKEN = STRETCH[5]
DAYS = [f"2024-03-{day:02}" for day in range(1, 4)]
SUCCESS = dg.DagsterRunStatus.SUCCESS


def over(stack: Stack, backfill: Backfill) -> Standing:
    """Advance it until it is over."""

    def is_over() -> Standing | None:
        standing = backfill.advance()
        return standing if standing.is_over else None

    standing = stack.wait(is_over, "the end of a backfill")
    assert standing
    return standing


def planned(stack: Stack, asset: str, first: str, last: str, *, again: bool = False) -> Backfill:
    return Backfill(Webserver(stack.url), [asset], first, last, again=again)


@pytest.fixture(scope="module")
def stretched(stack: Stack) -> tuple[Standing, Standing, int]:
    """Twelve parts in three runs, one of them broken; then the same once more, after it was mended."""
    stack.files.break_("stretched", BROKEN)
    first = over(stack, planned(stack, "stretched", FIRST, LAST))
    runs = len(stack.runs(asset="stretched"))
    stack.files.mend("stretched", BROKEN)
    return first, over(stack, planned(stack, "stretched", FIRST, LAST)), runs


def test_a_run_takes_as_many_parts_as_the_asset_allows_and_what_fails_is_repeated_part_by_part(
    stack: Stack, stretched: tuple[Standing, Standing, int]
) -> None:
    first, _, runs = stretched
    assert first.failed == (BROKEN,)
    assert first.partitions == {"SUCCESS": 11, "FAILURE": 1}
    assert runs == 3 + 4  # the stretch with the broken part, part by part
    assert set(STRETCH) - {BROKEN} <= stack.files.results("stretched").keys()


def test_the_same_backfill_repeats_what_failed_and_nothing_else(
    stack: Stack, stretched: tuple[Standing, Standing, int]
) -> None:
    _, second, runs = stretched
    assert second == Standing({"SUCCESS": 12}, (), is_over=True)
    assert len(stack.runs(asset="stretched")) == runs + 1
    assert stack.files.results("stretched").keys() == set(STRETCH)
    assert over(stack, planned(stack, "stretched", FIRST, LAST)) == second
    assert len(stack.runs(asset="stretched")) == runs + 1


def test_what_just_landed_goes_before_a_backfill(stack: Stack, stretched: tuple[Standing, Standing, int]) -> None:
    assert stretched
    assert {stack.tags(run)["dagster/priority"] for run in stack.runs(asset="stretched")} == {"-1"}


def test_a_backfill_is_run_again_when_asked(stack: Stack, stretched: tuple[Standing, Standing, int]) -> None:
    before = len(stack.runs(asset="stretched"))
    last_day = STRETCH[-4]
    assert stretched
    assert over(stack, planned(stack, "stretched", last_day, LAST)).partitions == {"SUCCESS": 4}
    assert over(stack, planned(stack, "stretched", last_day, LAST, again=True)).partitions == {"SUCCESS": 4}
    assert len(stack.runs(asset="stretched")) == before + 2


def test_what_is_interrupted_goes_on_with_its_own_runs(stack: Stack) -> None:
    stack.files.hold("resumed")
    command = [sys.executable, "-m", "pattern_platform.cli", "backfill", "--url", stack.url, "--select", "resumed"]
    command += ["--from", FIRST, "--to", STRETCH[7]]
    interrupted = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    stack.wait_for_runs(2, asset="resumed")
    stack.wait(lambda: stack.files.executions("resumed"), "the first run")
    interrupted.send_signal(signal.SIGINT)
    told, _ = interrupted.communicate()
    assert interrupted.returncode == 130, told
    assert "the same command" in told
    stack.files.release("resumed")
    resumed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "8 partitions of resumed are there" in resumed.stdout
    assert sorted(stack.files.executions("resumed")) == STRETCH[:8]  # each once
    assert len(stack.runs(asset="resumed")) == 2


def test_days_that_rest_on_each_other_are_submitted_in_their_order_up_to_the_first_that_fails(stack: Stack) -> None:
    stack.files.break_("filled", DAYS[1])
    stopped = over(stack, planned(stack, "filled", DAYS[0], DAYS[2]))
    assert stopped == Standing({"SUCCESS": 1, "FAILURE": 1, "WAITING": 1}, (DAYS[1],), is_over=True)
    assert len(stack.runs(asset="filled")) == 2
    stack.files.mend("filled", DAYS[1])
    assert over(stack, planned(stack, "filled", DAYS[0], DAYS[2])).partitions == {"SUCCESS": 3}
    assert stack.files.results("filled") == dict(zip(DAYS, "123", strict=True))


@pytest.mark.parametrize(
    ("asset", "first", "last", "why"),
    [
        ("nobody", FIRST, LAST, "no code location materializes it"),
        ("stretched", "2024-03-05", LAST, "has no partition '2024-03-05'"),
        ("stretched", LAST, FIRST, "the last is before the first"),
    ],
)
def test_what_cannot_be_planned_is_refused(stack: Stack, asset: str, first: str, last: str, why: str) -> None:
    with pytest.raises(PatternPlatformError, match=why):
        planned(stack, asset, first, last)


def test_assets_of_different_partitions_are_refused_together(stack: Stack) -> None:
    with pytest.raises(BackfillError, match="different partitions"):
        Backfill(Webserver(stack.url), ["stretched", "filled"], FIRST, LAST)


def test_a_run_that_dagster_does_not_accept_is_a_refusal(stack: Stack) -> None:
    webserver = Webserver(stack.url)
    asset = webserver.asset("stretched")
    with pytest.raises(WebserverError, match="refused"):
        webserver.launch([asset], {"dagster/partition": "no such part"})


def test_a_webserver_that_is_not_there_is_a_refusal() -> None:
    with pytest.raises(WebserverError, match="make dev"):
        Webserver("http://127.0.0.1:9").asset("stretched")
