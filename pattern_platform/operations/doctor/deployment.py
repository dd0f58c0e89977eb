"""What a doctor looks at: the files of a deployment as they are, before anything is started from them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pattern_platform.lake.object_path import LakePath

SECONDS = 5  # that a server has to answer


@dataclass(frozen=True)
class Deployment:
    """A deployment.

    Args:
        home: Folder of the Dagster instance; None where nobody said.
        config: Content of its ``dagster.yaml``.
        worker: Content of the configuration of the Celery workers; None where there is none.
        definitions: The definitions of each code location, by module.
        runs: How many runs there are to be at a time.
        limits: How many of them with each tag.
        lake: Where the Delta tables are.
        folders: Other places that runs write to, by what they are.
        webserver: URL of the webserver.
    """

    home: Path | None
    config: Mapping[str, Any]
    worker: Mapping[str, Any] | None
    definitions: Mapping[str, dg.Definitions]
    runs: int
    limits: Mapping[str, int]
    lake: LakePath
    folders: Mapping[str, Path]
    webserver: str

    @property
    def launcher(self) -> str:
        """Class of the run launcher."""
        return self.config.get("run_launcher", {}).get("class", "DefaultRunLauncher")

    @property
    def has_hosts(self) -> bool:
        """Whether runs are on other machines, or in containers, than the one that launches them."""
        return self.launcher != "DefaultRunLauncher"

    @property
    def has_celery(self) -> bool:
        """Whether Celery workers take the runs."""
        return self.launcher.endswith("CeleryRunLauncher")

    def of_launcher(self, key: str) -> Any:  # noqa: ANN401 - whatever is in the file
        """A key of the run launcher's config."""
        return told(self.config.get("run_launcher", {}).get("config", {}).get(key))

    @cached_property
    def database(self) -> URL | None:
        """Where the instance keeps its runs; None for files of SQLite, and where a variable is not set."""
        given = self._postgres or {}
        if url := told(given.get("postgres_url")):
            try:
                return make_url(url)
            except ArgumentError:
                return None
        parts = {name: told(value) for name, value in (given.get("postgres_db") or {}).items()}
        if not parts.get("hostname"):
            return None
        return URL.create(
            parts.get("scheme") or "postgresql",
            parts.get("username"),
            parts.get("password"),
            parts["hostname"],
            int(parts.get("port") or 5432),
            parts.get("db_name"),
        )

    @property
    def has_database(self) -> bool:
        """Whether the instance keeps its runs in a server."""
        return self._postgres is not None

    @property
    def _postgres(self) -> Mapping[str, Any] | None:
        """Its section, as people write it, or as the Helm chart does."""
        runs = self.config.get("run_storage", {})
        chart = runs.get("config") if runs.get("class") == "PostgresRunStorage" else None
        return self.config.get("storage", {}).get("postgres", chart)

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        """The instance, opened.

        Raises:
            dagster.DagsterError: The configuration is none of Dagster's.
            ImportError: It names a package that is not installed.
        """
        return dg.DagsterInstance.from_config(str(self.home))


def told(value: Any) -> Any:  # noqa: ANN401 - whatever is in the file
    """A value of Dagster's YAML, which may name a variable; None where that is not set."""
    return os.environ.get(value["env"]) if isinstance(value, dict) and set(value) == {"env"} else value
