"""How the columns of a table came to be what they are, from the log of the table itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
from deltalake import Schema

from pattern_platform.lake.log import commit_path
from pattern_platform.lake.snapshot import open_table

if TYPE_CHECKING:
    from pattern_platform.lake.object_path import LakePath


@dataclass(frozen=True)
class SchemaVersion:
    """Columns from a version of a table on.

    Args:
        version: The first version that has them.
        committed_at: When it was made.
        schema: The columns.
    """

    version: int
    committed_at: datetime
    schema: pl.Schema


def schema_history(table: LakePath) -> list[SchemaVersion]:
    """The schemas that a table had, the oldest first; of commits that the log has lost, nobody knows any more.

    Args:
        table: Directory of the table; one that is none had no schema.
    """
    snapshot = open_table(table)
    found: list[SchemaVersion] = []
    for version in range(snapshot.version + 1 if snapshot else 0):
        try:
            lines = commit_path(table, version).read_text().split("\n")
        except FileNotFoundError:
            continue
        actions = [json.loads(line) for line in lines if line]
        info = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        for metadata in (action["metaData"] for action in actions if "metaData" in action):
            schema = pl.Schema(Schema.from_json(metadata["schemaString"]))
            if not found or found[-1].schema != schema:
                made = datetime.fromtimestamp(info.get("timestamp", 0) / 1000, UTC)
                found.append(SchemaVersion(version, made, schema))
    if snapshot and not found:
        found.append(SchemaVersion(snapshot.version, datetime.now(UTC), snapshot.schema))
    return found
