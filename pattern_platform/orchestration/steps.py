"""What the steps inside an asset hand to each other, kept so that a retry repeats no step that succeeded.

A step's file holds its rows together with what made them, and appears whole or not at all. A later run of the same
partition replaces it, which makes what rests on the earlier one stale: nothing is deleted then, but a retry of the
earlier run is refused. A clean-up removes the files that nothing needs.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import dagster as dg
import polars as pl

from pattern_platform.errors import StaleStepError
from pattern_platform.lake.frames import from_lazy, to_lazy
from pattern_platform.lake.whole_file import whole_file
from pattern_platform.orchestration.tasks import Task

OF_ASSET = "pattern_platform/asset"  # metadata of a step's output: the asset that the steps make
_RECORD = "pattern_platform.step"


@dataclass(frozen=True)
class Step(Task):
    """A step of an asset, for a partition.

    Args:
        asset: Key of the asset, as a user writes it.
        step: Name of the step.
        partition: Partition key; None without partitions, and for a run over several.
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

    def path_of(self, step: Step) -> Path:
        """The file of a step."""
        return Path(self.root_uri, f"{step.key}.parquet")

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Keep what a step made."""
        step = _step_of(context)
        record = {"asset": step.asset, "partition": step.partition, "step": step.step, "run_id": context.run_id}
        path = self.path_of(step)
        with whole_file(path) as unfinished:
            to_lazy(obj).sink_parquet(unfinished, metadata={_RECORD: json.dumps(record)})
        context.add_output_metadata({"path": str(path)})

    def load_input(self, context: dg.InputContext) -> object:
        """Load what the step before made, in this run or in the one that this run retries.

        Raises:
            StaleStepError: It is gone, or another run made it anew.
        """
        before = context.upstream_output
        assert before is not None  # noqa: S101 - steps have steps before them
        step = _step_of(before)
        path = self.path_of(step)
        made_by = _record(path)["run_id"] if path.exists() else None
        if made_by != before.run_id:
            raise StaleStepError(
                f"step {step.step!r} of {step.asset!r}, partition {step.partition}, was refused as an input",
                why=f"run {made_by} made it anew since" if made_by else "it was cleaned up",
                mend="materialize the asset anew, from its first step",
            )
        return from_lazy(pl.scan_parquet(path), context.dagster_type.typing_type)


def steps_cleanup_asset(
    io_manager_key: str,
    **arguments: Any,  # noqa: ANN401 - those of dagster.asset
) -> dg.AssetsDefinition:
    """What steps left, removed once nothing needs it.

    A file is needed until its asset was materialized after it was made: a failed run may be retried from it.

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
            record = _record(file)
            named = "/".join(filter(None, (record["asset"], record["step"], record["partition"])))
            if _is_needed(file, record, context.instance):
                kept.append(named)
            else:
                file.unlink()
                removed.append(named)
        return dg.MaterializeResult(metadata={"removed": removed, "kept": kept})

    return steps_cleanup


def _is_needed(file: Path, record: dict[str, Any], instance: dg.DagsterInstance) -> bool:
    made = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    asset = dg.AssetKey.from_user_string(record["asset"])
    partitions = [record["partition"]] if record["partition"] else None
    filtered = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=partitions, after_timestamp=made.timestamp())
    return not instance.fetch_materializations(filtered, limit=1).records


def _step_of(context: dg.OutputContext) -> Step:
    step = context.step_key.rpartition(".")[2]
    partition = context.partition_key if context.has_partition_key else None
    return Step(context.definition_metadata[OF_ASSET], step, partition)


def _record(file: Path) -> dict[str, Any]:
    return json.loads(pl.read_parquet_metadata(file)[_RECORD])
