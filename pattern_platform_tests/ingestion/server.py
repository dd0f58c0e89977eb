"""A real HTTP server on this machine that answers by script: it throttles, fails, breaks off, counts its requests."""

from __future__ import annotations

import gzip
import socket
import struct
import sys
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping


@dataclass(frozen=True)
class Answer:
    """What is answered to one request.

    Args:
        body: The body.
        status: The status.
        headers: Headers beside the length.
        told: The length that is told, that of the body when absent; -1 for none, so that the end of the connection is
            the end of the body.
        reset: Whether the connection is reset instead of any answer.
        held: Whether it waits until the server lets go of it; when the server is closed before, there is no answer.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    told: int | None = None
    reset: bool = False
    held: bool = False


@dataclass(frozen=True)
class Request:
    """A request as it came: path with query, and headers with small names."""

    target: str
    headers: Mapping[str, str]


class Server:
    """The server.

    Args:
        port: Where it listens.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.requests: list[Request] = []
        self.held = threading.Event()  # set once a request is held
        self.let_go = threading.Event()
        self.closing = False
        self._scripts: dict[str, list[Answer]] = defaultdict(list)

    def script(self, path: str, *answers: Answer) -> None:
        """Say what a path answers, request by request; the last answer stays."""
        self._scripts[path] = list(answers)

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        script = self._scripts[urlsplit(request.target).path]
        return (script.pop(0) if len(script) > 1 else script[0]) if script else Answer(status=404)

    @property
    def targets(self) -> list[str]:
        """What was asked for, in order."""
        return [request.target for request in self.requests]


def page(body: bytes | str, following: str | None = None, *, kind: str = "application/x-ndjson") -> Answer:
    """A page, with the link to the next one."""
    headers = {"Content-Type": kind} | ({"Link": f'<{following}>; rel="next"'} if following else {})
    return Answer(body.encode() if isinstance(body, str) else body, headers=headers)


def zipped(body: bytes, *, cut: int = 0, sized: bool = True) -> Answer:
    """A compressed page; with its last bytes cut off, as by a proxy that sends what it has and says that it is all."""
    packed = gzip.compress(body)
    headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
    return Answer(packed[: len(packed) - cut], headers=headers, told=None if sized else -1)


@contextmanager
def serving() -> Generator[Server]:
    """Serve while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            answer = server.answer(Request(self.path, {name.lower(): value for name, value in self.headers.items()}))
            if answer.held:
                server.held.set()
                server.let_go.wait()
            if answer.reset or server.closing:
                self.close_connection = True
                linger = struct.pack("ii", 1, 0)  # a reset, not an orderly end
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.told != -1:
                self.send_header("Content-Length", str(len(answer.body) if answer.told is None else answer.told))
            if answer.told is not None:
                self.close_connection = True
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as of the class
            """Stay silent."""

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # a client may go at any time
                super().handle_error(request, client_address)

    with Listener(("127.0.0.1", 0), Handler) as httpd:
        server = Server(httpd.server_port)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing = True
            server.let_go.set()
            httpd.shutdown()
            thread.join()
