"""Proxy: its scenarios, then failures and kills at every step, audits, retention, schemas and names.

What a version holds is asked of delta-rs, what the view shows of DuckDB, on connections of the test's own.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from pattern_platform import DataOverwriteIOManager, MergerIOManager, StatefulMergerIOManager
from pattern_platform.errors import (
    InvalidMetadataError,
    MissingTableError,
    MissingVersionError,
    UnauditedVersionError,
    UnsafeAssetKeyError,
    UnsupportedFrameError,
    UnsupportedTableError,
)
from pattern_platform.lake import immutable
from pattern_platform.lake.maintenance import compact
from pattern_platform.orchestration import publications as publications_module
from pattern_platform.patterns.idempotency import proxy as proxy_module
from pattern_platform.patterns.idempotency.proxy import ProxyIOManager
from pattern_platform.patterns.idempotency.transactional_writer_delta import TransactionalAppendIOManager
from pattern_platform.warehouse import publications as registry_module
from pattern_platform.warehouse.database import connected
from pattern_platform.warehouse.publications import Publications
from pattern_platform.warehouse.versions import Versions
from pattern_platform_tests.lake.tables import FRAME_KINDS, Table, as_kind, assert_same_rows
from pattern_platform_tests.patterns.idempotency.proxies import (
    CONFIG,
    FORKS,
    Proxy,
    digest,
    failing_once,
    forking,
    ids,
    replaced,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAYS = dg.DailyPartitionsDefinition("2024-10-05", end_date="2024-10-12")
MACS = [1000, 1001, 1002, 1003]
FIRST, SECOND = ids(50), ids(4, first=1000)


@pytest.fixture
def empty(tmp_path: Path) -> Proxy:
    """Nothing is loaded."""
    return Proxy(tmp_path)


@pytest.fixture
def one(empty: Proxy) -> Proxy:
    """One version of fifty rows, shown."""
    empty.release(FIRST)
    return empty


@pytest.fixture(scope="module")
def lasting() -> Iterator[Proxy]:
    """A version that is shown, and whatever the tests before have added."""
    with tempfile.TemporaryDirectory() as folder:
        made = Proxy(Path(folder))
        made.release(FIRST)
        yield made


@pytest.fixture
def two(one: Proxy) -> Proxy:
    """And a second of four rows, shown."""
    one.release(SECOND)
    return one


# The scenarios ------------------------------------------------------------------------------------------------------


def test_p_1_every_load_is_a_table_and_the_view_moves(empty: Proxy) -> None:
    assert empty.release(FIRST) == 1
    assert empty.ids() == list(range(50))
    first = empty.table(1)
    before = digest(first)
    assert empty.release(SECOND) == 2
    assert empty.ids() == MACS
    assert digest(first) == before
    assert sorted(empty.tables.iterdir()) == sorted([first, empty.table(2)])
    assert [DeltaTable(empty.table(version)).version() for version in (1, 2)] == [0, 0]
    assert_same_rows(empty.rows(1), FIRST)
    assert_same_rows(empty.rows(2), SECOND)
    assert empty.versions().select("version", "rows", "audits").rows() == [(1, 50, ["has_ids"]), (2, 4, ["has_ids"])]
    assert [first.name, empty.table(2).name] == empty.versions()["run_id"].to_list()
    assert empty.publications() == [(1, "publish"), (2, "publish")]
    assert empty.is_as_registered()


def test_p_1_dagster_is_told(empty: Proxy) -> None:
    chosen = dg.AssetSelection.assets(list(empty.key), list(empty.view))
    result = empty.run(chosen, FIRST)
    load, publication = told(result, empty.key), told(result, empty.view)
    assert load["proxy/version"] == publication["proxy/version"] == 1
    assert load["dagster/row_count"] == publication["dagster/row_count"] == 50
    assert load["dagster/uri"] == publication["dagster/uri"] == str(empty.tables / result.run_id)
    assert [(column.name, column.type) for column in load["dagster/column_schema"].columns] == [("id", "Int64")]
    assert publication["proxy/action"] == "publish"
    assert Path(publication["proxy/manifest"]).is_file()


def _writers() -> list[Any]:
    keyed = {"merge_keys": ["id"]}
    return [
        pytest.param(DataOverwriteIOManager, None, {}, id="overwrite"),
        pytest.param(DataOverwriteIOManager, DAYS, {}, id="overwrite a day"),
        pytest.param(MergerIOManager, None, keyed, id="merge"),
        pytest.param(MergerIOManager, None, {**keyed, "soft_delete": "gone"}, id="delete"),
        pytest.param(StatefulMergerIOManager, DAYS, keyed, id="restore and merge"),
        pytest.param(TransactionalAppendIOManager, DAYS, {}, id="append"),
    ]


@pytest.fixture(scope="module")
def dated() -> Iterator[Proxy]:
    """Rows of a day."""
    with tempfile.TemporaryDirectory() as folder:
        made = Proxy(Path(folder))
        made.release(ids(50, day=dt.date(2024, 10, 5)))
        yield made


@pytest.mark.xdist_group("proxy writers")
@pytest.mark.parametrize(("io_manager", "definition", "metadata"), _writers())
def test_p_2_no_writer_of_the_platform_takes_a_version(
    dated: Proxy, io_manager: Any, definition: Any, metadata: dict[str, Any]
) -> None:
    version = dated.table(1)
    before = digest(version)
    table = Table(dated.tables, definition, "day", key=(version.name,), metadata=metadata, io_manager=io_manager)
    batch = ids(1, day=dt.date(2024, 10, 5), **({"gone": True} if "soft_delete" in metadata else {}))
    with pytest.raises(UnsupportedTableError, match=r"delta\.appendOnly"):
        table.write(batch, "2024-10-05" if definition else None)
    assert digest(version) == before
    assert table.path == version
    assert dated.ids() == list(range(50))


@pytest.mark.xdist_group("proxy writers")
def test_p_2_no_compaction_and_no_other_load_takes_a_version(dated: Proxy) -> None:
    version = dated.table(1)
    before = digest(dated.tables)
    with pytest.raises(UnsupportedTableError, match=r"delta\.appendOnly"):
        compact(version)
    with pytest.raises(InvalidMetadataError, match="there is a table in its folder"):
        Proxy(dated.folder, key=(*dated.key, version.name)).load(FIRST, audited=False)
    with pytest.raises(UnsafeAssetKeyError, match="table inside"):
        Proxy(dated.folder, key=dated.key[:1]).load(FIRST, audited=False)
    with pytest.raises(UnsafeAssetKeyError, match="table inside"):
        Table(dated.root, key=dated.key).write(FIRST)
    assert digest(dated.tables) == before


def test_p_2_append_only_alone_lets_appends_and_restores_through(one: Proxy, tmp_path: Path) -> None:
    """The negative control, on a copy, by root or with its permissions given back."""
    version = one.table(1)
    before = digest(version)
    copy = Path(shutil.copytree(version, tmp_path / "copy"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    for change in (
        lambda: write_deltalake(copy, SECOND.to_arrow(), mode="overwrite"),
        lambda: DeltaTable(copy).delete(),
    ):
        with pytest.raises(CommitFailedError, match="append-only"):
            change()
    write_deltalake(copy, SECOND.to_arrow(), mode="append")
    assert DeltaTable(copy).to_pyarrow_table().num_rows == 54
    DeltaTable(copy).restore(0)
    assert (DeltaTable(copy).version(), DeltaTable(copy).to_pyarrow_table().num_rows) == (2, 50)
    assert digest(version) == before


def test_p_2_files_and_folders_are_read_only(two: Proxy) -> None:
    for version in (1, 2):
        table = two.table(version)
        paths = [table, *table.rglob("*")]
        assert len(paths) == 4  # the table, its file, its log and the commit
        assert [path for path in paths if path.stat().st_mode & 0o222] == []


def _as_nobody(folder: Path) -> None:
    """Load as somebody whom permissions bind, and append to the load."""
    if os.getuid() == 0:
        Proxy(folder / "warm").release(FIRST)  # imports what could not be imported afterwards
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    proxy = Proxy(folder / "theirs")
    proxy.release(FIRST)
    version = proxy.table(1)
    before = digest(version)
    said = []
    for change in (
        lambda: write_deltalake(version, SECOND.to_arrow(), mode="append"),
        lambda: DeltaTable(version).alter.set_table_properties({"delta.appendOnly": "false"}),
        lambda: (version / "part-more.parquet").write_bytes(b""),
        lambda: next(version.glob("*.parquet")).write_bytes(b""),
        lambda: next(version.glob("*.parquet")).unlink(),
    ):
        try:
            change()
            said.append("done")
        except Exception as error:  # noqa: BLE001 - of delta-rs or of the system
            said.append(str(error))
    assert [text for text in said if "ermission denied" not in text] == []
    assert (len(said), digest(version)) == (5, before)
    proxy.release(SECOND)
    proxy.retain(keep=1, days=0)
    assert not version.exists()  # the retention is the only one to remove it


@forking
def test_p_2_permissions_keep_everybody_but_root_out() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "theirs").mkdir()
        (folder / "theirs").chmod(0o777)
        _child(_as_nobody, folder)


def _child(target: Callable[..., None], *given: object) -> None:
    process = FORKS.Process(target=target, args=given)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 0


def test_p_3_a_publication_is_repeated_alone(one: Proxy) -> None:
    chosen = dg.AssetSelection.assets(list(one.key), list(one.view))
    with failing_once((Publications, "move"), after=False):
        result = one.run(chosen, SECOND, succeeds=False)
    assert [event.step_key for event in result.get_step_failure_events()] == [one.publication.op.name]
    assert one.live() == [1, 2]
    assert one.ids() == list(range(50))
    assert one.publish()["proxy/version"] == 2
    assert one.ids() == MACS
    assert one.live() == [1, 2]
    assert len(list(one.tables.iterdir())) == 2


def _halfway() -> pl.LazyFrame:
    """A frame that breaks after its first rows."""

    def breaks(rows: pl.DataFrame) -> pl.DataFrame:
        if rows["id"].max() == 999:
            message = "power"
            raise RuntimeError(message)
        return rows

    parts = [ids(500), ids(500, first=500)]
    return pl.concat([part.lazy().map_batches(breaks) for part in parts])


def test_p_4_a_load_that_fails_half_way_is_no_version(one: Proxy) -> None:
    one.run(dg.AssetSelection.assets(list(one.key), list(one.view)), _halfway(), succeeds=False)
    assert one.live() == [1]
    assert one.ids() == list(range(50))
    assert one.publish()["proxy/action"] == "none: it was shown already"
    (left,) = set(one.tables.iterdir()) - {one.table(1)}
    assert [path for path in left.rglob("*") if path.is_file()] == []
    assert one.release(SECOND) == 2


def test_p_5_the_same_run_again_leaves_its_table(empty: Proxy) -> None:
    """Twice under one run id, the second time with other rows."""
    tables = []
    for rows in (FIRST, SECOND):
        definitions = dg.Definitions([empty.loading(rows)], resources=empty.resources)
        job = definitions.resolve_implicit_global_asset_job_def()
        run = "11111111-2222-4333-8444-555555555555"
        result = job.execute_in_process(run_id=run, instance=dg.DagsterInstance.ephemeral())
        tables.append((told(result, empty.key)["proxy/version"], digest(empty.tables)))
        assert result.run_id == run
    assert tables[0] == tables[1]
    assert_same_rows(empty.rows(1), FIRST)
    assert [path.name for path in empty.tables.iterdir()] == [run]


LOADING: dict[str, tuple[tuple[Any, str], bool, int]] = {  # where, after it, how many versions are registered
    "before the files": ((immutable, "write_files"), False, 0),
    "after the files": ((immutable, "write_files"), True, 0),
    "after the commit": ((immutable, "create_table_with_add_actions"), True, 0),
    "read-only": ((immutable, "_set_writable"), True, 0),
    "before the registry": ((Versions, "registered"), False, 0),
    "inside the registry": ((Versions, "write"), True, 0),
    "after the registry": ((proxy_module, "column_schema"), False, 1),
}
loading_places = pytest.mark.parametrize(("place", "after", "registered"), LOADING.values(), ids=LOADING)


@loading_places
def test_p_5_a_load_that_fails_is_retried(lasting: Proxy, place: Any, registered: int, *, after: bool) -> None:
    known, shown, manifest, before = lasting.live(), lasting.ids(), lasting.manifest(), digest(lasting.table(1))
    with failing_once(place, after=after):
        lasting.run(dg.AssetSelection.assets(list(lasting.key), list(lasting.view)), SECOND, succeeds=False)
    assert len(lasting.live()) == len(known) + registered
    assert (lasting.ids(), lasting.manifest()) == (shown, manifest)
    retried = Proxy(lasting.folder, retries=1)
    rows = ids(len(known), first=7)
    with failing_once(place, after=after):  # the retry is the same run: one table, whatever was there of it
        version = retried.release(rows)
    assert version == len(known) + registered + 1
    assert lasting.live() == list(range(1, version + 1))
    assert lasting.ids() == sorted(rows["id"])
    assert lasting.manifest() == lasting.manifest_of(version)
    assert digest(lasting.table(1)) == before


def _job(name: str) -> dg.JobDefinition:
    """The load and the publication of rows that come from a file, as often as it is asked for."""
    folder = Path(name)
    proxy = Proxy(folder)
    load = proxy.loading(lambda: pl.read_parquet(folder / "rows.parquet"))
    assets: list[Any] = [load, proxy.publication]
    definitions = dg.Definitions(
        assets,
        asset_checks=[proxy.audit],
        resources=proxy.resources,
        jobs=[dg.define_asset_job("release", executor_def=dg.in_process_executor)],
    )
    return definitions.resolve_job_def("release")


def test_p_5_a_run_is_executed_again(one: Proxy) -> None:
    """Whole: a table of its own. From its failure: the publication alone."""
    recipe = dg.build_reconstructable_job(
        reconstructor_module_name=__name__,
        reconstructor_function_name=_job.__name__,
        reconstructable_args=(str(one.folder),),
    )
    SECOND.write_parquet(one.folder / "rows.parquet")
    with dg.DagsterInstance.ephemeral() as instance:

        def execute(again: dg.ReexecutionOptions | None = None) -> dg.JobExecutionResult:
            with dg.execute_job(recipe, instance=instance, reexecution_options=again) as result:
                return result

        with failing_once((publications_module, "files_of"), after=False):
            failed = execute()
        assert not failed.success
        before = digest(one.tables)
        assert one.manifest() == one.manifest_of(1)
        rest = dg.ReexecutionOptions.from_failure(failed.run_id, instance)
        assert execute(rest).success
        assert (one.live(), digest(one.tables)) == ([1, 2], before)
        assert one.manifest() == one.manifest_of(2)
        ids(5).write_parquet(one.folder / "rows.parquet")
        assert execute(dg.ReexecutionOptions(failed.run_id)).success
    assert one.live() == [1, 2, 3]
    assert [one.rows(version).height for version in one.live()] == [50, 4, 5]
    assert one.ids() == list(range(5))


def test_p_6_roll_back(two: Proxy) -> None:
    before = digest(two.tables)
    assert two.publish(1)["proxy/action"] == "roll back"
    assert two.ids() == list(range(50))
    assert two.manifest() == two.manifest_of(1)
    assert two.publications() == [(1, "publish"), (2, "publish"), (1, "roll back")]
    assert_same_rows(two.rows(2), SECOND)
    assert two.publish(1)["proxy/action"] == "none: it was shown already"
    assert two.publish(2)["proxy/action"] == "roll back"
    assert two.publications()[3:] == [(2, "roll back")]
    assert digest(two.tables) == before
    assert two.is_as_registered()


def test_p_7_a_version_with_other_columns(two: Proxy) -> None:
    wide = ids(3, brand="mac").with_columns(price=pl.lit(2.5))
    assert two.release(wide) == 3
    assert two.columns() == {"id": "BIGINT", "brand": "VARCHAR", "price": "DOUBLE"}
    assert_same_rows(two.shown(), wide)
    first, second, _ = two.times()
    assert_same_rows(two.input(as_of=first.isoformat()), FIRST)
    assert_same_rows(two.input(as_of=second.isoformat()), SECOND)
    texts = pl.DataFrame({"brand": ["a"], "id": ["x"]})
    two.release(texts)  # another type, another order, a column less
    assert two.columns() == {"brand": "VARCHAR", "id": "VARCHAR"}
    assert two.input().rows() == [("a", "x")]
    two.publish(3)
    assert two.columns() == {"id": "BIGINT", "brand": "VARCHAR", "price": "DOUBLE"}
    two.publish(1)
    assert two.columns() == {"id": "BIGINT"}


STATES = [list(range(50)), MACS, [], list(range(7))]


class Reader(threading.Thread):
    """Reads the view again and again, until it is told to stop; each read is one of the states."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self.proxy = proxy
        self.seen: list[int] = []
        self.error: BaseException | None = None
        self.stopping, self.read = threading.Event(), threading.Condition()

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                with connected(str(self.proxy.database)) as connection:
                    rows = connection.execute("SELECT id FROM published.catalogue").fetchall()
                with self.read:
                    self.seen.append(STATES.index(sorted(number for (number,) in rows)))
                    self.read.notify_all()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            with self.read:
                self.error = error
                self.read.notify_all()

    def reads_more(self) -> int:
        """Wait until a read has begun and ended, and return what it saw."""
        with self.read:
            wanted = len(self.seen) + 2
            assert self.read.wait_for(lambda: self.error or len(self.seen) >= wanted, timeout=30), "no read"
            assert self.error is None, self.error
            return self.seen[-1]


