"""Object stores that cannot be reached, that do not keep their word, or that fail in the middle of a write."""

from __future__ import annotations

import traceback
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest

from pattern_platform.errors import StorageAccessError, UnknownCommitError, UnsupportedStorageError
from pattern_platform.lake import io_manager as io_manager_module
from pattern_platform.lake.maintenance import orphans
from pattern_platform_tests.lake.tables import Table, shared_instance
from pattern_platform_tests.patterns.idempotency.merging import held, keyed, merger
from pattern_platform_tests.services.proxy import Fault, Proxy, Request
from pattern_platform_tests.services.servers import free_port
from pattern_platform_tests.services.stores import READER, SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pattern_platform_tests.services.servers import Server
    from pattern_platform_tests.services.stores import ObjectStore

pytestmark = pytest.mark.xdist_group("stores")
PARTS = dg.StaticPartitionsDefinition(["a", "b", "c"])
NO_TIME = timedelta(0)


def table_of(store: ObjectStore, **changes: Any) -> Table:
    return Table(store.path, PARTS, options={**store.arguments, **changes})


def rows(key: str, *n: int) -> pl.DataFrame:
    return pl.DataFrame({"moment": [key] * len(n), "n": n}, schema_overrides={"n": pl.Int64})


def content(store: ObjectStore, version: int | None = None) -> list[tuple[Any, ...]]:
    return sorted(pl.DataFrame(store.table("table", version=version).to_pyarrow_table()).select("moment", "n").rows())


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[Proxy]:
    with Proxy(object_store.endpoint) as proxy:
        yield proxy


@pytest.fixture
def through(object_store: ObjectStore, proxy: Proxy) -> ObjectStore:
    """The same folder, by way of the proxy, with a table of one version of rows."""
    table_of(object_store).write(rows("a", 1), "a")
    return replace(object_store, endpoint=proxy.url)


# A store that ignores If-None-Match ---------------------------------------------------------------------------------


def unconditional(_: Request) -> Fault:
    return Fault.UNCONDITIONAL


def test_a_store_that_overwrites_what_it_was_asked_to_leave_is_refused(moto_store: ObjectStore) -> None:
    with Proxy(moto_store.endpoint, unconditional) as proxy:
        table = table_of(replace(moto_store, endpoint=proxy.url))
        with pytest.raises(UnsupportedStorageError) as caught:
            table.write(rows("a", 1), "a")
        assert "ignores If-None-Match" in str(caught.value)
        assert "use a store that keeps conditional puts, such as" in caught.value.mend
        assert not [r for r in proxy.requests if r.method == "PUT" and "/_conditional-put-" not in r.path]
    assert moto_store.path.objects() == {}


def _race(store: ObjectStore, fault: Fault | None) -> list[int]:
    """Two runs commit the same version: the second does while the commit of the first is on its way."""
    table_of(store).write(rows("a", 0), "a")
    made: list[int] = []

    def meanwhile(request: Request) -> Fault | None:
        if request.is_commit and not made:
            made.append(table_of(store).write(rows("b", 2), "b").version)
            shared_instance().dispose()  # that of this thread
        return fault

    with Proxy(store.endpoint, meanwhile) as proxy:
        made.append(table_of(replace(store, endpoint=proxy.url)).write(rows("c", 3), "c").version)
    return made


def test_control_two_runs_lose_a_commit_there(moto_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io_manager_module, "refuse_unconditional", lambda _: None)
    assert _race(moto_store, Fault.UNCONDITIONAL) == [2, 2]
    assert content(moto_store) == [("a", 0), ("c", 3)]


