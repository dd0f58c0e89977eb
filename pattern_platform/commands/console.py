"""What the commands share: where they write, how they refuse, how an hour is written."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Generator

console = Console()
HOUR = "%Y-%m-%d-%H:%M"


@contextmanager
def refusals() -> Generator[None]:
    """Tell what was refused, and end with exit code 1."""
    from pattern_platform.errors import PatternPlatformError  # noqa: PLC0415 - keeps --help fast

    try:
        yield
    except PatternPlatformError as error:
        console.print(f"[red]refused[/] {error}", soft_wrap=True)
        raise typer.Exit(1) from error


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
