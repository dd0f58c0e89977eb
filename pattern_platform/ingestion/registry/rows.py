"""The registry: a csv file with a row for each data set, from which its assets are made without code.

Every row is read by itself, so that one bad row never hides another; whatever is wrong is told with line, column, value
and what is allowed. A list in a cell is written ``a|b``.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import ValidationError

from pattern_platform.errors import InvalidRegistryError, SourceRefusedError
from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.http.source import HttpSource
from pattern_platform.ingestion.http.urls import masked
from pattern_platform.ingestion.registry.contract_file import load_contract
from pattern_platform.ingestion.registry.implied_contract import implied_contract
from pattern_platform.ingestion.registry.row import RegistryRow, is_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import dataframely as dy


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a cell of the registry.

    Args:
        line: Line of the file, from 1, the header.
        column: Name of the column; empty where the whole line is wrong.
        value: What it says.
        problem: Why that cannot be, and what is allowed.
    """

    line: int
    column: str
    value: str
    problem: str

    def __str__(self) -> str:
        cell = f", column {self.column!r}: {self.value!r}" if self.column else ""
        return f"line {self.line}{cell}: {self.problem}"


def read_registry(path: Path, *, retention_days: int) -> dict[str, Dataset]:
    """Read the data sets of a registry.

    Args:
        path: The file. Contracts are named relative to its folder.
        retention_days: How long personal data is kept where a row does not say.

    Returns:
        The data sets by their names, in the order of the file.

    Raises:
        InvalidRegistryError: Lists every mistake.
    """
    datasets, mistakes = parse_registry(path, retention_days=retention_days)
    if mistakes:
        raise InvalidRegistryError(
            f"registry {path.name} was refused",
            why="\n        ".join(map(str, mistakes)),
            mend="mend these cells, then run `pattern-platform registry validate`",
        )
    return datasets


def registered_partitions(path: Path, name: str) -> dg.TimeWindowPartitionsDefinition:
    """The partitions of one data set, for whom it is a name alone: neither its contract nor other rows are looked at.

    Args:
        path: The registry.
        name: Of the data set.

    Raises:
        InvalidRegistryError: There is no row of that name with partitions.
    """
    _, rows = _lines(path.read_text(encoding="utf-8-sig"))
    found = next(((n, c) for n, c in rows if not isinstance(c, Mistake) and c.get("name") == name), None)
    row = _row(found[1], found[0]) if found else []
    partitions = _partitions(row) if isinstance(row, RegistryRow) else None
    if partitions is None:
        mistakes = [] if isinstance(row, RegistryRow) else row
        raise InvalidRegistryError(
            f"the partitions of data set {name!r} were refused",
            why="\n        ".join(map(str, mistakes)) or f"{path.name} has no row of that name with partitions",
            mend="mend its row of the registry, or name a data set that has partitions",
        )
    return partitions


