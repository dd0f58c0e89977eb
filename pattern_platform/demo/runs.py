"""Runs of the demo in this process, of both code locations, with a bar for each asset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pattern_platform.dashboards.definitions import defs as dashboards
from pattern_platform.definitions import defs as platform
from pattern_platform.demo.report import Report
from pattern_platform.orchestration.partition_tags import partition_tags
from pattern_platform.orchestration.run_coordinator import NAMESPACE
from pattern_platform.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import dagster as dg
    from rich.console import Console

_NAMESPACE = {NAMESPACE: Settings().namespace}
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Runs:
    """Runs that are recorded in one instance.

    Args:
        instance: The instance, which the UI shows afterwards.
        progress: Where the bars are drawn.
    """

    def __init__(self, instance: dg.DagsterInstance, progress: Progress) -> None:
        self.instance, self.report = instance, Report()
        self._progress = progress
        self._jobs = [location.resolve_implicit_global_asset_job_def() for location in (platform, dashboards)]

    def run(self, assets: Sequence[dg.AssetKey], partition: str | None = None) -> None:
        """Run assets, for a partition where they have some."""
        self._execute(assets, partition_tags(partition, partition) if partition else {}, partition or "")

    def run_range(self, assets: Sequence[dg.AssetKey], keys: Sequence[str]) -> None:
        """Partitions that follow each other in one run, as a backfill of a single run does."""
        self._execute(assets, partition_tags(keys[0], keys[-1]), keys[-1])

    def each(self, assets: Sequence[dg.AssetKey], partitions: Sequence[str]) -> None:
        """A run for each partition."""
        for partition in self.tracked(assets, partitions):
            self.run(assets, partition)

    def tracked(self, assets: Sequence[dg.AssetKey], partitions: Sequence[str], *, each: int = 1) -> Iterator[str]:
        """The partitions, with a bar for each asset that grows as it is materialized, ``each`` times a partition."""
        total = len(partitions) * each
        bars = {key: self._progress.add_task(key.to_user_string(), total=total) for key in assets if partitions}
        for partition in partitions:
            yield partition
            for key, bar in bars.items():
                self._progress.update(bar, completed=self.report.partitions[key])

    def _execute(self, assets: Sequence[dg.AssetKey], tags: Mapping[str, str], partition: str) -> None:
        job = next(job for job in self._jobs if assets[0] in job.asset_layer.executable_asset_keys)
        result = job.execute_in_process(
            asset_selection=list(assets),
            tags={**tags, **_NAMESPACE},
            instance=self.instance,
            raise_on_error=False,
            run_config=_QUIET,
        )
        self.report.add(result, partition)


def progress_of(console: Console) -> Progress:
    """Bars on a console."""
    columns = (TextColumn("{task.description:34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
