"""What a run of checks is over: assets and checks by Dagster's selection syntax, and partitions that exist.

Everything that a person can mistype is refused here, before anything runs, with the names that come near.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import dagster as dg

from pattern_platform.errors import CheckRunError
from pattern_platform.lake.checks import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

_SYNTAX = 'write a key as `raw/visits`, or Dagster\'s syntax as `group:clean`, `key:"raw/*"`, `raw/visits+`'


@dataclass(frozen=True)
class Selected:
    """What is run of one code location.

    Args:
        location: Name of the location.
        defs: Its definitions.
        assets: What is materialized.
        checks: What is checked.
        left_out: Checks that only the run of their asset evaluates, which is not asked for.
    """

    location: str
    defs: dg.Definitions
    assets: frozenset[dg.AssetKey]
    checks: frozenset[dg.AssetCheckKey]
    left_out: frozenset[dg.AssetCheckKey] = frozenset()

    @property
    def partitions(self) -> list[tuple[str, dg.PartitionsDefinition]]:
        """Partitions of what is run, by the name of the asset or check; what has none is left out."""
        graph = self.defs.resolve_asset_graph()
        entities = [(key.to_user_string(), graph.get(key).partitions_def) for key in (*self.assets, *self.checks)]
        return sorted((name, partitions) for name, partitions in entities if partitions)

    @property
    def most_per_run(self) -> int | None:
        """How many partitions a run may take, by the backfill policies; None for any number."""
        graph = self.defs.resolve_asset_graph()
        keys = {*self.assets, *(check.asset_key for check in self.checks)}
        policies = [graph.get(key).backfill_policy for key in keys if graph.has(key) and graph.get(key).partitions_def]
        limits = [policy.max_partitions_per_run if policy else 1 for policy in policies]
        return min((limit for limit in limits if limit is not None), default=None)


def select(locations: Mapping[str, dg.Definitions], selections: Sequence[str], *, only_checks: bool) -> list[Selected]:
    """What some selections name, in the order of the locations.

    Args:
        locations: Definitions of each code location; a selection may find something in several.
        selections: What is asked for; each must find something.
        only_checks: Whether nothing is materialized.

    Raises:
        CheckRunError: A selection cannot be understood or finds nothing, or there is nothing to run.
    """
    if not selections:
        raise CheckRunError("nothing was selected", why="a run of checks is over some assets", mend=_SYNTAX)
    parsed = {text: _parsed(text) for text in selections}
    found = {
        name: {text: _resolved(selection, defs) for text, selection in parsed.items()}
        for name, defs in locations.items()
    }
    for text in selections:
        if not any(any(resolved[text]) for resolved in found.values()):
            raise _unknown(text, locations.values())
    selected = [_of_location(name, defs, found[name].values(), only_checks) for name, defs in locations.items()]
    if not any(part.assets or part.checks for part in selected):
        raise CheckRunError(
            f"nothing would run for {listed(selections)}",
            why="no asset that is selected has a check that can be run without the asset",
            mend="leave out --only-checks to materialize them, or select assets that have checks",
        )
    return selected


def partitions_between(
    selected: Sequence[Selected], first: str | None, last: str | None, instance: dg.DagsterInstance
) -> list[str]:
    """The partitions that are run, from the first to the last; none where nothing has partitions.

    Args:
        selected: What is run.
        first: The first partition.
        last: The last one, the same for one partition.
        instance: Holds the keys of dynamic partitions.

    Raises:
        CheckRunError: There are no such partitions, or not all that is selected has them.
    """
    named = [entity for part in selected for entity in part.partitions]
    if first is None or last is None:
        if named:
            raise CheckRunError(
                "a partition must be given",
                why=f"{named[0][0]} is partitioned: {_extent(_keys(named[0][1], instance))}",
                mend="add `--partition KEY`, or `--from KEY --to KEY`",
            )
        return []
    if not named:
        raise CheckRunError(
            f"partition {first} was refused",
            why="nothing that would run has partitions",
            mend="leave out --partition, --from and --to",
        )
    if other := next((name for name, partitions in named if partitions != named[0][1]), None):
        raise CheckRunError(
            f"partition {first} was refused",
            why=f"{named[0][0]} and {other} have different partitions, and no run can take both",
            mend="select what has the same partitions, and run the others by another command",
        )
    keys = _keys(named[0][1], instance)
    for key in (first, last):
        if key not in keys:
            near = get_close_matches(key, keys, n=3)
            raise CheckRunError(
                f"partition {key!r} was refused",
                why=f"there is none: {_extent(keys)}",
                mend=f"did you mean {listed(near)}?" if near else "name a partition as the UI shows it",
            )
    if keys.index(first) > keys.index(last):
        raise CheckRunError(
            f"partitions from {first} to {last} were refused",
            why="the last is before the first",
            mend="turn them round",
        )
    return keys[keys.index(first) : keys.index(last) + 1]


def _parsed(text: str) -> dg.AssetSelection:
    with warnings.catch_warnings():  # Dagster's own parser passes on a parameter that is a beta
        warnings.filterwarnings("ignore", "Parameter `include_sources`", dg.BetaWarning)
        try:
            return dg.AssetSelection.from_string(text)
        except dg.DagsterError as error:
            raise CheckRunError(
                f"selection {text!r} was refused", why="Dagster's selection syntax has no such form", mend=_SYNTAX
            ) from error


def _resolved(
    selection: dg.AssetSelection, defs: dg.Definitions
) -> tuple[frozenset[dg.AssetKey], frozenset[dg.AssetCheckKey]]:
    """What a selection finds in one location; an external asset is not materialized, and its checks are run."""
    graph = defs.resolve_asset_graph()
    try:
        assets = selection.materializable().resolve(graph)
        return frozenset(assets), frozenset(selection.resolve_checks(graph))
    except dg.DagsterInvalidSubsetError:  # a key of another location
        return frozenset(), frozenset()


def _of_location(
    name: str,
    defs: dg.Definitions,
    found: Collection[tuple[frozenset[dg.AssetKey], frozenset[dg.AssetCheckKey]]],
    only_checks: bool,  # noqa: FBT001 - as it is asked for
) -> Selected:
    """What is run of one location: assets and checks that one function makes are run together or not at all."""
    graph = defs.resolve_asset_graph()
    assets = frozenset(key for of_one, _ in found for key in of_one)
    checks = frozenset(key for _, of_one in found for key in of_one)
    together = {key: graph.get_execution_set_asset_and_check_keys(key) for key in (*assets, *checks)}
    if only_checks:
        bound = {check for check in checks if any(isinstance(key, dg.AssetKey) for key in together[check])}
        return Selected(name, defs, frozenset(), checks - bound, frozenset(bound))
    needed = frozenset(key for keys in together.values() for key in keys)
    if missing := sorted(key.to_user_string() for key in needed - assets if isinstance(key, dg.AssetKey)):
        raise CheckRunError(
            f"a part of what is made together was refused, without {listed(missing)}",
            why="one function makes them with what is selected, and cannot leave them out",
            mend=f"add {' '.join(f'--select {key}' for key in missing)}",
        )
    return Selected(name, defs, assets, checks | {key for key in needed if isinstance(key, dg.AssetCheckKey)})


def _unknown(text: str, locations: Iterable[dg.Definitions]) -> CheckRunError:
    keys = sorted({key.to_user_string() for defs in locations for key in defs.resolve_all_asset_keys()})
    asked = re.sub(r'^key:|[+"\d]', "", text)
    near = get_close_matches(asked, keys, n=3) or [key for key in keys if asked in key.split("/")][:3]
    return CheckRunError(
        f"selection {text!r} was refused",
        why="it finds no asset that can be materialized, and no check",
        mend=f"did you mean {listed(near)}?" if near else f"there are {listed(keys)}",
    )


def _keys(partitions: dg.PartitionsDefinition, instance: dg.DagsterInstance) -> list[str]:
    return list(partitions.get_partition_keys(dynamic_partitions_store=instance))


def _extent(keys: Sequence[str]) -> str:
    return f"it has {keys[0]} to {keys[-1]}" if keys else "it has no partition yet"