MOVES: list[Callable[[Proxy], object]] = [
    lambda proxy: proxy.release(SECOND),
    lambda proxy: proxy.publish(1),
    lambda proxy: proxy.release(ids(0)),
    lambda proxy: proxy.publish(2),
    lambda proxy: proxy.release(ids(7)),
]
AFTER_MOVES = [1, 0, 2, 1, 3]


def test_p_8_a_reader_sees_one_version_or_the_next(one: Proxy) -> None:
    reader = Reader(one)
    inside = []

    def watched(real: Callable[..., Any], *given: Any) -> Any:
        before = reader.reads_more()
        result = real(*given)
        inside.append((before, reader.reads_more()))  # the transaction is open: nothing of it is seen
        return result

    reader.start()
    try:
        with replaced((Publications, "move"), watched):
            for move, expected in zip(MOVES, AFTER_MOVES, strict=True):
                move(one)
                assert reader.reads_more() == expected
    finally:
        reader.stopping.set()
        reader.join()
    assert reader.error is None
    assert inside == [(state, state) for state in (0, *AFTER_MOVES[:-1])]


READING = """
import sys, threading
from pattern_platform.warehouse.database import connected
stopping = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stopping.set()), daemon=True).start()
while not stopping.is_set():
    with connected(sys.argv[1]) as connection:
        rows = connection.execute("SELECT id FROM published.catalogue").fetchall()
    print(*sorted(number for (number,) in rows), flush=True)
"""


