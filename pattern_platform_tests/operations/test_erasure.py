"""The right to be forgotten, by the command: nothing of a person is left, nothing of anybody else is missing.

What is left is asked of the bytes on the disk and of the libraries themselves, never of the platform.
"""

from __future__ import annotations

import csv
import gzip
import json
import logging
import shutil
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.ingestion.erased import ErasedSubjects
from pattern_platform.lake.immutable import write_once
from pattern_platform.operations.erasure import erasure as module
from pattern_platform.warehouse import database
from pattern_platform_tests.lake.tables import contents

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

KEY, OTHER = "user-000017", "user-000018"
PEOPLE = (KEY, OTHER, None, "user-0000170")
ROWS = pl.DataFrame({"user_id": PEOPLE, "page": ["A", "B", "C", "D"]})
LINES = [json.dumps({"visit": n, "context": {"user_id": user}}) for n, user in enumerate(PEOPLE)]


def erase(data: Path, *options: str, key: str = KEY, namespace: str = "main", answer: str | None = None) -> Result:
    """Run the command in this process."""
    environment = {"COLUMNS": "250", "PATTERN_PLATFORM_DATA": str(data), "PATTERN_PLATFORM_NAMESPACE": namespace}
    return CliRunner().invoke(app, ["erase", "--subject", key, *options], env=environment, input=answer)


def said(result: Result) -> str:
    return " ".join(result.output.split())


def receipt(root: Path) -> dict[str, Any]:
    """The newest."""
    (*_, newest) = sorted((root / "erasures").glob("2*.json"))
    return json.loads(newest.read_text())


def put(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def sql(file: Path, *statements: str) -> list[tuple[Any, ...]]:
    file.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(file), config={"custom_user_agent": "dagster"}) as connection:
        for statement in statements:
            found = connection.execute(statement).fetchall()
    return found


