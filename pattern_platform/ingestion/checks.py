"""The checks of a data set's rows."""

import dagster as dg
import polars as pl

from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.stages import READ, io_manager_of, is_merged, key_of
from pattern_platform.lake.commit_notes import read_note
from pattern_platform.orchestration.checks import contract_check, unique_check
from pattern_platform.orchestration.merged_tables import unique_in_table_check


def ingestion_checks(dataset: Dataset) -> list[dg.AssetChecksDefinition]:
    """The checks of a data set's clean rows, and of what came too late. All but the last block."""
    if dataset.stage == "raw":
        return []
    key, primary_key = key_of(dataset, "clean"), dataset.contract.primary_key()
    new = dataset.new_columns == "keep"
    contract = contract_check(key, dataset.contract, dataset.partitions, others=new)
    if is_merged(dataset):
        return [contract, unique_in_table_check(key, primary_key, "merger")]
    checks = [contract, unique_check(key, primary_key, dataset.partitions), _accounted_check(dataset)]
    return checks if dataset.allowed_lateness is None else [*checks, _lateness_check(dataset)]


def _accounted_check(dataset: Dataset) -> dg.AssetChecksDefinition:
    clean_column = dataset.time_column or dataset.contract.primary_key()[0]
    late = dataset.allowed_lateness is not None
    manager = io_manager_of(dataset)

    @dg.asset_check(
        asset=key_of(dataset, "quarantine"),
        name="accounts_for_every_row",
        description="Each raw row is clean, or in quarantine with a reason.",
        blocking=True,
        partitions_def=dataset.partitions,
        additional_ins={
            # Where events may come late, what belongs to a partition arrived in several, and more may have since.
            "raw_rows": dg.AssetIn(key_of(dataset, "raw"), metadata={"columns": ["source_row"]}),
            "clean_rows": dg.AssetIn(key_of(dataset, "clean"), metadata={"columns": [clean_column]}),
        },
        required_resource_keys={manager} if late else None,
    )
    def accounts_for_every_row(
        context: dg.AssetCheckExecutionContext, rows: pl.LazyFrame, raw_rows: pl.LazyFrame, clean_rows: pl.LazyFrame
    ) -> dg.AssetCheckResult:
        raw, rejected, clean = (frame.select(pl.len()).collect().item() for frame in (raw_rows, rows, clean_rows))
        if late:
            table = getattr(context.resources, manager).table_path(key_of(dataset, "quarantine"))
            raw = sum(read_note(table, READ, key)[key] for key in context.partition_keys)
        unexplained = rows.filter(pl.col("reasons").list.len() == 0).select(pl.len()).collect().item()
        return dg.AssetCheckResult(
            passed=raw == clean + rejected and not unexplained,
            metadata={"raw": raw, "clean": clean, "rejected": rejected, "without_reason": unexplained},
        )

    return accounts_for_every_row


def _lateness_check(dataset: Dataset) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key_of(dataset, "late"),
        name="nothing_too_late",
        description=f"No row came more than {dataset.allowed_lateness} partitions after its own.",
        partitions_def=dataset.partitions,
    )
    def nothing_too_late(rows: pl.LazyFrame) -> dg.AssetCheckResult:
        late = rows.select(pl.len()).collect().item()
        return dg.AssetCheckResult(
            passed=not late, severity=dg.AssetCheckSeverity.WARN, metadata={"rows_too_late": late}
        )

    return nothing_too_late
