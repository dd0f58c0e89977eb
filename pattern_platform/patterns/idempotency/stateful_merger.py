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

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import polars as pl
from deltalake.exceptions import DeltaError

from pattern_platform.errors import InvalidMetadataError, PatternPlatformError
from pattern_platform.lake.checks import listed
from pattern_platform.lake.commit import commit
from pattern_platform.lake.declarations import StatefulMergerDeclaration, TableDeclaration
from pattern_platform.lake.io_manager import Durability
from pattern_platform.lake.lineage import STATEFUL, VERSIONS_KEPT, refuse_undivided
from pattern_platform.lake.partitions import in_order, position_of, refuse_unordered
from pattern_platform.lake.restore import restored
from pattern_platform.lake.start import start_of
from pattern_platform.lake.version_table import read_lineage, write_version_table
from pattern_platform.patterns.idempotency.merger import MergerIOManager, bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dagster as dg

    from pattern_platform.lake.batch import Part
    from pattern_platform.lake.changeset import ChangeSet
    from pattern_platform.lake.commit import Commit
    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.write import Write


class StatefulMergerIOManager(MergerIOManager):
    """Restore the previous partition's version and merge by ``merge_keys``, in one commit."""

    declaration: ClassVar[type[TableDeclaration]] = StatefulMergerDeclaration
    default_properties: ClassVar[dict[str, str]] = VERSIONS_KEPT

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
        refuse_undivided(write.name, write.keys or (), write.window)
        return super().write(write)

    def refuse_run(self, write: Write) -> None:
        """Refuse a partition that cannot be merged now; those after it in the same run follow it."""
        if write.snapshot and write.keys:
            start_of(write, write.snapshot, in_order(write.keys, write.definition)[0])

    def merge(self, part: Part, snapshot: Snapshot) -> Commit:
        """Commit one partition onto the version of the partition before it."""
        durable, write = self.durability is Durability.FSYNC, part.write
        (key,) = cast("Sequence[str]", write.keys)
        position = position_of(key, write.partitions)

        def plan(current: Snapshot) -> ChangeSet:
            start = start_of(write, current, key)
            merged = write.batch.plan_merge(current, start.files, part.changes, bounds(write), durable=durable)
            merged = replace(
                merged,
                rows={**merged.rows, "quarantined": part.bad_rows},
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

    def superseded_partitions(self, snapshot: Snapshot, keys: Sequence[str]) -> list[str]:
        """The superseded ones."""
        return [record.partition for record in read_lineage(snapshot).superseded if record.partition in set(keys)]

    def after_commit(self, context: dg.OutputContext, write: Write, commits: Sequence[Commit]) -> None:
        """Warn of holes, bring the version table in line, and show what is superseded."""
        for made in commits:
            if hole := cast("list[str]", made.change_set.metadata["hole"]):
                context.log.warning("%s: partition(s) %s missing, never merged", write.name, listed(hole))
        try:
            lineage = write_version_table(write.table)
        except (OSError, DeltaError, pl.exceptions.PolarsError, PatternPlatformError) as error:
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
