"""Where sources deliver, as a resource: what a raw asset reads, what it never brings back, what it blanks."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl

from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.erased import ErasedSubjects
from pattern_platform.ingestion.http.landing import land
from pattern_platform.ingestion.landing import read_landed
from pattern_platform.ingestion.personal_data import without_personal_data


class LandingZone(dg.ConfigurableResource):
    """The folder in which sources deliver their files.

    Args:
        root: Path of the folder.
        erased: File that lists who was erased; None where nobody can be.
    """

    root: str
    erased: str | None = None

    def read(self, dataset: Dataset, partition: str | None, *, again: bool = False) -> pl.DataFrame:
        """The raw rows of a partition, fetched before where the source is a URL.

        Erased persons stay away, and personal data that is past its retention is not read again.

        Args:
            dataset: The data set.
            partition: Partition key; None where it has no partitions.
            again: Whether a partition that was fetched is fetched anew.

        Raises:
            FileNotArrivedError: As :func:`read_landed`, with its other errors.
            SourceRefusedError: The source says no, or something else than was declared.
            SourceUnavailableError: It did not answer for as long as it was asked.
        """
        window = dataset.window(partition)
        if dataset.source and window:
            folder = Path(self.root, window.start.strftime(dataset.landing)).parent
            land(dataset.source, folder, start=window.start, end=window.end, again=again)
        rows = read_landed(dataset, Path(self.root), partition)
        if self.erased:
            rows = ErasedSubjects(Path(self.erased)).drop(rows)
        if window and dataset.retention_days and _age(window.end) > timedelta(days=dataset.retention_days):
            rows = without_personal_data(dataset, rows)
        return rows


def _age(moment: datetime) -> timedelta:
    return datetime.now(UTC) - moment
