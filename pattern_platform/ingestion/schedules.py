"""When a data set is looked for: as often as its partitions end, or as a word says."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal, cast

import dagster as dg

from pattern_platform.errors import InvalidSettingsError
from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.routing import definition_of, is_hourly
from pattern_platform.ingestion.stages import key_of
from pattern_platform.orchestration.partition_tags import partition_tags

Word = Literal["hourly", "daily", "off"]
_MINUTE, _HOUR = 10, 6  # past the hour, and of the day: what a source needs to deliver
CRON = {"hourly": f"{_MINUTE} * * * *", "daily": f"{_MINUTE} {_HOUR} * * *"}


def ingest(
    dataset: Dataset, word: Word | None, tags: Mapping[str, str]
) -> tuple[list[Any], list[dg.ScheduleDefinition]]:
    """The job that reads what has landed, and its schedule. What follows, the conditions of the assets request.

    Args:
        dataset: The data set.
        word: How often it runs; as its partitions end where None. Hours can be read in one run a day, days not hourly.
        tags: Of its runs.

    Raises:
        InvalidSettingsError: The word asks for what the partitions do not have.
    """
    selection = [key_of(dataset, "raw")]
    if dataset.partitions is None and dataset.stage == "clean":
        selection += [key_of(dataset, "clean"), key_of(dataset, "quarantine")]
    job = dg.define_asset_job(
        f"ingest_{dataset.name}",
        description=f"What has landed of {dataset.name}. What follows from it, the conditions of the assets request.",
        selection=selection,
        tags=tags,
    )
    schedule = _schedule(dataset, job, word)
    return [job], [schedule] if schedule else []


def _schedule(dataset: Dataset, job: Any, word: Word | None) -> dg.ScheduleDefinition | None:  # noqa: ANN401 - not public
    if word == "off":
        return None
    if dataset.partitions is None:
        return dg.ScheduleDefinition(name=f"{job.name}_schedule", job=job, cron_schedule=CRON[word or "daily"])
    hourly = is_hourly(dataset)
    if word == "hourly" and not hourly:
        raise InvalidSettingsError(
            f"setting schedules.{dataset.name}: 'hourly' was refused",
            why="its partitions are days, which do not end every hour",
            mend="say daily or off, or give it the granularity hour in the registry",
        )
    if word == "daily" and hourly:
        return _hours_of_yesterday(dataset, job)
    hour = None if hourly else _HOUR
    # The schedule of a job whose partitions are known when definitions load; no public type names it.
    made = dg.build_schedule_from_partitioned_job(job, hour_of_day=hour, minute_of_hour=_MINUTE)
    return cast("dg.ScheduleDefinition", made)


def _hours_of_yesterday(dataset: Dataset, job: Any) -> dg.ScheduleDefinition:  # noqa: ANN401 - not public
    definition = definition_of(dataset)

    @dg.schedule(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=CRON["daily"],
        execution_timezone=definition.timezone,
    )
    def yesterday(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        today = context.scheduled_execution_time.replace(hour=0, minute=0, second=0, microsecond=0)
        window = dg.TimeWindow(today - timedelta(days=1), today)
        there = set(definition.get_partition_keys(current_time=today))
        # Neither before the first partition nor after the last.
        keys = [key for key in definition.get_partition_keys_in_time_window(window) if key in there]
        if not keys:
            yield dg.SkipReason("there are no partitions on that day")
            return
        yield dg.RunRequest(run_key=keys[0], tags=partition_tags(keys[0], keys[-1]))

    return yesterday
