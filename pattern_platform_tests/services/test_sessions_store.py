"""The platform's sessions where a server keeps them: the same rows as in a DuckDB file, by one setting."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from adbc_driver_postgresql import dbapi

from pattern_platform.errors import InvalidSettingsError
from pattern_platform.settings import Settings
from pattern_platform.visits import sessions as module
from pattern_platform.visits.sessions import exported_sessions, sessions
from pattern_platform.warehouse.postgres_store import PostgresStore
from pattern_platform.warehouse.redis_store import RedisStore
from pattern_platform_tests.lake.tables import to_polars
from pattern_platform_tests.platform import Platform, errors
from pattern_platform_tests.services.servers import redis_client
from pattern_platform_tests.visits.blog import succeeded
from pattern_platform_tests.visits.test_sessions import LATE, MONDAY, TUESDAY, WITH_LATE, Blog, at, keyed_by_hand, seen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("sessions")
VISITS = [
    *WITH_LATE,
    seen("ü 2", "A", "10:01:00"),
    seen("u1", "Z", "23:59:59.999999"),
    {**seen("u1", "Z", "00:00:00"), "append_time": at("00:00:00", TUESDAY)},
]
COLUMNS = ["session_id", "user_id", "first_append", "last_append", "visits", "pages"]


@pytest.fixture(params=["redis_url", "postgres_uri"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A server that the environment names."""
    url = request.getfixturevalue(request.param)
    monkeypatch.setenv("PATTERN_PLATFORM_SESSIONS_URL", url)
    return url


def materialized(blog: Blog) -> list[dict[str, Any]]:
    """Both days, twice, and what a downstream asset is given of them: without when they were written."""
    blog.append(VISITS, MONDAY, TUESDAY)
    for day in (TUESDAY, MONDAY, MONDAY, TUESDAY):
        succeeded(blog.run([sessions.key, exported_sessions.key], day))
    return loaded(blog)


def loaded(blog: Blog) -> list[dict[str, Any]]:
    rows: list[Any] = []

    @dg.asset(ins={"found": dg.AssetIn(["sessions"], metadata={"allow_missing_partitions": True})})
    def reader(found) -> None:  # noqa: ANN001 - any kind of frame
        rows.extend(to_polars(found).select(COLUMNS).sort("session_id").to_dicts())

    reading = Platform(blog.folder, [blog.visits, *module.ASSETS, reader])
    succeeded(reading.run([reader.key]))
    return rows


def files(blog: Platform) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (blog.folder / "exports/sessions").iterdir()}


def test_a_server_keeps_the_sessions_that_a_file_keeps(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Blog(tmp_path / "served")
    store = served.resources["keyed_idempotency"].store
    assert isinstance(store, PostgresStore if url.startswith("postgresql") else RedisStore)
    rows = materialized(served)
    assert not (served.warehouse / "sessions.duckdb").exists()

    monkeypatch.delenv("PATTERN_PLATFORM_SESSIONS_URL")
    embedded = Blog(tmp_path / "embedded")
    assert materialized(embedded) == rows == keyed_by_hand(VISITS)
    assert (embedded.warehouse / "sessions.duckdb").exists()
    assert files(embedded) == files(served)


def test_the_drivers_find_the_keys(tmp_path: Path, url: str) -> None:
    blog = Blog(tmp_path)
    materialized(blog)
    if url.startswith("postgresql"):
        with dbapi.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT session_id, visits FROM sessions")
            found = cursor.fetchall()
    else:
        with redis_client(url) as client:
            documents = client.mget([*client.scan_iter("{sessions}:row:*")])
        found = [(row["session_id"], row["visits"]) for row in map(json.loads, documents)]
    assert sorted(map(tuple, found)) == [(row["session_id"], row["visits"]) for row in keyed_by_hand(VISITS)]


def test_a_session_that_lost_its_first_visit_is_refused(tmp_path: Path, url: str) -> None:
    """K-7, and K-3 before it."""
    del url
    blog = Blog(tmp_path)
    for visits in (LATE, WITH_LATE):
        blog.replay(visits)
        assert loaded(blog) == keyed_by_hand(visits)
    blog.append(WITH_LATE[1:], MONDAY)
    (error,) = errors(blog.run([sessions.key], MONDAY))
    assert error.startswith("LostKeysError")
    assert loaded(blog) == keyed_by_hand(WITH_LATE)


@pytest.mark.parametrize("wrong", ["http://localhost", "mysql://localhost/db", "localhost:6379", "", "sessions.duckdb"])
def test_another_scheme_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("PATTERN_PLATFORM_SESSIONS_URL", wrong)
    with pytest.raises(InvalidSettingsError, match="sessions_url"):
        Settings()


def test_accepted_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    accepted: Callable[[str], str | None] = lambda url: Settings(sessions_url=url).sessions_store  # noqa: E731
    monkeypatch.delenv("PATTERN_PLATFORM_SESSIONS_URL", raising=False)
    for url in ("redis://localhost:6379/0", "rediss://localhost", "postgresql://localhost/db"):
        assert accepted(url) == url
