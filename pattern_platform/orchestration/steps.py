"""What the steps inside an asset hand to each other, kept so that a retry repeats no step that succeeded.

A step's file holds its rows together with what made them, appears whole or not at all, and is never changed. A later
run of the same partition makes a file of its own, and with it the earlier one stale: it is not deleted then, but a
retry that would go on from it is refused. A clean-up removes the files that nothing needs.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import dagster as dg
import polars as pl

from pattern_platform.errors import InvalidFlowError, StaleStepError
from pattern_platform.lake.frames import from_lazy, to_lazy
from pattern_platform.lake.whole_file import whole_file
from pattern_platform.orchestration.tasks import Task

# Metadata of a step's output: the asset that the steps make, and whether it has partitions.
OF_ASSET, HAS_PARTITIONS = "pattern_platform/asset", "pattern_platform/has_partitions"
_RECORD = "pattern_platform.step"
_LONGEST_STEP = timedelta(days=1)


@dataclass(frozen=True)
class Step(Task):
    """A step of an asset, for a partition.

    Args:
        asset: Key of the asset, as a user writes it.
        step: Name of the step.
        partition: Partition key; None without partitions.
    """

    asset: str
    step: str
    partition: str | None


class StepsIOManager(dg.ConfigurableIOManager):
    """Intermediate results as Parquet files.

    Args:
        root_uri: Folder of the files, of no interest to anybody else.
    """

    root_uri: str

    def path_of(self, step: Step, run_id: str) -> Path:
        """The file of a step."""
        return Path(self.root_uri, f"{step.key}.{run_id}.parquet")

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Keep what a step made.

        Raises:
            InvalidFlowError: The run is over several partitions; no retry could tell which of them was made anew.
        """
        if context.definition_metadata[HAS_PARTITIONS] and not context.has_partition_key:
            raise InvalidFlowError(
                f"a run of {context.definition_metadata[OF_ASSET]!r} over several partitions was refused",
                why="its steps are kept for the partition that they are of",
                mend="launch a run for each, as a backfill does",
            )
        step = _step_of(context, context.partition_key if context.has_partition_key else None)
        record = {"asset": step.asset, "partition": step.partition, "step": step.step, "run_id": context.run_id}
        path = self.path_of(step, context.run_id)
        with whole_file(path) as unfinished:
            to_lazy(obj).sink_parquet(unfinished, metadata={_RECORD: json.dumps(record)})
        context.add_output_metadata({"path": str(path)})

    def load_input(self, context: dg.InputContext) -> object:
        """Load what the step before made, in this run or in the one that this run retries.

        Raises:
            StaleStepError: It is gone, or a later run made it anew.
        """
        before = context.upstream_output
        assert before is not None  # noqa: S101 - steps have steps before them
        step = _step_of(before, context.partition_key if context.has_partition_key else None)
        path = self.path_of(step, before.run_id)
        files = sorted(path.parent.glob(f"{step.key}.*.parquet"), key=lambda file: file.stat().st_mtime_ns)
        if files[-1:] != [path]:
            raise StaleStepError(
                f"step {step.step!r} of {step.asset!r}, partition {step.partition}, was refused as an input",
                why="a later run made it anew" if path in files else "it was cleaned up",
                mend="materialize the asset anew, from its first step",
            )
        return from_lazy(pl.scan_parquet(path), context.dagster_type.typing_type)


def steps_cleanup_asset(
    io_manager_key: str,
    **arguments: Any,  # noqa: ANN401 - those of dagster.asset
) -> dg.AssetsDefinition:
    """What steps left, removed once nothing needs it.

    A file is needed while its run is under way, and after a failure until its partition was materialized by another
    run: till then it may be retried from there.

    Args:
        io_manager_key: The IO manager of the steps.
        arguments: What else ``dagster.asset`` takes, such as ``key`` and ``group_name``.
    """

    @dg.asset(
        description="Intermediate results that no retry needs any more, removed.",
        required_resource_keys={io_manager_key},
        **arguments,
    )
    def steps_cleanup(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        manager = cast("StepsIOManager", getattr(context.resources, io_manager_key))
        removed, kept = [], []
        for file in sorted(Path(manager.root_uri).glob("*.parquet")):
            record = json.loads(pl.read_parquet_metadata(file)[_RECORD])
            named = "/".join(filter(None, (record["asset"], record["step"], record["partition"])))
            if _is_needed(file, record, context.instance):
                kept.append(named)
            else:
                file.unlink()
                removed.append(named)
        for unfinished in Path(manager.root_uri).glob(".*.parquet.*"):  # of runs that were killed
            if _modified(unfinished) < datetime.now(UTC) - _LONGEST_STEP:
                unfinished.unlink()
                removed.append(unfinished.name)
        return dg.MaterializeResult(metadata={"removed": removed, "kept": kept})

    return steps_cleanup


def _is_needed(file: Path, record: dict[str, Any], instance: dg.DagsterInstance) -> bool:
    run = instance.get_run_by_id(record["run_id"])
    if run is None or run.is_success:
        return False
    if not run.is_finished:
        return True
    later = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey.from_user_string(record["asset"]),
        asset_partitions=[record["partition"]] if record["partition"] else None,
        after_timestamp=_modified(file).timestamp(),
    )
    return not instance.fetch_materializations(later, limit=1).records


def _modified(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)


def _step_of(output: dg.OutputContext, partition: str | None) -> Step:
    return Step(output.definition_metadata[OF_ASSET], output.step_key.rpartition(".")[2], partition)
