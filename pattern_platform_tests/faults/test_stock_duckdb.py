"""Negative controls in DuckDB: what dagster-duckdb 0.29.27 does by itself, and the platform at the same moment.

None of these tests says that the behaviour of dagster-duckdb is right. Each fails when a release mends it.
"""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from dagster_duckdb import DuckDBResource
from dagster_duckdb_polars import DuckDBPolarsIOManager
from dagster_duckdb_polars.duckdb_polars_type_handler import DuckDBPolarsTypeHandler

from pattern_platform.patterns.idempotency.data_overwrite_duckdb import WarehouseOverwriteIOManager
from pattern_platform.patterns.idempotency.transactional_writer import TransactionalWriterIOManager
from pattern_platform.warehouse import rows as rows_module
from pattern_platform.warehouse.database import connected
from pattern_platform_tests.faults.bare import child
from pattern_platform_tests.lake.tables import shared_instance

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

DAYS = dg.DailyPartitionsDefinition("2024-10-05", end_date="2024-10-12")
MANAGERS: dict[str, type[Any]] = {
    "stock": DuckDBPolarsIOManager,
    "overwrite": WarehouseOverwriteIOManager,
    "transaction": TransactionalWriterIOManager,
}
TABLES = {"stock": "main.visits", "overwrite": "main.visits", "transaction": "main.visits__rows"}
TWO_DAYS = [(5, 1), (5, 2), (6, 3)]


def run(kind: str, database: Path | str, number: int, *values: int) -> None:
    """Materialize a day with one of the three IO managers."""
    moment = dt.datetime(2024, 10, number, 12)  # noqa: DTZ001 - dagster-duckdb compares without a zone
    rows = pl.DataFrame(
        [(moment, value) for value in values], schema={"moment": pl.Datetime, "v": pl.Int64}, orient="row"
    )

    @dg.asset(
        key=["main", "visits"], partitions_def=DAYS, metadata={"partition_expr": "moment", "tables": {"rows": {}}}
    )
    def visits() -> Any:
        return {"rows": rows} if kind == "transaction" else rows

    resources = {"io_manager": MANAGERS[kind](database=str(database))}
    dg.materialize([visits], partition_key=f"2024-10-{number:02}", instance=shared_instance(), resources=resources)


def rows(kind: str, database: Path) -> list[tuple[int, int]]:
    """What DuckDB finds in the table: the day and the value of each row."""
    with duckdb.connect(str(database), config={"custom_user_agent": "dagster"}) as connection:
        return connection.execute(f"SELECT day(moment), v FROM {TABLES[kind]} ORDER BY ALL").fetchall()  # noqa: S608


def moment_of_insert(kind: str, act: Callable[..., object]) -> tuple[object, str, Callable[..., object]]:
    """What to replace for something to happen between the delete and the insert of an IO manager."""
    return (DuckDBPolarsTypeHandler, "handle_output", act) if kind == "stock" else (rows_module, "insert", act)


KILLED = """
import os, signal, sys
from pattern_platform_tests.faults import test_stock_duckdb as module
kind, database = sys.argv[1:]
setattr(*module.moment_of_insert(kind, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)))
module.run(kind, database, 5, 7, 8)
"""


