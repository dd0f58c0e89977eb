"""What a step failed with, as Dagster records it."""

from __future__ import annotations

from typing import Any


def root_cause(error: Any) -> Any:  # noqa: ANN401 - Dagster does not export the class of a recorded error
    """The error of the asset, not the one that Dagster wraps it in."""
    wrapped = str(error.cls_name).startswith("Dagster") and error.cause is not None
    return root_cause(error.cause) if wrapped else error


def message_of(error: Any) -> str:  # noqa: ANN401 - likewise
    """Its message without the name of its class, which Dagster puts in front of it."""
    said = str(error.message).strip()
    name, colon, rest = said.partition(": ")
    return rest if colon and name.rpartition(".")[2] == error.cls_name else said
