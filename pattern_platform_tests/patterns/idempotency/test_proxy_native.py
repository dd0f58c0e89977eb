"""Proxy with native versioning: one Delta table, and a view of one of its versions, which a vacuum spares.

What the table holds is asked of delta-rs, what the view shows of DuckDB, on connections of the test's own.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from pattern_platform import DataOverwriteIOManager
from pattern_platform.errors import MissingTableError, MissingVersionError, UnauditedVersionError
from pattern_platform.lake.maintenance import compact, vacuum
from pattern_platform.orchestration import publications as publications_module
from pattern_platform.patterns.idempotency import proxy_native as native_module
from pattern_platform.patterns.idempotency.proxy_native import native_audit_check
from pattern_platform.warehouse.database import connected
from pattern_platform.warehouse.publications import Publications
from pattern_platform.warehouse.versions import Versions
from pattern_platform_tests.lake.tables import assert_same_rows
from pattern_platform_tests.patterns.idempotency.proxies import (
    AUDIT,
    FORKS,
    Proxy,
    failing_once,
    forking,
    ids,
    replaced,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAYS = dg.DailyPartitionsDefinition("2024-10-05", end_date="2024-10-12")
NO_TIME = dt.timedelta(0)


@dataclass
class Native(Proxy):
    """A table of daily partitions, with its view."""

    key: tuple[str, ...] = ("aggregated", "cube")
    view: tuple[str, ...] = ("published", "cube")
    table_lake: str = "lake"
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def resources(self) -> dict[str, Any]:
        delta = DataOverwriteIOManager(root_uri=str(self.folder / self.table_lake))
        return {**super().resources, "delta": delta}

    @property
    def path(self) -> Path:
        return self.folder.joinpath(self.table_lake, *self.key)

    def loading(self, value: object = None) -> dg.AssetsDefinition:
        @dg.asset(
            key=list(self.key),
            io_manager_key="delta",
            partitions_def=DAYS,
            metadata={"partition_expr": "day", **self.metadata},
        )
        def cube() -> Any:
            return value

        return cube

    @cached_property
    def audit(self) -> dg.AssetChecksDefinition:
        return native_audit_check(
            dg.AssetKey(self.key),
            AUDIT,
            self.examine,
            description="As the test wants it.",
            io_manager_key="proxy",
            table_io_manager_key="delta",
        )

    def write(self, number: int, count: int, **columns: object) -> None:
        """Write a day of October, and nothing else."""
        chosen = dg.AssetSelection.assets(list(self.key)).without_checks()
        self.run(chosen, rows_of(number, count, **columns), partition=day(number))

    def show(self, number: int, count: int, **columns: object) -> int:
        """Write a day, audit the table, and publish it."""
        self.write(number, count, **columns)
        assert self.audit_alone()
        return self.publish()["proxy/version"]

    def delta_versions(self) -> list[int]:
        """The versions of the table that are registered and not removed."""
        return self.versions().filter(pl.col("removed_at").is_null())["delta_version"].to_list()

    def pinned(self) -> list[int]:
        return json.loads((self.path / "_pinned_versions.json").read_text())

    def vacuumed(self) -> int:
        """How many files a vacuum removes."""
        before = len(on_disk(self.path))
        vacuum(self.path, retention=NO_TIME, longest_run=NO_TIME)
        return before - len(on_disk(self.path))


def day(number: int) -> str:
    return f"2024-10-{number:02}"


def rows_of(number: int, count: int, **columns: object) -> pl.DataFrame:
    """The rows of a day, each with an id of its own."""
    return ids(count, first=100 * number, day=dt.date(2024, 10, number), **columns)


def ids_of(**days: int) -> list[int]:
    """The ids of some days, as ``d5=2``."""
    return [100 * int(name[1:]) + row for name, count in days.items() for row in range(count)]


def on_disk(table: Path) -> list[str]:
    """The data files, as they are named on the disk."""
    return [str(path.relative_to(table)) for path in table.rglob("*.parquet") if "_delta_log" not in path.parts]


@pytest.fixture
def empty(tmp_path: Path) -> Native:
    return Native(tmp_path)


@pytest.fixture
def one(empty: Native) -> Native:
    """One day of two rows, shown."""
    assert empty.show(5, 2) == 1
    assert empty.ids() == ids_of(d5=2)
    return empty


@pytest.fixture
def two(one: Native) -> Native:
    """And the same day of one row instead, shown."""
    assert one.show(5, 1) == 2
    assert one.ids() == ids_of(d5=1)
    return one


# What is shown ------------------------------------------------------------------------------------------------------


def test_the_shown_version_stays_while_later_partitions_are_written(one: Native) -> None:
    for number in (6, 7):
        one.write(number, 1)
        assert one.ids() == ids_of(d5=2)
        assert one.input().height == 2
    assert DeltaTable(one.path).to_pyarrow_table().num_rows == 4
    assert one.live() == [1]
    one.passes = False
    assert not one.audit_alone()
    with pytest.raises(UnauditedVersionError):
        one.publish()
    assert one.ids() == ids_of(d5=2)
    one.passes = True
    assert one.audit_alone()
    assert one.publish()["proxy/version"] == 2
    assert one.ids() == ids_of(d5=2, d6=1, d7=1)
    assert one.versions().select("version", "rows").rows() == [(1, 2), (2, 4)]
    assert set(one.versions()["uri"]) == {str(one.path)}
    assert one.is_as_registered()


def test_a_publication_before_an_audit_shows_what_was_audited(one: Native) -> None:
    one.write(6, 1)
    assert one.publish()["proxy/action"] == "none: it was shown already"
    assert one.ids() == ids_of(d5=2)


def test_a_version_is_registered_once(one: Native) -> None:
    for _ in range(2):
        assert one.audit_alone()
    assert one.live() == [1]
    assert one.pinned() == one.delta_versions()
    assert_same_rows(one.examined[-1], rows_of(5, 2))


def test_a_partition_in_one_run_with_its_audit(empty: Native) -> None:
    chosen = dg.AssetSelection.assets(list(empty.key))
    result = empty.run(chosen, rows_of(5, 3), partition=day(5))
    assert [evaluation.passed for evaluation in result.get_asset_check_evaluations()] == [True]
    assert empty.publish()["dagster/row_count"] == 3
    assert empty.ids() == ids_of(d5=3)


def test_nothing_to_audit(empty: Native) -> None:
    for act in (empty.audit_alone, empty.publish):
        with pytest.raises(MissingTableError):
            act()
    assert not empty.path.exists()


def test_roll_back(two: Native) -> None:
    assert two.publish(1)["proxy/action"] == "roll back"
    assert two.ids() == ids_of(d5=2)
    assert two.manifest() == two.manifest_of(1)
    assert two.publications() == [(1, "publish"), (2, "publish"), (1, "roll back")]
    two.write(6, 1)
    assert two.ids() == ids_of(d5=2)
    assert DeltaTable(two.path).to_pyarrow_table().num_rows == 2  # rolling back is of the view, not of the table
    assert two.audit_alone()
    assert two.publish()["proxy/version"] == 3
    assert two.ids() == ids_of(d5=1, d6=1)
    assert two.manifest() == two.manifest_of(3)


def test_as_of_and_versions(two: Native) -> None:
    two.publish(1)
    two.show(6, 1)
    expected = [ids_of(d5=2), ids_of(d5=1), ids_of(d5=2), ids_of(d5=1, d6=1)]
    for time, rows in zip(two.times(), expected, strict=True):
        assert sorted(two.input(as_of=time.isoformat())["id"]) == rows
    with pytest.raises(MissingTableError):
        two.input(as_of=(two.times()[0] - dt.timedelta(microseconds=1)).isoformat())
    assert two.input(table_version=2, columns=["id"]).rows() == [(500,)]
    with pytest.raises(MissingVersionError):
        two.input(table_version=4)


def test_a_compaction_changes_no_view(one: Native) -> None:
    one.show(6, 2)
    before = one.manifest()
    assert compact(one.path)
    assert one.ids() == ids_of(d5=2, d6=2)
    assert one.vacuumed() == 0
    assert one.ids() == ids_of(d5=2, d6=2)
    assert one.audit_alone()
    one.publish()
    assert one.ids() == ids_of(d5=2, d6=2)
    assert (len(before), len(one.manifest())) == (2, 1)


def test_readers_while_it_is_written_and_published(one: Native) -> None:
    states = [ids_of(d5=2), ids_of(d5=2, d6=3), ids_of(d5=1, d6=3)]
    seen: list[int] = []
    stopping, read, errors = threading.Event(), threading.Condition(), []

    def reads() -> None:
        try:
            while not stopping.is_set():
                with connected(str(one.database)) as connection:
                    rows = connection.execute("SELECT id FROM published.cube").fetchall()
                with read:
                    seen.append(states.index(sorted(number for (number,) in rows)))
                    read.notify_all()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            with read:
                errors.append(error)
                read.notify_all()

    def reads_more() -> int:
        with read:
            wanted = len(seen) + 2
            assert read.wait_for(lambda: errors or len(seen) >= wanted, timeout=30), "no read"
            assert errors == []
            return seen[-1]

    thread = threading.Thread(target=reads)
    thread.start()
    try:
        for expected, (number, count) in enumerate([(6, 3), (5, 1)], start=1):
            one.write(number, count)
            one.vacuumed()
            assert reads_more() == expected - 1
            one.audit_alone()
            one.publish()
            assert reads_more() == expected
        one.publish(1)
        assert reads_more() == 0
    finally:
        stopping.set()
        thread.join()
    assert errors == []


# Vacuum and retention -----------------------------------------------------------------------------------------------


def test_a_vacuum_keeps_the_files_of_registered_versions(two: Native) -> None:
    two.publish(1)
    assert two.pinned() == two.delta_versions()
    assert two.vacuumed() == 0
    assert two.ids() == ids_of(d5=2)
    (two.path / "_pinned_versions.json").unlink()
    assert two.vacuumed() == 1  # the negative control
    with pytest.raises(duckdb.IOException):
        two.ids()


def test_a_retention_lets_the_files_go(two: Native) -> None:
    two.show(5, 3)
    two.hold(1, "case 4711")
    two.publish(2)
    assert two.retain(keep=1, days=0) == {"proxy/removed": [], "proxy/under_legal_hold": [1]}
    assert two.vacuumed() == 0
    two.publish(3)
    assert two.retain(keep=1, days=0)["proxy/removed"] == [2]
    assert two.vacuumed() == 1
    assert_same_rows(two.rows(1), rows_of(5, 2))
    two.hold(1, None)
    assert two.retain(keep=1, days=0)["proxy/removed"] == [1]
    assert two.pinned() == two.delta_versions() == [two.versions()["delta_version"][2]]
    assert two.vacuumed() == 1
    assert two.ids() == ids_of(d5=3)
    for version in (1, 2):
        with pytest.raises(MissingVersionError, match="it was removed"):
            two.publish(version)
        with pytest.raises(MissingVersionError, match="it was removed"):
            two.hold(version, "too late")
        with pytest.raises(MissingVersionError, match="it was removed"):
            two.input(table_version=version)


def test_what_is_young_and_what_any_view_shows_stays(two: Native) -> None:
    other = Native(two.folder, view=("audit", "cube"))
    other.publish(1)
    two.show(5, 3)
    two.show(5, 4)
    two.aged(31, 1, 2)
    assert two.retain(keep=1)["proxy/removed"] == [2]
    assert two.vacuumed() == 1
    assert (other.ids(), two.ids()) == (ids_of(d5=2), ids_of(d5=4))
    assert two.retain(keep=1, days=0)["proxy/removed"] == [3]
    assert two.live() == [1, 4]


def test_unregistered_versions_are_no_concern_of_the_pins(two: Native) -> None:
    for count in (5, 6, 7):
        two.write(5, count)
    assert two.vacuumed() == 2
    assert two.ids() == ids_of(d5=1)
    two.publish(1)
    assert two.ids() == ids_of(d5=2)


def test_the_table_has_a_root_of_its_own(tmp_path: Path) -> None:
    native = Native(tmp_path, table_lake="elsewhere")
    native.show(5, 2)
    native.show(5, 1)
    assert native.retain(keep=1, days=0)["proxy/removed"] == [1]
    assert native.pinned() == native.delta_versions()
    assert native.vacuumed() == 1
    assert native.ids() == ids_of(d5=1)


# Failures and kills -------------------------------------------------------------------------------------------------

PIN = (native_module, "pin_registered")
AUDITING: dict[str, tuple[tuple[Any, str], bool]] = {
    "before the pin": (PIN, False),
    "between pin and registry": (PIN, True),
    "inside the registry": ((Versions, "write"), True),
    "before the outcome": ((Versions, "audited"), False),
}


@pytest.mark.parametrize(("place", "after"), AUDITING.values(), ids=AUDITING)
def test_an_audit_that_fails_is_repeated(one: Native, place: tuple[Any, str], *, after: bool) -> None:
    one.write(5, 1)
    with failing_once(place, after=after), pytest.raises(RuntimeError, match="power"):
        one.audit_alone()
    assert one.ids() == ids_of(d5=2)
    assert set(one.delta_versions()) <= set(one.pinned())
    assert one.vacuumed() == 0
    assert one.ids() == ids_of(d5=2)
    assert one.audit_alone()
    assert one.publish()["proxy/version"] == 2
    assert one.ids() == ids_of(d5=1)
    assert one.pinned() == one.delta_versions()


def _killed(folder: Path, name: str, *, after: bool) -> None:
    """Audit, publish and retain in a process that kills itself at a place."""

    def dies(real: Callable[..., Any], *given: Any, **named: Any) -> None:
        if after:
            real(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    native = Native(folder)
    place = PIN if name == "audit" else (publications_module, "pin_registered")
    with replaced(place, dies):
        if name == "audit":
            native.audit_alone()
        native.retain(keep=1, days=0)


def killed(native: Native, name: str, *, after: bool) -> None:
    run = FORKS.Process(target=_killed, args=(native.folder, name), kwargs={"after": after})
    run.start()
    run.join(timeout=60)
    assert run.exitcode == -signal.SIGKILL


@forking
def test_an_audit_that_is_killed_between_pin_and_registry(one: Native) -> None:
    one.write(5, 1)
    killed(one, "audit", after=True)
    assert one.live() == [1]
    assert len(one.pinned()) == 2  # pinned and not registered: it costs disk
    assert one.vacuumed() == 0
    assert one.ids() == ids_of(d5=2)
    one.write(5, 3)
    assert one.audit_alone()
    assert one.pinned() == one.delta_versions()
    assert one.vacuumed() == 1  # until the next audit
    assert one.publish()["proxy/version"] == 2
    assert one.ids() == ids_of(d5=3)
    one.publish(1)
    assert one.ids() == ids_of(d5=2)


@forking
def test_a_retention_that_is_killed_between_registry_and_pins(two: Native) -> None:
    killed(two, "retention", after=False)
    assert two.live() == [2]
    assert len(two.pinned()) == 2
    assert two.vacuumed() == 0
    assert two.retain(keep=1, days=0)["proxy/removed"] == []
    assert two.pinned() == two.delta_versions()
    assert two.vacuumed() == 1
    assert two.ids() == ids_of(d5=1)


def test_an_audit_during_a_retention_keeps_its_pin(two: Native) -> None:
    two.write(5, 3)

    def meanwhile(real: Callable[..., None], *given: Any) -> None:
        real(*given)
        assert two.audit_alone()
        assert two.publish()["proxy/version"] == 3

    with replaced((publications_module, "_remove_tables"), meanwhile):
        two.retain(keep=1, days=0)
    assert two.live() == [2, 3]
    assert two.pinned() == two.delta_versions()
    two.write(5, 4)
    two.vacuumed()
    assert two.ids() == ids_of(d5=3)


def test_a_publication_that_fails_is_repeated_alone(one: Native) -> None:
    one.write(5, 1)
    assert one.audit_alone()
    for place, after, shown in (
        ((Publications, "move"), True, ids_of(d5=2)),
        ((publications_module, "files_of"), False, ids_of(d5=1)),
    ):
        with failing_once(place, after=after), pytest.raises(RuntimeError, match="power"):
            one.publish()
        assert one.ids() == shown
        assert one.manifest() == one.manifest_of(1)
    one.publish()
    assert one.ids() == ids_of(d5=1)
    assert one.manifest() == one.manifest_of(2)
    assert one.live() == [1, 2]


# Tables of any shape ------------------------------------------------------------------------------------------------


def test_a_physically_partitioned_table(tmp_path: Path) -> None:
    native = Native(tmp_path, metadata={"partition_by": ["day", "country"]})
    names = ["fr", "o'brien", None, "a/b=c"]
    countries = pl.Series("country", names, dtype=pl.String)
    rows = rows_of(5, 4).with_columns(countries)
    native.run(dg.AssetSelection.assets(list(native.key)), rows, partition=day(5))
    native.publish()
    assert native.columns() == {"id": "BIGINT", "day": "DATE", "country": "VARCHAR"}
    assert_same_rows(native.shown(), rows)
    assert native.manifest() == sorted(str(native.path / file) for file in on_disk(native.path))
    assert native.is_as_registered()
    chosen = dg.AssetSelection.assets(list(native.key))
    native.run(chosen, rows.filter(pl.col("country") == "fr"), partition=day(5))
    native.publish()
    assert_same_rows(native.shown(), rows.filter(pl.col("country") == "fr"))
    native.run(chosen, rows.clear(), partition=day(5))
    native.publish()
    assert native.shown().is_empty()
    assert native.columns() == {"id": "BIGINT", "day": "DATE", "country": "VARCHAR"}


def test_columns_that_are_added_and_of_which_no_file_is_left(tmp_path: Path) -> None:
    native = Native(tmp_path, metadata={"schema_evolution": "add_columns"})
    native.show(5, 2)
    native.show(6, 1, price=2.5)
    wide = {"id": "BIGINT", "day": "DATE", "price": "DOUBLE"}
    assert native.columns() == wide
    assert dict(native.shown().select("id", "price").rows()) == {500: None, 501: None, 600: 2.5}
    native.show(6, 0, price=2.5)
    assert native.columns() == wide
    assert dict(native.shown().select("id", "price").rows()) == {500: None, 501: None}
    native.publish(1)
    assert native.columns() == {"id": "BIGINT", "day": "DATE"}


def test_an_empty_table_is_shown_empty(empty: Native) -> None:
    empty.show(5, 0)
    assert empty.columns() == {"id": "BIGINT", "day": "DATE"}
    assert empty.shown().is_empty()
    assert empty.manifest() == []
    empty.show(6, 1)
    assert empty.ids() == ids_of(d6=1)


def test_a_table_that_was_made_anew_has_versions_of_its_own(two: Native) -> None:
    shutil.rmtree(two.path)
    two.write(5, 4)
    with pytest.raises(MissingVersionError):
        two.publish(1)
    two.passes = False
    assert not two.audit_alone()
    with pytest.raises(UnauditedVersionError):  # the audits of the table before do not count
        two.publish()
    two.passes = True
    assert two.audit_alone()
    assert two.publish()["proxy/version"] == 3
    assert two.ids() == ids_of(d5=4)
    assert two.is_as_registered()


def test_commits_of_others_are_seen_by_the_next_audit_alone(one: Native) -> None:
    write_deltalake(one.path, rows_of(6, 1).to_arrow(), mode="append")
    assert one.ids() == ids_of(d5=2)
    assert one.audit_alone()
    one.publish()
    assert one.ids() == ids_of(d5=2, d6=1)
    DeltaTable(one.path).restore(1)
    assert one.ids() == ids_of(d5=2, d6=1)
    assert one.audit_alone()
    one.publish()
    assert one.ids() == ids_of(d5=2)
    assert one.live() == [1, 2, 3]
