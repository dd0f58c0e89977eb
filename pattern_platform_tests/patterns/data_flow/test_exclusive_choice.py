"""Exclusive Choice: which branch makes a partition, that no other does, and that somebody would notice if one did."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable

from pattern_platform import aligned_fan_in, exclusive_choice, validate_definitions
from pattern_platform.errors import InvalidMetadataError, UndecidedChoiceError
from pattern_platform.patterns.data_flow.exclusive_choice import (
    Branch,
    ByConfiguration,
    Decision,
    Situation,
    by_columns,
    by_day,
)
from pattern_platform_tests.lake.tables import Table, contents, refused
from pattern_platform_tests.patterns.data_flow.flows import (
    BY_DAY,
    DAYS,
    FILES,
    Daemon,
    Flow,
    csv_days,
    csv_rows,
    date_of,
    day,
    plain,
    stores,
    table,
)

type_of_choice = Callable[[Situation], Decision] | ByConfiguration
CSV = Branch("Files of old.", lambda rows: rows, FILES, BY_DAY, frozenset({"csv"}))
DELTA = Branch("The table since.", lambda rows: rows, "io_manager", BY_DAY)
KEY = ["archive", "referrals"]
CHOICE, CSV_KEY, DELTA_KEY = "archive/referrals", "archive/referrals_csv", "archive/referrals_delta"
SINGLE_RUN = dg.BackfillPolicy.single_run()


def ten(partition: str, **more: pl.Expr) -> pl.DataFrame:
    """Ten rows of a day."""
    return pl.select(day=date_of(partition), visit_id=pl.int_range(10)).with_columns(**more)


def since_the(number: int) -> type_of_choice:
    return by_day(dt.date(2024, 2, number), before="csv", since="delta")


@dataclass(frozen=True)
class Archive:
    """Visits, and the choice of where their referrals go."""

    root: Path
    choose: type_of_choice = field(default_factory=lambda: since_the(3))
    branches: Mapping[str, Branch] = field(default_factory=lambda: {"csv": CSV, "delta": DELTA})
    rows: Callable[[str], pl.DataFrame] = ten
    visits_store: str = "io_manager"
    schema_evolution: str = "strict"
    beside: tuple[Any, ...] = ()
    condition: dg.AutomationCondition | None = None

    @property
    def flow(self) -> Flow:
        @dg.asset(
            partitions_def=DAYS,
            metadata={**BY_DAY, **({} if self.visits_store == FILES else {"schema_evolution": self.schema_evolution})},
            io_manager_key=self.visits_store,
            backfill_policy=SINGLE_RUN,
        )
        def visits(context: dg.AssetExecutionContext) -> pl.DataFrame:
            return pl.concat(self.rows(key) for key in context.partition_keys)

        choice, check = exclusive_choice(
            visits.key,
            self.choose,
            self.branches,
            key=KEY,
            partitions_def=DAYS,
            description="Referrals.",
            group_name="archive",
            backfill_policy=SINGLE_RUN,
            automation_condition=self.condition,
        )
        return Flow(self.root, [visits, choice, check, *self.beside])

    def run(self, *numbers: int) -> None:
        """Make days, and leave the check to the tests of the check."""
        for number in numbers:
            self.flow.run(day(number), dg.AssetSelection.all().without_checks())

    @property
    def table(self) -> Table:
        return table(self.root, *KEY[:-1], "referrals_delta")

    def csv_days(self) -> list[str]:
        return csv_days(self.root, *KEY[:-1], "referrals_csv")

    def csv(self, number: int) -> pl.DataFrame:
        return csv_rows(self.root, day(number), *KEY[:-1], "referrals_csv")

    def delta_days(self) -> dict[str, int]:
        rows = self.table.rows().group_by(pl.col("day").cast(pl.String)).len()
        return dict(sorted(rows.iter_rows()))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def only(*checks: dg.AssetCheckEvaluation) -> tuple[bool, dict[str, int]]:
    """Whether the one check of a run passed, and the rows that it counted."""
    (check,) = checks
    assert (check.asset_key.path, check.check_name) == (KEY, "one_branch_has_it")
    return check.passed, check.metadata["rows"].value


# By day -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(1, 2, 3, 4, 5), (4, 2, 5, 1, 3, 2)])
def test_ec_1_each_day_is_in_the_branch_of_its_day_and_in_no_other(archive: Archive, order: tuple[int, ...]) -> None:
    archive.run(*order)
    assert archive.csv_days() == [day(1), day(2)]
    assert [archive.csv(number).height for number in (1, 2)] == [10, 10]
    assert archive.delta_days() == {day(3): 10, day(4): 10, day(5): 10}


def test_one_asset_has_the_history_with_each_decision_and_its_reason(archive: Archive) -> None:
    flow = replace(archive.flow, instance=dg.DagsterInstance.ephemeral())
    for number in (2, 3):
        flow.run(day(number))
    assert flow.instance.get_materialized_partitions(dg.AssetKey(KEY)) == {day(2), day(3)}
    records = flow.instance.fetch_materializations(dg.AssetKey(KEY), limit=10).records
    told = {record.partition_key: record.asset_materialization for record in records}
    assert {key: plain(event.metadata) for key, event in told.items() if key and event} == {
        day(2): {"decision": "csv", "reason": "2024-02-02 is before 2024-02-03"},
        day(3): {"decision": "delta", "reason": "2024-02-03 is not before 2024-02-03"},
    }


def test_ec_2_a_backfill_of_an_old_day_rewrites_its_file_and_leaves_the_table_alone(archive: Archive) -> None:
    archive.run(1, 2, 3)
    version = archive.table.version
    corrected = replace(archive, rows=lambda key: ten(key, visit_id=pl.col("visit_id") + 100))
    corrected.run(1)
    assert archive.csv(1)["visit_id"].to_list() == [str(n) for n in range(100, 110)]
    assert archive.csv(2)["visit_id"].to_list() == [str(n) for n in range(10)]
    assert archive.table.version == version


@pytest.mark.parametrize(
    ("partition", "first", "branch"),
    [
        ("2024-02-02", dt.date(2024, 2, 3), "csv"),  # EC-3
        ("2024-02-03", dt.date(2024, 2, 3), "delta"),
        ("2023-12-31", dt.date(2024, 1, 1), "csv"),  # EC-4
        ("2024-01-01", dt.date(2024, 1, 1), "delta"),
        ("2024-02-29", dt.date(2024, 3, 1), "csv"),
        ("2024-03-01", dt.date(2024, 3, 1), "delta"),
    ],
)
def test_ec_3_and_4_the_boundary_is_the_first_day_of_the_later_branch(
    partition: str, first: dt.date, branch: str
) -> None:
    decision = by_day(first, before="csv", since="delta")(Situation(partition, date_of(partition), pl.Schema()))
    assert decision.branch == branch
    assert partition in decision.reason
    assert str(first) in decision.reason


@pytest.mark.parametrize(
    ("zone", "hour", "branch"),
    [("America/New_York", "2024-02-02-23:00", "csv"), ("Asia/Tokyo", "2024-02-03-00:00", "delta")],
)
def test_the_boundary_is_midnight_in_the_calendar_of_the_partitions(
    tmp_path: Path, zone: str, hour: str, branch: str
) -> None:
    """The first hour is a day later in UTC, the second a day earlier."""
    hours = dg.HourlyPartitionsDefinition("2024-02-02-00:00", end_date="2024-02-04-00:00", timezone=zone)
    assert branch_of(tmp_path, hours, hour, dt.date(2024, 2, 3)) == branch


def branch_of(root: Path, definition: dg.TimeWindowPartitionsDefinition, partition: str, first: dt.date) -> str:
    """The branch that has the one row of a partition, among stored files."""
    start = definition.time_window_for_partition_key(partition).start.astimezone(dt.UTC).replace(tzinfo=None)
    stored = {"partition_expr": "moment"}

    @dg.asset(partitions_def=definition, metadata=stored)
    def moments() -> pl.DataFrame:
        return pl.DataFrame({"moment": [start]})

    choice, check = exclusive_choice(
        moments.key,
        by_day(first, before="csv", since="delta"),
        {"csv": replace(CSV, metadata=stored), "delta": replace(DELTA, metadata=stored)},
        key=KEY,
        partitions_def=definition,
        description="Moments.",
    )
    Flow(root, [moments, choice, check]).run(partition)
    has_files = bool(csv_days(root, "archive", "referrals_csv"))
    has_table = DeltaTable.is_deltatable(str(root / "lake/archive/referrals_delta"))
    assert has_files is not has_table
    return "csv" if has_files else "delta"


def test_a_range_over_the_boundary_is_refused_before_anything_is_written(archive: Archive) -> None:
    archive.flow.run_range(day(1), day(5), ["visits"])
    with refused(archive.root, UndecidedChoiceError, "'csv', 'delta'", day(2), day(3)):
        archive.flow.run_range(day(2), day(3), [CHOICE, CSV_KEY, DELTA_KEY])


def test_a_range_on_one_side_of_the_boundary_is_one_run(archive: Archive) -> None:
    ran = archive.flow.run_range(day(3), day(4))
    assert archive.delta_days() == {day(3): 10, day(4): 10}
    assert archive.csv_days() == []
    assert [entry for entry in ran.materialized if entry[0] == CHOICE] == [(CHOICE, day(n)) for n in (3, 4)]
    assert only(*ran.checks) == (True, {"csv": 0, "delta": 20})
    assert ran.metadata(CHOICE)["reason"] == "2024-02-03 is not before 2024-02-03, and 1 more"


@pytest.mark.parametrize("unknown", ["parquet", "choice"])
def test_a_decision_for_no_branch_is_refused_before_anything_is_written(archive: Archive, unknown: str) -> None:
    archive.flow.run(day(1), ["visits"])
    undecided = replace(archive, choose=lambda _: Decision(unknown, "why not"))
    with refused(archive.root, UndecidedChoiceError, f"'{unknown}'", "'csv', 'delta'"):
        undecided.flow.run(day(1), [CHOICE, CSV_KEY, DELTA_KEY])


def test_a_branch_that_fails_leaves_no_decision_behind(archive: Archive) -> None:
    def broken(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.with_columns(day=pl.col("day").dt.offset_by("1d"))  # outside of the partition

    failing = replace(archive, branches={"csv": CSV, "delta": replace(DELTA, make=broken)})
    ran = failing.flow.run(day(3), fails=True)
    assert ran.materialized == [("visits", day(3))]
    archive.run(3)
    assert archive.delta_days() == {day(3): 10}


# What is not chosen ---------------------------------------------------------------------------------------------------


def descendants() -> tuple[Any, ...]:
    """For each branch two assets, one after the other."""

    def report(branch: str) -> list[Any]:
        @dg.asset(
            name=f"{branch}_report",
            ins={"rows": dg.AssetIn(["archive", f"referrals_{branch}"])},
            partitions_def=DAYS,
            metadata=BY_DAY,
        )
        def first(rows: pl.DataFrame) -> pl.DataFrame:
            return rows.select(pl.col("day").cast(pl.String).str.to_date(), pl.col("visit_id").cast(pl.Int64))

        @dg.asset(name=f"{branch}_summary", ins={"rows": dg.AssetIn(first.key)}, partitions_def=DAYS, metadata=BY_DAY)
        def second(rows: pl.DataFrame) -> pl.DataFrame:
            return rows.group_by("day").len()

        return [first, second]

    return (*report("csv"), *report("delta"))


@pytest.mark.parametrize(("number", "chosen", "other"), [(2, "csv", "delta"), (3, "delta", "csv")])
def test_ec_7_what_follows_from_the_other_branch_is_skipped_and_the_run_succeeds(
    archive: Archive, number: int, chosen: str, other: str
) -> None:
    flow = replace(replace(archive, beside=descendants()).flow, instance=dg.DagsterInstance.ephemeral())
    ran = flow.run(day(number))
    assert ran.success
    assert ran.skipped == [f"{other}_report", f"{other}_summary"]
    assert ran.materialized == sorted(
        (key, day(number)) for key in ("visits", CHOICE, f"{CHOICE}_{chosen}", f"{chosen}_report", f"{chosen}_summary")
    )
    for key in (f"{CHOICE}_{other}", f"{other}_report", f"{other}_summary"):
        assert flow.instance.get_latest_materialization_event(dg.AssetKey(key.split("/"))) is None
    assert table(archive.root, f"{chosen}_summary").rows()["len"].to_list() == [10]


def test_a_branch_that_is_never_made_is_not_asked_for_again(archive: Archive) -> None:
    archive = replace(archive, condition=aligned_fan_in(dt.timedelta(days=7)))
    daemon, all_of_it = Daemon(archive.flow), (CHOICE, CSV_KEY, DELTA_KEY)
    assert daemon.requested() == {}
    for number in (2, 2, 3):  # the second time it was corrected
        daemon.run(day(number), "visits")
        assert daemon.requested() == {key: [day(number)] for key in all_of_it}
        daemon.run(day(number), *all_of_it)
        assert [daemon.requested() for _ in range(2)] == [{}, {}]
    assert archive.csv_days() == [day(2)]


# By configuration -----------------------------------------------------------------------------------------------------


@pytest.fixture
def configured(archive: Archive) -> Archive:
    return replace(archive, choose=ByConfiguration("delta"))


def config(branch: str, op: str = "archive__referrals") -> dict[str, Any]:
    return {"run_config": {"ops": {op: {"config": {"branch": branch}}}}}


def test_the_configured_branch_makes_the_partition(configured: Archive) -> None:
    told = configured.flow.run(day(1)).metadata(CHOICE)
    assert told == {"decision": "delta", "reason": "configured"}
    told = configured.flow.run(day(2), **config("csv")).metadata(CHOICE)
    assert told == {"decision": "csv", "reason": "configured"}
    assert configured.delta_days() == {day(1): 10}
    assert configured.csv_days() == [day(2)]


def test_a_configured_range_is_one_run(configured: Archive) -> None:
    configured.flow.run_range(day(1), day(2), **config("csv"))
    assert configured.csv_days() == [day(1), day(2)]


def test_ec_6_another_branch_is_refused_before_the_run_starts(configured: Archive) -> None:
    configured.run(1)
    before, runs = contents(configured.root), len(configured.flow.instance.get_run_ids())
    with pytest.raises(dg.DagsterInvalidConfigError, match="xml"):
        configured.flow.run(day(2), **config("xml"))
    assert contents(configured.root) == before
    assert len(configured.flow.instance.get_run_ids()) == runs


def test_a_choice_that_is_not_by_configuration_has_none(archive: Archive) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError):
        archive.flow.run(day(1), **config("delta"))


def test_two_choices_by_configuration_have_the_branches_of_their_own(configured: Archive) -> None:
    again, check = exclusive_choice(
        dg.AssetKey("visits"),
        ByConfiguration("slow"),
        {"slow": DELTA, "fast": DELTA},
        key=["other"],
        partitions_def=DAYS,
        description="Another.",
        backfill_policy=SINGLE_RUN,
    )
    both = replace(configured, beside=(again, check))
    chosen = config("csv")["run_config"]["ops"] | config("fast", "other")["run_config"]["ops"]
    both.flow.run(day(1), run_config={"ops": chosen})
    assert both.csv_days() == [day(1)]
    assert table(both.root, "other_fast").rows().height == 10


# By columns -----------------------------------------------------------------------------------------------------------

BY_SCHEMA = by_columns("country", present="wide", absent="legacy")
TABLES = {"legacy": DELTA, "wide": DELTA}


def text_rows(partition: str) -> pl.DataFrame:
    """Two columns until the second of February, three from the third on."""
    rows = ten(partition, day=pl.col("day").cast(pl.String))
    return rows.with_columns(country=pl.lit("at")) if partition >= day(3) else rows


def test_ec_5_the_columns_of_a_file_decide(tmp_path: Path) -> None:
    archive = Archive(tmp_path, BY_SCHEMA, TABLES, rows=text_rows, visits_store=FILES)
    told = [archive.flow.run(day(number)).metadata(CHOICE) for number in (2, 3)]
    assert told == [
        {"decision": "legacy", "reason": "the data has no column 'country'"},
        {"decision": "wide", "reason": "the data has the column(s) 'country'"},
    ]
    legacy, wide = (table(tmp_path, "archive", f"referrals_{branch}").rows() for branch in TABLES)
    assert (legacy.columns, legacy["day"].unique().to_list()) == (["day", "visit_id"], [day(2)])
    assert (wide.columns, wide["day"].unique().to_list()) == (["day", "visit_id", "country"], [day(3)])


def test_ec_5_it_is_decided_without_reading_a_row(tmp_path: Path) -> None:
    """The files of the input are gone: its log still says which columns it has."""
    constant = replace(DELTA, make=lambda _: ten(day(1)).lazy())
    archive = Archive(
        tmp_path, by_columns("visit_id", present="wide", absent="legacy"), dict.fromkeys(TABLES, constant)
    )
    archive.flow.run(day(1), ["visits"])
    for file in (tmp_path / "lake/visits").glob("*.parquet"):
        file.unlink()
    told = archive.flow.run(day(1), [CHOICE, f"{CHOICE}_legacy", f"{CHOICE}_wide"]).metadata(CHOICE)
    assert told["decision"] == "wide"
    reading = replace(archive, branches=TABLES)  # the control: whoever reads a row fails
    ran = reading.flow.run(day(1), [CHOICE, f"{CHOICE}_legacy", f"{CHOICE}_wide"], fails=True)
    assert ran.materialized == []


def test_every_column_has_to_be_there() -> None:
    choose = by_columns("country", "city", present="wide", absent="legacy")
    columns = pl.Schema({"visit_id": pl.Int64, "country": pl.String})
    assert choose(Situation(day(1), date_of(day(1)), columns)) == Decision("legacy", "the data has no column 'city'")
    columns["city"] = pl.String
    assert choose(Situation(day(1), date_of(day(1)), columns)).branch == "wide"


def test_a_table_that_became_wider_changes_the_decision_for_an_old_day_and_the_check_finds_it(tmp_path: Path) -> None:
    """The schema of a Delta table is that of all its days; files have each their own."""

    def wider(partition: str) -> pl.DataFrame:
        return ten(partition, **({"country": pl.lit("at")} if partition >= day(3) else {}))

    archive = Archive(tmp_path, BY_SCHEMA, TABLES, rows=wider, schema_evolution="add_columns")
    archive.run(2, 3)
    ran = archive.flow.run(day(2), [CHOICE, f"{CHOICE}_legacy", f"{CHOICE}_wide"], fails=True)
    assert only(*ran.checks) == (False, {"legacy": 10, "wide": 10})


# The check ------------------------------------------------------------------------------------------------------------


def test_a_changed_decision_is_found_and_stops_what_follows(archive: Archive) -> None:
    """The negative control: two branches have a day, and the check says so until one of them has not."""

    @dg.asset(deps=[KEY], partitions_def=DAYS)
    def follower() -> None: ...

    archive = replace(archive, beside=(follower,))
    archive.run(3, 4)
    changed = replace(archive, choose=since_the(4)).flow
    ran = changed.run(day(3), fails=True)
    assert only(*ran.checks) == (False, {"csv": 10, "delta": 10})
    assert ("follower", day(3)) not in ran.materialized
    assert archive.delta_days() == {day(3): 10, day(4): 10}
    (_, _, check, _) = changed.assets
    assert only(*changed.check(check, day(4)).checks) == (True, {"csv": 0, "delta": 10})
    assert only(*changed.check(check, day(3)).checks) == (False, {"csv": 10, "delta": 10})
    archive.table.handle.delete(f"day = '{day(3)}'")
    assert only(*changed.check(check, day(3)).checks) == (True, {"csv": 10, "delta": 0})


def test_the_check_of_a_range_looks_at_each_partition(archive: Archive) -> None:
    archive.run(2, 3)
    (_, _, check) = archive.flow.assets
    (told,) = archive.flow.check(check, day(2), day(3)).checks
    assert told.passed
    replace(archive, choose=since_the(4)).run(3)
    (told,) = archive.flow.check(check, day(2), day(3)).checks
    assert not told.passed
    assert plain(told.metadata) == {"rows": {"csv": 20, "delta": 10}, "in_several_branches": [day(3)]}


def test_a_partition_without_rows_passes(archive: Archive) -> None:
    empty = replace(archive, rows=lambda key: ten(key).clear())
    assert only(*empty.flow.run(day(1)).checks) == (True, {"csv": 0, "delta": 0})
    assert empty.csv_days() == [day(1)]


# What is refused when it is declared ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choose", "branches", "culprit"),
    [
        (since_the(3), {"csv": CSV}, "'csv'"),
        (since_the(3), {}, "referrals"),
        (ByConfiguration("xml"), {"csv": CSV, "delta": DELTA}, "xml"),
        (ByConfiguration(""), {"csv": CSV, "delta": DELTA}, "default"),
    ],
)
def test_a_choice_without_a_choice_is_refused(
    tmp_path: Path, choose: type_of_choice, branches: dict[str, Branch], culprit: str
) -> None:
    with pytest.raises(InvalidMetadataError, match=culprit):
        _ = Archive(tmp_path, choose, branches).flow


def test_a_branch_may_have_any_name_that_an_asset_may_have(tmp_path: Path) -> None:
    """Also one that the choice uses itself."""
    branches = {"choice": DELTA, "rows": DELTA}
    archive = Archive(tmp_path, lambda _: Decision("choice", "because"), branches)
    archive.run(1)
    assert table(tmp_path, "archive", "referrals_choice").rows().height == 10


def test_a_choice_may_have_any_key_that_an_asset_may_have() -> None:
    assert dg.asset(key=["archive", "old-visits"])(lambda: None).keys
    choice, _ = exclusive_choice(
        dg.AssetKey("visits"),
        since_the(3),
        {"csv": CSV, "delta": DELTA},
        key=["archive", "old-visits"],
        partitions_def=DAYS,
        description="Visits.",
    )
    assert {key.path[-1] for key in choice.keys} == {"old-visits", "old-visits_csv", "old-visits_delta"}


def test_the_backfill_policy_is_kept(archive: Archive) -> None:
    _, choice, _ = archive.flow.assets
    assert choice.backfill_policy == SINGLE_RUN


def test_the_platform_accepts_the_declarations(archive: Archive) -> None:
    visits, choice, check = archive.flow.assets
    defs = dg.Definitions([visits, choice], asset_checks=[check], resources=stores(archive.root))
    assert validate_definitions(defs) is defs
    assert choice.specs_by_key[dg.AssetKey(CSV_KEY.split("/"))].kinds == {"csv"}
    assert {spec.group_name for spec in choice.specs} == {"archive"}
