"""The assets of a data set: ``raw/<name>``, ``clean/<name>``, ``quarantine/<name>``, and ``late/<name>`` if need be.

A data set with partitions is overwritten a partition at a time. One without is loaded as a whole, or merged with what
is new since its high-water mark.
"""

import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pattern_platform.ingestion.cleaning import Cleaned, clean_rows
from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.drift import with_stored_columns
from pattern_platform.ingestion.increments import BATCH, cleaned_up_to, mark_of, new_batch, with_resolved
from pattern_platform.ingestion.landing import ingestion_schema
from pattern_platform.ingestion.personal_data import samples
from pattern_platform.ingestion.routing import (
    ROUTED_TO,
    definition_of,
    lateness,
    later_arrivals,
    refuse_not_arrived,
    routed,
    routing_metadata,
    too_late,
)
from pattern_platform.ingestion.stages import (
    READ,
    backfill_policy_of,
    declared,
    io_manager_of,
    is_merged,
    key_of,
    stages_of,
    tags_of,
)
from pattern_platform.lake.commit_notes import noted
from pattern_platform.lake.partitions import window_of
from pattern_platform.patterns.data_flow.concurrent_runner import ConcurrentRunner

if TYPE_CHECKING:
    from pattern_platform.ingestion.landing_zone import LandingZone

# The parameter of an asset is marked beta in Dagster 1.13, the class is not; nothing else lets a backfill be few runs.
warnings.filterwarnings("ignore", "Parameter `backfill_policy` of function", dg.BetaWarning)


def ingestion_assets(
    dataset: Dataset,
    *,
    automation_condition: dg.AutomationCondition | None = None,
    runners: Sequence[ConcurrentRunner] = (),
) -> list[dg.AssetsDefinition]:
    """The assets that take a data set from its landed files to clean rows.

    Args:
        dataset: The data set.
        automation_condition: When clean rows are made anew; raw rows are made by a schedule or by hand. It is left out
            where events may come late: :func:`~pattern_platform.ingestion.late.routing_sensor` knows what they are for.
        runners: Under whose limits its files are read.
    """
    limits = {tag: value for runner in runners for tag, value in runner.tags.items()}
    raw = _raw_asset(dataset, limits)
    if dataset.stage == "raw":
        return [raw]
    return [raw, _clean_asset(dataset, automation_condition if dataset.allowed_lateness is None else None)]


def _raw_asset(dataset: Dataset, limits: dict[str, str]) -> dg.AssetsDefinition:
    @dg.asset(
        description=f"{dataset.description} As landed, kept for reprocessing.",
        partitions_def=dataset.partitions,
        backfill_policy=backfill_policy_of(dataset),
        tags={**tags_of(dataset), **limits},
        required_resource_keys={"landing", *([io_manager_of(dataset)] if is_merged(dataset) else [])},
        config_schema={"again": dg.Field(bool, default_value=False)} if dataset.source else None,
        **declared(dataset, "raw"),
    )
    def raw(context: dg.AssetExecutionContext) -> dg.Output[pl.DataFrame]:
        landing: LandingZone = context.resources.landing
        again = dataset.source is not None and context.op_execution_context.op_config["again"]
        if is_merged(dataset):
            tables = context.resources.merger
            cleaned = cleaned_up_to(tables.table_path(key_of(dataset, "quarantine")))
            return new_batch(dataset, landing.read(dataset, None), tables.table_path(context.asset_key), cleaned)
        if dataset.partitions is None:
            return dg.Output(landing.read(dataset, None))
        if dataset.allowed_lateness is None:
            return dg.Output(pl.concat(landing.read(dataset, key, again=again) for key in context.partition_keys))
        rows = pl.concat(
            routed(dataset, landing.read(dataset, key, again=again), key) for key in context.partition_keys
        )
        return dg.Output(rows, metadata=routing_metadata(dataset, rows))

    return raw


