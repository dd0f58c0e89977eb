"""Personal data in records as they came: taken out past its retention, masked where a record is shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.ingestion.landing import PAYLOAD
from pattern_platform.lake.json_texts import changed_fields

if TYPE_CHECKING:
    from pattern_platform.ingestion.dataset import Dataset
    from pattern_platform.lake.json_texts import Paths

MASK = "***"
_SAMPLES, _SHOWN = 5, 300  # records, and characters of each


def personal_fields(dataset: Dataset) -> list[str]:
    """Where personal data is in a record, with dots for nested objects."""
    return [dataset.sources[column] for column in dataset.personal_data]


def without_personal_data(dataset: Dataset, raw: pl.DataFrame) -> pl.DataFrame:
    """Raw rows without their personal data; a line that is no JSON object goes as a whole.

    Args:
        dataset: The data set.
        raw: Rows as of :func:`~pattern_platform.ingestion.landing.read_landed`.
    """
    fields = personal_fields(dataset)
    if dataset.header:
        return raw.with_columns(pl.lit(None, dtype=pl.String).alias(field) for field in fields if field in raw.columns)
    blanked = [_without(record, _paths(dataset)) or "{}" for record in raw[PAYLOAD]]
    return raw.with_columns(pl.Series(PAYLOAD, blanked, dtype=pl.String))


def samples(dataset: Dataset, quarantine: pl.DataFrame) -> list[dict[str, str]]:
    """Some rejected records to look at, one for each of the most frequent reasons, with personal data masked.

    Args:
        dataset: The data set.
        quarantine: Rejects.
    """
    each = quarantine.explode("reasons").group_by("reasons").agg(pl.len(), pl.col("record").first())
    paths = _paths(dataset)
    return [
        {"reason": reason, "record": (_without(record, paths, MASK) or "(not shown: no JSON)")[:_SHOWN]}
        for reason, _, record in each.sort("len", "reasons", descending=[True, False]).head(_SAMPLES).iter_rows()
    ]


def _without(record: str, paths: Paths, new: str | None = None) -> str | None:
    """A record without its personal data; None where it is no JSON object, for nobody knows what is in it."""
    try:
        is_object = isinstance(json.loads(record), dict)
    except (ValueError, RecursionError):
        return None
    return changed_fields(record, paths, new) if is_object else None


def _paths(dataset: Dataset) -> Paths:
    return tuple(tuple(field.split(".")) for field in personal_fields(dataset))
