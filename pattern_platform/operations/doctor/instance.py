"""Checks of the Dagster instance: where it is, whether it opens, and what its queue and its monitoring do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from pattern_platform.operations.doctor.deployment import SECONDS
from pattern_platform.operations.doctor.finding import Finding, failure, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pattern_platform.operations.doctor.deployment import Deployment

_TIME = sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())")
_SKEW_SECONDS = 2.0
_SILENT_SECONDS = 300.0
_SECRET = ("password", "secret", "token")


def dagster_home(deployment: Deployment) -> Finding:
    """DAGSTER_HOME is set, and there is a dagster.yaml."""
    home = deployment.home
    if home is None:
        return failure(
            "DAGSTER_HOME is not set",
            why="every process would have an instance of its own, gone when it ends, without queue and limits",
            mend='export DAGSTER_HOME="$(pattern-platform namespace current --make --dagster-home)", or /etc/dagster',
        )
    if not home.is_absolute() or not (home / "dagster.yaml").exists():
        return failure(
            f"DAGSTER_HOME is {home}, which has no dagster.yaml or is relative",
            why="Dagster would take its defaults: SQLite, no limits, no monitoring",
            mend="copy one of deploy/*/dagster.yaml there, or write `pattern-platform config dagster` into it",
        )
    return ok(f"{home / 'dagster.yaml'}")


def database_driver(deployment: Deployment) -> Finding:
    """SQLAlchemy finds a driver for the database."""
    url = deployment.database
    if url is None:
        return ok("no database server is configured") if not deployment.has_database else _no_address()
    try:
        return ok(f"{url.drivername} is served by {url.get_dialect().import_dbapi().__name__}")
    except ImportError as error:
        return failure(
            f"{url.drivername} needs the package {error.name}, which is not installed",
            why="SQLAlchemy 2.1 takes psycopg 3 for postgresql://, and dagster-postgres brings psycopg2",
            mend="let `scheme` of postgres_db be postgresql+psycopg2, or postgres_url begin with it, and install "
            "pattern-platform[celery]",
        )
    except SQLAlchemyError:
        return failure(
            f"SQLAlchemy knows no {url.drivername}",
            why="the instance does not open",
            mend="let the URL begin with postgresql+psycopg2://",
        )


def _no_address() -> Finding:
    return failure(
        "the database of the instance has no address",
        why="`storage` names a variable that is not set here, or no host",
        mend="set the variables that `env:` names in dagster.yaml, in the environment of every process",
    )


def clock(deployment: Deployment) -> Finding:
    """The database answers, and its clock is ours."""
    url = deployment.database
    if url is None:
        return ok("no database server is configured")
    try:
        engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": SECONDS})
        with engine.connect() as connection:
            before = time.time()
            theirs = connection.execute(_TIME).scalar_one()
            skew = abs(float(theirs) - (before + time.time()) / 2)
        engine.dispose()
    except (ImportError, SQLAlchemyError) as error:
        return failure(
            f"the database at {url.host}:{url.port} does not answer: {type(error).__name__}",
            why="no process can start, and a run that has begun cannot say how it ended",
            mend="start it, let its firewall and pg_hba.conf admit every host, and see the password in the environment",
        )
    if skew > _SKEW_SECONDS:
        return warning(
            f"the clock here and that of the database differ by {skew:.1f} s",
            why="timeouts of run monitoring compare the clocks of several hosts; runs end before they begin",
            mend="run chrony or systemd-timesyncd on every host",
        )
    return ok(f"the database at {url.host}:{url.port} answers; clocks differ by {skew:.2f} s")


def opens(deployment: Deployment) -> Finding:
    """The instance opens, with all classes that it names."""
    if deployment.home is None:
        return ok("not tried without DAGSTER_HOME")
    try:
        launcher = type(deployment.instance.run_launcher).__name__
    except (dg.DagsterError, ImportError, AttributeError, OSError, SQLAlchemyError) as error:
        return failure(
            f"the instance does not open: {' '.join(str(error).split())[:300]}",
            why="webserver, daemon and runs stop with the same message",
            mend="mend dagster.yaml, set its variables, and install the extras it needs (celery, kubernetes)",
        )
    return ok(f"the instance opens; runs are launched by {launcher}")


def queue_limits(deployment: Deployment) -> Finding:
    """The queue has the limits of platform.yaml, and a coordinator that makes them bind."""
    coordinator = deployment.config.get("run_coordinator", {})
    if coordinator.get("class") != "AssetTagRunCoordinator":
        return failure(
            f"the run coordinator is {coordinator.get('class', 'the default of Dagster')}",
            why="Dagster gives runs no tags of their assets, so no limit binds what is launched in the UI",
            mend="use AssetTagRunCoordinator: `pattern-platform config dagster` prints the section",
        )
    config = coordinator.get("config", {})
    found = {limit["key"]: limit["limit"] for limit in config.get("tag_concurrency_limits", []) if "value" not in limit}
    wrong = [key for key, limit in deployment.limits.items() if found.get(key) != limit]
    if config.get("max_concurrent_runs") != deployment.runs:
        wrong.insert(0, "max_concurrent_runs")
    if wrong:
        return failure(
            f"limits of platform.yaml that the queue does not have: {', '.join(wrong)}",
            why="more runs of a kind than were planned for, or fewer",
            mend="write the section run_coordinator of `pattern-platform config dagster` into dagster.yaml",
        )
    return ok(f"{deployment.runs} runs at a time, and {len(found)} limits")


def run_monitoring(deployment: Deployment) -> Finding:
    """Runs whose worker is gone are noticed."""
    monitoring = deployment.config.get("run_monitoring", {})
    if not monitoring.get("enabled"):
        tell = failure if deployment.has_hosts else warning
        return tell(
            "run monitoring is off",
            why="a run whose worker or machine is gone stays in progress for ever, and keeps its slot",
            mend="run_monitoring: {enabled: true, start_timeout_seconds: 300, max_runtime_seconds: 7200}",
        )
    if deployment.launcher == "CeleryRunLauncher":
        return warning(
            "CeleryRunLauncher reads the health of a run from the result backend alone",
            why="a host that is switched off or cut off says nothing there; its runs are noticed by their age",
            mend="use pattern_platform.orchestration.celery_launcher, class WatchedCeleryRunLauncher",
        )
    if not monitoring.get("max_runtime_seconds"):
        return warning(
            "there is no max_runtime_seconds",
            why="a run that hangs keeps its slot for ever",
            mend="run_monitoring: {max_runtime_seconds: 7200}, and the tag dagster/max_runtime where it differs",
        )
    return ok(f"runs end after {monitoring['max_runtime_seconds']} s at the latest")


def run_retries(deployment: Deployment) -> Finding:
    """Runs whose worker is gone are launched again."""
    if deployment.config.get("run_retries", {}).get("enabled"):
        return ok("runs are tried again")
    return warning(
        "run retries are off",
        why="a partition whose machine went down stays missing until somebody launches it again",
        mend="run_retries: {enabled: true, max_retries: 2, retry_on_asset_or_op_failure: false}",
    )


def daemon(deployment: Deployment) -> Finding:
    """A daemon serves the queue."""
    if deployment.home is None:
        return ok("not asked without DAGSTER_HOME")
    try:
        beats = deployment.instance.get_daemon_heartbeats()
    except (dg.DagsterError, ImportError, AttributeError, OSError, SQLAlchemyError):
        return ok("not asked, as the instance does not open")
    last = max((beat.timestamp for beat in beats.values()), default=0.0)
    if time.time() - last < _SILENT_SECONDS:
        return ok(f"the daemon was there {time.time() - last:.0f} s ago")
    return warning(
        f"no daemon has been there for {_SILENT_SECONDS:.0f} s",
        why="nothing leaves the queue; no schedule, condition, backfill, monitoring or retry",
        mend="start one `dagster-daemon run`, and no second",
    )


def secrets(deployment: Deployment) -> Finding:
    """Secrets are in the environment, and in no file."""
    named = {"dagster.yaml": deployment.config, "the workers' file": deployment.worker or {}}
    found = [f"{file}: {path}" for file, content in named.items() for path in _secrets_of(content)]
    if not found:
        return ok("no secret is in a file")
    return warning(
        f"written in a file: {', '.join(found)}",
        why="whoever reads the file, a backup or the repository has it",
        mend="write {env: NAME}, and set the variable by the service manager's EnvironmentFile or a secret",
    )


def _secrets_of(content: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in content.items():
        here = f"{path}.{key}".removeprefix(".")
        if isinstance(value, dict):
            yield from _secrets_of(value, here)
        elif isinstance(value, str) and (any(word in key for word in _SECRET) or _has_password(value)):
            yield here


def _has_password(text: str) -> bool:
    user, at, _ = text.partition("://")[2].partition("@")
    return bool(at) and ":" in user and bool(user.partition(":")[2])
