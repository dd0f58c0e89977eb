"""Unaligned Fan-In: a partition is published when all of its upstream partitions are settled, and says what it lacks.

Problem: one hour of a day failed. The other 23 are worth having today, as long as nobody takes them for 24.

Guarantee: :func:`unaligned_fan_in` requests a partition once when each mapped upstream partition is settled, that is
materialized or failed, by itself or by one of its own upstream; and again when one changes. :func:`fan_in_asset`
counts what is there: the share is in a column, in the metadata, in a tag and, with the names of what is missing, in
the table ``<name>__completeness``. Below the floor nothing is published and what was, stays. Where nothing arrived at
all, the asset ``<name>__fallback`` is materialized in its place with the reason, and a check fails as the alert. A
repaired upstream partition publishes again. An hour of zero rows is complete; one whose rerun failed is stale, and its
rows are left out.

Limits: as :mod:`aligned_fan_in`. Failures count up to three assets upstream. A backfill of hours and days together
never requests the day of a failed hour: backfill the hours, then the days, or let the condition pick them up. A run
retry that is still to come looks like a failure: a correction follows when it succeeds. A run that was canceled is no
failure: the partition waits for the next. A run over several partitions is refused, because each may take another
branch.

Shown by: ``aggregated/visits_estimate``, the cube of a day before its last hour is in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg
import polars as pl
from dagster import AutomationCondition
from pydantic import Field

from pattern_platform.errors import InvalidFlowError, InvalidMetadataError
from pattern_platform.lake.partitions import window_of
from pattern_platform.lake.schema import described
from pattern_platform.orchestration.completeness import (
    ADDED_COLUMNS,
    PARTIAL,
    TABLE_COLUMNS,
    arrived_check,
    complete_check,
    completeness_of,
    published_check,
)

_UPSTREAM_DEPTH = 3


def unaligned_fan_in(lookback: timedelta) -> AutomationCondition:
    """Run when all mapped upstream partitions are settled, and again when one of them changes.

    Args:
        lookback: How old a partition may be, counted back from the end of the newest one, to be run or corrected.
    """
    failed: AutomationCondition = AutomationCondition.execution_failed()
    busy: AutomationCondition = AutomationCondition.in_progress()
    for _ in range(_UPSTREAM_DEPTH - 1):
        failed = AutomationCondition.execution_failed() | AutomationCondition.any_deps_match(failed)
        busy = AutomationCondition.in_progress() | AutomationCondition.any_deps_match(busy)
    changed = AutomationCondition.any_deps_updated() | AutomationCondition.any_deps_match(failed.newly_true())
    first_run = AutomationCondition.newly_missing().since(
        AutomationCondition.newly_requested() | AutomationCondition.newly_updated()
    )
    # As in the aligned fan-in: what is seen in the tick of a request counts for the next one.
    change = changed.since(AutomationCondition.newly_requested() & ~changed)
    unsettled = AutomationCondition.missing() & ~failed
    return (
        AutomationCondition.in_latest_time_window(lookback)
        & (first_run.with_label("never run") | change.with_label("changed since the last request"))
        & ~AutomationCondition.any_deps_match(unsettled).with_label("an upstream partition is not settled")
        & ~AutomationCondition.any_deps_match(busy).with_label("something upstream is in progress")
        & ~AutomationCondition.in_progress()
    ).with_label("unaligned fan-in")


def complete_upstream() -> AutomationCondition:
    """Hold a partition back while an upstream partition fails a check, such as ``is_complete`` of a partial day."""
    failed_check = AutomationCondition.any_checks_match(AutomationCondition.check_failed())
    return ~AutomationCondition.any_deps_match(failed_check).with_label("an upstream partition is incomplete")


class FanInConfig(dg.Config):
    """When a partition is published.

    Args:
        floor: The least share of upstream partitions, above 0 and at most 1; None for that of the asset.
    """

    floor: float | None = Field(default=None, gt=0, le=1)


def fan_in_asset(
    upstream: dg.AssetsDefinition,
    aggregate: Callable[[pl.LazyFrame], pl.LazyFrame],
    *,
    floor: float,
    published: Mapping[str, Any],
    columns: Mapping[str, str],
    through: Sequence[dg.AssetKey] = (),
    **arguments: Any,  # noqa: ANN401 - those of dagster.AssetOut
) -> tuple[dg.AssetsDefinition, list[dg.AssetChecksDefinition]]:
    """An asset that is published as far as its upstream goes, with its completeness and its fallback.

    Args:
        upstream: The asset whose partitions fan in; it declares its ``partition_expr``.
        aggregate: What is made of the rows that count.
        floor: The least share of upstream partitions with which a partition is published, above 0 and at most 1.
        published: ``key``, ``description``, ``partitions_def`` and ``metadata`` of the published table;
            ``<key>__completeness`` and ``<key>__fallback`` stand beside it.
        columns: Columns of the published table and what they mean; two that tell the completeness are added.
        through: What ``upstream`` is made of, with the same partitions: a failed rerun there makes its rows stale.
        arguments: What all three have in common, as ``dagster.AssetOut`` takes it, ``automation_condition`` too.

    Returns:
        The assets; and two checks: ``is_complete`` warns of a partial partition, ``something_arrived`` is the alert.

    Raises:
        InvalidMetadataError: The floor is out of range, or the upstream asset declares no partition column.
    """
    source, key, partitions = upstream.key, list(published["key"]), published["partitions_def"]
    hours, column = upstream.partitions_def, upstream.metadata_by_key[source].get("partition_expr")
    if not 0 < floor <= 1 or not isinstance(hours, dg.TimeWindowPartitionsDefinition) or not isinstance(column, str):
        raise InvalidMetadataError(
            f"fan-in {'/'.join(key)!r} with the floor {floor} was refused",
            why="a floor is above 0 and at most 1, and the upstream asset has time windows in one column",
            mend='set the floor, the partitions of the upstream asset and its metadata "partition_expr"',
        )
    table, fallback = ([*key[:-1], f"{key[-1]}__{part}"] for part in ("completeness", "fallback"))
    stored: dict[str, Any] = {"io_manager_key": "data_overwrite", **arguments}

    @dg.multi_asset(
        name=dg.AssetKey(key).to_python_identifier(),
        partitions_def=partitions,
        ins={"rows": dg.AssetIn(source, metadata={"allow_missing_partitions": True})},
        outs={
            "published": dg.AssetOut(
                key=key,
                is_required=False,
                description=published["description"],
                metadata={**published["metadata"], "dagster/column_schema": described(**columns, **ADDED_COLUMNS)},
                **stored,
            ),
            "completeness": dg.AssetOut(
                key=table,
                description=f"How much of {key[-1]} there is, what is missing, and whether it was published.",
                metadata={"partition_expr": "partition_start", "dagster/column_schema": TABLE_COLUMNS},
                **stored,
            ),
            "fallback": dg.AssetOut(
                key=fallback,
                is_required=False,
                dagster_type=dg.Nothing,
                description=f"Stands for {key[-1]} where nothing arrived, and says why.",
                **arguments,
            ),
        },
    )
    def fan_in(context: dg.AssetExecutionContext, config: FanInConfig, rows: pl.LazyFrame) -> Iterator[dg.Output]:
        if len(context.partition_keys) > 1:
            raise InvalidFlowError(
                f"a run over partitions {context.partition_keys[0]} to {context.partition_keys[-1]} was refused",
                why="each of them may be published, withheld, or left to the fallback",
                mend="launch a run for each, as a backfill does",
            )
        expected = context.asset_partition_keys_for_input("rows")
        sources = [source, *through]
        found = completeness_of(expected, sources, hours, context.instance)
        least = floor if config.floor is None else config.floor
        is_published = found.present != () and found.share >= least
        if is_published:
            counted = rows.filter(window_of(found.present, hours, column, rows.collect_schema()).rows)
            is_partial = str(found.share < 1).lower()
            yield dg.Output(
                aggregate(counted).with_columns(*found.columns),
                "published",
                metadata=found.metadata,
                tags={PARTIAL: is_partial},
            )
        elif not found.present:
            reason = f"none of the {len(expected)} partitions of {source.to_user_string()} is there"
            context.log.error("%s of %s: %s; what was published stays", context.partition_key, key[-1], reason)
            yield dg.Output(None, "fallback", metadata={"reason": reason, **found.metadata})
        else:
            context.log.warning(
                "%s of %s is withheld: %.0f %% is there", context.partition_key, key[-1], found.share * 100
            )
        row = found.row(context.partition_time_window, least, is_published=is_published)
        yield dg.Output(row, "completeness", metadata=found.metadata)

    asset, completeness = dg.AssetKey(key), dg.AssetKey(table)
    of_table = [arrived_check(completeness, partitions), published_check(completeness, partitions)]
    return fan_in, [complete_check(asset, completeness, partitions), *of_table]
