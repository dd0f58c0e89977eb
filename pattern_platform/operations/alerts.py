"""Alerts on failed runs, failed checks, late data and withheld days: one for each cause, not for each partition.

A sensor looks at the runs that ended since its last tick. What failed for the same reason is one cause: the same assets
with the same class of error and the same message, partition keys and numbers aside; or the same check of an asset. A
cause is told once, and again when it still happens after a while. What a channel did not take, it is asked again to
take at the next tick; the others have it.
"""

import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import dagster as dg

from pattern_platform.errors import AlertNotSentError, InvalidChannelError
from pattern_platform.operations.alert_channels import Alert, Channel, LogChannel
from pattern_platform.orchestration.failures import message_of, root_cause
from pattern_platform.orchestration.json_logs import RANGE, assets_of_step, partition_of_run

_RUN_EVENTS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS)
_TOLD_EVENTS = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}
_KINDS = {"nothing_too_late": "late data"} | dict.fromkeys(
    ("is_complete", "is_published", "something_arrived"), "withheld"
)
_FAILED_RUN, _FAILED_CHECK = "failed run", "failed check"
_OF_A_CHECK = "DagsterAssetCheckFailedError"  # the step of a check that blocks; the check itself is told
_WILL_RETRY = "dagster/will_retry"
_SECONDS_BETWEEN_TICKS, _LOOK_BACK_SECONDS = 30, 3_600
_RUNS_AT_ONCE = 200  # of each status; a tick has a minute
_MOST_NUMBERS, _LENGTH_OF_CAUSE = 8, 20
_MOST_CAUSES, _MOST_WAITING, _MOST_PARTITIONS, _LONGEST_MESSAGE = 500, 50, 10, 1_000


@dataclass
class _State:
    """What the sensor remembers from tick to tick, in its cursor.

    Args:
        seen: Event up to which runs were looked at, by status.
        told: When a cause was told, in seconds since the epoch.
        waiting: Alerts with the names of the channels that did not take them.
    """

    seen: dict[str, int] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    waiting: list[tuple[dict[str, Any], list[str]]] = field(default_factory=list)

    @classmethod
    def of(cls, cursor: str | None) -> "_State":
        return cls(**json.loads(cursor)) if cursor else cls()

    @property
    def cursor(self) -> str:
        newest = sorted(self.told.items(), key=lambda told: told[1])[-_MOST_CAUSES:]
        return json.dumps(asdict(replace(self, told=dict(newest), waiting=self.waiting[-_MOST_WAITING:])))


