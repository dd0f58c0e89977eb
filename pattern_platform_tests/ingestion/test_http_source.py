"""A source over HTTP that throttles, fails, breaks off and dies: what lands, after how many requests and waits."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pattern_platform.errors import SourceRefusedError, SourceUnavailableError, UnreadableFileError
from pattern_platform.ingestion.http import landing as http_landing
from pattern_platform.ingestion.http.landing import land
from pattern_platform.ingestion.http.source import HttpSource
from pattern_platform_tests.ingestion.server import Answer, Server, page, serving, zipped

if TYPE_CHECKING:
    from collections.abc import Iterator

START = datetime(2024, 5, 6, 5, tzinfo=UTC)
WINDOW = {"start": START, "end": START + timedelta(hours=1)}
ROWS = [b'{"visit": 1}\n{"visit": 2}\n', b'{"visit": 3}\n', b'{"visit": 4}\n{"visit": 5}\n']
QUERY = "from=2024-05-06T05%3A00%3A00Z&to=2024-05-06T06%3A00%3A00Z"
SECRET = "s3cr3t-value"  # noqa: S105 - made for these tests


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "visits" / "hour=05"


def source(server: Server, query: str = "?from={start}&to={end}", **options: Any) -> HttpSource:
    return HttpSource(f"{server.url}/visits{query}", **{"format": "jsonl", **options})


def script_pages(server: Server, bodies: list[bytes], before: dict[int, list[Answer]] | None = None) -> None:
    """Pages at /visits, /visits/2 and so on, each after what goes wrong ``before``."""
    for number, body in enumerate(bodies, start=1):
        path = "/visits" if number == 1 else f"/visits/{number}"
        following = f"/visits/{number + 1}" if number < len(bodies) else None
        server.script(path, *(before or {}).get(number, []), page(body, following))


def landed(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.glob("*.jsonl"))]


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# What lands -----------------------------------------------------------------------------------------------------------


def test_each_page_is_a_file_and_the_marker_tells_what_they_are(server: Server, folder: Path) -> None:
    script_pages(server, ROWS)
    files = land(source(server), folder, **WINDOW)
    assert [file.name for file in files] == ["page-00001.jsonl", "page-00002.jsonl", "page-00003.jsonl"]
    assert [file.read_bytes() for file in files] == ROWS == landed(folder)
    assert server.targets == [f"/visits?{QUERY}", "/visits/2", "/visits/3"]
    marker = json.loads((folder / "_complete").read_text())
    assert (marker["rows"], marker["bytes"]) == (5, sum(map(len, ROWS)))
    assert [part["sha256"] for part in marker["pages"]] == [hashlib.sha256(body).hexdigest() for body in ROWS]
    assert [part["rows"] for part in marker["pages"]] == [2, 1, 2]
    assert datetime.fromisoformat(marker["fetched_at"]) <= datetime.now(UTC)
    assert names(folder) == {file.name for file in files} | {"_complete"}


def test_what_has_landed_is_not_fetched_again(server: Server, folder: Path) -> None:
    script_pages(server, ROWS)
    assert land(source(server), folder, **WINDOW) == land(source(server), folder, **WINDOW)
    assert len(server.requests) == 3


def test_an_hour_without_rows_lands(server: Server, folder: Path) -> None:
    server.script("/visits", page(b""))
    assert [file.read_bytes() for file in land(source(server), folder, **WINDOW)] == [b""]


@pytest.mark.parametrize(
    ("query", "target"),
    [
        ("?from={start}", "?from=2024-05-06T05%3A00%3A00Z"),
        ("?to={end}&from={start}&a=b", "?to=2024-05-06T06%3A00%3A00Z&from=2024-05-06T05%3A00%3A00Z&a=b"),
        ("/{start:%Y/%m/%d/%H}", "/2024/05/06/05"),
        ("?day={start:%Y-%m-%d}&until={end:%s}", "?day=2024-05-06&until=1714975200"),
        ("?zone={start:%z}", "?zone=%2B0000"),
    ],
)
def test_the_window_is_asked_for_in_utc(server: Server, query: str, target: str) -> None:
    summer = START.astimezone(timezone(timedelta(hours=2)))
    assert source(server, query).url_of(summer, WINDOW["end"]) == f"{server.url}/visits{target}"


def test_an_array_lands_as_lines_with_every_digit(server: Server, folder: Path) -> None:
    body = (
        '[{"id": 123456789012345678901, "price": 1.10,\r\n "page": "caf\\u00e9 ü"},\n {"id": 2, "nested": {"a": [1]}}]'
    )
    server.script("/visits", page(body, kind="application/json; charset=utf-8"))
    (file,) = land(source(server, format="json"), folder, **WINDOW)
    lines = file.read_text().splitlines()
    assert lines[0] == '{"id": 123456789012345678901, "price": 1.10,   "page": "caf\\u00e9 ü"}'
    assert lines[1] == '{"id": 2, "nested": {"a": [1]}}'
    assert file.name == "page-00001.jsonl"


def test_an_empty_array_lands_as_no_line(server: Server, folder: Path) -> None:
    server.script("/visits", page("[]", kind="application/json"))
    assert [file.read_bytes() for file in land(source(server, format="json"), folder, **WINDOW)] == [b""]


def test_csv_lands_as_it_is(server: Server, folder: Path) -> None:
    server.script(
        "/visits",
        page('id,note\n1,"two\nlines"\n', "/visits?page=2", kind="text/csv"),
        page("id,note\n", kind="text/csv"),
    )
    files = land(source(server, format="csv"), folder, **WINDOW)
    assert [file.name for file in files] == ["page-00001.csv", "page-00002.csv"]
    assert files[0].read_text() == 'id,note\n1,"two\nlines"\n'
    assert [part["rows"] for part in json.loads((folder / "_complete").read_text())["pages"]] == [1, 0]


def test_a_compressed_body_lands_as_what_it_holds(server: Server, folder: Path) -> None:
    server.script("/visits", zipped(ROWS[0] * 50_000))
    assert [file.read_bytes() for file in land(source(server), folder, **WINDOW)] == [ROWS[0] * 50_000]
    assert server.requests[0].headers["accept-encoding"] == "gzip"


def test_a_malformed_line_lands_to_be_quarantined(server: Server, folder: Path) -> None:
    server.script("/visits", page('{"visit":\n{"visit": 1}\n'))
    assert [file.read_text() for file in land(source(server), folder, **WINDOW)] == ['{"visit":\n{"visit": 1}\n']


# What is repeated -----------------------------------------------------------------------------------------------------

FAILURES = {
    **{str(status): Answer(status=status) for status in (408, 425, 429, 500, 502, 503, 504)},
    "reset": Answer(reset=True),
    "cut off": Answer(ROWS[0][:9], headers={"Content-Type": "application/x-ndjson"}, told=len(ROWS[0])),
    "nothing of it": Answer(headers={"Content-Type": "application/x-ndjson"}, told=len(ROWS[0])),
    "gzip cut off": zipped(ROWS[0], cut=9),
    "gzip cut off, length unknown": zipped(ROWS[0], cut=9, sized=False),
    "cut off, length unknown": Answer(ROWS[0][:9], told=-1),
    "chunks cut off": Answer(b"40\r\nabc", headers={"Transfer-Encoding": "chunked"}, told=-1),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_what_may_pass_is_asked_for_again(server: Server, folder: Path, waits: list[float], failure: Answer) -> None:
    script_pages(server, ROWS, {2: [failure, failure]})
    land(source(server), folder, **WINDOW)
    assert landed(folder) == ROWS
    assert server.targets == [f"/visits?{QUERY}", "/visits/2", "/visits/2", "/visits/2", "/visits/3"]
    assert len(waits) == 2


def test_an_array_that_may_be_cut_off_is_asked_for_again(server: Server, folder: Path) -> None:
    whole = page('[{"visit": 1}]', kind="application/json")
    server.script("/visits", Answer(b'[{"visit": 1}', headers=JSON, told=-1), whole)
    land(source(server, format="json"), folder, **WINDOW)
    assert landed(folder) == [b'{"visit": 1}\n']


def test_a_silent_server_is_asked_again(server: Server, folder: Path, waits: list[float]) -> None:
    script_pages(server, ROWS, {1: [Answer(held=True)]})
    land(source(server, timeout=0.1), folder, **WINDOW)
    assert landed(folder) == ROWS
    assert (len(server.requests), len(waits)) == (4, 1)


def test_waits_grow_and_are_drawn(server: Server, folder: Path, waits: list[float]) -> None:
    server.script("/visits", Answer(status=500))
    with pytest.raises(
        SourceUnavailableError, match=r"(?s)/visits.*after 12 attempts.*500 Internal Server Error.*later"
    ):
        land(source(server, most_attempts=12, first_wait=1.0, longest_wait=20.0), folder, **WINDOW)
    assert len(server.requests) == 12
    assert all(0 <= wait <= min(2**n, 20) for n, wait in enumerate(waits))
    assert len(set(waits)) == len(waits) == 11
    assert max(waits) > 1
    assert names(folder.parent) <= {f".{folder.name}.lock", folder.name}
    assert not landed(folder)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_is_waited_for(server: Server, folder: Path, waits: list[float], status: int) -> None:
    script_pages(server, ROWS, {1: [Answer(status=status, headers={"Retry-After": "17"})]})
    land(source(server), folder, **WINDOW)
    assert waits == [17.0]


def test_retry_after_as_a_date_is_waited_for(server: Server, folder: Path, waits: list[float]) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    script_pages(server, ROWS, {1: [Answer(status=503, headers={"Retry-After": date})]})
    land(source(server), folder, **WINDOW)
    assert 20 < waits[0] <= 30


@pytest.mark.parametrize(
    "value", ["0", "soon", "-5", "1.5", "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00"]
)
def test_retry_after_that_says_nothing_leaves_the_wait_as_it_is(
    server: Server, folder: Path, waits: list[float], value: str
) -> None:
    script_pages(server, ROWS, {1: [Answer(status=503, headers={"Retry-After": value})]})
    land(source(server), folder, **WINDOW)
    assert len(waits) == 1
    assert 0 <= waits[0] <= 0.5


@pytest.mark.parametrize("value", ["3600", "9" * 400])
def test_a_retry_after_of_an_hour_is_left_to_a_later_run(
    server: Server, folder: Path, waits: list[float], value: str
) -> None:
    script_pages(server, ROWS, {2: [Answer(status=429, headers={"Retry-After": value})]})
    with pytest.raises(SourceUnavailableError, match=r"(?s)after 1 attempt\n.*429.*asks to wait") as error:
        land(source(server), folder, **WINDOW)
    assert error.value.allow_retries
    assert not waits
    land(source(server), folder, **WINDOW)
    assert server.targets == [f"/visits?{QUERY}", "/visits/2", "/visits/2", "/visits/3"]


def test_a_server_that_is_away_is_unavailable(folder: Path, waits: list[float]) -> None:
    with serving() as server:
        gone = source(server)
    with pytest.raises(SourceUnavailableError, match="it did not answer"):
        land(gone, folder, **WINDOW)
    assert len(waits) == 5


FAILED = st.lists(st.sampled_from(sorted(FAILURES)), max_size=5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scripts=st.tuples(FAILED, FAILED, FAILED))
def test_failures_fewer_than_the_attempts_change_nothing(scripts: tuple[list[str], ...]) -> None:
    before = {number: [FAILURES[name] for name in script] for number, script in enumerate(scripts, start=1)}
    with serving() as server, TemporaryDirectory() as root:
        script_pages(server, ROWS, before)
        land(source(server), Path(root, "hour"), **WINDOW)
        assert landed(Path(root, "hour")) == ROWS
        assert len(server.requests) == 3 + sum(map(len, scripts))


def test_one_failure_more_is_too_much(server: Server, folder: Path) -> None:
    """The negative control."""
    script_pages(server, ROWS, {1: [FAILURES["503"]] * 6})
    with pytest.raises(SourceUnavailableError):
        land(source(server), folder, **WINDOW)


# What is refused at once ----------------------------------------------------------------------------------------------

STATUSES = {
    204: "204 No Content",
    206: "206 Partial Content",
    304: "304 Not Modified",
    400: "400 Bad Request",
    401: "(?s)401 Unauthorized.*variables that they name hold valid credentials",
    403: "(?s)403 Forbidden.*credentials",
    404: "(?s)404 Not Found.*see to the URL",
    410: "410 Gone",
    501: "501 Not Implemented",
    599: "answered 599",
}


@pytest.mark.parametrize(("status", "message"), STATUSES.items(), ids=str)
def test_a_permanent_answer_is_not_repeated(
    server: Server, folder: Path, waits: list[float], status: int, message: str
) -> None:
    server.script("/visits", Answer(status=status))
    with pytest.raises(SourceRefusedError, match=message) as error:
        land(source(server), folder, **WINDOW)
    assert not error.value.allow_retries
    assert (len(server.requests), waits) == (1, [])


JSON, CSV = {"Content-Type": "application/json"}, {"Content-Type": "text/csv"}
BODIES = {
    "html": ("jsonl", Answer(b"<html>", headers={"Content-Type": "text/html"}), "text/html, not with jsonl"),
    "csv for jsonl": ("jsonl", Answer(b"id\n1\n", headers=CSV), "text/csv, not with jsonl"),
    "lines without object": ("jsonl", Answer(b"Service is down\nfor today\n"), "none of its lines is a JSON object"),
    "deep nesting": ("jsonl", Answer(b"[" * 100_000), "none of its lines is a JSON object"),
    "latin-1": ("jsonl", Answer('{"page": "café"}\n'.encode("latin-1")), "not UTF-8 text"),
    "utf-8 cut": ("jsonl", Answer('{"page": 1}\né'.encode()[:-1]), "not UTF-8 text"),
    "json cut": ("json", Answer(b'[{"visit": 1}', headers=JSON), "not an array of JSON objects"),
    "json object": ("json", Answer(b'{"error": "none"}', headers=JSON), "not an array of JSON objects"),
    "json numbers": ("json", Answer(b"[1, 2]", headers=JSON), "an element of its array is not an object"),
    "json lines": ("json", Answer(ROWS[0], headers=JSON), "not an array of JSON objects"),
    "json empty": ("json", Answer(b"", headers=JSON), "it is empty"),
    "html as csv": ("csv", Answer(b"\n<!DOCTYPE html><p>a,b\n", headers=CSV), "HTML or JSON, not csv"),
    "csv empty": ("csv", Answer(b"", headers=CSV), "no header"),
    "csv ragged": ("csv", Answer(b"a,b\n1,2,3\n", headers=CSV), "it is not csv"),
    "no gzip": ("jsonl", Answer(ROWS[0], headers={"Content-Encoding": "gzip"}), "not gzip, as its header says"),
    "brotli": ("jsonl", Answer(ROWS[0], headers={"Content-Encoding": "br"}), "in encoding br"),
    "too large": ("jsonl", Answer(ROWS[0] * 1000), "(?s)larger than 10,000 bytes.*raise most_bytes"),
    "zip bomb": ("jsonl", zipped(b" " * 10_000_000), "larger than 10,000 bytes"),
}


@pytest.mark.parametrize(("form", "answer", "message"), BODIES.values(), ids=BODIES)
def test_a_body_that_is_not_what_it_says_is_refused(
    server: Server, folder: Path, waits: list[float], form: str, answer: Answer, message: str
) -> None:
    server.script("/visits", answer)
    with pytest.raises(SourceRefusedError, match=message) as error:
        land(source(server, format=form, most_bytes=10_000 if "10,000" in message else 1 << 20), folder, **WINDOW)
    assert "mend:" in str(error.value)
    assert (len(server.requests), waits) == (1, [])
    assert not folder.exists() or not names(folder)


DECLARATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no scheme": ({"url": "api.example.org/visits?from={start}"}, "(?s)no scheme http.*https://host/path"),
    "ftp": ({"url": "ftp://example.org/{start}"}, "no scheme http"),
    "no host": ({"url": "https:///visits?from={start}"}, "no host"),
    "port": ({"url": "https://example.org:8o8o/{start}"}, "it is no URL"),
    "brackets": ({"url": "https://[::1/{start}"}, "it is no URL"),
    "password": ({"url": f"https://u:{SECRET}@example.org/{{start}}"}, r'(?s)user or a password.*"env:NAME'),
    "password with slash": ({"url": f"https://u:a/{SECRET}@example.org/{{start}}"}, "no URL"),
    "no window": ({"url": "https://example.org/visits"}, r"(?s)same for every partition.*\{start\}"),
    "end alone": ({"url": "https://example.org/visits?to={end}"}, "without {start}"),
    "other field": ({"url": "https://example.org/?d={date}"}, r"(?s)\{date\} is not known.*\{start\} and \{end\}"),
    "numbered": ({"url": "https://example.org/?d={}"}, r"\{\} is not known"),
    "attribute": ({"url": "https://example.org/?d={start.__class__}"}, "is not known"),
    "open brace": ({"url": "https://example.org/?d={start"}, "(?s)braces do not match.*write it as"),
    "format": ({"url": "https://example.org/?d={start:YYYY-MM-DD}"}, "(?s)no format of strftime, such as %Y-%m-%d"),
    "xml": ({"format": "xml"}, "(?s)'xml'.*jsonl, csv or json"),
    "no attempts": ({"most_attempts": 0}, "not positive"),
    "no time": ({"timeout": 0}, "not positive"),
    "no bytes": ({"most_bytes": -1}, "not positive"),
    "negative wait": ({"longest_wait": -1}, "(?s)negative.*seconds"),
    "header name": ({"headers": {"Authorization:": "x"}}, "(?s)no name of a header.*colon"),
    "header inside": ({"headers": {"Authorization": "Bearer env:TOKEN"}}, "(?s)header Authorization.*whole value"),
}


@pytest.mark.parametrize(("options", "message"), DECLARATIONS.values(), ids=DECLARATIONS)
def test_a_declaration_that_cannot_be_asked_for_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceRefusedError, match=message) as error:
        HttpSource(**{"url": "https://example.org/?d={start}", "format": "jsonl", **options})
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("value", [f"{SECRET}\n", f" {SECRET}", f"a\r\nX: {SECRET}", f"ü{SECRET}"])
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("API_KEY", value)
    with pytest.raises(SourceRefusedError, match=r"(?s)value of header X-Api-Key has a line break") as error:
        land(source(server, headers={"X-Api-Key": "env:API_KEY"}), folder, **WINDOW)
    assert SECRET not in str(error.value)
    assert not server.requests


def test_a_variable_that_is_not_set_is_named(server: Server, folder: Path) -> None:
    with pytest.raises(SourceRefusedError, match=r"(?s)'NOT_SET_API_KEY' of header X-Api-Key is not set.*set it"):
        land(source(server, headers={"X-Api-Key": "env:NOT_SET_API_KEY"}), folder, **WINDOW)
    assert not server.requests


@pytest.mark.parametrize(
    "window", [{"start": START, "end": START}, {"start": START.replace(tzinfo=None), "end": START + timedelta(hours=1)}]
)
def test_a_window_that_is_none_is_refused(server: Server, folder: Path, window: dict[str, datetime]) -> None:
    with pytest.raises(SourceRefusedError, match="empty or has no zone"):
        land(source(server), folder, **window)


def test_tls_that_fails_is_not_repeated(server: Server, folder: Path, waits: list[float]) -> None:
    plain = HttpSource(server.url.replace("http:", "https:") + "/visits?from={start}", "jsonl")
    with pytest.raises(SourceRefusedError, match="TLS failed"):
        land(plain, folder, **WINDOW)
    assert not waits


# Pages that follow ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["/visits/2", "visits/2", "{url}/visits/2", "/visits/2#top"])
def test_a_next_link_may_be_relative(server: Server, folder: Path, link: str) -> None:
    server.script("/visits", page(ROWS[0], link.replace("{url}", server.url)))
    server.script("/visits/2", page(ROWS[1]))
    land(source(server), folder, **WINDOW)
    assert server.targets[1:] == ["/visits/2"]


def test_other_links_are_not_followed(server: Server, folder: Path) -> None:
    links = '</visits/1>; rel="prev", </visits/2>; rel="Next last"; title="a, b", </visits/9>; rel=last'
    server.script("/visits", Answer(ROWS[0], headers={"Link": links}))
    server.script("/visits/2", Answer(ROWS[1], headers={"Link": '</visits>; rel="first"'}))
    land(source(server), folder, **WINDOW)
    assert server.targets[1:] == ["/visits/2"]


@pytest.mark.parametrize("back", ["/visits/2", f"/visits?{QUERY}", "/visits/3"])
def test_pages_that_lead_back_are_refused(server: Server, folder: Path, back: str) -> None:
    for path, answer in {
        "/visits": page(ROWS[0], "/visits/2"),
        "/visits/2": page(ROWS[1], "/visits/3"),
        "/visits/3": page(ROWS[2], back),
    }.items():
        server.script(path, answer, Answer(status=404))  # once, so that nobody goes round for ever
    with pytest.raises(SourceRefusedError, match=r"(?s)page 3 of .*/visits/3.*the pages never end"):
        land(source(server), folder, **WINDOW)
    assert len(server.requests) == 3


def test_pages_without_end_are_refused(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_landing, "_MOST_PAGES", 2)
    script_pages(server, ROWS)
    with pytest.raises(SourceRefusedError, match=r"(?s)at most 2 pages.*ask for larger pages"):
        land(source(server), folder, **WINDOW)
    script_pages(server, ROWS[:2])
    assert len(land(source(server), folder, **WINDOW)) == 2


@pytest.mark.parametrize(
    "link", ["file:///etc/passwd", "ftp://example.org/2", f"http://u:{SECRET}@example.org/2", "http://[::1"]
)
def test_a_next_link_to_elsewhere_than_http_is_refused(server: Server, folder: Path, link: str) -> None:
    server.script("/visits", page(ROWS[0], link))
    with pytest.raises(SourceRefusedError, match=r"URL of the page after|next link is no URL") as error:
        land(source(server), folder, **WINDOW)
    assert SECRET not in str(error.value)


# Secrets --------------------------------------------------------------------------------------------------------------


def test_headers_go_to_the_host_of_the_source_alone(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", SECRET)
    headers = {"X-Api-Key": "env:API_KEY", "authorization": "env:API_KEY"}
    with serving() as other:
        server.script("/visits", Answer(status=302, headers={"Location": "/moved"}))
        server.script("/moved", page(ROWS[0], f"{other.url}/visits/2"))
        other.script("/visits/2", page(ROWS[1], f"{server.url}/visits/3"))
        server.script("/visits/3", Answer(status=307, headers={"Location": f"{other.url}/visits/3"}))
        other.script("/visits/3", Answer(ROWS[2]))
        land(source(server, headers=headers), folder, **WINDOW)
        assert landed(folder) == ROWS
        for sent in server.requests:
            assert (sent.headers["x-api-key"], sent.headers["authorization"]) == (SECRET, SECRET)
        assert other.targets == ["/visits/2", "/visits/3"]
        assert all(SECRET not in sent.headers.values() for sent in other.requests)


def test_a_netrc_file_is_not_sent(
    server: Server, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    script_pages(server, ROWS[:1])
    land(source(server), folder, **WINDOW)
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("location", "reason"),
    [("/visits", "TooManyRedirects"), ("file:///etc/passwd", "InvalidSchema"), ("http://[::1", "ValueError")],
)
def test_a_redirect_to_nowhere_is_refused(
    server: Server, folder: Path, waits: list[float], location: str, reason: str
) -> None:
    server.script("/visits", Answer(status=302, headers={"Location": location}))
    with pytest.raises(SourceRefusedError, match=rf"(?s){reason}.*redirects"):
        land(source(server), folder, **WINDOW)
    assert not waits


@pytest.mark.parametrize("failure", ["401", "503", "reset", "away"])
def test_no_secret_is_told(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], failure: str
) -> None:
    monkeypatch.setenv("API_KEY", SECRET)
    declared = source(
        server, f"?from={{start}}&api_key={SECRET}&page_Token={SECRET}", headers={"Authorization": "env:API_KEY"}
    )
    server.script(
        "/visits", Answer(status=401) if failure == "401" else FAILURES["503" if failure == "503" else "reset"]
    )
    if failure == "away":
        with serving() as gone:
            declared = source(gone, f"?from={{start}}&api_key={SECRET}", headers={"Authorization": SECRET})

    @dg.asset
    def visits() -> None:
        land(declared, folder, **WINDOW)

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([visits], instance=instance, raise_on_error=False)
        told = str(instance.all_logs(result.run_id)) + "".join(capfd.readouterr()) + repr(declared)
    assert not result.success
    assert "/visits?from=2024-05-06T05%3A00%3A00Z&api_key=***" in told
    assert SECRET not in told
    assert ("attempt 1 of 6 failed" in told) == (failure != "401")
    if failure != "away":
        assert SECRET in server.targets[0]
        assert server.requests[0].headers["authorization"] == SECRET


def test_next_links_with_secrets_are_kept_from_others(server: Server, folder: Path) -> None:
    server.script("/visits", page(ROWS[0], f"/visits/2?token={SECRET}"))
    server.script("/visits/2", Answer(status=404))
    with pytest.raises(SourceRefusedError, match=r"/visits/2\?token=\*\*\*"):
        land(source(server, f"?from={{start}}&key={SECRET}"), folder, **WINDOW)
    assert stat.S_IMODE((folder / "_progress.json").stat().st_mode) == 0o600
    server.script("/visits/2", page(ROWS[1]))
    land(source(server, f"?from={{start}}&key={SECRET}"), folder, **WINDOW)
    assert all(SECRET.encode() not in file.read_bytes() for file in folder.iterdir())


# Where it goes on -----------------------------------------------------------------------------------------------------


def test_a_retry_policy_repeats_what_is_unavailable_and_no_refusal(server: Server, folder: Path) -> None:
    script_pages(server, ROWS, {2: [FAILURES["503"]] * 7})

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=3))
    def visits() -> None:
        land(source(server), folder, **WINDOW)

    assert dg.materialize([visits]).success
    assert landed(folder) == ROWS
    assert len(server.requests) == 3 + 7

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=3))
    def refused() -> None:
        land(source(server, "/none?from={start}"), folder.with_name("other"), **WINDOW)

    assert not dg.materialize([refused], raise_on_error=False).success
    assert len(server.requests) == 3 + 7 + 1


KILLED = """
import sys
from datetime import datetime
from pathlib import Path
from pattern_platform.ingestion.http.landing import land
from pattern_platform.ingestion.http.source import HttpSource

