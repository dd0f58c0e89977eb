"""The servers, once for each process of pytest, and for each test a database of its own that is empty."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pattern_platform_tests.services import servers, stores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pattern_platform_tests.services.servers import Server
    from pattern_platform_tests.services.stores import ObjectStore

_HERE = Path(__file__).parent
_NUMBERS = count(1)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this folder needs a server, and is kept out of `make test` without having to say so."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.services)


@pytest.fixture(scope="session")
def _redis() -> Iterator[Server]:
    with servers.redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def _postgres() -> Iterator[Server]:
    with servers.postgres_server() as server:
        yield server


@pytest.fixture
def redis_server(_redis: Server) -> Server:
    """The server, to be stopped and started again, and running, whatever the test before left behind."""
    _redis.start()
    return _redis


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """An empty database."""
    with servers.redis_client(redis_server.url) as client:
        client.flushdb()
    return redis_server.url


@pytest.fixture
def postgres_server(_postgres: Server) -> Server:
    """The server, to be stopped and started again, and running, whatever the test before left behind."""
    _postgres.start()
    return _postgres


@pytest.fixture
def postgres_uri(postgres_server: Server) -> Iterator[str]:
    """A fresh database, dropped at the end with the sessions that the test left open."""
    name = f"test_{next(_NUMBERS)}"
    servers.execute(postgres_server.url, f"CREATE DATABASE {name}")
    yield postgres_server.url.removesuffix("postgres") + name
    postgres_server.start()
    servers.execute(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _seaweed() -> Iterator[Server]:
    with stores.seaweed_server() as server:
        yield server


@pytest.fixture(scope="session")
def _moto() -> Iterator[Server]:
    with stores.moto_server() as server:
        yield server


@pytest.fixture
def seaweed_server(_seaweed: Server) -> Server:
    """The server, to be stopped and started again, and running, whatever the test before left behind."""
    _seaweed.start()
    return _seaweed


@pytest.fixture
def object_store(seaweed_server: Server) -> ObjectStore:
    """A folder of SeaweedFS that nobody has used."""
    return stores.ObjectStore(seaweed_server.url).fresh()


@pytest.fixture
def moto_store(_moto: Server) -> ObjectStore:
    """A folder of moto, which checks no signatures, that nobody has used."""
    return stores.ObjectStore(_moto.url).fresh()