def parse_registry(path: Path, *, retention_days: int) -> tuple[dict[str, Dataset], list[Mistake]]:
    """The data sets of the good rows of a registry, and what is wrong with the others.

    Args:
        path: As of :func:`read_registry`.
        retention_days: As there.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        told = "there is no such file; set PATTERN_PLATFORM_HOME to the folder of platform.yaml, or `registry` in it"
        return {}, [Mistake(1, "", "", f"{path}: {told}")]
    except (OSError, UnicodeDecodeError) as error:
        return {}, [Mistake(1, "", "", f"{path.name} cannot be read as UTF-8 text: {error}")]
    columns, rows = _lines(text)
    if mistakes := list(_wrong_header(columns)):
        return {}, mistakes
    datasets: dict[str, Dataset] = {}
    lines: dict[str, int] = {}
    for number, cells in rows:
        made = [cells] if isinstance(cells, Mistake) else _dataset(cells, number, path.parent, retention_days)
        if not isinstance(made, Dataset):
            mistakes += made
        elif made.name in datasets:
            mistakes.append(Mistake(number, "name", made.name, f"line {lines[made.name]} has it; choose another"))
        else:
            datasets[made.name], lines[made.name] = made, number
    return datasets, mistakes


def _lines(text: str) -> tuple[list[str], Iterator[tuple[int, dict[str, str] | Mistake]]]:
    """The header of a registry, and its other lines by their numbers; empty ones are left out."""
    header, *rest = (line.removesuffix("\r") for line in text.split("\n"))
    columns = next(csv.reader([header]), [])
    return columns, ((n, _cells(line, columns, n)) for n, line in enumerate(rest, 2) if line.strip())


def _wrong_header(header: Sequence[str]) -> Iterator[Mistake]:
    fields = RegistryRow.model_fields
    for column in header:
        if column not in fields or header.count(column) > 1:
            problem = "the column is there twice" if column in fields else "there is no such column"
            yield Mistake(1, column, column, f"{problem}; there are: {', '.join(fields)}")
    required = [name for name, field in fields.items() if field.is_required()]
    for column in required:
        if column not in header:
            yield Mistake(1, column, "", "the column is missing")


def _cells(text: str, columns: Sequence[str], line: int) -> dict[str, str] | Mistake:
    try:
        cells = next(csv.reader([text], strict=True))
    except csv.Error as error:
        return Mistake(line, "", "", f"it is no line of a csv file: {error}; a quote in a cell is written twice")
    if len(cells) != len(columns):
        told = f"it has {len(cells)} cells, the header {len(columns)}; quote cells that hold a comma"
        return Mistake(line, "", "", told)
    return {name: value.strip() for name, value in zip(columns, cells, strict=True)}


def _dataset(given: Mapping[str, str], line: int, folder: Path, retention_days: int) -> Dataset | list[Mistake]:
    row = _row(given, line)
    if not isinstance(row, RegistryRow):
        return row
    mistakes = [_mistake(line, column, given, problem) for column, problem in row.contradictions()]
    try:
        contract = load_contract(row.contract, folder) if row.contract else implied_contract(row)
    except InvalidRegistryError as error:
        return [*mistakes, Mistake(line, "contract", given["contract"], error.why)]
    mistakes += [_mistake(line, column, given, problem) for column, problem in row.contradictions_with(contract)]
    if mistakes:
        return mistakes
    try:
        return _made(row, contract, retention_days)
    except SourceRefusedError as error:
        return [_mistake(line, "source", given, f"{error.why}; {error.mend}")]


def _row(given: Mapping[str, str], line: int) -> RegistryRow | list[Mistake]:
    try:
        return RegistryRow.model_validate({name: value for name, value in given.items() if value})
    except ValidationError as error:
        return [_mistake(line, str(wrong["loc"][0]), given, _told(wrong)) for wrong in error.errors()]


def _mistake(line: int, column: str, given: Mapping[str, str], problem: str) -> Mistake:
    """A mistake, with what the cell says, but none of its secrets."""
    value = given.get(column, "")
    if column == "headers":
        value = "|".join(f"{header.partition('=')[0]}=***" for header in value.split("|")) if value else ""
    return Mistake(line, column, masked(value) if is_url(value) else value, problem)


def _made(row: RegistryRow, contract: type[dy.Schema], retention_days: int) -> Dataset:
    dataset = Dataset(
        name=row.name,
        description=row.description,
        owner=row.owner,
        landing=row.landing,
        format="jsonl" if row.format == "json" else row.format,
        partitions=_partitions(row),
        contract=contract,
        time_column=row.partition_field,
        null_values=("", *row.null_values) if row.format == "csv" else (),
        stage=row.stage,
        source=_source(row),
        incremental_field=row.incremental_field if row.ingestion_style == "incremental" else None,
        new_columns=row.new_columns,
        timestamp_format=row.timestamp_format,
        time_zone=row.time_zone,
        personal_data=tuple(row.personal_data),
        # Without partitions nothing tells how old a row is: it is kept for as long as the source delivers it.
        retention_days=(row.retention_days or retention_days) if row.personal_data and row.starts else None,
        allowed_lateness=row.allowed_lateness,
        contract_name=row.contract or "",
        header=tuple(row.header),
    )
    if row.contract and row.format in ("csv", "parquet") and not row.header and row.new_columns != "keep":
        optional = (source for name, source in dataset.sources.items() if contract.columns()[name].nullable)
        return replace(dataset, header=tuple(dataset.sources.values()), may_be_absent=tuple(optional))
    return dataset


def _source(row: RegistryRow) -> HttpSource | None:
    if not is_url(row.source) or row.format == "parquet":
        return None
    headers = dict(header.split("=", 1) for header in row.headers)
    return HttpSource(row.source, row.format, headers={name: f"env:{variable}" for name, variable in headers.items()})


def _partitions(row: RegistryRow) -> dg.TimeWindowPartitionsDefinition | None:
    if row.granularity == "none" or row.starts is None:
        return None
    zone = row.time_zone or "UTC"
    if row.granularity == "day":
        return dg.DailyPartitionsDefinition(
            row.starts.isoformat(), row.ends.isoformat() if row.ends else None, timezone=zone
        )
    return dg.HourlyPartitionsDefinition(
        f"{row.starts}-00:00", f"{row.ends}-00:00" if row.ends else None, timezone=zone
    )


def _told(mistake: Any) -> str:  # noqa: ANN401 - of pydantic
    if mistake["type"] == "missing":
        return "it must be given"
    return str(mistake["msg"]).removeprefix("Value error, ")
