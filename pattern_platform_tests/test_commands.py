"""The commands: what lands where, what is refused, and that each says how it is used."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.dashboards.partner import PRICES
from pattern_platform.visits.like_files import HEADER
from pattern_platform.visits.page_speed_files import REGIONS
from pattern_platform_tests.lake.tables import contents
from pattern_platform_tests.visits.blog import MONDAY, TUESDAY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

DAY = "2013-01-01"
COMMAND = typer.main.get_command(app)


def ran(*arguments: str, data: Path | None = None) -> Result:
    """Run the command in this process, with a folder of its own."""
    environment = {"COLUMNS": "200", "PATTERN_PLATFORM_DATA": str(data) if data else None}
    return CliRunner().invoke(app, arguments, env={**environment, "PATTERN_PLATFORM_WEBSERVER": None})


def said(result: Result) -> str:
    """What was said, in one line."""
    return " ".join(result.output.split())


# Help -----------------------------------------------------------------------------------------------------------------


def commands(command: object, *path: str) -> Iterator[tuple[str, ...]]:
    """Every command and group, by its path."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


ALL = sorted(commands(COMMAND))


def test_these_are_the_commands() -> None:
    generated = ("ad-prices", "comments", "devices", "flights", "likes", "page-speed", "users", "visits")
    groups = {
        "generate": generated,
        "config": ("validate", "show", "dagster"),
        "registry": ("validate", "infer"),
        "schema": ("diff", "history"),
        "namespace": ("list", "create", "drop", "current"),
    }
    others = ("backfill", "catalogue", "check", "demo", "doctor", "erase", "hold", "lineage", "logs", "metrics")
    assert {*ALL} == {
        (),
        *((name,) for name in (*others, "published", "release", "share-logs", "versions", *groups)),
        *((group, name) for group, names in groups.items() for name in names),
    }


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_each_command_says_how_it_is_used(path: tuple[str, ...]) -> None:
    result = ran(*path, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert "--help" in result.output
    first = getattr(resolved(path), "help", None)
    assert first, "it has no description"


def resolved(path: tuple[str, ...]) -> object:
    command: object = COMMAND
    for name in path:
        command = getattr(command, "commands")[name]  # noqa: B009 - a group of typer or of click
    return command


# Generating -----------------------------------------------------------------------------------------------------------


def test_generate_likes_lands_a_file_for_each_day(tmp_path: Path) -> None:
    result = ran("generate", "likes", "--likes", "200", data=tmp_path)
    assert result.exit_code == 0
    assert f"2 files landed below {tmp_path / 'landing'}" in said(result)
    files = sorted((tmp_path / "landing").rglob("*.csv"))
    assert files == [tmp_path / f"landing/likes/date={day}/likes.csv" for day in (MONDAY, TUESDAY)]
    for file, day in zip(files, (MONDAY, TUESDAY), strict=True):
        rows = pl.read_csv(file, infer_schema=False)
        assert tuple(rows.columns) == HEADER
        assert rows.unique().height == 200  # some are delivered twice
        assert {moment[:10] for moment in rows["liked_at"]} == {day}


def test_generate_likes_is_the_same_for_a_seed_and_takes_its_options(tmp_path: Path) -> None:
    options = ("--days", "1", "--from", "2024-06-01", "--likes", "30")
    for folder, seed in (("one", "1"), ("again", "1"), ("other", "2")):
        result = ran("generate", "likes", *options, "--seed", seed, "--landing", str(tmp_path / folder))
        assert result.exit_code == 0
        assert "1 files landed" in said(result)
    one, again, other = (contents(tmp_path / folder) for folder in ("one", "again", "other"))
    assert one == again != other
    assert [*one] == ["likes/date=2024-06-01/likes.csv"]


@pytest.mark.parametrize("option", [("--days", "0"), ("--likes", "-1"), ("--from", "yesterday")])
def test_generate_likes_refuses_what_makes_no_sense(tmp_path: Path, option: tuple[str, str]) -> None:
    result = ran("generate", "likes", *option, data=tmp_path)
    assert result.exit_code == 2
    assert option[0] in result.output
    assert not [*tmp_path.iterdir()]


def test_generate_page_speed_lands_a_file_for_each_region(tmp_path: Path) -> None:
    result = ran("generate", "page-speed", data=tmp_path)
    assert result.exit_code == 0
    assert f"{len(REGIONS)} files landed below {tmp_path / 'landing'}" in said(result)
    folder = tmp_path / "landing/page_speed"
    assert {file.stem for file in folder.iterdir()} == {*REGIONS}
    before = contents(folder)
    assert ran("generate", "page-speed", data=tmp_path).exit_code == 0
    assert contents(folder) == before


def test_generate_page_speed_lands_the_regions_that_are_named(tmp_path: Path) -> None:
    regions = ("moon, far side", "mars")
    options = [text for region in regions for text in ("--region", region)]
    result = ran("generate", "page-speed", *options, "--landing", str(tmp_path))
    assert result.exit_code == 0
    assert [*contents(tmp_path)] == ["page_speed/mars.csv", "page_speed/moon, far side.csv"]
    assert pl.read_csv(tmp_path / "page_speed/mars.csv").schema == {"page": pl.String, "load_ms": pl.Int64}


def test_generate_ad_prices_writes_a_version_each_time(tmp_path: Path) -> None:
    for version in range(2):
        result = ran("generate", "ad-prices", data=tmp_path)
        assert result.exit_code == 0
        assert f"partners/ad_prices was written below {tmp_path / 'lake'}" in said(result)
        rows = pl.read_delta(str(tmp_path / "lake/partners/ad_prices"), version=version)
        assert dict(rows.iter_rows()) == PRICES


# A backfill that cannot be --------------------------------------------------------------------------------------------

BACKFILL = ("backfill", "--select", "raw/flights", "--from", DAY, "--to", DAY)


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_backfill_without_a_webserver_is_refused_and_says_what_to_do() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    result = ran(*BACKFILL, "--url", url)
    assert result.exit_code == 1
    assert "refused" in result.output
    assert f"the webserver at {url} was asked in vain" in said(result)
    assert "make dev" in said(result)
    assert "--url" in said(result)
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


def test_a_backfill_finds_the_webserver_in_the_environment() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    result = CliRunner().invoke(app, BACKFILL, env={"PATTERN_PLATFORM_WEBSERVER": url, "COLUMNS": "200"})
    assert result.exit_code == 1
    assert url in said(result)


@pytest.mark.parametrize("url", ["127.0.0.1:3000", "ftp://127.0.0.1", "nowhere"])
def test_what_is_no_address_of_a_webserver_is_refused(url: str) -> None:
    result = ran(*BACKFILL, "--url", url)
    assert result.exit_code == 1
    assert url in said(result)
    assert isinstance(result.exception, SystemExit)


class Answer(BaseHTTPRequestHandler):
    """Something that listens, and is no Dagster."""

    status, body = 200, b"<html>It works!</html>"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def listening(status: int, body: bytes) -> Iterator[str]:
    handler = type("Handler", (Answer,), {"status": status, "body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"not here"), (500, b""), (200, b"<html>It works!</html>"), (200, b"{}")],
    ids=["not found", "broken", "a page", "another object"],
)
def test_another_server_in_the_place_of_dagster_is_refused(status: int, body: bytes) -> None:
    with listening(status, body) as url:
        result = ran(*BACKFILL, "--url", url)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert url in said(result)


@pytest.mark.parametrize("left_out", [1, 3, 5])
def test_a_backfill_asks_for_what_it_needs(left_out: int) -> None:
    arguments = [argument for n, argument in enumerate(BACKFILL) if n not in (left_out, left_out + 1)]
    result = ran(*arguments)
    assert result.exit_code == 2
    assert BACKFILL[left_out] in result.output