@pytest.fixture(scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("erasure") / "data"
    lines = "".join(f"{line}\n" for line in [*LINES, f'{{"user_id":"{KEY}","pa', "no json of anybody"])
    put(data / "landing/visits/day.jsonl.gz", gzip.compress(lines.encode(), mtime=0))
    put(data / "landing/visits/day.jsonl", lines)
    put(
        data / "landing/likes/day.csv",
        f'\ufeffpost,user_id\r\nA,{KEY}\r\n"two\r\nlines ""B""",{OTHER}\r\n"C\n",{KEY}\r\nD,x',
    )
    put(data / "exports/sessions/day.csv", f"user_id;pages\n{KEY};A\n{OTHER};B")
    put(data / "exports/people.json", json.dumps({"people": [{"who": {"user_id": KEY}}, {"who": {"user_id": OTHER}}]}))
    put(data / "exports/hours/.partition=1.abc/part.parquet", b"")
    ROWS.write_parquet(data / "exports/hours/.partition=1.abc/part.parquet", metadata={"made": "by a step"})
    (data / "exports/hours/partition=1").symlink_to(".partition=1.abc")
    put(data / f"exports/.day.csv.{'0' * 32}", f"user_id\n{KEY}\n")
    for kind in ("raw", "clean", "quarantine", "nobody/defines/this/any/more"):
        for page in ("older", "newest"):
            write_deltalake(data / "lake" / kind / "visits", ROWS.with_columns(page=pl.lit(page)), mode="overwrite")
    write_once(ROWS.lazy(), data / "lake/internal/catalogue/run", metadata={})
    sql(
        data / "warehouse/visits.duckdb",
        f"CREATE TABLE visits AS FROM (VALUES ('{KEY}', 1), ('{OTHER}', 2)) v(user_id, n)",
        "CREATE VIEW shown AS FROM visits",
    )
    put(data / "logs/today.jsonl", '{"event": "started"}\n')
    (data / "dagster_home").mkdir()
    with closing(sqlite3.connect(data / "dagster_home/runs.db")) as connection, connection:
        connection.execute("CREATE TABLE runs (body TEXT, snapshot BLOB)")
    put(data / "namespaces/other/exports/day.csv", f"user_id\n{KEY}\n")
    return data


@pytest.fixture
def data(tmp_path: Path, _data: Path) -> Path:
    """One of everything that a platform may keep."""
    return Path(shutil.copytree(_data, tmp_path / "data", symlinks=True))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A platform that keeps next to nothing."""
    put(tmp_path / "data/landing/visits/day.jsonl", "".join(f"{line}\n" for line in LINES))
    (tmp_path / "data/exports").mkdir()
    return tmp_path / "data"


def holders(folder: Path, key: str = KEY) -> set[str]:
    """The files whose bytes have the key in them, decompressed where that is known."""
    found = set()
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_relative_to(folder / "namespaces"):
            content = file.read_bytes()
            content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
            if file.suffix == ".parquet":
                content = str(pl.read_parquet(file).rows()).encode()
            if key.encode() in content.replace(f"{key}0".encode(), b""):
                found.add(file.relative_to(folder).as_posix())
    return found


# What is found, what is erased ----------------------------------------------------------------------------------------


def test_a_dry_run_shows_every_place_and_changes_nothing(data: Path) -> None:
    before = contents(data)
    result = erase(data, "--dry-run")
    assert result.exit_code == 0, result.output
    shown = {
        cells[1]: (cells[2], cells[3])
        for line in result.output.splitlines()
        if len(cells := [c.strip() for c in line.split("│")]) > 4
    }
    assert shown == {
        "landing/visits/day.jsonl.gz": ("landing", "2"),
        "landing/visits/day.jsonl": ("landing", "2"),
        "landing/likes/day.csv": ("landing", "2"),
        "exports/sessions/day.csv": ("export", "1"),
        "exports/people.json": ("export", "1"),
        "exports/hours/.partition=1.abc/part.parquet": ("export", "1"),
        "lake/raw/visits": ("raw", "1"),
        "lake/clean/visits": ("clean", "1"),
        "lake/quarantine/visits": ("quarantine", "1"),
        "lake/nobody/defines/this/any/more/visits": ("nobody", "1"),
        "lake/internal/catalogue/run": ("immutable", "1"),
        "warehouse/visits.duckdb: visits": ("warehouse", "1"),
    }
    assert "would be erased" in result.output
    assert contents(data) == before


def test_nothing_of_the_person_is_left_and_nothing_of_others_is_missing(data: Path) -> None:
    assert len(holders(data)) > 10
    result = erase(data, "--yes", "--reason", "case 4711, letter of 3 May")
    assert result.exit_code == 0, result.output
    assert "nothing is left" in said(result)
    assert holders(data) == set()
    assert len(holders(data, OTHER)) > 10
    others = ROWS.filter(pl.col("user_id").ne_missing(KEY))
    for table in DeltaTable(data / "lake/raw/visits"), DeltaTable(data / "lake/raw/visits", version=0):
        assert pl.DataFrame(table.to_pyarrow_table())["user_id"].to_list() == others["user_id"].to_list()
    assert pl.read_parquet(data / "exports/hours/partition=1/part.parquet").equals(others)
    assert pl.read_parquet_metadata(data / "exports/hours/partition=1/part.parquet")["made"] == "by a step"
    assert json.loads((data / "exports/people.json").read_text()) == {"people": [{"who": {"user_id": OTHER}}]}
    assert sql(data / "warehouse/visits.duckdb", "FROM shown") == [(OTHER, 2)]
    assert not list((data / "exports").glob(".day*"))


def test_lines_of_others_keep_their_bytes_and_files_their_form(data: Path) -> None:
    erase(data, "--yes")
    kept = "".join(f"{line}\n" for line in [*LINES[1:], "no json of anybody"]).encode()
    assert (data / "landing/visits/day.jsonl").read_bytes() == kept
    compressed = (data / "landing/visits/day.jsonl.gz").read_bytes()
    assert gzip.decompress(compressed) == kept
    assert compressed[4:8] == bytes(4)  # no time
    assert (
        data / "landing/likes/day.csv"
    ).read_bytes() == f'\ufeffpost,user_id\r\n"two\r\nlines ""B""",{OTHER}\r\nD,x'.encode()
    assert (data / "exports/sessions/day.csv").read_bytes() == f"user_id;pages\n{OTHER};B".encode()


def test_files_without_the_person_are_not_touched(data: Path) -> None:
    files = [put(data / "landing/visits/other.jsonl", LINES[1]), put(data / "exports/other.csv", f"user_id\n{OTHER}\n")]
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    erase(data, "--yes")
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files] == before


