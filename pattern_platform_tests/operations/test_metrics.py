"""Metrics of real runs, as the parser of Prometheus' own client reads them."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import requests
from click.testing import Result
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from typer.testing import CliRunner

from pattern_platform import DataOverwriteIOManager, StatefulMergerIOManager
from pattern_platform.cli import app
from pattern_platform.errors import BusyPortError
from pattern_platform.operations.metrics import PlatformCollector, exposition, serve
from pattern_platform_tests.lake.tables import range_tags

DAYS = dg.DailyPartitionsDefinition("2024-05-06")
FIRST, SECOND, THIRD = "2024-05-06", "2024-05-07", "2024-05-08"
QUIET: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
GAUGES = {
    *("rows", "rejected_rows", "lateness_seconds", "run_duration_seconds", "queue_wait_seconds", "freshness_seconds"),
    "superseded_partitions",
}
COUNTERS = {"cpu_seconds", "read_bytes", "written_bytes"}


@dg.asset(
    key=["raw", "visits"],
    partitions_def=DAYS,
    metadata={"partition_expr": "day"},
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def visits(context: dg.AssetExecutionContext) -> dg.MaterializeResult[pl.DataFrame]:
    days = [day for day in context.partition_keys for _ in range(5)]
    return dg.MaterializeResult(
        value=pl.DataFrame({"day": days}), metadata={"rejected_rows": 2, "lateness_seconds": 90}
    )


@dg.asset(
    partitions_def=DAYS, metadata={"partition_expr": "day", "merge_keys": ["id"]}, io_manager_key="stateful_merger"
)
def devices(context: dg.AssetExecutionContext) -> pl.DataFrame:
    return pl.DataFrame({"day": [context.partition_key], "id": [context.partition_key]})


class Home:
    """An instance and its tables."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.resources = {
            "io_manager": DataOverwriteIOManager(root_uri=str(folder / "lake")),
            "stateful_merger": StatefulMergerIOManager(root_uri=str(folder / "lake")),
        }

    def run(self, asset: dg.AssetsDefinition, partition: str = "", **tags: str) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [asset],
            tags=tags or {"dagster/partition": partition},
            instance=self.instance,
            resources=self.resources,
            run_config=QUIET,
        )

    def read(self) -> dict[tuple[str, str], float]:
        return parsed(exposition(self.instance, "night").decode())


