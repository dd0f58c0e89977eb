"""How much of a partition there is: which of the partitions that fan in to it count, and which do not.

Decided by what was materialized, never by what was started: a run under way, a run that failed and a file that is there
count for nothing until their partition is committed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pattern_platform.lake.schema import described

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARE, APPROXIMATE = "completeness", "is_approximate"
PARTIAL = "pattern_platform/partial"
ADDED_COLUMNS = {
    SHARE: "Share of the upstream partitions that it is made of, from 0 to 1.",
    APPROXIMATE: "Whether some are missing.",
}
TABLE_COLUMNS = described(
    partition_start="Start of the partition.",
    expected="How many upstream partitions belong to it.",
    present="How many of them count.",
    completeness="Their share, from 0 to 1.",
    floor="The least share with which it is published.",
    is_published="Whether it was.",
    missing="Upstream partitions that never arrived.",
    stale="Upstream partitions whose last run failed, or is under way.",
)
_DONE = "MATERIALIZED"
_MOST_EVENTS = 10_000  # of the few partitions whose last run did not succeed


@dataclass(frozen=True)
class Completeness:
    """What a partition is made of.

    Args:
        expected: Upstream partitions that belong to it, at least one.
        missing: Those that never arrived.
        stale: Those whose rows are there, from before a run that failed or is under way.
    """

    expected: tuple[str, ...]
    missing: tuple[str, ...]
    stale: tuple[str, ...]

    @property
    def present(self) -> tuple[str, ...]:
        """The partitions whose rows count."""
        left_out = {*self.missing, *self.stale}
        return tuple(key for key in self.expected if key not in left_out)

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return len(self.present) / len(self.expected)

    @property
    def metadata(self) -> dict[str, Any]:
        """What Dagster is told."""
        return {
            SHARE: self.share,
            "partitions_present": len(self.present),
            "partitions_expected": len(self.expected),
            "partitions_missing": list(self.missing),
            "partitions_stale": list(self.stale),
        }

    @property
    def columns(self) -> list[pl.Expr]:
        """What every published row says of it."""
        return [pl.lit(self.share).alias(SHARE), pl.lit(self.share < 1).alias(APPROXIMATE)]

    def row(self, window: dg.TimeWindow, floor: float, *, is_published: bool) -> pl.DataFrame:
        """The row of the completeness table.

        Args:
            window: The partition.
            floor: The least share with which it is published.
            is_published: Whether it was.
        """
        row = {
            "partition_start": window.start.astimezone(UTC),
            "expected": len(self.expected),
            "present": len(self.present),
            SHARE: self.share,
            "floor": floor,
            "is_published": is_published,
            "missing": list(self.missing),
            "stale": list(self.stale),
        }
        types = {
            "partition_start": pl.Datetime("us", "UTC"),
            "missing": pl.List(pl.String),
            "stale": pl.List(pl.String),
        }
        return pl.DataFrame([row], schema_overrides=types)


def completeness_of(
    keys: Sequence[str],
    assets: Sequence[dg.AssetKey],
    partitions: dg.PartitionsDefinition,
    instance: dg.DagsterInstance,
) -> Completeness:
    """Ask the instance what became of upstream partitions.

    Args:
        keys: The partitions that are expected, at least one.
        assets: The upstream asset, then what it is made of: a run there that failed makes its rows stale as well.
        partitions: Partitions of all these assets.
        instance: Where their runs are recorded.
    """
    own, *others = [instance.get_status_by_partition(asset, keys, partitions) or {} for asset in assets]
    settled = {key for key, status in own.items() if status and status.name == _DONE}
    failed = {key for found in others for key, status in found.items() if status and status.name != _DONE}
    unsure = [key for key in keys if own.get(key) and key not in settled]
    before = dg.AssetRecordsFilter(asset_key=assets[0], asset_partitions=unsure)
    events = instance.fetch_materializations(before, limit=_MOST_EVENTS).records if unsure else []
    there = settled | {event.partition_key for event in events}
    return Completeness(
        expected=tuple(keys),
        missing=tuple(key for key in keys if key not in there),
        stale=tuple(key for key in keys if key in there and (key not in settled or key in failed)),
    )


def complete_check(
    asset: dg.AssetKey, table: dg.AssetKey, partitions: dg.PartitionsDefinition
) -> dg.AssetChecksDefinition:
    """A check that warns of a published partition that lacks something. It does not block: partial is published.

    Args:
        asset: The published asset.
        table: Its completeness table, because a partial partition may have no row.
        partitions: Its partitions.
    """

    @dg.asset_check(
        asset=asset,
        name="is_complete",
        description="The partition is made of all its upstream partitions.",
        partitions_def=partitions,
        additional_ins={"completeness": dg.AssetIn(table)},
    )
    def is_complete(completeness: pl.DataFrame) -> dg.AssetCheckResult:
        share = float(completeness.select(pl.col(SHARE).min()).item())
        return dg.AssetCheckResult(passed=share == 1, severity=dg.AssetCheckSeverity.WARN, metadata={SHARE: share})

    return is_complete


def published_check(asset: dg.AssetKey, partitions: dg.PartitionsDefinition) -> dg.AssetChecksDefinition:
    """The alert: a check that warns where too little of a partition was there to publish it.

    Args:
        asset: The completeness table.
        partitions: Its partitions.
    """

    @dg.asset_check(
        asset=asset,
        name="is_published",
        description="Enough of the partition was there to publish it.",
        partitions_def=partitions,
    )
    def is_published(rows: pl.DataFrame) -> dg.AssetCheckResult:
        withheld = rows.filter(~pl.col("is_published")).height
        return dg.AssetCheckResult(
            passed=not withheld, severity=dg.AssetCheckSeverity.WARN, metadata={"partitions_withheld": withheld}
        )

    return is_published


def arrived_check(asset: dg.AssetKey, partitions: dg.PartitionsDefinition) -> dg.AssetChecksDefinition:
    """The alert: a check that fails where nothing of a partition arrived.

    Args:
        asset: The completeness table.
        partitions: Its partitions.
    """

    @dg.asset_check(
        asset=asset,
        name="something_arrived",
        description="At least one upstream partition of the partition is there.",
        partitions_def=partitions,
    )
    def something_arrived(rows: pl.DataFrame) -> dg.AssetCheckResult:
        empty = rows.filter(present=0).height
        return dg.AssetCheckResult(passed=not empty, metadata={"partitions_without_anything": empty})

    return something_arrived
