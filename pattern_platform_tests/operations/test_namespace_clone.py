"""A clone reads as what it was cloned from, and from then on neither notices the other."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest
from deltalake import DeltaTable

from pattern_platform import read_version_table
from pattern_platform.errors import (
    NamespaceExistsError,
    NamespaceInUseError,
    UnknownNamespaceError,
    UnsupportedTableError,
)
from pattern_platform.lake.pins import pin, pinned
from pattern_platform.operations.namespaces import clone as namespace_clone
from pattern_platform.operations.namespaces.clone import clone
from pattern_platform.operations.namespaces.life import create, drop, standings
from pattern_platform.orchestration.namespace import Namespace
from pattern_platform_tests.operations.namespace_work import FIRST, SECOND, Work, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.xdist_group("clones of a namespace")  # which is filled once
MEMORY = Path("/dev/shm")  # noqa: S108 - another file system, where there is one


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """The namespace main, filled once; tests change clones of it."""
    return Work(Namespace("main", tmp_path_factory.mktemp("platform") / "data")).filled()


@pytest.fixture(scope="module")
def still(base: Work) -> tuple[Work, Work]:
    """A namespace and its clone, which no test changes."""
    one, other = (Namespace(name, base.namespace.data) for name in ("one", "other"))
    clone(base.namespace, one)
    clone(one, other)
    return Work(one), Work(other)


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A namespace main with one table alone: opening DuckDB files takes most of the time."""
    work = Work(Namespace("main", tmp_path_factory.mktemp("lean") / "data"))
    for value in (1, 2, 3):
        work.overwrite(FIRST, value, value)
    return work


@pytest.fixture
def table(lean: Work) -> Iterator[Work]:
    """A clone of that for each test."""
    namespace = Namespace("own", lean.namespace.data)
    clone(lean.namespace, namespace)
    yield Work(namespace)
    drop(namespace)


@pytest.fixture
def own(base: Work) -> Iterator[Work]:
    """A clone of its own for each test."""
    namespace = Namespace("own", base.namespace.data)
    clone(base.namespace, namespace)
    yield Work(namespace)
    if namespace.root.exists():
        drop(namespace)


@pytest.fixture
def pair(own: Work) -> Iterator[tuple[Work, Work]]:
    """A namespace and its clone, for each test."""
    namespace = Namespace("clone", own.namespace.data)
    clone(own.namespace, namespace)
    yield own, Work(namespace)
    if namespace.root.exists():
        drop(namespace)


def left_over(base: Work) -> list[str]:
    """What is in the folder of namespaces besides the commands' lock."""
    return sorted(p.name for p in (base.root / "namespaces").glob("*") if p.suffix != ".lock")


# The same -------------------------------------------------------------------------------------------------------------


def test_both_read_the_same(base: Work, still: tuple[Work, Work]) -> None:
    expected = base.reads()
    assert len(expected) > 10
    assert [work.reads() for work in still] == [expected, expected]


def test_the_mark_has_the_version_of_each_table(base: Work, still: tuple[Work, Work]) -> None:
    (standing,) = [s for s in standings(base.namespace.data) if s.namespace.name == "one"]
    assert standing.mark is not None
    cloned_from = standing.mark.cloned_from
    assert cloned_from is not None
    assert cloned_from["namespace"] == "main"
    lake = still[0].lake
    tables = {path.parent.relative_to(lake).as_posix(): path.parent for path in lake.rglob("_delta_log")}
    assert cloned_from["tables"] == {name: DeltaTable(path).version() for name, path in tables.items()}
    assert standing.tables == len(tables) == 5  # two loads, the table of days, the merged one and its versions


def test_no_byte_of_a_table_is_taken_twice(base: Work) -> None:
    target = Namespace("linked", base.namespace.data)
    _, taken = clone(base.namespace, target)
    data_files = [p for p in (target.root / "lake").rglob("*.parquet") if "_delta_log" not in p.parts]
    assert taken.linked == len(data_files) > 5
    assert all(p.samefile(base.lake / p.relative_to(target.root / "lake")) for p in data_files)
    assert taken.linked_bytes == sum(p.stat().st_size for p in data_files)
    others = [p for p in target.root.rglob("*") if p.is_file() and p not in data_files]
    assert all(p.stat().st_nlink == 1 for p in others)  # whatever is changed in place
    drop(target)


def test_a_clone_names_nothing_of_the_other(base: Work, still: tuple[Work, Work]) -> None:
    roots = [str(base.root / part) for part in ("lake", "warehouse", "exports")]
    assert any(root in path for path in base.paths() for root in roots)  # the check can fail
    for work in still:
        assert not [path for path in work.paths() for root in roots if root in path]
    assert not [path for path in still[1].paths() if f"{still[0].root}/" in path]


