"""The code location ``producer``: assets that do what files tell them, so that a test decides when a run ends.

Runs import this module: it takes of the platform only what the assets use.
"""

import datetime as dt
from collections.abc import Iterator

import dagster as dg

from pattern_platform.patterns.data_flow.aligned_fan_in import aligned_fan_in
from pattern_platform.patterns.data_flow.concurrent_runner import concurrent_runner
from pattern_platform.patterns.data_flow.single_runner import single_runner
from pattern_platform.patterns.data_flow.unaligned_fan_in import unaligned_fan_in
from pattern_platform_tests.daemon.files import Files

FILES = Files()
DAYS = dg.DailyPartitionsDefinition("2024-03-01", end_date="2024-03-11")
PARTS = dg.TimeWindowPartitionsDefinition(
    cron_schedule="0 */6 * * *", start="2024-03-01-00:00", end="2024-03-11-00:00", fmt="%Y-%m-%d-%H:%M"
)
REGIONS = dg.StaticPartitionsDefinition([f"r{number:02}" for number in range(50)])
LOOKBACK = dt.timedelta(days=30)


def chain(name: str) -> dg.AssetsDefinition:
    """A single runner: each day counts one more than the day before."""
    runner = single_runner(name)

    @dg.asset(
        name=name,
        partitions_def=DAYS,
        deps=[runner.after(dg.AssetKey(name))],
        tags=runner.tags,
        pool=runner.pool,
    )
    def day_after_day(context: dg.AssetExecutionContext) -> None:
        runner.refuse_out_of_turn(context)
        before = dt.date.fromisoformat(context.partition_key) - dt.timedelta(days=1)
        FILES.work(name, context.partition_key, after=f"{before}" if before >= dt.date(2024, 3, 1) else None)

    return day_after_day


def plain(name: str, partitions: dg.PartitionsDefinition | None = None, **arguments: object) -> dg.AssetsDefinition:
    """An asset that does what the files say."""

    @dg.asset(name=name, partitions_def=partitions, **arguments)  # ty: ignore[no-matching-overload]
    def whatever(context: dg.AssetExecutionContext) -> None:
        for partition in context.partition_keys if partitions else ["all"]:
            FILES.work(name, partition)

    return whatever


parts = plain("parts", PARTS, backfill_policy=dg.BackfillPolicy.multi_run(4))
day = plain("day", DAYS, deps=[parts], automation_condition=aligned_fan_in(LOOKBACK))
estimate = plain("estimate", DAYS, deps=[parts], automation_condition=unaligned_fan_in(LOOKBACK))

# Where nothing may start: what was launched stays in the queue to be looked at.
PARKED = concurrent_runner("parked", 1).tags
parked = plain("parked", tags=PARKED)
parked_job = dg.define_asset_job("parked_job", [parked])
RESOURCES = {"container_config": {"resources": {"requests": {"memory": "8Gi"}}}}
parked_with_memory = plain("parked_with_memory", tags=PARKED, metadata={"dagster-k8s/config": RESOURCES})
wanted = dg.AutomationCondition.missing() & ~dg.AutomationCondition.in_progress()
parked_by_condition = plain("parked_by_condition", tags=PARKED, automation_condition=wanted)


@dg.schedule(cron_schedule="* * * * *", job=parked_job, default_status=dg.DefaultScheduleStatus.RUNNING)
def parked_by_schedule() -> Iterator[dg.RunRequest]:
    """Request a run once, when asked."""
    if FILES.is_asked("schedule"):
        yield dg.RunRequest(run_key="once")


@dg.sensor(minimum_interval_seconds=1, target=[parked], default_status=dg.DefaultSensorStatus.RUNNING)
def parked_by_sensor() -> Iterator[dg.RunRequest]:
    """Request a run once, when asked."""
    if FILES.is_asked("sensor"):
        yield dg.RunRequest(run_key="once")


handed = plain("handed", DAYS)

defs = dg.Definitions(
    assets=[
        *[chain(name) for name in ("trend", "repaired", "contended", "interrupted", "killed", "filled")],
        *[plain(name, PARTS, backfill_policy=dg.BackfillPolicy.multi_run(4)) for name in ("stretched", "resumed")],
        plain("regions", REGIONS, tags=concurrent_runner("regions", 3).tags),
        plain("many_regions", REGIONS, tags=concurrent_runner("many_regions", 5).tags),
        plain("rush", tags=concurrent_runner("rush", 1).tags),
        plain("usual"),
        plain("urgent"),
        plain("tenant_a", tags={"tenant": "a"}),
        plain("tenant_b", tags={"tenant": "b"}),
        plain("parked_days", DAYS, tags=PARKED),
        *[parts, day, estimate, parked, parked_by_condition, parked_with_memory, handed],
    ],
    jobs=[
        parked_job,
        dg.define_asset_job("urgent_job", ["urgent"], tags={"dagster/priority": "10"}),
        dg.define_asset_job("produce", [handed]),
    ],
    schedules=[parked_by_schedule],
    sensors=[
        parked_by_sensor,
        dg.AutomationConditionSensorDefinition(
            "automation",
            target=dg.AssetSelection.assets("day", "estimate", "parked_by_condition"),
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=1,
        ),
    ],
    executor=dg.in_process_executor,
)
