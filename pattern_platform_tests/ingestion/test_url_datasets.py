"""A data set whose source is a URL, as a line of the registry: from a server that throttles and fails to clean rows."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from pattern_platform.errors import InvalidRegistryError
from pattern_platform.ingestion.late import routing_sensor
from pattern_platform_tests.ingestion.events import LATE_DATA, hour
from pattern_platform_tests.ingestion.onboarding import CONTRACT, DAILY, DAY, Onboarded, onboard
from pattern_platform_tests.ingestion.server import Answer, Server, page, serving
from pattern_platform_tests.platform import errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "s3cr3t-value"  # noqa: S105 - made for these tests
RAW = dg.AssetSelection.assets(["raw", "sales"])
QUERY = "from=2024-05-06T00%3A00%3A00Z&to=2024-05-07T00%3A00%3A00Z"
DOWN = Answer(status=503)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were asked for, none of which is waited for."""
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waits.append))
    return waits


def sales(folder: Path, server: Server, *, query: str = "?from={start}&to={end}", **cells: str) -> Onboarded:
    """A data set that is fetched from the server, of days, as jsonl unless told."""
    return onboard(folder, {**DAILY, "source": f"{server.url}/sales{query}", "format": "jsonl", **cells})


def sale(name: str, at: str = f"{DAY}T10:00:00Z") -> str:
    return json.dumps({"id": name, "at": at, "euros": 1.5}) + "\n"


def fetched(platform: Onboarded) -> list[str]:
    return platform.of("clean")["id"].to_list()


# What arrives ---------------------------------------------------------------------------------------------------------


def test_a_day_is_fetched_page_by_page_and_cleaned(tmp_path: Path, server: Server) -> None:
    server.script("/sales", page(sale("a") + sale("b"), "/sales/2"))
    server.script("/sales/2", page(sale("c") + '{"id": "d"\n'))
    platform = sales(tmp_path, server)
    platform.ingest(DAY)
    assert fetched(platform) == ["a", "b", "c"]
    assert platform.rejects() == {("page-00002.jsonl", 2): ["malformed record"]}
    assert server.targets == [f"/sales?{QUERY}", "/sales/2"]
    assert set(platform.of("raw")["source_file"]) == {f"sales/date={DAY}/page-0000{number}.jsonl" for number in (1, 2)}


@pytest.mark.parametrize(
    ("form", "kind", "body"),
    [
        ("csv", "text/csv", f"id,at,euros\na,{DAY}T10:00:00Z,1.5\nb,{DAY}T10:00:00Z,\n"),
        ("json", "application/json", f"[{sale('a')},{sale('b')}]"),
        ("jsonl", "application/x-ndjson", sale("a") + sale("b")),
    ],
)
def test_each_format_that_a_url_brings(tmp_path: Path, server: Server, form: str, kind: str, body: str) -> None:
    server.script("/sales", page(body, "/sales/2", kind=kind))
    server.script("/sales/2", page(body, kind=kind))
    platform = sales(tmp_path, server, format=form)
    platform.ingest(DAY)
    assert fetched(platform) == ["a", "b"]
    assert platform.of("raw").height == 4
    assert len(platform.rejects()) == 2  # the second page says the same again


def test_a_day_without_sales_is_there(tmp_path: Path, server: Server) -> None:
    server.script("/sales", page(""))
    platform = sales(tmp_path, server)
    platform.ingest(DAY)
    assert platform.of("clean").is_empty()


def test_a_server_that_throttles_and_fails_is_waited_for(tmp_path: Path, server: Server, waits: list[float]) -> None:
    busy = Answer(status=429, headers={"Retry-After": "7"})
    server.script("/sales", busy, DOWN, page(sale("a"), "/sales/2"))
    server.script("/sales/2", Answer(reset=True), Answer(status=502), page(sale("b")))
    platform = sales(tmp_path, server)
    platform.ingest(DAY)
    assert fetched(platform) == ["a", "b"]
    assert len(server.requests) == 6
    assert len(waits) == 4
    assert waits[0] == 7.0
    assert max(waits[1:]) <= 1.0


def test_days_of_one_run_are_fetched_each_by_itself(tmp_path: Path, server: Server) -> None:
    server.script("/sales", page(sale("a")), page(sale("b", "2024-05-07T10:00:00Z")))
    platform = sales(tmp_path, server)
    assert platform.run_range(dg.AssetSelection.all(), DAY, "2024-05-07").success
    assert fetched(platform) == ["a", "b"]
    assert [target[-70:] for target in server.targets] == [
        f"/sales?{QUERY}",
        f"/sales?{QUERY.replace('-07T', '-08T').replace('-06T', '-07T')}",
    ]


def test_a_day_of_a_zone_is_asked_for_in_utc(tmp_path: Path, server: Server) -> None:
    server.script("/sales", page(sale("a", "2024-05-05T22:00:00Z")))
    platform = sales(tmp_path, server, query="?from={start:%Y-%m-%dT%H}", time_zone="Europe/Paris")
    platform.ingest(DAY)
    assert fetched(platform) == ["a"]
    assert server.targets == ["/sales?from=2024-05-05T22"]


