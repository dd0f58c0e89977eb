"""The registry: what a row may say, what is told of a row that may not, and that no row hides another."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest

from pattern_platform.errors import InvalidRegistryError
from pattern_platform.ingestion.registry.row import RegistryRow
from pattern_platform.ingestion.registry.rows import parse_registry, read_registry, registered_partitions
from pattern_platform_tests.ingestion.onboarding import (
    CONTRACT,
    DAILY,
    FULL,
    INCREMENTAL,
    registry_text,
    write_registry,
)
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pattern_platform.ingestion.registry.rows import Mistake

URL = {**DAILY, "source": "https://shop.example/sales?from={start}&to={end}", "format": "json"}
HOURLY = {**DAILY, "granularity": "hour", "source": "sales/date=%Y-%m-%d/hour=%H/*.csv"}
FORMATS = "Input should be 'jsonl', 'csv', 'parquet' or 'json'"

# A row that is good, what is changed of it, and the column and the words by which that is told.
MISTAKES: dict[str, tuple[dict[str, str], dict[str, str], str, str]] = {
    "capital in a name": (DAILY, {"name": "Sales"}, "name", "pattern"),
    "dash in a name": (DAILY, {"name": "web-sales"}, "name", "pattern"),
    "no description": (DAILY, {"description": ""}, "description", "it must be given"),
    "owner without team": (DAILY, {"owner": "shop"}, "owner", "pattern"),
    "excel": (DAILY, {"format": "xlsx"}, "format", FORMATS),
    "format in capitals": (DAILY, {"format": "CSV"}, "format", FORMATS),
    "plural granularity": (DAILY, {"granularity": "days"}, "granularity", "Input should be 'hour', 'day' or 'none'"),
    "style": (DAILY, {"ingestion_style": "append"}, "ingestion_style", "Input should be 'full' or 'incremental'"),
    "stage": (DAILY, {"stage": "gold"}, "stage", "Input should be 'raw' or 'clean'"),
    "day that is none": (DAILY, {"starts": "2024-02-30"}, "starts", "date"),
    "day of another land": (DAILY, {"starts": "06/05/2024"}, "starts", "date"),
    "zone misspelt": (DAILY, {"time_zone": "Europe/Pari"}, "time_zone", "did you mean Europe/Paris?"),
    "zone that is none": (DAILY, {"time_zone": "!"}, "time_zone", "write it as Europe/Paris"),
    "format of time": (DAILY, {"timestamp_format": "DD/MM/YYYY"}, "timestamp_format", "%Y-%m-%d %H:%M:%S"),
    "minutes of MySQL": (
        DAILY,
        {"timestamp_format": "%d/%m/%Y %H:%i", "time_zone": "UTC"},
        "timestamp_format",
        "%Y-%m-%d %H:%M:%S",
    ),
    "name of a zone": (DAILY, {"timestamp_format": "%Y-%m-%d %H:%M:%S %Z"}, "timestamp_format", "%z"),
    "format without zone": (DAILY, {"timestamp_format": "%d/%m/%Y %H:%M"}, "time_zone", "say which zone they are of"),
    "ftp": (DAILY, {"source": "ftp://host/%d.csv"}, "source", "a source is http://, https:// or a path below"),
    "path from the root": (DAILY, {"source": "/data/%Y-%m-%d.csv"}, "source", "a path begins below the landing folder"),
    "path that leaves": (DAILY, {"source": "../%Y-%m-%d.csv"}, "source", "a path begins below the landing folder"),
    "path without day": (DAILY, {"source": "sales/*.csv"}, "source", "write %Y-%m-%d where the files say it"),
    "path without hour": (
        HOURLY,
        {"source": DAILY["source"]},
        "source",
        "write %Y-%m-%d and %H where the files say it",
    ),
    "hours of every day": (HOURLY, {"source": "sales/hour=%H/*.csv"}, "source", "%d"),
    "days of every month": (DAILY, {"source": "sales/day=%d/*.csv"}, "source", "%m"),
    "hour of a clock of twelve": (HOURLY, {"source": "sales/%Y-%m-%d/%I/*.csv"}, "source", "%H"),
    "day in the path of a full load": (FULL, {"source": "sales/%Y-%m-%d.csv"}, "source", "leave its % fields out"),
    "url without partition": (URL, {"source": "https://shop.example/sales"}, "source", "with {start} and {end}"),
    "url as a whole": ({**FULL, "format": "json"}, {"source": "https://x.example/a"}, "granularity", "hour or day"),
    "url of parquet": (URL, {"format": "parquet"}, "format", "a URL brings jsonl, json or csv"),
    "files of json": (DAILY, {"format": "json"}, "format", "files are jsonl, csv or parquet"),
    "no key": (DAILY, {"primary_key": ""}, "primary_key", "name its columns"),
    "another key": (DAILY, {"primary_key": "at"}, "primary_key", "the contract says id"),
    "key misspelt": (DAILY, {"primary_key": "ids"}, "primary_key", "did you mean id?"),
    "partition misspelt": (DAILY, {"partition_field": "att"}, "partition_field", "did you mean at?"),
    "partition by a number": (DAILY, {"partition_field": "euros"}, "partition_field", "it must be a timestamp"),
    "days without time": (DAILY, {"partition_field": ""}, "partition_field", "granularity day need it"),
    "days without start": (DAILY, {"starts": "", "ends": ""}, "starts", "granularity day need it"),
    "end before start": (DAILY, {"ends": "2024-05-06"}, "ends", "later than 2024-05-06"),
    "full days": (DAILY, {"ingestion_style": "full"}, "ingestion_style", "granularity none, or incremental"),
    "full with start": (FULL, {"starts": "2024-05-06"}, "starts", "leave it empty, or say hour or day"),
    "nothing that grows": (INCREMENTAL, {"incremental_field": ""}, "incremental_field", "name a column that grows"),
    "personal misspelt": (DAILY, {"personal_data": "id|mail"}, "personal_data", "there are: id, at, euros"),
    "retention of nothing": (DAILY, {"retention_days": "30"}, "retention_days", "name the columns in personal_data"),
    "retention of no day": (
        {**DAILY, "personal_data": "euros"},
        {"retention_days": "0"},
        "retention_days",
        "greater than 0",
    ),
    "late by what": (DAILY, {"allowed_lateness": "6"}, "incremental_field", "it tells when an event arrived"),
    "lateness of days ahead": (DAILY, {"allowed_lateness": "-1"}, "allowed_lateness", "greater than or equal to 0"),
    "new columns": (DAILY, {"new_columns": "add"}, "new_columns", "Input should be 'refuse', 'keep' or 'ignore'"),
    "header that keeps": (DAILY, {"header": "id|at|euros", "new_columns": "keep"}, "header", "leave the header empty"),
    "header of objects": (DAILY, {"format": "jsonl", "header": "id|at|euros"}, "header", "csv and parquet have one"),
    "header without a column": (DAILY, {"header": "id|at"}, "header", "the contract takes euros from it"),
    "contract that is not there": (DAILY, {"contract": "contracts/sale.yaml"}, "contract", "beside the registry"),
    "module that is not there": (DAILY, {"contract": "shop.sales:Sale"}, "contract", "cannot be imported"),
    "class that is no contract": (DAILY, {"contract": "pathlib:Path"}, "contract", "no dataframely.Schema"),
}


def mistakes_of(folder: Path, *rows: Mapping[str, str]) -> list[Mistake]:
    return parse_registry(write_registry(folder, *rows), retention_days=30)[1]


@pytest.mark.parametrize("row", [DAILY, HOURLY, FULL, INCREMENTAL, URL], ids=["day", "hour", "full", "new", "url"])
def test_rows_that_the_mistakes_are_made_of_are_good(tmp_path: Path, row: dict[str, str]) -> None:
    """The negative control of the test below."""
    datasets, mistakes = parse_registry(write_registry(tmp_path, row), retention_days=30)
    assert mistakes == []
    assert list(datasets) == ["sales"]


@pytest.mark.parametrize(("row", "changed", "column", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_line_column_value_and_what_is_allowed(
    tmp_path: Path, row: dict[str, str], changed: dict[str, str], column: str, told: str
) -> None:
    wrong = {**row, **changed}
    mistakes = mistakes_of(tmp_path, {**row, "name": "first"}, wrong)
    (found,) = [mistake for mistake in mistakes if mistake.column == column and told in mistake.problem] or mistakes
    assert told in found.problem, [str(mistake) for mistake in mistakes]
    assert (found.line, found.column, found.value) == (3, column, wrong.get(column, ""))
    assert str(found) == f"line 3, column {column!r}: {wrong.get(column, '')!r}: {found.problem}"


def test_three_bad_rows_of_five_are_told_and_the_two_others_are_there(tmp_path: Path) -> None:
    rows = [
        {**DAILY, "name": "good"},
        {**DAILY, "name": "Bad", "format": "xlsx", "owner": "me"},
        {**DAILY, "name": "no_contract", "contract": "contracts/none.yaml"},
        {**FULL, "name": "whole"},
        {**DAILY, "name": "late", "partition_field": "", "starts": "2024-13-01"},
    ]
    path = write_registry(tmp_path, *rows)
    datasets, mistakes = parse_registry(path, retention_days=30)
    assert list(datasets) == ["good", "whole"]
    assert {(mistake.line, mistake.column) for mistake in mistakes} >= {
        (3, "name"),
        (3, "format"),
        (3, "owner"),
        (4, "contract"),
        (6, "starts"),
    }
    assert {mistake.line for mistake in mistakes} == {3, 4, 6}
    with pytest.raises(InvalidRegistryError) as refused:
        read_registry(path, retention_days=30)
    assert len(refused.value.why.splitlines()) == len(mistakes)
    assert "pattern-platform registry validate" in refused.value.mend


def test_every_contradiction_of_a_row_is_told_at_once(tmp_path: Path) -> None:
    row = {**DAILY, "ends": "2024-05-01", "partition_field": "day", "retention_days": "3", "source": "sales/*.csv"}
    assert {mistake.column for mistake in mistakes_of(tmp_path, row)} == {
        "ends",
        "partition_field",
        "retention_days",
        "source",
    }


def test_a_name_is_given_once(tmp_path: Path) -> None:
    (mistake,) = mistakes_of(tmp_path, DAILY, {**FULL, "name": "other"}, FULL)
    assert str(mistake) == "line 4, column 'name': 'sales': line 2 has it; choose another"


LINES = {
    "cell too many": (
        ",".join(["x"] * (len(RegistryRow.model_fields) + 1)),
        f"it has {len(RegistryRow.model_fields) + 1} cells, the header {len(RegistryRow.model_fields)}",
    ),
    "comma in a description": ("sales,What we sold, and when,team:shop", "quote cells that hold a comma"),
    "quote that is not closed": ('sales,"What we sold,team:shop', "a quote in a cell is written twice"),
    "text behind a quote": ('sales,"What" we sold,team:shop', "a quote in a cell is written twice"),
    "one word": ("sales", "it has 1 cells"),
}


@pytest.mark.parametrize(("line", "told"), LINES.values(), ids=LINES)
def test_a_line_that_cannot_be_read_hides_no_other(tmp_path: Path, line: str, told: str) -> None:
    header, first, last = registry_text({**DAILY, "name": "first"}, {**DAILY, "name": "last"}).splitlines()
    path = write_registry(tmp_path)
    path.write_text(f"{header}\n{first}\n{line}\n{last}\n")
    datasets, mistakes = parse_registry(path, retention_days=30)
    assert list(datasets) == ["first", "last"]
    (mistake,) = mistakes
    assert mistake.line == 3
    assert told in mistake.problem


def test_empty_lines_are_no_rows_and_do_not_shift_the_lines_that_are_told(tmp_path: Path) -> None:
    header, good, bad = registry_text({**DAILY, "name": "good"}, {**DAILY, "name": "Bad"}).splitlines()
    path = write_registry(tmp_path)
    path.write_text(f"{header}\n\n{good}\n   \n\n{bad}\n")
    datasets, (mistake,) = parse_registry(path, retention_days=30)
    assert list(datasets) == ["good"]
    assert (mistake.line, mistake.column) == (6, "name")


HEADERS = {
    "misspelt": ("granularity", "granularty", "there is no such column; there are: name, description, owner"),
    "twice": ("owner", "name", "the column is there twice"),
}


@pytest.mark.parametrize(("column", "instead", "told"), HEADERS.values(), ids=HEADERS)
def test_a_wrong_header_is_told_with_its_column(tmp_path: Path, column: str, instead: str, told: str) -> None:
    path = write_registry(tmp_path, DAILY)
    header, row = path.read_text().splitlines()
    path.write_text(f"{header.replace(column, instead)}\n{row}\n")
    datasets, mistakes = parse_registry(path, retention_days=30)
    assert datasets == {}
    found = {mistake.column: mistake.problem for mistake in mistakes}
    assert told in found[instead]
    assert found[column] == "the column is missing"
    assert {mistake.line for mistake in mistakes} == {1}


def test_a_registry_separated_by_semicolons_says_which_columns_there_must_be(tmp_path: Path) -> None:
    path = write_registry(tmp_path, DAILY)
    path.write_text(path.read_text().replace(",", ";"))
    datasets, mistakes = parse_registry(path, retention_days=30)
    assert datasets == {}
    assert {"name", "source", "format"} <= {mistake.column for mistake in mistakes}


@pytest.mark.parametrize("content", [None, b"name,description\n\xe9t\xe9,x\n", b""])
def test_a_file_that_is_none_is_told_on_its_first_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "registry.csv"
    if content is not None:
        path.write_bytes(content)
    datasets, mistakes = parse_registry(path, retention_days=30)
    assert datasets == {}
    assert {mistake.line for mistake in mistakes} == {1}


def test_a_file_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """A byte order mark, line ends of Windows, spaces around cells, columns in another order, and half of them."""
    path = write_registry(tmp_path)
    row = {name: value for name, value in DAILY.items() if value}
    names = list(reversed(row))
    cells = [f" {row[name]} " for name in names]
    path.write_bytes(b"\xef\xbb\xbf" + f"{','.join(names)}\r\n{','.join(cells)}\r\n".encode())
    (dataset,) = read_registry(path, retention_days=30).values()
    assert (dataset.name, dataset.landing, dataset.owner) == ("sales", DAILY["source"], "team:shop")


def test_text_of_all_languages_stays_in_its_cell(tmp_path: Path) -> None:
    described = "Verkäufe\u2028und\x85mehr, „alles“"
    (dataset,) = read_registry(
        write_registry(tmp_path, {**DAILY, "description": described}), retention_days=30
    ).values()
    assert dataset.description == described


def test_a_row_becomes_a_data_set_to_the_cell(tmp_path: Path) -> None:
    row = {
        **HOURLY,
        "time_zone": "America/New_York",
        "starts": "2024-11-03",
        "ends": "2024-11-04",
        "null_values": "NA | NULL",
        "personal_data": "euros",
        "new_columns": "ignore",
    }
    (dataset,) = read_registry(write_registry(tmp_path, row), retention_days=30).values()
    assert dataset.partitions == dg.HourlyPartitionsDefinition(
        "2024-11-03-00:00", "2024-11-04-00:00", timezone="America/New_York"
    )
    assert dataset.partitions is not None
    assert len(dataset.partitions.get_partition_keys()) == 25  # an hour is there twice
    assert dataset.null_values == ("", "NA", "NULL")
    assert (dataset.personal_data, dataset.retention_days) == (("euros",), 30)
    assert dataset.header == ("id", "at", "euros")
    assert dataset.contract.__doc__ == "One sale."
    assert pl.Schema(dataset.contract) == {"id": pl.String, "at": pl.Datetime("us", "UTC"), "euros": pl.Float64}


def test_retention_is_what_the_row_says_before_what_the_settings_say(tmp_path: Path) -> None:
    rows = [
        {**DAILY, "name": "says", "personal_data": "euros", "retention_days": "7"},
        {**DAILY, "name": "silent", "personal_data": "euros"},
        {**DAILY, "name": "nobody"},
    ]
    datasets = read_registry(write_registry(tmp_path, *rows), retention_days=90)
    assert {name: dataset.retention_days for name, dataset in datasets.items()} == {
        "says": 7,
        "silent": 90,
        "nobody": None,
    }


def test_what_is_fetched_lands_below_the_name_of_the_data_set(tmp_path: Path) -> None:
    datasets = read_registry(
        write_registry(
            tmp_path, URL, {**URL, "name": "hours", "granularity": "hour"}, {**URL, "name": "c", "format": "csv"}
        ),
        retention_days=30,
    )
    assert {name: dataset.landing for name, dataset in datasets.items()} == {
        "sales": "sales/date=%Y-%m-%d/page-*.jsonl",
        "hours": "hours/date=%Y-%m-%d/hour=%H/page-*.jsonl",
        "c": "c/date=%Y-%m-%d/page-*.csv",
    }
    assert all(dataset.source for dataset in datasets.values())


@pytest.mark.parametrize("column", ["source_file", "source_row", "partition_start", "batch"])
def test_a_column_that_the_platform_writes_itself_is_refused(tmp_path: Path, column: str) -> None:
    contract = f"{CONTRACT}  {column}: {{type: text, description: Of the source.}}\n"
    row = INCREMENTAL if column == "batch" else DAILY
    path = write_registry(tmp_path, row, contracts={"contracts/sales.yaml": contract})
    mistakes = parse_registry(path, retention_days=30)[1]
    assert any(column in str(mistake) for mistake in mistakes)


def test_the_sample_is_what_its_files_are() -> None:
    datasets, mistakes = parse_registry(CHECKOUT / "data/registry.csv", retention_days=30)
    assert mistakes == []
    assert list(datasets) == ["visits", "user_changes", "device_updates", "likes", "comments", "flights"]
    window = datasets["flights"].window("2013-01-01")
    assert window is not None
    assert window.start.astimezone(UTC) == datetime(2013, 1, 1, 5, tzinfo=UTC)


# The partitions of one row -------------------------------------------------------------------------------------------


def test_partitions_are_read_of_one_row_alone(tmp_path: Path) -> None:
    """Neither another row nor the contract is looked at."""
    path = write_registry(tmp_path, {**DAILY, "name": "Bad"}, {**HOURLY, "contract": "contracts/no_such.yaml"})
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    partitions = registered_partitions(path, "sales")
    assert isinstance(partitions, dg.HourlyPartitionsDefinition)
    assert partitions.get_first_partition_key() == "2024-05-06-00:00"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({**DAILY, "name": "others"}, "no row of that name with partitions"),
        (FULL, "no row of that name with partitions"),
        ({**DAILY, "owner": "shop"}, "line 2, column 'owner': 'shop'"),
        ({**DAILY, "granularity": "week"}, "line 2, column 'granularity': 'week'"),
    ],
    ids=["no row", "no partitions", "bad owner", "bad granularity"],
)
def test_partitions_that_a_row_does_not_give_are_refused(tmp_path: Path, row: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidRegistryError) as refused:
        registered_partitions(write_registry(tmp_path, row), "sales")
    assert told in str(refused.value)
    assert "the partitions of data set 'sales'" in str(refused.value)