def test_a_clone_stays_when_the_other_goes(base: Work, pair: tuple[Work, Work]) -> None:
    one, other = pair
    drop(one.namespace)
    assert not one.root.exists()
    assert other.reads() == base.reads()


def test_versions_and_views_go_on_in_the_clone(own: Work) -> None:
    own.merge("2024-10-07", b=4)
    assert read_version_table(str(own.lake / "clean/users"))["status"].to_list() == ["current"] * 3
    own.release(7)
    assert own.proxy.live() == [1, 2, 3]
    own.proxy.publish(1)
    assert own.proxy.ids() == [0, 1]
    assert own.proxy.is_as_registered()


# Apart ----------------------------------------------------------------------------------------------------------------

ACTIONS: dict[str, Callable[[Work], None]] = {
    "overwrite": lambda work: work.overwrite(FIRST, 9),
    "merge": lambda work: work.merge(SECOND, a=9),
    "compaction": Work.compact,
    "vacuum": Work.vacuum,
    "export": lambda work: work.export(FIRST, 9),
    "store": lambda work: work.store(FIRST, 1, 2, 9),
    "release": lambda work: work.release(5),
    "retention": Work.retain,
    "drop": lambda work: drop(work.namespace),
}


def bytes_of(work: Work) -> dict[str, str]:
    """Every file with its bytes."""
    return {name: told.split()[-1] for name, told in digest(work.root).items()}


@pytest.mark.parametrize("actor", [0, 1], ids=["the first", "the clone"])
def test_what_one_does_leaves_the_other_as_it_is(base: Work, pair: tuple[Work, Work], actor: int) -> None:
    acting, other = pair[actor], pair[1 - actor]
    others = bytes_of(other), bytes_of(base)
    for name, act in ACTIONS.items():
        before = bytes_of(acting)
        act(acting)
        assert (bytes_of(acting) if acting.root.exists() else {}) != before, name
        assert (bytes_of(other), bytes_of(base)) == others, name


def test_a_clone_by_links_to_folders_is_caught(pair: tuple[Work, Work]) -> None:
    """The negative control."""
    acting, other = pair
    shutil.rmtree(acting.lake)
    acting.lake.symlink_to(other.lake)
    for name in ("overwrite", "merge", "compaction", "vacuum", "release"):
        before = bytes_of(other)
        ACTIONS[name](acting)
        assert bytes_of(other) != before, name


def test_a_database_that_is_copied_as_it_is_is_caught(base: Work, own: Work) -> None:
    """The negative control of paths: its views show the files of the other."""
    shutil.copy(base.proxy.database, own.proxy.database)
    assert [path for path in own.paths() if str(base.lake) in path]


# How it is taken ------------------------------------------------------------------------------------------------------


def test_bytes_are_copied_when_asked(base: Work) -> None:
    target = Work(Namespace("copied", base.namespace.data))
    _, taken = clone(base.namespace, target.namespace, copy=True)
    assert taken.linked == 0
    assert taken.copied_bytes > 0
    assert all(p.stat().st_nlink == 1 for p in target.root.rglob("*") if p.is_file())
    assert target.reads() == base.reads()
    drop(target.namespace)


def test_bytes_are_copied_where_links_are_not_possible(lean: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_link)
    _, taken = clone(lean.namespace, target := Namespace("far", lean.namespace.data))
    assert (taken.linked, taken.copied > 3) == (0, True)
    drop(target)