def test_p_8_a_reader_in_another_process(one: Proxy) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    seen: list[int] = []
    with subprocess.Popen([sys.executable, "-c", READING, str(one.database)], text=True, **pipes) as process:
        assert process.stdout
        lines = process.stdout

        def is_seen(state: int) -> None:
            while not seen or seen[-1] != state:
                line = lines.readline()
                assert line, process.communicate()
                seen.append(STATES.index([int(number) for number in line.split()]))

        is_seen(0)
        for move, expected in zip(MOVES, AFTER_MOVES, strict=True):
            move(one)
            is_seen(expected)
        rest, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert {STATES.index([int(number) for number in line.split()]) for line in rest.splitlines()} <= {3}
    changes = [state for state, before in zip(seen, [None, *seen], strict=False) if state != before]
    assert changes == [0, *AFTER_MOVES]


# Failures and kills -------------------------------------------------------------------------------------------------

PUBLISHING: dict[str, tuple[tuple[Any, str], bool, int]] = {  # where, after it, the version that is shown then
    "before the view": ((Publications, "move"), False, 1),
    "inside the transaction": ((Publications, "move"), True, 1),
    "between view and registry": ((registry_module, "write_registry"), False, 1),
    "before the manifest": ((publications_module, "files_of"), False, 2),
}
publishing_places = pytest.mark.parametrize(("place", "after", "shown"), PUBLISHING.values(), ids=PUBLISHING)


