"""The version table ``<table>__versions``: the lineage of a table as a Delta table beside it.

It is rebuilt from the commits of the data table whenever the two differ: when it was made from an earlier version, from
another table, or when someone else wrote it last. So it can be lost, or lag behind, and nothing is lost with it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, cast

import polars as pl
from deltalake.exceptions import DeltaError

from pattern_platform.errors import MissingTableError, PatternPlatformError
from pattern_platform.lake.lineage import Lineage, Record, read_commits, tip_of
from pattern_platform.lake.location import root_of
from pattern_platform.lake.side_table import replace_rows
from pattern_platform.lake.snapshot import open_table
from pattern_platform.lake.window import Window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pattern_platform.lake.object_path import AnyLakePath, LakePath
    from pattern_platform.lake.snapshot import Snapshot

SUFFIX = "__versions"
_log = logging.getLogger(__name__)
COLUMNS = ("execution_time", "table_version", "status", "run_id", "recorded_at")
_SCHEMA = pl.Schema(
    {
        "execution_time": pl.String,
        "table_version": pl.Int64,
        "status": pl.String,
        "run_id": pl.String,
        "recorded_at": pl.Datetime("us", "UTC"),
        "position": pl.String,
        "base": pl.Int64,
    }
)


def read_version_table(table_uri: str, storage_options: Mapping[str, str] | None = None) -> pl.DataFrame:
    """The versions that the partitions of a stateful merger left, in the order of the partitions.

    Args:
        table_uri: The data table, as in its metadata ``dagster/uri``.
        storage_options: How the object store is reached that the table is on; None for a local one.

    Returns:
        A row for each partition: ``execution_time`` (the partition key), ``table_version``, ``status`` (``current``, or
        ``superseded`` where an earlier partition was replayed since), ``run_id``, ``recorded_at``.

    Raises:
        MissingTableError: There is no table.
        UnsupportedStorageError: The table is on an object store and no options are given, or the other way round.
    """
    snapshot = open_table(root_of(table_uri.removesuffix(SUFFIX), storage_options))
    if snapshot is None:
        raise MissingTableError(
            f"the version table of {table_uri!r} was refused",
            why="there is no such table",
            mend="materialize its first partition, or give the path of the data table",
        )
    return version_frame(read_lineage(snapshot)).select(COLUMNS)


def version_table_of(table: AnyLakePath) -> AnyLakePath:
    """Directory of the version table."""
    return cast("AnyLakePath", table.with_name(table.name + SUFFIX))


def read_lineage(snapshot: Snapshot) -> Lineage:
    """The lineage of a table up to a snapshot: what is known of it, then the commits after that."""
    known = _last_read.lineage(snapshot) or _recorded(snapshot)
    lineage = known.extended(read_commits(snapshot.table, known.version, snapshot.version))
    _last_read.of = snapshot.table, snapshot.table_id, lineage
    return lineage


def write_version_table(table: LakePath) -> Lineage:
    """Bring the version table in line with the data table, where it is not.

    Args:
        table: Directory of the data table.

    Returns:
        What it holds then.
    """
    snapshot = open_table(table)
    if snapshot is None:
        return Lineage()
    lineage = read_lineage(snapshot)
    if lineage != _recorded(snapshot):

        def newest() -> tuple[pl.DataFrame, dict[str, object]]:
            current = open_table(table) or snapshot
            return _as_stored(read_lineage(current), current)

        replace_rows(version_table_of(table), newest, Window(), metadata={"pattern": "version_table"})
    return lineage


def _as_stored(lineage: Lineage, snapshot: Snapshot) -> tuple[pl.DataFrame, dict[str, object]]:
    """The rows of the version table, and what its commit notes about them."""
    return version_frame(lineage), {
        "of": snapshot.table_id,
        "version": lineage.version,
        "tip": lineage.tip,
        "unrecorded": list(lineage.unrecorded),
        "root": lineage.root,
        "root_known": lineage.root_known,
    }


class _LastRead(threading.local):
    """What this thread read last, for a run asks several times."""

    of: tuple[LakePath, str, Lineage] | None = None

    def lineage(self, snapshot: Snapshot) -> Lineage | None:
        table, table_id, lineage = self.of or (None, None, None)
        same = (table, table_id) == (snapshot.table, snapshot.table_id)
        return lineage if same and lineage and _is_past_of(lineage, snapshot) else None


_last_read = _LastRead()


def version_frame(lineage: Lineage) -> pl.DataFrame:
    """A lineage as rows of the version table, in the order of the partitions."""
    superseded = {record.partition for record in lineage.superseded}
    rows = [
        (
            r.partition,
            r.version,
            "superseded" if r.partition in superseded else "current",
            r.run_id,
            r.recorded_at,
            r.position,
            r.base,
        )
        for r in lineage.records.values()
    ]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _recorded(snapshot: Snapshot) -> Lineage:
    """The lineage as the version table has it; an empty one where it is not this table's, or not the platform's."""
    try:
        versions = open_table(version_table_of(snapshot.table))
        about = _about(versions) if versions else {}
        if versions is None or about.get("of") != snapshot.table_id:
            return Lineage()
        rows = versions.scan(Window()).sort("position").collect()
    except (OSError, DeltaError, pl.exceptions.PolarsError, PatternPlatformError) as error:
        _log.warning("the version table of %s cannot be read, and is rebuilt: %s", snapshot.table.name, error)
        return Lineage()
    records = (
        Record(r["position"], r["execution_time"], r["table_version"], r["run_id"], r["recorded_at"], r["base"])
        for r in rows.iter_rows(named=True)
    )
    lineage = Lineage(
        version=about["version"],
        tip=about["tip"],
        records={record.partition: record for record in records},
        unrecorded=tuple(about["unrecorded"]),
        root=about["root"],
        root_known=about["root_known"],
    )
    return lineage if _is_past_of(lineage, snapshot) else Lineage()


def _about(versions: Snapshot) -> dict[str, Any]:
    """What the platform noted when it wrote the version table last; nothing where someone else changed it since."""
    for version in range(versions.version, -1, -1):
        for _, metadata, data_change in read_commits(versions.table, version - 1, version):
            if "of" in metadata or data_change:
                return metadata
    return {}


def _is_past_of(lineage: Lineage, snapshot: Snapshot) -> bool:
    """Whether the lineage is of the log of this snapshot; a commit that was cleaned up is taken for the same."""
    if lineage.version > snapshot.version:
        return False
    commits = read_commits(snapshot.table, lineage.version - 1, lineage.version)
    return all(tip_of(metadata) == lineage.tip for _, metadata, _ in commits)
