"""What an asset has its commit remember: a copied or restored table knows it too, and no crash comes in between."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dagster as dg

from pattern_platform.lake.commit import COMMIT_METADATA
from pattern_platform.lake.log import commit_path
from pattern_platform.lake.snapshot import open_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pattern_platform.lake.object_path import LakePath

NOTES = "pattern_platform/notes"  # metadata of an output, a mapping of names
_IN_COMMIT = "notes"


def noted(**notes: Any) -> dict[str, dg.JsonMetadataValue]:  # noqa: ANN401 - whatever JSON holds
    """The metadata of an output whose commit remembers something."""
    return {NOTES: dg.MetadataValue.json(notes)}


def notes_of_output(metadata: Mapping[str, Any]) -> dict[str, object]:
    """What the commit of an output keeps.

    Args:
        metadata: Of the output, as the asset gave it.
    """
    notes = metadata.get(NOTES)
    return {_IN_COMMIT: notes.value} if isinstance(notes, dg.JsonMetadataValue) else {}


def read_note(table: LakePath, name: str, partition: str | None = None) -> Any:  # noqa: ANN401 - whatever was noted
    """What the newest commit with a note of that name remembers, of the version that a table shows.

    Args:
        table: Directory of the table.
        name: Of the note.
        partition: Of commits that wrote this partition alone.

    Returns:
        The note; that of the older version where the table was restored; None where there is none, or its commit was
        cleaned up.
    """
    snapshot = open_table(table)
    version = snapshot.version if snapshot else -1
    while version >= 0:
        try:
            lines = commit_path(table, version).read_text().split("\n")  # a value may hold what ends a line elsewhere
        except FileNotFoundError:
            return None
        info = next(
            (action["commitInfo"] for action in map(json.loads, filter(None, lines)) if "commitInfo" in action), {}
        )
        notes = info.get(COMMIT_METADATA + _IN_COMMIT) or {}
        if name in notes and partition in (None, *(info.get(COMMIT_METADATA + "partition_keys") or ())):
            return notes[name]
        restored = (info.get("operationParameters") or {}).get("version")
        version = int(restored) if info.get("operation") == "RESTORE" and restored is not None else version - 1
    return None
