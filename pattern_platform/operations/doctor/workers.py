"""Checks of Celery workers: whether they are there, hear what is sent to them, and run the code of today."""

from __future__ import annotations

import shutil
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattern_platform.operations.doctor.deployment import SECONDS, told
from pattern_platform.operations.doctor.finding import Finding, failure, ok, warning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pattern_platform.operations.doctor.deployment import Deployment

_NO_CELERY = "no Celery worker takes runs"
_IN_PROCESS = "in_process"
_KEPT_SECONDS = 24 * 3600  # results, unless Celery is told


def celery_program(deployment: Deployment) -> Finding:
    """`celery` is found by its name."""
    if not deployment.has_celery:
        return ok(_NO_CELERY)
    if found := shutil.which("celery"):
        return ok(found)
    return failure(
        "there is no `celery` on the PATH",
        why="`dagster-celery worker start` calls it by its name alone",
        mend=f"put the folder of the virtual environment first: PATH={Path(sys.executable).parent}:$PATH",
    )


def worker_file(deployment: Deployment) -> Finding:
    """The workers' file is read, and names the broker of the launcher."""
    if not deployment.has_celery:
        return ok(_NO_CELERY)
    worker, broker = deployment.worker, deployment.of_launcher("broker")
    if worker is None:
        return ok("no file of the workers was given: --worker worker.yaml")
    config = worker.get("execution", {}).get("config", {})
    if "broker" not in config:
        return failure(
            "the workers' file has no execution.config.broker",
            why="a flat file is ignored without a word: workers dial amqp://localhost:5672, and runs stay in STARTING",
            mend="nest it: execution: {config: {broker: {env: ...}, backend: {env: ...}}}, as deploy/celery_fleet does",
        )
    if told(config["broker"]) != broker:
        return failure(
            "the workers' file names another broker than dagster.yaml",
            why="runs are sent to one broker and awaited at the other",
            mend="let both read one variable: broker: {env: BROKER_URL}",
        )
    return ok("the workers' file names the broker of the launcher")


def results(deployment: Deployment) -> Finding:
    """What became of a run can be read by whoever asks, for as long as a run may take."""
    if not deployment.has_celery:
        return ok(_NO_CELERY)
    backend = deployment.of_launcher("backend") or "rpc://"
    if str(backend).startswith("rpc"):
        return failure(
            "the result backend is rpc://",
            why="only the process that launched a run can read its state, once: after a restart of the daemon, run "
            "monitoring takes every run for dead",
            mend="backend: {env: BROKER_URL} with Redis, or db+postgresql+psycopg2://... with RabbitMQ",
        )
    kept = (deployment.of_launcher("config_source") or {}).get("result_expires", _KEPT_SECONDS)
    longest = deployment.config.get("run_monitoring", {}).get("max_runtime_seconds", 0)
    if kept and not 0 < longest < kept:
        return warning(
            f"states of runs are forgotten after {kept} s, and a run may take {longest or 'any number of'} s",
            why="run monitoring fails a run whose state it cannot find, while it works",
            mend="set run_monitoring.max_runtime_seconds below result_expires of the launcher's config_source",
        )
    return ok("states of runs are kept longer than a run may take")


def workers(deployment: Deployment) -> Finding:
    """Workers answer, one generation of them, with the code of today."""
    if not deployment.has_celery:
        return ok(_NO_CELERY)
    if find_spec("celery") is None:
        return failure(
            "celery is not installed here",
            why="neither daemon nor webserver can launch a run",
            mend="install pattern-platform[celery]",
        )
    found = _stats(deployment.of_launcher("broker"))
    if isinstance(found, str):
        return failure(
            f"the broker does not answer: {found}",
            why="runs cannot be launched",
            mend="start it, and let its firewall admit every host",
        )
    if not found:
        return failure(
            "no worker answers",
            why="runs stay in STARTING until start_timeout_seconds, then fail",
            mend="start pattern-platform-worker on the hosts; see that their broker is this one",
        )
    return _generations(deployment, found)


def _generations(deployment: Deployment, found: Mapping[str, Mapping[str, Any]]) -> Finding:
    hosts = [name.partition("@")[2] for name in found]
    if twice := sorted({host for host in hosts if hosts.count(host) > 1}):
        return warning(
            f"several workers on: {', '.join(twice)}",
            why="SIGTERM to `dagster-celery worker start` leaves its child behind, which goes on with the old code",
            mend="see whether it is meant; else `dagster-celery worker terminate --all`, and KillMode=control-group",
        )
    newest = max((_newest(module) for module in deployment.definitions), default=0.0)
    if old := sorted(name for name, stats in found.items() if time.time() - stats["uptime"] < newest):
        return warning(
            f"older than the code here: {', '.join(old)}",
            why="a worker keeps the code that it imported first: half the runs would be of yesterday",
            mend="restart the workers whenever the code changes",
        )
    processes = sum(stats["pool"]["max-concurrency"] for stats in found.values())
    if processes < deployment.runs:
        return warning(
            f"{processes} processes on {len(found)} workers, for {deployment.runs} runs at a time",
            why="what is launched waits at the broker as STARTING, and is failed after start_timeout_seconds",
            mend="let limits.runs of platform.yaml be at most the number of processes",
        )
    return ok(f"{len(found)} workers answer, with {processes} processes")


def _stats(broker: str | None) -> dict[str, dict[str, Any]] | str:
    """What workers say of themselves, by their name; why the broker does not answer."""
    from celery import Celery  # noqa: PLC0415 - an extra
    from kombu.exceptions import OperationalError  # noqa: PLC0415

    options = {"socket_connect_timeout": SECONDS, "socket_timeout": SECONDS, "max_retries": 1}
    app = Celery(broker=broker, broker_transport_options=options, broker_connection_timeout=SECONDS)
    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=SECONDS)
            return app.control.inspect(timeout=SECONDS / 2, connection=connection).stats() or {}
    except (OperationalError, OSError) as error:
        return f"{type(error).__name__}"
    finally:
        app.close()


def _newest(module: str) -> float:
    """When a file of a module's top package was changed last."""
    spec = find_spec(module.partition(".")[0])
    folders = spec.submodule_search_locations or [] if spec else []
    return max((file.stat().st_mtime for folder in folders for file in Path(folder).rglob("*.py")), default=0.0)


def executors(deployment: Deployment) -> Finding:
    """No run starts processes of its own where it may not."""
    if not deployment.has_celery:
        return ok(_NO_CELERY)
    found = {name: _executor(defs.executor) for name, defs in deployment.definitions.items()}
    if wrong := [f"{name} ({executor})" for name, executor in found.items() if executor != _IN_PROCESS]:
        return failure(
            f"not executed in process: {', '.join(wrong)}",
            why='a prefork worker says "daemonic processes are not allowed to have children", and every run fails',
            mend="dg.Definitions(executor=dg.in_process_executor)",
        )
    return ok("runs are executed in the worker's process")


def _executor(executor: object) -> str:
    return getattr(executor, "name", "the default, a process for each step")
