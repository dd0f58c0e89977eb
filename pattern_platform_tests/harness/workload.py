"""What writers are asked to do: seeded, and legal in the state that the table is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pattern_platform_tests.harness.model import KEYS, Operation, Row, State

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

_MOST_KEYS = 12


def next_operation(kind: str, state: State, rng: random.Random) -> Operation:
    """An operation of a writer; one that maintains a table is given something to maintain in between."""
    if kind == "compact":
        return Operation("compact") if rng.random() < 0.4 else write("overwrite", state, rng)
    if kind == "vacuum":
        return Operation("vacuum") if rng.random() < 0.5 and state.commits else write("stateful", state, rng)
    return write(kind, state, rng)


def write(kind: str, state: State, rng: random.Random, keys: Sequence[str] | None = None) -> Operation:
    """A batch for one partition, or for a few that follow each other in a single run."""
    if keys is None:
        possible = KEYS
        if kind == "stateful":  # what comes after a superseded partition, or leaves a hole, is not possible
            behind = state.superseded
            newest = max(state.records, default="")
            possible = [key for key in KEYS if (not behind or key <= behind[0]) and key <= _after(newest)]
        first = KEYS.index(rng.choice([*possible, possible[-1]]))  # forwards somewhat more than backwards
        keys = KEYS[first : first + rng.choice([1, 1, 2, 3])]
    if kind == "overwrite":
        rows: list[Row] = [(key, n) for key in keys for n in rng.sample(range(1000), rng.randint(0, 6))]
        return Operation(kind, tuple(keys), tuple(rows))
    rows = []
    for key in keys:
        rows += [change(k, key, rng) for k in rng.sample(range(_MOST_KEYS), rng.randint(0, 5))]
    return Operation(kind, tuple(keys), tuple(rows))


def change(k: int, key: str, rng: random.Random) -> Row:
    """An upsert, or a soft delete, of a row."""
    return (k, key, rng.randrange(10**6), "abc"[k % 3], rng.random() < 0.25)


def _after(key: str) -> str:
    return KEYS[min(KEYS.index(key) + 1, len(KEYS) - 1)] if key else KEYS[0]
