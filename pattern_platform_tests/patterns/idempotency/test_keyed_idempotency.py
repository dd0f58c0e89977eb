"""Keyed Idempotency in DuckDB: the scenarios of every store, then what is DuckDB's own, and what needs no server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg
import duckdb
import polars as pl
import pytest

from pattern_platform.errors import (
    MissingDriverError,
    UnsafeAssetKeyError,
    UnsupportedStorageError,
    UnsupportedTableError,
)
from pattern_platform.patterns.idempotency.keyed_idempotency import key_of
from pattern_platform.warehouse.keyed_store import DuckDBStore
from pattern_platform.warehouse.postgres_store import PostgresStore
from pattern_platform.warehouse.redis_store import RedisStore
from pattern_platform_tests.patterns.idempotency.keyed import (
    Backend,
    Counter,
    Scenarios,
    keyed,
    refused,
)
from pattern_platform_tests.patterns.idempotency.warehouse_tables import CONFIG

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STATEMENTS = {"begin", "commit", "execute", "register", "table"}


class Watched:
    """A connection whose statements are counted: its class cannot be patched."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, counter: Counter) -> None:
        self.connection, self.counter = connection, counter

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.connection, name)
        return self.counter.around(found) if name in STATEMENTS else found


class DuckDBBackend(Backend):
    store_type: ClassVar[Any] = DuckDBStore

    def connected(self) -> duckdb.DuckDBPyConnection:
        return duckdb.connect(self.store.database, config=CONFIG)

    def values(self, key: Sequence[str], *columns: str) -> list[tuple[Any, ...]]:
        *_, schema, name = (part.replace('"', '""') for part in ("main", *key))
        names = ", ".join('"{}"'.format(column.replace('"', '""')) for column in columns)
        with self.connected() as connection:
            (catalog,) = connection.execute("SELECT current_database()").fetchall()[0]
            return sorted(
                connection.execute(f'FROM "{catalog}"."{schema}"."{name}" SELECT {names}').fetchall(), key=repr
            )

    def contents(self) -> Mapping[str, Any]:
        with self.connected() as connection:
            found = connection.execute("SELECT schema, name, column_names FROM (SHOW ALL TABLES)").fetchall()
            quoted = {'"{}"."{}"'.format(*(part.replace('"', '""') for part in row[:2])): row[2] for row in found}
            return {
                name: [tuple(columns), *sorted(connection.execute(f"FROM {name}").fetchall(), key=repr)]
                for name, columns in quoted.items()
            }

    def interrupt(self, patch: pytest.MonkeyPatch, counter: Counter) -> None:
        connect = duckdb.connect
        patch.setattr(duckdb, "connect", lambda *given, **options: Watched(connect(*given, **options), counter))


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return DuckDBBackend(DuckDBStore(database=str(tmp_path / "store.duckdb")))


class TestDuckDB(Scenarios):
    """The scenarios in DuckDB."""

    def test_numbers_that_are_none_come_back(self, backend: Backend) -> None:
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

    def test_a_text_with_a_zero_comes_back(self, backend: Backend) -> None:
        asset = backend.asset()
        asset.run(pl.DataFrame({"k": ["a"], "v": ["x\0y"]}))
        assert asset.load()["v"].to_list() == ["x\0y"]

    def test_tables_of_others_are_refused(self, backend: DuckDBBackend) -> None:
        with backend.connected() as connection:
            connection.execute("CREATE TABLE rows AS SELECT 'a' AS k, 1 AS v")
            connection.execute("CREATE VIEW looks AS SELECT 'a' AS k, 1 AS v")
        for name in ("rows", "looks", "Rows"):
            asset = backend.asset(key=(name,))
            for act in (lambda a=asset: a.run(keyed(a=1)), lambda a=asset: a.load()):
                with refused(backend, UnsupportedTableError, f"{name}__loads"):
                    act()

    def test_two_assets_of_one_table_are_refused(self, backend: Backend) -> None:
        backend.asset(key=("a", "s", "Rows")).run(keyed(a=1))
        for key in (("b", "s", "Rows"), ("s", "rows"), ("S", "rows")):
            with refused(backend, UnsupportedTableError, "a/s/Rows"):
                backend.asset(key=key).run(keyed(b=1))

    def test_a_reader_makes_no_file(self, backend: Backend, tmp_path: Path) -> None:
        assert backend.asset().load(allow_missing_partitions=True).is_empty()
        assert not list(tmp_path.iterdir())

    def test_a_key_without_a_name_and_a_database_that_is_no_file_are_refused(self, backend: Backend) -> None:
        with pytest.raises(UnsafeAssetKeyError, match="empty"):
            backend.asset(key=("",)).run(keyed(a=1))
        for database in ("", ":memory:", "md:rows"):
            asset = DuckDBBackend(DuckDBStore(database=database)).asset()
            with pytest.raises(UnsupportedStorageError):
                asset.run(keyed(a=1))
            with pytest.raises(UnsupportedStorageError):
                asset.manager.refuse_spec(dg.AssetSpec("rows", metadata=asset.metadata))


def test_quotes_and_cases_in_the_names_of_tables(backend: Backend) -> None:
    for key in (('A "b"', 'C; "d" É'), ("select", "Order")):
        for _ in range(2):
            backend.asset(key=key).run(keyed(a=1))
        assert backend.values(key, "k", "v") == [("a", 1)]


# Without a store ------------------------------------------------------------------------------------------------------


def test_known_keys_stay_as_they_are() -> None:
    """Keys as ``printf '[...]' | sha256sum`` makes them: whoever changes the formula changes every stored row."""
    known = {
        ("u1", "2024-05-06T10:01:00.000000Z"): "462433d0f72237115b057da1508188354e46867d0a8d3d748ad4281cdeb0c512",
        ("é\u2028", '"\\/', ""): "d4874ed03fb168fde6feaa8c84039f562f7dad502dc92f361fbed7a8e53882ef",
    }
    for attributes, key in known.items():
        assert key_of(attributes) == key


DRIVERS = {
    "redis": ("redis", RedisStore(url="redis://user:secret@127.0.0.1:1/0")),
    "postgres": ("adbc_driver_postgresql", PostgresStore(url="postgresql://user:secret@127.0.0.1:1/rows")),
}


@pytest.mark.parametrize("name", DRIVERS)
def test_a_missing_driver_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, store = DRIVERS[name]
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    asset = DuckDBBackend(store).asset()
    for act in (lambda: asset.run(keyed(a=1)), asset.load):
        with pytest.raises(MissingDriverError, match=rf"pattern-platform\[{name}\]") as caught:
            act()
        assert "secret" not in str(caught.value)
    asset.manager.refuse_spec(dg.AssetSpec("rows", metadata=asset.metadata))


URIS = [
    (RedisStore, "redis://user:secret@host:6380/3", "redis://host:6380/3"),
    (RedisStore, "redis://:se%2Fcret@host/1", "redis://host/1"),
    (RedisStore, "rediss://host?password=secret&username=user", "rediss://host"),
    (PostgresStore, "postgresql://user:secret@host:5433/rows", "postgresql://host:5433/rows"),
    (PostgresStore, "postgresql://host/rows?password=secret&user=user", "postgresql://host/rows"),
    (PostgresStore, "postgresql://user:secret@one:1,two:2/rows", "postgresql://one:1,two:2/rows"),
]


@pytest.mark.parametrize(("store", "url", "uri"), URIS)
def test_the_address_that_is_told_has_no_secret(store: Any, url: str, uri: str) -> None:
    told = store(url=url).uri
    assert "secret" not in told
    assert "user" not in told
    assert told == uri
