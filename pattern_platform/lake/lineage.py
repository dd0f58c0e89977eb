"""Which partition left which version of a table: commit metadata in the table's own log, and what follows from it.

The record of a partition is part of the commit that merged it, so no crash comes between the two. What the log says is
kept in mind up to a version (see ``version_table``); later commits are read one by one.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from pattern_platform.errors import InvalidMetadataError, SupersededPartitionsError
from pattern_platform.lake.checks import listed
from pattern_platform.lake.commit import COMMIT_METADATA
from pattern_platform.lake.log import commit_path
from pattern_platform.lake.partitions import position_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.window import Window

STATEFUL = "stateful_merger"
# What changes rows in older versions as in the newest: a restore undoes nothing of it.
HISTORY_TOO = frozenset({"erasure", "retention"})
# A version is restored from its files, and its number is known from the log: both stay.
VERSIONS_KEPT = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}


@dataclass(frozen=True)
class Record:
    """The newest commit of a partition.

    Args:
        position: Text that sorts as the partitions follow each other.
        partition: Partition key.
        version: Version of the table that the commit made.
        run_id: Run that made it.
        recorded_at: When.
        base: The version that it was merged into; None for the empty table.
    """

    position: str
    partition: str
    version: int
    run_id: str
    recorded_at: datetime
    base: int | None = None


@dataclass(frozen=True)
class Lineage:
    """The records of a table up to a version.

    Args:
        version: The version up to which the log has been read.
        records: By partition key, in the order of the partitions.
        unrecorded: Versions after the newest record in which someone else changed rows.
        tip: Identity of the last commit that was read: a table that was put back from a copy has another there.
        root: What the first partition was merged into: a version, or None for the empty table.
        root_known: Whether that is known; it is not where the log was cleaned up before it was read.
    """

    version: int = -1
    records: Mapping[str, Record] = field(default_factory=dict)
    unrecorded: tuple[int, ...] = ()
    tip: str = ""
    root: int | None = None
    root_known: bool = False

    @property
    def newest(self) -> Record | None:
        """The record of the newest version."""
        return max(self.records.values(), key=lambda record: record.version, default=None)

    @property
    def superseded(self) -> list[Record]:
        """The partitions that rest on an earlier partition as it was before its replay, in their order.

        A partition is current when its version is newer than those of all partitions before it.
        """
        found, newest = [], -1
        for record in self.records.values():
            if record.version < newest:
                found.append(record)
            newest = max(newest, record.version)
        return found

    def before(self, position: str) -> list[Record]:
        """The records of earlier partitions, in their order."""
        records = list(self.records.values())
        return records[: bisect_left(records, position, key=lambda record: record.position)]

    def extended(self, commits: Iterable[tuple[int, Mapping[str, Any], bool]]) -> Lineage:
        """The lineage after later commits.

        Args:
            commits: Version, commit metadata, and whether the commit changed rows; in the order of the versions.
        """
        records, unrecorded, latest = dict(self.records), list(self.unrecorded), self
        for version, metadata, data_change in commits:
            latest = replace(latest, version=version, tip=tip_of(metadata))
            if metadata.get("pattern") == STATEFUL:
                record = _record(version, metadata)
                records[record.partition] = record
                unrecorded.clear()
                if metadata["previous"] is None:
                    latest = replace(latest, root=metadata["base"], root_known=True)
            elif data_change and metadata.get("pattern") not in HISTORY_TOO:
                unrecorded.append(version)
        ordered = {record.partition: record for record in sorted(records.values(), key=lambda r: r.position)}
        return replace(latest, records=ordered, unrecorded=tuple(unrecorded))


def tip_of(metadata: Mapping[str, Any]) -> str:
    """Identity of a commit, from its metadata."""
    return f"{metadata['timestamp']} {metadata.get('commit_id', '')}"


def read_commits(table: LakePath, after: int, to: int) -> Iterable[tuple[int, dict[str, Any], bool]]:
    """Read commits of a log; those that were cleaned up are left out.

    Args:
        table: Directory of the table.
        after: The version before the first.
        to: The last version.

    Returns:
        For each its version, the platform's metadata with ``timestamp``, and whether it changed rows.
    """
    for version in range(after + 1, to + 1):
        try:
            lines = commit_path(table, version).read_text().split("\n")  # a value may hold what ends a line elsewhere
        except FileNotFoundError:
            continue
        actions = [json.loads(line) for line in lines if line]
        info = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        metadata = {k.removeprefix(COMMIT_METADATA): v for k, v in info.items() if k.startswith(COMMIT_METADATA)}
        files = [action.get("add") or action.get("remove") for action in actions]
        changed = any(file["dataChange"] for file in files if file)
        yield version, {**metadata, "timestamp": info.get("timestamp", 0)}, changed


def replay_commands(asset: str, partitions: Iterable[str]) -> str:
    """The commands that replay partitions, a line each, in their order."""
    return "\n".join(f"    dg launch --assets {asset} --partition {partition}" for partition in partitions)


def replay_range_command(asset: str, partitions: Sequence[str]) -> str:
    """The command that replays partitions in one run.

    Args:
        asset: The asset, with the backfill policy of a single run.
        partitions: In their order, from the first to the last without a hole.
    """
    return f"    dg launch --assets {asset} --partition-range {partitions[0]}...{partitions[-1]}"


def _record(version: int, metadata: Mapping[str, Any]) -> Record:
    return Record(
        position=metadata["position"],
        partition=metadata["partition"],
        version=version,
        run_id=metadata["run_id"],
        recorded_at=datetime.fromtimestamp(metadata["timestamp"] / 1000, UTC),
        base=metadata["base"],
    )


# Refusals -----------------------------------------------------------------------------------------------------------


def refuse_superseded(name: str, key: str, lineage: Lineage, position: str) -> None:
    """Refuse a partition that comes after a superseded one.

    Raises:
        SupersededPartitionsError: Names the partitions to replay first.
    """
    if behind := [record.partition for record in lineage.superseded if record.position < position]:
        raise SupersededPartitionsError(
            f"partition {key} of {name!r} was refused",
            why=f"partition(s) {listed(behind)} are superseded: an earlier one was replayed, "
            "and the table does not hold their changes now",
            mend=f"replay them in this order:\n{replay_commands(name, behind)}",
        )


def refuse_reordered(name: str, lineage: Lineage, definition: dg.PartitionsDefinition, key: str) -> None:
    """Refuse partitions that were merged at another place: static keys that moved, a time window that begins elsewhere.

    Raises:
        InvalidMetadataError: Names the merged partitions that have moved, or are gone.
    """
    if isinstance(definition, dg.StaticPartitionsDefinition):
        keys = set(definition.get_partition_keys())
        records = list(lineage.records.values())
    else:
        keys, records = {key}, [lineage.records[key]] if key in lineage.records else []
    moved = [
        r.partition for r in records if r.partition not in keys or position_of(r.partition, definition) != r.position
    ]
    if moved:
        raise InvalidMetadataError(
            f"a merge into {name!r} was refused",
            why=f"partition(s) {listed(moved)} were merged at another place among the partitions",
            mend="keep where time windows begin; add static keys at the end of their list, and remove none",
        )


def refuse_undivided(name: str, keys: Sequence[str], window: Window) -> None:
    """Refuse a single run over several partitions whose rows no column tells apart.

    Raises:
        InvalidMetadataError: They could not be merged one after the other.
    """
    if len(keys) > 1 and window.is_whole_table:
        raise InvalidMetadataError(
            f"a single run over {len(keys)} partitions of asset {name!r} was refused",
            why="they are merged one after the other, and no column says which row belongs to which",
            mend='run them one by one, or return a column with the partition and name it in "partition_expr"',
        )
