"""Parallel Split: several assets made of one parent, none of which knows of the others.

Problem: a new implementation shall replace an old one. For some weeks both run on the same input, a failure of one must
not stop the other, the input must not be computed twice, and someone must be able to say whether they agree.

Guarantee: :func:`parallel_split` refuses branches that do not rest on the parent alone, and returns the check that
they agree. Each branch is an asset: its own retry, backfill, failure and table; the parent is materialized once and
read by each. The check compares partition by partition, column by column, whatever the order of the rows, and looks
again when either branch changes, as Dagster's own ``eager()`` notices.

Limits: the check warns, it does not block: while one branch lags, the other is used. It compares all that the legacy
branch stores, as text; ``as_legacy`` says how the new branch would have stored it, such as a struct as JSON. To write
both tables or none is the Transactional Writer's.

Shown by: ``exports/visits``, files of old, and ``serving/visits``, the table that takes their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from pattern_platform.errors import InvalidFlowError
from pattern_platform.lake.checks import listed

if TYPE_CHECKING:
    from collections.abc import Callable


def parallel_split(
    parent: dg.AssetKey,
    legacy: dg.AssetsDefinition,
    new: dg.AssetsDefinition,
    *,
    as_legacy: Callable[[pl.LazyFrame], pl.LazyFrame],
) -> dg.AssetChecksDefinition:
    """Hold two branches of one parent against each other.

    Args:
        parent: Key of the asset that both are made of.
        legacy: The branch that is trusted.
        new: The branch that shall replace it, with the same partitions.
        as_legacy: The rows of the new branch as the legacy branch stores them, with the same columns.

    Returns:
        The check ``agrees_with_<name of the legacy branch>`` of the new branch.

    Raises:
        InvalidFlowError: A branch has another upstream asset, or the branches have different partitions.
    """
    for branch in (legacy, new):
        if (deps := branch.asset_deps[branch.key]) != {parent}:
            raise InvalidFlowError(
                f"branch {branch.key.to_user_string()!r} was refused",
                why=f"it rests on {listed(sorted(key.to_user_string() for key in deps))}, and not on the parent alone",
                mend=f"make it of {parent.to_user_string()} alone",
            )
    if legacy.partitions_def != new.partitions_def or new.partitions_def is None:
        raise InvalidFlowError(
            f"branches {legacy.key.to_user_string()!r} and {new.key.to_user_string()!r} were refused",
            why="they have different partitions, or none, and cannot be compared one by one",
            mend="give both the same partitions_def",
        )

    @dg.asset_check(
        asset=new.key,
        name=f"agrees_with_{legacy.key.to_python_identifier()}",
        description=f"Partition by partition the same rows as {legacy.key.to_user_string()}.",
        partitions_def=new.partitions_def,
        additional_ins={"expected": dg.AssetIn(legacy.key, metadata={"allow_missing_partitions": True})},
        automation_condition=dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window()),
    )
    def agrees(rows: pl.LazyFrame, expected: pl.LazyFrame) -> dg.AssetCheckResult:
        if not expected.collect_schema():
            return dg.AssetCheckResult(passed=False, severity=_WARN, description="the legacy branch is not there yet")
        translated = as_legacy(rows)
        columns = [sorted(frame.collect_schema()) for frame in (translated, expected)]
        if columns[0] != columns[1]:
            told = {"columns_here": columns[0], "columns_there": columns[1]}
            return dg.AssetCheckResult(passed=False, severity=_WARN, metadata=told)
        found, wanted = _counted(translated), _counted(expected)
        more, fewer = (
            one.join(other, on=one.columns, how="anti", nulls_equal=True)
            for one, other in ((found, wanted), (wanted, found))
        )
        return dg.AssetCheckResult(
            passed=more.is_empty() and fewer.is_empty(),
            severity=_WARN,
            metadata={"rows": int(found["rows"].sum()), "only_here": more.height, "only_there": fewer.height},
        )

    return agrees


_WARN = dg.AssetCheckSeverity.WARN


def _counted(frame: pl.LazyFrame) -> pl.DataFrame:
    """How often each row is there."""
    row = pl.struct(sorted(frame.collect_schema())).alias("row")
    return frame.cast(pl.String).select(row).group_by("row").len("rows").collect()
