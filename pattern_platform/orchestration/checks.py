"""Asset checks that more than one asset needs. Each reads what was stored, not what was about to be."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pattern_platform.lake.lineage import replay_commands

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dataframely as dy

# Partitioned checks are a preview in Dagster 1.13. They are worth it: without them a check that failed on one hour is
# overwritten by the next hour's success, and nothing downstream can tell.
warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)


def contract_check(
    asset: dg.AssetKey,
    contract: type[dy.Schema],
    partitions: dg.PartitionsDefinition | None,
    *,
    others: bool = False,
) -> dg.AssetChecksDefinition:
    """A blocking check that the stored rows keep a contract: columns, types and rules.

    Args:
        asset: The asset.
        contract: The contract.
        partitions: Partitions of the asset.
        others: Whether there may be columns that the contract does not know.
    """

    @dg.asset_check(
        asset=asset,
        name="keeps_the_contract",
        description=f"Every row keeps the contract {contract.__name__}.",
        blocking=True,
        partitions_def=partitions,
    )
    def keeps_the_contract(rows: pl.DataFrame) -> dg.AssetCheckResult:
        expected, stored = pl.Schema(contract), rows.schema
        known = {*expected} if others else {*expected, *stored}
        wrong = sorted(name for name in known if not same_type(expected.get(name), stored.get(name)))
        if wrong:
            return dg.AssetCheckResult(passed=False, metadata={"columns": wrong}, description="columns differ")
        _, failure = contract.filter(rows, cast=True)
        return dg.AssetCheckResult(
            passed=len(failure) == 0, metadata={"rows": rows.height, "broken_rules": failure.counts()}
        )

    return keeps_the_contract


def unique_check(
    asset: dg.AssetKey, columns: Sequence[str], partitions: dg.PartitionsDefinition | None
) -> dg.AssetChecksDefinition:
    """A blocking check that some columns identify a row of a partition, and are never null.

    Args:
        asset: The asset.
        columns: Columns of the key.
        partitions: Partitions of the asset.
    """

    @dg.asset_check(
        asset=asset,
        name="unique_" + "_".join(columns),
        description=f"{', '.join(columns)}: unique and never null.",
        blocking=True,
        partitions_def=partitions,
    )
    def is_unique(rows: pl.LazyFrame) -> dg.AssetCheckResult:
        keys = rows.select(columns)
        counts = keys.select(
            duplicated=pl.struct(columns).is_duplicated().sum(), null=pl.any_horizontal(pl.all().is_null()).sum()
        ).collect()
        return dg.AssetCheckResult(
            passed=not any(counts.row(0)), metadata={name: int(counts[name][0]) for name in counts.columns}
        )

    return is_unique


def totals_check(
    asset: dg.AssetKey, parts: dg.AssetKey, measure: str, total: pl.Expr, partitions: dg.PartitionsDefinition
) -> dg.AssetChecksDefinition:
    """A blocking check that a total equals the sum of the rows it was made from.

    Args:
        asset: The asset with the total.
        parts: The asset that it was aggregated from.
        measure: Column that is added up, in both.
        total: Which rows of the asset are the grand total.
        partitions: Partitions of the asset.
    """

    @dg.asset_check(
        asset=asset,
        name="adds_up",
        description=f"The grand total of {measure} is the sum of {parts.to_user_string()}.",
        blocking=True,
        partitions_def=partitions,
        additional_ins={"parts": dg.AssetIn(parts)},
    )
    def adds_up(rows: pl.LazyFrame, parts: pl.LazyFrame) -> dg.AssetCheckResult:
        stated = int(rows.filter(total).select(pl.col(measure).sum()).collect().item())
        counted = int(parts.select(pl.col(measure).sum()).collect().item())
        return dg.AssetCheckResult(passed=stated == counted, metadata={"total": stated, "sum_of_parts": counted})

    return adds_up


def replay_result(asset: dg.AssetKey, waiting: Sequence[str], *, named: str, **metadata: int) -> dg.AssetCheckResult:
    """The result of a check that no partition waits for its replay, with the commands that replay those that do.

    Args:
        asset: The asset.
        waiting: The partitions that wait, in their order.
        named: What they are called.
        metadata: What else is told.
    """
    told: dict[str, Any] = {**metadata, named: list(waiting)}
    if waiting:
        told["replay"] = dg.MetadataValue.md(f"```\n{replay_commands(asset.to_user_string(), waiting)}\n```")
    return dg.AssetCheckResult(passed=not waiting, metadata=told)


def same_type(expected: pl.DataType | None, stored: pl.DataType | None) -> bool:
    """Delta Lake keeps an Enum as text; everything else must be the same."""
    return expected == stored or (isinstance(expected, pl.Enum) and stored == pl.String)
