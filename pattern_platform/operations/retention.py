"""Personal data is kept for as long as the registry says, then blanked: in raw, clean and rejected rows, once a night.

Rows stay, so that what was counted stays true, and a replay of an old partition makes the same rows, without the data.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl

from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.landing import PAYLOAD
from pattern_platform.ingestion.personal_data import personal_fields
from pattern_platform.ingestion.stages import Stage, io_manager_of, key_of, stages_of
from pattern_platform.lake.retention import blank_columns
from pattern_platform.lake.snapshot import open_table

_RECORD = "record"


def retention_asset(datasets: Iterable[Dataset], *, owners: Sequence[str]) -> dg.AssetsDefinition:
    """Blank the personal data that is past its retention.

    Args:
        datasets: The data sets; those without personal data, or without partitions that tell its age, are left alone.
        owners: Who looks after the upkeep.
    """
    kept = [dataset for dataset in datasets if dataset.retention_days is not None]

    @dg.asset(
        key=["maintenance", "personal_data_retention"],
        description="Personal data that is past its retention is blanked; rows stay.",
        group_name="maintenance",
        owners=owners,
        kinds={"deltalake"},
        code_version="1",
        required_resource_keys={io_manager_of(dataset) for dataset in kept},
    )
    def personal_data_retention(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        blanked = []
        for dataset in kept:
            manager = getattr(context.resources, io_manager_of(dataset))
            before = datetime.now(UTC) - timedelta(days=dataset.retention_days or 0)
            for stage in stages_of(dataset):
                table = manager.table_path(key_of(dataset, stage))
                if open_table(table) is None:
                    continue
                columns, fields = _personal(dataset, stage)
                rows = pl.col(str(dataset.time_column) if stage == "clean" else "partition_start") < before
                commit = blank_columns(table, columns, rows, fields, metadata={"run_id": context.run.run_id})
                if commit:
                    blanked.append(key_of(dataset, stage).to_user_string())
        return dg.MaterializeResult(metadata={"blanked": blanked, "data_sets": [dataset.name for dataset in kept]})

    return personal_data_retention


def _personal(dataset: Dataset, stage: Stage) -> tuple[list[str], dict[str, list[str]]]:
    """Columns of a table that hold personal data, and columns of records with the fields that do."""
    if stage == "clean":
        return list(dataset.personal_data), {}
    fields = personal_fields(dataset)
    if stage == "raw":
        return (fields, {}) if dataset.header else ([], {PAYLOAD: fields})
    return [], {_RECORD: fields}
