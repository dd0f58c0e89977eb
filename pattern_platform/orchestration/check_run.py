"""A run of checks whose outcome an exit code can tell.

Dagster ends with exit code 0 when a check of severity ERROR fails that blocks nothing; a check whose step was skipped,
or whose function returned no result, it does not count at all. Here every planned check has an outcome.

Runs are in this process, past the run queue, so that its limits do not bind. Locations run in their order; partitions,
as many in a run as the backfill policies allow, one by one where there is none.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import dagster as dg

from pattern_platform.errors import CheckRunError
from pattern_platform.orchestration.partition_tags import PARTITION, partition_tags
from pattern_platform.orchestration.run_coordinator import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pattern_platform.orchestration.check_selection import Selected

_JOB = "pattern_platform_check"
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_MATERIALIZED, _EVALUATED = dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION
_PLANNED = (dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED)
_UNTOLD = "it said neither that it passed nor that it failed; an asset check returns an AssetCheckResult"
_NOT_REACHED = "what comes before it failed"


class Outcome(StrEnum):
    """What became of an asset or a check."""

    MATERIALIZED = "materialized"
    SKIPPED = "skipped"
    PASSED = "passed"
    WARNED = "warned"
    FAILED = "failed"
    NOT_EXECUTED = "not executed"


@dataclass(frozen=True)
class Result:
    """What became of an asset, or of one of its checks, in one run.

    Args:
        asset: Key of the asset.
        check: Name of the check; None for the materialization.
        partition: The partition, or the first and the last of the run; empty where there is none.
        outcome: What became of it.
        severity: ``ERROR`` or ``WARN`` of a check that was evaluated, else empty.
        description: What the check says, or why it did not come to that.
        metadata: What the check measured, by name.
        seconds: Duration of the step, which several results may share.
    """

    asset: str
    check: str | None
    partition: str
    outcome: Outcome
    severity: str = ""
    description: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0

    @property
    def is_bad(self) -> bool:
        """Whether the command must not end well."""
        return self.outcome in {Outcome.FAILED, Outcome.NOT_EXECUTED}


def run_checks(
    selected: Sequence[Selected], partitions: Sequence[str], instance: dg.DagsterInstance, namespace: str
) -> list[Result]:
    """Materialize and check what is selected; what fails for one partition keeps no other from its run.

    Args:
        selected: What is run, from :func:`select`.
        partitions: Partitions that follow each other, from :func:`partitions_between`.
        instance: Where the runs are recorded.
        namespace: Whose runs they are.

    Raises:
        CheckRunError: An asset asks for configuration, and none is given here.
    """
    results = [_left_out(check) for part in selected for check in sorted(part.left_out)]
    jobs = [(part, _job(part)) for part in selected if part.assets or part.checks]
    for part, job in jobs:
        for tags, label in _runs(part, partitions):
            run = job.execute_in_process(
                run_config=_config(part),
                instance=instance,
                tags={**tags, NAMESPACE: namespace},
                raise_on_error=False,
            )
            results += _Log(instance.all_logs(run.run_id), label).results()
    return results


def _left_out(check: dg.AssetCheckKey) -> Result:
    return Result(
        check.asset_key.to_user_string(), check.name, "", Outcome.SKIPPED, description="its asset alone evaluates it"
    )


def _job(part: Selected) -> dg.JobDefinition:
    selection = dg.AssetSelection.assets(*part.assets).without_checks() | dg.AssetSelection.checks(*part.checks)
    # Without an IO manager of its own, a run in process keeps values in memory, where no later run finds them.
    stored = {} if "io_manager" in (part.defs.resources or {}) else {"io_manager": dg.FilesystemIOManager()}
    added = dg.Definitions(jobs=[dg.define_asset_job(_JOB, selection=selection)], resources=stored)
    with warnings.catch_warnings():  # that policies vary; runs take what all of them allow
        warnings.filterwarnings("ignore", f"Asset job {_JOB} materializes assets with varying BackfillPolicies")
        job = dg.Definitions.merge(part.defs, added).resolve_job_def(_JOB)
    try:
        dg.validate_run_config(job, _config(part))
    except dg.DagsterInvalidConfigError as error:
        raise CheckRunError(
            f"a run of {part.location} was refused",
            why=" ".join(str(error).split()),
            mend="give the configuration defaults, set the variables that it reads, or select other assets",
        ) from error
    return job


def _config(part: Selected) -> dict[str, Any]:
    """Silence on the console, unless the location has loggers of its own."""
    return {} if part.defs.loggers else _QUIET


def _runs(part: Selected, partitions: Sequence[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Tags and label of each run."""
    if not partitions or not part.partitions:
        yield {}, ""
        return
    several_dimensions = isinstance(partitions[0], dg.MultiPartitionKey)  # a range of Dagster's would be another
    size = 1 if several_dimensions else part.most_per_run or len(partitions)
    for start in range(0, len(partitions), size):
        first, last = partitions[start], partitions[min(start + size, len(partitions)) - 1]
        dimensions = first.keys_by_dimension if isinstance(first, dg.MultiPartitionKey) else {}
        tags = partition_tags(first, last) | {f"{PARTITION}/{name}": key for name, key in dimensions.items()}
        yield tags, first if first == last else f"{first}...{last}"


