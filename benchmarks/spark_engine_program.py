"""One job in a process of its own, by the engine that is configured; it prints what the job took.

The assets are the same for both engines: functions over ``narwhals.LazyFrame``.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import narwhals as nw
import numpy as np
import polars as pl

from pattern_platform import DataOverwriteIOManager, MergerIOManager
from pattern_platform.lake.spark.connect import SparkConnect

if TYPE_CHECKING:
    from collections.abc import Generator

HOURS = 24
_DAY = "2024-05-06"
_HOURLY, _DAILY = dg.HourlyPartitionsDefinition(f"{_DAY}-00:00"), dg.DailyPartitionsDefinition(_DAY)
_SERVE = """
import sys
from pysail.spark import SparkConnectServer
SparkConnectServer("127.0.0.1", int(sys.argv[1])).start(background=False)
"""


@dg.asset(partitions_def=_HOURLY, metadata={"partition_expr": "moment"}, io_manager_key="overwrite")
def visits(context, rows: pl.DataFrame) -> pl.DataFrame:  # noqa: ANN001 - Dagster does not resolve a quoted annotation
    """Visits of an hour; made by :func:`prepare`."""
    del context
    return rows


@dg.asset(partitions_def=_DAILY, metadata={"partition_expr": "day"}, io_manager_key="overwrite")
def users(visits: nw.LazyFrame) -> nw.LazyFrame:
    """What each user did on each page in a day."""
    made = visits.with_columns(nw.col("moment").dt.date().alias("day"))
    return made.group_by("day", "user", "page").agg(
        nw.len().cast(nw.Int64).alias("visits"), nw.col("ms").sum().alias("ms"), nw.col("moment").max().alias("last")
    )


@dg.asset(metadata={}, io_manager_key="overwrite")
def changes(rows: pl.DataFrame) -> pl.DataFrame:
    """Changes by key; made by :func:`prepare`."""
    return rows


@dg.asset(metadata={"merge_keys": ["id"]}, io_manager_key="merge")
def state(changes: nw.LazyFrame) -> nw.LazyFrame:
    """The newest of each key."""
    return changes


def prepare(root: str, rows: int) -> None:
    """Write the inputs: visits of 24 hours, a table of ten times as many keys as rows, and as many changes as rows."""
    random = np.random.default_rng(1)
    managers = {"overwrite": DataOverwriteIOManager(root_uri=root), "merge": MergerIOManager(root_uri=root)}
    start = datetime.fromisoformat(_DAY).replace(tzinfo=UTC)
    for hour in range(HOURS):
        moments = np.datetime64((start + timedelta(hours=hour)).replace(tzinfo=None), "us") + np.sort(
            random.integers(0, 3_600_000_000, rows)
        ).astype("timedelta64[us]")
        frame = pl.DataFrame(
            {
                "moment": pl.Series(moments).dt.replace_time_zone("UTC"),
                "user": random.integers(0, max(rows // 10, 1), rows),
                "page": pl.Series(random.integers(0, 20, rows)).cast(pl.String) + ".html",
                "ms": random.integers(0, 10_000, rows),
            }
        )
        key = f"{_DAY}-{hour:02}:00"
        _output(managers["overwrite"], visits, frame, partition_key=key, asset_partitions_def=_HOURLY)
    _output(managers["merge"], state, _keyed(np.arange(10 * rows), 0))
    touched = random.choice(11 * rows, rows, replace=False)
    _output(managers["overwrite"], changes, _keyed(touched, 1))


def _keyed(keys: np.ndarray, generation: int) -> pl.DataFrame:
    ids = pl.Series(keys.astype(np.int64))
    name = ids.cast(pl.String)
    return pl.DataFrame(
        {
            "id": ids,
            "name": "user-" + name,
            "mail": name + "@example.com",
            "score": ids % 1000 + generation,
            "generation": generation,
        }
    )


def _output(manager: Any, asset: dg.AssetsDefinition, frame: pl.DataFrame, **partition: Any) -> None:  # noqa: ANN401
    with dg.build_resources({}) as resources:
        context = dg.build_output_context(
            asset_key=asset.key,
            definition_metadata=asset.metadata_by_key[asset.key],
            resources=resources,
            run_id="-",
            **partition,
        )
        manager.handle_output(context, frame)


@contextmanager
def _server() -> Generator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", _SERVE, str(port)], stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield f"sc://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


def _used(pid: int | str) -> tuple[float, float]:
    """Seconds of processor time and megabytes at the peak, of a process that runs."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return sum(map(int, ticks)) / 100, int(peak.split()[1]) / 1024


def main(engine: str, job: str, root: str) -> None:
    """Do one job.

    Args:
        engine: ``polars`` or ``spark``.
        job: ``day`` or ``merge``.
        root: Folder of the tables of :func:`prepare`.
    """
    if engine == "spark":
        with _server() as (url, pid):
            connect = SparkConnect(url=url)
            session = connect.session()
            session.range(1).count()
            _measure(job, root, connect, ["self", pid])
            session.stop()  # before the server: the client would ask for it again and again
    else:
        _measure(job, root, None, ["self"])


def _measure(job: str, root: str, engine: SparkConnect | None, processes: list[int | str]) -> None:
    managers = {
        "overwrite": DataOverwriteIOManager(root_uri=root, engine=engine),
        "merge": MergerIOManager(root_uri=root, engine=engine),
    }
    asset, upstream = (users, visits) if job == "day" else (state, changes)
    source = dg.AssetSpec(
        upstream.key, metadata=upstream.metadata_by_key[upstream.key], partitions_def=upstream.partitions_def
    ).with_io_manager_key("overwrite")
    definitions = dg.Definitions(assets=[asset, source], resources=managers)
    with dg.DagsterInstance.ephemeral() as instance:
        before, started = [_used(pid)[0] for pid in processes], time.perf_counter()
        definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            partition_key=_DAY if job == "day" else None, instance=instance, asset_selection=[asset.key]
        )
        seconds = time.perf_counter() - started
    used = [_used(pid) for pid in processes]
    told = {
        "seconds": seconds,
        "cpu": sum(cpu for cpu, _ in used) - sum(before),
        "peak_mb": sum(peak for _, peak in used),
        "check": _check(Path(root, asset.key.path[-1]), job),
    }
    print(json.dumps(told))


def _check(table: Path, job: str) -> list[int]:
    rows = pl.scan_delta(str(table))
    wanted = [pl.col(c).sum() for c in (["visits", "ms", "user"] if job == "day" else ["id", "score", "generation"])]
    return [int(value) for value in rows.select(pl.len(), *wanted).collect().row(0)]


if __name__ == "__main__":
    main(*sys.argv[1:])