@pytest.mark.parametrize("store", ["moto_store", "object_store"])
def test_two_runs_lose_nothing_elsewhere(store: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(store)
    assert _race(found, None) == [2, 3]
    assert content(found) == [("a", 0), ("b", 2), ("c", 3)]


# What cannot be reached ---------------------------------------------------------------------------------------------

REACHED = "see that the bucket is there, that storage names its endpoint and region"
WRONG: dict[str, tuple[Callable[[ObjectStore], Any], type[Exception], list[str]]] = {
    "secret": (lambda s: replace(s, secret="wrong" + SECRET), StorageAccessError, [REACHED, "SignatureDoesNotMatch"]),
    "key": (lambda s: replace(s, key="nobody"), StorageAccessError, [REACHED, "InvalidAccessKeyId"]),
    "rights": (lambda s: replace(s, key=READER), StorageAccessError, [REACHED, "AccessDenied"]),
    "bucket": (lambda s: replace(s, root="s3://nothing/lake"), StorageAccessError, [REACHED, "NoSuchBucket"]),
    "server": (
        lambda s: replace(s, endpoint=f"http://127.0.0.1:{free_port()}"),
        StorageAccessError,
        [REACHED, "after 10 retries"],
    ),
    "scheme": (
        lambda s: replace(s, endpoint=s.endpoint.replace("http", "https")),
        StorageAccessError,
        [REACHED, "error sending request"],
    ),
}


def _told(table: Table, run_id: str) -> str:
    """All that the log of a run says."""
    return "\n".join(str(entry) for entry in table.instance.all_logs(run_id))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_store_that_cannot_be_written_to_is_named_and_keeps_its_secret(object_store: ObjectStore, wrong: str) -> None:
    spoil, error, said = WRONG[wrong]
    spoiled = spoil(object_store)
    table = table_of(spoiled)
    runs: list[str] = []

    def asset(context: dg.AssetExecutionContext) -> pl.DataFrame:
        runs.append(context.run.run_id)
        return rows("a", 1)

    with pytest.raises(error) as caught:
        table.write(asset, "a")
    text = "".join(traceback.format_exception(caught.value))
    assert [part for part in [*said, spoiled.root] if part not in str(caught.value)] == []
    for secret in (SECRET, spoiled.secret):
        assert secret not in text
        assert secret not in _told(table, runs[0])
    assert "Debug source" not in str(caught.value)
    assert object_store.path.objects() == {}


def test_http_that_was_not_allowed_is_refused(object_store: ObjectStore) -> None:
    table = table_of(object_store, client_options=None)
    with pytest.raises(StorageAccessError, match="client_options with allow_http"):
        table.write(rows("a", 1), "a")


ROOTS = [
    ({"root_uri": "/tmp/lake"}, "give a folder without storage"),  # noqa: S108 - never made
    ({"root_uri": "lake"}, "give a folder without storage"),
    ({"storage": None}, "or a URI such as s3://bucket/folder with S3Config"),
    ({"root_uri": "s3://lake/a?versionId=1"}, "or a URI such as s3://bucket/folder"),
    ({"root_uri": "s3://lake/a#b"}, "or a URI such as s3://bucket/folder"),
    ({"root_uri": "s3://lake/a%20b"}, "choose a folder without '%'"),
    ({"root_uri": "s3://lake/a\\b"}, "choose a folder without '%'"),
]


@pytest.mark.parametrize(("wrong", "mend"), ROOTS)
def test_a_root_and_a_storage_that_do_not_go_together_are_refused(
    object_store: ObjectStore, wrong: dict[str, Any], mend: str
) -> None:
    options = {name: value for name, value in {**object_store.arguments, **wrong}.items() if value is not None}
    with pytest.raises(UnsupportedStorageError) as caught:
        Table(object_store.path, PARTS, options=options).write(rows("a", 1), "a")
    assert mend in caught.value.mend
    assert SECRET not in str(caught.value)
    assert object_store.path.objects() == {}


def test_a_key_that_may_read_alone_reads(object_store: ObjectStore) -> None:
    table_of(object_store).write(rows("a", 1), "a")
    reading = table_of(replace(object_store, key=READER))
    assert reading.load("a", definition=PARTS).rows() == [("a", 1)]


@pytest.mark.parametrize("wrong", ["secret", "server"])
def test_an_input_that_cannot_be_read_is_no_missing_table(object_store: ObjectStore, wrong: str) -> None:
    table_of(object_store).write(rows("a", 1), "a")
    spoiled = WRONG[wrong][0](object_store)
    with pytest.raises(OSError, match=r"S3 error|403 Forbidden") as caught:
        table_of(spoiled).load("a", definition=PARTS, allow_missing_partitions=True)
    text = "".join(traceback.format_exception(caught.value))
    assert "damaged" not in text
    assert spoiled.secret not in text


def test_no_secret_is_shown(object_store: ObjectStore) -> None:
    table = table_of(object_store)
    written = table.write(rows("a", 1), "a")
    path = table.manager.table_path(dg.AssetKey("table"))
    shown = [repr(path), str(path), f"{path!r}", repr(path / "a"), repr({path: path.parent}), repr(written.metadata)]
    assert SECRET not in "".join(shown)
    (record,) = shared_instance().get_run_records(limit=1)
    assert SECRET not in _told(table, record.dagster_run.run_id)
    assert SECRET not in str(record.dagster_run.run_config)


# A write that is cut off --------------------------------------------------------------------------------------------


def commits(fault: Fault, times: int = 10**6) -> Callable[[Request], Fault | None]:
    """The first commits meet a fault."""
    left = [times]

    def of(request: Request) -> Fault | None:
        if not request.is_commit or not left[0]:
            return None
        left[0] -= 1
        return fault

    return of


@pytest.mark.parametrize("times", [1, 10**6], ids=["once", "always"])
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.BROKEN])
def test_a_commit_whose_answer_is_lost_is_acknowledged_once(
    through: ObjectStore, proxy: Proxy, fault: Fault, times: int
) -> None:
    """Whether a try of the store's client, or the platform itself, finds that the commit is there."""
    proxy.fault = commits(fault, times)
    assert table_of(through).write(rows("b", 2), "b").version == 2
    proxy.fault = lambda _: None
    assert content(through) == [("a", 1), ("b", 2)]
    assert through.table("table").version() == 2
    assert orphans(through.path / "table", older_than=NO_TIME).is_empty()