def _clean_asset(dataset: Dataset, condition: dg.AutomationCondition | None) -> dg.AssetsDefinition:
    descriptions = {
        "clean": f"{dataset.description} Typed, checked and without duplicates.",
        "quarantine": f"Rejected rows of {dataset.name}, with their reasons and the record as it came.",
        "late": f"Rows of {dataset.name} that came too late for their partition, kept to be looked at.",
    }
    stages = [stage for stage in stages_of(dataset) if stage != "raw"]
    keeps = dataset.new_columns == "keep"

    @dg.multi_asset(
        name=f"clean_{dataset.name}",
        partitions_def=dataset.partitions,
        ins={"raw_rows": _raw_input(dataset)},
        outs={
            stage: dg.AssetOut(
                description=descriptions[stage],
                automation_condition=condition,
                backfill_policy=backfill_policy_of(dataset),
                tags=tags_of(dataset),
                **declared(dataset, stage),
            )
            for stage in stages
        },
        required_resource_keys={io_manager_of(dataset)} if is_merged(dataset) or keeps else None,
    )
    def clean(context: dg.AssetExecutionContext, raw_rows: pl.LazyFrame) -> Iterator[dg.Output]:
        told: dict[str, Any] = {}
        if is_merged(dataset):
            before = cleaned_up_to(context.resources.merger.table_path(key_of(dataset, "quarantine")))
            raw = raw_rows.filter(pl.col(BATCH) > before).collect()
            told = mark_of(raw, before)
        else:
            raw = _in_order(raw_rows, dataset)
        parts = list(_cleaned(dataset, raw, context))
        if dataset.allowed_lateness is not None:
            read = {key: part.read for key, part in zip(context.partition_keys, parts, strict=True)}
            told = noted(**{READ: read})
        rows = pl.concat((part.clean for part in parts), how="diagonal" if keeps else "vertical")
        if keeps:
            manager = getattr(context.resources, io_manager_of(dataset))
            rows = with_stored_columns(rows, manager.table_path(key_of(dataset, "clean")))
        quarantine = pl.concat(part.quarantine for part in parts)
        rejected = with_resolved(quarantine, raw) if is_merged(dataset) else quarantine
        yield dg.Output(rows, "clean", metadata={"rejected_rows": quarantine.height})
        # The note goes with what is written last.
        yield dg.Output(rejected, "quarantine", metadata={**told, **_rejects(dataset, quarantine)})
        if dataset.allowed_lateness is not None:
            here = raw.filter(pl.col("partition_start").is_in(_starts(dataset, context)))
            late = too_late(dataset, here)
            behind = lateness(dataset, raw.filter(pl.col(ROUTED_TO).is_in(_starts(dataset, context))))
            yield dg.Output(late, "late", metadata={"too_late": late.height, "lateness_seconds": behind})

    return clean


def _rejects(dataset: Dataset, quarantine: pl.DataFrame) -> dict[str, Any]:
    """What Dagster is told of rejected rows."""
    reasons = quarantine.explode("reasons").group_by("reasons").len().sort("len", descending=True)
    shown = [dg.TableRecord(sample) for sample in samples(dataset, quarantine)]
    return {"reasons": dict(reasons.iter_rows()), **({"sample": dg.MetadataValue.table(shown)} if shown else {})}


def _in_order(raw: pl.LazyFrame, dataset: Dataset) -> pl.DataFrame:
    """Raw rows as they arrived, however their table lies: which of two equal ones is the first must not hang on it."""
    return raw.sort(ingestion_schema(dataset).names()).collect()


def _raw_input(dataset: Dataset) -> dg.AssetIn:
    """Raw rows of the partition; of the later ones too, in which its events may still arrive."""
    if dataset.allowed_lateness is None:
        return dg.AssetIn(key_of(dataset, "raw"))
    return dg.AssetIn(
        key_of(dataset, "raw"),
        partition_mapping=later_arrivals(dataset.allowed_lateness),
        metadata={"allow_missing_partitions": True},
    )


def _cleaned(dataset: Dataset, raw: pl.DataFrame, context: dg.AssetExecutionContext) -> Iterator[Cleaned]:
    """Each partition by itself, so that a range of them is cleaned as they are one by one."""
    if dataset.partitions is None:
        yield clean_rows(dataset, raw, None)
        return
    if dataset.allowed_lateness is not None:
        refuse_not_arrived(dataset, context.partition_keys, context.instance)
    belongs_to = "partition_start" if dataset.allowed_lateness is None else ROUTED_TO
    for key, start in zip(context.partition_keys, _starts(dataset, context), strict=True):
        window = window_of([key], dataset.partitions, str(dataset.time_column), pl.Schema(dataset.contract))
        rows = raw.filter(pl.col(belongs_to) == start)
        # What is rejected is of the partition that it belongs to, whenever it arrived.
        yield clean_rows(
            dataset, rows.with_columns(partition_start=pl.lit(start, dtype=raw.schema[belongs_to])), window
        )


def _starts(dataset: Dataset, context: dg.AssetExecutionContext) -> list[datetime]:
    definition = definition_of(dataset)
    return [definition.time_window_for_partition_key(key).start.astimezone(UTC) for key in context.partition_keys]
