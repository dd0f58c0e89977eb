"""Single runner: a partition out of its turn is refused before it reads or writes, however it is launched."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable

from pattern_platform import DataOverwriteIOManager, single_runner
from pattern_platform.errors import InvalidMetadataError, OutOfTurnError
from pattern_platform.patterns.data_flow.single_runner import BEFORE
from pattern_platform_tests.lake.tables import contents, range_tags
from pattern_platform_tests.patterns.data_flow.hours_and_days import QUIET, SourceIsDownError

DAYS = dg.DailyPartitionsDefinition("2024-02-01")
FIVE = [f"2024-02-0{day}" for day in range(1, 6)]
RUNNER = single_runner("trend")


class Trend:
    """Rows of each day, and how much more they are than the day before."""

    def __init__(self, root: Path) -> None:
        manager = {"io_manager_key": "data_overwrite", "metadata": {"partition_expr": "day"}}

        @dg.asset(partitions_def=DAYS, **manager)
        def raw(context: dg.AssetExecutionContext) -> pl.DataFrame:
            day = context.partition_key
            if self.is_down:
                raise SourceIsDownError
            rows = [(day, number) for number in range(self.rows[day])]
            return pl.DataFrame(rows, {"day": pl.String, "id": pl.Int64}, orient="row")

        @dg.asset(
            partitions_def=DAYS,
            pool=RUNNER.pool,
            tags=RUNNER.tags,
            # The guard is to speak, not the IO manager that finds the day before missing.
            ins={"before": dg.AssetIn("trend", partition_mapping=BEFORE, metadata={"allow_missing_partitions": True})},
            **manager,
        )
        def trend(context: dg.AssetExecutionContext, raw: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
            RUNNER.refuse_out_of_turn(context)
            self.meanwhile()
            count = raw.height
            last = before["count"].item() if before.height else 0
            return pl.DataFrame({"day": [context.partition_key], "count": [count], "trend": [count - last]})

        self.root, self.assets = root, [raw, trend]
        self.rows: dict[str, int] = dict.fromkeys(FIVE, 10)
        self.is_down, self.meanwhile = False, _nothing
        self.instance = dg.DagsterInstance.ephemeral()

    def launch(self, day: str, *assets: str) -> dg.ExecuteInProcessResult:
        """Run one day, as by hand."""
        return dg.materialize(
            self.assets,
            selection=list(assets or ("raw", "trend")),
            partition_key=day,
            instance=self.instance,
            resources={"data_overwrite": DataOverwriteIOManager(root_uri=str(self.root))},
            run_config=QUIET,
            raise_on_error=False,
        )

    def trends(self) -> dict[str, int]:
        """What delta-rs reads."""
        rows = pl.DataFrame(DeltaTable(self.root / "trend").to_pyarrow_table()).sort("day")
        return dict(rows.select("day", "trend").iter_rows())

    def loaded(self) -> dict[str, int]:
        rows = pl.DataFrame(DeltaTable(self.root / "raw").to_pyarrow_table())
        return dict(rows.group_by("day").len().sort("day").iter_rows())


def _nothing() -> None: ...


def refusal(result: dg.ExecuteInProcessResult) -> str:
    """What the run was refused with."""
    assert not result.success
    (failure,) = [event.step_failure_data for event in result.get_step_failure_events()]
    assert failure.error is not None
    assert OutOfTurnError.__name__ in failure.error.to_string()
    assert failure.user_failure_data is not None
    return failure.user_failure_data.description or ""


@pytest.mark.parametrize(
    ("rows", "trends"),
    [
        pytest.param([10, 10, 10, 10, 10], [10, 0, 0, 0, 0], id="SR-1"),
        pytest.param([10, 15, 5, 5, 20], [10, 5, -10, 0, 15], id="SR-2"),
        pytest.param([0, 3, 0, 0, 1], [0, 3, -3, 0, 1], id="days without rows"),
    ],
)
def test_each_day_is_compared_with_the_one_before(tmp_path: Path, rows: Sequence[int], trends: Sequence[int]) -> None:
    trend = Trend(tmp_path)
    trend.rows = dict(zip(FIVE, rows, strict=True))
    assert all(trend.launch(day).success for day in FIVE)
    assert trend.trends() == dict(zip(FIVE, trends, strict=True))
    assert trend.loaded() == {day: count for day, count in trend.rows.items() if count}


def test_sr_4_none_runs_after_one_that_failed_until_it_is_repaired(tmp_path: Path) -> None:
    trend = Trend(tmp_path)
    assert trend.launch(FIVE[0]).success
    trend.is_down = True
    assert not trend.launch(FIVE[1]).success
    trend.is_down = False
    for day in FIVE[2:]:
        assert trend.launch(day, "raw").success
        refusal(trend.launch(day, "trend"))
    assert trend.trends() == {FIVE[0]: 10}
    assert all(trend.launch(day).success for day in FIVE[1:])
    assert trend.trends() == dict(zip(FIVE, [10, 0, 0, 0, 0], strict=True))


def test_sr_5_a_launch_by_hand_while_the_day_before_is_missing_writes_nothing_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    trend = Trend(tmp_path)
    assert trend.launch(FIVE[0]).success
    assert trend.launch(FIVE[2], "raw").success
    before = contents(tmp_path)
    message = refusal(trend.launch(FIVE[2], "trend"))
    assert contents(tmp_path) == before
    assert f"partition {FIVE[2]} of 'trend' was refused" in message
    assert f"partition {FIVE[1]}, which was never materialized" in message
    assert f"dg launch --assets trend --partition {FIVE[1]}" in message


def test_the_io_manager_refuses_a_missing_day_before_where_the_input_must_be_there(tmp_path: Path) -> None:
    """Without ``allow_missing_partitions`` the refusal is another one, and as good."""

    @dg.asset(
        key="trend",
        partitions_def=DAYS,
        ins={"before": dg.AssetIn("trend", partition_mapping=BEFORE)},
        metadata={"partition_expr": "day"},
        io_manager_key="data_overwrite",
    )
    def strict(context: dg.AssetExecutionContext, before: pl.DataFrame) -> pl.DataFrame:
        RUNNER.refuse_out_of_turn(context)
        return pl.DataFrame({"day": [context.partition_key], "count": [before.height]})

    trend = Trend(tmp_path)
    trend.assets = [strict]
    assert not trend.launch(FIVE[1], "trend").success
    assert contents(tmp_path) == {}
    assert trend.launch(FIVE[0], "trend").success
    before = contents(tmp_path)
    assert not trend.launch(FIVE[2], "trend").success
    assert contents(tmp_path) == before
    assert trend.launch(FIVE[1], "trend").success


def test_a_correction_in_the_middle_is_followed_by_the_later_days_in_their_order(tmp_path: Path) -> None:
    trend = Trend(tmp_path)
    assert all(trend.launch(day).success for day in FIVE)
    trend.rows[FIVE[1]] = 14
    assert all(trend.launch(day).success for day in FIVE[1:])
    assert list(trend.trends().values()) == [10, 4, -4, 0, 0]


def test_cr_6_the_next_partition_is_refused_while_the_one_before_is_under_way(tmp_path: Path) -> None:
    """What a counter loses side by side, see the concurrent runner, it does not lose here."""
    trend = Trend(tmp_path)
    refused = []

    def launch_the_next() -> None:
        trend.meanwhile = _nothing
        assert trend.launch(FIVE[1], "raw").success
        refused.append(refusal(trend.launch(FIVE[1], "trend")))

    trend.meanwhile = launch_the_next
    assert trend.launch(FIVE[0]).success
    assert f"partition {FIVE[0]}, which is in progress" in refused[0]
    assert trend.trends() == {FIVE[0]: 10}
    assert trend.launch(FIVE[1], "trend").success
    assert trend.trends() == {FIVE[0]: 10, FIVE[1]: 0}


def test_the_next_partition_is_refused_while_a_rerun_of_the_one_before_is_under_way(tmp_path: Path) -> None:
    trend = Trend(tmp_path)
    assert all(trend.launch(day).success for day in FIVE[:2])
    refused = []

    def launch_the_next() -> None:
        trend.meanwhile = _nothing
        refused.append(refusal(trend.launch(FIVE[1], "trend")))

    trend.meanwhile = launch_the_next
    assert trend.launch(FIVE[0]).success
    assert "in progress" in refused[0]


# The guard alone, without a table -------------------------------------------------------------------------------------


class Guarded:
    """An asset that does nothing but mind its turn."""

    def __init__(self, partitions: dg.PartitionsDefinition, **options: Any) -> None:
        mapped = isinstance(partitions, dg.TimeWindowPartitionsDefinition)

        @dg.asset(
            key=["sessions", "by_hour"],
            partitions_def=partitions,
            deps=[RUNNER.after(dg.AssetKey(["sessions", "by_hour"]))] if mapped else [],
            pool=RUNNER.pool,
            tags=RUNNER.tags,
            **options,
        )
        def by_hour(context: dg.AssetExecutionContext) -> None:
            self.attempts += 1
            RUNNER.refuse_out_of_turn(context)
            self.made += context.partition_keys
            if self.is_down:
                raise SourceIsDownError

        self.asset = by_hour
        self.attempts, self.made, self.is_down = 0, list[str](), False
        self.instance = dg.DagsterInstance.ephemeral()

    def launch(self, key: str | None = None, *, fails: bool = False, **run: Any) -> dg.ExecuteInProcessResult:
        self.is_down = fails
        return dg.materialize(
            [self.asset],
            partition_key=key,
            instance=self.instance,
            run_config=QUIET,
            raise_on_error=False,
            **run,
        )


def test_the_first_partition_rests_on_none() -> None:
    assert Guarded(DAYS).launch(FIVE[0]).success


def test_the_second_partition_is_refused_while_nothing_was_ever_made() -> None:
    guarded = Guarded(DAYS)
    message = refusal(guarded.launch(FIVE[1]))
    assert f"dg launch --assets sessions/by_hour --partition {FIVE[0]}" in message
    assert guarded.made == []


def test_a_partition_is_refused_after_one_that_failed() -> None:
    guarded = Guarded(DAYS)
    assert not guarded.launch(FIVE[0], fails=True).success
    assert f"partition {FIVE[0]}, which is failed" in refusal(guarded.launch(FIVE[1]))
    assert guarded.launch(FIVE[0]).success
    assert guarded.launch(FIVE[1]).success


def test_a_partition_is_refused_after_one_whose_later_rerun_failed() -> None:
    guarded = Guarded(DAYS)
    assert all(guarded.launch(day).success for day in FIVE[:2])
    assert not guarded.launch(FIVE[0], fails=True).success
    assert guarded.launch(FIVE[2]).success  # it rests on the second day, which is there
    assert "is failed" in refusal(guarded.launch(FIVE[1]))
    assert "is failed" in refusal(guarded.launch(FIVE[2]))  # and now it rests on a refusal
    assert all(guarded.launch(day).success for day in FIVE[:3])


def test_a_partition_that_was_refused_holds_back_the_next() -> None:
    guarded = Guarded(DAYS)
    refusal(guarded.launch(FIVE[1]))
    refusal(guarded.launch(FIVE[2]))
    assert guarded.made == []


def test_a_partition_that_was_reported_from_outside_counts() -> None:
    guarded = Guarded(DAYS)
    guarded.instance.report_runless_asset_event(dg.AssetMaterialization(guarded.asset.key, partition=FIVE[0]))
    assert guarded.launch(FIVE[1]).success


def test_a_run_with_an_instance_of_its_own_knows_no_partition_before() -> None:
    """A limit, which the module states: it is refused, not let through."""
    guarded = Guarded(DAYS)
    assert guarded.launch(FIVE[0]).success
    guarded.instance = dg.DagsterInstance.ephemeral()
    refusal(guarded.launch(FIVE[1]))


def test_static_partitions_follow_each_other_as_they_are_listed() -> None:
    guarded = Guarded(dg.StaticPartitionsDefinition(["small", "large", "all"]))
    assert "partition large, which was never materialized" in refusal(guarded.launch("all"))
    assert guarded.launch("small").success
    refusal(guarded.launch("all"))
    assert guarded.launch("large").success
    assert guarded.launch("all").success


@pytest.mark.parametrize(
    "partitions",
    [
        dg.DynamicPartitionsDefinition(name="devices"),
        dg.MultiPartitionsDefinition({"day": DAYS, "region": dg.StaticPartitionsDefinition(["eu"])}),
        None,
    ],
)
def test_partitions_without_an_order_are_refused(partitions: dg.PartitionsDefinition | None) -> None:
    guarded = Guarded(partitions)  # ty: ignore[invalid-argument-type]
    key: Any = None
    if isinstance(partitions, dg.DynamicPartitionsDefinition):
        guarded.instance.add_dynamic_partitions("devices", [key := "phone"])
    elif partitions is not None:
        key = dg.MultiPartitionKey({"day": FIVE[0], "region": "eu"})
    result = guarded.launch(key)
    assert not result.success
    (failure,) = [event.step_failure_data for event in result.get_step_failure_events()]
    assert failure.error is not None
    assert InvalidMetadataError.__name__ in failure.error.to_string()
    assert guarded.made == []


@pytest.mark.parametrize(("first", "hours"), [("2024-11-02-23:00", 5), ("2024-03-09-23:00", 4)])
def test_hours_follow_each_other_over_the_clock_changes_of_new_york(first: str, hours: int) -> None:
    """In November 01:00 comes twice, in March 02:00 never."""
    partitions = dg.HourlyPartitionsDefinition(first, timezone="America/New_York")
    keys = partitions.get_partition_keys()[:hours]
    assert sum("01:00" in key for key in keys) == (2 if "-11-" in first else 1)
    guarded = Guarded(partitions)
    for before, key in pairwise(keys):
        assert f"--partition {before}" in refusal(guarded.launch(key))
        assert guarded.launch(before).success
    assert guarded.launch(keys[-1]).success
    assert guarded.made == keys


def test_of_a_range_only_the_first_partition_is_guarded() -> None:
    guarded = Guarded(DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    assert f"--partition {FIVE[0]}" in refusal(guarded.launch(tags=range_tags(FIVE[1], FIVE[3])))
    assert guarded.made == []
    assert guarded.launch(FIVE[0]).success
    assert guarded.launch(tags=range_tags(FIVE[1], FIVE[3])).success
    assert guarded.made == FIVE[:4]
    assert guarded.launch(FIVE[4]).success


def test_a_range_from_the_first_partition_on_rests_on_none() -> None:
    guarded = Guarded(DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    assert guarded.launch(tags=range_tags(FIVE[0], FIVE[2])).success


def test_a_range_of_static_partitions_is_guarded_by_the_first_in_their_order() -> None:
    regions = dg.StaticPartitionsDefinition(["west", "north", "east"])
    guarded = Guarded(regions, backfill_policy=dg.BackfillPolicy.single_run())
    assert "partition west" in refusal(guarded.launch(tags=range_tags("north", "east")))
    assert guarded.launch(tags=range_tags("west", "east")).success


def test_a_retry_policy_does_not_repeat_the_refusal() -> None:
    guarded = Guarded(DAYS, retry_policy=dg.RetryPolicy(max_retries=3))
    refusal(guarded.launch(FIVE[1]))
    assert guarded.attempts == 1
    assert not guarded.launch(FIVE[0], fails=True).success
    assert guarded.attempts == 1 + 4  # the negative control: another failure is repeated


def test_nothing_but_the_guard_refuses_a_launch_by_hand() -> None:
    """The negative control: Dagster lets it through, in spite of the self-dependency, the tag and the pool."""

    @dg.asset(partitions_def=DAYS, deps=[RUNNER.after(dg.AssetKey("bare"))], pool=RUNNER.pool, tags=RUNNER.tags)
    def bare() -> None: ...

    assert dg.materialize([bare], partition_key=FIVE[2], instance=dg.DagsterInstance.ephemeral()).success


# Declarations ---------------------------------------------------------------------------------------------------------


def test_the_asset_carries_the_tag_the_pool_and_the_dependency_on_the_partition_before() -> None:
    guarded = Guarded(DAYS)
    key = guarded.asset.key
    assert guarded.asset.tags_by_key[key] == {"single_runner/trend": "1"}
    assert guarded.asset.op.pool == "trend"
    (dependency,) = guarded.asset.specs_by_key[key].deps
    assert dependency.asset_key == key
    mapping = dependency.partition_mapping
    assert isinstance(mapping, dg.TimeWindowPartitionMapping)
    assert (mapping.start_offset, mapping.end_offset) == (-1, -1)


def test_a_name_may_be_as_long_as_a_tag() -> None:
    assert single_runner("a" * 63).tags == {f"single_runner/{'a' * 63}": "1"}


@pytest.mark.parametrize("name", ["", "a" * 64, "two words", "a/b", "é", "line\n", "*"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidMetadataError, match="1 to 63 letters"):
        single_runner(name)


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "a" * 63, "_a", ".a", "-"])
def test_a_name_that_is_accepted_is_one_that_dagster_takes(name: str) -> None:
    runner = single_runner(name)

    @dg.asset(tags=runner.tags, pool=runner.pool, partitions_def=DAYS, deps=[runner.after(dg.AssetKey("of_a_name"))])
    def of_a_name() -> None: ...

    dg.Definitions.validate_loadable(dg.Definitions([of_a_name]))