def alerts_sensor(
    channels: Sequence[Channel] = (LogChannel(),),
    *,
    namespace: str = "default",
    webserver: str = "http://127.0.0.1:3000",
    repeat_after: timedelta = timedelta(hours=1),
    name: str = "alerts",
) -> dg.SensorDefinition:
    """The sensor that tells what went wrong. One for an instance: it looks at the runs of all code locations.

    Args:
        channels: Where alerts go.
        namespace: Whose platform it is, told with each alert.
        webserver: Where runs can be seen, told with each alert.
        repeat_after: How long a cause that lasts is not told again.
        name: Of the sensor.

    Raises:
        InvalidChannelError: There is no channel, two have one name, or the time is negative.
    """
    names = [channel.name for channel in channels]
    if not names or len(set(names)) < len(names) or repeat_after < timedelta(0):
        raise InvalidChannelError(
            "the alerts were refused",
            why=f"repeat_after is {repeat_after}"
            if repeat_after < timedelta(0)
            else f"their channels are {', '.join(names) or 'none'}",
            mend="give at least one channel, each with a name of its own, and a repeat_after that is not negative",
        )

    @dg.sensor(
        name=name,
        description="One alert for each cause of failed runs and checks, late data and withheld days.",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=_SECONDS_BETWEEN_TICKS,
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        state, now = _State.of(context.cursor), time.time()
        found = _causes(_ended_runs(context.instance, state), context.instance)
        due = {
            cause: part
            for cause, part in found.items()
            if now - state.told.get(cause, 0) >= repeat_after.total_seconds()
        }
        state.told |= dict.fromkeys(due, now)
        outgoing = [(Alert(**alert), left) for alert, left in state.waiting]
        outgoing += [(part.alert(namespace, webserver), names) for part in due.values()]
        state.waiting = list(_send(outgoing, channels, context.log))
        said = f"{len(due)} alerts, {len(found) - len(due)} causes told before, {len(state.waiting)} alerts wait"
        return dg.SensorResult(skip_reason=said, cursor=state.cursor)

    return alerts


@dataclass
class _Cause:
    """What alerts have in common that are one."""

    kind: str
    subject: str
    error: str
    message: str
    partitions: dict[str, None] = field(default_factory=dict)
    run: str = ""

    def add(self, run: dg.DagsterRun) -> None:
        partition = partition_of_run(run.tags)
        if partition:
            self.partitions[partition] = None
        self.run = run.run_id

    def alert(self, namespace: str, webserver: str) -> Alert:
        return Alert(
            kind=self.kind,
            subject=self.subject,
            error=self.error,
            message=self.message[:_LONGEST_MESSAGE],
            partitions=[*self.partitions][:_MOST_PARTITIONS],
            partition_count=len(self.partitions),
            run=self.run,
            namespace=namespace,
            webserver=webserver,
        )


def _ended_runs(instance: dg.DagsterInstance, state: _State) -> Iterator[dg.DagsterRun]:
    """Runs that ended since the last tick; at first, those of the last hour."""
    ids: dict[str, None] = {}
    for event in _RUN_EVENTS:
        seen = state.seen.get(event.value)
        after = {"after_timestamp": time.time() - _LOOK_BACK_SECONDS} if seen is None else {"after_storage_id": seen}
        new = instance.fetch_run_status_changes(
            dg.RunStatusChangeRecordsFilter(event_type=event, **after),  # ty: ignore[invalid-argument-type]
            limit=_RUNS_AT_ONCE,
            ascending=True,
        ).records
        ids |= dict.fromkeys(record.run_id for record in new)
        if new:
            state.seen[event.value] = max(record.storage_id for record in new)
    records = instance.get_run_records(dg.RunsFilter(run_ids=[*ids]), ascending=True) if ids else []
    for record in records:
        if record.dagster_run.tags.get(_WILL_RETRY) != "true":
            yield record.dagster_run


def _causes(runs: Iterable[dg.DagsterRun], instance: dg.DagsterInstance) -> dict[str, _Cause]:
    """The causes of what went wrong in runs, each under a name that is the same whenever it happens."""
    found: dict[str, _Cause] = {}
    for run in runs:
        for cause in _wrong(run, instance.all_logs(run.run_id, of_type=_TOLD_EVENTS)):
            text = " | ".join((cause.kind, cause.subject, cause.error, _reason(cause, run)))
            found.setdefault(sha256(text.encode()).hexdigest()[:_LENGTH_OF_CAUSE], cause).add(run)
    return found


def _wrong(run: dg.DagsterRun, entries: Sequence[dg.EventLogEntry]) -> Iterator[_Cause]:
    events = [entry.dagster_event for entry in entries if entry.dagster_event]
    has_failed_step = any(event.is_step_failure for event in events)
    for event in events:
        data = event.event_specific_data
        if isinstance(data, dg.AssetCheckEvaluation):
            if not data.passed:
                kind = _KINDS.get(data.check_name, _FAILED_CHECK)
                subject = f"{data.check_name} of {data.asset_key.to_user_string()}"
                yield _Cause(kind, subject, data.severity.value, data.description or _numbers(data))
        elif event.is_step_failure:
            if _error_class(event) != _OF_A_CHECK:
                yield _failed(", ".join(assets_of_step(str(event.step_key))), event)
        elif not has_failed_step:  # a worker that died, a run that was refused before it began
            assets = sorted(key.to_user_string() for key in run.asset_selection or ())
            yield _failed(", ".join(assets) or run.job_name, event)


def _numbers(evaluation: dg.AssetCheckEvaluation) -> str:
    """The numbers that a check gave; its texts may be of rows."""
    values = {name: value.value for name, value in evaluation.metadata.items()}
    numbers = [f"{name}: {value}" for name, value in values.items() if isinstance(value, int | float)]
    return ", ".join(numbers[:_MOST_NUMBERS])


def _error_class(event: dg.DagsterEvent) -> str | None:
    error = getattr(event.event_specific_data, "error", None)
    return None if error is None else str(root_cause(error).cls_name)


def _failed(subject: str, event: dg.DagsterEvent) -> _Cause:
    error = getattr(event.event_specific_data, "error", None)
    if error is None:
        return _Cause(_FAILED_RUN, subject, "run", event.message or "")
    cause = root_cause(error)
    return _Cause(_FAILED_RUN, subject, str(cause.cls_name), message_of(cause))


def _reason(cause: _Cause, run: dg.DagsterRun) -> str:
    """The message as a part of a cause: a refusal without what was refused, and no partition key, id or number."""
    if cause.kind != _FAILED_RUN:
        return ""  # it is the same check
    why = re.search(r"^  why:\s*(.*?)(?=^  mend:|\Z)", cause.message, re.DOTALL | re.MULTILINE)
    text = why[1] if why else cause.message
    for key in (partition_of_run(run.tags) or "").split(RANGE):
        text = text.replace(key, "#") if key else text
    return re.sub(r"\b[0-9a-f-]{32,36}\b|\d+", "#", text).strip()[:_LONGEST_MESSAGE]


def _send(
    outgoing: Iterable[tuple[Alert, Sequence[str]]], channels: Sequence[Channel], log: logging.Logger
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Send alerts, and give back those that a channel did not take; one that fails is asked once a tick."""
    failed: set[str] = set()
    for alert, names in outgoing:
        for channel in channels:
            if channel.name not in names or channel.name in failed:
                continue
            try:
                channel.send(alert)
            except AlertNotSentError as error:
                log.warning("%s", error)
                failed.add(channel.name)
        if left := [name for name in names if name in failed]:
            yield asdict(alert), left