def test_hours_have_a_folder_each(tmp_path: Path, server: Server) -> None:
    server.script("/sales", page(sale("a", f"{DAY}T05:00:00Z")), page(sale("b", f"{DAY}T06:00:00Z")))
    platform = sales(tmp_path, server, granularity="hour", ends="2024-05-07")
    assert platform.run_range(dg.AssetSelection.all(), hour(5), hour(6)).success
    assert fetched(platform) == ["a", "b"]
    folders = sorted(file.parent.name for file in (tmp_path / "landing").rglob("page-*.jsonl"))
    assert folders == ["hour=05", "hour=06"]


def test_what_is_fetched_may_be_late(tmp_path: Path, server: Server) -> None:
    contract = CONTRACT + "  got: {type: timestamp, optional: true, description: When it was told.}\n"
    row = {
        **DAILY,
        "source": f"{server.url}/sales?from={{start}}",
        "format": "jsonl",
        "incremental_field": "got",
        "allowed_lateness": "1",
    }
    server.script("/sales", page(sale("a")), page(sale("b") + sale("c", "2024-05-07T10:00:00Z")))
    platform = onboard(tmp_path, row, contracts={"contracts/sales.yaml": contract})
    platform.instance = dg.DagsterInstance.ephemeral()
    assert platform.run_range(RAW, DAY, "2024-05-07").success
    found = routing_sensor(platform.dataset, LATE_DATA)(dg.build_sensor_context(instance=platform.instance))
    assert isinstance(found, dg.SensorResult)
    for request in found.run_requests or []:
        assert platform.run(list(request.asset_selection or ()), tags=request.tags).success
    assert fetched(platform) == ["a", "b", "c"]


# Again ----------------------------------------------------------------------------------------------------------------


def test_a_replay_reads_what_landed_and_asks_nobody(tmp_path: Path, server: Server) -> None:
    server.script("/sales", page(sale("a")), page(sale("changed")))
    platform = sales(tmp_path, server)
    for _ in range(2):
        platform.ingest(DAY)
    assert fetched(platform) == ["a"]
    assert len(server.requests) == 1


def test_again_fetches_a_day_anew(tmp_path: Path, server: Server) -> None:
    server.script("/sales", page(sale("a")), page(sale("changed")))
    platform = sales(tmp_path, server)
    platform.ingest(DAY)
    result = platform.run(RAW, DAY, config={"raw__sales": {"again": True}})
    assert result.success, errors(result)
    platform.ingest(DAY, stages=("clean", "quarantine"))
    assert fetched(platform) == ["changed"]
    assert len(server.requests) == 2


def test_again_that_fails_leaves_what_was_there(tmp_path: Path, server: Server) -> None:
    server.script("/sales", page(sale("a")), DOWN)
    platform = sales(tmp_path, server)
    platform.ingest(DAY)
    assert not platform.run(RAW, DAY, config={"raw__sales": {"again": True}}).success
    platform.ingest(DAY)  # from the files that landed
    assert fetched(platform) == ["a"]


def test_whoever_comes_after_a_failure_goes_on_from_there(tmp_path: Path, server: Server, waits: list[float]) -> None:
    server.script("/sales", page(sale("a"), "/sales/2"))
    server.script("/sales/2", *[DOWN] * 6, page(sale("b")))
    platform = sales(tmp_path, server)
    error = platform.refusal(DAY)
    assert "SourceUnavailableError" in error
    assert "given up after 6 attempts" in error
    assert "503 Service Unavailable" in error
    assert "run again later" in error
    assert not platform.lake.exists()  # half a day is none
    assert len(waits) == 5
    platform.ingest(DAY)
    assert fetched(platform) == ["a", "b"]
    assert server.targets.count(f"/sales?{QUERY}") == 1


# Headers --------------------------------------------------------------------------------------------------------------


