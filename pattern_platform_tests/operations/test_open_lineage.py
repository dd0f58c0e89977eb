"""Lineage of real runs, as the client of OpenLineage serialises it and a server takes it."""

import json
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from pattern_platform import DataOverwriteIOManager
from pattern_platform.cli import app
from pattern_platform.errors import LineageNotSentError, MissingDriverError
from pattern_platform.operations.open_lineage import as_lines, run_events, send
from pattern_platform_tests.lake.tables import range_tags, shared_instance

DAYS = dg.DailyPartitionsDefinition("2024-05-06")
DAY = {"dagster/partition": "2024-05-06"}
QUIET: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
COLUMNS = dg.TableSchema([dg.TableColumn("day", "string", description="The day."), dg.TableColumn("n", "int")])
COMMON: dict[str, Any] = {"partitions_def": DAYS, "backfill_policy": dg.BackfillPolicy.single_run()}


@dg.asset(
    key=["raw", "visits"], metadata={"partition_expr": "day", "dagster/column_schema": COLUMNS}, tags={}, **COMMON
)
def raw(context: dg.AssetExecutionContext) -> pl.DataFrame:
    return pl.DataFrame({"day": context.partition_keys, "n": range(len(context.partition_keys))})


@dg.asset(
    key=["clean", "visits"],
    ins={"rows": dg.AssetIn(["raw", "visits"])},
    deps=[["partners", "prices"]],
    metadata={"partition_expr": "day"},
    **COMMON,
)
def clean(rows: pl.DataFrame) -> pl.DataFrame:
    return rows


@dg.asset(key=["broken", "visits"], deps=[clean], **COMMON)
def broken() -> None:
    raise ValueError("boo")


@dg.asset(key=["never", "visits"], deps=[broken], **COMMON)
def never() -> None: ...


SPECS = {spec.key: spec for asset in (raw, clean, broken, never) for spec in asset.specs}


def ran(folder: Path, *assets: dg.AssetsDefinition, **tags: str) -> dg.RunRecord:
    result = dg.materialize(
        assets,
        tags=tags or DAY,
        instance=shared_instance(),
        resources={"io_manager": DataOverwriteIOManager(root_uri=str(folder))},
        run_config=QUIET,
        raise_on_error=False,
    )
    (record,) = shared_instance().get_run_records(dg.RunsFilter(run_ids=[result.run_id]))
    return record


def told(record: dg.RunRecord, specs: dict[dg.AssetKey, dg.AssetSpec] = SPECS) -> list[dict[str, Any]]:
    """The events of a run, as they are sent."""
    return [json.loads(line) for line in as_lines(run_events(record, shared_instance(), specs, "night")).splitlines()]


