"""Late data makes the partitions it belongs to run again: once for each batch of it, behind what has just landed."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import dagster as dg

from pattern_platform.ingestion.routing import PARTITIONS, definition_of
from pattern_platform.ingestion.stages import PARTITIONS_PER_RUN, key_of, stages_of
from pattern_platform.orchestration.partition_tags import partition_tags

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pattern_platform.ingestion.dataset import Dataset
    from pattern_platform.patterns.data_flow.concurrent_runner import ConcurrentRunner

_BEHIND = {"dagster/priority": "-1"}
_MOST_EVENTS = 1000  # of a tick; what is left comes with the next


def routing_sensor(dataset: Dataset, runner: ConcurrentRunner) -> dg.SensorDefinition:
    """Request the partitions that new raw rows belong to.

    A partition that has just arrived is requested at once. One that gets late rows is requested once for all that are
    new, with a lower priority and under a limit of its own, so that a burst of them never holds up current hours; where
    it has not arrived itself, it is not requested, for its own arrival brings the late rows too.

    Args:
        dataset: A data set with an allowed lateness.
        runner: The limit of runs that bring late rows.
    """
    raw = key_of(dataset, "raw")
    made = [key_of(dataset, stage) for stage in stages_of(dataset) if stage != "raw"]

    @dg.sensor(
        name=f"{dataset.name}__routing",
        description=f"Requests the partitions of clean/{dataset.name} that new raw rows belong to.",
        target=dg.AssetSelection.assets(*made),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def routing(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        after = int(context.cursor) if context.cursor else None
        new = dg.AssetRecordsFilter(asset_key=raw, after_storage_id=after)
        events = context.instance.fetch_materializations(new, limit=_MOST_EVENTS, ascending=True).records
        if not events:
            return dg.SensorResult()
        arrived = {str(event.partition_key) for event in events}
        told = [*events, *(before for event in events for before in _replaced(event, raw, context.instance))]
        belong = {key for event in told for key in _event_partitions(event)} - arrived
        late = belong & context.instance.get_materialized_partitions(raw)
        batch = events[-1].storage_id
        return dg.SensorResult(
            run_requests=[
                *_requests(dataset, arrived, made, batch, {}),
                *_requests(dataset, late, made, batch, {**runner.tags, **_BEHIND}),
            ],
            cursor=str(batch),
        )

    return routing


def _replaced(event: dg.EventLogRecord, raw: dg.AssetKey, instance: dg.DagsterInstance) -> Sequence[dg.EventLogRecord]:
    """The materialization that one replaced: rows that it had are gone from where they belonged."""
    before = dg.AssetRecordsFilter(
        asset_key=raw, asset_partitions=[str(event.partition_key)], before_storage_id=event.storage_id
    )
    return instance.fetch_materializations(before, limit=1).records


def _event_partitions(event: dg.EventLogRecord) -> Mapping[str, int]:
    materialization = event.asset_materialization
    value = materialization.metadata.get(PARTITIONS) if materialization else None
    told = cast("Mapping[str, Mapping[str, int]]", value.value) if isinstance(value, dg.JsonMetadataValue) else {}
    return told.get(str(event.partition_key), {})


def _requests(
    dataset: Dataset, keys: set[str], assets: Sequence[dg.AssetKey], batch: int, tags: Mapping[str, str]
) -> Iterator[dg.RunRequest]:
    for stretch in _stretches(dataset, keys):
        yield dg.RunRequest(
            run_key=f"{stretch[0]}...{stretch[-1]}@{batch}",
            asset_selection=list(assets),
            tags={**partition_tags(stretch[0], stretch[-1]), **tags},
        )


def _stretches(dataset: Dataset, keys: set[str]) -> list[list[str]]:
    """Partitions that follow each other, so that a run takes some of them."""
    definition = definition_of(dataset)
    known = (key for key in keys if definition.has_partition_key(key))  # the registry may begin later now
    windows = sorted((definition.time_window_for_partition_key(key), key) for key in known)
    stretches: list[list[str]] = []
    end = None
    for window, key in windows:
        if window.start == end and len(stretches[-1]) < PARTITIONS_PER_RUN:
            stretches[-1].append(key)
        else:
            stretches.append([key])
        end = window.end
    return stretches
