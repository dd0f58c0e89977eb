"""Exclusive Choice: exactly one of several branches makes a partition, and the decision is kept.

Problem: from one day on visits go to a new store. Two pipelines would split the history, and a backfill of an old day
would land where it never was.

Guarantee: one asset has the whole history: each partition is materialized once under its key, with the branch and the
reason in its metadata. The branches are assets beside it, ``<key>_<branch>``. The one that was not chosen is skipped,
with what follows from it; the run succeeds. The decision rests on the partition, on configuration or on the schema of
the data, never on when the run happens. A check looks at the stored rows: one branch has them.

Limits: the input is not read to decide, only its columns are; those of a Delta table are of all its partitions, so a
choice by columns rests on files, or on the one partition that a table of its own holds. A run over partitions that
choose differently is refused. Where a decision is changed for a partition that is there, the rows of the branch that
had it stay, and the check names it.

Shown by: ``archive/referrals``, files until the table took over.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, cast

import dagster as dg
import polars as pl

from pattern_platform.errors import (
    InvalidMetadataError,
    UndecidedChoiceError,
)
from pattern_platform.lake.checks import listed


@dataclass(frozen=True)
class Situation:
    """What a decision may rest on.

    Args:
        partition: Partition key.
        day: The day on which the partition starts, in its own calendar.
        columns: Columns of the input and their types.
    """

    partition: str
    day: date
    columns: pl.Schema


@dataclass(frozen=True)
class Decision:
    """Which branch, and why."""

    branch: str
    reason: str


@dataclass(frozen=True)
class Branch:
    """One way to make a partition.

    Args:
        description: What its asset is.
        make: What it makes of the input.
        io_manager_key: Where its asset is stored.
        metadata: Of its asset, such as ``partition_expr``.
        kinds: Of its asset.
    """

    description: str
    make: Callable[[pl.LazyFrame], pl.LazyFrame]
    io_manager_key: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ByConfiguration:
    """Decide by the run's config ``branch``; another value than a branch is refused before the run starts.

    Args:
        default: The branch of a run without config.
    """

    default: str


def by_day(first: date, *, before: str, since: str) -> Callable[[Situation], Decision]:
    """Decide by the day of the partition.

    Args:
        first: The first day of the later branch.
        before: The branch of the days before it.
        since: The branch from it on.
    """

    def choose(situation: Situation) -> Decision:
        is_later = situation.day >= first
        return Decision(since if is_later else before, f"{situation.day} is {'not ' if is_later else ''}before {first}")

    return choose


def by_columns(*required: str, present: str, absent: str) -> Callable[[Situation], Decision]:
    """Decide by the schema of the data, from its metadata, without reading a row.

    Args:
        required: Columns to look for.
        present: The branch where all of them are there.
        absent: The branch where one is not.
    """

    def choose(situation: Situation) -> Decision:
        if missing := [column for column in required if column not in situation.columns]:
            return Decision(absent, f"the data has no column {listed(missing)}")
        return Decision(present, f"the data has the column(s) {listed(required)}")

    return choose


def exclusive_choice(
    upstream: dg.AssetKey,
    choose: Callable[[Situation], Decision] | ByConfiguration,
    branches: Mapping[str, Branch],
    *,
    key: list[str],
    partitions_def: dg.TimeWindowPartitionsDefinition,
    description: str,
    backfill_policy: dg.BackfillPolicy | None = None,
    **arguments: Any,  # noqa: ANN401 - those of dagster.AssetOut
) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """An asset whose partitions are made by one of several branches.

    Args:
        upstream: Key of the input.
        choose: Decides for a partition.
        branches: The branches by name.
        key: Key of the asset; a branch is ``<key>_<name>``.
        partitions_def: Partitions of all.
        description: What the asset is.
        backfill_policy: How many partitions a run of a backfill takes; one, where it is None.
        arguments: What all have in common, as ``dagster.AssetOut`` takes it.

    Returns:
        The assets, and the check ``one_branch_has_it``.

    Raises:
        InvalidMetadataError: There are fewer than two branches, or the default is none of them.
    """
    configured = choose.default if isinstance(choose, ByConfiguration) else None
    if len(branches) < _FEWEST or (configured is not None and configured not in branches):
        raise InvalidMetadataError(
            f"exclusive choice {'/'.join(key)!r} was refused",
            why=f"its branches are {listed(list(branches))}, its default is {configured}",
            mend="name two branches or more, and one of them as the default",
        )
    names = {branch: dg.AssetKey([*key[:-1], f"{key[-1]}_{branch}"]) for branch in branches}
    asset = dg.AssetKey(key)
    output, outputs = asset.to_python_identifier(), {b: name.to_python_identifier() for b, name in names.items()}
    known = dg.Enum(f"{output}__branch", [dg.EnumValue(branch) for branch in branches])

    @dg.multi_asset(
        name=output,
        partitions_def=partitions_def,
        backfill_policy=backfill_policy,
        config_schema={"branch": dg.Field(known, default_value=configured)} if configured else None,
        ins={"rows": dg.AssetIn(upstream)},
        outs={
            **{
                outputs[branch]: dg.AssetOut(
                    key=names[branch],
                    is_required=False,
                    description=way.description,
                    io_manager_key=way.io_manager_key,
                    metadata=way.metadata,
                    kinds=set(way.kinds),
                    **arguments,
                )
                for branch, way in branches.items()
            },
            output: dg.AssetOut(key=key, dagster_type=dg.Nothing, description=description, **arguments),
        },
    )
    def choice(context: dg.AssetExecutionContext, rows: pl.LazyFrame) -> Iterator[dg.Output]:
        if configured:
            chosen = context.op_execution_context.op_config["branch"]
            decided = {Decision(chosen, "configured")}
        else:
            decide = cast("Callable[[Situation], Decision]", choose)
            columns = rows.collect_schema()
            windows = {part: partitions_def.time_window_for_partition_key(part) for part in context.partition_keys}
            decided = {decide(Situation(part, window.start.date(), columns)) for part, window in windows.items()}
        taken = {decision.branch for decision in decided}
        if len(taken) != 1 or not taken <= set(branches):
            raise UndecidedChoiceError(
                f"a run of {'/'.join(key)!r} over {listed(context.partition_keys)} was refused",
                why=f"it decides for {listed(sorted(taken))}, and one of {listed(list(branches))} makes a partition",
                mend="launch the partitions of each branch in runs of their own",
            )
        (branch,) = taken
        first, *others = sorted(decision.reason for decision in decided)
        reasons = f"{first}, and {len(others)} more" if others else first
        context.log.info("%s: %s", branch, reasons)
        yield dg.Output(branches[branch].make(rows), outputs[branch])
        yield dg.Output(None, output, metadata={"decision": branch, "reason": reasons})

    return choice, _one_branch_check(asset, branches, names, partitions_def)


_FEWEST = 2


def _one_branch_check(
    choice: dg.AssetKey,
    branches: Mapping[str, Branch],
    names: Mapping[str, dg.AssetKey],
    partitions: dg.PartitionsDefinition,
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=choice,
        name="one_branch_has_it",
        description="The rows of the partition are in exactly one of the branches, or there are none.",
        blocking=True,
        partitions_def=partitions,
        required_resource_keys={way.io_manager_key for way in branches.values()},
    )
    def one_branch_has_it(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        # Not inputs: what rests on a branch is skipped with it.
        rows = dict.fromkeys(branches, 0)
        in_several = []
        for part in context.partition_keys:
            found = {b: _rows(context, way, names[b], part, partitions) for b, way in branches.items()}
            rows = {branch: count + found[branch] for branch, count in rows.items()}
            in_several += [part] if sum(map(bool, found.values())) > 1 else []
        return dg.AssetCheckResult(passed=not in_several, metadata={"rows": rows, "in_several_branches": in_several})

    return one_branch_has_it


def _rows(
    context: dg.AssetCheckExecutionContext,
    way: Branch,
    asset: dg.AssetKey,
    part: str,
    partitions: dg.PartitionsDefinition,
) -> int:
    manager: dg.IOManager = getattr(context.resources, way.io_manager_key)
    stored = manager.load_input(
        dg.build_input_context(
            asset_key=asset,
            partition_key=part,
            asset_partitions_def=partitions,
            definition_metadata={"allow_missing_partitions": True},
            dagster_type=dg.PythonObjectDagsterType(pl.LazyFrame),
            upstream_output=dg.build_output_context(asset_key=asset, definition_metadata=dict(way.metadata)),
        )
    )
    return stored.select(pl.len()).collect().item()
