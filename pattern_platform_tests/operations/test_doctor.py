"""`pattern-platform doctor`: each pitfall of a deployment is found, told with what to do, and a sound one passes."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import yaml
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.lake.object_path import ObjectPath
from pattern_platform.operations.doctor import hosts, instance, workers
from pattern_platform.operations.doctor.checks import CHECKS, examined
from pattern_platform.operations.doctor.deployment import Deployment
from pattern_platform.operations.doctor.finding import Finding, Outcome
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable

OK, WARNING, FAILURE = Outcome
LIMITS = {"concurrent_runner/ingestion": 3}
BROKER = "redis://127.0.0.1:1/0"  # where nobody listens
COORDINATOR = {
    "module": "pattern_platform.orchestration.run_coordinator",
    "class": "AssetTagRunCoordinator",
    "config": {
        "max_concurrent_runs": 4,
        "tag_concurrency_limits": [{"key": "concurrent_runner/ingestion", "limit": 3}],
    },
}
POSTGRES = {"scheme": "postgresql+psycopg2", "hostname": "127.0.0.1", "port": 1, "username": "u", "db_name": "d"}
FLEET: dict[str, Any] = {
    "storage": {"postgres": {"postgres_db": POSTGRES}},
    "run_launcher": {
        "module": "pattern_platform.orchestration.celery_launcher",
        "class": "WatchedCeleryRunLauncher",
        "config": {"broker": BROKER, "backend": BROKER},
    },
    "run_coordinator": COORDINATOR,
    "run_monitoring": {"enabled": True, "max_runtime_seconds": 7200},
    "run_retries": {"enabled": True},
    "compute_logs": {"module": "m", "class": "C"},
}


def deployment(**given: Any) -> Deployment:
    """A fleet that is sound, but for what is given; sections of dagster.yaml by their names."""
    sections = {name: given.pop(name) for name in (*FLEET, "python_logs") if name in given}
    config = {name: value for name, value in {**FLEET, **sections}.items() if value is not None}
    sound: dict[str, Any] = {
        "home": None,
        "config": config,
        "worker": {"execution": {"config": {"broker": BROKER}}},
        "definitions": {"somewhere": dg.Definitions(executor=dg.in_process_executor)},
        "runs": 4,
        "limits": LIMITS,
        "lake": ObjectPath.of("s3://bucket/lake", {}),
        "folders": {},
        "webserver": "http://127.0.0.1:3000",
    }
    return Deployment(**{**sound, **given})


def launched(**config: Any) -> dict[str, Any]:
    return {"class": "WatchedCeleryRunLauncher", "config": {"broker": BROKER, "backend": BROKER, **config}}


def coordinated(**config: Any) -> dict[str, Any]:
    return {"class": "AssetTagRunCoordinator", "config": {**COORDINATOR["config"], **config}}


LOCAL = Path("/var/tmp/lake")  # noqa: S108 - nothing is written
FLAT = {"broker": BROKER}
MISTAKES: list[tuple[Callable[[Deployment], Finding], dict[str, Any], Outcome, str, str]] = [
    (instance.dagster_home, {}, FAILURE, "DAGSTER_HOME is not set", "export DAGSTER_HOME"),
    (instance.dagster_home, {"home": Path("relative")}, FAILURE, "no dagster.yaml or is relative", "deploy/"),
    (
        instance.database_driver,
        {"storage": {"postgres": {"postgres_url": "postgresql://u@h/d"}}},
        FAILURE,
        "postgresql needs the package psycopg",
        "postgresql+psycopg2",
    ),
    (
        instance.database_driver,
        {"storage": {"postgres": {"postgres_db": {**POSTGRES, "scheme": "postgresql"}}}},
        FAILURE,
        "postgresql needs the package psycopg",
        "pattern-platform[celery]",
    ),
    (
        instance.database_driver,
        {"storage": {"postgres": {"postgres_url": "postgrsql://u@h/d"}}},
        FAILURE,
        "SQLAlchemy knows no postgrsql",
        "postgresql+psycopg2://",
    ),
    (
        instance.database_driver,
        {"storage": {"postgres": {"postgres_url": {"env": "NO_SUCH_URL"}}}},
        FAILURE,
        "has no address",
        "set the variables",
    ),
    (instance.clock, {}, FAILURE, "127.0.0.1:1 does not answer", "pg_hba.conf"),
    (instance.queue_limits, {"run_coordinator": None}, FAILURE, "the default of Dagster", "config dagster"),
    (
        instance.queue_limits,
        {"run_coordinator": {"class": "QueuedRunCoordinator"}},
        FAILURE,
        "QueuedRunCoordinator",
        "AssetTagRunCoordinator",
    ),
    (
        instance.queue_limits,
        {"run_coordinator": coordinated(tag_concurrency_limits=[])},
        FAILURE,
        "concurrent_runner/ingestion",
        "config dagster",
    ),
    (
        instance.queue_limits,
        {"run_coordinator": coordinated(max_concurrent_runs=40)},
        FAILURE,
        "max_concurrent_runs",
        "config dagster",
    ),
    (instance.run_monitoring, {"run_monitoring": None}, FAILURE, "run monitoring is off", "enabled: true"),
    (
        instance.run_monitoring,
        {"run_launcher": {**launched(), "class": "CeleryRunLauncher"}},
        WARNING,
        "result backend alone",
        "WatchedCeleryRunLauncher",
    ),
    (instance.run_monitoring, {"run_monitoring": {"enabled": True}}, WARNING, "max_runtime_seconds", "7200"),
    (instance.run_retries, {"run_retries": {"enabled": False}}, WARNING, "run retries are off", "max_retries"),
    (
        instance.secrets,
        {"storage": {"postgres": {"postgres_db": {**POSTGRES, "password": "hunter2"}}}},
        WARNING,
        "dagster.yaml: storage.postgres.postgres_db.password",
        "{env: NAME}",
    ),
    (
        instance.secrets,
        {"worker": {"execution": {"config": {"broker": "redis://:hunter2@h/0"}}}},
        WARNING,
        "the workers' file: execution.config.broker",
        "{env: NAME}",
    ),
    (hosts.instance_storage, {"storage": None}, FAILURE, "SQLite", "storage: {postgres"),
    (hosts.tables, {"lake": LOCAL}, FAILURE, f"a disk of this host, {LOCAL}", "storage.root_uri"),
    (hosts.local_files, {"folders": {"DuckDB files": LOCAL}}, WARNING, "DuckDB files", "dagster-celery/queue"),
    (hosts.compute_logs, {"compute_logs": None}, WARNING, "stays on the host", "NoOpComputeLogManager"),
    (workers.worker_file, {"worker": FLAT}, FAILURE, "no execution.config.broker", "nest it"),
    (
        workers.worker_file,
        {"worker": {"execution": {"config": {"broker": "redis://elsewhere/0"}}}},
        FAILURE,
        "another broker",
        "one variable",
    ),
    (workers.results, {"run_launcher": launched(backend="rpc://")}, FAILURE, "rpc://", "backend: {env"),
    (workers.results, {"run_launcher": launched(backend=None)}, FAILURE, "rpc://", "backend: {env"),
    (
        workers.results,
        {"run_launcher": launched(config_source={"result_expires": 60})},
        WARNING,
        "forgotten after 60 s",
        "result_expires",
    ),
    (workers.executors, {"definitions": {"here": dg.Definitions()}}, FAILURE, "here (the default", "in_process"),
    (
        workers.executors,
        {"definitions": {"here": dg.Definitions(executor=dg.multiprocess_executor)}},
        FAILURE,
        "here (multiprocess)",
        "in_process_executor",
    ),
]


@pytest.mark.parametrize(("check", "given", "outcome", "what", "mend"), MISTAKES)
def test_a_mistake_is_found_and_says_what_to_do(
    check: Callable[[Deployment], Finding],
    given: dict[str, Any],
    outcome: Outcome,
    what: str,
    mend: str,
) -> None:
    found = check(deployment(**given))
    assert found.outcome is outcome, found
    assert what in found.what
    assert mend in found.mend
    assert found.why
    assert "hunter2" not in repr(found)


# Servers, and packages of extras: services/test_fleet.py has all of them.
NEEDS_MORE = {instance.clock, instance.dagster_home, instance.database_driver, hosts.object_store, workers.workers}


@pytest.mark.parametrize("check", [check for _, check in CHECKS if check not in NEEDS_MORE])
def test_a_sound_fleet_passes(
    check: Callable[[Deployment], Finding], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The negative control of the mistakes."""
    (tmp_path / "celery").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = check(deployment())
    assert found.outcome is OK, found


