"""Writers and readers of DuckDB files: what they do in a process of their own, and what must be true of what they left.

Every row names the run that wrote it, so that the rows of a partition, the registry and the view can be compared: each
partition has the rows of one run, of the run that the registry names, as many as it says, each once.
"""

from __future__ import annotations

import os
import select
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pattern_platform.orchestration.publications import audit_check, publication_asset
from pattern_platform.patterns.idempotency.data_overwrite_duckdb import WarehouseOverwriteIOManager
from pattern_platform.patterns.idempotency.fast_metadata_cleaner import FastMetadataCleanerIOManager
from pattern_platform.patterns.idempotency.keyed_idempotency import KeyedIdempotencyIOManager
from pattern_platform.patterns.idempotency.proxy import ProxyIOManager
from pattern_platform.patterns.idempotency.transactional_writer import TransactionalWriterIOManager
from pattern_platform.warehouse.database import connected
from pattern_platform.warehouse.keyed_store import DuckDBStore
from pattern_platform_tests.harness.model import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import duckdb

    from pattern_platform_tests.harness.writer import Channel

DAYS = dg.DailyPartitionsDefinition("2024-05-06", end_date="2024-05-20")
KEYS = DAYS.get_partition_keys()  # two weeks, from a Monday on
WEEKS = (KEYS[:7], KEYS[7:])
WHOLE = ""  # what an asset without partitions loads
KINDS = ("overwrite", "units", "transaction", "keyed", "proxy")
_ROWS = pl.Schema({"day": pl.String, "n": pl.Int64, "run": pl.String})
_KEY = dg.AssetKey(["main", "visits"])
_VIEW = dg.AssetKey(["published", "visits"])
_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")

Message = dict[str, Any]
State = dict[str, tuple[str, int]]  # the run of each partition, and how many rows it has


def database_of(root: Path) -> Path:
    """The DuckDB file."""
    return root / "store.duckdb"


# Writing --------------------------------------------------------------------------------------------------------------


def manager_of(kind: str, root: Path) -> Any:
    """The IO manager of a kind."""
    database = str(database_of(root))
    if kind == "keyed":
        return KeyedIdempotencyIOManager(store=DuckDBStore(database=database))
    if kind == "proxy":
        return ProxyIOManager(root_uri=str(root / "lake"), database=database)
    managers = {"overwrite": WarehouseOverwriteIOManager, "units": FastMetadataCleanerIOManager}
    return {**managers, "transaction": TransactionalWriterIOManager}[kind](database=database)


def _loading(kind: str, keys: Sequence[str], count: int, started: Callable[[str], object]) -> dg.AssetsDefinition:
    metadata: dict[str, Any] = {"partition_expr": "day"} if kind != "proxy" else {}
    if kind == "transaction":
        metadata["tables"] = {"rows": {"primary_key": ["day", "n"]}, "totals": {"primary_key": ["day"]}}
    if kind == "keyed":
        metadata |= {"key_columns": ["day", "n"], "key_name": "id", "lost_keys": "delete"}

    @dg.asset(
        key=_KEY,
        io_manager_key="manager",
        partitions_def=None if kind == "proxy" else DAYS,
        metadata=metadata,
        backfill_policy=None if kind == "proxy" else dg.BackfillPolicy.single_run(),
    )
    def visits(context) -> Any:  # noqa: ANN001 - Dagster does not resolve a quoted annotation
        run = context.run.run_id
        started(run)
        rows = pl.DataFrame([(key, n, run) for key in keys for n in range(count)], schema=_ROWS, orient="row")
        if kind == "proxy":
            return rows
        days = pl.col("day").str.to_date()
        if kind == "transaction":
            totals = pl.DataFrame([(k, count, run) for k in keys], schema=_ROWS, orient="row")
            return {"rows": rows.with_columns(days), "totals": totals.with_columns(days)}
        return rows.with_columns(days)

    return visits


_AUDIT = audit_check(_KEY, "has_rows", lambda _: dg.AssetCheckResult(passed=True), "manager", description="Passes.")
_PUBLICATION = publication_asset(_KEY, "manager", audits=["has_rows"], key=_VIEW)


def write(message: Message, channel: Channel, instance: dg.DagsterInstance) -> Message:
    """Materialize some partitions in one run, or load, audit and publish a version."""
    keys, kind, runs = message["keys"], message["kind"], []

    def started(run: str) -> None:
        runs.append(run)
        channel.send(run=run, asked=message["id"])

    write_here(kind, Path(message["root"]), keys, message["count"], started=started, instance=instance)
    return {"run": runs[0]}


