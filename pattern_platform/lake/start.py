"""Where the run of a partition starts: at the version that the partition before it left, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pattern_platform.errors import (
    ChangedTypeError,
    MissingVersionError,
    UnreadableVersionError,
    UnrecordedCommitError,
    UnrecordedPartitionError,
)
from pattern_platform.lake.checks import listed
from pattern_platform.lake.completeness import partition_app_id
from pattern_platform.lake.files import sizes_of
from pattern_platform.lake.lineage import refuse_reordered, refuse_superseded, replay_commands
from pattern_platform.lake.log import commit_path
from pattern_platform.lake.partitions import keys_between, position_of
from pattern_platform.lake.snapshot import open_version
from pattern_platform.lake.version_table import read_lineage, version_table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from pattern_platform.lake.declarations import StatefulMergerDeclaration
    from pattern_platform.lake.lineage import Lineage, Record
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.write import Write

_MOST_NAMED = 100


@dataclass(frozen=True)
class Start:
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


def start_of(write: Write, current: Snapshot, key: str) -> Start:
    """Where the merge of a partition starts: at the version of the latest recorded partition before it.

    Args:
        write: The run.
        current: The newest version of the table.
        key: The partition.

    Raises:
        UnrecordedCommitError: Someone else changed rows since the newest record, and the asset refuses that.
        SupersededPartitionsError: Earlier partitions wait for their replay.
        UnrecordedPartitionError: What earlier partitions left is not known any more.
        MissingVersionError: Files of the version are gone.
        UnreadableVersionError: The version could not be read.
        InvalidMetadataError: Static partitions changed their order.
    """
    lineage = read_lineage(current)
    definition = write.partitions
    position = position_of(key, definition)
    refuse_reordered(write.name, lineage, definition, key)
    earlier = lineage.before(position)
    previous = earlier[-1] if earlier else None
    hole = keys_between(previous.position if previous else None, key, definition)
    _refuse_unrecorded_commits(write, current, lineage)
    refuse_superseded(write.name, key, lineage, position)
    _refuse_unrecorded_partitions(write, current, lineage, key, hole)
    after, hole = previous.partition if previous else None, hole[:_MOST_NAMED]
    newest = lineage.newest
    if newest is None or newest == previous:
        return Start(current.files, current.version if current.files.height else None, after, None, hole)
    base = previous.version if previous else lineage.root
    if (own := lineage.records.get(key)) and own.base is not None and own.base > (base or 0) and _accepts(write):
        base = own.base  # what others changed between the two runs was accepted, and stays
    if base is None:
        return Start(current.files.clear(), None, after, 0, hole)
    files = _restorable(current, base)
    if files is None:
        raise _not_restorable(write, current, key, base, earlier)
    return Start(files, base, after, base, hole)


def _restorable(current: Snapshot, version: int) -> pl.DataFrame | None:
    """The files of a version; None where its log or one of its files is gone."""
    try:
        older = open_version(current.table, version)
    except MissingVersionError:
        return None
    if changed := [c for c, t in older.schema.items() if t != current.schema.get(c, t)]:
        raise ChangedTypeError(
            f"a restore of version {version} of table {current.table.name!r} was refused",
            why=f"column(s) {listed(changed)} had another type then",
            mend="let the asset make a new table, and replay its partitions",
        )
    there = sizes_of(current.table, older.files["path"].to_list())
    return older.files if len(there) == older.files.height else None


def _is_restorable(current: Snapshot, version: int) -> bool:
    try:
        return _restorable(current, version) is not None
    except UnreadableVersionError:
        return False


# Refusals -----------------------------------------------------------------------------------------------------------


def _refuse_unrecorded_commits(write: Write, current: Snapshot, lineage: Lineage) -> None:
    if not lineage.unrecorded or _accepts(write) or _undone(current, lineage):
        return
    raise UnrecordedCommitError(
        f"a merge into {write.name!r} was refused",
        why=f"unrecorded commit {', '.join(f'v{v}' for v in lineage.unrecorded)} changed rows of the table, and is "
        "none of its asset's: a later restore would undo it silently",
        mend=(f'undo it, DeltaTable("{write.table}").restore({lineage.newest.version}), or ' if lineage.newest else "")
        + 'set the asset metadata "foreign_commits": "accept"',
    )


def _accepts(write: Write) -> bool:
    return cast("StatefulMergerDeclaration", write.declaration).foreign_commits == "accept"


def _undone(current: Snapshot, lineage: Lineage) -> bool:
    """Whether the last unrecorded commit brought back the files from before the first, or those of the last record.

    They differ where the table was compacted in between.
    """
    first, *_, last = (lineage.unrecorded[0], *lineage.unrecorded)
    before = {first - 1, *([lineage.newest.version] if lineage.newest else [])}
    try:
        after = set(open_version(current.table, last).files["path"])
        return any(set(open_version(current.table, version).files["path"]) == after for version in before)
    except MissingVersionError:
        return False


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
        if _is_restorable(current, earlier[place - 1].version):
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
