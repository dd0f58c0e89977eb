"""What a webserver answers, in the terms of the platform."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pattern_platform.errors import WebserverError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NUMBERS = {"intRepr": int, "floatRepr": float}


@dataclass(frozen=True)
class Asset:
    """An asset as the webserver knows it.

    Args:
        key: As a user writes it.
        location: Its code location and repository.
        partitions: All partition keys, in their order.
        per_run: How many partitions one run may take; None where it may take any number.
        rests_on_itself: Whether a partition depends on an earlier one.
    """

    key: str
    location: tuple[str, str]
    partitions: list[str]
    per_run: int | None
    rests_on_itself: bool


@dataclass(frozen=True)
class Job:
    """A job as the webserver knows it.

    Args:
        name: Its name.
        location: Its code location and repository.
        partitions: All partition keys, in their order; none where it has no partitions.
    """

    name: str
    location: tuple[str, str]
    partitions: list[str]


@dataclass(frozen=True)
class Names:
    """What can be launched.

    Args:
        jobs: Code location and repository of each job, with its name.
        assets: Keys of the assets that can be materialized.
    """

    jobs: Sequence[tuple[str, tuple[str, str]]]
    assets: Sequence[str]


@dataclass(frozen=True)
class Materialization:
    """What a run made of an asset, or of one of its partitions.

    Args:
        key: Key of the asset.
        partition: The partition; None where it has none.
        metadata: What it told; texts, numbers and flags, a table schema as the types by column. Other kinds are left
            out.
    """

    key: str
    partition: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run: its id, its status as Dagster writes it, and its tags."""

    run_id: str
    status: str
    tags: Mapping[str, str]


def expected(answer: Mapping[str, Any], kind: str, what: str) -> Mapping[str, Any]:
    """An answer of the kind that was asked for."""
    if answer["__typename"] != kind:
        raise WebserverError(
            f"{what} could not be looked up",
            why=answer.get("message") or answer["__typename"],
            mend="see the deployment in the UI",
        )
    return answer


def message_of(error: Mapping[str, Any] | None) -> str:
    """What was raised, not what Dagster wrapped around it."""
    if error is None:
        return ""
    wrapped = error["cause"] if error["cause"] and (error["className"] or "").startswith("Dagster") else error
    return wrapped["message"].strip()


def value_of(entry: Mapping[str, Any]) -> Any:  # noqa: ANN401 - what GraphQL gives
    """A value of metadata; None where it is of another kind."""
    content = {name: value for name, value in entry.items() if name not in {"__typename", "label"}}
    for name, value in content.items():
        if name == "schema":
            return {column["name"]: column["type"] for column in value["columns"]}
        if name == "jsonString":
            return json.loads(value)
        return _NUMBERS.get(name, lambda same: same)(value)
    return None
