"""`pattern-platform catalogue`: every table, what it holds and whose it is, as pages and as a data dictionary."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pattern_platform.commands.console import console, refusals
from pattern_platform.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

app = typer.Typer()


@app.command()
def catalogue(
    output: Annotated[Path, typer.Option(help="Folder of the site; an earlier one in it is replaced.")] = Path("site"),
    generated_at: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%dT%H:%M"], help="The time that the pages tell; now when absent.")
    ] = None,
) -> None:
    """Write the catalogue of all tables as a static site, with `dictionary.csv` in it.

    It opens in a browser without a server. With `DAGSTER_HOME` set it tells when tables were made.

    Example: `pattern-platform catalogue --output site`
    """
    from pattern_platform.dashboards.definitions import defs as dashboards  # noqa: PLC0415 - Dagster takes a second
    from pattern_platform.definitions import defs as platform  # noqa: PLC0415
    from pattern_platform.operations.catalogue.entries import catalogue_entries  # noqa: PLC0415
    from pattern_platform.operations.catalogue.site import pages, write_site  # noqa: PLC0415

    with refusals():
        entries = catalogue_entries([platform, dashboards], _instance(), Settings().lake)
        moment = generated_at.replace(tzinfo=UTC) if generated_at else datetime.now(UTC)
        write_site(output, pages(entries, moment))
    gaps = [gap for entry in entries for gap in entry.gaps]
    for gap in gaps:
        console.print(f"[yellow]gap[/] {gap}", soft_wrap=True)
    console.print(f"{len(entries)} tables are described in {output / 'index.html'}", soft_wrap=True)


def _instance() -> dg.DagsterInstance | None:
    """The instance that runs are recorded in, where there is one."""
    import dagster as dg  # noqa: PLC0415 - keeps --help fast

    return dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else None
