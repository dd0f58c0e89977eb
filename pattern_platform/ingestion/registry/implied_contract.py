"""What a data set promises that has no contract: its keys and its times, and each record whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dataframely as dy

from pattern_platform.ingestion.registry.row import WHOLE_RECORD

if TYPE_CHECKING:
    from pattern_platform.ingestion.registry.row import RegistryRow

RECORD = "record"


def implied_contract(row: RegistryRow) -> type[dy.Schema]:
    """The columns that a row of the registry names, and the record as JSON, to be read until there is a contract.

    Args:
        row: The row. Its key is text; its partition field and its incremental field are timestamps.
    """
    columns: dict[str, dy.Column] = {
        name: dy.String(primary_key=True, description="Part of the key of the record.") for name in row.primary_key
    }
    timed = {row.partition_field: "When it happened."}
    if row.incremental_field != row.partition_field:
        timed[row.incremental_field] = "When it arrived, or changed."
    for name, description in timed.items():
        if name:
            columns[name] = dy.Datetime(
                time_unit="us", time_zone="UTC", primary_key=name in row.primary_key, description=description
            )
    columns[RECORD] = dy.String(description="The record as it came, as JSON.", metadata={"source": WHOLE_RECORD})
    return type(row.name.title().replace("_", ""), (dy.Schema,), {**columns})
