"""Onboarding without code: data sets that the project has never seen, each from a line of the registry to its rows."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest

from pattern_platform_tests.ingestion.onboarding import DAY, Onboarded, onboard

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMON = {"description": "One record.", "owner": "data@shop.example", "starts": DAY}
START = datetime(2024, 5, 6, tzinfo=UTC)
Rows = list[dict[str, object]]


def contracts(text: str) -> dict[str, str]:
    return {"c.yaml": "description: One record.\ncolumns:\n" + text}


def weather(folder: Path) -> Onboarded:
    """Nested JSON a day, missing readings, and a station that says nonsense."""
    row = COMMON | {
        "name": "weather",
        "source": "weather/%Y/%m/%d.jsonl",
        "format": "jsonl",
        "granularity": "day",
        "ingestion_style": "incremental",
        "primary_key": "station|at",
        "partition_field": "at",
        "contract": "c.yaml",
    }
    platform = onboard(
        folder,
        row,
        contracts=contracts("""\
  station: {type: text, key: true, pattern: "^[A-Z]{4}$", description: ICAO code.}
  at: {type: timestamp, key: true, description: When.}
  celsius: {type: number, min: -60, max: 60, optional: true, source: air.temperature, description: How warm.}
  sky: {type: category, values: [clear, rain], optional: true, description: What it is like.}
"""),
    )
    records = [
        {"station": "LFPG", "at": f"{DAY}T00:00:00Z", "air": {"temperature": 11.5}, "sky": "rain"},
        {"station": "LFPO", "at": f"{DAY}T02:00:00+02:00", "air": {"temperature": None}},
        {"station": "LFPG", "at": f"{DAY}T01:00:00Z", "air": {"temperature": 99}},
        {"station": "lfpg", "at": f"{DAY}T02:00:00Z"},
        {"station": "LFPG", "at": f"{DAY}T03:00:00Z", "sky": "snow"},
        {"station": "LFPG", "at": f"{DAY}T04:00:00Z", "air": {"temperature": "12"}},
        {"station": "LFPG", "at": f"{DAY}T05:00:00Z", "air": 12},
    ]
    platform.land("weather/2024/05/06.jsonl", "".join(json.dumps(record) + "\n" for record in records) + "{broken\n")
    return platform


WEATHER: Rows = [
    {"station": "LFPG", "at": START, "celsius": 11.5, "sky": "rain"},
    {"station": "LFPO", "at": START, "celsius": None, "sky": None},
]
WEATHER_REJECTS = {
    3: ["celsius: max"],
    4: ["station: regex"],
    5: ["sky: not a category of the contract"],
    6: ["celsius: not a number"],
    7: ["air: not an object"],
    8: ["malformed record"],
}


def sensors(folder: Path) -> Onboarded:
    """Compressed csv an hour, with milliseconds since 1970."""
    row = COMMON | {
        "name": "sensors",
        "source": "sensors/%Y%m%d%H.csv.gz",
        "format": "csv",
        "granularity": "hour",
        "ingestion_style": "incremental",
        "primary_key": "sensor|at",
        "partition_field": "at",
        "timestamp_format": "epoch_milliseconds",
        "contract": "c.yaml",
    }
    platform = onboard(
        folder,
        row,
        contracts=contracts("""\
  sensor: {type: integer, key: true, description: Which.}
  at: {type: timestamp, key: true, source: ts, description: When.}
  value: {type: number, description: What it read.}
"""),
    )
    millis = int(START.timestamp()) * 1000
    lines = [
        "sensor,ts,value",
        f"1,{millis},0.1",
        f"2,{millis + 3_599_999},-1e-3",
        f"3,{millis + 3_600_000},1",
        "4,2024-05-06T00:00:00Z,1",
        f"1,{millis},0.1",
        f"5,{millis},",
        f"6,{millis * 1_000_000},1",
        f"x,{millis},one",
    ]
    platform.land("sensors/2024050600.csv.gz", gzip.compress("\n".join(lines).encode()))
    return platform


SENSORS: Rows = [
    {"sensor": 1, "at": START, "value": 0.1},
    {"sensor": 2, "at": START.replace(minute=59, second=59, microsecond=999_000), "value": -0.001},
]
SENSORS_REJECTS = {
    3: ["at: outside the landed partition"],
    4: ["at: not a timestamp"],
    5: ["duplicate of an earlier row"],
    6: ["value: missing"],
    7: ["at: not a timestamp"],
    8: ["sensor: not a whole number", "value: not a number"],
}


def bookings(folder: Path) -> Onboarded:
    """An ERP: local times of Paris, several spellings of nothing, names with spaces, more columns than wanted."""
    row = COMMON | {
        "name": "bookings",
        "source": "erp/BOOKINGS_%Y-%m-%d.csv",
        "format": "csv",
        "granularity": "day",
        "ingestion_style": "incremental",
        "primary_key": "number",
        "partition_field": "booked_at",
        "time_zone": "Europe/Paris",
        "timestamp_format": "%d/%m/%Y %H:%M",
        "starts": "2024-10-27",
        "null_values": "NULL|n/a|-",
        "new_columns": "ignore",
        "personal_data": "clerk",
        "retention_days": "36500",
        "contract": "c.yaml",
    }
    platform = onboard(
        folder,
        row,
        contracts=contracts("""\
  number: {type: text, key: true, source: No., description: Number of the booking.}
  booked_at: {type: timestamp, source: Booked at, description: When it was booked.}
  due: {type: date, optional: true, source: Due, description: When it is to be paid.}
  amount: {type: number, optional: true, source: Amount EUR, unit: euros, description: How much.}
  clerk: {type: text, optional: true, source: Clerk, description: Who booked it.}
