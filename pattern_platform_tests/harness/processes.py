"""Writers as processes: forked, asked, awaited, killed. And what happens in their folder, as the kernel tells it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from pattern_platform_tests.harness.model import Operation, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pattern_platform.lake.object_path import LakePath

_SECONDS = 100.0  # after which a writer counts as hanging


class Died(Exception):  # noqa: N818 - what happened
    """The writer is dead."""


class Writer:
    """A forked process that does what it is asked."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._buffer, self._asked = connection, b"", 0
        self.messages: deque[dict[str, Any]] = deque()
        self.runs: dict[int, str] = {}
        self.pid: int = self.receive()["pid"]
        self._process = os.pidfd_open(self.pid)

    def fileno(self) -> int:
        """What is readable when it says something, or dies."""
        return self._connection.fileno()

    def ask(self, operation: Operation | str, root: LakePath, **more: object) -> int:
        """Have it do something; returns the number of the request."""
        self._asked += 1
        if not isinstance(root, Path):
            more["store"] = dict(root.options)
        message = operation.message() if isinstance(operation, Operation) else {"do": operation}
        line = json.dumps({**message, "id": self._asked, "root": str(root), **more})
        self._connection.sendall(line.encode() + b"\n")
        return self._asked

    def receive(self) -> dict[str, Any]:
        """The next thing that it says.

        Raises:
            Died: It is dead.
        """
        while not self.messages:
            if not select.select([self._connection], [], [], _SECONDS)[0]:
                os.kill(self.pid, signal.SIGUSR1)  # it writes where it hangs
                raise Violation(f"a writer has said nothing for {_SECONDS} s: it hangs")
            self.pump()
        return self.messages.popleft()

    def pump(self) -> None:
        """Take in what it has said.

        Raises:
            Died: It is dead.
        """
        data = b""
        with contextlib.suppress(ConnectionResetError):
            data = self._connection.recv(1 << 16)
        if not data:
            raise Died
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self.messages.extend(json.loads(line) for line in lines)

    def answer(self) -> dict[str, Any]:
        """What became of the request; on the way, the runs that it started are noted."""
        while "done" not in (message := self.receive()):
            self.note(message)
        return message

    def note(self, message: Mapping[str, Any]) -> None:
        """Note the run of a request."""
        if "run" in message and "asked" in message:
            self.runs[message["asked"]] = message["run"]

    def do(self, operation: Operation | str, root: LakePath, **more: object) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self.ask(operation, root, **more)
        return self.answer()

    def kill(self) -> list[dict[str, Any]]:
        """Kill it, and wait until it is dead; what it still said is returned."""
        signal.pidfd_send_signal(self._process, signal.SIGKILL)
        try:
            while True:
                self.pump()
        except Died:
            self.close()
        return list(self.messages)

    def close(self) -> None:
        """Let it end."""
        self._connection.close()
        os.close(self._process)


class Zygote:
    """The process that forks writers."""

    def __init__(self, **environment: str) -> None:
        self._server, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pattern_platform_tests.harness.writer", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL if "HARNESS_STDERR" not in os.environ else None,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2", **environment},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._process.wait(10)

    def fork(self) -> Writer:
        """A new writer."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._server, [b"fork"], [theirs.fileno()])
        return Writer(ours)


# inotify --------------------------------------------------------------------------------------------------------------

_CREATE, _MOVED_TO, _CLOSE_WRITE, _DELETE, _IS_DIR = 0x100, 0x80, 0x8, 0x200, 0x40000000
_EVENT = struct.Struct("iIII")


class Watch:
    """What happens to the files under a folder: created, moved in, closed after writing, deleted."""

    def __init__(self, root: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        self._folders: dict[int, Path] = {}
        self._early: list[str] = []
        self._add(root)

    def fileno(self) -> int:
        """What is readable when something has happened."""
        return self._descriptor

    def _add(self, folder: Path) -> None:
        mask = _CREATE | _MOVED_TO | _CLOSE_WRITE | _DELETE
        number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), mask)
        if number < 0:
            return  # gone already
        self._folders[number] = folder
        for path in folder.iterdir():  # made before the folder was watched
            self._early.append(path.name)
            if path.is_dir():
                self._add(path)

    def events(self) -> Iterator[str]:
        """Names of the files to which something has happened since."""
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        while data:
            number, mask, _, length = _EVENT.unpack_from(data)
            name = data[_EVENT.size : _EVENT.size + length].rstrip(b"\0").decode()
            data = data[_EVENT.size + length :]
            if mask & _IS_DIR and mask & _CREATE:
                self._add(self._folders[number] / name)
            yield name
        early, self._early = self._early, []
        yield from early

    def drain(self) -> None:
        """Forget what has happened."""
        while any(True for _ in self.events()):
            pass

    def close(self) -> None:
        """Watch no more."""
        os.close(self._descriptor)


def spin(seconds: float) -> None:
    """Let a very short time pass; no event marks it, and a sleep would be longer."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify and pidfd are Linux")
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compiled_shim(folder: Path) -> Path:
    """The shim that makes file operations fail, as a library."""
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(
        [str(COMPILER), "-O1", "-Wall", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"],
        check=True,
        capture_output=True,
    )
    return library
