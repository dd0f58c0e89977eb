"""Dagster on several hosts, as `deploy/celery_fleet` says: PostgreSQL, a broker, workers that share nothing else."""

from __future__ import annotations

import configparser
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from celery import Celery

from pattern_platform_tests.daemon.stack import ROOT, Program, Stack
from pattern_platform_tests.services import hours
from pattern_platform_tests.services.servers import execute

if TYPE_CHECKING:
    from pattern_platform_tests.services.network import Host, Network
    from pattern_platform_tests.services.servers import Server
    from pattern_platform_tests.services.stores import ObjectStore

DEPLOYED = ROOT / "deploy/celery_fleet"
PROCESSES = 2  # of a worker
_PATH = Path(sys.executable).parent


def command_of(unit: Path) -> list[str]:
    """What a systemd unit starts, with the programs of this environment."""
    file = configparser.RawConfigParser(strict=False)
    file.read(unit)
    program, *arguments = shlex.split(file["Service"]["ExecStart"])
    return [str(_PATH / Path(program).name), *arguments]


class Fleet(Stack):
    """Webserver, daemon and code server here, and a worker on each host.

    Its instance, its workers' file and their command are those of `deploy`, but for addresses, sizes and timeouts.

    Args:
        network: The hosts.
        database: PostgreSQL.
        broker: Redis.
        store: Where the tables are.
    """

    def __init__(self, network: Network, database: Server, broker: Server, store: ObjectStore) -> None:
        host, _, port = database.url.partition("@")[2].partition("/")[0].partition(":")
        execute(database.url, "CREATE ROLE dagster LOGIN", "CREATE DATABASE dagster OWNER dagster")
        variables = {
            "DAGSTER_POSTGRES_HOST": host,
            "DAGSTER_POSTGRES_PASSWORD": "none is asked",
            "BROKER_URL": broker.url,
            "RESULTS_URL": broker.url,
            "AWS_ACCESS_KEY_ID": store.key,
            "AWS_SECRET_ACCESS_KEY": store.secret,
            hours.ROOT: store.root,
            hours.ENDPOINT: store.endpoint,
        }
        os.environ.update(variables)  # of the tests' own process, too: the fixture puts them back
        super().__init__(settings=self._settings(int(port)), locations={"hours": hours.__name__})
        self.environment |= variables
        self.broker = Celery(broker=broker.url, backend=broker.url)
        self.workers = {host.name: self._worker(host) for host in network.hosts}

    def _settings(self, port: int) -> dict[str, Any]:
        settings = yaml.safe_load((DEPLOYED / "dagster.yaml").read_text())
        del settings["run_coordinator"]  # that of the stack, which has limits of its own
        settings["storage"]["postgres"]["postgres_db"]["port"] = port
        settings["run_launcher"]["config"]["lost_after_seconds"] = 8
        settings["run_monitoring"] |= {"poll_interval_seconds": 1, "start_timeout_seconds": 45}
        return settings

    def _worker(self, host: Host) -> Program:
        told = {
            "/etc/pattern-platform/worker.yaml": str(DEPLOYED / "worker.yaml"),
            "--concurrency=4": f"--concurrency={PROCESSES}",
        }
        command = [told.get(word, word) for word in command_of(DEPLOYED / "pattern-platform-worker.service")]
        environment = {**self.environment, "PATH": f"{_PATH}:/usr/sbin:/usr/bin:/sbin:/bin", "C_FORCE_ROOT": "1"}
        return Program(host.name, [*host.prefix, *command], self.folder, environment)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.start_workers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.kill()
        self.broker.close()
        super().__exit__()

    def start_workers(self) -> None:
        """Start those that do not run; returns when all answer."""
        for worker in self.workers.values():
            if not worker.is_running:
                worker.start()
        self.wait(lambda: len(self.tasks()) == len(self.workers), "the workers")

    def tasks(self) -> dict[str, list[str]]:
        """The tasks that are executed, by host, of the hosts that answer."""
        answers = self.broker.control.inspect(timeout=1).active() or {}
        return {name.split("@")[1]: [task["id"] for task in tasks] for name, tasks in answers.items()}
