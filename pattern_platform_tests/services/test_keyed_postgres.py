"""Keyed Idempotency in PostgreSQL: the scenarios of every store, then what is PostgreSQL's own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg
import polars as pl
import pytest
from adbc_driver_manager.dbapi import Connection, Cursor
from adbc_driver_postgresql import dbapi

from pattern_platform.errors import PatternPlatformError, UnsupportedTableError
from pattern_platform.warehouse.postgres_store import PostgresStore
from pattern_platform_tests.lake.tables import shared_instance
from pattern_platform_tests.patterns.idempotency.keyed import (
    Backend,
    Counter,
    Scenarios,
    keyed,
    refused,
)
from pattern_platform_tests.services.servers import execute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pattern_platform_tests.services.servers import Server

pytestmark = pytest.mark.xdist_group("postgres")

WAITING = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


class PostgresBackend(Backend):
    store_type: ClassVar[Any] = PostgresStore

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        return execute(self.store.url, *statements)

    def values(self, key: Sequence[str], *columns: str) -> list[tuple[Any, ...]]:
        *_, schema, name = ("public", *key)
        names = ", ".join(map(quoted, columns))
        return sorted(self.execute(f"SELECT {names} FROM {quoted(schema)}.{quoted(name)}"), key=repr)  # noqa: S608

    def contents(self) -> Mapping[str, Any]:
        others = "NOT IN ('pg_catalog', 'information_schema')"
        columns = (
            "SELECT table_schema, table_name, column_name, data_type, ordinal_position "  # noqa: S608
            f"FROM information_schema.columns WHERE table_schema {others}"
        )
        schemas = f"SELECT nspname FROM pg_namespace WHERE nspname {others} AND nspname NOT LIKE 'pg_%'"  # noqa: S608
        with dbapi.connect(self.store.url) as connection, connection.cursor() as cursor:

            def rows(statement: str) -> list[Any]:
                cursor.execute(statement)
                return sorted(cursor.fetchall(), key=repr)

            found = {"": rows(columns), "schemas": rows(schemas)}
            tables = {f"{quoted(schema)}.{quoted(name)}" for schema, name, *_ in found[""]}
            return found | {name: rows(f"SELECT t::text AS row FROM {name} t") for name in tables}  # noqa: S608

    def interrupt(self, patch: pytest.MonkeyPatch, counter: Counter) -> None:
        for owner, name in ((Cursor, "execute"), (Cursor, "adbc_ingest"), (Connection, "commit")):
            patch.setattr(owner, name, counter.around(getattr(owner, name)))


@pytest.fixture
def backend(postgres_uri: str) -> Backend:
    return PostgresBackend(PostgresStore(url=postgres_uri))


class TestPostgres(Scenarios):
    """The scenarios in PostgreSQL."""


def test_quotes_and_cases_in_the_names_of_tables(backend: Backend) -> None:
    keys = (('A "b"', 'C; "d" É'), ("select", "Order"), ("select", "order"), ("x", "y z", "%s"))
    for key in keys:
        for _ in range(2):
            backend.asset(key=key).run(keyed(a=len(key[-1])))
    for key in keys:
        assert backend.values(key, "k", "v") == [("a", len(key[-1]))]


def test_an_empty_part_of_a_key_is_refused(backend: Backend) -> None:
    for key in (("",), ("", "rows")):
        with refused(backend, PatternPlatformError, "empty"):
            backend.asset(key=key).run(keyed(a=1))


def test_numbers_that_are_none_come_back(backend: Backend) -> None:
    odd = [float("nan"), float("inf"), float("-inf"), None]
    batch = pl.DataFrame(
        {"k": list("abcd"), "v": odd, "w": pl.Series(odd, dtype=pl.Float32), "l": [odd, [], None, [1.0]]}
    )
    asset = backend.asset()
    for _ in range(2):
        asset.run(batch)
        found = asset.load().sort("k").drop("id", "ingestion_time")
        assert str(found.rows()) == str(batch.rows())
        assert found.schema == batch.schema


def test_a_text_with_a_zero_is_refused(backend: Backend) -> None:
    """PostgreSQL has no such text."""
    with refused(backend, PatternPlatformError, "'v'", silent="secret"):
        backend.asset().run(pl.DataFrame({"k": ["a"], "v": ["secret\0"]}))


def test_the_table_has_a_primary_key_and_types_of_its_own(backend: PostgresBackend) -> None:
    backend.asset().run(keyed(a=1).with_columns(l=pl.lit([1.5])))
    columns = backend.execute(
        "SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute "
        "WHERE attrelid = 'rows'::regclass AND attnum > 0"
    )
    assert dict(columns) == {
        "id": "text",
        "k": "text",
        "v": "bigint",
        "l": "double precision[]",
        "ingestion_time": "timestamp with time zone",
        "_partition": "text",
    }
    with pytest.raises(dbapi.IntegrityError):
        backend.execute("INSERT INTO rows SELECT * FROM rows")


def test_tables_of_others_are_refused(backend: PostgresBackend) -> None:
    backend.execute("CREATE TABLE rows AS SELECT 'a' AS k, 1 AS v", "CREATE VIEW looks AS SELECT 1 AS v")
    for name in ("rows", "looks"):
        asset = backend.asset(key=(name,))
        for act in (lambda a=asset: a.run(keyed(a=1)), lambda a=asset: a.load()):
            with refused(backend, UnsupportedTableError, f"{name}__loads"):
                act()
    backend.asset(key=("a", "s", "rows")).run(keyed(a=1))
    with refused(backend, UnsupportedTableError, "a/s/rows"):
        backend.asset(key=("b", "s", "rows")).run(keyed(a=1))


def test_a_reader_makes_nothing(backend: PostgresBackend) -> None:
    before = backend.contents()
    assert backend.asset(key=("new", "rows")).load(allow_missing_partitions=True).is_empty()
    assert backend.contents() == before


# At once --------------------------------------------------------------------------------------------------------------


def test_a_select_sees_one_batch_though_its_keys_change(backend: PostgresBackend) -> None:
    asset = backend.asset().declared(lost_keys="delete")
    batches = [keyed(a=1, b=1), keyed(b=2, c=2)]
    asset.run(batches[0])
    done, seen = threading.Event(), []

    def read() -> None:
        try:
            while not done.is_set():
                seen.append(tuple(asset.values("k", "v")))
                seen.append(tuple(asset.load().select("k", "v").sort("k").rows()))
        finally:
            shared_instance().dispose()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            for number in range(12):
                asset.run(batches[(number + 1) % 2])
        finally:
            done.set()
        reader.result()
    assert seen
    assert set(seen) <= {tuple(batch.rows()) for batch in batches}


@pytest.mark.parametrize("new_column", [False, True], ids=["same columns", "new column"])
def test_an_input_that_has_begun_and_a_run_do_not_stop_each_other(
    backend: PostgresBackend, *, new_column: bool
) -> None:
    """The reader has looked at the registry, and the run waits for it; then the reader goes on to the rows."""
    asset = backend.asset().declared(schema_evolution="add_columns")
    asset.run(keyed(a=1))
    rows = keyed(a=2).with_columns(w=pl.lit(1)) if new_column else keyed(a=2)

    def run() -> None:
        try:
            asset.run(rows)
        finally:
            shared_instance().dispose()

    with ThreadPoolExecutor(1) as pool:
        opened = backend.store.opened(dg.AssetKey("rows"), "id", writing=False)
        with opened as table:
            assert table.partitions == [""]
            begun = pool.submit(run)
            while not begun.done() and not backend.execute(WAITING)[0][0]:
                pass
            assert table.read(None)["v"].to_list() in ([1], [2])
        begun.result()
    assert asset.values("k", "v") == [("a", 2)]


def test_runs_of_one_asset_wait_for_each_other(backend: PostgresBackend) -> None:
    asset = backend.asset()
    asset.run(keyed(a=1, b=1))

    def run() -> None:
        try:
            asset.run(keyed(b=2, a=2))
        finally:
            shared_instance().dispose()

    with ThreadPoolExecutor(1) as pool:
        with backend.store.opened(dg.AssetKey("rows"), "id", writing=True):
            begun = pool.submit(run)
            while not backend.execute(WAITING)[0][0]:
                assert not begun.done()
            backend.asset(key=("other",)).run(keyed(a=1))
            assert not begun.done()
        begun.result()
    assert asset.values("k", "v") == [("a", 2), ("b", 2)]


# What dies in the middle ----------------------------------------------------------------------------------------------


def test_a_server_that_stops_in_the_middle(backend: PostgresBackend, postgres_server: Server) -> None:
    asset = backend.asset()
    asset.run(keyed(a=1, b=1))
    before = backend.contents()
    number = TestPostgres.statements(backend)
    for stop_at in (2, number):
        with pytest.MonkeyPatch.context() as patch:
            backend.interrupt(patch, Counter(stop_at, postgres_server.stop))
            with pytest.raises(dbapi.Error):
                asset.run(keyed(a=2, b=2))
        with pytest.raises(dbapi.OperationalError, match="refused"):
            asset.run(keyed(a=2, b=2))
        postgres_server.start()
        found = backend.contents()
        assert {name: found[name] for name in before if "rows" in name} == {
            name: rows for name, rows in before.items() if "rows" in name
        }
    asset.run(keyed(a=2, b=2))
    assert asset.values("k", "v") == [("a", 2), ("b", 2)]


def test_neither_metadata_nor_errors_tell_the_password(postgres_uri: str) -> None:
    url = postgres_uri.replace("postgres@", "postgres:secret@")
    assert url != postgres_uri
    assert "secret" not in str(PostgresBackend(PostgresStore(url=url)).asset().run(keyed(a=1)))
    for wrong in (url.replace("postgres:secret", "nobody:secret"), url + "_missing"):
        with pytest.raises(dbapi.OperationalError) as caught:
            PostgresBackend(PostgresStore(url=wrong)).asset().run(keyed(a=1))
        assert "secret" not in str(caught.value)
