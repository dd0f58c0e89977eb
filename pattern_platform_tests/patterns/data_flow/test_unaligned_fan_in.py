"""Unaligned fan-in: when a day with failed hours is requested, what is published of it, and what it says it lacks."""

import datetime as dt
import warnings
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pattern_platform import DataOverwriteIOManager, PatternPlatformError, aligned_fan_in, unaligned_fan_in
from pattern_platform.errors import InvalidFlowError, InvalidMetadataError
from pattern_platform.orchestration.completeness import PARTIAL
from pattern_platform.patterns.data_flow.unaligned_fan_in import complete_upstream, fan_in_asset
from pattern_platform_tests.lake.tables import contents, range_tags
from pattern_platform_tests.patterns.data_flow.hours_and_days import (
    CHAIN,
    QUIET,
    Clock,
    SourceIsDownError,
)
from pattern_platform_tests.patterns.data_flow.ticks import DAY, DAYS, HOURS, OLD_DAY

WEEK = unaligned_fan_in(dt.timedelta(days=7))
AT_EACH_STAGE = pytest.mark.parametrize("stage", CHAIN)
RUN_BY_RUN, AT_ONCE = "each asset in a run of its own", "all assets in one run"


def hour_fails(clock: Clock, hour: int, stage: str, runs: str) -> None:
    """An hour that never comes to be, because a stage fails."""
    if runs == AT_ONCE:
        clock.run(*CHAIN, hour=hour, fails_at=stage)
        return
    for before in CHAIN[: CHAIN.index(stage)]:
        clock.run(before, hour=hour)
    clock.run(stage, hour=hour, fails_at=stage)


# When a day is requested ----------------------------------------------------------------------------------------------


def test_waits_while_one_hour_was_neither_made_nor_failed() -> None:
    """UF-8: all done, not any."""
    clock = Clock(WEEK)
    assert clock.requested() == []
    clock.land(0)
    assert clock.requested() == []
    clock.run("hours", hour=1, fails_at="hours")
    assert clock.requested() == []
    clock.land(*range(2, 23))
    assert clock.ticks(3) == [[]] * 3
    clock.land(23)
    assert clock.requested() == [DAY]


@pytest.mark.parametrize(
    ("failing", "stage", "runs"),
    [
        (7, "hours", RUN_BY_RUN),
        (23, "hours", RUN_BY_RUN),
        (7, "raw", RUN_BY_RUN),
        (23, "clean", RUN_BY_RUN),
        (23, "raw", RUN_BY_RUN),
        (23, "raw", AT_ONCE),
    ],
)
def test_fires_once_with_an_hour_that_failed_at_any_stage(failing: int, stage: str, runs: str) -> None:
    """UF-7; the failing hour may be the last to finish, and the asset of the hours need not have been attempted."""
    clock = Clock(WEEK)
    clock.land(*range(failing))
    assert clock.requested() == []
    hour_fails(clock, failing, stage, runs)
    if failing < 23:
        assert clock.requested() == []
        clock.land(*range(failing + 1, 24))
    assert clock.requested() == [DAY]
    assert clock.requested() == []
    clock.build()
    assert clock.ticks(3) == [[]] * 3


@pytest.mark.parametrize(("stage", "runs"), [("raw", RUN_BY_RUN), ("raw", AT_ONCE), ("clean", AT_ONCE)])
def test_fires_again_when_a_failed_hour_is_repaired_and_through_the_chain(stage: str, runs: str) -> None:
    clock = Clock(WEEK)
    clock.land(*range(23))
    hour_fails(clock, 23, stage, runs)
    assert clock.requested() == [DAY]
    clock.build()
    assert clock.requested() == []
    for repaired in CHAIN[CHAIN.index(stage) : -1]:
        assert clock.run_observed(repaired, hour=23) == {repaired: []}
        assert clock.ticks(2) == [[], []]
    assert clock.run_observed("hours", hour=23) == {"hours": []}
    assert clock.requested() == [DAY]
    clock.build()
    assert clock.ticks(2) == [[], []]


def test_fires_once_when_a_failed_hour_is_repaired_in_one_run_and_not_while_it_is_under_way() -> None:
    clock = Clock(WEEK)
    clock.land(*range(23))
    hour_fails(clock, 23, "raw", AT_ONCE)
    assert clock.requested() == [DAY]
    clock.build()
    assert clock.run_observed(*CHAIN, hour=23) == {"raw": [], "clean": [], "hours": []}
    assert clock.requested() == [DAY]
    assert clock.requested() == []