def test_celery_is_looked_for_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert workers.celery_program(deployment()).outcome is FAILURE
    assert "PATH=" in workers.celery_program(deployment()).mend


def test_the_doctor_needs_no_celery_to_say_that_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "celery", None)
    found = workers.workers(deployment())
    assert (found.outcome, found.what) == (FAILURE, "celery is not installed here")
    assert "pattern-platform[celery]" in found.mend


def test_a_server_on_all_addresses_is_told_and_one_on_loopback_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        webserver = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert hosts.addresses(deployment(webserver=webserver)).outcome is OK
    with socket.socket() as server:
        server.bind(("", 0))  # what is to be found; nobody is let in
        server.listen()
        webserver = f"http://127.0.0.1:{server.getsockname()[1]}"
        found = hosts.addresses(deployment(webserver=webserver))
    assert (found.outcome, "webserver" in found.what) == (WARNING, True)


def test_the_section_of_the_helm_chart_is_understood() -> None:
    """It writes the storage in three parts."""
    chart = {"class": "PostgresRunStorage", "config": {"postgres_db": {**POSTGRES, "scheme": "postgresql"}}}
    config = {**FLEET, "storage": {}, "run_storage": chart}
    config.pop("storage")
    assert hosts.instance_storage(deployment(config=config)).outcome is OK
    assert instance.database_driver(deployment(config=config)).outcome is FAILURE


