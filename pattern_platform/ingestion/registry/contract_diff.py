"""The difference between two versions of a contract, and whether those who rely on it may ignore it.

Compatible is what neither a reader of the table nor a row that is stored can notice: a new optional column, another
description, another place in the record. Everything else is agreed on before it is changed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import dataframely as dy
    import polars as pl

_TOLD_APART = {"description", "metadata", "nullable", "primary_key", "name", "alias"}
_RULE = re.compile(r'^    - "(?P<name>[^"]+)": (?P<condition>.*)$')


@dataclass(frozen=True)
class Difference:
    """One change.

    Args:
        what: What changed.
        why: Whom it breaks; empty for a compatible change.
    """

    what: str
    why: str = ""

    @property
    def is_compatible(self) -> bool:
        """Whether nobody needs to know."""
        return not self.why


def contract_diff(old: type[dy.Schema], new: type[dy.Schema]) -> list[Difference]:
    """What changes from one version of a contract to another, in the order of the columns; rules last.

    Args:
        old: What was agreed.
        new: What is proposed.
    """
    before, after = old.columns(), new.columns()
    found = []
    for name in [*before, *(name for name in after if name not in before)]:
        if name not in after:
            found.append(Difference(f"- {name}", "readers look for the column"))
        elif name not in before:
            found.append(_added(name, after[name]))
        else:
            found += _changed(name, before[name], after[name])
    return [*found, *_rules(_rules_of(old), _rules_of(new))]


def schema_diff(old: Mapping[str, pl.DataType], new: Mapping[str, pl.DataType]) -> list[Difference]:
    """What changes from one version of a table to another.

    Args:
        old: Columns of the older.
        new: Of the newer.
    """
    removed = [Difference(f"- {name}: {old[name]}", "readers look for the column") for name in old if name not in new]
    changed = [
        Difference(f"~ {name}: {old[name]} -> {dtype}", "readers expect the type it had")
        for name, dtype in new.items()
        if name in old and old[name] != dtype
    ]
    return [*removed, *changed, *(Difference(f"+ {name}: {dtype}") for name, dtype in new.items() if name not in old)]


def _added(name: str, column: dy.Column) -> Difference:
    told = f"+ {name}: {column.dtype}"
    return Difference(told) if column.nullable else Difference(told, "rows that are stored have none; make it optional")


def _changed(name: str, old: dy.Column, new: dy.Column) -> Iterator[Difference]:
    if old.dtype != new.dtype:
        yield Difference(f"~ {name}: {old.dtype} -> {new.dtype}", "readers expect the type it had")
    if old.primary_key != new.primary_key:
        yield Difference(f"~ {name}: {'no' if old.primary_key else 'part of the'} key", "duplicates are told by it")
    if old.nullable and not new.nullable:
        yield Difference(f"~ {name}: optional -> required", "rows that are stored may have none")
    if new.nullable and not old.nullable:
        yield Difference(f"~ {name}: required -> optional", "readers may meet nulls")
    unit = [(column.metadata or {}).get("unit") for column in (old, new)]
    if unit[0] != unit[1]:
        yield Difference(f"~ {name}: unit {unit[0]} -> {unit[1]}", "the same number means something else")
    before, after = _limits(old), _limits(new)
    for limit in sorted({*before, *after}):
        if old.dtype == new.dtype and before.get(limit) != after.get(limit):
            told = f"~ {name}: {limit} {before.get(limit)} -> {after.get(limit)}"
            yield Difference(told, "rows that are stored, or readers, rely on the limit it had")
    sources = [(column.metadata or {}).get("source", name) for column in (old, new)]
    if sources[0] != sources[1]:
        yield Difference(f"~ {name}: taken from {sources[0]} -> {sources[1]}")
    if old.description != new.description:
        yield Difference(f"~ {name}: another description")


def _limits(column: dy.Column) -> dict[str, Any]:
    return {name: value for name, value in vars(column).items() if name not in _TOLD_APART and not name.startswith("_")}


def _rules_of(contract: type[dy.Schema]) -> dict[str, str]:
    """The rules over several columns, as dataframely writes them."""
    lines = str(contract).partition("  Rules:")[2].splitlines()
    return {found["name"]: found["condition"] for line in lines if (found := _RULE.match(line))}


def _rules(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Difference]:
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            yield Difference(f"- rule {name}", "readers rely on it")
        elif name not in old:
            yield Difference(f"+ rule {name}", "rows that are stored may break it")
        elif old[name] != new[name]:
            yield Difference(
                f"~ rule {name}: {old[name]} -> {new[name]}", "rows that are stored, or readers, rely on it"
            )
