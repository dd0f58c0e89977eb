"""A subject leaves the stores that servers keep, of every asset, and the rows of others stay as they were."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.errors import UnreachableStoreError
from pattern_platform.lake.subject import Subject
from pattern_platform.operations.erasure.erasure import Erasure
from pattern_platform.warehouse.keyed_store import PARTITION, ServedStore
from pattern_platform.warehouse.postgres_store import PostgresStore
from pattern_platform.warehouse.redis_store import RedisStore
from pattern_platform_tests.services.servers import execute, redis_client

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pattern_platform_tests.services.servers import Server

pytestmark = pytest.mark.xdist_group("erasure")
KEY, OTHER = "user-000017", "user-000018"
SUBJECT = Subject(KEY, ("user_id",))
ASSETS = {
    "sessions": ("sessions",),
    "shop/carts [old]": ("shop", "carts [old]"),
    "no longer/defined": ("no longer", "defined"),
}
FIRST, SECOND = "2024-05-06", "2024-05-07"


@pytest.fixture(params=["redis_url", "postgres_uri"])
def store(request: pytest.FixtureRequest) -> ServedStore:
    url = request.getfixturevalue(request.param)
    return RedisStore(url=url) if url.startswith("redis") else PostgresStore(url=url)


def rows(partition: str, *users: str | None) -> pl.DataFrame:
    day = dt.date.fromisoformat(partition)
    return pl.DataFrame(
        [(f"{partition}-{n}", user, ["A", "B"], day, partition) for n, user in enumerate(users)],
        schema={
            "session_id": pl.String,
            "user_id": pl.String,
            "pages": pl.List(pl.String),
            "day": pl.Date,
            PARTITION: pl.String,
        },
        orient="row",
    )


def write(store: ServedStore, key: Sequence[str], frame: pl.DataFrame, partition: str) -> None:
    with store.opened(dg.AssetKey(list(key)), "session_id", writing=True) as table:
        table.write(frame, delete=[], counted={partition: frame.height}, run_id="run")


def read(store: ServedStore, key: Sequence[str], *partitions: str) -> list[tuple[Any, ...]]:
    with store.opened(dg.AssetKey(list(key)), "session_id", writing=False) as table:
        return sorted(table.read(partitions or None).rows(), key=repr)


@pytest.fixture
def filled(store: ServedStore) -> ServedStore:
    for key in ASSETS.values():
        write(store, key, rows(FIRST, KEY, OTHER, None, KEY), FIRST)
        write(store, key, rows(SECOND, OTHER, KEY), SECOND)
    write(store, ("nobody",), rows(FIRST, OTHER), FIRST)
    return store


def test_the_rows_of_a_subject_are_found_erased_and_gone(filled: ServedStore) -> None:
    before = {key: read(filled, key) for key in (*ASSETS.values(), ("nobody",))}
    assert filled.find(SUBJECT) == dict.fromkeys(ASSETS, 3)
    assert sorted(filled.left(SUBJECT)) == sorted(ASSETS)
    assert {key: read(filled, key) for key in before} == before
    assert filled.erase(SUBJECT) == dict.fromkeys(ASSETS, 3)
    assert filled.find(SUBJECT) == filled.erase(SUBJECT) == {}
    assert filled.left(SUBJECT) == []
    for key, held in before.items():
        assert read(filled, key) == [row for row in held if row[1] != KEY]


def test_a_partition_goes_on_without_them(filled: ServedStore) -> None:
    filled.erase(SUBJECT)
    with filled.opened(dg.AssetKey(["sessions"]), "session_id", writing=True) as table:
        assert table.keys([FIRST]) == {f"{FIRST}-1", f"{FIRST}-2"}
        assert sorted(table.partitions) == [FIRST, SECOND]
    write(filled, ("sessions",), rows(FIRST, None, OTHER, OTHER), FIRST)
    assert [row[1] for row in read(filled, ("sessions",), FIRST)] == [None, OTHER, OTHER]


def test_the_record_of_the_partitions_counts_what_is_left(filled: ServedStore) -> None:
    filled.erase(SUBJECT)
    if isinstance(filled, PostgresStore):
        counts = {str(key): n for key, n in execute(filled.url, "SELECT partition, rows FROM sessions__loads")}
    else:
        with redis_client(filled.url) as client:
            loads = client.hgetall("{sessions}:loads")
        counts = {key: json.loads(load)["rows"] for key, load in loads.items()}
    assert counts == {FIRST: 2, SECOND: 1}


def test_what_no_column_of_a_listed_name_holds_is_left_and_told(filled: ServedStore) -> None:
    """The negative control."""
    named = rows(FIRST, OTHER).with_columns(pages=pl.lit([f"by {KEY}"]))
    write(filled, ("nobody",), named, FIRST)
    filled.erase(SUBJECT)
    assert filled.left(SUBJECT) == ["nobody"]
    assert Subject(KEY, ("pages",)).in_row(named.schema) is not None
    assert filled.find(Subject(f"by {KEY}", ("pages",))) == {"nobody": 1}


def test_a_row_that_is_deleted_is_in_no_page_of_postgres(postgres_uri: str, postgres_server: Server) -> None:
    store = PostgresStore(url=postgres_uri)
    write(store, ("sessions",), rows(FIRST, KEY, OTHER), FIRST)
    ((path,),) = execute(postgres_uri, "SELECT pg_relation_filepath('sessions')")
    store.erase(SUBJECT)
    execute(postgres_uri, "CHECKPOINT")
    ((after,),) = execute(postgres_uri, "SELECT pg_relation_filepath('sessions')")
    assert after != path  # written anew
    (folder,) = {found.parents[len(str(after).split("/")) - 1] for found in postgres_server.folder.rglob(str(after))}
    assert KEY.encode() not in (folder / str(after)).read_bytes()
    assert OTHER.encode() in (folder / str(after)).read_bytes()


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:1/0",
        "redis://nowhere.invalid:6379",
        "redis://127.0.0.1:port/0",
        "postgresql://127.0.0.1:1/db",
        "postgresql://me:secret@nowhere.invalid/db",
    ],
)
def test_a_server_that_does_not_answer_is_refused_without_its_password(url: str) -> None:
    store = RedisStore(url=url) if url.startswith("redis") else PostgresStore(url=url)
    for refused in (store.find, store.erase, store.left):
        with pytest.raises(UnreachableStoreError, match="see that the server runs") as error:
            refused(SUBJECT)
        assert "secret" not in str(error.value)


def test_a_password_that_is_wrong_is_refused(redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis://somebody:wrong@")
    with pytest.raises(UnreachableStoreError, match="AuthenticationError") as error:
        RedisStore(url=url).find(SUBJECT)
    assert "wrong" not in str(error.value)


def test_the_command_erases_from_the_store_that_the_settings_name(filled: ServedStore, tmp_path: Path) -> None:
    (tmp_path / "landing").mkdir()
    url: str = filled.url
    environment = {
        "PATTERN_PLATFORM_DATA": str(tmp_path),
        "PATTERN_PLATFORM_NAMESPACE": "main",
        "PATTERN_PLATFORM_SESSIONS_URL": url,
        "COLUMNS": "200",
    }
    command = ["erase", "--subject", KEY]
    shown = CliRunner().invoke(app, [*command, "--dry-run"], env=environment)
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("store") == len(ASSETS)
    assert filled.find(SUBJECT) == dict.fromkeys(ASSETS, 3)
    assert CliRunner().invoke(app, [*command, "--yes"], env=environment).exit_code == 0
    assert filled.left(SUBJECT) == []
    (receipt,) = (tmp_path / "erasures").glob("2*.json")
    told = json.loads(receipt.read_text())
    assert told["stores"] == [filled.uri]
    assert {row["place"] for row in told["erased"]} == {f"{filled.uri}: {asset}" for asset in ASSETS}


def test_what_the_store_still_names_is_left(filled: ServedStore, tmp_path: Path) -> None:
    """The negative control."""
    write(filled, ("nobody",), rows(FIRST, OTHER).with_columns(pages=pl.lit([KEY])), FIRST)
    receipt = Erasure(SUBJECT, tmp_path, tmp_path, [filled]).run("case 1")
    assert receipt.left == (f"{filled.uri}: nobody",)


def test_a_store_where_nothing_was_written_has_nothing(store: ServedStore) -> None:
    assert store.find(SUBJECT) == store.erase(SUBJECT) == {}
    assert store.left(SUBJECT) == []