@publishing_places
def test_a_publication_that_fails_is_mended_by_the_next(lasting: Proxy, place: Any, shown: int, *, after: bool) -> None:
    mended(lasting, shown, lambda: _fails(lasting, place, after=after))


def _fails(proxy: Proxy, place: tuple[Any, str], *, after: bool) -> None:
    with failing_once(place, after=after), pytest.raises(RuntimeError, match="power"):
        proxy.publish()


def mended(proxy: Proxy, shown: int, breaks: Callable[[], None]) -> None:
    """A publication that breaks shows the first or the second of two versions, and the next one the second."""
    states, (first, _) = [proxy.ids()], proxy.publications()[-1]
    manifest = proxy.manifest()
    second = proxy.load(ids(first + 60))
    states.append(list(range(first + 60)))
    breaks()
    assert proxy.ids() == states[shown - 1]
    assert proxy.manifest() == manifest
    assert proxy.publications()[-1][0] == (first, second)[shown - 1]
    assert proxy.publish()["proxy/action"] == ("publish" if shown == 1 else "none: it was shown already")
    assert proxy.ids() == states[1]
    assert proxy.manifest() == proxy.manifest_of(second)
    assert proxy.publications()[-2:] == [(first, "publish"), (second, "publish")]


def _killed_at(folder: Path, place: tuple[str, str], act: str, *, after: bool) -> None:
    """Do something in a process that kills itself at a place."""

    def dies(real: Callable[..., Any], *given: Any, **named: Any) -> None:
        if after:
            real(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    owner, name = PLACES[place[0]], place[1]
    proxy = Proxy(folder)
    with replaced((owner, name), dies):
        if act == "release":
            proxy.release(SECOND)
        elif act == "publish":
            proxy.publish()
        else:
            proxy.retain(keep=1, days=0)


PLACES: dict[str, Any] = {
    "immutable": immutable,
    "proxy": proxy_module,
    "orchestration": publications_module,
    "registry": registry_module,
    "versions": Versions,
    "publications": Publications,
    "os": os,
}


def _name_of(owner: Any) -> str:
    return next(name for name, value in PLACES.items() if value is owner)


def killed(proxy: Proxy, place: tuple[Any, str], act: str, *, after: bool) -> None:
    run = FORKS.Process(
        target=_killed_at, args=(proxy.folder, (_name_of(place[0]), place[1]), act), kwargs={"after": after}
    )
    run.start()
    run.join(timeout=60)
    assert run.exitcode == -signal.SIGKILL


@forking
@loading_places
def test_a_load_that_is_killed_leaves_the_view(lasting: Proxy, place: Any, registered: int, *, after: bool) -> None:
    known, shown, manifest, before = lasting.live(), lasting.ids(), lasting.manifest(), digest(lasting.table(1))
    killed(lasting, place, "release", after=after)
    assert len(lasting.live()) == len(known) + registered
    assert (lasting.ids(), lasting.manifest()) == (shown, manifest)
    assert lasting.release(ids(7)) == len(known) + registered + 1
    assert lasting.ids() == list(range(7))
    assert digest(lasting.table(1)) == before


@forking
@publishing_places
def test_a_publication_that_is_killed_is_mended_by_the_next(
    lasting: Proxy, place: Any, shown: int, *, after: bool
) -> None:
    mended(lasting, shown, lambda: killed(lasting, place, "publish", after=after))


REMOVING: dict[str, tuple[tuple[Any, str], bool, list[int]]] = {  # where, after it, the versions that are left
    "inside the registry": ((Versions, "write"), True, [1, 2]),
    "before the tables": ((publications_module, "_remove_tables"), False, [2]),
    "once it is writable": ((immutable, "_set_writable"), True, [2]),
    "after a file": ((os, "unlink"), True, [2]),
}


@forking
@pytest.mark.parametrize(("place", "after", "left"), REMOVING.values(), ids=REMOVING)
def test_a_retention_that_is_killed_is_finished_by_the_next(
    two: Proxy,
    place: Any,
    left: list[int],
    *,
    after: bool,
) -> None:
    first, second = two.table(1), two.table(2)
    before = digest(second)
    killed(two, place, "retain", after=after)
    assert two.live() == left
    assert first.exists()
    if left == [1, 2]:
        assert_same_rows(two.rows(1), FIRST)
    else:
        with pytest.raises(MissingVersionError, match="it was removed"):
            two.publish(1)
    assert two.ids() == MACS
    two.retain(keep=1, days=0 if left == [1, 2] else 30)  # what the registry let go of is not kept by its youth
    assert (two.live(), list(two.tables.iterdir())) == ([2], [second])
    assert digest(second) == before


def test_no_file_of_a_reader_is_left_by_a_refused_manifest(one: Proxy) -> None:
    """The disk is full: the manifest stays whole, of the version before."""
    one.load(SECOND)
    folder = one.root.joinpath(*one.view, "_symlink_format_manifest")
    with failing_once((Path, "write_text"), after=True), pytest.raises(RuntimeError, match="power"):
        one.publish()
    assert [path.name for path in folder.iterdir()] == ["manifest"]
    assert one.manifest() == one.manifest_of(1)


# At once ------------------------------------------------------------------------------------------------------------


def test_two_loads_at_once_are_two_versions(one: Proxy) -> None:
    meeting = threading.Barrier(2)

    def load(number: int) -> int:
        def rows() -> pl.DataFrame:
            meeting.wait(timeout=30)
            return ids(number)

        return Proxy(one.folder).load(rows)

    with ThreadPoolExecutor(2) as threads:
        versions = list(threads.map(load, (10, 20)))
    assert sorted(versions) == [2, 3]
    assert [one.rows(version).height for version in versions] == [10, 20]
    assert one.live() == [1, 2, 3]
    assert one.versions().filter(version=3)["audits"].to_list() == [["has_ids"]]
    assert one.ids() == list(range(50))
    one.publish()
    assert one.shown().height == one.rows(3).height


# Empty loads --------------------------------------------------------------------------------------------------------

TYPES = pl.Schema(
    {
        "id": pl.Int64,
        "small": pl.Int8,
        "unsigned": pl.UInt8,
        "price": pl.Decimal(10, 2),
        "at": pl.Datetime("us", "UTC"),
        "local": pl.Datetime("us"),
        "day": pl.Date,
        "tags": pl.List(pl.String),
        "place": pl.Struct({"x": pl.Int32, "a b": pl.String}),
        "raw": pl.Binary,
        "flag": pl.Boolean,
        "ratio": pl.Float32,
        'quo"ted': pl.Categorical(),
    }
)


def test_an_empty_load_is_a_version_with_the_columns_of_a_full_one(empty: Proxy) -> None:
    assert empty.release(pl.DataFrame(schema=TYPES)) == 1
    columns = empty.columns()
    assert columns["place"] == 'STRUCT(x INTEGER, "a b" VARCHAR)'
    assert columns['quo"ted'] == "VARCHAR"
    assert empty.shown().is_empty()
    assert empty.manifest() == []
    loaded = empty.input()
    assert loaded.is_empty()
    assert loaded.columns == list(TYPES)
    empty.release(pl.DataFrame([{"id": 1, "tags": ["a"]}], schema=TYPES))
    assert empty.columns() == columns
    assert empty.ids() == [1]
    assert empty.input().schema == loaded.schema
    empty.publish(1)
    assert empty.shown().is_empty()
    assert empty.is_as_registered()


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_every_kind_of_frame_is_loaded_and_given(empty: Proxy, kind: type) -> None:
    empty.release(as_kind(SECOND, kind))
    assert_same_rows(empty.shown(), SECOND)
    assert_same_rows(empty.input(kind=kind), SECOND)


def test_something_else_is_refused(one: Proxy) -> None:
    with pytest.raises(UnsupportedFrameError):
        one.load([1, 2])
    with pytest.raises(InvalidMetadataError, match="without columns"):
        one.load(pl.DataFrame())
    assert one.live() == [1]
    assert len(list(one.tables.iterdir())) == 1


# Inputs -------------------------------------------------------------------------------------------------------------


of_the_moved = pytest.mark.xdist_group("proxy inputs")  # made once


@pytest.fixture(scope="module")
def moved() -> Iterator[Proxy]:
    """Shown in turn: 1, 2, 1 again, 3; then 4 is loaded, and not shown."""
    with tempfile.TemporaryDirectory() as folder:
        made = Proxy(Path(folder))
        made.release(ids(1, name="a"))
        made.release(ids(2, name="b"))
        made.publish(1)
        made.release(ids(3, name="c"))
        assert made.load(ids(4, name="d")) == 4
        yield made


@of_the_moved
def test_as_of_is_what_was_shown_then(moved: Proxy) -> None:
    moment = dt.timedelta(microseconds=1)
    zone = dt.timezone(dt.timedelta(hours=5))
    for number, (time, rows) in enumerate(zip(moved.times(), (1, 2, 1, 3), strict=True)):
        assert moved.input(as_of=time.isoformat()).height == rows
        if number:
            assert moved.input(as_of=(time - moment).isoformat()).height == (1, 2, 1, 3)[number - 1]
        else:
            with pytest.raises(MissingTableError, match="by then"):
                moved.input(as_of=(time - moment).astimezone(zone).isoformat())
    assert moved.input(as_of="2999-01-01T00:00:00Z").height == 3
    assert moved.input(as_of=moved.times()[1].astimezone(zone).isoformat()).height == 2


@of_the_moved
@pytest.mark.parametrize(
    "metadata",
    [
        {"as_of": "2024-05-06T12:00:00"},
        {"as_of": "2024-05-06"},
        {"as_of": "yesterday"},
        {"as_of": "2024-05-06T12:00:00Z", "table_version": 1},
        {"table_version": "1"},
        {"as_off": "2024-05-06T12:00:00Z"},
        {"columns": ["nothing"]},
    ],
    ids=str,
)
def test_inputs_that_are_refused(moved: Proxy, metadata: dict[str, Any]) -> None:
    with pytest.raises(InvalidMetadataError):
        moved.input(**metadata)


@of_the_moved
def test_inputs_of_the_view_and_of_the_loading_asset(moved: Proxy) -> None:
    assert moved.input().height == 3
    assert moved.input(moved.key).height == 4
    for version in (1, 2, 3, 4):
        assert moved.input(table_version=version).height == version
        assert moved.input(moved.key, table_version=version).height == version
    projected = moved.input(table_version=2, columns=["name"], kind=pl.LazyFrame)
    assert projected.rows() == [("b",), ("b",)]
    for of in (moved.view, moved.key):
        with pytest.raises(MissingVersionError, match="never loaded"):
            moved.input(of, table_version=5)


def test_an_input_of_nothing(empty: Proxy) -> None:
    for of in (empty.view, empty.key):
        with pytest.raises(MissingTableError, match="none published"):
            empty.input(of)
    assert not empty.database.exists()
    empty.load(FIRST)
    assert empty.input(empty.key).height == 50
    with pytest.raises(MissingTableError):
        empty.input()
    with pytest.raises(MissingTableError):
        empty.input(as_of="2999-01-01T00:00:00Z")


def test_a_removed_version_is_no_input(two: Proxy) -> None:
    first, _ = two.times()
    two.retain(keep=1, days=0)
    for ask in (
        lambda: two.input(as_of=first.isoformat()),
        lambda: two.input(table_version=1),
        lambda: two.input(two.key, table_version=1),
        lambda: two.publish(1),
    ):
        with pytest.raises(MissingVersionError, match=r"it was removed at.*\n.*choose one of 2"):
            ask()
    assert two.ids() == MACS


# Audits -------------------------------------------------------------------------------------------------------------


def test_a_failing_audit_keeps_a_version_from_being_shown(one: Proxy) -> None:
    one.passes = False
    result = one.run(dg.AssetSelection.assets(list(one.key), list(one.view)), SECOND, succeeds=False)
    assert [evaluation.passed for evaluation in result.get_asset_check_evaluations()] == [False]
    assert told(result, one.key)["proxy/version"] == 2
    assert one.ids() == list(range(50))
    assert_same_rows(one.examined[-1], SECOND)  # what nobody sees
    for version in (None, 2):
        with pytest.raises(UnauditedVersionError, match=r"version 2 .*\n.*has_ids"):
            one.publish(version)
    assert one.ids() == list(range(50))
    assert one.publications() == [(1, "publish")]
    one.passes = True
    assert one.audit_alone()
    assert one.publish()["proxy/version"] == 2
    assert one.ids() == MACS


def test_an_audit_that_is_missing(one: Proxy) -> None:
    one.load(SECOND, audited=False)
    with pytest.raises(UnauditedVersionError):  # that of version 1 does not count
        one.publish()
    one.passes = False
    assert not one.audit_alone()
    one.passes = True
    assert one.audit_alone()
    one.passes = False
    assert not one.audit_alone()  # only what it was last counts
    with pytest.raises(UnauditedVersionError):
        one.publish()
    assert one.publish(1)["proxy/action"] == "none: it was shown already"
    assert one.ids() == list(range(50))


def test_an_audit_of_the_newest_says_nothing_of_the_one_before(one: Proxy) -> None:
    one.load(SECOND, audited=False)
    one.load(ids(7))
    assert one.versions().sort("version")["audits"].to_list() == [["has_ids"], [], ["has_ids"]]
    with pytest.raises(UnauditedVersionError):
        one.publish(2)
    assert one.publish(3)["proxy/version"] == 3
    assert one.ids() == list(range(7))


def test_an_audit_that_breaks_is_none_that_passed(one: Proxy) -> None:
    with failing_once((Versions, "audited"), after=True):
        one.run(dg.AssetSelection.assets(list(one.key)), SECOND, succeeds=False)
    with pytest.raises(UnauditedVersionError):
        one.publish()
    assert one.audit_alone()
    assert one.publish()["proxy/version"] == 2


def test_nothing_to_audit_or_to_publish(empty: Proxy) -> None:
    for act in (empty.publish, lambda: empty.publish(1), empty.audit_alone):
        with pytest.raises((MissingTableError, MissingVersionError)):
            act()
    assert not empty.is_as_registered()
    assert empty.retain(keep=1, days=0)["proxy/removed"] == []


def test_a_view_that_shows_other_rows_is_noticed(two: Proxy) -> None:
    file = two.manifest_of(1)[0]
    two.execute(f"CREATE OR REPLACE VIEW published.catalogue AS FROM read_parquet('{file}')")
    assert not two.is_as_registered()
    two.publish(1)
    two.publish(2)
    assert two.is_as_registered()


# Retention ----------------------------------------------------------------------------------------------------------


def test_the_newest_stay_whatever_their_age_and_the_young_whatever_their_number(two: Proxy) -> None:
    for number in range(3, 7):
        two.load(ids(number))
    assert two.retain()["proxy/removed"] == []  # one too many, and young
    two.aged(31, 1, 2, 3, 5)
    assert two.retain()["proxy/removed"] == [1]
    assert two.retain(keep=3)["proxy/removed"] == [3]  # the second is shown
    assert two.retain(keep=0)["proxy/removed"] == [5]  # the newest is always kept
    assert two.live() == [2, 4, 6]
    assert sorted(two.tables.iterdir()) == sorted(map(two.table, two.live()))
    assert two.retain(keep=1, days=0)["proxy/removed"] == [4]
    assert two.ids() == MACS
    assert two.load(ids(1)) == 7  # no number is used again
    assert two.versions()["removed_at"].is_null().to_list() == [False, True, False, False, False, True, True]


def test_a_legal_hold_outlasts_every_retention(two: Proxy) -> None:
    two.load(ids(7))
    two.hold(1, "case 4711")
    assert two.retain(keep=1, days=0) == {"proxy/removed": [], "proxy/under_legal_hold": [1]}
    assert_same_rows(two.rows(1), FIRST)
    two.hold(1, None)
    assert two.retain(keep=1, days=0) == {"proxy/removed": [1], "proxy/under_legal_hold": []}
    for version, why in ((1, "it was removed"), (9, "never loaded")):
        with pytest.raises(MissingVersionError, match=why):
            two.hold(version, "too late")


def test_no_version_that_any_view_shows_is_removed(two: Proxy) -> None:
    other = Proxy(two.folder, view=("audit", "catalogue"))
    other.publish(1)
    for number in (5, 6):
        two.load(ids(number))
    assert two.retain(keep=1, days=0)["proxy/removed"] == [3]
    assert (two.ids(), other.ids()) == (MACS, list(range(50)))
    two.publish(4)
    other.publish(4)
    other.publish(1)  # rolled back: the newest is shown by the one, the oldest by the other
    assert two.retain(keep=1, days=0)["proxy/removed"] == [2]
    assert (two.ids(), other.ids()) == (list(range(6)), list(range(50)))
    two.publish(1)
    other.publish(4)
    two.load(ids(1))
    assert two.retain(keep=1, days=0)["proxy/removed"] == []
    assert two.live() == [1, 4, 5]


def test_a_version_of_another_asset_is_not_protected_by_its_number(one: Proxy) -> None:
    other = Proxy(one.folder, key=("internal", "devices"), view=("published", "devices"))
    other.release(ids(3))
    other.release(ids(4))
    assert other.retain(keep=1, days=0)["proxy/removed"] == [1]  # of the other asset the first is shown
    assert one.ids() == list(range(50))
    assert other.ids() == list(range(4))


@forking
def test_what_interrupted_loads_left_is_removed_after_the_days(one: Proxy) -> None:
    killed(one, (immutable, "write_files"), "release", after=True)
    killed(one, (Versions, "registered"), "release", after=False)
    left = set(one.tables.iterdir()) - {one.table(1)}
    assert len(left) == 2
    one.retain(keep=1, days=30)
    assert set(one.tables.iterdir()) == {one.table(1), *left}
    (old, young) = left
    long_ago = (dt.datetime.now(dt.UTC) - dt.timedelta(days=31)).timestamp()
    os.utime(old, (long_ago, long_ago))
    os.utime(one.table(1), (long_ago, long_ago))
    one.retain(keep=1, days=30)
    assert set(one.tables.iterdir()) == {one.table(1), young}
    one.retain(keep=1, days=0)
    assert list(one.tables.iterdir()) == [one.table(1)]
    assert one.ids() == list(range(50))


# Names, columns, and tables of others -------------------------------------------------------------------------------


@pytest.mark.parametrize("lake", ["o'brien", "two words", "{a,b}", "lä", "semi;colon", "[1]"])
@pytest.mark.parametrize("file", ["published.duckdb", 'o\'brien "x".duckdb', "internal.duckdb"])
def test_a_root_and_a_file_of_any_name(tmp_path: Path, lake: str, file: str) -> None:
    proxy = Proxy(tmp_path, lake=lake, file=file)
    proxy.release(FIRST)
    proxy.release(SECOND)
    with duckdb.connect(str(proxy.database), read_only=True) as connection:
        (name,) = connection.execute("SELECT current_database()").fetchall()[0]
        quoted = '"' + name.replace('"', '""') + '"'
        shown = connection.execute(f"SELECT id FROM {quoted}.published.catalogue ORDER BY id").fetchall()  # noqa: S608 - quoted
    assert [number for (number,) in shown] == MACS
    assert proxy.is_as_registered()
    assert proxy.input(table_version=1).height == 50


def test_a_schema_that_is_named_like_the_file_has_a_retention(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, file="published.duckdb")
    proxy.release(FIRST)
    proxy.release(SECOND)
    assert proxy.retain(keep=1, days=0)["proxy/removed"] == [1]


@pytest.mark.parametrize(("lake", "copy"), [("la*ke", "la-ke"), ("la?ke", "la-ke")])
def test_a_copy_whose_name_fits_the_root_as_a_pattern_is_not_shown(tmp_path: Path, lake: str, copy: str) -> None:
    proxy = Proxy(tmp_path, lake=lake)
    proxy.release(SECOND)
    shutil.copytree(proxy.root, tmp_path / copy)
    assert proxy.ids() == MACS


def test_odd_columns_are_shown_as_they_are(empty: Proxy) -> None:
    odd = ["filename", "file_row_number", "file_index", "rowid", 'a"b', "a'b", "a b", "select", "é", "a.b", " ", "a;b"]
    odd += ["a=b", "a%b", "{x}", "day", "schema", "a,b"]
    rows = pl.DataFrame({name: [number, number + 100] for number, name in enumerate(odd)})
    empty.release(rows)
    shown = empty.shown()
    assert shown.columns == odd
    assert_same_rows(shown, rows)
    assert_same_rows(empty.input(columns=['a"b', "filename"]), rows.select('a"b', "filename"))


def test_a_column_without_a_name_is_refused_by_the_load(empty: Proxy) -> None:
    with pytest.raises(InvalidMetadataError):
        empty.load(pl.DataFrame({"": [1], "other": [2]}))


def test_values_are_shown_as_they_were_loaded(empty: Proxy) -> None:
    at = dt.datetime(1969, 12, 31, 23, 59, 59, 999999, dt.UTC)
    rows = pl.DataFrame(
        [
            {"id": 2**63 - 1, "at": at, "name": 'o\'brien "x"', "tags": ["a", None], "place": {"x": 1, "a b": None}},
            {"id": None, "at": None, "name": "", "tags": [], "place": None},
        ],
        schema={"id": pl.Int64, "at": pl.Datetime("us", "UTC"), "name": pl.String, "tags": pl.List(pl.String)}
        | {"place": pl.Struct({"x": pl.Int32, "a b": pl.String})},
    )
    empty.release(rows)
    with empty.connection() as connection:
        shown = connection.execute("FROM published.catalogue ORDER BY id NULLS LAST").fetchall()
    assert [row[:1] + row[2:] for row in shown] == [row[:1] + row[2:] for row in rows.rows()]
    assert shown[0][1] == at
    assert_same_rows(empty.input(), rows)


@pytest.mark.parametrize("made", ["TABLE", "VIEW"])
def test_a_table_or_view_of_others_under_its_name_is_left(empty: Proxy, made: str) -> None:
    empty.load(FIRST)
    empty.execute("CREATE SCHEMA Published", f"CREATE {made} Published.Catalogue AS SELECT 7 AS theirs")
    for _ in range(2):
        with pytest.raises(UnsupportedTableError, match="'catalogue'"):
            empty.publish()
        assert empty.shown().rows() == [(7,)]
    assert not empty.root.joinpath(*empty.view).exists()
    empty.execute(f"DROP {made} Published.Catalogue")
    empty.publish()
    assert empty.ids() == list(range(50))


def test_two_assets_of_one_table_name_stay_apart(one: Proxy) -> None:
    other = Proxy(one.folder, key=("elsewhere", *one.key), view=("published", "other"))
    with pytest.raises((UnsupportedTableError, UnsafeAssetKeyError)):
        other.load(SECOND)
    assert one.publish()["proxy/version"] == 1
    assert one.ids() == list(range(50))


def test_two_views_of_one_name_stay_apart(one: Proxy) -> None:
    other = Proxy(one.folder, key=("internal", "devices"), view=("elsewhere", *one.view))
    other.load(SECOND)
    with pytest.raises((UnsupportedTableError, UnsafeAssetKeyError)):
        other.publish()
    assert one.ids() == list(range(50))


def test_reserved_names_are_refused_for_a_load(tmp_path: Path) -> None:
    for name in ("catalogue__versions", "catalogue_"):
        proxy = Proxy(tmp_path, key=("internal", name))
        with pytest.raises(UnsafeAssetKeyError, match="__"):
            proxy.load(FIRST, audited=False)
        with pytest.raises(UnsafeAssetKeyError, match="__"):
            proxy.resources["proxy"].refuse_spec(dg.AssetSpec(list(proxy.key)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["catalogue__versions", "catalogue_"])
def test_reserved_names_are_refused_for_a_view(one: Proxy, name: str) -> None:
    other = Proxy(one.folder, view=("internal", name))
    with pytest.raises(UnsafeAssetKeyError):
        other.publish()
    assert other.live() == [1]


def test_partitions_are_refused(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, partitions=DAYS)
    with pytest.raises(InvalidMetadataError, match="proxy_native"):
        proxy.load(FIRST, audited=False, partition="2024-10-05")
    with pytest.raises(InvalidMetadataError, match="proxy_native"):
        proxy.resources["proxy"].refuse_spec(dg.AssetSpec(list(proxy.key), partitions_def=DAYS))
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_another_io_manager_is_no_folder_of_loads(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    table = Table(proxy.root, key=proxy.key)
    table.write(FIRST)
    before = digest(proxy.root)
    with pytest.raises(InvalidMetadataError, match="another IO manager"):
        proxy.load(SECOND)
    assert digest(proxy.root) == before


def test_a_database_of_no_file_is_refused(tmp_path: Path) -> None:
    for database in (":memory:", "md:catalogue", ""):
        manager = ProxyIOManager(root_uri=str(tmp_path), database=database)
        with pytest.raises(dg.Failure, match="not a file"):
            manager.refuse_spec(dg.AssetSpec(["internal", "catalogue"]))


# Numbers, clocks and hands ------------------------------------------------------------------------------------------


def test_version_zero_was_never_loaded(two: Proxy) -> None:
    two.publish(1)
    for ask in (
        lambda: two.publish(0),
        lambda: two.input(table_version=0),
        lambda: two.input(two.key, table_version=0),
    ):
        with pytest.raises(MissingVersionError, match="never loaded"):
            ask()


def test_as_of_of_the_loading_asset_is_not_passed_over(one: Proxy) -> None:
    with pytest.raises((InvalidMetadataError, MissingTableError)):
        one.input(one.key, as_of="2020-01-01T00:00:00Z")


class _AnHourAgo(dt.datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
        return dt.datetime.now(tz) - dt.timedelta(hours=1)


def test_what_is_shown_stays_when_the_clock_is_set_back(one: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(registry_module, "datetime", _AnHourAgo)
        assert one.release(SECOND) == 2
    one.load(ids(7))
    assert one.ids() == MACS
    one.retain(keep=1, days=0)
    assert one.ids() == MACS


def test_a_view_that_was_dropped_by_hand_is_made_again(one: Proxy) -> None:
    one.execute("DROP VIEW published.catalogue")
    one.publish()
    assert one.ids() == list(range(50))


# Readers ------------------------------------------------------------------------------------------------------------


def test_duckdb_reads_the_view_with_no_extension_and_no_setting(two: Proxy) -> None:
    with duckdb.connect(str(two.database), read_only=True) as connection:
        connection.execute("SET autoload_known_extensions = false")
        connection.execute("SET autoinstall_known_extensions = false")
        rows = connection.execute("SELECT id FROM published.catalogue ORDER BY id").fetchall()
        loaded = connection.execute("SELECT extension_name FROM duckdb_extensions() WHERE loaded").fetchall()
        (definition,) = connection.execute("SELECT sql FROM duckdb_views() WHERE NOT internal").fetchall()[0]
        with pytest.raises(duckdb.Error):
            connection.execute("DROP VIEW published.catalogue")
    assert [number for (number,) in rows] == MACS
    assert "delta" not in {name for (name,) in loaded}
    assert "delta_scan" not in definition
    assert "read_parquet" in definition


def test_the_manifest_is_enough_to_read_by(empty: Proxy) -> None:
    empty.release(FIRST)
    with replaced((immutable, "write_files"), lambda real, *given, **named: real(*given, max_rows=3, **named)):
        empty.release(ids(10))
    files = empty.manifest()
    assert len(files) == 4
    assert files == empty.manifest_of(2)
    assert sorted(pl.read_parquet(files)["id"]) == empty.ids() == list(range(10))
    empty.publish(1)
    assert sorted(pl.read_parquet(empty.manifest())["id"]) == list(range(50))


def test_a_reader_that_began_before_is_not_disturbed(one: Proxy) -> None:
    with duckdb.connect(str(one.database), config=CONFIG) as connection:
        connection.begin()
        before = connection.execute("SELECT id FROM published.catalogue ORDER BY id").fetchall()
        one.release(SECOND)
        assert connection.execute("SELECT id FROM published.catalogue ORDER BY id").fetchall() == before
        connection.commit()
        assert connection.execute("SELECT count(*) FROM published.catalogue").fetchall() == [(4,)]