def parsed(text: str) -> dict[tuple[str, str], float]:
    """Samples by name and asset; the parser refuses what is no OpenMetrics."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {sample.labels["namespace"] for sample in samples} <= {"night", "main"}
    return {(sample.name.removeprefix("pattern_platform_"), sample.labels["asset"]): sample.value for sample in samples}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Home(tmp_path, instance)


# What the samples say -------------------------------------------------------------------------------------------------


def test_every_metric_has_its_type_unit_and_help(home: Home) -> None:
    families = {
        family.name: family for family in text_string_to_metric_families(exposition(home.instance, "x").decode())
    }
    assert set(families) == {f"pattern_platform_{name}" for name in GAUGES | COUNTERS}
    for name, family in families.items():
        short = name.removeprefix("pattern_platform_")
        assert family.type == ("counter" if short in COUNTERS else "gauge")
        assert name.endswith(f"_{family.unit}")
        assert family.documentation.endswith(".")
        assert not family.samples  # before anything was materialized


def test_the_newest_materialization_is_shown(home: Home) -> None:
    before = time.time()
    home.run(visits, FIRST)
    metrics = {name: value for (name, asset), value in home.read().items() if asset == "raw/visits"}
    assert (metrics["rows"], metrics["rejected_rows"], metrics["lateness_seconds"]) == (5, 2, 90)
    assert 0 <= metrics["freshness_seconds"] <= time.time() - before
    assert 0 < metrics["run_duration_seconds"] <= time.time() - before
    assert 0 <= metrics["queue_wait_seconds"] <= time.time() - before
    assert "superseded_partitions" not in metrics


def test_counters_add_up_what_the_runs_told(home: Home) -> None:
    told: dict[str, float] = {"cost/cpu_seconds": 0, "cost/bytes_written": 0}
    for day in (FIRST, SECOND, FIRST):
        (event,) = home.run(visits, day).get_asset_materialization_events()
        for name in told:
            told[name] += float(event.materialization.metadata[name].value)
    metrics = home.read()
    assert metrics["cpu_seconds_total", "raw/visits"] == pytest.approx(told["cost/cpu_seconds"])
    assert metrics["written_bytes_total", "raw/visits"] == told["cost/bytes_written"]
    assert home.read()["written_bytes_total", "raw/visits"] == told["cost/bytes_written"]  # after a restart


def test_a_run_over_several_partitions_costs_once(home: Home) -> None:
    result = home.run(visits, **range_tags(FIRST, THIRD))
    events = result.get_asset_materialization_events()
    assert len(events) == 3
    metrics = home.read()
    assert (
        metrics["written_bytes_total", "raw/visits"] == events[0].materialization.metadata["cost/bytes_written"].value
    )
    assert metrics["rows", "raw/visits"] == 15


def test_a_scrape_reads_what_is_new_and_says_the_same_as_one_from_the_beginning(home: Home) -> None:
    collector = PlatformCollector(home.instance, "night")

    def written() -> float:
        family = next(family for family in collector.collect() if family.name == "pattern_platform_written_bytes")
        return family.samples[0].value

    home.run(visits, FIRST)
    first = written()
    assert written() == first
    home.run(visits, SECOND)
    assert written() == home.read()["written_bytes_total", "raw/visits"] > first


def test_superseded_partitions_are_counted_in_the_version_table(home: Home) -> None:
    for day in (FIRST, SECOND, THIRD):
        home.run(devices, day)
    assert home.read()["superseded_partitions", "devices"] == 0
    home.run(devices, FIRST)
    assert home.read()["superseded_partitions", "devices"] == 2
    home.run(devices, SECOND)
    assert home.read()["superseded_partitions", "devices"] == 1


def test_a_table_that_was_removed_stops_no_scrape(home: Home, tmp_path: Path) -> None:
    home.run(devices, FIRST)
    (tmp_path / "lake/devices").rename(tmp_path / "elsewhere")
    metrics = home.read()
    assert ("superseded_partitions", "devices") not in metrics
    assert metrics["rows", "devices"] == 1


def test_events_without_runs_and_without_numbers_are_metrics_too(home: Home) -> None:
    for n in range(2):
        told: dict[str, Any] = {"cost/bytes_read": 7, "rejected_rows": "many", "lateness_seconds": float(n)}
        home.instance.report_runless_asset_event(dg.AssetMaterialization(['odd"key\\', "x"], metadata=told))
    metrics = home.read()
    assert metrics["read_bytes_total", 'odd"key\\/x'] == 14
    assert metrics["lateness_seconds", 'odd"key\\/x'] == 1
    assert ("rejected_rows", 'odd"key\\/x') not in metrics
    assert ("queue_wait_seconds", 'odd"key\\/x') not in metrics


def test_the_wait_in_the_queue_is_from_creation_to_start(home: Home) -> None:
    result = home.run(visits, FIRST)
    (record,) = home.instance.get_run_records(dg.RunsFilter(run_ids=[result.run_id]))
    assert record.start_time is not None
    wait = record.start_time - record.create_timestamp.timestamp()
    assert home.read()["queue_wait_seconds", "raw/visits"] == pytest.approx(max(wait, 0), abs=1e-3)


# Served and written ---------------------------------------------------------------------------------------------------


def test_they_are_served_as_prometheus_asks_for_them(home: Home) -> None:
    home.run(visits, FIRST)
    server, thread = serve(home.instance, "night", 0)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        answer = requests.get(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"}, timeout=30)
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert parsed(answer.text)["rows", "raw/visits"] == 5
        home.run(visits, SECOND)
        written = parsed(requests.get(url, headers={"Accept": "application/openmetrics-text"}, timeout=30).text)
        assert written["written_bytes_total", "raw/visits"] == home.read()["written_bytes_total", "raw/visits"]
        with pytest.raises(BusyPortError, match="choose another with --port"):
            serve(home.instance, "night", server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one materialization."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}")
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        event = dg.AssetMaterialization("made", partition="a", metadata={"dagster/row_count": 4})
        instance.report_runless_asset_event(event)
    return folder


def asked(home: Path | str | None, *arguments: str) -> Result:
    environment = {"COLUMNS": "300", "DAGSTER_HOME": str(home) if home else None, "PATTERN_PLATFORM_NAMESPACE": "main"}
    return CliRunner().invoke(app, ["metrics", *arguments], env=environment)


def test_the_command_writes_them(dagster_home: Path, tmp_path: Path) -> None:
    result = asked(dagster_home)
    assert result.exit_code == 0
    assert parsed(result.stdout)["rows", "made"] == 4
    assert asked(dagster_home, "--output", str(tmp_path / "platform.prom")).exit_code == 0
    assert parsed((tmp_path / "platform.prom").read_text())["rows", "made"] == 4
    assert [file.name for file in tmp_path.iterdir()] == ["platform.prom"]


def test_the_command_serves_them_until_it_is_interrupted(dagster_home: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pattern_platform.cli", "metrics", "--port", str(port)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits one that is ignored
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={"DAGSTER_HOME": str(dagster_home)}
    ) as served:
        try:
            assert served.stdout is not None
            assert f":{port}/metrics" in served.stdout.readline()
            answer = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30)
            assert "pattern_platform_rows" in answer.text
            served.send_signal(signal.SIGINT)
            assert served.wait(30) == 0
        finally:
            served.kill()
            signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("home", "arguments", "code", "told"),
    [
        (None, (), 1, "DAGSTER_HOME is not set"),
        ("relative", (), 1, "absolute path"),
        ("/nowhere/at/all", (), 1, "set DAGSTER_HOME to the absolute path"),
        (True, ("--port", "0"), 2, "--port"),
        (True, ("--port", "70000"), 2, "65535"),
        (True, ("--port", "http"), 2, "--port"),
        (True, ("--port", "9108", "--output", "x"), 2, "not both"),
        (True, ("--output", "/nowhere/x.prom"), 2, "choose another file with --output"),
        (True, ("--output", "/"), 2, "--output"),
        (True, ("--port", "9108", "--host", "no.such.host.example"), 1, "of no.such.host.example was refused"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(
    dagster_home: Path, home: object, arguments: tuple[str, ...], code: int, told: str
) -> None:
    result = asked(dagster_home if home is True else home, *arguments)  # ty: ignore[invalid-argument-type]
    assert result.exit_code == code, result.output
    assert told in " ".join(result.output.replace("│", " ").split())