def test_another_namespace_is_left_alone_and_the_receipt_says_so(data: Path) -> None:
    before = contents(data / "namespaces")
    erase(data, "--yes")
    assert contents(data / "namespaces") == before
    assert "No other namespace was touched" in receipt(data)["scope"]
    landed = contents(data / "landing")
    assert erase(data, "--yes", namespace="other").exit_code == 0
    assert holders(data / "namespaces/other") == set()
    assert contents(data / "landing") == landed
    assert receipt(data / "namespaces/other")["lost_rows"] == ["exports/day.csv"]


def test_the_receipt_tells_everything_but_who(data: Path) -> None:
    result = erase(data, "--yes", "--reason", "case 4711")
    told = receipt(data)
    assert told["reason"] == "case 4711"
    assert told["columns"] == ["user_id"]
    assert told["proof"] == {"scanned": told["proof"]["scanned"], "complete": True, "left": []}
    assert told["proof"]["scanned"] > 15
    assert told["rows"] == 15
    tables = {row["place"]: row for row in told["erased"]}
    assert tables["lake/clean/visits"]["rows"] == 1
    assert tables["lake/clean/visits"]["versions"] == [2]
    assert tables["lake/clean/visits"]["files"] == 2
    assert "lake/clean/visits" in told["lost_rows"]
    assert not [place for place in told["lost_rows"] if place.startswith("landing")]
    assert set(told["libraries"]) >= {"deltalake", "duckdb", "polars"}
    (listed,) = json.loads((data / "erasures/erased.json").read_text())["subjects"]
    assert told["subject"] == listed["subject"]
    for file in (data / "erasures").iterdir():
        assert KEY not in file.read_text()
    assert str(data / "erasures") in said(result)


