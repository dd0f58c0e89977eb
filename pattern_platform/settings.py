"""Where the example platform keeps its data, and which days it covers. Set by environment variables."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

SAMPLE_ROWS_PER_HOUR, SAMPLE_SEED = 100, 7  # what the committed visits were generated with
_CHECKOUT = Path(__file__).resolve().parents[1]


class Settings(BaseSettings):
    """Settings of the example; each is read from ``PATTERN_PLATFORM_<NAME>``.

    Args:
        data: Folder of landed files (``landing``), tables (``lake``, ``warehouse``) and ``exports``.
        visits_from: First day of visits.
        visits_days: Number of days of visits.
        flights_days: Number of days of flights, from 1 January 2013.
        sessions_url: Server that keeps the sessions, ``redis://...`` or ``postgresql://...``; a DuckDB file where none.
    """

    model_config = SettingsConfigDict(env_prefix="PATTERN_PLATFORM_")

    data: Path = _CHECKOUT / "data"
    visits_from: date = date(2024, 5, 6)
    visits_days: int = 2
    flights_days: int = 3
    sessions_url: Annotated[str | None, Field(pattern=r"^(redis|rediss|postgresql)://")] = None

    @property
    def landing(self) -> Path:
        """Landed files."""
        return self.data / "landing"

    @property
    def lake(self) -> Path:
        """Delta tables."""
        return self.data / "lake"

    @property
    def warehouse(self) -> Path:
        """DuckDB files, one for each concern: a file has one holder at a time."""
        return self.data / "warehouse"

    @property
    def visits_end(self) -> date:
        """The day after the last day of visits."""
        return self.visits_from + timedelta(days=self.visits_days)