def write_here(
    kind: str,
    root: Path,
    keys: Sequence[str],
    count: int,
    *,
    instance: dg.DagsterInstance,
    started: Callable[[str], object] = lambda _: None,
) -> dg.ExecuteInProcessResult:
    """The same in this process."""
    loading = _loading(kind, keys, count, started)
    tags = {"dagster/partition": keys[0]} if len(keys) == 1 else dict(zip(_RANGE, (keys[0], keys[-1]), strict=True))
    return dg.materialize(
        [loading, _AUDIT, _PUBLICATION] if kind == "proxy" else [loading],
        instance=instance,
        resources={"manager": manager_of(kind, root)},
        tags=None if kind == "proxy" else tags,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )


# Reading, and what must be true ---------------------------------------------------------------------------------------


def _rows(opened: duckdb.DuckDBPyConnection, table: str, columns: str = "CAST(day AS VARCHAR), n, run") -> list[Any]:
    return opened.execute(f"SELECT {columns} FROM {table}").fetchall()  # noqa: S608 - names of this module


def state_of(kind: str, opened: duckdb.DuckDBPyConnection) -> State:
    """What a reader finds, in one transaction.

    Raises:
        Violation: It does not agree with itself.
    """
    opened.begin()
    try:
        return _state(kind, opened)
    finally:
        opened.rollback()


def _state(kind: str, opened: duckdb.DuckDBPyConnection) -> State:
    tables = {
        f"{schema}.{name}" for schema, name in opened.execute("SELECT schema, name FROM (SHOW ALL TABLES)").fetchall()
    }
    if kind == "proxy":
        return _shown(opened, tables)
    if "main.visits__loads" not in tables:
        if tables:
            raise Violation(f"there are {tables} without a registry")
        return {}
    registry = {key: (run, n) for key, run, n in _rows(opened, "visits__loads", "partition, run_id, rows")}
    if len(registry) != len(_rows(opened, "visits__loads", "partition")):
        raise Violation("the registry has a partition twice")
    rows = _rows(opened, "visits__rows" if kind == "transaction" else "visits")
    check_rows(rows, {key: load for key, load in registry.items() if load[1] is not None}, kind)
    if kind == "transaction":
        totals = {day: (run, n) for day, n, run in _rows(opened, "visits__totals")}
        held = {key: (run, n - 1) for key, (run, n) in registry.items()}  # the registry counts the total too
        if totals != held:
            raise Violation(f"the tables do not agree: {totals} and {held}")
    if kind == "units":
        in_units = [row for table in sorted(tables) if table[-1].isdigit() for row in _rows(opened, table)]
        if sorted(in_units) != sorted(rows):
            raise Violation("the view does not show the rows of the units")
    return {key: (run, n if n is not None else -1) for key, (run, n) in registry.items()}


def _shown(opened: duckdb.DuckDBPyConnection, tables: set[str]) -> State:
    if "published.visits__publications" not in tables:
        if "published.visits" in tables:
            raise Violation("there is a view without a registry")
        return {}
    told = _rows(opened, "published.visits__publications", "number, version, run_id")
    if [number for number, *_ in told] != list(range(1, len(told) + 1)):
        raise Violation(f"the registry has the publications {told}")
    versions = {v: (run, n) for v, run, n in _rows(opened, "main.visits__versions", "version, run_id, rows")}
    run, count = versions[told[-1][1]]
    rows = _rows(opened, "published.visits", "day, n, run")
    if Counter(rows) != Counter({(day, n, run): 1 for day in {r[0] for r in rows} for n in range(count)}):
        raise Violation(f"the view shows {len(rows)} rows, and not those of {run}")
    return {WHOLE: (run, count)}


def check_rows(rows: Sequence[tuple[str, int, str]], registry: State, kind: str) -> None:
    """Whether each partition has the rows of the run that the registry names, each once.

    Raises:
        Violation: It has not.
    """
    totals = 1 if kind == "transaction" else 0
    expected = Counter((key, n, run) for key, (run, count) in registry.items() for n in range(count - totals))
    if Counter(rows) != expected:
        more, fewer = Counter(rows) - expected, expected - Counter(rows)
        raise Violation(f"rows that are there and should not be: {[*more][:3]}, or the other way: {[*fewer][:3]}")


def read_state(kind: str, root: Path) -> State:
    """What whoever opens the file now finds; nothing where there is no file.

    Raises:
        Violation: As of :func:`state_of`.
    """
    database = database_of(root)
    if not database.exists():
        return {}
    with connected(str(database)) as opened:
        return state_of(kind, opened)


def read_until_told(message: Message, channel: Channel, _: dg.DagsterInstance) -> Message:
    """Read over and over, and tell each state that was seen."""
    os.nice(10)
    seen: Message = {}
    reads = 0
    while not channel.waiting():
        state = read_state(message["kind"], Path(message["root"]))
        reads += 1
        if state != seen:
            channel.send(state=state)
            seen = state
        select.select([], [], [], 0.02)  # whoever waits for the file gets it
    return {"reads": reads}


DO: dict[str, Callable[[Message, Any, dg.DagsterInstance], Message]] = {
    "write warehouse": write,
    "read warehouse": read_until_told,
}