def test_the_key_is_in_no_log(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, handler = logging.getLogger(), logging.FileHandler(tmp_path / "log")
    monkeypatch.setattr(root, "handlers", [handler])
    before = root.level
    root.setLevel(logging.DEBUG)
    erase(data, "--yes")
    root.setLevel(before)
    handler.close()
    said_there = (tmp_path / "log").read_text()
    assert "erased.json.lock" in said_there  # filelock says what it does
    assert KEY not in said_there
    history = DeltaTable(data / "lake/clean/visits").history()
    assert KEY not in str(history)
    assert "erasure" in str(history[0])


def test_a_column_that_is_named_is_looked_at_alone(data: Path) -> None:
    put(data / "exports/posts.csv", f"author,user_id\n{KEY},{OTHER}\n{OTHER},{OTHER}\n")
    result = erase(data, "--yes")
    assert result.exit_code == 1
    assert "exports/posts.csv" in said(result)
    assert "--column" in said(result)
    assert erase(data, "--yes", "--column", "user_id", "--column", "author").exit_code == 0
    assert (data / "exports/posts.csv").read_text() == f"author,user_id\n{OTHER},{OTHER}\n"


def test_a_person_who_is_found_nowhere_is_on_the_list_all_the_same(data: Path) -> None:
    for n in range(2):
        result = erase(data, "--yes", key="nobody-1")
        assert result.exit_code == 0, n
        assert "found nowhere" in said(result)
    (listed,) = json.loads((data / "erasures/erased.json").read_text())["subjects"]
    assert listed["columns"] == ["user_id"]
    rows = pl.DataFrame({"user_id": ["nobody-1", OTHER]})
    assert ErasedSubjects.of(data).drop(rows)["user_id"].to_list() == [OTHER]


def test_a_name_with_brackets_is_shown_as_it_is(small: Path) -> None:
    put(small / "exports/[red]day[/].csv", f"user_id\n{KEY}\n")
    assert "exports/[red]day[/].csv" in erase(small, "--dry-run").output


def test_the_key_is_asked_for_where_it_is_not_given(small: Path) -> None:
    environment = {"PATTERN_PLATFORM_DATA": str(small), "PATTERN_PLATFORM_NAMESPACE": "main"}
    result = CliRunner().invoke(app, ["erase", "--dry-run"], env=environment, input=f"{KEY}\n")
    assert result.exit_code == 0
    assert "1 row(s) in 1 place(s)" in said(result)


def test_a_number_is_erased_where_it_is_a_key_alone(data: Path) -> None:
    put(data / "landing/n.jsonl", '{"user_id": 17, "hour": 3}\n{"user_id": 3, "hour": 17}\n')
    put(data / "exports/n.csv", "user_id,hour\n17,3\n3,17\n")
    put(data / "exports/hour=17/readme.txt", "made at 17:17, by 17")
    assert erase(data, "--yes", key="17").exit_code == 0
    assert (data / "landing/n.jsonl").read_text() == '{"user_id": 3, "hour": 17}\n'
    assert (data / "exports/n.csv").read_text() == "user_id,hour\n3,17\n"


@pytest.mark.parametrize("key", ["ü 2 ß", 'a "b" c', "o'hara", "back\\slash", "a/b@c.example", "semi;colon,comma"])
def test_any_text_may_be_a_key(small: Path, key: str) -> None:
    for n, ascii_only in enumerate((True, False)):
        line = json.dumps({"user_id": key}, ensure_ascii=ascii_only)
        put(small / f"landing/odd/{n}.jsonl", f'{line}\n{{"user_id": "else"}}\n')
    with (small / "exports/odd.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["user_id"], [key], ["else"]])
    pl.DataFrame({"user_id": [key, "else"]}).write_parquet(small / "exports/odd.parquet")
    write_deltalake(small / "lake/odd", pl.DataFrame({"user_id": [key, "else"]}))
    assert erase(small, "--dry-run", key=key).output.count("odd") == 5
    result = erase(small, "--yes", key=key)
    assert result.exit_code == 0, result.output
    for file in (small / "landing/odd").iterdir():
        assert file.read_text() == '{"user_id": "else"}\n'
    assert (small / "exports/odd.csv").read_text().split() == ["user_id", "else"]
    assert pl.read_parquet(small / "exports/odd.parquet")["user_id"].to_list() == ["else"]
    assert pl.read_delta(str(small / "lake/odd"))["user_id"].to_list() == ["else"]


# The proof ------------------------------------------------------------------------------------------------------------


def sqlite_of(statement: str, *values: object) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS runs (body TEXT, snapshot BLOB)")
            connection.execute(statement, values)

    return write


PLANTED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a text": ("exports/notes.txt", lambda f: put(f, f"call {KEY} back")),
    "a compressed text": ("exports/notes.txt.gz", lambda f: put(f, gzip.compress(f"{KEY}".encode()))),
    "another column of a csv file": ("exports/c.csv", lambda f: put(f, f"name\n{KEY}\n")),
    "a csv file without header": ("exports/c.csv", lambda f: put(f, f"{KEY},1\n")),
    "another field of a record": ("landing/r.jsonl", lambda f: put(f, f'{{"friend": "{KEY}"}}\n')),
    "an escaped field": ("landing/r.jsonl", lambda f: put(f, '{"friend": "user\\u002d000017"}\n')),
    "a document": ("exports/d.json", lambda f: put(f, f'{{"by": ["{KEY}"]}}')),
    "a parquet file": ("exports/p.parquet", lambda f: pl.DataFrame({"x": [[{"y": KEY}]]}).write_parquet(f)),
    "metadata of a parquet file": (
        "exports/p.parquet",
        lambda f: pl.DataFrame({"x": [1]}).write_parquet(f, metadata={"k": KEY}),
    ),
    "another column of a table": ("lake/t", lambda f: write_deltalake(f, pl.DataFrame({"name": [KEY]}))),
    "another column of DuckDB": ("warehouse/x.duckdb", lambda f: sql(f, f"CREATE TABLE t AS SELECT '{KEY}' AS name")),
    "a log": ("logs/today.jsonl", lambda f: put(f, f'{{"user_id": "{KEY}"}}\n')),
    "a run of Dagster": ("dagster_home/runs.db", sqlite_of("INSERT INTO runs VALUES (?, NULL)", f'{{"tag": "{KEY}"}}')),
    "a snapshot of Dagster": (
        "dagster_home/runs.db",
        sqlite_of("INSERT INTO runs VALUES (NULL, ?)", zlib.compress(f'["{KEY}"]'.encode())),
    ),
    "the name of a file": (f"exports/{KEY}.csv", lambda f: put(f, "a\n1\n")),
    "the name of a folder": (f"exports/user_id={KEY}/a.csv", lambda f: put(f, "a\n1\n")),
    "an archive": ("exports/old.zip", lambda f: put(f, b"PK\x03\x04 whatever")),
    "a file in a format of its own": ("exports/old.zst", lambda f: put(f, b"\x28\xb5\x2f\xfd whatever")),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_left_is_told(small: Path, planted: str) -> None:
    """The negative controls of the proof: a copy that no rule erases is found."""
    name, plant = PLANTED[planted]
    (small / name).parent.mkdir(parents=True, exist_ok=True)
    plant(small / name)
    result = erase(small, "--yes")
    assert result.exit_code == 1, result.output
    proof = receipt(small)["proof"]
    assert not proof["complete"]
    assert [where for where in proof["left"] if where.startswith(name.replace(KEY, "<subject>"))]
    assert "nothing is left" not in result.output
    assert KEY not in json.dumps(receipt(small))


def test_a_link_that_leads_elsewhere_is_told(small: Path, tmp_path: Path) -> None:
    (small / "exports/elsewhere").symlink_to(tmp_path)
    assert erase(small, "--yes").exit_code == 1
    assert receipt(small)["proof"]["left"] == ["exports/elsewhere: cannot be looked into"]


def test_logs_and_the_storage_of_dagster_are_not_rewritten(data: Path) -> None:
    put(data / "logs/today.jsonl", f'{{"user_id": "{KEY}"}}\n')
    before = contents(data / "logs") | contents(data / "dagster_home")
    erase(data, "--yes")
    assert contents(data / "logs") | contents(data / "dagster_home") == before


# Refusals: nothing is changed -----------------------------------------------------------------------------------------


def damaged_log(data: Path) -> None:
    log = data / "lake/clean/visits/_delta_log/00000000000000000001.json"
    log.write_bytes(log.read_bytes()[:-40])


def torn_log(data: Path) -> None:
    (data / "lake/clean/visits/_delta_log/00000000000000000001.json").write_bytes(b"")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a log that is cut": (damaged_log, "backup"),
    "a commit that is empty": (torn_log, "00000000000000000001.json"),
    "gzip that is cut": (lambda d: put(f := d / "landing/visits/day.jsonl.gz", f.read_bytes()[:-12]), "day.jsonl.gz"),
    "gzip in name alone": (lambda d: put(d / "landing/x.jsonl.gz", '{"a": 1}\n'), "landing/x.jsonl.gz"),
    "a quote without end": (lambda d: put(d / "landing/x.csv", f'user_id,b\n{KEY},"b\n'), "landing/x.csv"),
    "a document that is cut": (lambda d: put(d / "exports/x.json", f'[{{"user_id": "{KEY}"}}'), "exports/x.json"),
    "parquet in name alone": (lambda d: put(d / "exports/x.parquet", "none"), "exports/x.parquet"),
    "parquet that is cut": (lambda d: put(d / "exports/x.parquet", b"PAR1 and no end"), "exports/x.parquet"),
    "DuckDB that is cut": (
        lambda d: put(f := d / "warehouse/visits.duckdb", f.read_bytes()[:9000]),
        "visits.duckdb",
    ),
    "a list that is cut": (lambda d: put(d / "erasures/erased.json", '{"salt"'), "erased.json"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_refused_before_anything_is_changed(data: Path, damage: str) -> None:
    hurt, named = DAMAGE[damage]
    hurt(data)
    before = contents(data)
    for options in (("--yes",), *([("--dry-run",)] if "list" not in damage else [])):
        result = erase(data, *options)
        assert result.exit_code == 1, result.output
        assert isinstance(result.exception, SystemExit)
        assert "refused" in result.output
        assert "mend" in result.output
        assert named in said(result)
        assert KEY not in result.output.replace("--subject", "")
    after = {name: content for name, content in contents(data).items() if not name.endswith(".lock")}
    assert after == before


@pytest.mark.parametrize(
    ("options", "key", "says"),
    [
        ((), "", "give the value that identifies the person"),
        ((), "  ", "give the value that identifies the person"),
        ((), "--", "give the value that identifies the person"),
        (("--column", ""), KEY, "name the columns"),
        (("--reason", f"{KEY} wrote a letter"), KEY, "give the number of the case"),
    ],
    ids=["empty", "blank", "signs", "no column", "a reason that names"],
)
def test_what_makes_no_sense_is_refused(data: Path, options: tuple[str, ...], key: str, says: str) -> None:
    before = contents(data)
    result = erase(data, "--yes", *options, key=key)
    assert result.exit_code == 1, result.output
    assert says in said(result)
    assert contents(data) == before


def test_a_namespace_that_is_not_there_is_refused(data: Path) -> None:
    result = erase(data, "--yes", namespace="nowhere")
    assert result.exit_code == 1
    assert "config show" in said(result)
    assert not (data / "namespaces/nowhere").exists()


def test_a_database_that_somebody_holds_is_refused_before_anything_is_changed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.1)
    before, file = contents(data), str(data / "warehouse/visits.duckdb")
    program = f"import duckdb; c = duckdb.connect({file!r}); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        result = erase(data, "--yes")
        holder.communicate(b"\n")
    assert result.exit_code == 1
    assert "end that process" in said(result)
    assert contents(data) == before
    assert erase(data, "--yes").exit_code == 0


def test_a_store_that_does_not_answer_is_refused_before_anything_is_changed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATTERN_PLATFORM_SESSIONS_URL", "redis://:secret@127.0.0.1:1/0")
    before = contents(data)
    result = erase(data, "--yes")
    assert result.exit_code == 1
    assert "see that the server runs" in said(result)
    assert "secret" not in result.output
    assert contents(data) == before


def test_a_store_of_another_kind_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATTERN_PLATFORM_SESSIONS_URL", "http://localhost")
    before = contents(small)
    result = erase(small, "--yes")
    assert result.exit_code == 1
    assert "a store begins with one of redis://" in said(result)
    assert contents(small) == before


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_nothing_is_erased_before_somebody_said_yes(data: Path, answer: str) -> None:
    before = contents(data)
    result = erase(data, answer=answer)
    assert result.exit_code == 1
    assert "Erase this for good?" in result.output
    assert contents(data) == before
    assert erase(data, answer="y\n").exit_code == 0


def test_two_erasures_at_once_are_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner: list[Result] = []
    find = module.contents.left

    def meanwhile(*given: Any) -> Any:
        inner[:] = inner or [erase(data, "--yes", key=OTHER)]
        return find(*given)

    monkeypatch.setattr(module.contents, "left", meanwhile)
    assert erase(data, "--yes").exit_code == 0
    assert inner[0].exit_code == 1
    assert "wait for its end" in said(inner[0])
    assert len(holders(data, OTHER)) > 10


# A crash --------------------------------------------------------------------------------------------------------------


def test_after_a_crash_the_same_command_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person is on the list before the first file is changed; no receipt says what is not so."""
    erase_place, steps = module.contents.erase, []

    def killed_before(number: int, folder: Path) -> Result:
        def counted(place: Any, *given: Any) -> Any:
            steps.append(place.name)
            if len(steps) == number:
                raise KeyboardInterrupt
            return erase_place(place, *given)

        steps.clear()
        shutil.copytree(data, folder, symlinks=True)
        with monkeypatch.context() as patched:
            patched.setattr(module.contents, "erase", counted)
            return erase(folder, "--yes")

    assert killed_before(0, tmp_path / "whole").exit_code == 0
    assert steps[0].startswith("landing/")
    tables = [n for n, name in enumerate(steps) if name.startswith("lake/")]
    assert max(tables) < min(n for n, name in enumerate(steps) if name.startswith(("warehouse/", "exports/")))
    for number in (1, tables[0] + 2, len(steps)):
        folder = tmp_path / str(number)
        assert killed_before(number, folder).exit_code != 0
        assert len(json.loads((folder / "erasures/erased.json").read_text())["subjects"]) == 1
        assert not list((folder / "erasures").glob("2*.json"))
        assert holders(folder)
        assert erase(folder, "--yes").exit_code == 0
        assert holders(folder) == set()
