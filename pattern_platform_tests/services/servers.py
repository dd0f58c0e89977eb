"""Real servers for the tests: started on a free port, in a folder of their own, and gone when the tests are.

A server that is missing, or does not come up, is an error of the test that asked for it: a suite that skips its
servers says nothing about them.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import redis
from adbc_driver_postgresql import dbapi
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECONDS = 60.0  # after which a server counts as hanging
_HOST = "127.0.0.1"
_POSTGRES = Path("/usr/lib/postgresql")  # where Debian has the programs, outside the PATH and by version
_OWNER = "postgres"  # who runs PostgreSQL when the tests are root, which it refuses to be


class ServerError(Exception):
    """A server is not installed, or did not start or stop."""


@dataclass
class Server:
    """A server that a test may stop and start again: same address, same folder.

    It dies with the thread that started it, so that an interrupted run leaves no server behind: call `start` in the
    main thread.
    """

    url: str
    folder: Path
    command: list[str]
    ask: Callable[[str], object]  # raises unless the server answers
    end: signal.Signals  # what ends it in good order, with sessions still open
    user: list[str] = field(default_factory=list)  # what makes another user of it
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def log(self) -> str:
        """What the server said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, unless it runs; returns when it answers."""
        if self._process and self._process.poll() is None:
            return
        # The kernel forgets the signal when the user changes: it is said last.
        command = [*self.user, "setpriv", f"--pdeathsig={self.end.name.removeprefix('SIG')}", *self.command]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                self.ask(self.url)
            except (redis.RedisError, dbapi.Error, OSError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise ServerError(f"{command} does not answer. It says:\n{self.log}") from error
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End it, unless it is; returns when it is gone. What it has on the disk stays."""
        if not self._process:
            return
        self._process.send_signal(self.end)
        try:
            self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise ServerError(f"{self.command} does not stop. It says:\n{self.log}") from error
        finally:
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port() -> int:
    """A port that nobody listens on.

    Below those that the kernel gives to clients, or a connection could take the port of a server that is stopped.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
        return port


def redis_client(url: str) -> redis.Redis:
    """A client that tells at once that the server is not there."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), decode_responses=True)


def ping(url: str) -> None:
    with redis_client(url) as client:
        client.ping()


def select_one(uri: str) -> None:
    execute(uri, "SELECT 1")


def execute(uri: str, *statements: str) -> list[tuple[object, ...]]:
    """The rows of the last statement, each committed by itself, as CREATE DATABASE has to be."""
    with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def _folder(owner: str | None = None) -> Iterator[Path]:
    """A folder outside those of pytest, which only the user who runs the tests can enter."""
    folder = Path(tempfile.mkdtemp(prefix="pattern-platform-services-"))
    try:
        if owner:
            shutil.chown(folder, owner, owner)
        yield folder
    finally:
        shutil.rmtree(folder)


def _installed(name: str, programs: list[Path]) -> Path:
    """The newest of the programs."""
    if not programs:
        raise ServerError(f"{name} is not installed: `make test-services` does that")
    return max(programs, key=lambda program: [int(part) for part in re.findall(r"\d+", str(program))])


@contextmanager
def redis_server(host: str = _HOST) -> Iterator[Server]:
    """Redis, in memory alone: what it had is gone when it is started again, as in a cache."""
    found = shutil.which("redis-server")
    program = _installed("redis-server", [Path(found)] if found else [])
    port = free_port()
    with _folder() as folder:
        command = [str(program), "--bind", host, "--port", str(port), "--dir", str(folder)]
        command += ["--save", "", "--appendonly", "no", "--protected-mode", "yes" if host == _HOST else "no"]
        with Server(f"redis://{host}:{port}/0", folder, command, ping, signal.SIGTERM) as server:
            yield server


@contextmanager
def postgres_server(host: str = _HOST) -> Iterator[Server]:
    """PostgreSQL, far from UTC, so that a time which is not told its zone is seen to be wrong."""
    program = _installed("postgresql", list(_POSTGRES.glob("*/bin/postgres")))
    root = os.geteuid() == 0
    user = ["setpriv", f"--reuid={_OWNER}", f"--regid={_OWNER}", "--clear-groups"] if root else []
    port = free_port()
    with _folder(_OWNER if root else None) as folder:
        data = str(folder / "data")
        create = [str(program.with_name("initdb")), "--pgdata", data, "--username", _OWNER]
        create += ["--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        subprocess.run([*user, *create], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with (folder / "data/pg_hba.conf").open("a") as trusted:
            trusted.write(f"host all all {host}/24 trust\n")
        settings = {
            "listen_addresses": host,
            "port": port,
            "unix_socket_directories": "",
            "timezone": "Asia/Kolkata",
            "fsync": "off",  # a killed server loses nothing by it, only a machine would
        }
        command = [str(program), "-D", data, *(f"--{name}={value}" for name, value in settings.items())]
        url = f"postgresql://{_OWNER}@{host}:{port}/postgres"
        with Server(url, folder, command, select_one, signal.SIGINT, user) as server:
            yield server
