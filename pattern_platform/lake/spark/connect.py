"""How a Spark Connect server is reached, and what is one of its frames; no Spark is imported for the question."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import dagster as dg

from pattern_platform.errors import MissingDriverError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_sessions: dict[str, Any] = {}  # by URL; the client has a class of its own for them
_lock = threading.Lock()
_FRAME_MODULES = ("pyspark.sql.dataframe", "pyspark.sql.connect.dataframe")


class SparkConnect(dg.Config):
    """A Spark Connect server. It and the runs reach the tables by the same paths: one host, or an object store.

    Args:
        url: Such as ``sc://spark.example.com:15002``; what it holds of secrets comes from an ``EnvVar``.
    """

    url: str

    def session(self) -> SparkSession:
        """The session of this process with this server; frames of one asset belong to one session.

        ``getOrCreate`` would give that of any server that the process spoke to before.

        Raises:
            MissingDriverError: The client is not installed.
        """
        try:
            from pyspark.sql import SparkSession  # noqa: PLC0415 - heavy, and only in an extra
        except ImportError as error:
            raise MissingDriverError(
                "the Spark engine was refused",
                why="the client of Spark Connect is not installed",
                mend="pip install 'pattern-platform[spark]'",
            ) from error
        with _lock:
            session = _sessions.get(self.url)
            if session is None or session.is_stopped:
                session = _sessions[self.url] = SparkSession.builder.remote(self.url).create()
        return session


def is_frame(value: object) -> bool:
    """Whether a value is a frame of Spark Connect."""
    module = sys.modules.get("pyspark.sql.connect.dataframe")
    return module is not None and isinstance(value, module.DataFrame)


def is_frame_type(annotation: object) -> bool:
    """Whether a parameter asks for a Spark frame."""
    return any(
        module is not None and annotation is getattr(module, "DataFrame", None)
        for module in map(sys.modules.get, _FRAME_MODULES)
    )
