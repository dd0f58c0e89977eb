"""A proxy in front of an object store that counts its requests, and has them fail as networks and stores do.

It answers from threads of the test's process: a call that keeps the interpreter while it waits for the store, as
``DeltaTable.alter`` does, would wait for ever.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable


class Fault(Enum):
    """What becomes of a request."""

    UNCONDITIONAL = auto()  # the store does not see that it is conditional
    REFUSED = auto()  # 503, and nothing happens
    CUT = auto()  # the connection is cut, and nothing happens
    LOST = auto()  # it happens, and the connection is cut before the answer
    BROKEN = auto()  # it happens, and the answer is 500
    LATE = auto()  # the connection is cut, and it happens when the proxy is told so


@dataclass(frozen=True)
class Request:
    """A request that came by.

    Args:
        method: Such as ``PUT``.
        path: The object, or bucket, with the query.
        headers: Its headers, by name in lower case.
        body: Its content.
    """

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def is_commit(self) -> bool:
        """Whether it puts a version into a log, if nobody has."""
        return self.method == "PUT" and "/_delta_log/" in self.path and self.path.endswith(".json")

    @property
    def name(self) -> str:
        """The last part of the object's name."""
        return unquote(urlsplit(self.path).path).rpartition("/")[2]


def _nothing(_: Request) -> Fault | None:
    return None


class Proxy:
    """A proxy on an address of its own.

    Args:
        upstream: URL of the store.
        fault: Asked for each request, in its thread: what becomes of it; None lets it pass.
    """

    def __init__(self, upstream: str, fault: Callable[[Request], Fault | None] = _nothing) -> None:
        self.upstream, self.fault = urlsplit(upstream).netloc, fault
        self.requests: deque[Request] = deque()
        self.late: deque[Request] = deque()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def ask(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Have the store do a request: status, headers and content of its answer."""
        connection = HTTPConnection(self.upstream, timeout=60)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders(request.body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def deliver(self) -> list[int]:
        """Have what is late happen; the statuses that nobody is told."""
        statuses = [self.ask(request)[0] for request in self.late]
        self.late.clear()
        return statuses


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: Proxy

    def _pass(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items() if name.lower() != "connection"}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        request = Request(self.command, self.path, headers, body)
        self.proxy.requests.append(request)
        fault = self.proxy.fault(request)
        if fault is Fault.UNCONDITIONAL:
            headers.pop("if-none-match", None)
        if fault is Fault.LATE:
            self.proxy.late.append(request)
        if fault is Fault.REFUSED:
            self._answer(503, {}, b"")
            return
        if fault in (Fault.CUT, Fault.LATE):
            self._cut()
            return
        try:
            status, told, content = self.proxy.ask(request)
        except (OSError, HTTPException):
            self._cut()  # the store is not there
            return
        if fault is Fault.LOST:
            self._cut()
        elif fault is Fault.BROKEN:
            self._answer(500, {}, b"")
        else:
            self._answer(status, told, content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass  # noqa: N815 - as the base class calls them

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        with suppress(OSError):  # who asked is gone
            self.end_headers()
            self.wfile.write(content)

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Nothing."""
