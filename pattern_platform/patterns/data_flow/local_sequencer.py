"""Local Sequencer: steps of one pipeline, one after the other, each a place to start again from.

Problem: reading the likes takes an hour, ranking them fails. Run as one piece, the retry reads for another hour.

Guarantee: a step starts when the one before it has succeeded, a failure stops the rest, and a retry from failure
repeats nothing that succeeded. There are two layers. Between assets, Dagster's dependencies do it: each step that is of
interest to somebody is an asset, with its lineage, checks and history. Inside an asset, :func:`step_sequence` makes one
of functions: each is a step of the run, what it made is kept for the retry, and only the last result is the asset.
What a reader sees is replaced by the last step alone, so until then it is as it was.

Limits: inside an asset steps are linear, of one upstream asset; what a step hands on is a frame, and a run takes one
partition. A retry whose intermediate result another run made anew is refused, rather than mixed. What must be atomic
belongs into one step.
Everything in one function is a step, too: a retry repeats all of it (the tests show it as the counter-example).

Shown by: ``aggregated/likes_by_post`` and after it ``aggregated/top_authors``, in two steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from pattern_platform.errors import InvalidFlowError
from pattern_platform.orchestration.steps import HAS_PARTITIONS, OF_ASSET

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FunctionType


def step_sequence(
    upstream: dg.AssetIn,
    steps: Sequence[FunctionType],
    *,
    key: dg.AssetKey,
    io_manager_key: str,
    steps_io_manager_key: str = "steps",
    retry_policy: dg.RetryPolicy | None = None,
    **arguments: Any,  # noqa: ANN401 - those of dagster.graph_asset
) -> dg.AssetsDefinition:
    """An asset that is made in several steps.

    Args:
        upstream: What the first step takes.
        steps: Functions of one frame, each annotated with the kind of frame that it takes; named as their steps.
        key: Key of the asset.
        io_manager_key: Where the asset is stored.
        steps_io_manager_key: Where the other steps leave what they made.
        retry_policy: Of each step.
        arguments: What else ``dagster.graph_asset`` takes, such as ``partitions_def`` and ``metadata``.

    Raises:
        InvalidFlowError: There are no steps, or two of one name.
    """
    names = [step.__name__ for step in steps]
    if not names or len(set(names)) < len(names):
        raise InvalidFlowError(
            f"the steps of asset {key.to_user_string()!r} were refused",
            why=f"they are called {', '.join(names)}" if names else "there are none",
            mend="give a function of its own name for each step",
        )
    told = {OF_ASSET: key.to_user_string(), HAS_PARTITIONS: arguments.get("partitions_def") is not None}
    kept = dg.Out(io_manager_key=steps_io_manager_key, metadata=told)
    outs = [*[kept] * (len(steps) - 1), dg.Out(io_manager_key=io_manager_key)]
    ops = [
        dg.op(name=f"{key.to_python_identifier()}__{step.__name__}", out=out, retry_policy=retry_policy)(step)
        for step, out in zip(steps, outs, strict=True)
    ]

    @dg.graph_asset(key=key, ins={"rows": upstream}, **arguments)
    def sequence(rows: Any) -> Any:  # noqa: ANN401 - Dagster composes the steps with what stands for a frame
        for name, op in zip(names, ops, strict=True):
            rows = op.alias(name)(rows)
        return rows

    return sequence