"""),
    )
    lines = [
        "No.,Booked at,Due,Amount EUR,Clerk,Remark",
        "A1,27/10/2024 00:30,2024-11-01,12.50,Zoé,x",
        "A2,27/10/2024 23:59,NULL,-,n/a,x",
        "A3,27/10/2024 02:30,2024-11-01,1,Bob,twice",
        "A4,28/10/2024 00:00,2024-11-01,1,Bob,tomorrow",
        'A5,27/10/2024 12:00,01/11/2024,"1,50",Bob,of another land',
        "-,27/10/2024 12:00,NULL,1,Bob,no number",
    ]
    platform.land("erp/BOOKINGS_2024-10-27.csv", "\r\n".join(lines) + "\r\n")
    return platform


BOOKINGS: Rows = [
    {
        "number": "A1",
        "booked_at": datetime(2024, 10, 26, 22, 30, tzinfo=UTC),
        "due": date(2024, 11, 1),
        "amount": 12.5,
        "clerk": "Zoé",
    },
    {
        "number": "A2",
        "booked_at": datetime(2024, 10, 27, 22, 59, tzinfo=UTC),
        "due": None,
        "amount": None,
        "clerk": None,
    },
]
BOOKINGS_REJECTS = {
    3: ["booked_at: not a timestamp"],
    4: ["booked_at: outside the landed partition"],
    5: ["due: not a date", "amount: not a number"],
    6: ["number: missing"],
}


def trips(folder: Path) -> Onboarded:
    """Parquet, with a rule over two columns."""
    row = COMMON | {
        "name": "trips",
        "source": "trips/day=%Y-%m-%d/*.parquet",
        "format": "parquet",
        "granularity": "day",
        "ingestion_style": "incremental",
        "primary_key": "trip",
        "partition_field": "pickup",
        "contract": "c.yaml",
    }
    rule = "rules:\n  arrives_behind_its_start: pickup <= dropoff\n"
    platform = onboard(
        folder,
        row,
        contracts=contracts(
            """\
  trip: {type: integer, key: true, description: Number.}
  pickup: {type: timestamp, description: Start.}
  dropoff: {type: timestamp, description: End.}
  miles: {type: number, min: 0, description: How far.}
"""
            + rule
        ),
    )
    frame = pl.DataFrame(
        {
            "trip": [2**60, 2, 3],
            "pickup": [START, START.replace(hour=5), START.replace(hour=6)],
            "dropoff": [START.replace(hour=1), START.replace(hour=4), START.replace(hour=7)],
            "miles": [0.1, 1.0, -0.5],
        },
        schema_overrides={"dropoff": pl.Datetime("ns", "America/New_York")},
    )
    platform.land(f"trips/day={DAY}/part-0.parquet", frame)
    return platform


TRIPS: Rows = [{"trip": 2**60, "pickup": START, "dropoff": START.replace(hour=1), "miles": 0.1}]
TRIPS_REJECTS = {2: ["arrives behind its start"], 3: ["miles: min"]}


def countries(folder: Path) -> Onboarded:
    """A dimension that is loaded as a whole."""
    row = COMMON | {
        "name": "countries",
        "source": "reference/countries.csv",
        "format": "csv",
        "granularity": "none",
        "ingestion_style": "full",
        "primary_key": "code",
        "starts": "",
        "contract": "c.yaml",
    }
    platform = onboard(
        folder,
        row,
        contracts=contracts("""\
  code: {type: text, key: true, min_length: 2, max_length: 2, description: ISO 3166.}
  name: {type: text, description: In English.}
  member: {type: boolean, description: Of the union.}
  since: {type: date, optional: true, description: Since when.}
