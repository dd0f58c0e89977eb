"""Sail in a process of its own, and tables that are written twice: by Polars and through Spark Connect."""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pyspark.sql import SparkSession
from pyspark.sql.connect.client.retries import DefaultPolicy

from pattern_platform.errors import PatternPlatformError
from pattern_platform.lake.spark import connect
from pattern_platform.lake.spark.types import spark_schema
from pattern_platform_tests.lake.tables import assert_same_rows
from pattern_platform_tests.patterns.idempotency.merging import did
from pattern_platform_tests.services.servers import Server, free_port
from pattern_platform_tests.services.stores import REGION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import DataFrame

    from pattern_platform_tests.lake.tables import Table
    from pattern_platform_tests.services.stores import ObjectStore

_SERVE = """
import sys
from pysail.spark import SparkConnectServer
SparkConnectServer("127.0.0.1", int(sys.argv[1])).start(background=False)
"""


@contextmanager
def sail_server(store: ObjectStore | None = None) -> Iterator[Server]:
    """Sail on a free port of this machine; it is ended by a kill, as a lost machine would be.

    Args:
        store: The object store that it reaches.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pattern-platform-services-") as folder:
        command = ["env", *_environment(store), sys.executable, "-c", _SERVE, str(port)]
        with Server(f"sc://127.0.0.1:{port}", Path(folder), command, _answers, signal.SIGKILL) as server:
            yield server
            if session := connect._sessions.pop(server.url, None):
                session.stop()  # before the server: at the end of the process the client would ask for minutes


def _environment(store: ObjectStore | None) -> list[str]:
    return (
        []
        if store is None
        else [
            f"AWS_ENDPOINT_URL={store.endpoint}",
            f"AWS_ACCESS_KEY_ID={store.key}",
            f"AWS_SECRET_ACCESS_KEY={store.secret}",
            f"AWS_REGION={REGION}",
            "AWS_ALLOW_HTTP=true",
        ]
    )


def _answers(url: str) -> None:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=1):
        pass


def session_of(url: str) -> SparkSession:
    """A session that tells soon that the server is gone."""
    session = SparkSession.builder.remote(url).create()
    session.client.set_retry_policies([DefaultPolicy(max_retries=2, initial_backoff=20)])
    return session


def spark_frame(session: SparkSession, frame: pl.DataFrame) -> DataFrame:
    """The rows of a frame, held by the server."""
    if frame.is_empty():
        return session.createDataFrame([], spark_schema(frame.schema))
    return session.createDataFrame(frame.to_arrow(), spark_schema(frame.schema))


@dataclass(frozen=True)
class Pair:
    """The same asset twice: one that Polars writes, and one that is written through Spark Connect."""

    session: SparkSession
    polars: Table
    spark: Table

    def write(self, frame: pl.DataFrame, key: str | None = None) -> dict[str, int] | str:
        """What became of the rows, or the refusal, which is the same for both; the tables are equal afterwards."""
        return self._same(
            lambda: self.polars.write(frame, key), lambda: self.spark.write(spark_frame(self.session, frame), key)
        )

    def write_range(self, frame: pl.DataFrame, first: str, last: str) -> dict[str, int] | str:
        """Likewise, of a single run over several partitions."""
        return self._same(
            lambda: self.polars.write_range(frame, first, last),
            lambda: self.spark.write_range(spark_frame(self.session, frame), first, last),
        )

    def _same(self, by_polars: Callable[[], Any], by_spark: Callable[[], Any]) -> dict[str, int] | str:
        wanted, found = _outcome(by_polars), _outcome(by_spark)
        assert found == wanted
        self.assert_same()
        return wanted[0]

    def assert_same(self) -> None:
        """The tables hold the same rows in the same version, and only files of some version lie in their folders."""
        assert self.polars.path.joinpath("_delta_log").exists() == self.spark.path.joinpath("_delta_log").exists()
        if not self.polars.path.joinpath("_delta_log").exists():
            return
        assert self.spark.handle.version() == self.polars.handle.version()
        assert pl.Schema(self.spark.handle.schema().to_arrow()) == pl.Schema(self.polars.handle.schema().to_arrow())
        assert_same_rows(self.spark.rows(), self.polars.rows())
        assert_same_rows(pl.read_delta(str(self.spark.path)), pl.read_delta(str(self.polars.path)))
        assert not [path for path in self.spark.path.iterdir() if path.name.startswith("spark-")]


def _outcome(act: Callable[[], Any]) -> tuple[dict[str, int] | str, object]:
    try:
        written = act()
    except PatternPlatformError as error:
        return type(error).__name__, str(error)
    return did(written.metadata), written.metadata["delta/version"]