def test_a_merge_whose_answer_is_lost_is_acknowledged_once(object_store: ObjectStore, proxy: Proxy) -> None:
    store = replace(object_store, endpoint=proxy.url)
    table = merger(store.path, options=store.arguments)
    table.write(keyed(a=1))
    proxy.fault = commits(Fault.LOST)
    assert table.write(keyed(a=2, b=2)).version == 2
    proxy.fault = lambda _: None
    assert held(table) == {"a": 2, "b": 2}


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.CUT])
def test_a_store_that_is_away_for_a_moment_is_asked_again(
    through: ObjectStore, proxy: Proxy, fault: Fault, times: int
) -> None:
    proxy.fault = commits(fault, times)
    assert table_of(through).write(rows("b", 2), "b").version == 2
    assert content(through) == [("a", 1), ("b", 2)]


def test_a_commit_that_comes_true_later_has_its_files(through: ObjectStore, proxy: Proxy) -> None:
    """Nobody can say at that time that it will not: the run fails, and its files must stay."""
    proxy.fault = commits(Fault.LATE)
    with pytest.raises(UnknownCommitError, match="run again, when the storage is back"):
        table_of(through).write(rows("b", 2), "b")
    assert content(through) == [("a", 1)]
    assert orphans(through.path / "table", older_than=NO_TIME).height == 1
    statuses = proxy.deliver()
    assert statuses[0] == 200
    assert set(statuses[1:]) == {412}
    proxy.fault = lambda _: None
    assert content(through) == [("a", 1), ("b", 2)]
    assert table_of(through).write(rows("b", 3), "b").version == 3
    assert content(through) == [("a", 1), ("b", 3)]


def test_a_checkpoint_that_fails_does_not_fail_the_run(object_store: ObjectStore, proxy: Proxy) -> None:
    through = replace(object_store, endpoint=proxy.url)
    often = {"table_properties": {"delta.checkpointInterval": "1"}}
    table_of(object_store, **often).write(rows("a", 1), "a")
    seen: list[str] = []

    def after_the_commit(request: Request) -> Fault | None:
        seen.extend([request.path] if request.is_commit or seen else [])
        return Fault.CUT if len(seen) > 1 and ".checkpoint." in request.path else None

    proxy.fault = after_the_commit
    table = table_of(through, **often)
    version = table.write(rows("b", 2), "b").version
    assert len(seen) > 1
    proxy.fault = lambda _: None
    assert content(through) == [("a", 1), ("b", 2)]
    (record,) = shared_instance().get_run_records(limit=1)
    assert "no checkpoint of table" in _told(table, record.dagster_run.run_id)
    assert not (through.path / f"table/_delta_log/{version:020}.checkpoint.parquet").exists()


def test_a_store_that_dies_between_the_files_and_the_commit(through: ObjectStore, proxy: Proxy) -> None:
    gone: list[str] = []

    def dies(request: Request) -> Fault | None:
        if gone:
            return Fault.CUT
        gone.extend([request.name] if request.method == "PUT" and request.name.endswith(".parquet") else [])
        return None

    proxy.fault = dies
    with pytest.raises(OSError, match="Error performing"):
        table_of(through).write(rows("b", 2), "b")
    proxy.fault = lambda _: None
    assert orphans(through.path / "table", older_than=NO_TIME)["path"].to_list() == gone
    assert content(through) == [("a", 1)]
    assert table_of(through).write(rows("b", 3), "b").version == 2
    assert content(through) == [("a", 1), ("b", 3)]


def test_a_server_that_is_killed_when_it_is_asked_to_commit(
    through: ObjectStore, proxy: Proxy, seaweed_server: Server
) -> None:
    def kill(request: Request) -> Fault | None:
        if request.is_commit:
            seaweed_server.stop()
        return None

    proxy.fault = kill
    with pytest.raises(UnknownCommitError, match="run again"):
        table_of(through).write(rows("b", 2), "b")
    proxy.fault = lambda _: None
    seaweed_server.start()
    assert content(through) == [("a", 1)]
    assert orphans(through.path / "table", older_than=NO_TIME).height == 1
    assert table_of(through).write(rows("b", 3), "b").version == 2
    assert content(through) == [("a", 1), ("b", 3)]