def stats(uptime: float, processes: int = 4) -> dict[str, Any]:
    return {"uptime": uptime, "pool": {"max-concurrency": processes}}


def test_workers_of_an_older_generation_are_told() -> None:
    here = deployment(definitions={"pattern_platform.definitions": dg.Definitions(executor=dg.in_process_executor)})
    newest = workers._newest("pattern_platform.definitions")
    young, old = stats(0.0), stats(time.time() - newest + 60)
    assert workers._generations(here, {"w@a": young, "w@b": young}).outcome is OK
    found = workers._generations(here, {"w@a": young, "w@b": old})
    assert (found.outcome, found.what) == (WARNING, "older than the code here: w@b")
    twice = workers._generations(here, {"dagster-1@a": young, "dagster-2@a": young})
    assert (twice.outcome, twice.what) == (WARNING, "several workers on: a")
    few = workers._generations(here, {"w@a": stats(0.0, processes=2)})
    assert (few.outcome, "2 processes" in few.what) == (WARNING, True)


# The command ----------------------------------------------------------------------------------------------------------


def doctor(*arguments: str, code: int) -> str:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The DAGSTER_HOME of one host, as the checkout has it."""
    (tmp_path / "dagster.yaml").write_text((CHECKOUT / "dagster.yaml").read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_one_host_as_the_checkout_has_it_is_well(home: Path) -> None:
    told = doctor(code=0)
    assert f"checks: {len(CHECKS)}, failures: 0" in told
    assert "no daemon has been there" in told  # a warning, as nothing was started
    found = {entry["check"]: entry for entry in json.loads(doctor("--json", code=0))}
    assert found.keys() == dict(CHECKS).keys()
    assert found["instance"]["what"] == "the instance opens; runs are launched by DefaultRunLauncher"
    assert set(found["daemon"]) == {"check", "outcome", "what", "why", "mend"}
    assert home.exists()


def test_a_deployment_that_is_wrong_ends_with_1(home: Path) -> None:
    config = yaml.safe_load((home / "dagster.yaml").read_text())
    config["run_coordinator"]["config"]["max_concurrent_runs"] = 99
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    told = doctor(code=1)
    assert "limits of platform.yaml that the queue does not have: max_concurrent_runs" in told
    assert "do:" in told


@pytest.mark.parametrize("text", ["storage: [", "a: 1\na: 2\n", "run_coordinator: {module: nowhere, class: Nobody}"])
def test_an_instance_that_does_not_open_is_told(home: Path, text: str) -> None:
    (home / "dagster.yaml").write_text(text)
    told = doctor(code=2 if "nowhere" not in text else 1)
    assert "Traceback" not in told


def test_what_is_asked_wrongly_ends_with_2(home: Path) -> None:
    assert "does not exist" in doctor("--worker", str(home / "none.yaml"), code=2)


def test_a_check_that_finds_nothing_has_no_reason_and_the_others_have() -> None:
    for finding in examined(deployment(run_launcher=None, lake=LOCAL, storage=None)).values():
        assert bool(finding.why) == (finding.outcome is not OK)