@AT_EACH_STAGE
def test_waits_for_the_last_hour_while_it_is_under_way(stage: str) -> None:
    clock = Clock(WEEK)
    clock.land(*range(23))
    for before in CHAIN[: CHAIN.index(stage)]:
        clock.run(before, hour=23)
    assert clock.run_observed(stage, hour=23, fails_at=stage) == {stage: []}
    assert clock.requested() == [DAY]


def test_waits_for_an_hour_whose_run_is_queued_and_for_one_whose_run_was_cancelled() -> None:
    """The second is a limit: to Dagster an hour whose run was cancelled was never attempted."""
    clock = Clock(WEEK)
    clock.land(*range(23))
    queued = clock.instance.create_run_for_job(
        clock.defs.resolve_implicit_global_asset_job_def(),
        tags={"dagster/partition": f"{DAY}-23:00"},
        asset_selection=frozenset([dg.AssetKey("hours")]),
    )
    assert clock.requested() == []
    clock.instance.report_run_canceled(queued)
    assert clock.ticks(2) == [[], []]
    clock.run("hours", hour=23, fails_at="hours")
    assert clock.requested() == [DAY]


@AT_EACH_STAGE
def test_waits_for_a_correction_of_one_hour_while_another_is_under_way(stage: str) -> None:
    clock = Clock(WEEK)
    clock.land(*range(24))
    assert clock.requested() == [DAY]
    clock.build()
    clock.land(3)
    assert clock.run_observed(stage, hour=5) == {stage: []}
    assert clock.requested() == [DAY]
    assert clock.requested() == []


def test_fires_once_when_all_hours_fail() -> None:
    """UF-3: someone has to make the fallback."""
    clock = Clock(WEEK)
    for hour in range(24):
        clock.run("raw", hour=hour, fails_at="raw")
    assert clock.requested() == [DAY]
    clock.build()
    assert clock.ticks(3) == [[]] * 3


@AT_EACH_STAGE
def test_fires_again_when_the_rerun_of_an_hour_fails_and_once_only(stage: str) -> None:
    """Its rows are stale from then on."""
    clock = Clock(WEEK)
    for asset in CHAIN:
        clock.run(asset, hour=6)
    clock.land(*(hour for hour in range(24) if hour != 6))
    assert clock.requested() == [DAY]
    clock.build()
    clock.run(stage, hour=6, fails_at=stage)
    assert clock.requested() == [DAY]
    clock.build()
    clock.run(stage, hour=6, fails_at=stage)
    assert clock.ticks(2) == [[], []]  # it failed again: nothing has changed


def test_leaves_days_outside_the_look_back_alone() -> None:
    clock = Clock(unaligned_fan_in(dt.timedelta(days=1)))
    for day in (OLD_DAY, DAY):
        clock.land(*range(23), day=day)
        clock.run("hours", hour=23, day=day, fails_at="hours")
    assert clock.requested() == [DAY]
    clock = Clock(WEEK)
    for day in (OLD_DAY, DAY):
        clock.land(*range(23), day=day)
        clock.run("hours", hour=23, day=day, fails_at="hours")
    assert clock.requested() == [OLD_DAY, DAY]


@pytest.mark.parametrize("built_in_between", [False, True])
@pytest.mark.parametrize("is_repair", [False, True])
def test_a_correction_right_after_the_request_is_not_swallowed(*, is_repair: bool, built_in_between: bool) -> None:
    clock = Clock(WEEK)
    clock.land(*range(23))
    clock.run("hours", hour=23, fails_at="hours")
    assert clock.requested() == [DAY]
    if built_in_between:
        clock.build()
    clock.run("hours", hour=23 if is_repair else 4)
    assert clock.requested() == [DAY]
    assert clock.requested() == []


def test_a_failure_right_after_the_request_is_not_swallowed() -> None:
    clock = Clock(WEEK)
    clock.land(*range(24))
    assert clock.requested() == [DAY]
    clock.run("raw", hour=4, fails_at="raw")
    assert clock.requested() == [DAY]
    assert clock.requested() == []


def test_a_correction_while_the_day_is_made_counts_once_it_is_made() -> None:
    clock = Clock(WEEK)
    clock.land(*range(24))
    assert clock.requested() == [DAY]
    assert clock.requested() == []
    clock.meanwhile["days"] = lambda: clock.land(8)
    clock.run("days")
    assert clock.requested() == [DAY]
    assert clock.run_observed("days") == {"days": []}
    assert clock.requested() == []