@pytest.mark.skipif(not MEMORY.is_dir(), reason="needs a second file system")
def test_bytes_are_copied_to_another_file_system(lean: Work, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        if tmp_path.stat().st_dev == MEMORY.stat().st_dev:
            pytest.skip("both are one file system")
        shutil.copytree(lean.lake / "raw", tmp_path / "lake" / "raw")
        (tmp_path / "namespaces").symlink_to(folder)
        _, taken = clone(Namespace("main", tmp_path), Namespace("far", tmp_path))
        assert (taken.linked, taken.copied > 2) == (0, True)
        DeltaTable(tmp_path / "namespaces" / "far" / "lake" / "raw" / "days").to_pyarrow_table()


def test_an_error_of_the_disk_is_no_reason_to_copy(lean: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = left_over(lean)
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        clone(lean.namespace, Namespace("full", lean.namespace.data))
    assert left_over(lean) == before


def test_orphans_locks_and_unfinished_files_stay(own: Work) -> None:
    table = own.lake / "raw/days"
    live = Path(DeltaTable(table).file_uris()[0])
    shutil.copy(live, table / "part-orphan.parquet")
    (table / "_delta_log" / "_commit_1.json.tmp").write_text("{")
    (own.root / "exports" / "sessions" / ".half.csv.1").write_text("x")
    (own.root / "exports" / "days" / ".writing..partition=x.1").mkdir()
    (own.root / "logs").mkdir()
    (own.root / "logs" / "run.json").write_text("{}")
    own.overwrite(SECOND, 8)
    assert (table / "_commit.lock").exists()
    clone(own.namespace, target := Namespace("tidy", own.namespace.data))
    names = {path.name for path in target.root.rglob("*")}
    strange = {"part-orphan.parquet", "_commit_1.json.tmp", ".half.csv.1", ".writing..partition=x.1", "run.json"}
    assert not names & {*strange, "_commit.lock", "steps", "logs"}
    assert Work(target).reads() == own.reads()
    drop(target)


def test_pinned_versions_survive_a_vacuum_of_the_clone(table: Work) -> None:
    pin(table.lake / "raw/days", [1])
    clone(table.namespace, target := Namespace("pinned", table.namespace.data))
    cloned = Work(target)
    assert pinned(cloned.lake / "raw/days") == [1]
    assert (cloned.lake / "raw/days/_pinned_versions.json").stat().st_nlink == 1
    cloned.overwrite(FIRST, 7)
    cloned.vacuum()
    assert cloned.lake.joinpath("raw/days").exists()
    assert DeltaTable(cloned.lake / "raw/days", version=1).to_pyarrow_table().num_rows == 2
    drop(target)


def loads_of(work: Work) -> list[Path]:
    """The folders and files of the tables that are written once."""
    loads = [path for path in (work.lake / "internal" / "catalogue").iterdir() if path.is_dir()]
    return [path for load in loads for path in [load, *load.rglob("*")]]


@pytest.fixture
def read_only(base: Work) -> Iterator[tuple[Work, Work]]:
    """A namespace of which no byte is another's, and its clone."""
    one, other = (Work(Namespace(name, base.namespace.data)) for name in ("first", "second"))
    clone(base.namespace, one.namespace, copy=True)
    for path in loads_of(one):
        path.chmod(path.stat().st_mode & ~0o222)
    clone(one.namespace, other.namespace)
    yield one, other
    for work in (one, other):
        drop(work.namespace)


def test_what_is_read_only_stays_so(read_only: tuple[Work, Work]) -> None:
    for work in read_only:
        assert len(loads_of(work)) > 6
        assert not [path for path in loads_of(work) if path.stat().st_mode & 0o222]


def test_a_retention_leaves_the_files_of_the_other_read_only(read_only: tuple[Work, Work]) -> None:
    before = digest(read_only[0].root)
    read_only[1].retain()
    assert digest(read_only[0].root) == before


def test_a_drop_leaves_the_modes_of_files_alone(base: Work, pair: tuple[Work, Work]) -> None:
    before = digest(pair[0].root), digest(base.root)
    drop(pair[1].namespace)
    assert (digest(pair[0].root), digest(base.root)) == before


def test_a_killed_clone_leaves_no_namespace_and_is_cleaned_up(base: Work) -> None:
    program = (
        "import os, sys; from pathlib import Path\n"
        "from pattern_platform.operations.namespaces import clone as module\n"
        "from pattern_platform.orchestration.namespace import Namespace\n"
        "module.move_paths = lambda *_: os.kill(os.getpid(), 9)\n"
        "data = Path(sys.argv[1]); module.clone(Namespace('main', data), Namespace('dead', data))"
    )
    ended = subprocess.run([sys.executable, "-c", program, base.root], check=False)
    assert ended.returncode == -9
    assert {".creating-dead", "dead"} <= set(left_over(base))  # the name is a link to the unfinished folder
    assert "dead" not in [standing.namespace.name for standing in standings(base.namespace.data)]
    assert not [name for name in left_over(base) if "dead" in name]
    assert base.reads()


def test_an_interrupted_clone_leaves_nothing(lean: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = left_over(lean)
    monkeypatch.setattr(namespace_clone, "write_mark", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clone(lean.namespace, Namespace("stopped", lean.namespace.data))
    assert left_over(lean) == before


def test_a_clone_that_is_taken_under_way_is_whole(table: Work) -> None:
    def write() -> None:
        for value in range(10, 16):
            table.overwrite(FIRST, value, value)
            table.vacuum()

    with ThreadPoolExecutor(1) as pool:
        writer, shots = pool.submit(write), 0
        while not writer.done() or shots < 2:
            clone(table.namespace, target := Namespace("shot", table.namespace.data))
            first = DeltaTable(target.root / "lake" / "raw" / "days").to_pyarrow_table(
                filters=[("day", "=", date.fromisoformat(FIRST))]
            )
            values = first["v"].to_pylist()
            assert len(values) == 2
            assert len(set(values)) == 1
            drop(target)
            shots += 1
        writer.result()


# Refused --------------------------------------------------------------------------------------------------------------


def test_what_is_unknown_or_taken_is_refused(still: tuple[Work, Work]) -> None:
    one, other = (work.namespace for work in still)
    data = one.data
    with pytest.raises(UnknownNamespaceError, match="choose one of main, one, other"):
        clone(Namespace("nobody", data), Namespace("new", data))
    with pytest.raises(NamespaceExistsError, match="namespace drop other"):
        clone(one, other)
    with pytest.raises(NamespaceExistsError, match="namespace drop one"):
        clone(one, one)
    with pytest.raises(NamespaceExistsError, match="choose another name"):
        clone(one, Namespace("main", data))
    (data / "namespaces" / "mine").mkdir()
    with pytest.raises(NamespaceExistsError, match="move it away"):
        clone(one, Namespace("mine", data))
    with pytest.raises(UnknownNamespaceError, match="current --make"):
        clone(Namespace("mine", data), Namespace("new", data))
    (data / "namespaces" / "mine").rmdir()
    assert not (data / "namespaces" / "new").exists()


def refused(source: Namespace, *culprits: str) -> None:
    target = Namespace("refused", source.data)
    with pytest.raises(UnsupportedTableError) as caught:
        clone(source, target)
    for culprit in culprits:
        assert culprit in str(caught.value)
    assert not target.root.exists()


def test_a_link_that_leads_out_is_refused(table: Work, tmp_path: Path) -> None:
    (table.lake / "big").symlink_to(tmp_path)
    refused(table.namespace, "lake/big", "put the folder in the place of the link")


def test_a_log_that_names_files_elsewhere_is_refused(lean: Work, table: Work) -> None:
    days = table.lake / "raw/days"
    add = {"path": f"{lean.lake}/raw/days/x.parquet", "partitionValues": {}, "size": 1, "modificationTime": 1}
    newest = DeltaTable(days).version()
    commit = json.dumps({"add": {**add, "dataChange": True}})
    (days / "_delta_log" / f"{newest + 1:020}.json").write_text(commit)
    refused(table.namespace, "raw/days", "copy it whole")


def test_a_lost_file_is_refused(table: Work) -> None:
    Path(DeltaTable(table.lake / "raw/days").file_uris()[0]).unlink()
    refused(table.namespace, "raw/days", "1 file(s)")


def test_a_registry_that_names_a_table_elsewhere_is_refused(base: Work, own: Work) -> None:
    shutil.copy(base.proxy.database, own.proxy.database)
    refused(own.namespace, "catalogue__versions", "materialize what it belongs to again")


def test_a_view_without_its_files_is_refused(own: Work) -> None:
    own.proxy.execute(f"CREATE VIEW lost AS FROM read_parquet('{own.lake}/raw/days/*.parquet')")
    for file in (own.lake / "raw/days").glob("*.parquet"):
        file.unlink()
    shutil.rmtree(own.lake / "raw/days")
    refused(own.namespace, "main.lost", "publish it again, or drop it")


def test_views_of_users_are_moved_too(own: Work) -> None:
    own.proxy.execute(f"CREATE VIEW mine AS FROM read_parquet(['{own.lake}/raw/days/*.parquet'])")
    clone(own.namespace, target := Namespace("viewed", own.namespace.data))
    with duckdb.connect(str(Work(target).proxy.database)) as connection:
        ((sql,),) = connection.sql("SELECT sql FROM duckdb_views() WHERE view_name = 'mine'").fetchall()
    assert f"'{target.root}/lake/raw/days/" in sql
    drop(target)


def test_one_command_at_a_time(lean: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    real = namespace_clone.write_mark

    def meanwhile(*given: object) -> None:
        with pytest.raises(NamespaceInUseError, match="try again"):
            create(Namespace("second", lean.namespace.data))
        assert standings(lean.namespace.data)  # it looks, and leaves the unfinished one alone
        real(*given)  # ty: ignore[invalid-argument-type]

    monkeypatch.setattr(namespace_clone, "write_mark", meanwhile)
    clone(lean.namespace, first := Namespace("first", lean.namespace.data))
    drop(first)
