"""Single Runner: one partition at a time, in their order, and none after one that failed.

Problem: a partition rests on what the one before it left: sessions that are still open, the count of yesterday. Two at
once, or one out of its turn, and every later partition is wrong without an error.

Guarantee: three things, none of which gives the others. The self-dependency orders backfills and conditions, and shows
later partitions as stale when an earlier one is corrected. The tag keeps runs from overlapping, however they are
launched, with :class:`~pattern_platform.AssetTagRunCoordinator`; the pool does the same for whoever has the instance.
The guard refuses partition N when N-1 is missing, failed or under way, also for a run by hand.

Limits: the guard asks the instance, so a run with an instance of its own (``dg.materialize`` without one) knows no
partition before the first. Runs that are launched by hand in the wrong order are refused, not reordered. Nothing
keeps a process that uses neither queue nor instance from writing: that is the IO manager's lock. Partitions that have
become stale are replayed by the sensor, as far as the last thousand materializations tell.

Shown by: ``aggregated/sessions_by_hour``, which carries open sessions from hour to hour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import dagster as dg

from pattern_platform.errors import OutOfTurnError
from pattern_platform.lake.partitions import in_order, previous_key, refuse_unordered
from pattern_platform.orchestration.partition_tags import PARTITION, partition_tags
from pattern_platform.patterns.data_flow.concurrent_runner import refuse_name

PREFIX = "single_runner/"
BEFORE = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)
_DONE, _PLANNED = "MATERIALIZED", "IN_PROGRESS"
_EVENTS_LOOKED_AT = 1_000
_RUNNING = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
_NOT_FINISHED = [*_RUNNING, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED]


@dataclass(frozen=True)
class SingleRunner:
    """Partitions that run one at a time, in their order.

    Args:
        name: What the limit is called.
    """

    name: str

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its assets: the key is the one of the limit in ``dagster.yaml``, the value states the limit."""
        return {f"{PREFIX}{self.name}": "1"}

    @property
    def pool(self) -> str:
        """The pool of its assets, the second line: it binds whoever has the instance, the queue or not."""
        return self.name

    def after(self, asset: dg.AssetKey) -> dg.AssetDep:
        """The dependency of a partition on the one before it.

        Args:
            asset: Key of the asset itself.
        """
        return dg.AssetDep(asset, partition_mapping=BEFORE)

    def refuse_out_of_turn(self, context: dg.AssetExecutionContext) -> None:
        """The guard: the first thing that the asset does.

        Args:
            context: Of the asset.

        Raises:
            OutOfTurnError: The partition before those of the run is missing, failed or under way.
        """
        definition = context.assets_def.partitions_def
        refuse_unordered(definition)
        first, *_ = in_order(context.partition_keys, definition)
        before = previous_key(first, definition)
        if before is None:
            return
        found = context.instance.get_status_by_partition(context.asset_key, [before], definition) or {}
        status = found.get(before)
        if status is not None and (status.name == _DONE or (status.name == _PLANNED and _waits(context, before))):
            return
        name = context.asset_key.to_user_string()
        raise OutOfTurnError(
            f"partition {first} of {name!r} was refused",
            why=f"it rests on partition {before}, which "
            + (f"is {status.name.lower().replace('_', ' ')}" if status else "was never materialized"),
            mend=f"materialize that one first: dg launch --assets {name} --partition {before}",
        )

    def replays(self, asset: dg.AssetsDefinition) -> dg.SensorDefinition:
        """The sensor that replays the partitions after a corrected one, in few runs.

        A condition would do it, too, one partition at a tick, and for a correction of many partitions each of them
        again after each other one. Here a run takes as many as the asset allows, and the next follows it.

        Args:
            asset: The asset; its condition is ``aligned_fan_in(lookback, replayed=<its key>)``.

        Raises:
            InvalidMetadataError: Its partitions have no order.
        """
        refuse_unordered(asset.partitions_def)
        key, policy = asset.key, asset.backfill_policy
        definition = cast("dg.PartitionsDefinition", asset.partitions_def)

        @dg.sensor(
            name=f"{key.to_python_identifier()}__replays",
            description=f"Replays the partitions of {key.to_user_string()} that are older than the one before them.",
            target=[asset],
            default_status=dg.DefaultSensorStatus.RUNNING,
        )
        def replays(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
            under_way = dg.RunsFilter(tags=self.tags, statuses=_NOT_FINISHED)
            if context.instance.get_run_records(under_way, limit=1):
                return dg.SkipReason("a run is under way")
            made = _newest(context.instance, key)
            stale = _stale(in_order(list(made), definition), made, definition)
            if not stale:
                return dg.SkipReason("every partition was made after the one before it")
            keys = stale[: (policy.max_partitions_per_run or len(stale)) if policy else 1]
            return dg.RunRequest(
                run_key=f"{keys[0]} {made[keys[0]]} {keys[-1]}",  # a replay that fails is not repeated by itself
                asset_selection=[key],
                tags=partition_tags(keys[0], keys[-1]),
            )

        return replays


def _waits(context: dg.AssetExecutionContext, partition: str) -> bool:
    """Whether a partition is there, and a run that would make it anew has not begun: it only waits in the queue."""
    running = context.instance.get_run_records(dg.RunsFilter(statuses=_RUNNING))
    for run in (record.dagster_run for record in running):
        # A run of a whole job, or of dg.materialize, names no assets: it counts when it may be of the partition.
        of_asset = context.asset_key in run.asset_selection if run.asset_selection else _may_be_of(run, partition)
        if of_asset and run.run_id != context.run.run_id:
            return False
    made = dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=[partition])
    return bool(context.instance.fetch_materializations(made, limit=1).records)


def _may_be_of(run: dg.DagsterRun, partition: str) -> bool:
    return run.tags.get(PARTITION, partition) == partition


def single_runner(name: str) -> SingleRunner:
    """Let the partitions of an asset run one at a time, in their order.

    Args:
        name: What the limit is called: letters, digits, ``_``, ``-``, ``.``.

    Raises:
        InvalidMetadataError: The name is none.
    """
    refuse_name(name)
    return SingleRunner(name)


def _newest(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, int]:
    """The partitions that were made of late, each with the number of its last event."""
    events = instance.fetch_materializations(asset, limit=_EVENTS_LOOKED_AT).records
    made: dict[str, int] = {}
    for event in events:  # the newest first
        made.setdefault(str(event.partition_key), event.storage_id)
    return made


def _stale(keys: Sequence[str], made: Mapping[str, int], definition: dg.PartitionsDefinition) -> list[str]:
    """The first partition that is older than the one before it, and those that follow without a hole."""
    stale: list[str] = []
    for before, key in pairwise(keys):
        if previous_key(key, definition) != before:
            if stale:
                break
        elif stale or made[before] > made[key]:
            stale.append(key)
    return stale
