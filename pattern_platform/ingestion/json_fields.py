"""Fields of a JSON record, by the names that a contract gives them: dots for nested objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def path_of(field: str) -> str:
    """The JSON path of a field, as a literal of SQL; of the whole record where it is empty."""
    parts = (part.replace("\\", r"\\").replace('"', r"\"") for part in field.split(".") if part)
    path = "".join(["$", *(f'."{part}"' for part in parts)])
    return "'" + path.replace("'", "''") + "'"


def parents_of(fields: Iterable[str]) -> list[str]:
    """The objects that fields lie in, outer ones before inner ones."""
    return sorted({field[:at] for field in fields for at, character in enumerate(field) if character == "."})
