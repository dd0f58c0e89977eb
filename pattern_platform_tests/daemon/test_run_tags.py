"""The tags of an asset reach its run on every way to launch it, so that no way escapes a limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import yaml

from pattern_platform_tests.daemon.flows import RESOURCES
from pattern_platform_tests.daemon.stack import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pattern_platform_tests.daemon.stack import Stack

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("daemon")]
PARKED = "concurrent_runner/parked"
QUEUED, SUCCESS, FAILURE = dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE
LAUNCH = [str(Path(sys.executable).with_name("dagster")), "job", "launch", "-l", "producer", "-j", "parked_job"]


@pytest.fixture(scope="module")
def plain_home(stack: Stack) -> Path:
    """A home whose queue is Dagster's own."""
    home = stack.folder / "plain"
    home.mkdir()
    queue = {"module": "dagster", "class": "QueuedRunCoordinator", "config": {"tag_concurrency_limits": LIMITS}}
    (home / "dagster.yaml").write_text(yaml.safe_dump({"run_coordinator": queue, "telemetry": {"enabled": False}}))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.get_run_records(limit=1)
    return home


@pytest.fixture(scope="module", autouse=True)
def launched(stack: Stack, plain_home: Path) -> None:
    """Launch one by each way, all before the first is looked at."""
    stack.files.ask("sensor")
    clients = [
        subprocess.Popen(
            [*LAUNCH, "-w", str(stack.workspace), "--tags", '{"by": "cli"}'],
            env={**os.environ, **stack.environment, "DAGSTER_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for home in (stack.home, plain_home)
    ]
    stack.launch("parked", tags={"by": "materialize"})
    stack.launch("parked_days", partition="2024-03-02", tags={"by": "materialize_partition"})
    stack.launch("parked_days", span=("2024-03-02", "2024-03-04"), tags={"by": "materialize_range"})
    stack.launch("parked", "usual", tags={"by": "materialize_with_another"})
    stack.launch_job("parked_job", tags={"by": "job"})
    stack.backfill(["parked_days"], ["2024-03-05"], tags={"by": "backfill"})
    for client in clients:
        _, said = client.communicate()
        assert client.returncode == 0, said.decode()[-2000:]


WAYS: dict[str, Callable[[Stack], list[str]]] = {
    "materialize": lambda stack: stack.runs(by="materialize"),
    "materialize a partition": lambda stack: stack.runs(by="materialize_partition"),
    "materialize a range in one run": lambda stack: stack.runs(by="materialize_range"),
    "materialize beside an asset without the tag": lambda stack: stack.runs(by="materialize_with_another"),
    "launch a job": lambda stack: stack.runs(by="job"),
    "backfill": lambda stack: stack.runs(by="backfill"),
    "dagster job launch": lambda stack: stack.runs(by="cli"),
    "sensor": lambda stack: stack.runs(dagster__sensor_name="parked_by_sensor"),
    "condition": lambda stack: stack.runs(asset="parked_by_condition"),
    "schedule": lambda stack: stack.runs(dagster__schedule_name="parked_by_schedule"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_asset_brings_its_tags_to_its_run(stack: Stack, way: str) -> None:
    run, *_ = stack.wait(lambda: WAYS[way](stack), f"a run by {way}")
    stack.wait_for([run], QUEUED)  # a run is there a moment before it is submitted
    assert stack.tags(run)[PARKED] == "1"


def test_what_a_pod_of_an_asset_asks_for_reaches_its_run(stack: Stack) -> None:
    run = stack.launch("parked_with_memory")
    stack.wait_for([run], QUEUED)
    assert json.loads(stack.tags(run)["dagster-k8s/config"]) == RESOURCES


def test_a_limit_binds_every_way_to_launch(stack: Stack) -> None:
    runs = [run for way in WAYS if way != "schedule" for run in WAYS[way](stack)]
    stack.wait_for([stack.launch("usual")], SUCCESS)  # the queue has passed the others over
    assert len(runs) >= len(WAYS) - 1
    assert {stack.status(run) for run in runs} == {QUEUED}


def test_a_run_that_is_tried_again_keeps_its_tags(stack: Stack) -> None:
    run = stack.launch("parked")
    stack.terminate(run)
    stack.wait_for([run], dg.DagsterRunStatus.CANCELED)
    again = stack.reexecute(run)
    assert (stack.tags(again)[PARKED], stack.status(again)) == ("1", QUEUED)


def test_a_tag_given_at_launch_escapes_no_limit(stack: Stack) -> None:
    other_value = stack.launch("parked", tags={PARKED: "none"})
    other_tenant = stack.launch("tenant_a", tags={"tenant": "b"})  # "b" has no limit
    stack.wait_for([stack.launch("usual")], SUCCESS)
    assert (stack.tags(other_value)[PARKED], stack.status(other_value)) == ("1", QUEUED)
    assert (stack.tags(other_tenant)["tenant"], stack.status(other_tenant)) == ("a", QUEUED)


def test_a_run_of_assets_that_differ_in_a_limited_tag_is_refused(stack: Stack) -> None:
    run = stack.launch("tenant_a", "tenant_b")
    assert stack.status(run) == FAILURE
    assert "different values of the tag 'tenant', which has a limit: a, b" in stack.failure(run)
    assert stack.files.executions("tenant_a") == stack.files.executions("tenant_b") == []


def test_the_queue_of_dagster_itself_knows_nothing_of_the_tags(plain_home: Path) -> None:
    """Fails when Dagster copies the tags of assets, and the coordinator can go."""
    with dg.DagsterInstance.from_config(str(plain_home)) as instance:
        (record,) = instance.get_run_records()
    assert record.dagster_run.status == QUEUED
    assert record.dagster_run.tags["by"] == "cli"
    assert PARKED not in record.dagster_run.tags
