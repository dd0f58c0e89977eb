"""What follows a corrected partition of a single runner: stale partitions are found, and replayed in few runs."""

import datetime as dt

import dagster as dg
import pytest

from pattern_platform import aligned_fan_in, single_runner
from pattern_platform_tests.lake.tables import range_tags
from pattern_platform_tests.patterns.data_flow.ticks import Ticks

HOURS = dg.HourlyPartitionsDefinition("2024-01-01-00:00", "2024-01-02-00:00")
KEYS = HOURS.get_partition_keys()
RUNNER = single_runner("carried")
KEY = dg.AssetKey("carried")


class Carried:
    """An asset that rests on its own last hour, and a source that is corrected."""

    def __init__(self, policy: dg.BackfillPolicy | None, condition: dg.AutomationCondition | None = None) -> None:
        self.broken = ""

        @dg.asset(partitions_def=HOURS)
        def source() -> None: ...

        @dg.asset(
            partitions_def=HOURS,
            deps=[source, RUNNER.after(KEY)],
            tags=RUNNER.tags,
            backfill_policy=policy,
            automation_condition=condition,
        )
        def carried(context: dg.AssetExecutionContext) -> None:
            RUNNER.refuse_out_of_turn(context)
            assert self.broken not in context.partition_keys

        self.source, self.carried = source, carried
        self.sensor = RUNNER.replays(carried)
        self.instance = dg.DagsterInstance.ephemeral()

    def run(self, first: str, last: str = "") -> bool:
        """Run hours of the asset that rests on itself."""
        tags = range_tags(first, last) if last else {"dagster/partition": first}
        return dg.materialize([self.carried], tags=tags, instance=self.instance, raise_on_error=False).success

    def tick(self) -> dg.RunRequest | dg.SkipReason:
        """What the sensor wants."""
        return self.sensor(dg.build_sensor_context(instance=self.instance))

    def asked(self) -> list[str]:
        """The hours that the sensor wants: the first and the last."""
        request = self.tick()
        if isinstance(request, dg.SkipReason):
            return []
        assert request.asset_selection == [self.carried.key]
        ends = [request.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end")]
        return [end or request.tags["dagster/partition"] for end in ends]


@pytest.fixture
def carried() -> Carried:
    return Carried(dg.BackfillPolicy.multi_run(4))


def test_hours_that_were_made_in_their_order_need_no_replay(carried: Carried) -> None:
    assert carried.asked() == []
    assert carried.run(KEYS[0], KEYS[5])
    assert carried.run(KEYS[6])
    assert carried.asked() == []


def test_a_corrected_hour_is_followed_by_the_later_ones_in_runs_of_the_size_of_the_asset(carried: Carried) -> None:
    assert carried.run(KEYS[0], KEYS[9])
    assert carried.run(KEYS[2])
    assert carried.asked() == [KEYS[3], KEYS[6]]
    assert carried.run(KEYS[3], KEYS[6])
    assert carried.asked() == [KEYS[7], KEYS[9]]
    assert carried.run(KEYS[7], KEYS[9])
    assert carried.asked() == []


def test_one_hour_at_a_time_where_the_asset_takes_no_more() -> None:
    carried = Carried(None)
    for key in [*KEYS[:3], KEYS[0]]:
        assert carried.run(key)
    assert carried.asked() == [KEYS[1], KEYS[1]]


def test_a_replay_that_fails_is_not_asked_for_under_another_name(carried: Carried) -> None:
    assert carried.run(KEYS[0], KEYS[3])
    assert carried.run(KEYS[0])
    first = carried.tick()
    carried.broken = KEYS[2]
    assert not carried.run(KEYS[1], KEYS[3])
    second = carried.tick()
    assert isinstance(first, dg.RunRequest)
    assert isinstance(second, dg.RunRequest)
    assert first.run_key == second.run_key  # Dagster launches a key once


def test_nothing_is_asked_for_while_a_run_is_under_way(carried: Carried) -> None:
    assert carried.run(KEYS[0], KEYS[3])
    assert carried.run(KEYS[0])
    job = dg.Definitions([carried.source, carried.carried]).resolve_implicit_global_asset_job_def()
    carried.instance.create_run_for_job(job, tags=RUNNER.tags)
    assert isinstance(carried.tick(), dg.SkipReason)


def test_a_hole_ends_what_is_replayed(carried: Carried) -> None:
    assert carried.run(KEYS[0], KEYS[2])
    carried.instance.report_runless_asset_event(dg.AssetMaterialization("carried", partition=KEYS[5]))
    assert carried.run(KEYS[0])
    assert carried.asked() == [KEYS[1], KEYS[2]]


def test_the_condition_asks_for_many_corrected_hours_once_and_leaves_what_follows_to_the_sensor() -> None:
    """Pins why: where the asset's own changes count, each hour of the batch asks for the hours after it again."""
    asked = {}
    for replayed in (KEY, None):
        carried = Carried(None, aligned_fan_in(dt.timedelta(days=1), replayed=replayed))
        moment = dt.datetime(2024, 1, 2, 0, 10)  # noqa: DTZ001 - the tester takes UTC without a zone
        ticks = Ticks(dg.Definitions([carried.source, carried.carried]), moment)
        ticks.tick()
        ticks.happened("source", *KEYS[:4])
        ticks.happened("carried", *KEYS[:4])
        ticks.tick()
        ticks.happened("source", *KEYS[:4])
        corrected = ticks.requested_of("carried")
        ticks.happened("carried", *corrected)
        asked[replayed] = corrected, ticks.requested_of("carried")
    assert asked == {KEY: (KEYS[:4], []), None: (KEYS[:4], KEYS[1:4])}
