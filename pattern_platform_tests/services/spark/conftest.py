"""One Sail server for each process of pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pattern_platform_tests.services.spark.sail import sail_server, session_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from pattern_platform_tests.services.servers import Server


@pytest.fixture(scope="session")
def sail() -> Iterator[Server]:
    with sail_server() as server:
        yield server


@pytest.fixture(scope="session")
def session(sail: Server) -> Iterator[SparkSession]:
    session = session_of(sail.url)
    yield session
    session.stop()
