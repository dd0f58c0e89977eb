"""Two days of visits that have come in, once for each process of pytest, and for each test a copy to go on from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pattern_platform.datasets import FIRST_DAY
from pattern_platform.settings import Settings
from pattern_platform.visits import assets
from pattern_platform.visits.generator import write_days
from pattern_platform_tests.platform import Platform
from pattern_platform_tests.visits.blog import assets_of, copied, ingest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def _ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blog")
    settings = Settings(data=folder)
    write_days(settings.landing, FIRST_DAY, days=2, rows_per_hour=12, seed=11)
    ingest(Platform(folder, assets_of([assets])))
    return folder


@pytest.fixture
def blog(tmp_path: Path, _ingested: Path, request: pytest.FixtureRequest) -> Platform:
    """Both days of visits came in, and nothing that follows from them was made yet; with the parts that a module tests.

    Dagster takes its time for each asset that it knows, in every run.
    """
    return copied(_ingested, tmp_path, request.module.PARTS)