def without_tags(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what the client adds of itself."""
    facets = {name: facet for name, facet in event["run"]["facets"].items() if name != "tags"}
    return {**event, "run": {**event["run"], "facets": facets}}


def names(datasets: Sequence[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(dataset["namespace"], dataset["name"]) for dataset in datasets}


def by_job(events: Sequence[dict[str, Any]], state: str) -> dict[str, dict[str, Any]]:
    return {event["job"]["name"]: event for event in events if event["eventType"] == state}


# What the events say --------------------------------------------------------------------------------------------------


def test_every_event_has_what_the_specification_requires(tmp_path: Path) -> None:
    events = told(ran(tmp_path, raw, clean, broken, never))
    assert len(events) == 6
    for event in events:
        assert datetime.fromisoformat(event["eventTime"]).tzinfo
        assert event["producer"] == "urn:pattern-platform"
        assert event["schemaURL"].endswith("#/$defs/RunEvent")
        assert uuid.UUID(event["run"]["runId"])
        assert event["job"]["namespace"] == "night"
        assert event["eventType"] in {"START", "COMPLETE", "FAIL"}
        for facet in [*event["run"]["facets"].values(), *(f for d in event["outputs"] for f in d["facets"].values())]:
            assert facet["_producer"]
            assert facet["_schemaURL"].startswith("https://openlineage.io/spec/facets/")


def test_each_asset_is_a_run_with_a_beginning_and_an_end_below_the_run_of_dagster(tmp_path: Path) -> None:
    record = ran(tmp_path, raw, clean, broken, never)
    events = told(record)
    starts, ends = by_job(events, "START"), by_job(events, "COMPLETE") | by_job(events, "FAIL")
    assert set(starts) == set(ends) == {"raw/visits", "clean/visits", "broken/visits"}  # the last one never began
    for job, start in starts.items():
        assert start["run"]["runId"] == ends[job]["run"]["runId"]
        assert start["eventTime"] <= ends[job]["eventTime"]
        assert start["run"]["facets"]["parent"]["run"]["runId"] == record.dagster_run.run_id
    assert len({start["run"]["runId"] for start in starts.values()}) == 3
    assert told(record) == events  # sending it again says the same


def test_inputs_are_the_dependencies_and_outputs_the_asset(tmp_path: Path) -> None:
    events = by_job(told(ran(tmp_path, raw, clean)), "COMPLETE")
    assert names(events["clean/visits"]["inputs"]) == {("night", "raw/visits"), ("night", "partners/prices")}
    assert names(events["clean/visits"]["outputs"]) == {("night", "clean/visits")}
    assert not events["raw/visits"]["inputs"]


def test_an_output_has_columns_place_rows_and_bytes(tmp_path: Path) -> None:
    (output,) = by_job(told(ran(tmp_path, raw)), "COMPLETE")["raw/visits"]["outputs"]
    fields = [
        (field["name"], field["type"], field.get("description")) for field in output["facets"]["schema"]["fields"]
    ]
    assert [name for name, _, _ in fields] == ["day", "n"]
    assert fields[0][2] == "The day."
    assert output["facets"]["dataSource"]["uri"] == (tmp_path / "raw/visits").as_uri()
    statistics = output["outputFacets"]["outputStatistics"]
    size = sum(file.stat().st_size for file in (tmp_path / "raw/visits").glob("*.parquet"))
    assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (1, size, 1)


def test_an_input_has_the_columns_that_it_declares(tmp_path: Path) -> None:
    inputs = by_job(told(ran(tmp_path, raw, clean)), "COMPLETE")["clean/visits"]["inputs"]
    schemas = {given["name"]: given["facets"].get("schema") for given in inputs}
    assert [field["name"] for field in schemas["raw/visits"]["fields"]] == ["day", "n"]
    assert schemas["partners/prices"] is None


def test_the_nominal_time_is_that_of_the_partitions(tmp_path: Path) -> None:
    time = {"nominalStartTime": "2024-05-06T00:00:00.000Z", "nominalEndTime": "2024-05-07T00:00:00.000Z"}
    facet = by_job(told(ran(tmp_path, raw)), "START")["raw/visits"]["run"]["facets"]["nominalTime"]
    assert {name: facet[name] for name in time} == time
    record = ran(tmp_path, raw, **range_tags("2024-05-06", "2024-05-08"))
    (event,) = by_job(told(record), "COMPLETE").values()
    assert event["run"]["facets"]["nominalTime"]["nominalEndTime"] == "2024-05-09T00:00:00.000Z"


def test_a_failure_has_its_message_and_stack(tmp_path: Path) -> None:
    (event,) = by_job(told(ran(tmp_path, raw, clean, broken, never)), "FAIL").values()
    error = event["run"]["facets"]["errorMessage"]
    assert (error["message"], error["programmingLanguage"]) == ("ValueError: boo", "python")
    assert error["stackTrace"]
    assert names(event["inputs"]) == {("night", "clean/visits")}


def test_an_asset_that_was_removed_or_has_other_partitions_now_is_told_still(tmp_path: Path) -> None:
    record = ran(tmp_path, raw)
    (event,) = by_job(told(record, {}), "COMPLETE").values()
    assert "nominalTime" not in event["run"]["facets"]
    monthly = SPECS[raw.key].replace_attributes(partitions_def=dg.MonthlyPartitionsDefinition("2025-01-01"))
    (event,) = by_job(told(record, {raw.key: monthly}), "COMPLETE").values()
    assert "nominalTime" not in event["run"]["facets"]


def test_a_run_without_assets_has_no_events() -> None:
    @dg.job
    def nothing() -> None: ...

    result = nothing.execute_in_process(instance=shared_instance(), run_config=QUIET)
    (record,) = shared_instance().get_run_records(dg.RunsFilter(run_ids=[result.run_id]))
    assert told(record) == []


# Where they go --------------------------------------------------------------------------------------------------------


@contextmanager
def server(status: int = 201) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """A server of lineage; its URL, and the path and body of what it took."""
    taken: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", taken
        finally:
            listening.shutdown()
            thread.join()


def test_a_server_takes_them_as_they_are(tmp_path: Path) -> None:
    record = ran(tmp_path, raw, clean)
    with server() as (url, taken):
        assert send(run_events(record, shared_instance(), SPECS, "night"), url) == 4
    assert [path for path, _ in taken] == ["/api/v1/lineage"] * 4
    assert [without_tags(body) for _, body in taken] == told(record)


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_server_that_does_not_take_one_is_told_of(tmp_path: Path, status: int) -> None:
    record = ran(tmp_path, raw)
    with server(status) as (url, taken), pytest.raises(LineageNotSentError, match="after 0 that it took") as refused:
        send(run_events(record, shared_instance(), SPECS, "night"), url)
    assert len(taken) == 1
    assert str(status) in str(refused.value)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pattern_platform.operations.open_lineage")
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    with pytest.raises(MissingDriverError, match=r"pattern-platform\[openlineage\]"):
        import pattern_platform.operations.open_lineage  # noqa: F401, PLC0415


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home with one run; its id."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}")
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        resources = {"io_manager": DataOverwriteIOManager(root_uri=str(folder))}
        result = dg.materialize([raw], tags=DAY, instance=instance, resources=resources, run_config=QUIET)
    return folder, result.run_id


def asked(home: Path | None, *arguments: str) -> Result:
    environment = {"COLUMNS": "300", "DAGSTER_HOME": str(home) if home else None, "PATTERN_PLATFORM_NAMESPACE": "main"}
    return CliRunner().invoke(app, ["lineage", *arguments], env=environment)


def test_the_command_gives_and_sends_them(dagster_home: tuple[Path, str], tmp_path: Path) -> None:
    home, run = dagster_home
    result = asked(home, "--run", run)
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(event["eventType"], event["job"]["namespace"]) for event in events] == [
        ("START", "main"),
        ("COMPLETE", "main"),
    ]
    assert asked(home, "--last", "2h", "--output", str(tmp_path / "events.jsonl")).exit_code == 0
    assert (tmp_path / "events.jsonl").read_text() == result.stdout
    with server() as (url, taken):
        assert "2 events of 1 runs sent" in asked(home, "--url", url).output
    assert [without_tags(body) for _, body in taken] == events


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--run", "none"), 1, "give whole run ids"),
        (("--last", "soon"), 2, "as 30m, 2h or 1d"),
        (("--url", "localhost:5000"), 2, "http://localhost:5000"),
        (("--url", "ftp://localhost"), 2, "http://localhost:5000"),
        (("--url", "http://"), 2, "http://localhost:5000"),
        (("--url", "http://localhost:5000", "--output", "x"), 2, "not both"),
        (("--output", "/nowhere/x"), 2, "choose another file with --output"),
        (("--url", "http://127.0.0.1:9"), 1, "say with --url where it is"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(
    dagster_home: tuple[Path, str], arguments: tuple[str, ...], code: int, told: str
) -> None:
    result = asked(dagster_home[0], *arguments)
    assert result.exit_code == code, result.output
    assert told in " ".join(result.output.replace("│", " ").split())


def test_no_instance_is_refused_with_what_to_set() -> None:
    result = asked(None)
    assert result.exit_code == 1
    assert "set DAGSTER_HOME to the absolute path" in result.output