"""),
    )
    lines = [
        "code,name,member,since",
        'FR,"France, la",true,1958-01-01',
        "CH,Switzerland,false,",
        "NA,Namibia,false,",
        "GBR,Britain,false,",
        "DE,Germany,yes,1958-01-01",
        "IT,Italy,true,1958-01-01",
        "IT,Italia,true,1958-01-01",
    ]
    platform.land("reference/countries.csv", "\n".join(lines))
    return platform


COUNTRIES: Rows = [
    {"code": "FR", "name": "France, la", "member": True, "since": date(1958, 1, 1)},
    {"code": "CH", "name": "Switzerland", "member": False, "since": None},
    {"code": "NA", "name": "Namibia", "member": False, "since": None},
]
COUNTRIES_REJECTS = {
    4: ["code: max length"],
    5: ["member: not a truth value"],
    6: ["primary key"],
    7: ["primary key"],
}


def customers(folder: Path) -> Onboarded:
    """What changed since the last time."""
    row = COMMON | {
        "name": "customers",
        "source": "crm/*.jsonl",
        "format": "jsonl",
        "granularity": "none",
        "ingestion_style": "incremental",
        "incremental_field": "updated_at",
        "primary_key": "customer",
        "starts": "",
        "contract": "c.yaml",
    }
    platform = onboard(
        folder,
        row,
        contracts=contracts("""\
  customer: {type: integer, key: true, description: Number.}
  updated_at: {type: timestamp, description: When it changed.}
  city: {type: text, optional: true, source: address.city, description: Where.}
