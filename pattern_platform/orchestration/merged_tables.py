"""Merged tables in Dagster: the version table as an asset, and checks of what no single partition tells."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
import polars as pl

from pattern_platform.lake.object_path import LakePath, storage_options
from pattern_platform.lake.snapshot import open_table
from pattern_platform.lake.version_table import (
    COLUMNS,
    SUFFIX,
    read_version_table,
    version_frame,
    version_table_of,
    write_version_table,
)
from pattern_platform.lake.window import Window
from pattern_platform.orchestration.checks import replay_result

if TYPE_CHECKING:
    from pattern_platform.lake.io_manager import DeltaIOManager

_MOST_SHOWN = 100


def version_table_asset(asset: dg.AssetKey, io_manager_key: str, **arguments: Any) -> dg.AssetsDefinition:  # noqa: ANN401
    """The version table as an asset: brought in line with the commits of the data table, and shown.

    Args:
        asset: The asset whose versions they are. Its runs bring the version table in line as well.
        io_manager_key: Its IO manager.
        arguments: What else ``dagster.asset`` takes, such as ``group_name`` and ``automation_condition``.
    """

    @dg.asset(
        key=[*asset.path[:-1], asset.path[-1] + SUFFIX],
        description=f"Which partition of {asset.to_user_string()} left which version, and what waits for its replay.",
        deps=[asset],
        required_resource_keys={io_manager_key},
        **arguments,
    )
    def version_table(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        table = _table(context.resources, io_manager_key, asset)
        versions = version_frame(write_version_table(table)).select(COLUMNS)
        shown = versions.tail(_MOST_SHOWN).with_columns(pl.col("recorded_at").cast(pl.String))
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": versions.height,
                "dagster/uri": str(version_table_of(table)),
                "delta/superseded_partitions": _superseded(versions),
                "versions": dg.MetadataValue.table([dg.TableRecord(row) for row in shown.to_dicts()]),
            }
        )

    return version_table


def superseded_check(asset: dg.AssetKey, io_manager_key: str) -> dg.AssetChecksDefinition:
    """A check that fails while a partition waits for its replay. It does not block: replays run while others wait.

    Args:
        asset: The asset.
        io_manager_key: Its IO manager.
    """

    @dg.asset_check(
        asset=asset,
        name="no_superseded_partition",
        description="Every partition was merged after the partitions before it.",
        required_resource_keys={io_manager_key},
    )
    def no_superseded_partition(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        table = _table(context.resources, io_manager_key, asset)
        versions = read_version_table(str(table), storage_options(table))
        return replay_result(asset, _superseded(versions), named="superseded", partitions=versions.height)

    return no_superseded_partition


def unique_in_table_check(asset: dg.AssetKey, columns: Sequence[str], io_manager_key: str) -> dg.AssetChecksDefinition:
    """A blocking check that some columns identify a row of the whole table, whichever partition wrote it.

    Args:
        asset: The asset.
        columns: Columns of the key.
        io_manager_key: Its IO manager.
    """

    @dg.asset_check(
        asset=asset,
        name="unique_" + "_".join(columns),
        description=f"{', '.join(columns)}: unique in the whole table, and never null.",
        blocking=True,
        required_resource_keys={io_manager_key},
    )
    def is_unique(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        snapshot = open_table(_table(context.resources, io_manager_key, asset))
        keys = snapshot.scan(Window()).select(columns).collect() if snapshot else pl.DataFrame()
        duplicated = int(keys.is_duplicated().sum()) if keys.height else 0
        null = sum(keys.null_count().row(0)) if keys.height else 0
        return dg.AssetCheckResult(
            passed=not duplicated and not null, metadata={"rows": keys.height, "duplicated": duplicated, "null": null}
        )

    return is_unique


def _table(resources: Any, io_manager_key: str, asset: dg.AssetKey) -> LakePath:  # noqa: ANN401 - a class made at run time
    manager = getattr(resources, io_manager_key)
    return cast("DeltaIOManager", manager).table_path(asset)


def _superseded(versions: pl.DataFrame) -> list[str]:
    return versions.filter(pl.col("status") == "superseded")["execution_time"].to_list()