@pytest.mark.parametrize("corrected_by", ["success", "failure"])
def test_a_tick_between_the_correction_and_the_end_of_the_day_forgets_nothing(corrected_by: str) -> None:
    clock = Clock(WEEK)
    clock.land(*range(24))
    assert clock.requested() == [DAY]
    seen = []

    def corrected() -> None:
        clock.meanwhile = {}
        if corrected_by == "success":
            clock.land(8)
        else:
            clock.run("clean", hour=8, fails_at="clean")
            clock.failing = None
        seen.extend(clock.ticks(2))

    clock.meanwhile["days"] = corrected
    clock.run("days")
    assert seen == [[], []]
    assert clock.requested() == [DAY]
    assert clock.requested() == []


def test_a_day_that_fails_is_not_requested_over_and_over() -> None:
    clock = Clock(WEEK)
    clock.land(*range(24))
    assert clock.requested() == [DAY]
    clock.run("days", fails_at="days")
    assert clock.ticks(3) == [[]] * 3
    clock.land(2)
    assert clock.requested() == [DAY]


def test_idle_ticks_request_nothing() -> None:
    clock = Clock(WEEK)
    assert clock.ticks(3) == [[]] * 3
    clock.land(*range(23))
    hour_fails(clock, 23, "clean", AT_ONCE)
    assert clock.requested() == [DAY]
    clock.build()
    assert clock.ticks(10) == [[]] * 10


@pytest.mark.parametrize("one_failed", [False, True])
def test_requests_a_day_that_was_settled_before_the_first_look(*, one_failed: bool) -> None:
    clock = Clock(WEEK)
    clock.land(*range(23))
    clock.run("hours", hour=23, fails_at="hours" if one_failed else None)
    clock.cursor = None
    assert clock.requested() == [DAY]
    assert clock.ticks(2) == [[], []]


def test_a_run_of_upstream_and_downstream_together_leaves_nothing_to_do() -> None:
    @dg.asset(partitions_def=DAYS)
    def upstream() -> None: ...

    @dg.asset(partitions_def=DAYS, deps=[upstream], automation_condition=WEEK)
    def days() -> None: ...

    clock = Clock(WEEK)
    clock.defs, clock.cursor = dg.Definitions([upstream, days]), None
    assert clock.requested() == []
    clock.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[upstream.key, days.key], partition_key=DAY, instance=clock.instance, run_config=QUIET
    )
    assert clock.ticks(2) == [[], []]


def test_a_failure_more_than_three_assets_upstream_is_not_seen() -> None:
    """A limit, which the module states."""
    clock = Clock(WEEK, ("landing", *CHAIN))
    clock.land(*range(23))
    clock.run("landing", hour=23, fails_at="landing")
    assert clock.requested() == []
    clock.run("landing", hour=23)
    clock.run("raw", hour=23, fails_at="raw")
    assert clock.requested() == [DAY]


@pytest.mark.parametrize("name", ["eager", "aligned"])
def test_other_conditions_never_fire_with_a_failed_hour(name: str) -> None:
    """The negative control."""
    condition = dg.AutomationCondition.eager() if name == "eager" else aligned_fan_in(dt.timedelta(days=7))
    clock = Clock(condition)
    clock.land(*range(23))
    clock.run("hours", hour=23, fails_at="hours")
    assert clock.ticks(3) == [[]] * 3
    clock.run("hours", hour=23)
    assert clock.requested() == [DAY]


def test_conditions_that_mean_any_partition_fire_too_early() -> None:
    """The negative control: 23 hours were neither made nor failed."""
    settled = ~dg.AutomationCondition.missing() | dg.AutomationCondition.execution_failed()
    conditions = {
        "on_cron": dg.AutomationCondition.on_cron("15 0 * * *"),
        "any": dg.AutomationCondition.any_deps_updated() & dg.AutomationCondition.all_deps_match(settled),
        "unaligned": WEEK,
    }
    requests = {}
    for name, condition in conditions.items():
        clock = Clock(condition)
        clock.land(3)
        requests[name] = clock.requested()
    assert requests == {"on_cron": [DAY], "any": [DAY], "unaligned": []}


# What is published ----------------------------------------------------------------------------------------------------


QUARTERS = dg.TimeWindowPartitionsDefinition("2024-01-01-00:00", fmt="%Y-%m-%d-%H:%M", cron_schedule="0 */6 * * *")
FAILED_HOURS = (6, 11, 16, 17, 18)
FULL, OK, EMPTY, FAILED, STALE = 10, "ok", "empty", "failed", "stale"


