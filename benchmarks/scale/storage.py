"""Dagster's own storage: materializations of an hourly asset, in SQLite and in PostgreSQL, and what runs leave there.

Most materializations are copies of the row of one that Dagster stored, under other partitions: to store a hundred
thousand one by one takes an hour in SQLite.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy as sa
import yaml

from benchmarks.contexts import HOURS, hour
from benchmarks.scale.points import folder_megabytes, measured_point, timed_point
from pattern_platform_tests.services.servers import postgres_server

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from benchmarks.scale.points import Point

_EVENTS, _RUNS = "materializations", "runs"
_KEY = dg.AssetKey("hourly")
_STORED_PER_ROUND, _RUNS_PER_ROUND = 20, 5
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def in_sqlite(folder: Path, sizes: Sequence[int], rounds: int) -> Iterator[Point]:
    """Curves of the default storage, a file for the index and a file for each run.

    Args:
        folder: Where the instance is made.
        sizes: Numbers of materializations.
        rounds: How often each point is measured.
    """
    with _instance(folder / "home", {}) as instance:
        url = f"sqlite:///{folder / 'home' / 'history' / 'runs' / 'index.db'}"
        yield from _curves(instance, sa.create_engine(url), sizes, rounds, lambda: folder_megabytes(folder / "home"))


def in_postgres(folder: Path, sizes: Sequence[int], rounds: int) -> Iterator[Point]:
    """Curves of PostgreSQL as Debian has it, without its syncs to the disk; see :func:`in_sqlite`."""
    with postgres_server() as server:
        url = server.url.replace("postgresql:", "postgresql+psycopg2:")
        engine = sa.create_engine(url)

        def megabytes() -> float:
            with engine.connect() as connection:
                return connection.execute(sa.text("SELECT pg_database_size('postgres')")).scalar_one() / 1e6

        with _instance(folder / "home", {"storage": {"postgres": {"postgres_url": url}}}) as instance:
            yield from _curves(instance, engine, sizes, rounds, megabytes)
        engine.dispose()


@contextmanager
def _instance(home: Path, config: dict[str, Any]) -> Generator[dg.DagsterInstance]:
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump({"telemetry": {"enabled": False}, **config}))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def _curves(
    instance: dg.DagsterInstance,
    engine: sa.Engine,
    sizes: Sequence[int],
    rounds: int,
    megabytes: Callable[[], float],
) -> Iterator[Point]:
    @dg.asset(name="hourly", partitions_def=HOURS)
    def hourly() -> None: ...

    def store(first: int) -> None:
        for number in range(first, first + _STORED_PER_ROUND):
            _store(instance, number)

    _store(instance, 0)
    stored = 1
    for size in sizes:
        before = megabytes()
        _repeat_last(engine, range(stored, size))
        each = (megabytes() - before) * 1e3 / (size - stored)
        yield measured_point("a materialization in the event log", _EVENTS, size, each, "kB")
        keys = [hour(number) for number in range(size)]
        yield timed_point(
            f"store {_STORED_PER_ROUND}", _EVENTS, size, store, lambda n, s=size: s + n * _STORED_PER_ROUND, rounds
        )
        stored = size + rounds * _STORED_PER_ROUND
        yield timed_point(
            "get_materialized_partitions",
            _EVENTS,
            size,
            lambda _: instance.get_materialized_partitions(_KEY),
            lambda _: None,
            rounds,
        )
        yield timed_point(
            "status of every partition, first",
            _EVENTS,
            size,
            lambda k: instance.get_status_by_partition(_KEY, k, HOURS),
            lambda _, k=keys: k,
            1,
        )
        yield timed_point(
            "status of every partition, after a new one",
            _EVENTS,
            size,
            lambda k: instance.get_status_by_partition(_KEY, k, HOURS),
            lambda n, k=keys, s=stored: (_store(instance, s + n), k)[1],
            rounds,
        )
        stored += rounds
        yield timed_point(
            "run of one partition, in process",
            _EVENTS,
            size,
            lambda key: dg.materialize([hourly], instance=instance, partition_key=key, run_config=_QUIET),
            lambda n, s=stored: hour(s + n),
            rounds,
        )
        stored += rounds
    yield from _runs(instance, hourly, rounds * _RUNS_PER_ROUND, megabytes)


def _runs(
    instance: dg.DagsterInstance, asset: dg.AssetsDefinition, runs: int, megabytes: Callable[[], float]
) -> Iterator[Point]:
    """What a run of one partition leaves."""
    before = megabytes()
    for number in range(runs):
        dg.materialize([asset], instance=instance, partition_key=hour(number), run_config=_QUIET)
    yield measured_point("left by a run of one partition", _RUNS, 1, (megabytes() - before) * 1e3 / runs, "kB")


def _store(instance: dg.DagsterInstance, number: int) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(_KEY, partition=hour(number)))


def _repeat_last(engine: sa.Engine, numbers: range) -> None:
    """Copies of the newest materialization, under the partitions of other hours."""
    with engine.begin() as connection:
        newest = connection.execute(
            sa.text(
                "SELECT run_id, event, dagster_event_type, timestamp, asset_key, partition FROM event_logs"
                " WHERE dagster_event_type = 'ASSET_MATERIALIZATION' ORDER BY id DESC LIMIT 1"
            )
        ).one()
        row = dict(newest._mapping)
        copies = [
            {**row, "partition": hour(n), "event": row["event"].replace(row["partition"], hour(n))} for n in numbers
        ]
        columns = ", ".join(row)
        values = ", ".join(f":{column}" for column in row)
        connection.execute(sa.text(f"INSERT INTO event_logs ({columns}) VALUES ({values})"), copies)  # noqa: S608
