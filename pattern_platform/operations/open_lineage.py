"""What runs read and wrote, as OpenLineage events, for a catalogue that other tools fill too (Marquez, DataHub, ...).

Each asset that a run materialized, or tried to, is a run of a job that has the name of the asset, and the Dagster run
is its parent. Its id is made of both, so that sending a run again says the same. The package is an extra.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import requests

from pattern_platform.errors import LineageNotSentError, MissingDriverError
from pattern_platform.lake.cost import BYTES_WRITTEN
from pattern_platform.orchestration.failures import message_of, root_cause
from pattern_platform.orchestration.json_logs import RANGE, assets_of_step, partition_of_run

try:
    from openlineage.client import facet_v2 as facets
    from openlineage.client.client import OpenLineageClient
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.serde import Serde
    from openlineage.client.transport.http import HttpConfig, HttpTransport
except ImportError as error:
    raise MissingDriverError(
        "lineage as OpenLineage events was refused", why=str(error), mend='install "pattern-platform[openlineage]"'
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_PRODUCER = "urn:pattern-platform"
_SCHEMA, _URI = "dagster/column_schema", "dagster/uri"
_ROWS = ("dagster/partition_row_count", "dagster/row_count", "files/rows_written")
_EVENTS = {
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
}
_RETRIES = {"total": 3, "connect": 3, "backoff_factor": 0.2, "status_forcelist": [429, 500, 502, 503, 504]}


@dataclass
class _Made:
    """An asset in a run: when it began and ended, what was written, or why not."""

    started: float
    ended: float | None = None
    materialization: dg.AssetMaterialization | None = None
    error: Any = None
    partitions: list[str] = field(default_factory=list)

    @property
    def state(self) -> RunState:
        return RunState.FAIL if self.materialization is None else RunState.COMPLETE


def run_events(
    record: dg.RunRecord, instance: dg.DagsterInstance, specs: Mapping[dg.AssetKey, dg.AssetSpec], namespace: str
) -> Iterator[RunEvent]:
    """The events of a run, in the order of the assets: a START for each, and a COMPLETE or a FAIL where it ended.

    Args:
        record: The run.
        instance: Where it is recorded.
        specs: What is known of the assets: dependencies, columns and partitions. An asset that is not among them, as
            one that was removed since, has no inputs.
        namespace: Of the jobs and of the data sets.
    """
    run = record.dagster_run
    for key, made in sorted(_made(instance.all_logs(run.run_id, of_type=_EVENTS)).items()):
        job, parent = Job(namespace, key.to_user_string()), _parent(run, namespace)
        run_id = str(uuid.uuid5(uuid.UUID(run.run_id), key.to_user_string()))
        nominal = _nominal_time(specs.get(key), made.partitions or _partitions(run))
        inputs = [_input(dep.asset_key, specs, namespace) for dep in specs[key].deps] if key in specs else []
        common = {"job": job, "inputs": inputs, "producer": _PRODUCER}
        about = {"parent": parent, **nominal}
        yield RunEvent(
            eventType=RunState.START,
            eventTime=_moment(made.started),
            run=Run(run_id, facets=about),
            outputs=[_output(key, None, specs, namespace)],
            **common,
        )
        if made.ended is not None:
            yield RunEvent(
                eventType=made.state,
                eventTime=_moment(made.ended),
                run=Run(run_id, facets={**about, **_failure(made.error)}),
                outputs=[_output(key, made.materialization, specs, namespace)],
                **common,
            )


def as_lines(events: Iterable[RunEvent]) -> str:
    """Events as JSON, one a line."""
    return "".join(f"{Serde.to_json(event)}\n" for event in events)


def send(events: Iterable[RunEvent], url: str) -> int:
    """Send events to a server that speaks OpenLineage over HTTP, at ``<url>/api/v1/lineage``.

    Args:
        events: The events.
        url: The server.

    Returns:
        How many were sent.

    Raises:
        LineageNotSentError: It did not take one; those before it were taken.
    """
    sent = 0
    try:
        client = OpenLineageClient(transport=HttpTransport(HttpConfig(url=url, retry=_RETRIES)))
        for sent, event in enumerate(events, start=1):  # noqa: B007 - counted
            client.emit(event)
    except (requests.RequestException, OSError, ValueError) as error:
        raise LineageNotSentError(
            f"the server at {url} did not take an event, after {max(sent - 1, 0)} that it took",
            why=f"{type(error).__name__}: {error}",
            mend="say with --url where it is, as http://localhost:5000; sending the same run again changes nothing",
        ) from error
    return sent


def _made(entries: Sequence[dg.EventLogEntry]) -> dict[dg.AssetKey, _Made]:
    starts: dict[str, float] = {}
    found: dict[dg.AssetKey, _Made] = {}
    of_step: dict[str, set[dg.AssetKey]] = defaultdict(set)
    for entry in entries:
        event = entry.dagster_event
        if event is None:
            continue
        step = str(event.step_key)
        if event.event_type is dg.DagsterEventType.STEP_START:
            starts.setdefault(step, entry.timestamp)
        elif event.asset_key and entry.asset_materialization:
            made = found.setdefault(event.asset_key, _Made(starts.get(step, entry.timestamp)))
            made.ended, made.materialization = entry.timestamp, entry.asset_materialization
            made.partitions += [event.partition] if event.partition else []
            of_step[step].add(event.asset_key)
        elif event.is_step_failure:
            missing = {dg.AssetKey.from_user_string(key) for key in assets_of_step(step)} - of_step[step]
            for key in missing:
                error = getattr(event.event_specific_data, "error", None)
                found[key] = _Made(starts.get(step, entry.timestamp), entry.timestamp, error=error)
    return found


def _parent(run: dg.DagsterRun, namespace: str) -> facets.parent_run.ParentRunFacet:
    return facets.parent_run.ParentRunFacet(
        run=facets.parent_run.Run(run.run_id), job=facets.parent_run.Job(namespace, run.job_name)
    )


def _partitions(run: dg.DagsterRun) -> list[str]:
    partition = partition_of_run(run.tags)
    return partition.split(RANGE) if partition else []


def _nominal_time(spec: dg.AssetSpec | None, keys: Sequence[str]) -> dict[str, Any]:
    """The time that the partitions stand for, from the beginning of the first to the end of the last."""
    definition = spec.partitions_def if spec else None
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return {}
    # A key may be of partitions that the asset had before.
    windows = [definition.time_window_for_partition_key(key) for key in keys if definition.has_partition_key(key)]
    if not windows:
        return {}
    start, end = min(window.start for window in windows), max(window.end for window in windows)
    times = (_moment(start.timestamp()), _moment(end.timestamp()))
    return {"nominalTime": facets.nominal_time_run.NominalTimeRunFacet(*times)}


def _failure(error: Any) -> dict[str, Any]:  # noqa: ANN401 - Dagster does not export the class of a recorded error
    if error is None:
        return {}
    cause = root_cause(error)
    facet = facets.error_message_run.ErrorMessageRunFacet(
        message=f"{cause.cls_name}: {message_of(cause)}", programmingLanguage="python", stackTrace="".join(error.stack)
    )
    return {"errorMessage": facet}


def _input(key: dg.AssetKey, specs: Mapping[dg.AssetKey, dg.AssetSpec], namespace: str) -> InputDataset:
    declared = specs[key].metadata if key in specs else {}
    return InputDataset(namespace, key.to_user_string(), facets=_columns(declared))


def _output(
    key: dg.AssetKey,
    materialization: dg.AssetMaterialization | None,
    specs: Mapping[dg.AssetKey, dg.AssetSpec],
    namespace: str,
) -> OutputDataset:
    """The data set, with its columns as they were written, or as they are declared where nothing was."""
    declared = specs[key].metadata if key in specs else {}
    told: dict[str, Any] = (
        {name: value.value for name, value in materialization.metadata.items()} if materialization else {}
    )
    about = _columns(told) or _columns(declared)
    if uri := told.get(_URI):
        place = str(uri) if "://" in str(uri) else Path(str(uri)).absolute().as_uri()
        about["dataSource"] = facets.datasource_dataset.DatasourceDatasetFacet(name=namespace, uri=place)
    rows = next((told[name] for name in _ROWS if name in told), None)
    statistics = {}
    if rows is not None or BYTES_WRITTEN in told:
        statistics["outputStatistics"] = facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=rows, size=told.get(BYTES_WRITTEN), fileCount=told.get("delta/files_added")
        )
    return OutputDataset(namespace, key.to_user_string(), facets=about, outputFacets=statistics)


def _columns(metadata: Mapping[str, Any]) -> dict[str, Any]:
    schema = metadata.get(_SCHEMA)
    schema = schema.value if isinstance(schema, dg.TableSchemaMetadataValue) else schema
    if not isinstance(schema, dg.TableSchema):
        return {}
    fields = [
        facets.schema_dataset.SchemaDatasetFacetFields(column.name, column.type, column.description)
        for column in schema.columns
    ]
    return {"schema": facets.schema_dataset.SchemaDatasetFacet(fields)}


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