def test_headers_are_the_values_of_variables(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", f"Bearer {SECRET}")
    monkeypatch.setenv("SHOP_TENANT", "web")
    server.script("/sales", page(sale("a")))
    platform = sales(tmp_path, server, headers="Authorization=SHOP_TOKEN|X-Tenant=SHOP_TENANT")
    platform.ingest(DAY)
    (request,) = server.requests
    assert (request.headers["authorization"], request.headers["x-tenant"]) == (f"Bearer {SECRET}", "web")
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert SECRET.encode() not in kept
    assert SECRET not in repr(platform.dataset)


# Errors ---------------------------------------------------------------------------------------------------------------


REFUSALS = {
    "no credentials": (Answer(status=401), {}, "it answered 401 Unauthorized", "see to the headers"),
    "forbidden": (Answer(status=403), {}, "it answered 403 Forbidden", "see to the headers"),
    "no such page": (Answer(status=404), {}, "it answered 404 Not Found", "see to the URL"),
    "a login page": (page("<html>", kind="text/html"), {}, "text/html, not with jsonl", "see what it serves"),
    "an error that is no array": (
        page('{"error": "no"}', kind="application/json"),
        {"format": "json"},
        "the body is no json",
        "declare its format",
    ),
    "another header": (
        page(f"id,at,price\na,{DAY}T10:00:00Z,1\n", kind="text/csv"),
        {"format": "csv"},
        "its header is with price",
        "declare the new header",
    ),
    "pages without end": (page("", "/sales?" + QUERY), {}, "the pages never end", "mend its next links"),
    "a year of waiting": (
        Answer(status=429, headers={"Retry-After": "31536000"}),
        {},
        "asks to wait for 31536000 s",
        "run again later",
    ),
    "a wrong compression": (
        Answer(b"x", headers={"Content-Type": "application/x-ndjson", "Content-Encoding": "br"}),
        {},
        "encoding br",
        "let it answer in gzip",
    ),
    "a variable that is not set": (
        page(""),
        {"headers": "Authorization=NO_SUCH_VARIABLE"},
        "'NO_SUCH_VARIABLE' of header Authorization is not set",
        "set it where the run is executed",
    ),
    "a new column": (
        page('{"id": "a", "at": "2024-05-06T10:00:00Z", "euros": 1, "colour": "red"}\n'),
        {},
        "colour",
        "new_columns",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_wrong_with_a_source_is_told(tmp_path: Path, server: Server, what: str) -> None:
    answer, cells, why, mend = REFUSALS[what]
    server.script("/sales", answer)
    platform = sales(tmp_path, server, **cells)
    error = platform.refusal(DAY)
    assert why in error
    assert mend in error
    assert not (platform.lake / "clean").exists()


def test_errors_do_not_tell_secrets_of_a_url(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", SECRET)
    server.script("/sales", Answer(status=403))
    platform = sales(tmp_path, server, query=f"?from={{start}}&api_key={SECRET}", headers="Authorization=SHOP_TOKEN")
    error = platform.refusal(DAY)
    assert "api_key=***" in error
    assert SECRET not in error


MISTAKES = {
    "no time in the URL": ({"source": "https://shop.example/sales"}, "source", "{start}"),
    "another time": ({"source": "https://shop.example/sales?d={day}"}, "source", "{start}"),
    "a brace too few": ({"source": "https://shop.example/sales?d={start"}, "source", "{start}"),
    "no strftime": ({"source": "https://shop.example/sales?d={start:YYYY-MM-DD}"}, "source", "%Y-%m-%d"),
    "another scheme": ({"source": "ftp://shop.example/sales?d={start}"}, "source", "http://, https://"),
    "no host": ({"source": "https:///sales?d={start}"}, "source", "no host"),
    "a bucket": ({"source": "s3://shop/sales/{start}"}, "source", "http://, https://"),
    "parquet": ({"format": "parquet"}, "format", "a URL brings jsonl, json or csv"),
    "as a whole": (
        {"granularity": "none", "ingestion_style": "full", "partition_field": "", "starts": "", "ends": ""},
        "granularity",
        "a URL is fetched a partition at a time",
    ),
    "the value of a header": ({"headers": "Authorization=Bearer abc"}, "headers", "Authorization="),
    "a header with a colon": ({"headers": "Authorization: SHOP_TOKEN"}, "headers", "="),
    "headers of files": (
        {"source": "sales/date=%Y-%m-%d/*.jsonl", "headers": "Authorization=SHOP_TOKEN"},
        "headers",
        "they go with requests to a URL",
    ),
    "an array in files": (
        {"source": "sales/date=%Y-%m-%d/*.json", "format": "json"},
        "format",
        "files are jsonl, csv or parquet",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_in_a_line_is_told_with_its_column(tmp_path: Path, what: str) -> None:
    cells, column, told = MISTAKES[what]
    row = {**DAILY, "source": "https://shop.example/sales?from={start}", "format": "jsonl", **cells}
    with pytest.raises(InvalidRegistryError) as refused:
        onboard(tmp_path, row)
    (line,) = [text for text in str(refused.value).splitlines() if f"column {column!r}" in text]
    assert "line 2" in line
    assert told in line


@pytest.mark.parametrize(
    "source",
    [
        f"https://web:{SECRET}@shop.example/sales?from={{start}}",
        f"https://{SECRET}@shop.example/sales?from={{start}}",
        f"https://shop.example/sales?api_key={SECRET}&from={{day}}",
    ],
)
def test_a_mistake_does_not_tell_the_secrets_of_a_url(tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidRegistryError) as refused:
        onboard(tmp_path, {**DAILY, "source": source, "format": "jsonl"})
    assert "column 'source'" in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("headers", [f"Authorization=Bearer {SECRET}", f"Authorization={SECRET}"])
def test_a_mistake_does_not_tell_a_value_that_was_given_for_a_name(tmp_path: Path, headers: str) -> None:
    row = {**DAILY, "source": "https://shop.example/sales?from={start}", "format": "jsonl", "headers": headers}
    with pytest.raises(InvalidRegistryError) as refused:
        onboard(tmp_path, row)
    assert "column 'headers'" in str(refused.value)
    assert SECRET not in str(refused.value)
