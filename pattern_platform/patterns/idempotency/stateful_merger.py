"""Stateful Merger: a merge whose every run starts from the table as the run before it left it, backfills included.

Problem: replaying old batches with a plain merge passes the table through states that it never had, because it still
holds what later batches brought.

Guarantee: a run restores the version of the previous partition and merges its batch in ONE commit, so no reader sees
the restored past; the same runs in the same order end in the same table, however often they are repeated. The version
of each partition is part of its commit; the table ``<table>__versions`` shows it, and is rebuilt where it is lost. A
run of a middle partition marks the later ones ``superseded``; what comes after a superseded partition is refused until
that one is replayed. A hole is a warning. Commits of others that change rows are refused, or accepted by
``foreign_commits``. Compaction, vacuum, property changes and an empty batch lose nothing.

Limits: as of ``merger``. Partitions have an order (time windows, or static keys). A version is restored from its files:
where something other than the platform's vacuum removed them, the run is refused with the replay that mends it.
Partitions that run at the same time run in the order in which they commit; let a backfill be a single run.

Shown by: ``clean/devices`` (daily).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import dagster as dg
from deltalake.exceptions import DeltaError

from pattern_platform.errors import (
    InvalidMetadataError,
    MissingVersionError,
    PatternPlatformError,
    SupersededPartitionsError,
    UnrecordedCommitError,
    UnrecordedPartitionError,
)
from pattern_platform.lake.checks import listed
from pattern_platform.lake.commit import commit, commit_path
from pattern_platform.lake.completeness import partition_app_id
from pattern_platform.lake.declarations import StatefulMergerDeclaration, TableDeclaration
from pattern_platform.lake.io_manager import Durability
from pattern_platform.lake.lineage import STATEFUL, replay_commands
from pattern_platform.lake.merge import plan_merge
from pattern_platform.lake.partitions import keys_between, position_of, refuse_unordered
from pattern_platform.lake.restore import missing_files, restored
from pattern_platform.lake.snapshot import open_version
from pattern_platform.lake.version_table import read_lineage, version_table_of, write_version_table
from pattern_platform.patterns.idempotency.merger import MergerIOManager, bounds, in_order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from pattern_platform.lake.changes import Changes
    from pattern_platform.lake.changeset import ChangeSet
    from pattern_platform.lake.commit import Commit
    from pattern_platform.lake.lineage import Lineage, Record
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.write import Write

_MOST_NAMED = 100
_FOR_TEN_YEARS = "interval 3650 days"


class StatefulMergerIOManager(MergerIOManager):
    """Restore the previous partition's version and merge by ``merge_keys``, in one commit."""

    declaration: ClassVar[type[TableDeclaration]] = StatefulMergerDeclaration
    # A version is restored from its files, and its number is known from the log: both stay.
    default_properties: ClassVar[dict[str, str]] = {
        "delta.logRetentionDuration": _FOR_TEN_YEARS,
        "delta.deletedFileRetentionDuration": _FOR_TEN_YEARS,
    }

    def refuse_properties(self) -> None:
        """Refuse ``table_properties`` that would let versions go.

        Raises:
            InvalidMetadataError: One of the two that keep them is set.
        """
        if shortened := sorted(set(self.table_properties) & set(self.default_properties)):
            raise InvalidMetadataError(
                f"table_properties {listed(shortened)} were refused",
                why="the versions that partitions left are restored from the log and from removed files",
                mend="leave them out; the platform's vacuum removes what no recorded version needs",
            )

    def refuse_spec(self, spec: dg.AssetSpec) -> None:
        """As of every table; and the partitions must have an order."""
        super().refuse_spec(spec)
        refuse_unordered(spec.partitions_def)
        self.refuse_properties()

    def write(self, write: Write) -> list[Commit]:
        """Refuse what has no order, then merge as every merger does."""
        refuse_unordered(write.definition)
        self.refuse_properties()
        if write.keys and len(write.keys) > 1 and write.window.is_whole_table:
            raise InvalidMetadataError(
                f"a single run over {len(write.keys)} partitions of asset {write.name!r} was refused",
                why="they are merged one after the other, and no column says which row belongs to which",
                mend='run them one by one, or return a column with the partition and name it in "partition_expr"',
            )
        return super().write(write)

    def refuse_run(self, write: Write) -> None:
        """Refuse a partition that cannot be merged now; those after it in the same run follow it."""
        if write.snapshot and write.keys:
            _start(write, write.snapshot, in_order(write.keys, write.definition)[0])

    def merge(self, write: Write, snapshot: Snapshot, changes: Changes, rows: Mapping[str, int]) -> Commit:
        """Commit one partition onto the version of the partition before it."""
        durable = self.durability is Durability.FSYNC
        (key,) = cast("Sequence[str]", write.keys)
        position = position_of(key, _ordered(write))

        def plan(current: Snapshot) -> ChangeSet:
            start = _start(write, current, key)
            merged = plan_merge(current, start.files, changes, bounds(write), durable=durable)
            merged = replace(
                merged,
                rows={**merged.rows, **rows},
                metadata={**merged.metadata, "partition": key, "position": position, **start.recorded()},
            )
            return merged if start.restored_to is None else restored(merged, start.files, current)

        return commit(
            snapshot,
            None,
            plan,
            metadata={"pattern": STATEFUL, **write.metadata},
            app_ids=write.app_ids,
            durable=durable,
        )

    def after_commit(self, context: dg.OutputContext, write: Write, commits: Sequence[Commit]) -> None:
        """Warn of holes, bring the version table in line, and show what is superseded."""
        for made in commits:
            if hole := cast("list[str]", made.change_set.metadata["hole"]):
                context.log.warning("%s: partition(s) %s missing, never merged", write.name, listed(hole))
        try:
            lineage = write_version_table(write.table)
        except (OSError, DeltaError, PatternPlatformError) as error:
            # The versions are in the commits; the table that shows them is made again by the next run.
            context.log.warning("the version table of %s is behind: %s", write.name, error)
            return
        superseded = [record.partition for record in lineage.superseded]
        if superseded:
            context.log.warning("%s: superseded until replayed: %s", write.name, listed(superseded))
        context.add_output_metadata({"delta/superseded_partitions": superseded})

    def counted(self, write: Write, commits: Sequence[Commit]) -> dict[str, Any]:
        """As of every merger, and which version was restored; the versions of several partitions one by one."""
        metadata = super().counted(write, commits)
        to = [made.change_set.metadata["restored_to"] for made in commits]
        if to[0] is not None:
            metadata["delta/restored_to"] = to[0]
        if len(commits) > 1:
            metadata["delta/versions"] = {made.change_set.metadata["partition"]: made.version for made in commits}
        return metadata