@pytest.fixture(params=MANAGERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def database(kind: str, tmp_path: Path) -> Path:
    """Two days."""
    database = tmp_path / "blog.duckdb"
    run(kind, database, 5, 1, 2)
    run(kind, database, 6, 3)
    assert rows(kind, database) == TWO_DAYS
    return database


def left(kind: str) -> list[tuple[int, int]]:
    """What a run of the fifth that stops between its delete and its insert leaves."""
    return [(6, 3)] if kind == "stock" else TWO_DAYS


def test_f07_a_kill_between_delete_and_insert(kind: str, database: Path) -> None:
    """Dagster's own IO manager deletes and inserts in two transactions: the partition is lost. Here nothing is."""
    died = child(KILLED, kind, database)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert rows(kind, database) == left(kind)
    run(kind, database, 5, 7, 8)
    assert rows(kind, database) == [(5, 7), (5, 8), (6, 3)]


def test_f07_an_error_between_delete_and_insert(kind: str, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error instead of a kill, such as a full disk, leaves the same."""

    def power_cut(*_: object, **__: object) -> None:
        message = "power"
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(*moment_of_insert(kind, power_cut))
        with pytest.raises(RuntimeError, match="power"):
            run(kind, database, 5, 7, 8)
    assert rows(kind, database) == left(kind)


def test_f13_a_reader_between_delete_and_insert(kind: str, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader at that moment finds the partition empty, and here the one before."""
    seen: list[list[tuple[int, int]]] = []
    place, name, _ = moment_of_insert(kind, print)
    real = getattr(place, name)

    def watched(*given: Any, **named: Any) -> Any:
        seen.append(rows(kind, database))
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, watched)
        run(kind, database, 5, 7, 8)
    assert seen[0] == left(kind)
    assert rows(kind, database) == [(5, 7), (5, 8), (6, 3)]


def test_f24_rows_that_do_not_fit_cost_stock_the_partition(tmp_path: Path) -> None:
    """No kill is needed: a column more, and the delete is there without its insert."""
    database = tmp_path / "blog.duckdb"
    for number, values in ((5, (1, 2)), (6, (3,))):
        run("stock", database, number, *values)
    with duckdb.connect(str(database), config={"custom_user_agent": "dagster"}) as connection:
        connection.execute("ALTER TABLE visits ADD COLUMN colour VARCHAR")
    with pytest.raises(duckdb.BinderException):
        run("stock", database, 5, 7, 8)
    assert rows("stock", database) == [(6, 3)]


# DuckDBResource -----------------------------------------------------------------------------------------------------

OPENS = "import duckdb, sys; duckdb.connect(sys.argv[1])"


def opens_elsewhere(database: Path) -> bool:
    """Whether another process can open the file."""
    command = [sys.executable, "-c", OPENS, str(database)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0 or "Could not set lock on file" in done.stderr
    return done.returncode == 0


def fail_inside(connection: AbstractContextManager[duckdb.DuckDBPyConnection]) -> duckdb.DuckDBPyConnection:
    """A connection whose body ended in an error."""
    kept = []

    def body() -> None:
        with connection as opened:
            kept.append(opened)
            raise KeyError

    with pytest.raises(KeyError):
        body()
    return kept[0]


def test_an_error_leaves_a_connection_of_the_resource_open(tmp_path: Path) -> None:
    """``get_connection`` closes at the end of its body alone: after an error the file stays taken."""
    database = tmp_path / "blog.duckdb"
    kept = fail_inside(DuckDBResource(database=str(database)).get_connection())
    assert kept.execute("SELECT 1").fetchall() == [(1,)]
    assert not opens_elsewhere(database)
    kept.close()
    assert opens_elsewhere(database)


def test_an_error_closes_a_connection_of_the_platform(tmp_path: Path) -> None:
    database = tmp_path / "blog.duckdb"
    kept = fail_inside(connected(str(database)))
    with pytest.raises(duckdb.ConnectionException, match="closed"):
        kept.execute("SELECT 1")
    assert opens_elsewhere(database)


@pytest.mark.parametrize("first", ["resource", "platform"])
def test_a_connection_of_the_resource_and_one_of_the_platform_are_open_at_once(tmp_path: Path, first: str) -> None:
    """In one process a file has one configuration, and theirs is the same."""
    database = str(tmp_path / "blog.duckdb")
    both = {"resource": DuckDBResource(database=database).get_connection, "platform": lambda: connected(database)}
    (second,) = set(both) - {first}
    with both[first]() as one, both[second]() as other:
        one.execute("CREATE TABLE t AS SELECT 1 AS k")
        other.execute("INSERT INTO t VALUES (2)")
        assert (
            one.execute("FROM t ORDER BY k").fetchall() == other.execute("FROM t ORDER BY k").fetchall() == [(1,), (2,)]
        )
