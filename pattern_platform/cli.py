"""The ``pattern-platform`` command."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from pattern_platform.settings import SAMPLE_ROWS_PER_HOUR, SAMPLE_SEED, Settings

if TYPE_CHECKING:
    from collections.abc import Generator

    from pattern_platform.patterns.idempotency.proxy import ProxyIOManager

app = typer.Typer(help="A Dagster data platform on Delta Lake.", no_args_is_help=True, rich_markup_mode="markdown")
generate = typer.Typer(help="Land sample files.", no_args_is_help=True)
app.add_typer(generate, name="generate")

console = Console()
HOUR = "%Y-%m-%d-%H:%M"
_SHOWN_OF_A_VERSION = ("version", "rows", "loaded_at", "audits", "legal_hold", "removed_at")

Landing = Annotated[Path | None, typer.Option(help="Folder of landed files; the configured one when absent.")]


@generate.command("visits")
def generate_visits(
    days: Annotated[int, typer.Option(min=1, help="Number of days.")] = 2,
    rows_per_hour: Annotated[int, typer.Option(min=0, help="Visits of an average hour.")] = SAMPLE_ROWS_PER_HOUR,
    seed: Annotated[int, typer.Option(help="The same seed makes the same files.")] = SAMPLE_SEED,
    first_day: Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")] = None,
    withhold: Annotated[list[str] | None, typer.Option(help="Hours that do not land, as 2024-05-07-13:00.")] = None,
    landing: Landing = None,
) -> None:
    """Land made-up visits of a blog, with dirt at the rates that `pattern_platform.visits.generator` documents."""
    from pattern_platform.visits.generator import write_days  # noqa: PLC0415 - keeps --help fast

    settings = Settings()
    files = write_days(
        landing or settings.landing,
        first_day.date() if first_day else settings.visits_from,
        days=days,
        rows_per_hour=rows_per_hour,
        seed=seed,
        withhold=[parse_hour(hour) for hour in withhold or ()],
    )
    console.print(f"{len(files)} files landed below {landing or settings.landing}")


@generate.command("users")
def generate_users(
    days: Annotated[int, typer.Option(min=1, help="Number of days.")] = 2,
    seed: Annotated[int, typer.Option(help="The same seed makes the same files.")] = SAMPLE_SEED,
    first_day: Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")] = None,
    landing: Landing = None,
) -> None:
    """Land made-up changes of the blog's users, with the dirt that `pattern_platform.visits.user_changes` documents."""
    from pattern_platform.visits.user_changes import write_hours  # noqa: PLC0415 - keeps --help fast

    settings = Settings()
    files = write_hours(
        landing or settings.landing,
        first_day.date() if first_day else settings.visits_from,
        days=days,
        seed=seed,
    )
    console.print(f"{len(files)} files landed below {landing or settings.landing}")


@generate.command("devices")
def generate_devices(
    *,
    correct: Annotated[bool, typer.Option("--correct", help="Only the correction, in place of its day.")] = False,
    landing: Landing = None,
) -> None:
    """Land five days of updates of devices, as delivered first, or the correction of one of them."""
    from pattern_platform.visits.device_updates import write_correction, write_days  # noqa: PLC0415 - keeps --help fast

    folder = landing or Settings().landing
    files = [write_correction(folder)] if correct else write_days(folder)
    console.print(f"{len(files)} files landed below {folder}")


@generate.command("flights")
def generate_flights(
    *, full: Annotated[bool, typer.Option(help="The whole year, 336,776 flights.")] = False, landing: Landing = None
) -> None:
    """Land the New York flights of 2013 (needs the extra `pattern-platform[flights]`)."""
    from pattern_platform.flights.generator import write_days  # noqa: PLC0415 - keeps --help fast

    settings = Settings()
    files = write_days(landing or settings.landing, days=None if full else settings.flights_days)
    console.print(f"{len(files)} files landed below {landing or settings.landing}")
    if full:
        console.print("Set PATTERN_PLATFORM_FLIGHTS_DAYS=365 so that Dagster knows the days.")


@app.command()
def demo(
    land: Annotated[
        str | None, typer.Option(help="First let this late hour of visits arrive, and run only what waits for it.")
    ] = None,
) -> None:
    """Materialize the example platform for the sample days.

    Exit code 0 when every asset that could run and every blocking check succeeded. An hour whose file has not arrived
    withholds its day and is no failure.
    """
    from pattern_platform.demo import run_demo  # noqa: PLC0415 - Dagster takes a second to import

    raise typer.Exit(run_demo(console, land=parse_hour(land) if land else None))


@app.command()
def versions(
    asset: Annotated[str, typer.Argument(help="Key of an asset that a stateful merger stores, as `clean/devices`.")],
) -> None:
    """Show which partition left which version of a table, and what waits for its replay.

    Example: `pattern-platform versions clean/devices`
    """
    from pattern_platform.lake.lineage import replay_commands  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.lake.version_table import read_version_table  # noqa: PLC0415

    with _refusals():
        found = read_version_table(str(Settings().lake.joinpath(*asset.split("/"))))
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

    with _refusals(), connected(_catalogue()) as connection:
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

    with _refusals(), transaction(_catalogue()) as connection:
        Versions.of(connection, dg.AssetKey.from_user_string(asset)).held(version, reason).write(connection)


@contextmanager
def _refusals() -> Generator[None]:
    """Tell what was refused, and end with exit code 1."""
    from pattern_platform.errors import PatternPlatformError  # noqa: PLC0415 - keeps --help fast

    try:
        yield
    except PatternPlatformError as error:
        console.print(f"[red]refused[/] {error}", soft_wrap=True)
        raise typer.Exit(1) from error


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


def parse_hour(text: str) -> datetime:
    """An hour as a partition key writes it, in UTC.

    Raises:
        typer.BadParameter: The text is no hour.
    """
    try:
        return datetime.strptime(text, HOUR).replace(tzinfo=UTC)
    except ValueError as error:
        message = f"{text!r} is no hour; write it as 2024-05-07-13:00"
        raise typer.BadParameter(message) from error


if __name__ == "__main__":
    app()
