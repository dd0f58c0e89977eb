"""Parallel Split: two branches of one parent, each by itself, and what the check says of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from pattern_platform import parallel_split
from pattern_platform.errors import InvalidFlowError
from pattern_platform_tests.patterns.data_flow.flows import (
    BY_DAY,
    DAYS,
    FILES,
    Calls,
    Daemon,
    Flow,
    Ran,
    csv_days,
    csv_file,
    csv_rows,
    date_of,
    day,
    plain,
    table,
)

VISITS = dg.AssetKey("visits")
OLD, NEW = "exports/visits", "serving/visits"


def visits_of(partition: str) -> pl.DataFrame:
    """Ten visits of a day, one without a page, one without a context."""
    number = date_of(partition).day
    return pl.DataFrame(
        {
            "day": date_of(partition),
            "visit_id": [number * 10 + n for n in range(10)],
            "page": [None if n == 3 else f"page_{n}" for n in range(10)],
            "context": [None if n == 4 else {"browser": "x,y", "ads": n} for n in range(10)],
        },
        schema_overrides={"context": pl.Struct({"browser": pl.String, "ads": pl.Int64})},
    )


def with_text(rows: pl.LazyFrame) -> pl.LazyFrame:
    """A struct as the JSON text that a CSV file keeps; a null stays one, which Polars would write as the text null."""
    context = pl.col("context")
    return rows.with_columns(pl.when(context.is_not_null()).then(context.struct.json_encode()).alias("context"))


@dataclass(frozen=True)
class Split:
    """Visits, files of old, the table that takes their place, and the check that they agree."""

    root: Path
    as_legacy: Callable[[pl.LazyFrame], pl.LazyFrame] = with_text

    @property
    def calls(self) -> Calls:
        return Calls(self.root / "calls")

    @property
    def flow(self) -> Flow:
        calls, rows = self.calls, visits_of

        @dg.asset(partitions_def=DAYS, metadata=BY_DAY)
        def visits(context: dg.AssetExecutionContext) -> pl.DataFrame:
            calls.called("visits")
            return rows(context.partition_key)

        @dg.asset(key=OLD.split("/"), partitions_def=DAYS, metadata=BY_DAY, io_manager_key=FILES)
        def old(visits: pl.LazyFrame) -> pl.LazyFrame:
            calls.called("old")
            return with_text(visits)

        @dg.asset(key=NEW.split("/"), partitions_def=DAYS, metadata=BY_DAY)
        def new(visits: pl.LazyFrame) -> pl.LazyFrame:
            calls.called("new")
            return visits

        return Flow(self.root, [visits, old, new, parallel_split(VISITS, old, new, as_legacy=self.as_legacy)])

    def run(self, *numbers: int, selection: Any = None, fails: bool = False) -> None:
        """Make days, and leave the check to the tests of the check."""
        chosen = dg.AssetSelection.assets(*selection) if selection else dg.AssetSelection.all()
        for number in numbers:
            self.flow.run(day(number), chosen.without_checks(), fails=fails)

    def check(self, number: int = 1) -> Ran:
        return self.flow.check(self.flow.assets[-1], day(number))

    def old(self, number: int) -> pl.DataFrame:
        return csv_rows(self.root, day(number), *OLD.split("/"))

    def new(self, number: int) -> pl.DataFrame:
        return self.table.rows().filter(pl.col("day") == date_of(day(number)))

    @property
    def table(self) -> Any:
        return table(self.root, *NEW.split("/"))


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(tmp_path)


# The branches ---------------------------------------------------------------------------------------------------------


def test_ps_1_both_branches_have_the_same_visits_each_day(split: Split) -> None:
    split.run(1, 2, 3, 4, 5)
    assert csv_days(split.root, *OLD.split("/")) == [day(number) for number in range(1, 6)]
    assert split.table.rows().height == 50
    for number in range(1, 6):
        old, new = split.old(number), split.new(number).sort("visit_id")
        assert old["visit_id"].cast(pl.Int64).to_list() == new["visit_id"].to_list()
        assert new.height == 10
        contexts = old["context"].str.json_decode(new.schema["context"])
        assert contexts.to_list() == new["context"].to_list()
    assert split.calls.of("visits", "old", "new") == [5, 5, 5]


def test_ps_2_a_branch_that_fails_stops_neither_the_other_nor_the_next_day(split: Split) -> None:
    split.run(1)
    split.calls.fail_once("old")
    split.run(2, fails=True)
    assert csv_days(split.root, *OLD.split("/")) == [day(1)]
    assert split.new(2).height == 10
    split.run(3)
    assert csv_days(split.root, *OLD.split("/")) == [day(1), day(3)]
    assert split.new(3).height == 10
    split.calls.fail_once("new")
    split.run(4, fails=True)
    assert split.old(4).height == 10
    assert split.new(4).is_empty()


def test_ps_3_a_branch_is_run_again_by_itself_and_the_parent_is_not(split: Split) -> None:
    split.calls.fail_once("old")
    split.run(2, fails=True)
    version = split.table.version
    split.run(2, selection=[OLD])
    assert split.old(2).height == 10
    assert split.table.version == version
    assert split.calls.of("visits", "old", "new") == [1, 2, 1]


def test_ps_4_both_run_again_have_their_rows_once(split: Split) -> None:
    split.run(1)
    old, new = split.old(1), split.new(1)
    split.run(1)
    assert (split.old(1).height, split.new(1).height) == (10, 10)
    assert split.old(1).equals(old)
    assert split.new(1).sort("visit_id").equals(new.sort("visit_id"))


# Two tables of one function -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Devices:
    """Raw and enriched devices: one function, two tables, each appended to once for a day."""

    root: Path

    @property
    def calls(self) -> Calls:
        return Calls(self.root / "calls")

    @property
    def flow(self) -> Flow:
        calls = self.calls

        @dg.multi_asset(
            partitions_def=DAYS,
            outs={name: dg.AssetOut(io_manager_key="append", metadata=BY_DAY) for name in ("raw", "enriched")},
        )
        def load(context: dg.AssetExecutionContext) -> Iterator[dg.Output]:
            rows = pl.select(
                day=date_of(context.partition_key),
                full_name=pl.format("name {}", pl.int_range(50)),
                version=pl.lit("1"),
            )
            yield dg.Output(rows, "raw")
            calls.called("between")
            yield dg.Output(rows.with_columns(full_name=pl.format("{} {}", "full_name", "version")), "enriched")

        return Flow(self.root, [load])

    def rows(self, name: str) -> int:
        return table(self.root, name).rows().height


def test_ps_5_a_retry_after_a_crash_between_the_tables_fills_the_second_and_leaves_the_first(tmp_path: Path) -> None:
    devices = Devices(tmp_path)
    devices.calls.fail_once("between")
    devices.flow.run(day(1), fails=True)
    assert devices.rows("raw") == 50
    assert not (tmp_path / "lake/enriched").exists()
    told = devices.flow.run(day(1)).metadata("raw")
    assert told["delta/skipped_partitions"] == [day(1)]
    assert (devices.rows("raw"), devices.rows("enriched")) == (50, 50)
    assert set(table(tmp_path, "enriched").rows()["full_name"]) == {f"name {n} 1" for n in range(50)}


def test_ps_6_the_next_batch_is_appended(tmp_path: Path) -> None:
    devices = Devices(tmp_path)
    for number in (1, 2, 2):
        devices.flow.run(day(number))
    assert (devices.rows("raw"), devices.rows("enriched")) == (100, 100)


# The check ------------------------------------------------------------------------------------------------------------


def only(ran: Ran) -> tuple[bool, dict[str, Any]]:
    """What the check said; it warns, and the run succeeds."""
    assert ran.success, ran.errors
    (check,) = ran.checks
    assert (check.asset_key.path, check.check_name) == (NEW.split("/"), "agrees_with_exports__visits")
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert not check.blocking
    return check.passed, plain(check.metadata)


def counts(rows: int, only_here: int, only_there: int) -> dict[str, int]:
    return {"rows": rows, "only_here": only_here, "only_there": only_there}


def edit(split: Split, change: Callable[[list[str]], list[str]], number: int = 1) -> None:
    """Change the lines of an old file, without their header."""
    file = csv_file(split.root, day(number), *OLD.split("/"))
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *change(lines)]) + "\n")


def test_branches_that_agree_pass_within_the_run_that_makes_them(split: Split) -> None:
    """A null is equal to a null."""
    assert only(split.flow.run(day(1))) == (True, counts(10, 0, 0))
    assert split.old(1).null_count().row(0) == split.new(1).null_count().row(0) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("change", "only_here", "only_there"),
    [
        pytest.param(lambda lines: lines[1:], 1, 0, id="a row is missing there"),
        pytest.param(lambda lines: [*lines, lines[0].replace("10", "99")], 0, 1, id="a row is missing here"),
        pytest.param(lambda lines: [lines[0].replace("page_0", "page_x"), *lines[1:]], 1, 1, id="a value differs"),
        pytest.param(lambda lines: [*lines, lines[0]], 1, 1, id="a row is there twice"),
        pytest.param(lambda lines: [lines[0].replace("page_0", ""), *lines[1:]], 1, 1, id="a null for a value"),
        pytest.param(lambda lines: [line.replace(",,", ",page_3,") for line in lines], 1, 1, id="a value for a null"),
        pytest.param(lambda _: [], 10, 0, id="no rows there"),
        pytest.param(lambda lines: [lines[0].replace('""ads"":0', '""ads"":7'), *lines[1:]], 1, 1, id="in a struct"),
    ],
)
def test_a_difference_is_found(
    split: Split, change: Callable[[list[str]], list[str]], only_here: int, only_there: int
) -> None:
    split.run(1)
    edit(split, change)
    assert only(split.check()) == (False, counts(10, only_here, only_there))


def test_the_order_of_rows_and_columns_does_not_matter(split: Split) -> None:
    split.run(1)
    turned = split.old(1).reverse().select("context", "visit_id", "page", "day")
    turned.write_csv(csv_file(split.root, day(1), *OLD.split("/")))
    assert only(split.check()) == (True, counts(10, 0, 0))


def test_a_day_is_compared_with_its_own_day(split: Split) -> None:
    split.run(1, 2)
    edit(split, lambda lines: lines[1:], number=2)
    assert [only(split.check(number))[0] for number in (1, 2)] == [True, False]


def test_two_branches_without_rows_agree(split: Split) -> None:
    split.run(1)
    split.table.handle.delete(f"day = '{day(1)}'")
    edit(split, lambda _: [])
    assert only(split.check()) == (True, counts(0, 0, 0))


def test_a_legacy_branch_that_is_not_there_is_a_warning_and_no_error(split: Split) -> None:
    split.run(1, selection=["visits", NEW])
    assert only(split.check())[0] is False
    split.run(2)
    assert only(split.check(1))[0] is False
    assert only(split.check(2))[0] is True


def test_a_column_that_one_branch_lacks_is_a_difference_and_no_error(tmp_path: Path) -> None:
    """The check shall not stop anybody, whatever it finds."""
    split = Split(tmp_path, lambda rows: with_text(rows).drop("page"))
    split.run(1)
    assert only(split.check())[0] is False


@pytest.mark.parametrize("name", ["rows", "len", "only_here"])
def test_a_column_may_have_any_name(tmp_path: Path, name: str) -> None:
    """Also one that the check uses itself."""
    split = Split(tmp_path, lambda rows: with_text(rows).rename({"page": name}))
    split.run(1)
    file = csv_file(split.root, day(1), *OLD.split("/"))
    file.write_text(file.read_text().replace(",page,", f",{name},"))
    assert only(split.check()) == (True, counts(10, 0, 0))


# When it looks again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [5, 2], ids=["the latest day", "an older day"])
def test_the_check_is_requested_again_when_either_branch_changes(split: Split, number: int) -> None:
    split.run(number)
    flow = split.flow
    daemon, ((check,), here) = Daemon(flow), (flow.assets[-1].check_keys, day(number))
    assert daemon.requested() == {}
    daemon.happened(NEW, here)
    assert daemon.requested() == {}
    daemon.happened(OLD, here)
    assert daemon.requested() == {check.to_user_string(): [here]}
    daemon.run(here, check=check)
    assert daemon.requested() == {}
    for changed in (OLD, NEW):
        daemon.happened(changed, here)
        assert daemon.requested() == {check.to_user_string(): [here]}
        daemon.run(here, check=check)
        assert daemon.requested() == {}


# What is refused when it is declared ----------------------------------------------------------------------------------


def branch(name: str, deps: list[str], partitions_def: dg.PartitionsDefinition | None = DAYS) -> dg.AssetsDefinition:
    @dg.asset(name=name, deps=deps, partitions_def=partitions_def)
    def made() -> None: ...

    return made


@pytest.mark.parametrize(
    ("old", "new", "culprit"),
    [
        (branch("old", ["visits"]), branch("new", ["visits", "users"]), "users"),
        (branch("old", ["visits", "users"]), branch("new", ["visits"]), "users"),
        (branch("old", ["visits"]), branch("new", ["old"]), "old"),
        (branch("old", ["visits"]), branch("new", []), "visits"),
        (branch("old", []), branch("new", ["visits"]), "visits"),
        (branch("old", ["visits"], None), branch("new", ["visits"], None), "partitions_def"),
        (branch("old", ["visits"]), branch("new", ["visits"], None), "partitions_def"),
        (
            branch("old", ["visits"], dg.DailyPartitionsDefinition("2024-01-01")),
            branch("new", ["visits"]),
            "partitions",
        ),
    ],
)
def test_branches_that_are_none_are_refused(old: dg.AssetsDefinition, new: dg.AssetsDefinition, culprit: str) -> None:
    with pytest.raises(InvalidFlowError, match=culprit):
        parallel_split(VISITS, old, new, as_legacy=with_text)


def test_branches_may_have_any_keys_that_assets_may_have() -> None:
    @dg.asset(key=["old-visits"], deps=["visits"], partitions_def=DAYS)
    def old() -> None: ...

    check = parallel_split(VISITS, old, branch("new", ["visits"]), as_legacy=with_text)
    assert {key.asset_key.path[-1] for key in check.check_keys} == {"new"}
