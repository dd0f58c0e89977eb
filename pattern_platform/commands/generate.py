"""`pattern-platform generate`: sample files, as sources would deliver them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pattern_platform.commands.console import console, parse_hour
from pattern_platform.settings import SAMPLE_ROWS_PER_HOUR, SAMPLE_SEED, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

app = typer.Typer(help="Land sample files.", no_args_is_help=True)

Days = Annotated[int, typer.Option(min=1, help="Number of days.")]
Seed = Annotated[int, typer.Option(help="The same seed makes the same files.")]
FirstDay = Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")]
Landing = Annotated[Path | None, typer.Option(help="Folder of landed files; the configured one when absent.")]


def _land(landing: Path | None, write: Callable[[Path], Sequence[Path]]) -> None:
    folder = landing or Settings().landing
    console.print(f"{len(write(folder))} files landed below {folder}")


def _date(first_day: datetime | None) -> date:
    from pattern_platform.datasets import FIRST_DAY  # noqa: PLC0415 - keeps --help fast

    return first_day.date() if first_day else FIRST_DAY


@app.command("visits")
def generate_visits(
    days: Days = 2,
    rows_per_hour: Annotated[int, typer.Option(min=0, help="Visits of an average hour.")] = SAMPLE_ROWS_PER_HOUR,
    seed: Seed = SAMPLE_SEED,
    first_day: FirstDay = None,
    withhold: Annotated[list[str] | None, typer.Option(help="Hours that do not land, as 2024-05-07-13:00.")] = None,
    landing: Landing = None,
) -> None:
    """Land made-up visits of a blog, with dirt at the rates that `pattern_platform.visits.generator` documents."""
    from pattern_platform.visits.generator import write_days  # noqa: PLC0415 - keeps --help fast

    _land(
        landing,
        lambda folder: write_days(
            folder,
            _date(first_day),
            days=days,
            rows_per_hour=rows_per_hour,
            seed=seed,
            withhold=[parse_hour(hour) for hour in withhold or ()],
        ),
    )


@app.command("users")
def generate_users(
    days: Days = 2,
    seed: Seed = SAMPLE_SEED,
    first_day: FirstDay = None,
    landing: Landing = None,
) -> None:
    """Land made-up changes of the blog's users, with the dirt that `pattern_platform.visits.user_changes` documents."""
    from pattern_platform.visits.user_changes import write_hours  # noqa: PLC0415 - keeps --help fast

    _land(landing, lambda folder: write_hours(folder, _date(first_day), days=days, seed=seed))


@app.command("devices")
def generate_devices(
    *,
    correct: Annotated[bool, typer.Option("--correct", help="Only the correction, in place of its day.")] = False,
    landing: Landing = None,
) -> None:
    """Land five days of updates of devices, as delivered first, or the correction of one of them."""
    from pattern_platform.visits.device_updates import write_correction, write_days  # noqa: PLC0415 - keeps --help fast

    _land(landing, lambda folder: [write_correction(folder)] if correct else write_days(folder))


@app.command("flights")
def generate_flights(
    *, full: Annotated[bool, typer.Option(help="The whole year, 336,776 flights.")] = False, landing: Landing = None
) -> None:
    """Land the New York flights of 2013 (needs the extra `pattern-platform[flights]`)."""
    from pattern_platform.datasets import DATASETS  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.flights.generator import write_days  # noqa: PLC0415
    from pattern_platform.ingestion.routing import definition_of  # noqa: PLC0415

    days = None if full else len(definition_of(DATASETS["flights"]).get_partition_keys())
    _land(landing, lambda folder: write_days(folder, days=days))
    if full:
        console.print("Set `ends` of flights to 2014-01-01 in the registry, so that Dagster knows the days.")


@app.command("likes")
def generate_likes(
    days: Days = 2,
    likes: Annotated[int, typer.Option(min=0, help="Likes of a day.")] = 240,
    seed: Seed = SAMPLE_SEED,
    first_day: FirstDay = None,
    landing: Landing = None,
) -> None:
    """Land made-up likes of the blog's posts."""
    from pattern_platform.visits.like_files import write_days  # noqa: PLC0415 - keeps --help fast

    _land(landing, lambda folder: write_days(folder, _date(first_day), days=days, likes=likes, seed=seed))


@app.command("comments")
def generate_comments(
    days: Days = 2,
    comments: Annotated[int, typer.Option(min=0, help="Comments written in an hour.")] = 10,
    seed: Seed = SAMPLE_SEED,
    first_day: FirstDay = None,
    landing: Landing = None,
) -> None:
    """Land made-up comments, some of which arrive late."""
    from pattern_platform.visits.comment_files import write_days  # noqa: PLC0415

    _land(landing, lambda folder: write_days(folder, _date(first_day), days=days, comments=comments, seed=seed))


@app.command("page-speed")
def generate_page_speed(
    region: Annotated[list[str] | None, typer.Option(help="Regions; those of the sample when absent.")] = None,
    landing: Landing = None,
) -> None:
    """Land made-up measurements of page loads, a file for each region."""
    from pattern_platform.visits.page_speed_files import REGIONS, write_regions  # noqa: PLC0415 - keeps --help fast

    _land(landing, lambda folder: write_regions(folder, region or REGIONS))


@app.command("ad-prices")
def generate_ad_prices() -> None:
    """Write the prices of advertisements as a partner does, with delta-rs alone."""
    from pattern_platform.dashboards.partner import write_prices  # noqa: PLC0415 - keeps --help fast

    settings = Settings()
    write_prices(str(settings.lake), storage_options=settings.storage.options)
    console.print(f"a version of partners/ad_prices was written below {settings.lake}")
