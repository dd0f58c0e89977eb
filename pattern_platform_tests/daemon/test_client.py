"""Runs from Python: what is submitted, what it tells when it fails, and what its outputs hold."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from pattern_platform import PlatformClient
from pattern_platform.errors import (
    MissingTableError,
    MissingVersionError,
    RunFailedError,
    RunNotOverError,
    SubmissionError,
    UnreadableOutputError,
    WebserverError,
)
from pattern_platform.orchestration.graphql.client import RUN_KEY, SubmittedRun
from pattern_platform.orchestration.graphql.outputs import Output, Outputs
from pattern_platform.orchestration.graphql.webserver import Webserver
from pattern_platform_tests.daemon.stack import ROOT, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("daemon")]
DAY, BROKEN, HELD, REPEATED, LAST = "2024-05-06", "2024-05-07", "2024-05-08", "2024-05-09", "2024-05-15"
COOKBOOK = [sys.executable, str(ROOT / "examples/nightly_cookbook.py")]


def amount(likes: int) -> dict[str, Any]:
    return {"ops": {"raw__likes": {"config": {"likes": likes}}}}


def started_cookbook(day: str, url: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PATTERN_PLATFORM_WEBSERVER": url, "COLUMNS": "200"}
    return subprocess.Popen(
        [*COOKBOOK, day], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(locations={"tables": "pattern_platform_tests.daemon.tables"}) as stack:
        yield stack


@pytest.fixture(scope="module")
def client(stack: Stack) -> PlatformClient:
    return PlatformClient(stack.url)


@pytest.fixture(scope="module")
def first_night(stack: Stack) -> subprocess.Popen[str]:
    """The cookbook, under way while the other runs are."""
    return started_cookbook(REPEATED, stack.url)


@pytest.fixture(scope="module")
def runs(stack: Stack, client: PlatformClient, first_night: subprocess.Popen[str]) -> dict[str, SubmittedRun]:
    """Runs that have nothing to do with each other, at the same time."""
    assert first_night.poll() is None
    stack.files.break_("likes", BROKEN)
    found = {
        "days": client.submit("raw/likes", partitions=("2024-05-12", LAST), config=amount(5), tags={"why": "test"}),
        "failed": client.submit("ingest_likes", partition=BROKEN),
        "totals": client.submit("totals", partition=DAY),
        "plain": client.submit("maintenance"),
    }
    with ThreadPoolExecutor() as waiting:
        list(waiting.map(lambda run: run.wait(120), [found["days"], found["totals"], found["plain"]]))
    return found


# What a run tells -----------------------------------------------------------------------------------------------------


def test_several_partitions_are_one_run_with_one_output(stack: Stack, runs: dict[str, SubmittedRun]) -> None:
    run = runs["days"]
    assert run.status == "SUCCESS"
    assert stack.tags(run.run_id)["why"] == "test"
    output = run.outputs["raw/likes"]
    assert (output.key, output.partition) == ("raw/likes", f"2024-05-12...{LAST}")
    assert output.metadata["dagster/column_schema"] == {"day": "Date", "number": "Int64"}
    assert output.read().filter(number=4).collect().height == 4


def test_an_output_in_duckdb_is_its_table(runs: dict[str, SubmittedRun]) -> None:
    output = runs["totals"].outputs["totals"]
    assert (output.partition, output.version) == (DAY, None)
    assert output.read().collect()["likes"].to_list() == [2]


def test_metadata_keeps_its_types(runs: dict[str, SubmittedRun]) -> None:
    metadata = runs["plain"].outputs["compaction"].metadata
    assert metadata == {"files": 3, "share": 0.5, "done": True, "tables": {"raw/likes": 1}}


def test_a_run_that_failed_names_its_steps_and_what_they_said(runs: dict[str, SubmittedRun]) -> None:
    with pytest.raises(RunFailedError, match=f"failed\n.*step raw__likes: .*BrokenOnPurposeError: likes {BROKEN}") as e:
        runs["failed"].wait(120)
    assert runs["failed"].run_id in str(e.value)
    assert "submit it again" in e.value.mend
    assert runs["failed"].status == "FAILURE"
    assert list(runs["failed"].outputs) == []
    with pytest.raises(UnreadableOutputError, match="it made nothing"):
        _ = runs["failed"].outputs["likes"]


# The same call again --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def submissions(stack: Stack, client: PlatformClient, runs: dict[str, SubmittedRun]) -> list[SubmittedRun]:
    """The same call while its run is under way, after it was canceled, after it succeeded; and another."""

    def submit(**other: Any) -> SubmittedRun:
        return client.submit("raw/likes", partition=HELD, key="night", **other)

    assert runs["days"].status == "SUCCESS"  # before these
    stack.files.hold("likes")
    found = [submit()]
    stack.wait(lambda: HELD in stack.files.executions("likes"), "the run")
    found.append(submit())
    with pytest.raises(RunNotOverError, match="goes on"):
        found[0].wait(0)
    stack.terminate(found[0].run_id)
    with pytest.raises(RunFailedError, match="was canceled"):
        found[0].wait(120)
    stack.files.release("likes")
    found.append(submit().wait(120))
    return [*found, submit(), submit(config=amount(3))]


def test_a_key_finds_the_run_that_is_under_way_or_succeeded_and_repeats_what_did_not(
    submissions: list[SubmittedRun],
) -> None:
    first, under_way, again, succeeded, other = (run.run_id for run in submissions)
    assert first == under_way
    assert again == succeeded
    assert len({first, again, other}) == 3


def test_an_output_of_delta_is_the_version_that_the_run_made(
    runs: dict[str, SubmittedRun], submissions: list[SubmittedRun]
) -> None:
    before, after = runs["days"].outputs["likes"], submissions[2].outputs["likes"]
    held = pl.col("day").cast(pl.String) == HELD
    assert before.version is not None
    assert after.version is not None
    assert after.version > before.version
    assert before.read().filter(held).collect().is_empty()
    assert after.read().filter(held).collect().height == 2
    assert after.read().filter(number=4).collect().height == 4  # all of the table, not what the run wrote alone


# The cookbook ---------------------------------------------------------------------------------------------------------


def test_the_cookbook_runs_its_workflows_in_their_order_and_once(
    stack: Stack, first_night: subprocess.Popen[str]
) -> None:
    told, refused = first_night.communicate()
    assert first_night.returncode == 0, refused
    assert REPEATED in told
    (ingested,) = stack.runs(job="ingest_likes", dagster__partition=REPEATED)
    (kept,) = [run for run in stack.runs(job="maintenance") if RUN_KEY in stack.tags(run)]
    assert stack.ended(ingested) < stack.started(kept)
    assert started_cookbook(REPEATED, stack.url).communicate()[0] == told
    assert stack.runs(job="ingest_likes", dagster__partition=REPEATED) == [ingested]


def test_the_cookbook_ends_with_what_was_refused(stack: Stack) -> None:
    refused = started_cookbook("2023-01-01", stack.url)
    _, told = refused.communicate()
    assert refused.returncode == 1
    assert "it has no partition '2023-01-01'; it has 2024-05-06 to 2024-05-15" in told


def test_the_page_shows_the_cookbook_as_it_is() -> None:
    page, script = (ROOT / "docs/running-from-python.md").read_text(), Path(COOKBOOK[1]).read_text()
    (shown,) = re.findall(r"```python\n(def nightly.*?)```", page, re.DOTALL)
    assert len(shown.splitlines()) == 4
    assert set(shown.splitlines()) <= set(script.splitlines())


def test_the_platform_has_what_the_cookbook_runs() -> None:
    from pattern_platform.definitions import defs as platform  # noqa: PLC0415

    assert {"ingest_likes", "maintenance"} <= {job.name for job in platform.get_repository_def().get_all_jobs()}


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "why", "mend"),
    [
        ("ingest_like", {"partition": DAY}, "no job and no asset", "did you mean ingest_likes"),
        ("raw/lieks", {"partition": DAY}, "no job and no asset", "raw/likes"),
        ("compactoin", {}, "no job and no asset", "did you mean maintenance/compaction"),
        ("__ASSET_JOB", {}, "no job and no asset", "see the names in the UI"),
        ("", {}, "no job and no asset", "see the names in the UI"),
        ("likes", {"partition": DAY}, "several are called so: asset .*, asset ", "write the whole key"),
        ("raw/likes", {"partition": "2024-5-6"}, "has no partition '2024-5-6'", "did you mean 2024-05-06"),
        ("ingest_likes", {"partition": "2025-01-01"}, "2024-05-06 to 2024-05-15", "mend"),
        ("ingest_likes", {}, "it is partitioned", "say which `partition`"),
        ("maintenance", {"partition": DAY}, "it has no partitions", "leave `partition` out"),
        ("raw/likes", {"partitions": (LAST, DAY)}, "2024-05-06 is before", "turn the `partitions` round"),
        ("raw/likes", {"partitions": (DAY, LAST)}, "10 partitions, and one run takes 4", "backfill"),
        ("totals", {"partitions": (DAY, BROKEN)}, "2 partitions, and one run takes 1", "several runs"),
        ("totals", {"partition": DAY, "partitions": (DAY, DAY)}, "it names one partition, and", "`partition` or"),
    ],
)
def test_what_could_only_fail_is_not_submitted(
    stack: Stack, client: PlatformClient, name: str, arguments: dict[str, Any], why: str, mend: str
) -> None:
    before = len(stack.runs())
    with pytest.raises(SubmissionError, match=f"(?s){why}.*{mend}"):
        client.submit(name, **arguments)
    assert len(stack.runs()) == before


def test_a_config_that_does_not_fit_is_refused(client: PlatformClient) -> None:
    with pytest.raises(WebserverError, match=r"(?s)likes.*configure it as its definitions say"):
        client.submit("raw/likes", partition=DAY, config={"ops": {"raw__likes": {"config": {"likes": "many"}}}})


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1:3000", "http://no.such.host.invalid", ""])
def test_a_webserver_that_cannot_be_reached_is_refused(url: str) -> None:
    with pytest.raises(WebserverError, match=r"(?s)asked in vain.*make dev"):
        PlatformClient(url).submit("maintenance")


def test_a_server_that_is_not_dagster_is_refused() -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"hello": "world"}')

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(WebserverError, match="not as Dagster does"):
            PlatformClient(f"http://127.0.0.1:{server.server_port}").submit("maintenance")


def test_a_run_that_dagster_does_not_hold_is_refused(stack: Stack) -> None:
    run = SubmittedRun(Webserver(stack.url), "00000000-0000-0000-0000-000000000000", "maintenance")
    with pytest.raises(WebserverError, match="Dagster does not hold it"):
        run.wait(10)
    with pytest.raises(WebserverError, match="could not be looked up"):
        _ = run.outputs


def test_outputs_that_cannot_be_read_are_refused(stack: Stack, runs: dict[str, SubmittedRun]) -> None:
    likes, totals = runs["days"].outputs["likes"], runs["totals"].outputs["totals"]
    with pytest.raises(UnreadableOutputError, match="did not say where"):
        runs["plain"].outputs["compaction"].read()
    with pytest.raises(UnreadableOutputError, match="on this machine"):
        replace(likes, metadata={**likes.metadata, "dagster/uri": "/nowhere/at/all"}).read()
    with pytest.raises(UnreadableOutputError, match="neither a version of a Delta table nor a DuckDB file"):
        replace(totals, metadata={"dagster/uri": str(stack.workspace)}).read()
    with pytest.raises(MissingVersionError, match="version 999"):
        replace(likes, metadata={**likes.metadata, "delta/version": 999}).read()
    with pytest.raises(MissingTableError, match="does not hold its table any more"):
        replace(totals, key="warehouse/sums").read()


def test_an_ambiguous_output_is_refused_and_a_whole_key_is_not() -> None:
    outputs = Outputs([Output(key, None, {}) for key in ("raw/likes", "clean/likes", "likes/top")], of="run 1")
    assert outputs["clean/likes"].key == "clean/likes"
    assert len(outputs) == 3
    with pytest.raises(UnreadableOutputError, match="several are called so: raw/likes, clean/likes"):
        _ = outputs["likes"]
