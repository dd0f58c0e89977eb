"""`pattern-platform versions`, `published`, `hold` and `release`: what a table's versions are."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table

from pattern_platform.commands.console import console, refusals
from pattern_platform.settings import Settings

if TYPE_CHECKING:
    from pattern_platform.patterns.idempotency.proxy import ProxyIOManager

app = typer.Typer()
_SHOWN_OF_A_VERSION = ("version", "rows", "loaded_at", "audits", "legal_hold", "removed_at")


@app.command()
def versions(
    asset: Annotated[str, typer.Argument(help="Key of an asset that a stateful merger stores, as `clean/devices`.")],
) -> None:
    """Show which partition left which version of a table, and what waits for its replay.

    Example: `pattern-platform versions clean/devices`
    """
    from pattern_platform.lake.lineage import replay_commands  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.lake.version_table import read_version_table  # noqa: PLC0415

    with refusals():
        settings = Settings()
        uri = str(settings.lake.joinpath(*asset.split("/")))
        found = read_version_table(uri, settings.storage.options)
    table = Table(*found.columns, title=asset)
    for row in found.iter_rows():
        table.add_row(*map(str, row), style="yellow" if row[2] == "superseded" else None)
    console.print(table)
    if superseded := found.filter(status="superseded")["execution_time"].to_list():
        console.print(
            f"[yellow]superseded[/], replay in this order:\n{replay_commands(asset, superseded)}", soft_wrap=True
        )


@app.command()
def published(
    view: Annotated[str, typer.Argument(help="Key of a published asset, as `published/device_catalogue`.")],
) -> None:
    """Show the versions behind a published name: which is shown, which are under a legal hold, which are removed.

    Example: `pattern-platform published published/device_catalogue`
    """
    import dagster as dg  # noqa: PLC0415 - keeps --help fast

    from pattern_platform.warehouse.database import connected  # noqa: PLC0415
    from pattern_platform.warehouse.publications import Publications  # noqa: PLC0415
    from pattern_platform.warehouse.versions import Versions  # noqa: PLC0415

    with refusals(), connected(_catalogue()) as connection:
        shown = Publications.of(connection, dg.AssetKey.from_user_string(view)).current()
        if shown is None:
            console.print(f"[red]refused[/] nothing was published as {view}")
            raise typer.Exit(1)
        found = Versions.of(connection, dg.AssetKey.from_user_string(shown["asset"])).rows.sort("version")
    table = Table(*_SHOWN_OF_A_VERSION, title=f"{view}, versions of {shown['asset']}")
    for row in found.iter_rows(named=True):
        cells = (row[column] for column in _SHOWN_OF_A_VERSION)
        table.add_row(*map(_cell, cells), style="green" if row["version"] == shown["version"] else None)
    console.print(table)
    console.print(
        f"shown is version {shown['version']}, since {shown['published_at']:%Y-%m-%d %H:%M} ({shown['action']})"
    )


Asset = Annotated[str, typer.Argument(help="Key of a loading asset, as `internal/device_catalogue`.")]
Version = Annotated[int, typer.Argument(help="The version.")]


@app.command()
def hold(asset: Asset, version: Version, reason: Annotated[str, typer.Option(help="Why it must be kept.")]) -> None:
    """Put a version under a legal hold, so that no retention removes it.

    Example: `pattern-platform hold internal/device_catalogue 3 --reason "case 17"`
    """
    _set_legal_hold(asset, version, reason)
    console.print(f"version {version} of {asset} is on hold: {reason}")


@app.command()
def release(asset: Asset, version: Version) -> None:
    """Lift the legal hold on a version.

    Example: `pattern-platform release internal/device_catalogue 3`
    """
    _set_legal_hold(asset, version, None)
    console.print(f"version {version} of {asset} is not on hold")


def _set_legal_hold(asset: str, version: int, reason: str | None) -> None:
    import dagster as dg  # noqa: PLC0415 - keeps --help fast

    from pattern_platform.warehouse.database import transaction  # noqa: PLC0415
    from pattern_platform.warehouse.versions import Versions  # noqa: PLC0415

    with refusals(), transaction(_catalogue()) as connection:
        Versions.of(connection, dg.AssetKey.from_user_string(asset)).held(version, reason).write(connection)


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)


def _catalogue() -> str:
    """The DuckDB file of the published names."""
    from pattern_platform.resources import warehouse_and_exports  # noqa: PLC0415 - keeps --help fast

    database = cast("ProxyIOManager", warehouse_and_exports(Settings())["proxy"]).database
    if not Path(database).exists():
        console.print("[red]refused[/] nothing was loaded yet")
        raise typer.Exit(1)
    return database
