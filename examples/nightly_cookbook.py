# ruff: noqa: INP001 - a script of its own, no part of a package
"""A cookbook: the workflows of a night, one after the other, in the environment that the settings name.

    python examples/nightly_cookbook.py 2024-05-06
    PATTERN_PLATFORM_ENVIRONMENT=production python examples/nightly_cookbook.py 2024-05-06

Each workflow has a key, so that a night that was interrupted goes on with its own runs when it is started again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pattern_platform import PatternPlatformError, PlatformClient
from pattern_platform.settings import Settings

if TYPE_CHECKING:
    import polars as pl

_MOST_SECONDS = 3600


def nightly(client: PlatformClient, day: str) -> pl.LazyFrame:
    """Bring a day of likes in, then look after the tables.

    Returns:
        The likes as they were brought in, whatever has changed the table since.
    """
    ingested = client.submit("ingest_likes", partition=day, key=f"nightly {day}").wait(_MOST_SECONDS)
    client.submit("maintenance", key=f"nightly {day}").wait(_MOST_SECONDS)
    return ingested.outputs["raw/likes"].read()


def main(
    day: Annotated[str, typer.Argument(help="The day, as 2024-05-06.")],
    url: Annotated[str | None, typer.Option(help="Another webserver than that of the settings.")] = None,
) -> None:
    """Run the night of a day, and show what it brought."""
    try:
        likes = nightly(PlatformClient(url or Settings().webserver), day)
    except PatternPlatformError as error:
        typer.echo(f"refused {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(likes.collect())


if __name__ == "__main__":
    typer.run(main)
