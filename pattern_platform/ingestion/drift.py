"""Schema tracking: what the records of a source hold, against what its contract says, a partition at a time.

A record that breaks the contract is rejected alone. A source that changed is no matter of records: the partition stops,
with the difference, before anything of it is clean.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import polars as pl

from pattern_platform.errors import ChangedSourceError
from pattern_platform.ingestion.json_fields import parents_of, path_of
from pattern_platform.ingestion.landing import PAYLOAD
from pattern_platform.ingestion.registry.contract_file import TAKEN
from pattern_platform.ingestion.registry.row import WHOLE_RECORD
from pattern_platform.lake.snapshot import open_table
from pattern_platform.warehouse.query import query

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pattern_platform.ingestion.dataset import Dataset
    from pattern_platform.lake.object_path import LakePath

_ENOUGH_TO_TELL = 10  # records that are all wrong in the same way are no accident


def new_fields(dataset: Dataset, raw: pl.DataFrame) -> dict[str, str]:
    """The fields that records have and the contract has not, as columns.

    Args:
        dataset: The data set.
        raw: Raw rows of a partition that keep their records whole.

    Returns:
        Where each is in the record, by the name of its column; empty where the data set ignores them.

    Raises:
        ChangedSourceError: There are new fields, which the data set refuses, or a required field is in no record.
    """
    if dataset.header or WHOLE_RECORD in dataset.sources.values():
        return {}
    found = _fields(dataset, raw)
    if not found:
        return {}  # not a single record can be read: each is rejected by itself
    wanted = set(dataset.sources.values())
    # An object that holds what is wanted is no field of its own.
    new = sorted(f for f in found - wanted if not any(source.startswith(f"{f}.") for source in wanted))
    required = {s for name, s in dataset.sources.items() if not dataset.contract.columns()[name].nullable}
    _refuse(dataset, new if dataset.new_columns == "refuse" else [], sorted(required - found), {})
    return _as_columns(dataset, new) if dataset.new_columns == "keep" else {}


def _as_columns(dataset: Dataset, fields: Sequence[str]) -> dict[str, str]:
    """The columns that new fields become.

    Raises:
        ChangedSourceError: A name is taken, or cannot be kept.
    """
    columns = {field: re.sub(r"\W", "_", field) for field in fields}
    folded = Counter(column.lower() for column in (*dataset.sources, *columns.values()))
    unfit = [f for f, column in columns.items() if folded[column.lower()] > 1 or column in TAKEN]
    _refuse(dataset, [f"{field} (its column has the name of another)" for field in unfit], [], {})
    return {column: field for field, column in columns.items()}


def refuse_changed_types(dataset: Dataset, typed: pl.DataFrame, given: Mapping[str, pl.Series]) -> None:
    """Refuse a partition in which no value of a column is of its type.

    Args:
        dataset: The data set.
        typed: The columns of the contract, null where a value does not fit.
        given: For each column whether the record has a value.

    Raises:
        ChangedSourceError: Names the columns.
    """
    types = pl.Schema(dataset.contract)
    changed = {
        name: str(types[name])
        for name, there in given.items()
        if there.sum() >= _ENOUGH_TO_TELL and typed[name].null_count() == typed.height
    }
    _refuse(dataset, [], [], changed)


def with_stored_columns(rows: pl.DataFrame, table: LakePath) -> pl.DataFrame:
    """Rows with the columns that their table got from the source at another time, as nulls.

    Args:
        rows: Rows that may lack some, because their partition is older than these columns.
        table: The table.
    """
    snapshot = open_table(table)
    absent = {name: dtype for name, dtype in (snapshot.schema if snapshot else {}).items() if name not in rows.columns}
    return rows.with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in absent.items())


def _refuse(dataset: Dataset, new: Sequence[str], missing: Sequence[str], changed: Mapping[str, str]) -> None:
    difference = [
        *(f"+ {field}" for field in new),
        *(f"- {field}" for field in missing),
        *(f"~ {name}: no value is a {dtype}" for name, dtype in changed.items()),
    ]
    if difference:
        raise ChangedSourceError(
            f"records of data set {dataset.name!r} were refused",
            why="the source changed, against the contract:\n          " + "\n          ".join(difference),
            mend="agree with the source, change the contract (`pattern-platform schema diff` says whether readers are "
            'safe), or let the registry say new_columns "keep" or "ignore"',
        )


def _fields(dataset: Dataset, raw: pl.DataFrame) -> set[str]:
    """The fields of all records, with dots for nested objects; inside of objects that the contract looks into alone."""
    looked_into = ["", *parents_of(dataset.sources.values())]
    keys = ", ".join(f"json_keys({PAYLOAD}, {path_of(parent)}) AS k{n}" for n, parent in enumerate(looked_into))
    each = " UNION ALL ".join(
        f"SELECT {n} AS parent, unnest(k{n}) AS name FROM (SELECT DISTINCT k{n} FROM found)"  # noqa: S608 - numbers
        for n, _ in enumerate(looked_into)
    )
    found = query(
        f"""
        WITH found AS (
            SELECT {keys} FROM lines WHERE json_valid({PAYLOAD}) AND json_type({PAYLOAD}) = 'OBJECT'
        ) SELECT DISTINCT parent, name FROM ({each})
        """,  # noqa: S608 - names are the contract's own, and quoted
        {"lines": raw.select(PAYLOAD)},
    )
    dotted = pl.col("name").str.contains(".", literal=True)
    if dataset.new_columns != "ignore" and (unfit := sorted(found.filter(dotted)["name"])):
        # A dot in a name cannot be told from an object: a contract could not name it, and no column would hold it.
        _refuse(dataset, [f"{name} (a name with a dot)" for name in unfit], [], {})
    named = found.filter(~dotted)
    return {".".join(filter(None, [looked_into[parent], name])) for parent, name in named.iter_rows()}
