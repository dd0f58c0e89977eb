"""A fleet: a week of hours over two hosts onto one table, one of them killed, and one cut off from the network."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import dagster as dg
import polars as pl
import pytest
import yaml
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from polars.testing import assert_frame_equal

from pattern_platform.operations.doctor.checks import examined
from pattern_platform.operations.doctor.deployment import Deployment
from pattern_platform.operations.doctor.finding import Outcome
from pattern_platform.operations.doctor.instance import clock
from pattern_platform.operations.doctor.workers import workers
from pattern_platform_tests.daemon.stack import LIMITS
from pattern_platform_tests.services import network, servers, stores
from pattern_platform_tests.services.fleet import DEPLOYED, PROCESSES, Fleet
from pattern_platform_tests.services.hours import HOURS, HOURS_A_RUN, LIMIT, defs, rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pattern_platform_tests.services.network import Host, Network
    from pattern_platform_tests.services.stores import ObjectStore

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("fleet")]
WEEK = HOURS.get_partition_keys()
FAILURE = dg.DagsterRunStatus.FAILURE
UNFINISHED = {"REQUESTED", "CANCELING", "FAILING"}


@pytest.fixture(scope="module")
def hosts() -> Iterator[Network]:
    if reason := network.why_not():
        pytest.skip(reason)
    with network.network() as found:
        yield found


@pytest.fixture(scope="module")
def store(hosts: Network) -> Iterator[ObjectStore]:
    with stores.seaweed_server(hosts.address) as server:
        yield stores.ObjectStore(server.url).fresh()


@pytest.fixture(scope="module")
def fleet(hosts: Network, store: ObjectStore) -> Iterator[Fleet]:
    with (
        patch.dict(os.environ),
        servers.redis_server(hosts.address) as broker,
        servers.postgres_server(hosts.address) as database,
        Fleet(hosts, database, broker, store) as fleet,
    ):
        yield fleet


def commits(store: ObjectStore, asset: str) -> list[tuple[list[str], str]]:
    """The partitions and the run of every commit after the one that made the table, the newest first."""
    *history, made = store.table(asset).history()
    assert made["operation"] == "CREATE TABLE"
    return [(commit["pattern_platform.partition_keys"], commit["pattern_platform.run_id"]) for commit in history]


def written(store: ObjectStore, asset: str) -> list[str]:
    """The partitions that were committed, as often as they were."""
    return sorted(hour for hours, _ in commits(store, asset) for hour in hours)


def assert_exact(store: ObjectStore, asset: str, hours: Sequence[str]) -> None:
    stored = pl.read_delta(f"{store.root}/{asset}", storage_options=store.options).sort("hour", "number")
    assert_frame_equal(stored, rows(*hours), check_dtypes=False)


def assert_completed(fleet: Fleet, asset: str, backfill: str) -> None:
    """Wait for a backfill; if it does not succeed, its failed runs say why."""
    fleet.wait(lambda: fleet.backfill_status(backfill) not in UNFINISHED, "the end of a backfill", seconds=600)
    failures = [fleet.failure(run) for run in fleet.runs(asset=asset) if fleet.status(run) is FAILURE]
    assert fleet.backfill_status(backfill) == "COMPLETED_SUCCESS", failures


def hosts_of(fleet: Fleet, run: str) -> set[object]:
    """Where a run was."""
    entries = fleet.instance.all_logs(run, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    return {entry.asset_materialization.metadata["host"].value for entry in entries if entry.asset_materialization}


@pytest.mark.parametrize(
    ("asset", "hours_a_run"),
    [("spread", HOURS_A_RUN), pytest.param("spread_by_hour", 1, marks=pytest.mark.soak)],
)
def test_a_week_of_hours_over_two_hosts_leaves_one_exact_table(
    fleet: Fleet, store: ObjectStore, asset: str, hours_a_run: int
) -> None:
    backfill = fleet.backfill([asset], WEEK)
    assert_completed(fleet, asset, backfill)
    assert_exact(store, asset, WEEK)
    runs = fleet.runs(asset=asset)
    assert len(runs) == len(WEEK) // hours_a_run
    assert written(store, asset) == WEEK  # each once, and none was lost
    assert sorted(run for _, run in commits(store, asset)) == sorted(runs)
    assert fleet.overlap(runs) == LIMIT
    of_hosts = Counter(host for run in runs for host in hosts_of(fleet, run))
    assert of_hosts.keys() == fleet.workers.keys()
    assert min(of_hosts.values()) > len(runs) // 5


def in_the_middle(fleet: Fleet, asset: str, hours: Sequence[str], host: Host) -> tuple[str, list[str]]:
    """Begin a backfill and hold its runs; returns it, and the runs that are on a host."""
    backfill = fleet.backfill([asset], hours)
    fleet.wait(lambda: len(fleet.files.executions(asset)) > len(hours) // 4, "the first runs")
    fleet.files.hold(asset)
    fleet.wait(
        lambda: len(set(fleet.files.executions(asset)) - fleet.files.results(asset).keys()) == LIMIT, "held runs"
    )
    return backfill, runs_on(fleet, asset, host)


def runs_on(fleet: Fleet, asset: str, host: Host) -> list[str]:
    """The runs that a host executes."""
    tasks = fleet.tasks()[host.name]
    runs = [run for run in fleet.runs(asset=asset) if fleet.tags(run).get(DAGSTER_CELERY_TASK_ID_TAG) in tasks]
    assert runs
    return runs


def assert_tried_again(fleet: Fleet, asset: str, lost: Sequence[str]) -> None:
    for run in lost:
        assert fleet.status(run) is FAILURE
        (again,) = fleet.runs(asset=asset, dagster__root_run_id=run, dagster__retry_number="1")
        assert fleet.partition(again) == fleet.partition(run)


def test_a_backfill_survives_a_host_that_is_killed(fleet: Fleet, store: ObjectStore, hosts: Network) -> None:
    host, hours = hosts.hosts[0], WEEK[:16]
    backfill, lost = in_the_middle(fleet, "killed", hours, host)
    fleet.workers[host.name].kill()
    stock = CeleryRunLauncher.check_run_worker_health(fleet.instance.run_launcher, fleet.record(lost[0]).dagster_run)
    assert stock.status.name == "RUNNING"  # why the platform has a launcher of its own
    fleet.wait_for(lost, FAILURE)
    fleet.files.release("killed")
    assert_completed(fleet, "killed", backfill)
    assert_tried_again(fleet, "killed", lost)
    assert_exact(store, "killed", hours)
    assert written(store, "killed") == hours  # who was killed had committed nothing
    assert not {run for _, run in commits(store, "killed")} & set(lost)
    fleet.start_workers()


def test_a_backfill_survives_a_host_that_is_cut_off_and_comes_back(
    fleet: Fleet, store: ObjectStore, hosts: Network
) -> None:
    host, hours = hosts.hosts[1], WEEK[:16]
    backfill, lost = in_the_middle(fleet, "cut_off", hours, host)
    host.cut_off()
    try:
        fleet.wait_for(lost, FAILURE)
        fleet.files.release("cut_off")
        assert_completed(fleet, "cut_off", backfill)
        assert_tried_again(fleet, "cut_off", lost)
        assert_exact(store, "cut_off", hours)
    finally:
        host.connect()
    fleet.wait(lambda: host.name in fleet.tasks() and not any(fleet.tasks().values()), "the end of what was lost")
    assert_exact(store, "cut_off", hours)  # the lost runs went on where they were, and wrote the same once more
    assert sorted(hour for part, run in commits(store, "cut_off") for hour in part if run not in lost) == hours


def test_a_worker_that_is_started_anew_is_asked_in_vain_for_its_runs_and_nobody_else_is_disturbed(
    fleet: Fleet, hosts: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.files.hold("restarted")
    launched = [fleet.launch("restarted", partition=hour, location="hours") for hour in WEEK[:LIMIT]]
    fleet.wait(lambda: len(fleet.files.executions("restarted")) == LIMIT, "held runs")
    host = hosts.hosts[0]
    lost = runs_on(fleet, "restarted", host)
    run, launcher = fleet.record(lost[0]).dagster_run, fleet.instance.run_launcher
    monkeypatch.setattr(launcher, "lost_after_seconds", 600)  # of the tests' own; the daemon is less patient
    assert launcher.check_run_worker_health(run).status.name == "RUNNING"
    fleet.workers[host.name].kill()
    assert launcher.check_run_worker_health(run).status.name == "RUNNING"  # it may be back
    fleet.start_workers()
    assert "was started anew" in launcher.check_run_worker_health(run).msg

    fleet.wait_for(lost, FAILURE)
    fleet.files.release("restarted")
    fleet.wait_for(set(launched) - set(lost), dg.DagsterRunStatus.SUCCESS)
    again = fleet.wait_for_runs(len(lost), asset="restarted", dagster__retry_number="1")
    fleet.wait_for(again, dg.DagsterRunStatus.SUCCESS)
    assert len(fleet.runs(asset="restarted")) == LIMIT + len(lost)


def test_the_doctor_finds_the_fleet_in_good_order(
    fleet: Fleet, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    config = yaml.safe_load((fleet.home / "dagster.yaml").read_text())
    limits = {limit["key"]: limit["limit"] for limit in LIMITS if "value" not in limit}
    deployment = Deployment(
        home=fleet.home,
        config=config,
        worker=yaml.safe_load((DEPLOYED / "worker.yaml").read_text()),
        definitions={"dagster_celery": defs},  # code that nobody edits while the tests run
        runs=len(fleet.workers) * PROCESSES,
        limits=limits,
        lake=store.path,
        folders={},
        webserver=fleet.url,
    )
    found = {name: finding for name, finding in examined(deployment).items() if finding.outcome is not Outcome.OK}
    assert not found
    assert "the database at" in clock(deployment).what
    fleet.workers[next(iter(fleet.workers))].kill()
    fleet.wait(lambda: workers(deployment).outcome is Outcome.WARNING, "what the doctor says of too few processes")
    fleet.start_workers()
