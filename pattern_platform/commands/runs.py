"""`pattern-platform demo` and `backfill`: runs, in this process and in the queue."""

from __future__ import annotations

from time import sleep
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pattern_platform.commands.console import console, parse_hour, refusals

if TYPE_CHECKING:
    from pattern_platform.orchestration.backfill import Backfill, Standing

app = typer.Typer()
_SECONDS_BETWEEN_LOOKS = 0.5


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
    from pattern_platform.demo.story import run_demo  # noqa: PLC0415 - Dagster takes a second to import

    raise typer.Exit(run_demo(console, land=parse_hour(land) if land else None))


@app.command()
def backfill(
    select: Annotated[list[str], typer.Option(help="Key of an asset, as `raw/visits`; several go into each run.")],
    first: Annotated[str, typer.Option("--from", help="First partition, as the UI shows it.")],
    last: Annotated[str, typer.Option("--to", help="Last partition.")],
    url: Annotated[
        str, typer.Option(envvar="PATTERN_PLATFORM_WEBSERVER", help="The Dagster webserver.")
    ] = "http://127.0.0.1:3000",
    *,
    again: Annotated[bool, typer.Option("--again", help="Run what succeeded before, too.")] = False,
) -> None:
    """Materialize partitions in few runs, by way of the run queue, and show how far they are.

    A run takes up to 24 partitions, or what the backfill policies of the assets allow. What fails is repeated partition
    by partition. Interrupted with Ctrl-C, what is in the queue goes on, and the same command goes on from there. Exit
    code 1 when a partition failed.

    Example: `pattern-platform backfill --select raw/visits --from 2024-05-06-00:00 --to 2024-05-06-23:00`
    """
    from pattern_platform.orchestration.backfill import Backfill  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.orchestration.graphql.webserver import Webserver  # noqa: PLC0415

    with refusals():
        planned = Backfill(Webserver(url), select, first, last, again=again)
        try:
            standing = _follow(planned)
        except KeyboardInterrupt:
            console.print(
                "interrupted: what is in the queue goes on; the same command follows it, and submits the rest"
            )
            raise typer.Exit(130) from None
    if standing.failed:
        console.print(f"[red]failed[/] {', '.join(standing.failed)}", soft_wrap=True)
        raise typer.Exit(1)
    console.print(f"{planned.size} partitions of {', '.join(select)} are there")


def _follow(planned: Backfill) -> Standing:
    """Advance until it is over."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(", ".join(asset.key for asset in planned.assets), total=planned.size)
        while True:
            standing = planned.advance()
            done = standing.partitions.get("SUCCESS", 0)
            others = ", ".join(
                f"{n} {status.lower()}" for status, n in standing.partitions.items() if status != "SUCCESS"
            )
            progress.update(bar, completed=done, description=others or "done")
            if standing.is_over:
                return standing
            sleep(_SECONDS_BETWEEN_LOOKS)
