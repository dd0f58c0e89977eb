"""Dagster as it is deployed: a code server for each location, a webserver and a daemon, in a home of their own.

Everything is launched as the UI does it, by GraphQL over HTTP. What happened is read from the event log.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import dagster as dg
import requests
import yaml

from pattern_platform_tests.daemon.files import VARIABLE, Files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
LOCATIONS = {"producer": "pattern_platform_tests.daemon.flows", "consumer": "pattern_platform_tests.daemon.consumer"}
QUICK = [sys.executable, "-m", "pattern_platform_tests.daemon.quick"]
STOCK = [str(Path(sys.executable).with_name("dagster-daemon"))]
LIMITS = [
    *[
        {"key": f"single_runner/{name}", "limit": 1}
        for name in ("trend", "repaired", "contended", "interrupted", "killed", "filled")
    ],
    {"key": "concurrent_runner/regions", "limit": 3},
    {"key": "concurrent_runner/many_regions", "limit": 5},
    {"key": "concurrent_runner/rush", "limit": 1},
    {"key": "concurrent_runner/late_data", "limit": 1},
    {"key": "concurrent_runner/parked", "limit": 0},  # what carries it stays in the queue
    {"key": "tenant", "value": "a", "limit": 0},
]
FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
_SECONDS = 180.0  # after which something counts as hanging, on a machine that is busy
_PAUSE = 0.1
T = TypeVar("T")

_LAUNCH = """
mutation Launch($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
_BACKFILL = """
mutation Backfill($backfillParams: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $backfillParams) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
  }
}"""
_TERMINATE = """
mutation Terminate($run: String!) {
  terminateRun(runId: $run) { __typename ... on Error { message } ... on TerminateRunFailure { message } }
}"""
_REEXECUTE = """
mutation Reexecute($parameters: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
  }
}"""
_READY = """
query Ready {
  workspaceOrError {
    ... on Workspace { locationEntries { name locationOrLoadError { __typename ... on Error { message } } } }
  }
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } }
}"""
_TICKS = """
query Ticks($selector: SensorSelector!) {
  sensorOrError(sensorSelector: $selector) {
    ... on Error { message }
    ... on Sensor { sensorState { ticks(limit: 5) { tickId status endTimestamp error { message } } } }
  }
}"""


class StackError(Exception):
    """Dagster did not do what it was asked, or not in time."""


@dataclass
class Program:
    """A process with everything that it starts, in a group of its own, which dies with the tests."""

    name: str
    command: list[str]
    folder: Path
    environment: Mapping[str, str]
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def log(self) -> str:
        """The end of what it said."""
        path = self.folder / f"{self.name}.log"
        return f"--- {self.name} ---\n{path.read_text(errors='replace')[-1500:]}" if path.exists() else ""

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it."""
        die_with_parent = ["setpriv", "--pdeathsig=KILL"] if shutil.which("setpriv") else []
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*die_with_parent, *self.command],
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill it and what it started; returns when it is gone."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Stack:
    """A running Dagster with the two code locations of the tests, or with others.

    Args:
        folder: Where its home, its logs and the files of the assets are; a temporary one unless told.
        daemon: The program of the daemon.
        settings: What differs from the ``dagster.yaml`` of the project, by section.
        locations: Module of each code location.
    """

    def __init__(
        self,
        folder: Path | None = None,
        daemon: Sequence[str] = QUICK,
        settings: Mapping[str, Any] | None = None,
        locations: Mapping[str, str] = LOCATIONS,
    ) -> None:
        self._locations = locations
        memory = Path("/dev/shm")  # noqa: S108 - a folder of its own inside
        self.folder = folder or Path(
            tempfile.mkdtemp(prefix="pattern-platform-daemon-", dir=memory if memory.is_dir() else None)
        )
        self.home, self.files = self.folder / "home", Files(self.folder / "files")
        self._ports = _free_ports(len(self._locations) + 1)
        self.url = f"http://{HOST}:{self._ports[-1]}"
        self.workspace = self.folder / "workspace.yaml"
        self.environment = {
            "DAGSTER_HOME": str(self.home),
            VARIABLE: str(self.folder / "files"),
            "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1",  # how often crashed runs are looked for
            "POLARS_MAX_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "NO_COLOR": "1",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        self._write_settings(settings or {})
        python = [sys.executable, "-m", "dagster", "api", "grpc", "--host", HOST, "--working-directory", str(ROOT)]
        python += ["--log-level", "warning"]
        self.servers = {
            name: self._program(name, [*python, "--location-name", name, "-m", module, "--port", str(port)])
            for (name, module), port in zip(self._locations.items(), self._ports, strict=False)
        }
        web = [str(Path(sys.executable).with_name("dagster-webserver")), "--host", HOST, "--port", self.url[-5:]]
        self.webserver = self._program("webserver", [*web, "--workspace", str(self.workspace)])
        self.daemon = self._program("daemon", [*daemon, "run", "--log-level", "warning", "-w", str(self.workspace)])
        self._session = requests.Session()

    def _program(self, name: str, command: list[str]) -> Program:
        return Program(name, command, self.folder, self.environment)

    def _write_settings(self, settings: Mapping[str, Any]) -> None:
        for folder in (self.home, self.folder / "files"):
            folder.mkdir(parents=True)
        config = yaml.safe_load((ROOT / "dagster.yaml").read_text())
        for section, values in settings.items():
            config[section] = {**config.get(section, {}), **values}
        config["run_coordinator"]["config"]["tag_concurrency_limits"] = LIMITS
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(config))
        servers = [
            {"grpc_server": {"host": HOST, "port": port, "location_name": name}}
            for name, port in zip(self._locations, self._ports, strict=False)
        ]
        self.workspace.write_text(yaml.safe_dump({"load_from": servers}))

    # Life -------------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.instance = dg.DagsterInstance.from_config(str(self.home))
            # The tables are made here: two processes that make them at once fail.
            self.instance.get_run_records(limit=1)
            self.instance.get_latest_materialization_event(dg.AssetKey("none"))
            self.instance.all_instigator_state()
            for server in self.servers.values():
                server.start()
            for name, port in zip(self._locations, self._ports, strict=False):
                self.wait(lambda port=port: _answers(port), f"the code server of {name}")
            self.webserver.start()
            self.daemon.start()
            self.wait(self._is_ready, "webserver and daemon")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for program in (self.daemon, self.webserver, *self.servers.values()):
            program.kill()
        self._session.close()
        if instance := getattr(self, "instance", None):
            instance.dispose()
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart_daemon(self, *, kill: bool = True) -> None:
        """Start the daemon anew; returns when it works."""
        if kill:
            self.daemon.kill()
        since = time.time()
        self.daemon.start()
        self.wait(lambda: self._is_ready(since), "the daemon")

    def restart_server(self, location: str) -> None:
        """Kill a code server with the runs that it started, and start it anew, as a machine does."""
        self.servers[location].kill()
        self.servers[location].start()
        port = self._ports[list(self._locations).index(location)]
        self.wait(lambda: _answers(port), f"the code server of {location}")

    def _is_ready(self, since: float = 0.0) -> bool:
        try:
            answer = self.query(_READY)
        except requests.ConnectionError:
            return False
        entries = answer["workspaceOrError"]["locationEntries"]
        if wrong := [entry for entry in entries if entry["locationOrLoadError"]["__typename"] != "RepositoryLocation"]:
            raise StackError(str(wrong))
        statuses = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
        beats = self.instance.get_daemon_heartbeats()
        return {entry["name"] for entry in entries} == set(self._locations) and all(
            status["healthy"] and beats[status["daemonType"]].timestamp >= since
            for status in statuses
            if status["required"]
        )

    def wait(self, until: Callable[[], T], what: str, seconds: float = _SECONDS) -> T:
        """Wait until something is so; returns what was found.

        Raises:
            StackError: It did not happen in time, or a program died; with the end of all logs.
        """
        deadline = time.monotonic() + seconds
        while not (found := until()):
            programs = [*self.servers.values(), self.webserver, self.daemon]
            dead = [program.name for program in programs if program._process and not program.is_running]
            if dead or time.monotonic() > deadline:
                logs = "\n".join(program.log for program in programs)
                raise StackError(f"{what}: not within {seconds} s, dead: {dead}\n{logs}\n{self._overview()}")
            time.sleep(_PAUSE)
        return found

    def _overview(self) -> str:
        if not getattr(self, "instance", None):
            return ""
        lines = [
            f"{record.dagster_run.run_id[:8]} {record.dagster_run.status.value} {sorted(map(str, _assets(record)))} "
            f"{record.dagster_run.tags.get('dagster/partition')}"
            for record in self.instance.get_run_records(limit=20)
        ]
        return "the last runs:\n" + "\n".join(lines)

    # What the UI does -------------------------------------------------------------------------------------------------

    def query(self, document: str, **variables: Any) -> dict[str, Any]:
        """The answer of the webserver.

        Raises:
            StackError: It refused.
        """
        body = {"query": document, "variables": variables}
        answer = self._session.post(f"{self.url}/graphql", json=body, timeout=_SECONDS).json()
        if answer.get("errors"):
            raise StackError(json.dumps(answer["errors"])[:3000])
        return answer["data"]

    def launch(
        self,
        *assets: str,
        partition: str | None = None,
        span: tuple[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        location: str = "producer",
    ) -> str:
        """Press "Materialize"; returns the run.

        Args:
            assets: Names of assets.
            partition: One partition.
            span: The first and the last partition of a single run.
            tags: What the user types.
            location: Where the assets are.
        """
        more = (
            {"dagster/asset_partition_range_start": span[0], "dagster/asset_partition_range_end": span[1]}
            if span
            else {}
        )
        selection = {"assetSelection": _paths(assets), "assetCheckSelection": []}
        return self._launch("__ASSET_JOB", location, partition, {**(tags or {}), **more}, selection)

    def launch_job(
        self,
        job: str,
        *,
        partition: str | None = None,
        tags: Mapping[str, str] | None = None,
        location: str = "producer",
    ) -> str:
        """Press "Launch run" of a job; returns the run."""
        return self._launch(job, location, partition, tags or {}, {})

    def _launch(
        self, job: str, location: str, partition: str | None, tags: Mapping[str, str], selection: Mapping[str, Any]
    ) -> str:
        all_tags = {**tags, **({"dagster/partition": partition} if partition else {})}
        parameters = {
            "mode": "default",
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in all_tags.items()]},
            "selector": {
                "repositoryLocationName": location,
                "repositoryName": "__repository__",
                "pipelineName": job,
                **selection,
            },
        }
        answer = self.query(_LAUNCH, executionParams=parameters)["launchPipelineExecution"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise StackError(f"{job} was not launched: {answer}")
        return answer["run"]["runId"]

    def backfill(self, assets: Sequence[str], partitions: Sequence[str], tags: Mapping[str, str] | None = None) -> str:
        """Launch a backfill; returns its id."""
        parameters = {
            "assetSelection": _paths(assets),
            "partitionNames": list(partitions),
            "fromFailure": False,
            "tags": [{"key": key, "value": value} for key, value in (tags or {}).items()],
        }
        answer = self.query(_BACKFILL, backfillParams=parameters)["launchPartitionBackfill"]
        if answer["__typename"] != "LaunchBackfillSuccess":
            raise StackError(f"the backfill was not launched: {answer}")
        return answer["backfillId"]

    def terminate(self, run: str) -> None:
        """Press "Terminate"."""
        answer = self.query(_TERMINATE, run=run)["terminateRun"]
        if answer["__typename"] != "TerminateRunSuccess":
            raise StackError(f"{run} was not terminated: {answer}")

    def reexecute(self, run: str) -> str:
        """Press "Re-execute all"; returns the new run."""
        parameters = {"parentRunId": run, "strategy": "ALL_STEPS"}
        answer = self.query(_REEXECUTE, parameters=parameters)["launchRunReexecution"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise StackError(f"{run} was not executed again: {answer}")
        return answer["run"]["runId"]

    def backfill_status(self, backfill: str) -> str:
        """What became of a backfill."""
        found = self.instance.get_backfill(backfill)
        return found.status.value if found else "REQUESTED"

    def wait_for_backfill(self, *backfills: str) -> list[str]:
        """Wait until backfills have ended; returns their statuses."""

        def ended() -> list[str]:
            statuses = [self.backfill_status(backfill) for backfill in backfills]
            return [] if {"REQUESTED", "CANCELING", "FAILING"} & set(statuses) else statuses

        return self.wait(ended, f"the end of backfills {backfills}")

    def ticks(self, location: str, sensor: str) -> list[dict[str, Any]]:
        """The last ticks of a sensor, the newest first, those that ended alone."""
        selector = {"repositoryLocationName": location, "repositoryName": "__repository__", "sensorName": sensor}
        answer = self.query(_TICKS, selector=selector)["sensorOrError"]
        found = answer["sensorState"]["ticks"] if "sensorState" in answer else []
        return [tick for tick in found if tick["endTimestamp"]]

    def wait_for_ticks(self, count: int, *sensors: tuple[str, str]) -> None:
        """Wait until each sensor has ticked some times more, so that what it was to request is requested."""
        for _ in range(count):
            since = time.time()
            self.wait(
                lambda since=since: all(
                    any(tick["endTimestamp"] > since for tick in self.ticks(*sensor)) for sensor in sensors
                ),
                f"a tick of {sensors}",
            )

    # What happened ----------------------------------------------------------------------------------------------------

    def record(self, run: str) -> dg.RunRecord:
        """What the instance has of a run."""
        (found,) = self.instance.get_run_records(dg.RunsFilter(run_ids=[run]))
        return found

    def status(self, run: str) -> dg.DagsterRunStatus:
        """Its status."""
        return self.record(run).dagster_run.status

    def tags(self, run: str) -> Mapping[str, str]:
        """Its tags."""
        return self.record(run).dagster_run.tags

    def runs(self, asset: str | None = None, job: str | None = None, **tags: str) -> list[str]:
        """Runs, the oldest first.

        Args:
            asset: Those that name this asset, as runs of the UI, backfills and conditions do.
            job: Those of a job.
            tags: Those with tags; two underscores stand for a slash.
        """
        wanted = {key.replace("__", "/"): value for key, value in tags.items()}
        records = self.instance.get_run_records(dg.RunsFilter(job_name=job, tags=wanted), ascending=True)
        return [
            record.dagster_run.run_id
            for record in records
            if asset is None or dg.AssetKey(asset) in (record.dagster_run.asset_selection or ())
        ]

    def partition(self, run: str) -> str | None:
        """The partition of a run."""
        return self.tags(run).get("dagster/partition")

    def wait_for(
        self, runs: Iterable[str], *statuses: dg.DagsterRunStatus, seconds: float = _SECONDS
    ) -> dict[str, dg.DagsterRunStatus]:
        """Wait until runs have one of some statuses; that of a finished run, unless told.

        Raises:
            StackError: One ended otherwise, or none did in time.
        """
        ids, wanted = list(runs), set(statuses) or FINISHED

        def arrived() -> dict[str, dg.DagsterRunStatus] | None:
            found = {run: self.status(run) for run in ids}
            if wrong := {run: status for run, status in found.items() if status in FINISHED - wanted}:
                raise StackError(f"{wrong}, not {wanted}: {[self.failure(run) for run in wrong]}")
            return found if set(found.values()) <= wanted else None

        if not ids:
            return {}
        return self.wait(arrived, f"{wanted} of {[run[:8] for run in ids]}", seconds)  # ty: ignore[invalid-return-type]

    def wait_for_runs(self, count: int, seconds: float = _SECONDS, **which: str) -> list[str]:
        """Wait until there are as many runs as that."""
        return self.wait(
            lambda: found if len(found := self.runs(**which)) >= count else [], f"{count} runs of {which}", seconds
        )

    def event(self, run: str, *types: dg.DagsterEventType) -> float | None:
        """When an event of a run was, in seconds; None if it was not."""
        times = [entry.timestamp for entry in self.instance.all_logs(run, of_type=set(types))]
        return min(times, default=None)

    def started(self, run: str) -> float:
        """When a run started, by the event log.

        Raises:
            StackError: It did not.
        """
        return self._time(run, dg.DagsterEventType.RUN_START)

    def ended(self, run: str) -> float:
        """When a run ended, by the event log.

        Raises:
            StackError: It did not.
        """
        return self._time(
            run, dg.DagsterEventType.RUN_SUCCESS, dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED
        )

    def _time(self, run: str, *types: dg.DagsterEventType) -> float:
        found = self.event(run, *types)
        if found is None:
            raise StackError(f"run {run} has no event {types}")
        return found

    def overlap(self, runs: Iterable[str]) -> int:
        """How many of the runs were started at a time, at most."""
        changes = []
        for run in runs:
            if self.event(run, dg.DagsterEventType.RUN_START) is not None:
                changes += [(self.started(run), 1), (self.ended(run), -1)]
        level = highest = 0
        for _, change in sorted(changes):  # an end before a start of the same moment
            level += change
            highest = max(highest, level)
        return highest

    def failure(self, run: str) -> str:
        """Why a run failed, as the event log has it."""
        return "\n".join(
            f"{entry.message} {entry.dagster_event.event_specific_data}"
            for entry in self.instance.all_logs(
                run, of_type={dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.STEP_FAILURE}
            )
            if entry.dagster_event
        )

    def worker(self, run: str) -> int:
        """The process of a run, as its code server reported it."""

        def reported() -> int | None:
            for entry in self.instance.all_logs(run, of_type=dg.DagsterEventType.ENGINE_EVENT):
                metadata = entry.dagster_event.event_specific_data.metadata if entry.dagster_event else {}
                if "pid" in metadata:
                    return int(metadata["pid"].value)
            return None

        return self.wait(reported, f"the process of run {run}")  # ty: ignore[invalid-return-type]

    def kill(self, run: str) -> float:
        """Kill the process of a run with SIGKILL; returns when."""
        worker = self.worker(run)
        now = time.time()
        os.kill(worker, signal.SIGKILL)
        return now


def _paths(assets: Iterable[str]) -> list[dict[str, list[str]]]:
    return [{"path": [asset]} for asset in assets]


def _assets(record: dg.RunRecord) -> Iterable[str]:
    return [key.to_user_string() for key in record.dagster_run.asset_selection or ()] or [record.dagster_run.job_name]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel gives to clients."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports
