"""What the platform did, per asset, in the OpenMetrics format that Prometheus reads.

Everything is computed from Dagster's event log and from the tables, so that a restart changes no counter. The log is
read once, from its beginning; after that a scrape reads what is new. Where the event log is pruned, a counter that was
begun anew is lower, which Prometheus takes for a reset.

A run over several partitions has an event for each, all with the metadata of the one write: its cost counts once.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import dagster as dg
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

from pattern_platform.errors import BusyPortError, PatternPlatformError
from pattern_platform.lake.cost import BYTES_READ, BYTES_WRITTEN, CPU_SECONDS
from pattern_platform.lake.version_table import read_version_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

REJECTED_ROWS, LATENESS_SECONDS = "rejected_rows", "lateness_seconds"  # metadata of a materialization
_ROWS = ("dagster/partition_row_count", "dagster/row_count", "files/rows_written", "delta/rows_inserted")
_REJECTED = (REJECTED_ROWS, "delta/rows_quarantined")
_SUPERSEDED, _URI = "delta/superseded_partitions", "dagster/uri"
_LABELS = ("asset", "namespace")
_EVENTS_AT_ONCE = 1_000
_RUNS_AT_A_TIME = 100  # more never write one asset at the same time

_GAUGES = {
    "rows": ("rows", "Rows that the newest materialization left in its partition, or in its table."),
    "rejected": ("rejected_rows", "Rows that the newest materialization rejected."),
    "lateness": ("lateness_seconds", "How late the latest row of the newest materialization came."),
    "duration": ("run_duration_seconds", "How long the run of the newest materialization took."),
    "queue_wait": ("queue_wait_seconds", "How long that run waited in the queue."),
    "freshness": ("freshness_seconds", "Time since the newest materialization."),
    "superseded": ("superseded_partitions", "Partitions that wait for their replay."),
}
_COUNTERS = {
    CPU_SECONDS: ("cpu_seconds", "CPU time of the processes that made the asset."),
    BYTES_READ: ("read_bytes", "Size of the files that were read for the asset."),
    BYTES_WRITTEN: ("written_bytes", "Size of the files that were written for the asset."),
}


@dataclass
class _Asset:
    """What is known of an asset: how far its events were read, their sums, and the newest."""

    cursor: str | None = None
    newest: dg.EventLogEntry | None = None
    totals: Counter[str] = field(default_factory=Counter)
    runs: deque[str] = field(default_factory=lambda: deque(maxlen=_RUNS_AT_A_TIME))

    def add(self, entry: dg.EventLogEntry) -> None:
        self.newest = entry
        if entry.run_id and entry.run_id in self.runs:
            return
        self.runs.append(entry.run_id)
        numbers = _numbers(entry)
        self.totals.update({name: numbers[name] for name in _COUNTERS if name in numbers})


class PlatformCollector(Collector):
    """The metrics of all assets of an instance.

    Args:
        instance: Whose event log is read.
        namespace: A label of every sample.
        storage_options: How the object store is reached that tables are on.
    """

    def __init__(
        self, instance: dg.DagsterInstance, namespace: str, storage_options: Mapping[str, str] | None = None
    ) -> None:
        self._instance, self._namespace, self._storage_options = instance, namespace, storage_options
        self._assets: dict[dg.AssetKey, _Asset] = {}
        self._lock = Lock()  # a scrape for each thread of the server

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now; what is new in the event log is read."""
        with self._lock:
            self._read()
            known = {key: asset for key, asset in sorted(self._assets.items()) if asset.newest}
            samples = {key.to_user_string(): self._sample(asset) for key, asset in known.items()}
            self._add_runs(known, samples)
            totals = {key.to_user_string(): Counter(asset.totals) for key, asset in known.items()}
        for name, (suffix, about) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"pattern_platform_{suffix}", about, labels=_LABELS, unit=_unit(suffix))
            self._fill(gauge, name, samples)
            yield gauge
        for name, (suffix, about) in _COUNTERS.items():
            counter = CounterMetricFamily(f"pattern_platform_{suffix}", about, labels=_LABELS, unit=_unit(suffix))
            self._fill(counter, name, totals)
            yield counter

    def _fill(
        self, family: GaugeMetricFamily | CounterMetricFamily, name: str, values: Mapping[str, Mapping[str, float]]
    ) -> None:
        for asset, of_asset in values.items():
            if name in of_asset:
                family.add_metric([asset, self._namespace], of_asset[name])

    def _read(self) -> None:
        self._assets = {key: self._assets.get(key, _Asset()) for key in self._instance.get_asset_keys()}
        for key, asset in self._assets.items():
            has_more = True
            while has_more:
                found = self._instance.fetch_materializations(
                    key, limit=_EVENTS_AT_ONCE, cursor=asset.cursor, ascending=True
                )
                for record in found.records:
                    asset.add(record.event_log_entry)
                has_more = found.has_more and bool(found.records)
                if found.records:
                    asset.cursor = found.cursor

    def _sample(self, asset: _Asset) -> dict[str, float]:
        entry = asset.newest
        if entry is None or entry.asset_materialization is None:
            return {}
        numbers = _numbers(entry)
        sample = {
            "rows": _first(numbers, _ROWS),
            "rejected": _first(numbers, _REJECTED),
            "lateness": numbers.get(LATENESS_SECONDS),
            "freshness": max(time.time() - entry.timestamp, 0.0),
            "superseded": _superseded(entry.asset_materialization, self._storage_options),
        }
        return {name: value for name, value in sample.items() if value is not None}

    def _add_runs(self, assets: Mapping[dg.AssetKey, _Asset], samples: Mapping[str, dict[str, float]]) -> None:
        of_run = {key: asset.newest.run_id for key, asset in assets.items() if asset.newest and asset.newest.run_id}
        records = self._instance.get_run_records(dg.RunsFilter(run_ids=sorted(set(of_run.values())))) if of_run else []
        by_id = {record.dagster_run.run_id: record for record in records}
        for key, run_id in of_run.items():
            record, sample = by_id.get(run_id), samples[key.to_user_string()]
            if record is None or record.start_time is None:
                continue
            sample["queue_wait"] = max(record.start_time - record.create_timestamp.timestamp(), 0.0)
            if record.end_time is not None:
                sample["duration"] = record.end_time - record.start_time


