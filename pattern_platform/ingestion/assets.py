"""The assets of a data set: ``raw/<name>``, ``clean/<name>`` and ``quarantine/<name>``, with their checks."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from pattern_platform.ingestion.cleaning import QUARANTINE_SCHEMA, clean_rows
from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.landing import raw_schema, read_landed
from pattern_platform.lake.partitions import window_of
from pattern_platform.lake.window import Window
from pattern_platform.orchestration.checks import contract_check, unique_check
from pattern_platform.patterns.data_flow.concurrent_runner import ConcurrentRunner

# The parameter of an asset is marked beta in Dagster 1.13, the class is not; nothing else lets a backfill be few runs.
warnings.filterwarnings("ignore", "Parameter `backfill_policy` of function", dg.BetaWarning)
PARTITIONS_PER_RUN = 24  # what a killed run repeats at most
_INGESTION_COLUMNS = {
    "partition_start": "Start of the landed partition.",
    "source_file": "File that the row came in, below the landing folder.",
    "source_row": "Number of the row in its file, from 1.",
}


_QUARANTINE_COLUMNS = {"reasons": "Why the row was rejected.", "record": "The row as it came."}


class LandingZone(dg.ConfigurableResource):
    """The folder in which sources deliver their files.

    Args:
        root: Path of the folder.
    """

    root: str


def ingestion_assets(
    dataset: Dataset,
    *,
    automation_condition: dg.AutomationCondition | None = None,
    runners: Sequence[ConcurrentRunner] = (),
) -> list[dg.AssetsDefinition]:
    """The assets that take a data set from its landed files to clean rows.

    Args:
        dataset: The data set.
        automation_condition: When clean rows are made anew; raw rows are made by a schedule or by hand.
        runners: Under whose limits its files are read.
    """
    keys = {stage: dg.AssetKey([stage, dataset.name]) for stage in ("raw", "clean", "quarantine")}
    common: dict[str, Any] = {
        "owners": [dataset.owner],
        "kinds": {"polars", "deltalake"},
        "code_version": "1",
        "backfill_policy": dg.BackfillPolicy.multi_run(max_partitions_per_run=PARTITIONS_PER_RUN),
    }
    tags = {"pattern_platform/pattern": "data_overwrite"}
    limits = {tag: value for runner in runners for tag, value in runner.tags.items()}

    @dg.asset(
        key=keys["raw"],
        description=f"{dataset.description} As landed, kept for reprocessing.",
        group_name="raw",
        partitions_def=dataset.partitions,
        io_manager_key="data_overwrite",
        metadata={
            "partition_expr": "partition_start",
            "dagster/column_schema": _columns(raw_schema(dataset), _INGESTION_COLUMNS),
        },
        tags={**tags, **limits},
        **common,
    )
    def raw(context: dg.AssetExecutionContext, landing: LandingZone) -> pl.DataFrame:
        return pl.concat(read_landed(dataset, Path(landing.root), key) for key in context.partition_keys)

    @dg.multi_asset(
        name=f"clean_{dataset.name}",
        partitions_def=dataset.partitions,
        ins={"raw_rows": dg.AssetIn(keys["raw"])},
        outs={
            "clean": dg.AssetOut(
                key=keys["clean"],
                description=f"{dataset.description} Typed, checked and without duplicates.",
                group_name="clean",
                io_manager_key="data_overwrite",
                automation_condition=automation_condition,
                metadata={
                    "partition_expr": dataset.time_column,
                    "dagster/column_schema": _columns(
                        pl.Schema(dataset.contract), {n: c.description for n, c in dataset.contract.columns().items()}
                    ),
                },
                tags=tags,
                **common,
            ),
            "quarantine": dg.AssetOut(
                key=keys["quarantine"],
                description=f"Rejected rows of {dataset.name}, with their reasons and the record as it came.",
                group_name="quarantine",
                io_manager_key="data_overwrite",
                automation_condition=automation_condition,
                metadata={
                    "partition_expr": "partition_start",
                    "dagster/column_schema": _columns(QUARANTINE_SCHEMA, _INGESTION_COLUMNS | _QUARANTINE_COLUMNS),
                },
                tags=tags,
                **common,
            ),
        },
    )
    def clean(context: dg.AssetExecutionContext, raw_rows: pl.DataFrame) -> Iterator[dg.Output]:
        # Each landed partition by itself, so that a range of them is cleaned as they are one by one.
        cleaned = [clean_rows(dataset, rows, window) for rows, window in _landed(dataset, raw_rows, context)]
        quarantine = pl.concat(part.quarantine for part in cleaned)
        yield dg.Output(pl.concat(part.clean for part in cleaned), "clean")
        reasons = quarantine.explode("reasons").group_by("reasons").len().sort("len", descending=True)
        yield dg.Output(quarantine, "quarantine", metadata={"reasons": dict(reasons.iter_rows())})

    return [raw, clean]


def _landed(
    dataset: Dataset, raw: pl.DataFrame, context: dg.AssetExecutionContext
) -> Iterator[tuple[pl.DataFrame, Window]]:
    for key in context.partition_keys:
        start = dataset.partitions.time_window_for_partition_key(key).start
        window = window_of([key], dataset.partitions, dataset.time_column, pl.Schema(dataset.contract))
        yield raw.filter(pl.col("partition_start") == start.astimezone(UTC)), window


def ingestion_checks(dataset: Dataset) -> list[dg.AssetChecksDefinition]:
    """The blocking checks of a data set's clean rows."""
    key = dg.AssetKey(["clean", dataset.name])
    return [
        contract_check(key, dataset.contract, dataset.partitions),
        unique_check(key, dataset.contract.primary_key(), dataset.partitions),
        _accounted_check(dataset),
    ]


def _accounted_check(dataset: Dataset) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=dg.AssetKey(["quarantine", dataset.name]),
        name="accounts_for_every_row",
        description="Each raw row is clean, or in quarantine with a reason.",
        blocking=True,
        partitions_def=dataset.partitions,
        additional_ins={
            "raw_rows": dg.AssetIn(dg.AssetKey(["raw", dataset.name]), metadata={"columns": ["source_row"]}),
            "clean_rows": dg.AssetIn(dg.AssetKey(["clean", dataset.name]), metadata={"columns": [dataset.time_column]}),
        },
    )
    def accounts_for_every_row(
        rows: pl.LazyFrame, raw_rows: pl.LazyFrame, clean_rows: pl.LazyFrame
    ) -> dg.AssetCheckResult:
        raw, rejected, clean = (frame.select(pl.len()).collect().item() for frame in (raw_rows, rows, clean_rows))
        unexplained = rows.filter(pl.col("reasons").list.len() == 0).select(pl.len()).collect().item()
        return dg.AssetCheckResult(
            passed=raw == clean + rejected and not unexplained,
            metadata={"raw": raw, "clean": clean, "rejected": rejected, "without_reason": unexplained},
        )

    return accounts_for_every_row


def _columns(schema: pl.Schema, descriptions: Mapping[str, str | None]) -> dg.TableSchema:
    return dg.TableSchema(columns=[dg.TableColumn(n, str(t), descriptions.get(n)) for n, t in schema.items()])
