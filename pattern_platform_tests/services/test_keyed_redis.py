"""Keyed Idempotency in Redis: the scenarios of every store, then what is Redis' own."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl
import pytest
import redis
from redis.client import Pipeline

from pattern_platform.errors import CommitConflictError, LossyCastError
from pattern_platform.warehouse.redis_store import RedisStore
from pattern_platform_tests.lake.tables import assert_same_rows
from pattern_platform_tests.patterns.idempotency.keyed import (
    BY_DAY,
    DAYS,
    FIRST,
    SECOND,
    Backend,
    Counter,
    Scenarios,
    keyed,
    killed,
    on,
    refused,
)
from pattern_platform_tests.services.servers import redis_client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pattern_platform_tests.services.servers import Server

pytestmark = pytest.mark.xdist_group("redis")


class RedisBackend(Backend):
    store_type: ClassVar[Any] = RedisStore

    def client(self) -> redis.Redis:
        return redis_client(self.store.url)

    def values(self, key: Sequence[str], *columns: str) -> list[tuple[Any, ...]]:
        """What one MGET returns."""
        with self.client() as client:
            names = sorted(client.scan_iter(f"{{{'/'.join(key)}}}:row:*", count=1000))
            rows = [json.loads(document) for document in (client.mget(names) if names else []) if document]
        return sorted((tuple(row[column] for column in columns) for row in rows), key=repr)

    def contents(self) -> Mapping[str, Any]:
        with redis.Redis.from_url(self.store.url) as client:
            read = {b"string": client.get, b"set": client.smembers, b"hash": client.hgetall}
            return {name: read[client.type(name)](name) for name in client.scan_iter()}

    def interrupt(self, patch: pytest.MonkeyPatch, counter: Counter) -> None:
        for owner, name in ((redis.Redis, "execute_command"), (Pipeline, "execute_command"), (Pipeline, "execute")):
            patch.setattr(owner, name, counter.around(getattr(owner, name)))

    def die_while_sending(self, patch: pytest.MonkeyPatch) -> None:
        """The process is killed when a part of its transaction is on the wire."""
        send = redis.connection.Connection.send_packed_command

        def dies(connection: Any, command: Any, *given: Any, **options: Any) -> None:
            sent = command if isinstance(command, bytes) else b"".join(command)
            if b"EXEC" not in sent:
                send(connection, command, *given, **options)
                return
            connection._sock.sendall(sent[: len(sent) * 2 // 3])
            os.kill(os.getpid(), signal.SIGKILL)

        patch.setattr(redis.connection.Connection, "send_packed_command", dies)


@pytest.fixture
def backend(redis_url: str) -> Backend:
    return RedisBackend(RedisStore(url=redis_url))


class TestRedis(Scenarios):
    """The scenarios in Redis."""


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64, pl.List(pl.Float32), pl.List(pl.Float64)], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_has_not_are_refused(backend: Backend, dtype: Any, value: float) -> None:
    values = [[], [None, value]] if isinstance(dtype, pl.List) else [1.0, value]
    batch = pl.DataFrame({"k": ["a", "b"], "odd": pl.Series(values, dtype=dtype)})
    with refused(backend, LossyCastError, "'odd'", silent="'k'"):
        backend.asset().run(batch)
    backend.asset().run(batch[:1])
    with refused(backend, LossyCastError, "'odd'"):
        backend.asset().run(batch)


def test_a_text_with_a_zero_comes_back(backend: Backend) -> None:
    asset = backend.asset()
    asset.run(pl.DataFrame({"k": ["a"], "v": ["x\0y"]}))
    assert asset.load()["v"].to_list() == ["x\0y"]


def test_the_names_of_an_asset_are_on_one_node(backend: RedisBackend) -> None:
    asset = backend.asset(key=("store", "rows"))
    asset.run(keyed(a=1))
    (key,) = asset.ids()
    with backend.client() as client:
        names = set(client.scan_iter())
        assert names == {f"{{store/rows}}:{name}" for name in (f"row:{key}", "partition:", "loads", "schema")}
        assert json.loads(client.get(f"{{store/rows}}:row:{key}"))["v"] == 1


def test_assets_whose_names_begin_alike_stay_apart(backend: Backend) -> None:
    for number, key in enumerate((("a",), ("a", "b"), ("a_b",))):
        backend.asset(key=key).run(keyed(x=number))
    assert [backend.asset(key=key).load()["v"].to_list() for key in (("a",), ("a", "b"), ("a_b",))] == [[0], [1], [2]]


# At once --------------------------------------------------------------------------------------------------------------


def test_a_run_that_another_overtook_is_refused_and_its_retry_is_right(backend: RedisBackend) -> None:
    asset = backend.asset().declared(lost_keys="delete")
    asset.run(keyed(a=0))
    with pytest.MonkeyPatch.context() as patch:
        execute = Pipeline.execute

        def late(pipeline: Pipeline, *given: Any, **options: Any) -> Any:
            patch.setattr(Pipeline, "execute", execute)
            asset.run(keyed(a=1, b=1))
            return execute(pipeline, *given, **options)

        patch.setattr(Pipeline, "execute", late)
        with pytest.raises(CommitConflictError, match="rows") as caught:
            asset.run(keyed(a=2, c=2))
    assert caught.value.retryable
    assert asset.values("k", "v") == [("a", 1), ("b", 1)]
    asset.run(keyed(a=2, c=2))
    assert asset.values("k", "v") == [("a", 2), ("c", 2)]


def test_runs_of_two_assets_do_not_disturb_each_other(backend: RedisBackend) -> None:
    one, other = backend.asset(key=("one",)), backend.asset(key=("other",))
    with pytest.MonkeyPatch.context() as patch:
        execute = Pipeline.execute

        def late(pipeline: Pipeline, *given: Any, **options: Any) -> Any:
            patch.setattr(Pipeline, "execute", execute)
            other.run(keyed(a=1))
            return execute(pipeline, *given, **options)

        patch.setattr(Pipeline, "execute", late)
        one.run(keyed(b=2))
    assert one.values("k", "v") == [("b", 2)]
    assert other.values("k", "v") == [("a", 1)]


@pytest.mark.parametrize("partitioned", [False, True], ids=["whole", "by day"])
def test_an_input_is_never_half_a_batch(backend: RedisBackend, *, partitioned: bool) -> None:
    """Between any two commands of an input another run replaces all rows; by day, one moves to a new day."""
    asset = backend.asset().declared(lost_keys="delete")
    batches = [keyed(a=1, b=1), keyed(b=2, c=2)]
    if partitioned:
        asset = asset.with_(metadata=BY_DAY, definition=DAYS)
        batches = [on(FIRST, a=1, b=1), pl.concat([on(FIRST, b=2), on(SECOND, a=2)])]

    def run(batch: pl.DataFrame) -> None:
        if partitioned and batch is batches[1]:
            asset.run_range(batch, FIRST, SECOND)
        else:
            asset.run(batch, FIRST if partitioned else None)

    number, found = 0, []
    while True:
        number += 1
        with backend.client() as client:
            client.flushdb()
        run(batches[0])
        with pytest.MonkeyPatch.context() as patch:
            counter = Counter(number, lambda: run(batches[1]))
            backend.interrupt(patch, counter)
            loaded = asset.load(whole=True, allow_missing_partitions=True)
        if counter.left > 0:
            break
        found.append(sorted(loaded.select("k", "v").rows()))
        assert found[-1] in [sorted(batch.select("k", "v").rows()) for batch in batches], number
    assert len(found) > 2


def test_an_mget_sees_one_batch(backend: RedisBackend) -> None:
    """Readers who know the keys, as an application does."""
    asset = backend.asset()
    asset.run(keyed(**{f"k{n}": 0 for n in range(100)}))
    names = [f"{{rows}}:row:{key}" for key in asset.ids()]
    done, seen = threading.Event(), set()

    def read() -> None:
        with backend.client() as client:
            while not done.is_set():
                seen.add(len({json.loads(row)["v"] for row in client.mget(names)}))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, 10):
            asset.run(keyed(**{f"k{n}": number for n in range(100)}))
    finally:
        done.set()
        reader.join()
    assert seen == {1}


# What dies in the middle ----------------------------------------------------------------------------------------------


def test_a_run_that_is_killed_while_it_sends_changes_nothing(backend: RedisBackend) -> None:
    asset = backend.asset().declared(lost_keys="keep")
    asset.run(keyed(a=1, b=1))
    before = backend.contents()
    killed(backend, "die_while_sending")
    assert backend.contents() == before
    asset.run(keyed(a=9, c=9))
    assert asset.values("k", "v") == [("a", 9), ("b", 1), ("c", 9)]


@pytest.mark.parametrize("last", [True, False], ids=["before the transaction", "at the beginning"])
def test_a_server_that_stops_in_the_middle(backend: RedisBackend, redis_server: Server, *, last: bool) -> None:
    asset = backend.asset()
    asset.run(keyed(a=1, b=1))
    keys = asset.ids()
    number = TestRedis.statements(backend) if last else 2
    with pytest.MonkeyPatch.context() as patch:
        backend.interrupt(patch, Counter(number, redis_server.stop))
        with pytest.raises((redis.ConnectionError, CommitConflictError)):
            asset.run(keyed(a=2, b=2))
    with pytest.raises(redis.ConnectionError):
        asset.run(keyed(a=2, b=2))
    redis_server.start()
    asset.run(keyed(a=2, b=2))
    assert asset.values("k", "v") == [("a", 2), ("b", 2)]
    assert asset.ids() == keys
    assert_same_rows(asset.load().select("k", "v"), keyed(a=2, b=2))


def test_what_the_server_refuses_is_not_written_in_part(backend: RedisBackend) -> None:
    asset = backend.asset()
    asset.run(keyed(a=1))
    with backend.client() as client:
        client.config_set("maxmemory", 1)
        try:
            with refused(backend, redis.ResponseError, "memory"):
                asset.run(keyed(a=2, b=2))
        finally:
            client.config_set("maxmemory", 0)
    asset.run(keyed(a=2, b=2))
    assert asset.values("k", "v") == [("a", 2), ("b", 2)]


def test_names_of_others_are_left_alone(backend: RedisBackend) -> None:
    with backend.client() as client:
        client.set("{rows}:partition:", "of another")
    with refused(backend, Exception):
        backend.asset().run(keyed(a=1))


def test_neither_metadata_nor_errors_tell_the_password(backend: RedisBackend) -> None:
    url = backend.store.url.replace("redis://", "redis://default:secret@")
    told = RedisBackend(RedisStore(url=url)).asset().run(keyed(a=1))
    assert "secret" not in str(told)
    wrong = url.replace("default", "nobody")
    with pytest.raises(redis.AuthenticationError) as caught:
        RedisBackend(RedisStore(url=wrong)).asset().run(keyed(a=1))
    assert "secret" not in str(caught.value)