def names(*hours: int) -> list[str]:
    """Hours of the day, as their keys."""
    return [f"{DAY}-{hour:02}:00" for hour in hours]


def totals(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.group_by("page").agg(pl.col("moment").min(), total=pl.len())


class FanIn:
    """Hours, made of a raw asset, that fan in to days; over real tables."""

    def __init__(
        self,
        root: Path,
        hours: dg.TimeWindowPartitionsDefinition = HOURS,
        days: dg.TimeWindowPartitionsDefinition = DAYS,
        **options: Any,
    ) -> None:
        @dg.asset(partitions_def=hours)
        def raw() -> None:
            self._fail()

        @dg.asset(
            partitions_def=hours,
            deps=[raw],
            metadata={"partition_expr": "moment"},
            io_manager_key="data_overwrite",
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def by_hour(context: dg.AssetExecutionContext) -> pl.DataFrame:
            rows_of_an_hour = self.rows_of_an_hour
            self.meanwhile()
            self._fail()
            starts = [hours.time_window_for_partition_key(key).start for key in context.partition_keys]
            return pl.DataFrame(
                [(start, f"/{place % 2}") for start in starts for place in range(rows_of_an_hour)],
                {"moment": pl.Datetime("us", "UTC"), "page": pl.String},
                orient="row",
            )

        self.fan_in, self.checks = fan_in_asset(
            by_hour,
            totals,
            published={
                "key": ["views"],
                "description": "Views of a day.",
                "partitions_def": days,
                "metadata": {"partition_expr": "moment"},
            },
            columns={"page": "A page.", "moment": "Its first view.", "total": "Its views."},
            **{"floor": 0.01, "through": [raw.key], **options},
        )
        self.root, self.hours, self.days, self.assets = root, hours, days, [raw, by_hour, self.fan_in, *self.checks]
        self.rows_of_an_hour, self.is_down, self.meanwhile = FULL, False, _nothing
        self.instance = dg.DagsterInstance.ephemeral()

    def keys(self, day: str = DAY) -> list[str]:
        """The hours of a day."""
        return list(self.hours.get_partition_keys_in_time_window(self.days.time_window_for_partition_key(day)))

    def attempt(self, outcome: str, *keys: str, asset: str = "by_hour") -> None:
        """Run hours that follow each other at once."""
        for then in (OK, FAILED) if outcome == STALE else (outcome,):
            self.rows_of_an_hour, self.is_down = 0 if then == EMPTY else FULL, then == FAILED
            run = {"partition_key": keys[0]} if asset == "raw" else {"tags": range_tags(keys[0], keys[-1])}
            assert self.run([asset], **run).success == (then != FAILED)
        self.is_down = False

    def hours_are(self, outcomes: Mapping[int, str], day: str = DAY) -> None:
        """All hours of a day are there, but for some."""
        keys = self.keys(day)
        for outcome, places in groupby(range(len(keys)), lambda place: outcomes.get(place, OK)):
            self.attempt(outcome, *(keys[place] for place in places))

    def build(self, day: str = DAY, floor: float | None = None) -> dg.ExecuteInProcessResult:
        """Make the day, with its checks."""
        result = self.try_to_build(floor, partition_key=day)
        assert result.success
        return result

    def try_to_build(self, floor: float | None = None, **run: Any) -> dg.ExecuteInProcessResult:
        config = {} if floor is None else {"ops": {"views": {"config": {"floor": floor}}}}
        made = dg.AssetSelection.assets("views", "views__completeness", "views__fallback")
        return self.run(made | dg.AssetSelection.checks(*self.checks), run_config={**QUIET, **config}, **run)

    def table(self, name: str = "views") -> pl.DataFrame:
        """What delta-rs reads; no rows where there is no table."""
        is_there = (self.root / name).exists()
        return pl.DataFrame(DeltaTable(self.root / name).to_pyarrow_table()) if is_there else pl.DataFrame()

    def total(self) -> int:
        return int(self.table()["total"].sum())

    def row(self) -> dict[str, Any]:
        """The only row of the completeness table."""
        return self.table("views__completeness").row(0, named=True)

    def run(self, selection: Any, **run: Any) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            self.assets,
            selection=selection,
            instance=self.instance,
            resources={"data_overwrite": DataOverwriteIOManager(root_uri=str(self.root))},
            raise_on_error=False,
            **{"run_config": QUIET, **run},
        )

    def _fail(self) -> None:
        if self.is_down:
            raise SourceIsDownError


def _nothing() -> None: ...


def materialized(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    """What a run materialized, by name."""
    events = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    return {event.asset_key.to_user_string(): event for event in events}


def told(event: dg.AssetMaterialization) -> dict[str, Any]:
    return {name: value.value for name, value in event.metadata.items()}


def checked(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """The checks of a run, and whether they passed."""
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}


def status(fan_in: FanIn, keys: list[str]) -> dict[str, str]:
    found = fan_in.instance.get_status_by_partition(dg.AssetKey("by_hour"), keys, fan_in.hours) or {}
    return {key: value.name for key, value in found.items() if value}


def test_uf_1_publishes_a_day_of_19_hours_and_says_in_five_places_what_it_lacks(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path)
    fan_in.hours_are(dict.fromkeys(FAILED_HOURS, FAILED))
    assert status(fan_in, names(*FAILED_HOURS)) == dict.fromkeys(names(*FAILED_HOURS), "FAILED")
    result = fan_in.build()
    published = materialized(result)["views"]
    assert fan_in.total() == 190
    assert fan_in.table()["is_approximate"].to_list() == [True, True]
    assert fan_in.table()["completeness"].to_list() == [pytest.approx(0.7917, abs=1e-4)] * 2
    metadata = told(published)
    assert metadata["completeness"] == pytest.approx(0.7917, abs=1e-4)
    assert metadata["partitions_missing"] == names(*FAILED_HOURS)
    assert metadata["partitions_stale"] == []
    assert (metadata["partitions_present"], metadata["partitions_expected"]) == (19, 24)
    assert (published.tags or {})[PARTIAL] == "true"
    assert fan_in.row() == {
        "partition_start": dt.datetime(2024, 1, 3, tzinfo=dt.UTC),
        "expected": 24,
        "present": 19,
        "completeness": pytest.approx(0.7917, abs=1e-4),
        "floor": 0.01,
        "is_published": True,
        "missing": names(*FAILED_HOURS),
        "stale": [],
    }
    assert checked(result) == {"is_complete": False, "something_arrived": True, "is_published": True}
    assert "views__fallback" not in materialized(result)


def test_uf_2_replaces_the_day_once_the_hours_are_repaired(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path)
    fan_in.hours_are(dict.fromkeys(FAILED_HOURS, FAILED))
    fan_in.build()
    for keys in (names(6), names(11), names(16, 17, 18)):
        fan_in.attempt(OK, *keys)
    result = fan_in.build()
    assert fan_in.total() == 240
    assert fan_in.table().select("completeness", "is_approximate").unique().rows() == [(1.0, False)]
    assert told(materialized(result)["views"])["partitions_missing"] == []
    assert (materialized(result)["views"].tags or {})[PARTIAL] == "false"
    row = fan_in.row()
    assert (row["present"], row["completeness"], row["missing"], row["is_published"]) == (24, 1.0, [], True)
    assert checked(result) == {"is_complete": True, "something_arrived": True, "is_published": True}


@pytest.mark.parametrize("was_published", [False, True])
def test_uf_3_stands_a_fallback_with_its_reason_for_a_day_of_which_nothing_is_there(
    tmp_path: Path, *, was_published: bool
) -> None:
    fan_in = FanIn(tmp_path)
    if was_published:
        fan_in.hours_are({})
        fan_in.build()
    before = contents(tmp_path / "views")
    fan_in.hours_are(dict.fromkeys(range(24), FAILED))
    result = fan_in.build()
    assert contents(tmp_path / "views") == before
    made = materialized(result)
    assert set(made) == {"views__fallback", "views__completeness"}
    assert "24" in told(made["views__fallback"])["reason"]
    assert "by_hour" in told(made["views__fallback"])["reason"]
    assert made["views__fallback"].partition == DAY
    row = fan_in.row()
    assert (row["present"], row["completeness"], row["is_published"]) == (0, 0.0, False)
    assert row["stale" if was_published else "missing"] == names(*range(24))
    assert checked(result) == {"something_arrived": False, "is_published": False}


def test_uf_3_the_alert_is_over_once_something_arrives(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path, QUARTERS)
    fan_in.hours_are(dict.fromkeys(range(4), FAILED))
    assert not checked(fan_in.build())["something_arrived"]
    fan_in.attempt(OK, *names(6))
    result = fan_in.build()
    assert checked(result) == {"is_complete": False, "something_arrived": True, "is_published": True}
    assert "views__fallback" not in materialized(result)
    assert fan_in.total() == FULL


def test_uf_4_counts_an_hour_without_rows_as_there(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path)
    fan_in.hours_are({5: EMPTY})
    result = fan_in.build()
    assert fan_in.total() == 230
    assert fan_in.table().select("completeness", "is_approximate").unique().rows() == [(1.0, False)]
    assert fan_in.row()["missing"] == []
    assert checked(result)["is_complete"]


def test_a_day_whose_hours_are_all_empty_is_complete(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path, QUARTERS)
    fan_in.hours_are(dict.fromkeys(range(4), EMPTY))
    result = fan_in.build()
    assert fan_in.table().height == 0
    assert (fan_in.row()["present"], fan_in.row()["is_published"]) == (4, True)
    assert checked(result) == {"is_complete": True, "something_arrived": True, "is_published": True}


def test_a_partial_day_without_any_row_is_not_complete(tmp_path: Path) -> None:
    """No row says that it is approximate; the check has to know all the same."""
    fan_in = FanIn(tmp_path, QUARTERS)
    fan_in.hours_are({0: EMPTY, 1: EMPTY, 2: FAILED, 3: FAILED})
    result = fan_in.build()
    assert fan_in.row()["completeness"] == 0.5
    assert checked(result) == {"is_complete": False, "something_arrived": True, "is_published": True}


@pytest.mark.parametrize(("ok", "is_published"), [(12, True), (6, False)])
def test_uf_6_publishes_from_the_floor_on_and_withholds_below(tmp_path: Path, ok: int, *, is_published: bool) -> None:
    fan_in = FanIn(tmp_path, floor=0.5)
    fan_in.hours_are(dict.fromkeys(range(ok, 24), FAILED))
    result = fan_in.build()
    expected = {"views", "views__completeness"} if is_published else {"views__completeness"}
    assert set(materialized(result)) == expected
    assert fan_in.row()["is_published"] == is_published
    assert fan_in.row()["floor"] == 0.5
    assert fan_in.row()["completeness"] == ok / 24
    assert (tmp_path / "views").exists() == is_published
    assert checked(result)["something_arrived"]
    assert checked(result)["is_published"] == is_published  # the alert of a day that is withheld


def test_uf_6_a_day_below_the_floor_leaves_what_was_published(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path, QUARTERS, floor=0.5)
    fan_in.hours_are({})
    fan_in.build()
    before = contents(tmp_path / "views")
    fan_in.hours_are(dict.fromkeys((0, 1, 2), FAILED))
    assert "views" not in materialized(fan_in.build())
    assert contents(tmp_path / "views") == before
    assert fan_in.row()["is_published"] is False


def test_the_floor_of_a_run_takes_the_place_of_that_of_the_asset(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path, QUARTERS, floor=0.5)
    fan_in.hours_are({1: FAILED})
    assert "views" not in materialized(fan_in.build(floor=1.0))
    assert fan_in.row()["floor"] == 1.0
    assert "views" in materialized(fan_in.build(floor=0.75))
    fan_in.hours_are({0: OK, 1: FAILED, 2: FAILED, 3: FAILED})
    assert "views" not in materialized(fan_in.build())
    assert "views" in materialized(fan_in.build(floor=0.25))
    assert fan_in.total() == FULL


@pytest.mark.parametrize("floor", [0.0, 50.0, float("nan")])
def test_a_floor_of_a_run_that_is_no_share_is_refused_before_anything_is_written(tmp_path: Path, floor: float) -> None:
    fan_in = FanIn(tmp_path, QUARTERS)
    fan_in.hours_are({1: FAILED})
    before = contents(tmp_path)
    try:
        is_refused = not fan_in.try_to_build(floor, partition_key=DAY).success
    except (dg.DagsterInvalidConfigError, PatternPlatformError):
        is_refused = True  # before the run begins, which is as good
    assert is_refused
    assert contents(tmp_path) == before


@pytest.mark.parametrize("floor", [0, 1.5, float("nan")])
def test_a_floor_of_an_asset_that_is_no_share_is_refused(tmp_path: Path, floor: float) -> None:
    with pytest.raises(InvalidMetadataError, match="views"):
        FanIn(tmp_path, floor=floor)


@pytest.mark.parametrize(
    "declared",
    [
        {"partitions_def": HOURS},
        {"partitions_def": HOURS, "metadata": {"partition_expr": {"hour": "moment"}}},
        {"metadata": {"partition_expr": "moment"}},
        {"partitions_def": dg.StaticPartitionsDefinition(["a"]), "metadata": {"partition_expr": "moment"}},
    ],
)
def test_an_upstream_asset_whose_hours_cannot_be_told_apart_is_refused(declared: dict[str, Any]) -> None:
    @dg.asset(**declared)
    def by_hour() -> None: ...

    published = {"key": ["views"], "description": "Views.", "partitions_def": DAYS, "metadata": {}}
    with pytest.raises(InvalidMetadataError, match="partition_expr"):
        fan_in_asset(by_hour, totals, floor=0.5, published=published, columns={})


def test_leaves_out_the_rows_of_an_hour_whose_rerun_failed_and_names_it(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path)
    fan_in.hours_are({6: STALE, 7: FAILED})
    result = fan_in.build()
    assert fan_in.total() == 220
    assert (fan_in.row()["missing"], fan_in.row()["stale"]) == (names(7), names(6))
    assert told(materialized(result)["views"])["partitions_stale"] == names(6)
    assert fan_in.row()["present"] == 22
    fan_in.attempt(OK, *names(6))
    fan_in.build()
    assert (fan_in.total(), fan_in.row()["stale"]) == (230, [])


def test_leaves_out_the_rows_of_an_hour_that_is_stale_through_what_it_is_made_of(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path, QUARTERS)
    for key in names(6, 12):
        fan_in.attempt(OK, key, asset="raw")
    fan_in.hours_are({2: FAILED})
    for key in names(6, 12):
        fan_in.attempt(FAILED, key, asset="raw")
    fan_in.build()
    assert (fan_in.total(), fan_in.row()["missing"], fan_in.row()["stale"]) == (2 * FULL, names(12), names(6))
    fan_in.attempt(OK, *names(6), asset="raw")
    fan_in.attempt(OK, *names(6))
    fan_in.build()
    assert (fan_in.total(), fan_in.row()["stale"]) == (3 * FULL, [])


def test_counts_an_hour_whose_source_nobody_ran_in_this_dagster(tmp_path: Path) -> None:
    """``through`` looks for failures; hours that were loaded from elsewhere have no raw partition at all."""
    fan_in = FanIn(tmp_path, QUARTERS)
    fan_in.hours_are({})
    fan_in.build()
    assert (fan_in.total(), fan_in.row()["stale"]) == (4 * FULL, [])


@pytest.mark.parametrize("was_there", [False, True])
def test_an_hour_that_is_under_way_does_not_count(tmp_path: Path, *, was_there: bool) -> None:
    fan_in = FanIn(tmp_path, QUARTERS)
    keys = fan_in.keys()
    fan_in.attempt(OK, *(keys if was_there else keys[:-1]))
    fan_in.meanwhile = lambda: fan_in.build() and None
    fan_in.attempt(OK, keys[-1])
    assert fan_in.total() == 3 * FULL
    assert fan_in.row()["stale" if was_there else "missing"] == keys[-1:]
    fan_in.build()
    assert (fan_in.total(), fan_in.row()["present"]) == (4 * FULL, 4)


def test_a_day_is_made_of_its_own_hours_alone(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path, QUARTERS)
    fan_in.hours_are({}, OLD_DAY)
    fan_in.hours_are({2: FAILED})
    fan_in.build(OLD_DAY)
    fan_in.build()
    by_day = fan_in.table().group_by(pl.col("moment").dt.date().cast(pl.String)).agg(pl.col("total").sum())
    assert dict(by_day.iter_rows()) == {OLD_DAY: 4 * FULL, DAY: 3 * FULL}
    rows = fan_in.table("views__completeness").sort("partition_start")
    assert rows["missing"].to_list() == [[], names(12)]


def test_a_rerun_gives_the_same_rows(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path, QUARTERS)
    fan_in.hours_are({0: EMPTY, 1: FAILED, 2: STALE})
    tables = []
    for _ in range(2):
        fan_in.build()
        tables.append((fan_in.table().sort("page").rows(), fan_in.table("views__completeness").rows()))
    assert tables[0] == tables[1]


def test_a_run_over_several_days_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    fan_in = FanIn(tmp_path, QUARTERS)
    for day in ("2024-01-02", DAY):
        fan_in.hours_are({1: FAILED}, day)
    before = contents(tmp_path)
    result = fan_in.try_to_build(tags=range_tags("2024-01-02", DAY))
    assert not result.success
    (failure,) = [event.step_failure_data for event in result.get_step_failure_events()]
    assert failure.error is not None
    assert InvalidFlowError.__name__ in failure.error.to_string()
    assert contents(tmp_path) == before
    assert materialized(result) == {}


@pytest.mark.parametrize(("day", "hours"), [("2024-03-10", 23), ("2024-11-03", 25)])
def test_a_day_of_the_clock_change_has_its_own_number_of_hours(tmp_path: Path, day: str, hours: int) -> None:
    zone = "America/New_York"
    fan_in = FanIn(
        tmp_path,
        dg.HourlyPartitionsDefinition("2024-03-01-00:00", timezone=zone),
        dg.DailyPartitionsDefinition("2024-03-01", timezone=zone),
    )
    keys = fan_in.keys(day)
    assert len(keys) == hours
    fan_in.hours_are({}, day)
    fan_in.build(day)
    assert (fan_in.total(), fan_in.row()["expected"], fan_in.row()["completeness"]) == (hours * FULL, hours, 1.0)
    fan_in.attempt(FAILED, keys[2])
    fan_in.build(day)
    assert (fan_in.total(), fan_in.row()["stale"]) == ((hours - 1) * FULL, [keys[2]])
    assert fan_in.row()["partition_start"] == fan_in.days.time_window_for_partition_key(day).start


@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)
@given(
    attempts=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([OK, EMPTY, FAILED, STALE])), max_size=5),
    floor=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
)
def test_any_hours_in_any_order_are_counted_as_a_model_counts_them(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, str]], floor: float
) -> None:
    fan_in = FanIn(tmp_path_factory.mktemp("lake"), QUARTERS, floor=floor)
    keys, last, ever = fan_in.keys(), {}, set()
    for place, outcome in attempts:
        fan_in.attempt(outcome, keys[place])
        last[place] = outcome
        ever |= set() if outcome == FAILED else {place}
    made = materialized(fan_in.build())
    present = [place for place in range(4) if last.get(place) in (OK, EMPTY)]
    share, row = len(present) / 4, fan_in.row()
    assert row["missing"] == [key for place, key in enumerate(keys) if place not in ever]
    assert row["stale"] == [key for place, key in enumerate(keys) if place in ever and place not in present]
    assert (row["present"], row["completeness"]) == (len(present), share)
    assert row["is_published"] == ("views" in made) == (share >= floor)
    assert ("views__fallback" in made) == (not present)
    if "views" in made:
        assert fan_in.total() == FULL * [last[place] for place in present].count(OK)


