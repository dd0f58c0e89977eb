"""Write, audit, publish in Dagster: audits as checks, the publication and the retention as assets."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, cast

import dagster as dg
import polars as pl

from pattern_platform.errors import MissingTableError, UnauditedVersionError
from pattern_platform.lake.checks import listed
from pattern_platform.lake.immutable import remove_table
from pattern_platform.lake.pins import pin
from pattern_platform.lake.schema import column_schema
from pattern_platform.lake.whole_file import whole_file
from pattern_platform.lake.window import Window
from pattern_platform.warehouse.database import connected, transaction
from pattern_platform.warehouse.names import refuse_reserved
from pattern_platform.warehouse.publications import Publications, files_of, shown_versions
from pattern_platform.warehouse.versions import Versions, snapshot_of


class Publish(dg.Config):
    """What is published.

    Args:
        version: The version, an earlier one for a roll back. Where there is none, the one that the run loaded, or the
            newest.
    """

    version: int | None = None


class Retention(dg.Config):
    """Which versions are removed: those that are older, but none of the newest, none that is shown, none on hold.

    Args:
        keep: How many of the newest versions stay, whatever their age.
        days: How long a version stays after it was loaded; at least as long as a reader may take.
    """

    keep: int = 5
    days: float = 30


class _Proxy(Protocol):
    """The IO manager of the views."""

    database: str

    def folder_of(self, key: dg.AssetKey) -> Path: ...


def audit_check(
    asset: dg.AssetKey,
    name: str,
    examine: Callable[[pl.LazyFrame], dg.AssetCheckResult],
    io_manager_key: str,
    *,
    description: str,
    register: Callable[[Any, str], None] | None = None,
    needs: AbstractSet[str] = frozenset(),
) -> dg.AssetChecksDefinition:
    """A blocking check of the version that nobody sees yet; the publication asks for its outcome.

    It looks at the version that its run loaded, or at the newest where its run loaded none.

    Args:
        asset: The loading asset.
        name: Name of the check, as the publication names it.
        examine: Gets the rows of that version.
        io_manager_key: The IO manager of the views.
        description: What is examined.
        register: Registers what is to be examined, with the resources and the run, where no IO manager has done so.
        needs: Keys of the resources that it uses.
    """

    @dg.asset_check(
        asset=asset,
        name=name,
        description=description,
        blocking=True,
        required_resource_keys={io_manager_key, *needs},
    )
    def audit(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        proxy = _proxy(context.resources, io_manager_key)
        if register:
            register(context.resources, context.run.run_id)
        with connected(proxy.database) as connection:
            candidate = _candidate(Versions.of(connection, asset), context.run.run_id)
        result = examine(snapshot_of(candidate).scan(Window()))
        with transaction(proxy.database) as connection:
            versions = Versions.of(connection, asset)
            versions.audited(candidate["version"], name, passed=bool(result.passed)).write(connection)
        return result

    return audit


def publication_asset(
    asset: dg.AssetKey,
    io_manager_key: str,
    *,
    audits: Sequence[str],
    **arguments: Any,  # noqa: ANN401 - those of dagster.asset
) -> dg.AssetsDefinition:
    """The view that consumers know: a run moves it to the newest version, or to the one that it names.

    Args:
        asset: The loading asset.
        io_manager_key: The IO manager of the views.
        audits: Names of the :func:`audit_check` that a version must have passed before it is shown.
        arguments: What else ``dagster.asset`` takes, ``key`` among them: it names the view.
    """

    @dg.asset(
        deps=[asset],
        required_resource_keys={io_manager_key},
        io_manager_key=io_manager_key,
        **arguments,
    )
    def publication(context: dg.AssetExecutionContext, config: Publish) -> dg.MaterializeResult:
        proxy = _proxy(context.resources, io_manager_key)
        refuse_reserved(context.asset_key)
        manifest = proxy.folder_of(context.asset_key) / "_symlink_format_manifest" / "manifest"
        with transaction(proxy.database) as connection:
            versions = Versions.of(connection, asset)
            candidate = _candidate(versions, context.run.run_id)["version"]
            version = versions.get(candidate if config.version is None else config.version)
            if missing := sorted(set(audits) - set(version["audits"])):
                raise UnauditedVersionError(
                    f"version {version['version']} of {versions.asset!r} was not published",
                    why=f"it has not passed {listed(missing)}",
                    mend=f"see the checks of {versions.asset!r}; mend the load and materialize it again",
                )
            publications = Publications.of(connection, context.asset_key)
            shown = publications.current()
            if config.version is None and shown and _is_later(shown, version):
                version = versions.get(shown["version"])  # of a run that loaded after this one, and was faster
            moved = publications.move(connection, versions.asset, version, context.run.run_id)
            snapshot = snapshot_of(version)
        with whole_file(manifest) as unfinished:  # after the view: it never shows what the view does not show yet
            unfinished.write_text("".join(f"{file}\n" for file in files_of(snapshot)))
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": version["rows"],
                "dagster/uri": version["uri"],
                "dagster/column_schema": column_schema(snapshot.schema),
                "proxy/version": version["version"],
                "proxy/action": moved or "none: it was shown already",
                "proxy/manifest": str(manifest),
            }
        )

    return publication


def shown_check(view: dg.AssetKey, io_manager_key: str) -> dg.AssetChecksDefinition:
    """A blocking check that a view shows the version that its registry names, with as many rows as were loaded.

    Args:
        view: The published asset.
        io_manager_key: The IO manager of the views.
    """

    @dg.asset_check(
        asset=view,
        name="shows_its_version",
        description="The view shows the version that is registered as published, whole.",
        blocking=True,
        required_resource_keys={io_manager_key},
    )
    def shows_its_version(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with connected(_proxy(context.resources, io_manager_key).database) as connection:
            publications = Publications.of(connection, view)
            current = publications.current()
            if current is None:
                return dg.AssetCheckResult(passed=False, description="nothing was published")
            there = publications.table.exists(connection)
            shown = len(connection.table(publications.table.sql())) if there else None
            versions = Versions.of(connection, dg.AssetKey.from_user_string(current["asset"]))
            loaded = versions.get(current["version"])["rows"]
        return dg.AssetCheckResult(
            passed=shown == loaded, metadata={"version": current["version"], "shown": shown, "loaded": loaded}
        )

    return shows_its_version


def retention_asset(
    asset: dg.AssetKey,
    io_manager_key: str,
    **arguments: Any,  # noqa: ANN401 - those of dagster.asset
) -> dg.AssetsDefinition:
    """Old versions, removed.

    Args:
        asset: The loading asset.
        io_manager_key: The IO manager of the views.
        arguments: What else ``dagster.asset`` takes, such as ``key`` and ``group_name``.
    """

    @dg.asset(
        description=f"Old versions of {asset.to_user_string()}, removed; none that is shown or on legal hold.",
        deps=[asset],
        required_resource_keys={io_manager_key},
        **arguments,
    )
    def retention(context: dg.AssetExecutionContext, config: Retention) -> dg.MaterializeResult:
        proxy = _proxy(context.resources, io_manager_key)
        before = datetime.now(UTC) - timedelta(days=config.days)
        with transaction(proxy.database) as connection:
            versions = Versions.of(connection, asset)
            old = (
                versions.rows.sort("version")
                .head(-max(config.keep, 1))
                .filter(pl.col("removed_at").is_null(), pl.col("legal_hold").is_null(), pl.col("loaded_at") < before)
            )
            removed = sorted(set(old["version"]) - shown_versions(connection, versions.asset))
            versions = versions.removed(removed)
            versions.write(connection)
        # The registry first: a run that dies here leaves tables that nobody finds, and the next one removes them.
        _remove_tables(proxy.folder_of(asset), versions, before)
        with transaction(proxy.database) as connection:
            pin_registered(Versions.of(connection, asset), proxy.folder_of(asset))
        held = versions.rows.drop_nulls("legal_hold")["version"].to_list()
        return dg.MaterializeResult(metadata={"proxy/removed": removed, "proxy/under_legal_hold": held})

    return retention


def _remove_tables(folder: Path, versions: Versions, before: datetime) -> None:
    """Remove the tables of removed versions, and what interrupted loads left that are old enough."""
    live = set(versions.rows.filter(pl.col("removed_at").is_null())["uri"])
    registered = set(versions.rows["uri"])
    if (folder / "_delta_log").exists():
        return  # one table with versions of its own: its vacuum removes the files
    for table in folder.glob("*/"):
        modified = datetime.fromtimestamp(table.stat().st_mtime, UTC)
        if str(table) not in live and (str(table) in registered or modified < before):
            remove_table(table)


def pin_registered(versions: Versions, folder: Path) -> None:
    """Keep a vacuum from the versions that are registered and not removed, of tables that have more than one.

    Args:
        versions: The versions, inside a transaction: whoever registers another waits.
        folder: Folder of the tables that are written once.
    """
    for (uri,), rows in versions.rows.group_by("uri"):
        table = Path(str(uri))
        if table.parent != folder and table.exists():
            pin(table, rows.filter(pl.col("removed_at").is_null())["delta_version"])


def _is_later(shown: Mapping[str, Any], version: Mapping[str, Any]) -> bool:
    return shown["asset"] == version["asset"] and shown["version"] > version["version"]


def _candidate(versions: Versions, run_id: str) -> dict[str, Any]:
    """The version that a run loaded, or the newest where it loaded none: other runs may load at the same time."""
    newest = versions.newest(of_run=run_id) or versions.newest()
    if newest is None:
        raise MissingTableError(
            f"no version of {versions.asset!r} was found",
            why="nothing was loaded",
            mend=f"materialize {versions.asset!r} first",
        )
    return newest


def _proxy(resources: Any, io_manager_key: str) -> _Proxy:  # noqa: ANN401 - a class made at run time
    return cast("_Proxy", getattr(resources, io_manager_key))