def exposition(instance: dg.DagsterInstance, namespace: str, storage_options: Mapping[str, str] | None = None) -> bytes:
    """The metrics as a text of the OpenMetrics format.

    Args:
        instance: Whose event log is read.
        namespace: A label of every sample.
        storage_options: As of :class:`PlatformCollector`.
    """
    return generate_latest(_registry(PlatformCollector(instance, namespace, storage_options)))


def serve(
    instance: dg.DagsterInstance,
    namespace: str,
    port: int,
    *,
    host: str = "127.0.0.1",
    storage_options: Mapping[str, str] | None = None,
) -> tuple[WSGIServer, Thread]:
    """Serve the metrics at ``/metrics``, in threads of this process. The event log is read before the first scrape.

    Args:
        instance: Whose event log is read.
        namespace: A label of every sample.
        port: Where to listen; any free port when 0.
        host: Address to listen on.
        storage_options: As of :class:`PlatformCollector`.

    Raises:
        BusyPortError: Something else listens there, or it may not be used.
    """
    registry = _registry(PlatformCollector(instance, namespace, storage_options))
    list(registry.collect())
    try:
        return start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise BusyPortError(
            f"port {port} of {host} was refused",
            why=error.strerror or str(error),
            mend="choose another with --port, from 1024 to 65535",
        ) from error


def _registry(collector: PlatformCollector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def _unit(suffix: str) -> str:
    return suffix.rpartition("_")[2]


def _numbers(entry: dg.EventLogEntry) -> dict[str, float]:
    metadata = entry.asset_materialization.metadata if entry.asset_materialization else {}
    values = {name: value.value for name, value in metadata.items()}
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _first(numbers: Mapping[str, float], names: Iterable[str]) -> float | None:
    return next((numbers[name] for name in names if name in numbers), None)


def _superseded(materialization: dg.AssetMaterialization, storage_options: Mapping[str, str] | None) -> int | None:
    """How many partitions of a stateful merger wait for their replay, as its version table says now."""
    metadata = materialization.metadata
    if _SUPERSEDED not in metadata or _URI not in metadata:
        return None
    try:
        return read_version_table(str(metadata[_URI].value), storage_options).filter(status="superseded").height
    except PatternPlatformError:
        return None  # the table was removed, or cannot be read just now: a scrape says nothing of it
