"""The servers are real, each test finds its own database empty, and a server that is down is noticed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import redis
from adbc_driver_postgresql import dbapi

from pattern_platform_tests.services import servers
from pattern_platform_tests.services.servers import Server, ServerError, execute, redis_client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("servers")  # what one test leaves behind is there for the next


@pytest.mark.parametrize("turn", [1, 2])
def test_redis_keeps_what_it_is_given_and_starts_empty(redis_url: str, turn: int) -> None:
    with redis_client(redis_url) as client:
        assert client.dbsize() == 0, turn
        client.set("kéy", "välue")
        assert client.get("kéy") == "välue"


@pytest.mark.parametrize("turn", [1, 2])
def test_postgres_keeps_what_it_is_given_and_starts_empty(postgres_uri: str, turn: int) -> None:
    assert execute(postgres_uri, "SELECT 1 AS one") == [(1,)]
    tables = execute(postgres_uri, "SELECT count(*) AS n FROM pg_tables WHERE schemaname = 'public'")
    assert tables == [(0,)], turn
    rows = execute(postgres_uri, "CREATE TABLE t (v text)", "INSERT INTO t VALUES ('välue')", "SELECT v FROM t")
    assert rows == [("välue",)]


def test_redis_comes_back_at_its_address_without_its_data(redis_server: Server, redis_url: str) -> None:
    with redis_client(redis_url) as client:
        client.set("key", "value")
        redis_server.stop()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        redis_server.start()
        assert client.get("key") is None


def test_postgres_comes_back_at_its_address_with_its_data(postgres_server: Server, postgres_uri: str) -> None:
    execute(postgres_uri, "CREATE TABLE t (v bigint)", "INSERT INTO t VALUES (7)")
    postgres_server.stop()
    with pytest.raises(dbapi.OperationalError, match="Connection refused"):
        execute(postgres_uri, "SELECT v FROM t")
    postgres_server.start()
    assert execute(postgres_uri, "SELECT v FROM t") == [(7,)]


@pytest.mark.parametrize("turn", [1, 2])
def test_a_server_left_stopped_runs_for_the_next_test(
    redis_server: Server, postgres_server: Server, postgres_uri: str, turn: int
) -> None:
    assert execute(postgres_uri, "SELECT 1 AS one") == [(1,)], turn
    servers.ping(redis_server.url)
    redis_server.stop()
    postgres_server.stop()


def gone(ask: Callable[[str], None], url: str) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            ask(url)
        except (redis.ConnectionError, dbapi.OperationalError):
            return True
    return False


@pytest.mark.parametrize("name", ["redis_server", "postgres_server"])
def test_a_run_that_is_killed_leaves_no_server(name: str) -> None:
    program = f"""
import time
from pattern_platform_tests.services import servers
with servers.{name}() as server:
    print(server.folder, server.url, flush=True)
    time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        folder, url = run.stdout.readline().split()
        ask = {"redis_server": servers.ping, "postgres_server": servers.select_one}[name]
        ask(url)
        run.kill()
    assert gone(ask, url)
    shutil.rmtree(folder, ignore_errors=True)  # the server may still be tidying up in it


def test_a_server_that_does_not_come_up_says_why(redis_server: Server, tmp_path: Path) -> None:
    """Its port is taken, so nobody answers at the address where it is asked."""
    with pytest.raises(ServerError, match="Address already in use"):
        Server("redis://127.0.0.1:1", tmp_path, redis_server.command, servers.ping, redis_server.end).start()


def test_a_missing_server_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(servers, "_POSTGRES", tmp_path)
    with pytest.raises(ServerError, match="redis-server is not installed"), servers.redis_server():
        pass
    with pytest.raises(ServerError, match="postgresql is not installed"), servers.postgres_server():
        pass
