"""How the assets of a data set are declared: keys, columns, tags, and which IO manager stores them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import dagster as dg
import polars as pl

from pattern_platform.ingestion.cleaning import quarantine_schema
from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.increments import BATCH, RESOLVED
from pattern_platform.ingestion.landing import raw_schema
from pattern_platform.ingestion.routing import EVENT_TIME, ROUTED_TO, late_schema

PARTITIONS_PER_RUN = 24  # what a killed run repeats at most
Stage = Literal["raw", "clean", "quarantine", "late"]
READ = "raw_rows"  # note of a commit: of how many raw rows each of its partitions is made
ROW_OF_A_FILE = ("source_file", "source_row")
_DESCRIPTIONS = {
    "partition_start": "Start of the landed partition.",
    "source_file": "File that the row came in, below the landing folder.",
    "source_row": "Number of the row in its file, from 1.",
    "payload": "The record as it came.",
    "reasons": "Why the row was rejected.",
    "record": "The row as it came.",
    ROUTED_TO: "Start of the partition that the event is brought into; null where it came too late.",
    BATCH: "Number of the load that brought the row, from 1.",
    EVENT_TIME: "When the event happened.",
}


def key_of(dataset: Dataset, stage: Stage) -> dg.AssetKey:
    """Key of an asset of a data set."""
    return dg.AssetKey([stage, dataset.name])


def stages_of(dataset: Dataset) -> list[Stage]:
    """The assets that a data set has, raw first."""
    if dataset.stage == "raw":
        return ["raw"]
    late: list[Stage] = [] if dataset.allowed_lateness is None else ["late"]
    return ["raw", "clean", "quarantine", *late]


def is_merged(dataset: Dataset) -> bool:
    """Whether its tables grow by what is new, rather than being overwritten."""
    return dataset.partitions is None and dataset.incremental_field is not None


def schema_of(dataset: Dataset, stage: Stage) -> pl.Schema:
    """Columns of an asset."""
    if stage == "clean":
        return pl.Schema(dataset.contract)
    if stage == "quarantine":
        return quarantine_schema(dataset)
    if stage == "late":
        return late_schema(dataset)
    added: dict[str, pl.DataType] = {}
    if dataset.allowed_lateness is not None:
        added[ROUTED_TO] = pl.Datetime("us", "UTC")
    if is_merged(dataset):
        added[BATCH] = pl.Int64()
    return pl.Schema({**raw_schema(dataset), **added})


def declared(dataset: Dataset, stage: Stage) -> dict[str, Any]:
    """What Dagster is told of an asset, whichever it is: arguments of ``dg.asset`` and of ``dg.AssetOut``."""
    expr = dataset.time_column if stage == "clean" else "partition_start"
    merge_keys = dataset.contract.primary_key() if stage == "clean" else ROW_OF_A_FILE
    merged: dict[str, Any] = {"merge_keys": list(merge_keys)} if is_merged(dataset) else {}
    if merged and stage == "quarantine":
        merged["soft_delete"] = RESOLVED
    return {
        "key": key_of(dataset, stage),
        "group_name": stage,
        "owners": [dataset.owner],
        "kinds": {"polars", "deltalake"},
        "code_version": "1",
        "io_manager_key": io_manager_of(dataset),
        "metadata": {
            **({"partition_expr": expr} if dataset.partitions else {}),
            **merged,
            "schema_evolution": "add_columns",  # of the contract: it is what rows are checked against
            **_privacy(dataset),
            "dagster/column_schema": _columns(dataset, stage),
        },
    }


def io_manager_of(dataset: Dataset) -> str:
    """Which IO manager stores its assets."""
    return "merger" if is_merged(dataset) else "data_overwrite"


def tags_of(dataset: Dataset) -> dict[str, str]:
    """The pattern that its assets show."""
    return {"pattern_platform/pattern": io_manager_of(dataset)}


def backfill_policy_of(dataset: Dataset) -> dg.BackfillPolicy | None:
    """How many partitions a run takes."""
    return dg.BackfillPolicy.multi_run(max_partitions_per_run=PARTITIONS_PER_RUN) if dataset.partitions else None


def _privacy(dataset: Dataset) -> dict[str, Any]:
    told: dict[str, Any] = {"pattern_platform/contract": dataset.contract_name} if dataset.contract_name else {}
    if dataset.retention_days:
        told["pattern_platform/retention_days"] = dataset.retention_days
    return told


def _columns(dataset: Dataset, stage: Stage) -> dg.TableSchema:
    contract = dataset.contract.columns() if stage == "clean" else {}
    personal = dataset.personal_data if stage == "clean" else ("payload", "record", *_personal_sources(dataset))
    columns = []
    for name, dtype in schema_of(dataset, stage).items():
        unit = (contract[name].metadata or {}).get("unit") if name in contract else None
        tags = {**({"unit": unit} if unit else {}), **({"personal_data": "true"} if name in personal else {})}
        description = contract[name].description if name in contract else _described(dataset, name)
        columns.append(dg.TableColumn(name, str(dtype), description, tags=tags))
    return dg.TableSchema(columns=columns)


def _personal_sources(dataset: Dataset) -> Sequence[str]:
    return [dataset.sources[column] for column in dataset.personal_data]


def _described(dataset: Dataset, name: str) -> str:
    """A column of a raw table is described as the one that is made of it."""
    by_source: Mapping[str, str] = {s: column for column, s in dataset.sources.items()}
    column = dataset.contract.columns().get(by_source.get(name, ""))
    described = column.description if column else None
    return _DESCRIPTIONS.get(name) or described or "As the source delivers it."