@dataclass(frozen=True)
class _Start:
    """What a merge starts from.

    Args:
        files: The live files of the version.
        base: The version; None for the empty table.
        previous: The partition that left it; None for the first.
        restored_to: The same where it is not what the table holds now; 0 for the empty table.
        hole: Partitions before this one that were never merged, the first hundred.
    """

    files: pl.DataFrame
    base: int | None
    previous: str | None
    restored_to: int | None
    hole: list[str]

    def recorded(self) -> dict[str, object]:
        """What the commit keeps of it."""
        return {"base": self.base, "previous": self.previous, "restored_to": self.restored_to, "hole": self.hole}


def _start(write: Write, current: Snapshot, key: str) -> _Start:
    """Where the merge of a partition starts: at the version of the latest recorded partition before it."""
    lineage = read_lineage(current)
    definition = _ordered(write)
    position = position_of(key, definition)
    _refuse_reordered(write, lineage, definition)
    earlier = lineage.before(position)
    previous = earlier[-1] if earlier else None
    hole = keys_between(previous.position if previous else None, key, definition)
    _refuse_unrecorded_commits(write, current, lineage)
    _refuse_superseded(write, key, [record for record in lineage.superseded if record.position < position])
    _refuse_unrecorded_partitions(write, current, lineage, key, hole)
    after, hole = previous.partition if previous else None, hole[:_MOST_NAMED]
    newest = lineage.newest
    if newest is None or newest == previous:
        return _Start(current.files, current.version if current.files.height else None, after, None, hole)
    base = previous.version if previous else lineage.root
    if base is None:
        return _Start(current.files.clear(), None, after, 0, hole)
    files = _restorable(current, base)
    if files is None:
        raise _not_restorable(write, current, key, base, earlier)
    return _Start(files, base, after, base, hole)


