"""Draft the registry row and the contract of a file that nobody has described yet."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import yaml

from pattern_platform.ingestion.registry.infer_columns import Column, columns_of, read_any
from pattern_platform.ingestion.registry.row import RegistryRow
from pattern_platform.ingestion.timestamps import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_HOUR = re.compile(r"hour=\d{2}")


@dataclass(frozen=True)
class Draft:
    """What is proposed for a file.

    Args:
        row: Line of the registry, with its header.
        contract: Content of the contract file.
        contract_name: Where the row looks for it, beside the registry.
        doubts: What a person must look at.
    """

    row: str
    contract: str
    contract_name: str
    doubts: list[str]


def infer(file: Path, landing: Path, *, name: str, owner: str) -> Draft:
    """Look at a landed file and propose how to ingest it.

    Args:
        file: The file.
        landing: Folder of all landed files; the file is below it, or its place is a doubt.
        name: Name of the data set.
        owner: Its owner.

    Raises:
        UnreadableFileError: It is none of the formats, or has no rows.
    """
    file_format, rows, left_out = read_any(file)
    columns, absent, epoch = columns_of(rows, file_format)
    texts = pl.DataFrame({column.name: column.values for column in columns})
    doubts = ["every description is a placeholder: say what the column means, and its unit"]
    if left_out:
        doubts.append(f"{', '.join(left_out)}: no plain value; left out, with whatever else is new")
    if absent:
        doubts.append(f"{', '.join(absent)} was taken for a missing value")
    key = _key(columns)
    if key is None:
        doubts.append("no column is unique: set `key: true` where records are told apart, and primary_key in the row")
    source, granularity = _source(file, landing, doubts)
    times = [column for column in columns if column.tells_time(granularity)]
    if granularity != "none" and not times:
        doubts.append("no column is a timestamp in every row: a full load was proposed, of this file alone")
        granularity, source = (
            "none",
            file.relative_to(landing).as_posix() if file.is_relative_to(landing) else file.name,
        )
    elif granularity == "none" and times:
        doubts.append("its path does not say a day or an hour: a full load was proposed; partitions need %Y-%m-%d")
    contract_name = f"contracts/{name}.yaml"
    keys = [key or columns[0]]
    cells: dict[str, str | None] = {
        "name": name,
        "description": f"Records of {name}.",
        "owner": owner,
        "source": source,
        "format": file_format,
        "stage": "clean",
        "primary_key": keys[0].name,
        "granularity": granularity,
        "ingestion_style": "full" if granularity == "none" else "incremental",
        "contract": contract_name,
        "new_columns": "ignore" if left_out else "refuse",
        "null_values": "|".join(absent),
        "timestamp_format": epoch,
        "time_zone": _zone(columns, epoch, doubts),
    }
    if granularity != "none":
        moments = texts.select(parse_timestamp(pl.col(times[0].name), epoch, "UTC")).to_series()
        started = moments.min() if times[0].type == "timestamp" else times[0].values.min()
        cells |= {"partition_field": times[0].name, "incremental_field": times[0].name, "starts": str(started)[:10]}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(RegistryRow.model_fields), restval="")
    writer.writeheader()
    writer.writerow(cells)
    described = {column.name: column.declared(is_key=column in keys) for column in columns}
    contract: dict[str, Any] = {"description": f"One record of {name}.", "columns": described}
    drafted = yaml.safe_dump(contract, sort_keys=False, width=120, default_flow_style=None, allow_unicode=True)
    return Draft(text.getvalue(), drafted, contract_name, doubts)


def _key(columns: Sequence[Column]) -> Column | None:
    """A column that is never null and never twice, one that is called so before others."""
    unique = [c for c in columns if not c.is_optional and c.values.n_unique() == c.values.len()]
    unique = [c for c in unique if c.type in ("text", "integer", "timestamp")]
    called = sorted(unique, key=lambda c: (not c.name.lower().endswith(("id", "key", "uuid")), c.type == "timestamp"))
    return called[0] if called else None


def _source(file: Path, landing: Path, doubts: list[str]) -> tuple[str, str]:
    if not file.is_relative_to(landing):
        doubts.append("it is not below the landing folder: put it there, and set source")
        return file.name, "none"
    path = file.relative_to(landing)
    folders = path.parent.as_posix()
    by_day = _DAY.search(path.as_posix())
    granularity = "hour" if by_day and _HOUR.search(folders) else "day" if by_day else "none"
    if folders == "." and not by_day:
        return path.as_posix(), granularity  # a pattern would take every file of the landing folder
    pattern = path.as_posix() if _DAY.search(file.name) else f"{folders}/*{''.join(file.suffixes)}"
    return _HOUR.sub("hour=%H", _DAY.sub("%Y-%m-%d", pattern)), granularity


def _zone(columns: Sequence[Column], epoch: str, doubts: list[str]) -> str | None:
    times = [column for column in columns if column.type == "timestamp"]
    naive = [c.name for c in times if not epoch and not _say_zone(c.values.drop_nulls())]
    if not naive:
        return None
    doubts.append(f"{', '.join(naive)} does not say its time zone: UTC was proposed")
    return "UTC"


def _say_zone(values: pl.Series) -> bool:
    parsed = pl.DataFrame({"v": values}).select(parse_timestamp(pl.col("v"), "", None).is_not_null().all())
    return bool(parsed.item())