class _Log:
    """What the log of a run tells.

    Args:
        entries: Of one run, in their order.
        label: Of its partitions.
    """

    def __init__(self, entries: Sequence[dg.EventLogEntry], label: str) -> None:
        self._label = label
        self._planned: list[dg.DagsterEvent] = []
        self._materialized: set[tuple[dg.AssetKey | None, str | None]] = set()
        self._evaluated: dict[dg.AssetCheckKey, dict[str | None, dg.AssetCheckEvaluation]] = defaultdict(dict)
        self._errors: dict[str, str] = {}
        self._of_the_run = ""
        times: dict[str | None, list[float]] = defaultdict(list)
        for entry in entries:
            if event := entry.dagster_event:
                self._take(event)
                if event.event_type not in _PLANNED:
                    times[event.step_key].append(entry.timestamp)
        self._seconds = {step: max(moments) - min(moments) for step, moments in times.items()}

    def results(self) -> list[Result]:
        """Of each asset and each check that was planned, assets first."""
        assets = [self._of_asset(event) for event in self._planned if event.event_type is _PLANNED[0]]
        checks = [self._of_check(event) for event in self._planned if event.event_type is _PLANNED[1]]
        return assets + [result for results in checks for result in results]

    def _take(self, event: dg.DagsterEvent) -> None:
        if event.event_type in _PLANNED:
            self._planned.append(event)
        elif event.event_type is _MATERIALIZED:
            self._materialized.add((event.asset_key, event.partition))
        elif event.event_type is _EVALUATED:
            evaluation = event.asset_check_evaluation_data
            self._evaluated[evaluation.asset_check_key][evaluation.partition] = evaluation
        elif event.is_step_failure:
            self._errors[_node(event)] = _told(event.step_failure_data.error) or event.message or "the step failed"
        elif event.event_type is dg.DagsterEventType.RUN_FAILURE:
            self._of_the_run = _told(event.job_failure_data.error) or event.message or "the run failed"

    def _error(self, planned: dg.DagsterEvent) -> str:
        """Why the step of an asset or a check failed; a run that failed before any step failed them all."""
        return self._errors.get(_node(planned), "" if self._errors else self._of_the_run)

    def _of_asset(self, planned: dg.DagsterEvent) -> Result:
        data, why = planned.asset_materialization_planned_data, self._error(planned)
        if why:
            outcome = Outcome.FAILED
        elif (data.asset_key, data.partition) in self._materialized:
            outcome = Outcome.MATERIALIZED
        else:
            outcome, why = Outcome.SKIPPED, "what comes before it failed, or it had nothing to make"
        return Result(
            data.asset_key.to_user_string(),
            None,
            data.partition or self._label,
            outcome,
            description=why,
            seconds=self._seconds.get(planned.step_key, 0.0),
        )

    def _of_check(self, planned: dg.DagsterEvent) -> list[Result]:
        key = planned.asset_check_planned_data.asset_check_key
        asset, seconds = key.asset_key.to_user_string(), self._seconds.get(planned.step_key, 0.0)
        evaluations = self._evaluated.get(key)
        if not evaluations:
            why = self._error(planned) or (_UNTOLD if planned.step_key in self._seconds else _NOT_REACHED)
            return [Result(asset, key.name, self._label, Outcome.NOT_EXECUTED, description=why, seconds=seconds)]
        return [
            Result(
                asset,
                key.name,
                partition or self._label,
                _outcome(evaluation),
                severity=evaluation.severity.value,
                description=evaluation.description or "",
                metadata=tuple((name, str(value.value)) for name, value in evaluation.metadata.items()),
                seconds=seconds,
            )
            for partition, evaluation in evaluations.items()
        ]


def _outcome(evaluation: dg.AssetCheckEvaluation) -> Outcome:
    if evaluation.passed:
        return Outcome.PASSED
    return Outcome.FAILED if evaluation.severity is dg.AssetCheckSeverity.ERROR else Outcome.WARNED


def _node(event: dg.DagsterEvent) -> str:
    """Name of the asset's or check's node: that of a graph for each of its steps, also of mapped ones."""
    return re.split(r"[.\[]", event.step_key or "", maxsplit=1)[0]


def _told(error: Any) -> str:  # noqa: ANN401 - Dagster's SerializableErrorInfo, which it does not export
    """The error that was raised, without what Dagster wraps around it."""
    while error and error.cause:
        error = error.cause
    return error.message.strip() if error else ""
