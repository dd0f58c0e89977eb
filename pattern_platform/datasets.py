"""The data sets of the platform, as the registry has them."""

from __future__ import annotations

from pattern_platform.ingestion.registry.rows import read_registry
from pattern_platform.ingestion.routing import definition_of
from pattern_platform.settings import Settings

_settings = Settings()
DATASETS = read_registry(_settings.registry, retention_days=_settings.privacy.retention_days)
FIRST_DAY = definition_of(DATASETS["visits"]).start.date()  # of the blog's sample