def _restorable(current: Snapshot, version: int) -> pl.DataFrame | None:
    """The files of a version; None where its log or one of its files is gone."""
    try:
        files = open_version(current.table, version).files
    except MissingVersionError:
        return None
    return None if missing_files(current.table, files) else files


def _ordered(write: Write) -> dg.PartitionsDefinition:
    return cast("dg.PartitionsDefinition", write.definition)


# Refusals -----------------------------------------------------------------------------------------------------------


def _refuse_unrecorded_commits(write: Write, current: Snapshot, lineage: Lineage) -> None:
    declared = cast("StatefulMergerDeclaration", write.declaration)
    if not lineage.unrecorded or declared.foreign_commits == "accept":
        return
    recorded = open_version(current.table, lineage.newest.version).files if lineage.newest else current.files.clear()
    if set(recorded["path"]) == set(current.files["path"]):
        return  # they were undone
    raise UnrecordedCommitError(
        f"a merge into {write.name!r} was refused",
        why=f"unrecorded commit {', '.join(f'v{v}' for v in lineage.unrecorded)} changed rows of the table, and is "
        "none of its asset's: a later restore would undo it silently",
        mend=(f'undo it, DeltaTable("{write.table}").restore({lineage.newest.version}), or ' if lineage.newest else "")
        + 'set the asset metadata "foreign_commits": "accept"',
    )


def _refuse_reordered(write: Write, lineage: Lineage, definition: dg.PartitionsDefinition) -> None:
    """Static keys are in the order of their list, and a list that changed before its end is another order."""
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return
    listed_now = set(definition.get_partition_keys())
    moved = [
        r.partition
        for r in lineage.records.values()
        if r.partition not in listed_now or position_of(r.partition, definition) != r.position
    ]
    if moved:
        raise InvalidMetadataError(
            f"a merge into {write.name!r} was refused",
            why=f"partition(s) {listed(moved)} were merged at another place of the static partitions",
            mend="add keys at the end of the list, and remove none",
        )


def _refuse_superseded(write: Write, key: str, behind: Sequence[Record]) -> None:
    if behind:
        raise SupersededPartitionsError(
            f"partition {key} of {write.name!r} was refused",
            why=f"partition(s) {listed([r.partition for r in behind])} are superseded: an earlier one was replayed, "
            "and the table does not hold their changes now",
            mend=f"replay them in this order:\n{replay_commands(write.name, [r.partition for r in behind])}",
        )


def _refuse_unrecorded_partitions(
    write: Write, current: Snapshot, lineage: Lineage, key: str, hole: Sequence[str]
) -> None:
    """Refuse where the log was cleaned up, and the version table with what it knew is gone too."""
    if commit_path(current.table, 0).exists():
        return  # the log is whole
    lost = [k for k in (*hole, key) if k not in lineage.records and current.recorded(partition_app_id(k))]
    if not lost and (lineage.root_known or not lineage.records):
        return
    raise UnrecordedPartitionError(
        f"partition {key} of {write.name!r} was refused",
        why="the log that names the versions of "
        + (f"partition(s) {listed(lost)}" if lost else "the first partitions")
        + " was cleaned up, and the version table that named them too is gone",
        mend=f"bring back {version_table_of(write.table).name} from a backup, or let the asset make a new table",
    )


def _not_restorable(
    write: Write, current: Snapshot, key: str, version: int, earlier: Sequence[Record]
) -> MissingVersionError:
    """The error names the latest partition from which a replay has everything it needs."""
    replay = [*(record.partition for record in earlier), key]
    for place in range(len(earlier) - 1, 0, -1):
        if _restorable(current, earlier[place - 1].version) is not None:
            replay = replay[place:]
            break
    if earlier:
        left_by, mend = (
            f"partition {earlier[-1].partition}",
            f"replay in this order:\n{replay_commands(write.name, replay)}",
        )
    else:
        left_by, mend = "others before the first partition", "bring the files back from a backup; no replay makes them"
    return MissingVersionError(
        f"partition {key} of {write.name!r} was refused",
        why=f"it starts from version {version}, left by {left_by}, and files of that version are gone: something "
        "other than the platform's vacuum removed them",
        mend=mend,
    )
