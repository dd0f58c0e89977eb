"""Isolated Sequencer: pipelines of two teams, one after the other, deployed apart.

Problem: dashboards are made of another team's tables. Importing that team's code couples two deployments, and a
schedule of one's own reads half a day.

Guarantee: there are two ways. Data-based: the consumer knows an asset key and the columns it was promised. Inside one
Dagster it declares the provider's asset as an ``AssetSpec`` and follows it by an automation condition, backfills
included; for a provider outside, :func:`delta_commit_sensor` reports each commit that changed rows, once, and none that
did not, such as a compaction. A commit is atomic, so nobody reads half of one. Task-based: :func:`after_job` runs a job
for each partition that a job of another location completed, once a run, with that run's id in a tag; a failed run
triggers nothing. Either location loads without the other, and a consumer that fails leaves the provider as it is.

Limits: task-based couples by the name of a job: where it is renamed, the consumer stops, and only a test of both
together can tell. It follows runs of the job, not assets that are materialized outside of it. A commit is reported
again when the daemon dies between the report and its cursor. The first look, and a log that was cleaned up beyond the
cursor, yield one event: what the table is now.

Shown by: the code location ``dashboards``: ``dashboards/top_pages`` (data-based), ``dashboards/ad_revenue`` (commits of
a partner), ``dashboards/arrivals`` (task-based).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl

from pattern_platform.errors import BrokenContractError, InvalidFlowError
from pattern_platform.lake.checks import listed
from pattern_platform.lake.lineage import read_commits, tip_of
from pattern_platform.lake.location import root_of
from pattern_platform.lake.log import refuse_torn
from pattern_platform.lake.object_path import LakePath
from pattern_platform.orchestration.checks import same_type
from pattern_platform.orchestration.partition_tags import PARTITION, RANGE_END, RANGE_START

UPSTREAM_RUN = "pattern_platform/upstream_run_id"
_EVENTS_PER_TICK = 100


def after_job(
    upstream_job: str,
    job: dg.JobDefinition | Any,  # noqa: ANN401 - what define_asset_job returns has no public name
    *,
    location: str,
    partitions: dg.PartitionsDefinition | None = None,
) -> dg.SensorDefinition:
    """Run a job after each successful run of a job in another code location, for the same partitions.

    Args:
        upstream_job: Name of the job to follow.
        job: The job to run, of this location.
        location: Name of the other code location, as in ``workspace.yaml``.
        partitions: Partitions of both jobs; None where they have none.
    """

    @dg.run_status_sensor(
        name=f"{job.name}_after_{upstream_job}",
        description=f"Runs {job.name} for each partition that {upstream_job} of {location} completed.",
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[dg.JobSelector(location, "__repository__", upstream_job)],
        request_job=job,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=10,
    )
    def after(context: dg.RunStatusSensorContext) -> Iterator[dg.RunRequest]:
        run = context.dagster_run
        for key in _partitions_of(run.tags, partitions):
            yield dg.RunRequest(
                run_key=f"{run.run_id}:{key}", partition_key=key or None, tags={UPSTREAM_RUN: run.run_id}
            )

    return after


def delta_commit_sensor(
    asset: dg.AssetKey,
    table: str | Path,
    *,
    storage_options: Mapping[str, str] | None = None,
    minimum_interval_seconds: int = 30,
) -> dg.SensorDefinition:
    """Report the commits of a table that nobody in this Dagster writes, as materializations of its asset.

    Args:
        asset: Key of the table's ``AssetSpec``; it has no partitions.
        table: Directory of the table, or its URI. While there is none, nothing is reported.
        storage_options: How the object store is reached that the table is on; None for a local one.
        minimum_interval_seconds: How often its log is looked at.

    Returns:
        The sensor. Each materialization has the version of the table as its data version.
    """
    directory = root_of(str(table), storage_options)

    @dg.sensor(
        name=f"{asset.to_python_identifier()}__commits",
        description=f"Reports each commit that changed rows of {asset.to_user_string()}.",
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def commits(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        versions = (file.name.removesuffix(".json") for file in (directory / "_delta_log").glob("*.json"))
        newest = max((int(version) for version in versions if version.isdecimal()), default=-1)
        seen, tip = json.loads(context.cursor) if context.cursor else (-1, "")
        is_known = 0 <= seen <= newest and _tip(directory, seen) in (tip, None)
        if newest < 0 or (is_known and seen == newest):
            return dg.SkipReason(f"no commit after version {seen} of {directory}")
        after = seen if is_known else -1  # another table has taken its place, or this is the first look
        refuse_torn(directory, after, newest)
        logged = list(read_commits(directory, after, newest))
        changes = [version for version, _, changed in logged if changed]
        if len(logged) < newest - after:  # the log was cleaned up: what the table is now, whatever led there
            changes = changes[-1:] or [newest]
        elif not is_known:
            changes = changes[-1:]
        reported = changes[:_EVENTS_PER_TICK]
        reached = reported[-1] if len(reported) < len(changes) else newest
        return dg.SensorResult(
            asset_events=[_materialization(asset, directory, version) for version in reported],
            cursor=json.dumps([reached, _tip(directory, reached)]),
        )

    return commits


def promised(rows: pl.LazyFrame, contract: type[dy.Schema], provider: dg.AssetKey) -> pl.DataFrame:
    """The rows of another team's table, if they are what was agreed; columns beyond that are left out.

    Args:
        rows: The rows.
        contract: What the consumer relies on.
        provider: Whose rows they are.

    Raises:
        BrokenContractError: A column is missing or of another type, or rows break a rule. Nothing is written then.
    """
    given, name = rows.collect_schema(), provider.to_user_string()
    columns = pl.Schema(contract)
    wrong = [column for column, dtype in columns.items() if not same_type(dtype, given.get(column))]
    kept = rows.select(columns.names()).collect() if not wrong else pl.DataFrame()
    broken = contract.filter(kept, cast=True)[1].counts() if not wrong else {}
    if wrong or broken:
        raise BrokenContractError(
            f"the rows of {name!r} were refused",
            why=f"{contract.__name__} promises columns {listed(wrong)} otherwise"
            if wrong
            else f"rows break the rules of {contract.__name__}: {broken}",
            mend=f"settle it with the owners of {name!r}: they bring it back, or both sides take a new contract",
        )
    return kept


def _partitions_of(tags: Mapping[str, str], partitions: dg.PartitionsDefinition | None) -> list[str]:
    if partitions is None:
        return [""]
    if RANGE_START in tags:
        ends = dg.PartitionKeyRange(tags[RANGE_START], tags[RANGE_END])
        return list(partitions.get_partition_keys_in_range(ends))
    if PARTITION not in tags:
        raise InvalidFlowError(
            "a run of the job that is followed was refused",
            why="it has no partition, and the job that follows it has",
            mend="give both jobs the same partitions, or none",
        )
    return [tags[PARTITION]]


def _tip(table: LakePath, version: int) -> str | None:
    """Identity of a commit; None where it was cleaned up."""
    return next((tip_of(metadata) for _, metadata, _ in read_commits(table, version - 1, version)), None)


def _materialization(asset: dg.AssetKey, table: LakePath, version: int) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        asset,
        description=f"version {version}, written outside of this Dagster",
        metadata={"delta/version": version, "dagster/uri": str(table)},
        tags={"dagster/data_version": str(version)},
    )