start, end = map(datetime.fromisoformat, sys.argv[3:])
land(HttpSource(sys.argv[1], "jsonl"), Path(sys.argv[2]), start=start, end=end)
"""


def test_after_a_kill_the_rest_is_fetched_and_nothing_twice(server: Server, folder: Path) -> None:
    bodies = [*ROWS, b'{"visit": 6}\n', b'{"visit": 7}\n']
    script_pages(server, bodies, {3: [Answer(held=True)]})
    declared = source(server)
    arguments = [declared.url, str(folder), *(time.isoformat() for time in WINDOW.values())]
    with subprocess.Popen([sys.executable, "-c", KILLED, *arguments]) as process:
        assert server.held.wait(60)
        process.kill()
    assert landed(folder) == bodies[:2]
    assert not (folder / "_complete").exists()
    del server.requests[:]
    assert [file.read_bytes() for file in land(declared, folder, **WINDOW)] == bodies
    assert server.targets == ["/visits/3", "/visits/4", "/visits/5"]


def interrupt(server: Server, folder: Path) -> None:
    """Land two pages of three."""
    script_pages(server, ROWS, {3: [Answer(status=404)]})
    with pytest.raises(SourceRefusedError):
        land(source(server), folder, **WINDOW)
    del server.requests[:]


def test_an_interrupted_attempt_is_gone_on_with(server: Server, folder: Path) -> None:
    interrupt(server, folder)
    (folder / "page-00003.jsonl").write_bytes(b"landed, and died before it was noted")
    (folder / ".page-00004.jsonl.0123").write_bytes(b"died while it was written")
    land(source(server), folder, **WINDOW)
    assert (landed(folder), server.targets) == (ROWS, ["/visits/3"])
    assert not list(folder.glob(".page*"))


def test_who_died_before_the_marker_leaves_nothing_to_fetch(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_pages(server, ROWS)
    with monkeypatch.context() as patched:
        patched.setattr(http_landing, "_COMPLETE", "no/\0name")
        with pytest.raises(ValueError, match="null"):
            land(source(server), folder, **WINDOW)
    assert len(land(source(server), folder, **WINDOW)) == len(server.requests) == 3


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b'{"next": null}', b"\xff", b'{"next": 1, "requested": [], "pages": [1]}']
)
def test_progress_that_cannot_be_read_begins_anew(server: Server, folder: Path, damage: bytes) -> None:
    interrupt(server, folder)
    (folder / "_progress.json").write_bytes(damage)
    land(source(server), folder, **WINDOW)
    assert (landed(folder), len(server.requests)) == (ROWS, 3)


def test_a_page_that_was_damaged_begins_anew(server: Server, folder: Path) -> None:
    interrupt(server, folder)
    (folder / "page-00001.jsonl").write_bytes(b"")
    land(source(server), folder, **WINDOW)
    assert (landed(folder), len(server.requests)) == (ROWS, 3)


def test_pages_of_another_url_are_not_mixed_in(server: Server, folder: Path) -> None:
    interrupt(server, folder)
    server.script("/sales", page(b'{"sale": 1}\n'))
    land(HttpSource(f"{server.url}/sales?from={{start}}", "jsonl"), folder, **WINDOW)
    assert landed(folder) == [b'{"sale": 1}\n']


@pytest.mark.parametrize("damage", ["page gone", "page cut", "marker empty", "marker of another"])
def test_landed_files_that_are_not_the_marker_s_are_refused(server: Server, folder: Path, damage: str) -> None:
    script_pages(server, ROWS)
    file = land(source(server), folder, **WINDOW)[1]
    if damage == "page gone":
        file.unlink()
    elif damage == "page cut":
        file.write_bytes(ROWS[1][:5])
    else:
        (folder / "_complete").write_text("" if damage == "marker empty" else '{"pages": [{"name": "a"}]}')
    with pytest.raises(UnreadableFileError, match=r"(?s)hour=05.*again=True"):
        land(source(server), folder, **WINDOW)
    assert len(server.requests) == 3
    land(source(server), folder, **WINDOW, again=True)
    assert landed(folder) == ROWS


def test_two_partitions_in_one_folder_are_refused(server: Server, folder: Path) -> None:
    """The second hour of a clock change, in a folder that is named by the hour on the clock."""
    script_pages(server, ROWS)
    land(source(server), folder, **WINDOW)
    second = {"start": WINDOW["end"], "end": WINDOW["end"] + timedelta(hours=1)}
    with pytest.raises(UnreadableFileError, match=r"(?s)window from 2024-05-06T05:00.*not from 2024-05-06T06:00.*own"):
        land(source(server), folder, **second)


def test_two_runs_of_a_partition_do_not_mix(server: Server, folder: Path) -> None:
    script_pages(server, ROWS, {2: [Answer(ROWS[1], headers={"Link": '</visits/3>; rel="next"'}, held=True)]})
    first = threading.Thread(target=lambda: land(source(server), folder, **WINDOW))
    first.start()
    assert server.held.wait(60)
    with pytest.raises(
        SourceUnavailableError, match=r"(?s)another run is fetching.*run again when it is done"
    ) as error:
        land(source(server), folder, **WINDOW)
    assert error.value.allow_retries
    server.let_go.set()
    first.join()
    assert [file.read_bytes() for file in land(source(server), folder, **WINDOW)] == ROWS
    assert len(server.requests) == 3


# Again ----------------------------------------------------------------------------------------------------------------


def test_a_partition_is_fetched_anew(server: Server, folder: Path) -> None:
    script_pages(server, ROWS)
    land(source(server), folder, **WINDOW)
    script_pages(server, ROWS[1:])
    files = land(source(server), folder, **WINDOW, again=True)
    assert [file.read_bytes() for file in files] == ROWS[1:] == landed(folder)
    assert names(folder.parent) <= {folder.name, f".{folder.name}.lock"}


def test_what_cannot_be_fetched_anew_stays_as_it_was(server: Server, folder: Path) -> None:
    script_pages(server, ROWS)
    files = land(source(server), folder, **WINDOW)
    script_pages(server, ROWS[1:], {2: [Answer(status=404)]})
    with pytest.raises(SourceRefusedError):
        land(source(server), folder, **WINDOW, again=True)
    assert land(source(server), folder, **WINDOW) == files
    assert landed(folder) == ROWS
    assert names(folder.parent) <= {folder.name, f".{folder.name}.lock"}


def test_who_died_while_files_were_replaced_leaves_the_old_ones(server: Server, folder: Path) -> None:
    script_pages(server, ROWS)
    files = land(source(server), folder, **WINDOW)
    folder.rename(folder.with_name(f".{folder.name}.replaced"))
    assert land(source(server), folder, **WINDOW) == files
    assert (landed(folder), len(server.requests)) == (ROWS, 3)
