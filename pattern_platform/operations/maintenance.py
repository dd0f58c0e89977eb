"""Upkeep of every table as assets: compaction, vacuum, checkpoints, and the report of orphans, once a night.

One table that fails stops none of the others; the run fails at its end with all of their reasons.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg
import polars as pl
from deltalake.exceptions import DeltaError

from pattern_platform.errors import PatternPlatformError
from pattern_platform.lake.declarations import MergerDeclaration, parse
from pattern_platform.lake.io_manager import DeltaIOManager, Durability
from pattern_platform.lake.maintenance import checkpoint, compact, orphans, vacuum
from pattern_platform.lake.object_path import LakePath
from pattern_platform.lake.snapshot import open_table
from pattern_platform.lake.version_table import version_table_of
from pattern_platform.patterns.idempotency.merger import quarantine_of

_MOST_SHOWN = 100


class Upkeep(dg.Config):
    """How old a file must be before it is touched.

    Args:
        retention_hours: How long a file that left its table is kept for readers of older versions.
        longest_run_hours: The longest that a run may take, as ``run_monitoring.max_runtime_seconds`` says.
    """

    retention_hours: float = 168
    longest_run_hours: float = 2


@dataclass(frozen=True)
class _Table:
    """A table to look after.

    Args:
        name: Of the asset, with the suffix of a side table.
        path: Directory of the table.
        sort_by: Columns that its rows are looked up by; None where each partition has files of its own.
        durable: Whether writes are synced to the disk.
    """

    name: str
    path: LakePath
    sort_by: tuple[str, ...] | None
    durable: bool


def maintenance_assets(
    assets: Iterable[dg.AssetsDefinition], managers: Mapping[str, DeltaIOManager], *, owners: Sequence[str]
) -> list[dg.AssetsDefinition]:
    """The upkeep of every table that one of the IO managers stores, side tables included.

    Args:
        assets: The assets of a code location.
        managers: IO managers, by the keys that the assets name.
        owners: Who looks after the upkeep.
    """
    tables = list(_tables(assets, managers))
    common: dict[str, Any] = {
        "key_prefix": "maintenance",
        "group_name": "maintenance",
        "owners": owners,
        "kinds": {"deltalake"},
        "code_version": "1",
    }

    @dg.asset(description="Small files of the merged tables are rewritten as larger ones; no row changes.", **common)
    def compaction() -> dg.MaterializeResult:
        merged = [table for table in tables if table.sort_by]  # the others keep the files of a partition together

        def done(table: _Table) -> dict[str, Any]:
            commits = compact(table.path, sort_by=table.sort_by or (), durable=table.durable)
            return {
                "files_removed": sum(commit.change_set.remove.height for commit in commits),
                "files_added": sum(len(commit.change_set.add) for commit in commits),
                "version": commits[-1].version if commits else None,
            }

        return _each(merged, done)

    @dg.asset(
        description="Files that left their table before the retention are removed, but none of a recorded version.",
        deps=[compaction],
        **common,
    )
    def vacuumed(config: Upkeep) -> dg.MaterializeResult:
        retention = timedelta(hours=config.retention_hours)
        longest_run = timedelta(hours=config.longest_run_hours)
        return _each(
            tables,
            lambda table: {"files_removed": len(vacuum(table.path, retention=retention, longest_run=longest_run))},
        )

    @dg.asset(
        description="A checkpoint of each table, and its log without what is older than 30 days.",
        deps=[vacuumed],
        **common,
    )
    def checkpoints() -> dg.MaterializeResult:
        def done(table: _Table) -> dict[str, Any]:
            checkpoint(table.path)
            return {}

        return _each(tables, done)

    @dg.asset(description="Files that no version names, as interrupted runs leave them. None is removed.", **common)
    def orphan_report(config: Upkeep) -> dg.MaterializeResult:
        older_than = timedelta(hours=config.longest_run_hours)

        def found(table: _Table) -> dict[str, Any]:
            files = orphans(table.path, older_than=older_than)
            return {"orphans": files.height, "bytes": int(files["size_bytes"].sum())}

        return _each(tables, found)

    return [compaction, vacuumed, checkpoints, orphan_report]


def _tables(assets: Iterable[dg.AssetsDefinition], managers: Mapping[str, DeltaIOManager]) -> Iterator[_Table]:
    for definition in assets:
        for spec in definition.specs:
            manager = managers.get(definition.get_io_manager_key_for_asset_key(spec.key))
            if manager is None or not definition.is_executable:
                continue
            name, path = spec.key.to_user_string(), manager.table_path(spec.key)
            declared = parse(manager.declaration, spec.metadata, of=f"asset {name!r}")
            durable = manager.durability is Durability.FSYNC
            keys = declared.merge_keys if isinstance(declared, MergerDeclaration) else None
            yield _Table(name, path, keys, durable)
            for side in (version_table_of(path), quarantine_of(path)):
                yield _Table(f"{name}{side.name.removeprefix(path.name)}", side, None, durable)


def _each(tables: Iterable[_Table], work: Callable[[_Table], dict[str, Any]]) -> dg.MaterializeResult:
    done, failed = [], []
    for table in tables:
        try:
            if open_table(table.path) is not None:
                done.append({"table": table.name, **work(table)})
        except (OSError, DeltaError, pl.exceptions.PolarsError, PatternPlatformError) as error:
            failed.append(f"{table.name}: {error}")
    if failed:
        raise dg.Failure(description="\n\n".join(failed), metadata={"done": len(done), "failed": len(failed)})
    records = [dg.TableRecord(record) for record in done[:_MOST_SHOWN]]
    return dg.MaterializeResult(
        metadata={"tables": len(done), **({"done": dg.MetadataValue.table(records)} if records else {})}
    )