"""),
    )
    loads = [
        [(1, "02", "Lyon"), (2, "01", "Nice"), (3, "bad", "Metz")],
        [(2, "04", "Brest"), (4, "03", None), (2, "03", "Nantes")],
    ]
    for number, load in enumerate(loads):
        records = [
            {"customer": customer, "updated_at": f"{DAY}T{hour}:00:00Z", "address": {"city": city}}
            for customer, hour, city in load
        ]
        platform.land(f"crm/{number}.jsonl", "".join(json.dumps(record) + "\n" for record in records))
        if number == 0:
            platform.ingest()
    return platform


CUSTOMERS: Rows = [
    {"customer": 1, "updated_at": START.replace(hour=2), "city": "Lyon"},
    {"customer": 2, "updated_at": START.replace(hour=4), "city": "Brest"},
    {"customer": 4, "updated_at": START.replace(hour=3), "city": None},
]
OUTDATED = ["a later record of the same key came with it"]

NEW: dict[str, tuple[Callable[[Path], Onboarded], str, Rows, dict[int, list[str]], int]] = {
    "weather": (weather, DAY, WEATHER, WEATHER_REJECTS, 8),
    "sensors": (sensors, f"{DAY}-00:00", SENSORS, SENSORS_REJECTS, 8),
    "bookings": (bookings, "2024-10-27", BOOKINGS, BOOKINGS_REJECTS, 6),
    "trips": (trips, DAY, TRIPS, TRIPS_REJECTS, 3),
    "countries": (countries, "", COUNTRIES, COUNTRIES_REJECTS, 7),
}


@pytest.mark.parametrize(("make", "partition", "clean", "rejects", "raw"), NEW.values(), ids=NEW)
def test_a_new_data_set_is_a_line_and_a_contract(
    tmp_path: Path,
    make: Callable[[Path], Onboarded],
    partition: str,
    clean: Rows,
    rejects: dict[int, list[str]],
    raw: int,
) -> None:
    platform = make(tmp_path)
    for _ in range(2):  # the second time changes nothing
        platform.ingest(partition)
        key = platform.dataset.contract.primary_key()
        found = platform.of("clean").to_dicts()
        assert sorted(found, key=lambda row: str([row[column] for column in key])) == sorted(
            clean, key=lambda row: str([row[column] for column in key])
        )
        assert {line: reasons for (_, line), reasons in platform.rejects().items()} == rejects
        assert platform.of("raw").height == raw == len(clean) + len(rejects)


def test_an_incremental_table_is_a_line_and_a_contract(tmp_path: Path) -> None:
    platform = customers(tmp_path)
    for _ in range(2):
        platform.ingest()
        assert platform.of("clean").sort("customer").to_dicts() == CUSTOMERS
        assert platform.rejects() == {("0.jsonl", 3): ["updated_at: not a timestamp"], ("1.jsonl", 3): OUTDATED}
        assert platform.of("raw").height == 6


def test_what_is_landed_stays_raw_as_it_came(tmp_path: Path) -> None:
    platform = bookings(tmp_path)
    platform.ingest("2024-10-27")
    raw = platform.of("raw")
    assert raw.row(1, named=True) == {
        "partition_start": datetime(2024, 10, 26, 22, tzinfo=UTC),
        "source_file": "erp/BOOKINGS_2024-10-27.csv",
        "source_row": 2,
        "No.": "A2",
        "Booked at": "27/10/2024 23:59",
        "Due": "NULL",
        "Amount EUR": "-",
        "Clerk": "n/a",
    }
    records = platform.of("quarantine").sort("source_row")["record"].to_list()
    assert json.loads(records[2])["Amount EUR"] == "1,50"


WITHOUT = COMMON | {
    "name": "clicks",
    "source": "clicks/%Y-%m-%d.jsonl",
    "format": "jsonl",
    "granularity": "day",
    "ingestion_style": "incremental",
    "primary_key": "id",
    "partition_field": "at",
}


def test_without_a_contract_each_record_is_there_whole(tmp_path: Path) -> None:
    platform = onboard(tmp_path, WITHOUT)
    lines = [
        f'{{"id": "1", "at": "{DAY}T01:00:00Z", "deep": {{"a": [1, null]}}, "x": 1.50}}',
        f'{{"id": "2", "at": "{DAY}T02:00:00Z", "anything": true}}',
        f'{{"at": "{DAY}T03:00:00Z"}}',
        '{"id": "4"}',
        "nothing",
    ]
    platform.land(f"clicks/{DAY}.jsonl", "\n".join(lines))
    platform.ingest(DAY)
    assert platform.of("clean").to_dicts() == [
        {"id": "1", "at": START.replace(hour=1), "record": lines[0]},
        {"id": "2", "at": START.replace(hour=2), "record": lines[1]},
    ]
    assert platform.rejects() == {
        (f"{DAY}.jsonl", 3): ["id: missing"],
        (f"{DAY}.jsonl", 4): ["at: missing"],
        (f"{DAY}.jsonl", 5): ["malformed record"],
    }


def test_without_a_contract_csv_is_kept_whole_too(tmp_path: Path) -> None:
    platform = onboard(tmp_path, {**WITHOUT, "format": "csv", "source": "clicks/%Y-%m-%d.csv"})
    platform.land(f"clicks/{DAY}.csv", f'at,id,note\n{DAY}T01:00:00Z,7,"a ""b"" é"\n')
    platform.ingest(DAY)
    (row,) = platform.of("clean").to_dicts()
    assert (row["id"], row["at"]) == ("7", START.replace(hour=1))
    assert json.loads(row["record"]) == {"at": f"{DAY}T01:00:00Z", "id": "7", "note": 'a "b" é'}


def test_raw_alone_needs_nothing_but_a_line(tmp_path: Path) -> None:
    row = {**WITHOUT, "stage": "raw", "primary_key": "", "format": "csv", "source": "clicks/%Y-%m-%d.csv"}
    platform = onboard(tmp_path, row)
    platform.land(f"clicks/{DAY}.csv", "a,b\n1,x\n")
    platform.ingest(DAY)
    assert len(platform.assets) == 1
    assert platform.of("raw").select("source_row", "payload").rows() == [(1, '{"a":"1","b":"x"}')]


SEMICOLONS = "id;at;euros\n1;2024-05-06T01:00:00Z;1,5\n2;2024-05-06T02:00:00Z;2\n"


@pytest.mark.parametrize("contract", ["c.yaml", ""], ids=["contract", "none"])
def test_columns_between_semicolons_are_refused(tmp_path: Path, contract: str) -> None:
    row = {**WITHOUT, "format": "csv", "source": "clicks/%Y-%m-%d.csv", "contract": contract}
    columns = contracts("""\
  id: {type: text, key: true, description: Number.}
  at: {type: timestamp, description: When.}
  euros: {type: number, description: Paid.}
""")
    platform = onboard(tmp_path, row, contracts=columns)
    platform.land(f"clicks/{DAY}.csv", SEMICOLONS)
    error = platform.refusal(DAY)
    assert "separated" in error
    assert "2024-05-06T01" not in error


def test_what_dagster_shows_of_a_new_data_set(tmp_path: Path) -> None:
    """Owner, description, units, personal data and the contract, without a word of code."""
    platform = bookings(tmp_path)
    specs = {spec.key.path[0]: spec for definition in platform.assets for spec in getattr(definition, "specs", [])}
    clean = specs["clean"]
    assert list(clean.owners) == ["data@shop.example"]
    assert clean.description == "One record. Typed, checked and without duplicates."
    assert clean.metadata["pattern_platform/contract"] == "c.yaml"
    schema = clean.metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    shown = {column.name: column for column in schema.columns}
    assert shown["amount"].description == "How much."
    assert dict(shown["amount"].tags or {}) == {"unit": "euros"}
    assert dict(shown["clerk"].tags or {}) == {"personal_data": "true"}
