"""The data dictionary: a line of CSV for each column of each table."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pattern_platform.operations.catalogue.entry import Entry

HEADER = (
    *("table", "column", "type", "unit", "description", "personal_data", "constraints"),
    *("table_description", "owners", "group", "pattern", "contract", "retention_days"),
)


def data_dictionary(entries: Iterable[Entry]) -> str:
    """All columns of all tables, in their order; a table without known columns has none.

    Args:
        entries: The tables.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(HEADER)
    for entry in entries:
        table = (
            entry.description,
            " ".join(entry.owners),
            entry.group,
            entry.pattern,
            entry.contract,
            "" if entry.retention_days is None else entry.retention_days,
        )
        for column in entry.columns:
            personal, constraints = "yes" if column.is_personal else "no", "; ".join(column.constraints)
            about = (column.name, column.type, column.unit, column.description, personal, constraints)
            lines.writerow((entry.key, *about, *table))
    return text.getvalue()
