"""A subject leaves a DuckDB file: its rows, the blocks that held them, and nothing else.

What a file holds is asked on connections of the tests' own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pattern_platform.errors import DatabaseLockedError, UnreadableFileError
from pattern_platform.lake.subject import Subject
from pattern_platform.warehouse import database
from pattern_platform.warehouse.erasure import erase_from_database, find_in_database, left_in_database

KEY, OTHER = "user-000017-of-the-blog", "user-000018-of-the-blog"
SUBJECT = Subject(KEY, ("user_id",))
KINDS = ("tables", "columns", "views", "indexes", "constraints", "sequences", "types", "schemas", "functions")


def execute(file: Path, *statements: str) -> list[tuple[Any, ...]]:
    """The rows of the last statement."""
    with duckdb.connect(str(file), config={"custom_user_agent": "dagster"}) as connection:
        for statement in statements:
            found = connection.execute(written(statement)).fetchall()
    return found


def written(statement: str) -> str:
    """A statement with the keys in it, the first also as JSON may write it."""
    for name, key in {"<erased>": KEY, "<escaped>": KEY.replace("-", "\\u002d"), "<spared>": OTHER}.items():
        statement = statement.replace(name, key)
    return statement


def names(folder: Path) -> list[str]:
    """Of its files; the empty one that is locked while a database is opened holds nothing of anybody."""
    assert [file.stat().st_size for file in folder.glob(".*.lock")] in ([], [0])
    return [file.name for file in folder.iterdir() if not file.match(".*.lock")]


def catalogue(file: Path) -> dict[str, list[str]]:
    """Everything that DuckDB says of what is defined, without what counts rows or numbers objects."""
    counters = ("database_oid", "schema_oid", "table_oid", "estimated_size", "index_count")
    found = {}
    with duckdb.connect(str(file), config={"custom_user_agent": "dagster"}) as connection:
        for kind in KINDS:
            rows = connection.table_function(f"duckdb_{kind}").pl()
            rows = rows.select(
                column for column in rows.columns if column not in counters and not column.endswith("oid")
            )
            found[kind] = sorted(map(str, rows.iter_rows()))
    return found


@pytest.fixture(scope="module")
def _file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("erasure") / "blog 'of' all.duckdb"
    execute(
        path,
        "CREATE SCHEMA sales; CREATE SCHEMA empty; CREATE SEQUENCE sales.number START 5",
        "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE MACRO twice(x) AS x * 2",
        "CREATE TABLE sales.buyers (id INT PRIMARY KEY DEFAULT nextval('sales.number'), user_id VARCHAR NOT NULL, "
        "feels mood, paid INT CHECK (paid > 0), double INT GENERATED ALWAYS AS (paid * 2), UNIQUE (user_id, paid))",
        "INSERT INTO sales.buyers (user_id, feels, paid) VALUES ('<erased>', 'good', 1), ('<spared>', 'bad', 2)",
        "CREATE TABLE sales.orders (id INT, buyer INT REFERENCES sales.buyers (id), user_id VARCHAR)",
        "INSERT INTO sales.orders VALUES (1, 5, '<erased>'), (2, 6, '<spared>')",
        "CREATE INDEX by_buyer ON sales.orders (buyer)",
        "CREATE VIEW sales.paid AS SELECT user_id, twice(paid) AS twice FROM sales.buyers",
        "COMMENT ON VIEW sales.paid IS 'who paid'; COMMENT ON TABLE sales.buyers IS 'all'; "
        "COMMENT ON COLUMN sales.buyers.paid IS 'in cents'",
        'CREATE TABLE "odd ""na"" me" ("USER_ID" VARCHAR, n BIGINT)',
        """INSERT INTO "odd ""na"" me"
        SELECT CASE WHEN i % 1000 = 0 THEN '<erased>' ELSE 'other' END, i FROM range(20000) t(i)""",
        "CREATE TABLE nested (one STRUCT(who STRUCT(user_id VARCHAR)), many STRUCT(user_id VARCHAR)[], record VARCHAR, "
        "named VARCHAR[])",
        """INSERT INTO nested VALUES
        ({'who': {'user_id': '<erased>'}}, [], '{}', []),
        (NULL, [{'user_id': '<spared>'}, {'user_id': '<erased>'}], NULL, NULL),
        (NULL, NULL, '{"a": [{"user_id": "<escaped>"}]}', NULL),
        ({'who': {'user_id': '<spared>'}}, [], '{"user_id": "<spared>"}', ['<spared>'])""",
        "CREATE TABLE nobody AS SELECT i AS n FROM range(10) t(i)",
    )
    return path


@pytest.fixture
def file(tmp_path: Path, _file: Path) -> Path:
    """A file with one of everything."""
    return Path(shutil.copy(_file, tmp_path))


FOUND = {"sales.buyers": 1, "sales.orders": 1, 'odd "na" me': 20, "nested": 3}


def test_what_is_found_is_what_is_erased_and_then_nothing_is_left(file: Path) -> None:
    before = file.read_bytes()
    assert find_in_database(file, SUBJECT) == FOUND
    assert file.read_bytes() == before
    assert left_in_database(file, SUBJECT)
    assert erase_from_database(file, SUBJECT) == FOUND
    assert find_in_database(file, SUBJECT) == {}
    assert left_in_database(file, SUBJECT) == []
    assert erase_from_database(file, SUBJECT) == {}


def test_the_rows_of_others_and_everything_that_is_defined_stay(file: Path) -> None:
    before = catalogue(file)
    tables = {name: execute(file, f"FROM {name}") for name in ("sales.buyers", "sales.orders", "nested", "nobody")}
    erase_from_database(file, SUBJECT)
    assert catalogue(file) == before
    assert all(before.values())
    for name, rows in tables.items():
        assert execute(file, f"FROM {name}") == [row for row in rows if KEY not in str(row).replace("\\\\u002d", "-")]
    assert execute(file, 'SELECT count(*), sum(n) FROM "odd ""na"" me"') == [(19_980, sum(range(20_000)) - 190_000)]
    assert execute(file, "FROM sales.paid") == [(OTHER, 4)]


def test_constraints_sequences_and_indexes_still_work(file: Path) -> None:
    erase_from_database(file, SUBJECT)
    for refused in ("('x', 0)", "(NULL, 9)", "('<spared>', 2)"):
        with pytest.raises(duckdb.ConstraintException):
            execute(file, f"INSERT INTO sales.buyers (user_id, paid) VALUES {refused}")  # noqa: S608
    with pytest.raises(duckdb.ConstraintException):
        execute(file, "INSERT INTO sales.orders VALUES (3, 5, 'x')")  # who was erased
    new = execute(file, "INSERT INTO sales.buyers (user_id, paid) VALUES ('x', 3) RETURNING id")
    assert new[0][0] > 6


def test_no_block_of_the_file_keeps_what_was_deleted_before(file: Path) -> None:
    execute(file, "CREATE TABLE old AS SELECT 'user-000017-of-the-blog' AS user_id", "DROP TABLE old")
    assert KEY.encode() in file.read_bytes()
    erase_from_database(file, SUBJECT)
    assert KEY.encode() not in file.read_bytes()
    assert names(file.parent) == [file.name]


def test_a_row_that_was_deleted_by_hand_stays_in_its_block(file: Path) -> None:
    """The negative control: deleting alone is not erasing."""
    execute(file, "DELETE FROM nested", "CHECKPOINT")
    assert KEY.encode() in file.read_bytes()


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("CREATE TABLE t AS SELECT '<erased>' AS other_name", "t.other_name"),
        ("CREATE TABLE t AS SELECT 'by <erased>, once' AS text", "t.text"),
        ("CREATE TABLE t AS SELECT ['a', '<erased>'] AS list", "t.list"),
        ("CREATE TABLE t AS SELECT MAP {'k': '<erased>'} AS map", "t.map"),
        ("CREATE VIEW v AS SELECT * FROM nobody WHERE '<erased>' = 'x'", "definition of views"),
        ("CREATE TYPE t AS ENUM ('<erased>')", "definition of types"),
        ("COMMENT ON TABLE nobody IS 'but <erased>'", "definition of tables"),
    ],
)
def test_what_no_column_of_a_listed_name_holds_is_left_and_told(file: Path, statement: str, where: str) -> None:
    execute(file, statement)
    erase_from_database(file, SUBJECT)
    assert left_in_database(file, SUBJECT) == [where]


@pytest.mark.parametrize("text", [f"{KEY}ger", f"x{KEY}", "user-000017", KEY.upper()])
def test_a_longer_or_a_shorter_word_names_somebody_else(file: Path, text: str) -> None:
    """The negative control."""
    erase_from_database(file, SUBJECT)
    execute(file, f"CREATE TABLE t AS SELECT '{text}' AS user_id")
    assert find_in_database(file, SUBJECT) == {}
    assert left_in_database(file, SUBJECT) == []


@pytest.mark.parametrize("key", ["o'hara", 'a "b" c', "back\\slash", "ü 2"])
def test_any_text_may_be_a_key(tmp_path: Path, key: str) -> None:
    path, subject = tmp_path / "k.duckdb", Subject(key, ("user_id",))
    with duckdb.connect(str(path), config={"custom_user_agent": "dagster"}) as connection:
        connection.execute("CREATE TABLE t (user_id VARCHAR, one STRUCT(user_id VARCHAR), record VARCHAR)")
        for row in ([key, None, None], [None, {"user_id": key}, None], [None, None, json.dumps({"user_id": key})]):
            connection.execute("INSERT INTO t VALUES (?, ?, ?)", row)
        connection.execute("CREATE TABLE u (list VARCHAR[], record VARCHAR)")
        connection.execute("INSERT INTO u VALUES (?, ?)", [["x", key], json.dumps({"friend": key})])
    assert erase_from_database(path, subject) == {"t": 3}
    assert left_in_database(path, subject) == ["u.list", "u.record"]


def test_a_file_and_its_schema_may_have_one_name(tmp_path: Path) -> None:
    path = tmp_path / "blog.duckdb"
    rows = "SELECT '<erased>' AS user_id UNION ALL SELECT '<spared>'"
    execute(path, "CREATE SCHEMA blog.blog", f"CREATE TABLE blog.blog.t AS {rows}")
    execute(path, "USE blog.blog", "CREATE VIEW v AS FROM t")
    erase_from_database(path, SUBJECT)
    assert execute(path, "FROM blog.blog.v") == [(OTHER,)]


def test_a_number_is_told_by_its_column(tmp_path: Path) -> None:
    path, subject = tmp_path / "n.duckdb", Subject("17", ("user_id",))
    execute(path, "CREATE TABLE t AS SELECT * FROM (VALUES (17, '17'), (170, '17')) v(user_id, hour)")
    assert left_in_database(path, subject) == ["t"]
    assert erase_from_database(path, subject) == {"t": 1}
    assert execute(path, "FROM t") == [(170, "17")]
    assert left_in_database(path, subject) == []


# Registries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "dtype", "partitions"),
    [
        ("moment", "TIMESTAMPTZ", {"2024-05-06": 2, "2024-05-07": 1}),
        ("moment", "TIMESTAMP", {"2024-05-06-10:00": 2, "2024-05-07-10:00": 1}),
        ("day", "DATE", {"2024-05-06": 2, "2024-05-07": 1}),
        ("_partition", "VARCHAR", {"2024-05-06": 2, "2024-05-07": 1}),
    ],
)
def test_a_registry_counts_the_rows_that_are_left(
    tmp_path: Path, column: str, dtype: str, partitions: dict[str, int]
) -> None:
    path = tmp_path / "r.duckdb"
    first, second = (key if dtype == "VARCHAR" else f"{key[:10]} 10:00:00" for key in partitions)
    rows = ((KEY, first), (OTHER, first), (KEY, second))
    execute(
        path,
        f"CREATE TABLE t (user_id VARCHAR, at_first VARCHAR, {column} {dtype}); SET TimeZone = 'UTC'",
        *(f"INSERT INTO t VALUES ('{who}', 'x', '{when}')" for who, when in rows),  # noqa: S608
        'CREATE TABLE t__loads (asset VARCHAR, partition VARCHAR, unit VARCHAR, "rows" BIGINT)',
        *(f"INSERT INTO t__loads VALUES ('t', '{key}', '', {n})" for key, n in partitions.items()),  # noqa: S608
        "INSERT INTO t__loads VALUES ('t', '2024-05-08', '', NULL)",
    )
    erase_from_database(path, SUBJECT)
    left = execute(path, 'SELECT "rows" FROM t__loads ORDER BY partition')
    assert left == [(1,), (0,), (None,)]


def test_a_registry_whose_partitions_no_column_holds_keeps_its_sum(tmp_path: Path) -> None:
    path = tmp_path / "r.duckdb"
    execute(
        path,
        "CREATE TABLE t__unit (user_id VARCHAR)",
        "INSERT INTO t__unit VALUES ('<erased>'), ('<erased>'), ('<spared>')",
        'CREATE TABLE t__loads (partition VARCHAR, "rows" BIGINT)',
        "INSERT INTO t__loads VALUES ('a', 1), ('b', 2)",
        "CREATE TABLE tt AS SELECT '<erased>' AS user_id",  # no part of the table t
    )
    erase_from_database(path, SUBJECT)
    assert execute(path, 'SELECT sum("rows"), min("rows") FROM t__loads') == [(1, 0)]


# Trouble --------------------------------------------------------------------------------------------------------------


def test_a_file_that_somebody_holds_is_refused_and_stays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.1)
    before = file.read_bytes()
    program = f"import duckdb; c = duckdb.connect({str(file)!r}); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        for refused in (find_in_database, erase_from_database, left_in_database):
            with pytest.raises(DatabaseLockedError, match="end that process"):
                refused(file, SUBJECT)
        holder.communicate(b"\n")
    assert file.read_bytes() == before


def test_a_row_that_refers_to_one_of_the_subject_is_refused_and_the_file_stays(file: Path) -> None:
    execute(
        file, "CREATE TABLE sales.gifts (buyer INT REFERENCES sales.buyers (id))", "INSERT INTO sales.gifts VALUES (5)"
    )
    before = file.read_bytes()
    with pytest.raises(UnreadableFileError, match="ConstraintException") as error:
        erase_from_database(file, SUBJECT)
    assert KEY not in str(error.value)
    assert file.read_bytes() == before
    assert names(file.parent) == [file.name]


@pytest.mark.parametrize("keep", [0, 5_000])
def test_a_damaged_file_is_refused_and_says_what_to_do(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep] + b"\xff" * 10_000)
    for refused in (find_in_database, erase_from_database, left_in_database):
        with pytest.raises(UnreadableFileError, match="bring it back from a backup"):
            refused(file, SUBJECT)


def test_a_killed_erasure_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    before = catalogue(file)
    with monkeypatch.context() as patched:
        patched.setattr("pattern_platform.warehouse.erasure.recount_versions", killed)
        with pytest.raises(KeyboardInterrupt):
            erase_from_database(file, SUBJECT)
    assert catalogue(file) == before
    assert find_in_database(file, SUBJECT) == FOUND
    assert names(file.parent) == [file.name]
    assert erase_from_database(file, SUBJECT) == FOUND


def test_a_log_beside_the_file_is_part_of_it(tmp_path: Path) -> None:
    """As a process that was killed leaves it."""
    path = tmp_path / "w.duckdb"
    program = (
        f"import duckdb, os; c = duckdb.connect({str(path)!r}); c.execute(\"SET wal_autocheckpoint = '1GB'\"); "
        "c.execute(\"CREATE TABLE t AS SELECT '<erased>' AS user_id\"); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", written(program)], check=True)
    assert path.with_name("w.duckdb.wal").exists()
    assert erase_from_database(path, SUBJECT) == {"t": 1}
    assert names(tmp_path) == ["w.duckdb"]
    assert KEY.encode() not in path.read_bytes()


def test_a_table_of_several_row_groups_is_copied_whole(tmp_path: Path) -> None:
    """As of warehouse/rows.py: a new table may lose what is inserted into it at once, from 122,880 rows on."""
    path = tmp_path / "large.duckdb"
    execute(path, "CREATE TABLE t AS SELECT if(i % 2 = 0, '<erased>', 'x') AS user_id, i FROM range(300000) r(i)")
    assert erase_from_database(path, SUBJECT) == {"t": 150_000}
    assert execute(path, "SELECT count(*), sum(i) FROM t") == [(150_000, 150_000**2)]