def test_uf_9_holds_a_consumer_back_while_its_day_is_incomplete(tmp_path: Path) -> None:
    requests: dict[str, list[list[str]]] = {}
    every_day = dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window())
    for name, condition in {"complete": every_day & complete_upstream(), "any": every_day}.items():
        fan_in = FanIn(tmp_path / name, QUARTERS)
        requested = _consumer(fan_in, condition)
        assert requested() == []
        fan_in.hours_are({}, OLD_DAY)
        fan_in.hours_are({2: FAILED})
        fan_in.build(OLD_DAY)
        fan_in.build()
        requests[name] = [requested(), requested()]
        fan_in.attempt(OK, fan_in.keys()[2])
        fan_in.build()
        requests[name] += [requested(), requested()]
    assert requests["complete"] == [[OLD_DAY], [], [DAY], []]
    assert requests["any"][0] == [OLD_DAY, DAY]  # the negative control


def _consumer(fan_in: FanIn, condition: dg.AutomationCondition) -> Callable[[], list[str]]:
    """What a tick requests of an asset that is made of the days."""

    @dg.asset(deps=["views"], partitions_def=fan_in.days, automation_condition=condition)
    def report() -> None: ...

    defs = dg.Definitions(
        [*fan_in.assets[:3], report],
        asset_checks=fan_in.checks,
        resources={"data_overwrite": DataOverwriteIOManager(root_uri=str(fan_in.root))},
    )
    cursors: list[Any] = [None]

    def requested() -> list[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)
            result = dg.evaluate_automation_conditions(
                defs,
                fan_in.instance,
                cursor=cursors[-1],
                evaluation_time=dt.datetime(2024, 1, 4, 0, 30),  # noqa: DTZ001 - the tester takes UTC without a zone
            )
        cursors.append(result.cursor)
        return sorted(result.get_requested_partitions(report.key))

    return requested
