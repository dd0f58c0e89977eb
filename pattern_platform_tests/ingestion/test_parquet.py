"""Parquet: each value is clean as it was landed, however it is kept raw."""

# ruff: noqa: DTZ001 - moments without a zone are what is read here

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import dataframely as dy
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.landing import read_landed
from pattern_platform.ingestion.parsing import parse_rows
from pattern_platform_tests.ingestion.onboarding import DAILY, DAY, Onboarded, land, onboard
from pattern_platform_tests.platform import errors

if TYPE_CHECKING:
    from pathlib import Path

ROW = {**DAILY, "source": "sales/date=%Y-%m-%d/*.parquet", "format": "parquet"}
MOMENT = datetime(2024, 5, 6, 1, 2, 3, 456_789, UTC)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


class Trip(dy.Schema):
    """Each type that a contract knows."""

    id = dy.Int64(primary_key=True)
    text = dy.String(nullable=True)
    number = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    small = dy.Int16(nullable=True)
    large = dy.UInt64(nullable=True)
    exact = dy.Decimal(20, 4, nullable=True)
    day = dy.Date(nullable=True)
    moment = dy.Datetime(nullable=True, time_unit="us", time_zone="UTC")
    ok = dy.Bool(nullable=True)
    kind = dy.Enum(["a", "b"], nullable=True)


TRIPS = Dataset(
    name="trips",
    description="One trip.",
    owner="team:taxi",
    landing="trips/*.parquet",
    format="parquet",
    partitions=None,
    contract=Trip,
    time_column=None,
    header=tuple(Trip.column_names()),
    null_values=(),
)


def through(folder: Path, frame: pl.DataFrame, dataset: Dataset = TRIPS) -> pl.DataFrame:
    """A file, as it is typed again."""
    land(folder, "trips/a.parquet", frame)
    raw = read_landed(dataset, folder / "landing", None)
    assert set(raw.select(dataset.header or "payload").schema.values()) == {pl.String()}
    return parse_rows(dataset, raw)


def completed(frame: pl.DataFrame) -> pl.DataFrame:
    """With the columns of the contract that it lacks, empty."""
    others = [name for name in Trip.column_names() if name not in frame.columns]
    return frame.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in others)


def assert_the_same(found: list[Any], landed: list[Any]) -> None:
    """NaN is itself, and zero has a sign."""
    assert [repr(value) for value in found] == [repr(value) for value in landed]


@settings(max_examples=25, deadline=None)
@given(rows=st.data())
def test_every_type_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, rows: st.DataObject) -> None:
    size = rows.draw(st.integers(1, 8))

    def some(values: st.SearchStrategy) -> list[Any]:
        return rows.draw(st.lists(st.one_of(st.none(), values), min_size=size, max_size=size))

    text = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
    moments = st.datetimes(datetime(1000, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))
    exact = st.decimals(Decimal(-(10**15)), Decimal(10**15), places=4)
    landed = pl.DataFrame(
        {
            "id": rows.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=size, max_size=size)),
            "text": some(text),
            "number": some(st.floats()),
            "small": some(st.integers(-(2**15), 2**15 - 1)),
            "large": some(st.integers(0, 2**64 - 1)),
            "exact": some(exact),
            "day": some(st.dates(date(1000, 1, 1), date(9999, 1, 1))),
            "moment": some(moments),
            "ok": some(st.booleans()),
            "kind": some(st.sampled_from(["a", "b"])),
        },
        schema=pl.Schema(Trip),
    )
    found = through(tmp_path_factory.mktemp("trips"), landed)
    assert found["reasons"].list.len().sum() == 0, found["reasons"].to_list()
    for name in landed.columns:
        assert_the_same(found[name].to_list(), landed[name].to_list())


NUMBERS = [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, None]


def test_numbers_at_the_ends_of_their_range(tmp_path: Path) -> None:
    found = through(tmp_path, completed(pl.DataFrame({"id": range(len(NUMBERS)), "number": NUMBERS})))
    assert_the_same(found["number"].to_list(), NUMBERS)


OTHERS: dict[str, tuple[str, pl.Series, list[Any]]] = {
    "nanoseconds": ("moment", pl.Series([MOMENT]).cast(pl.Datetime("ns", "UTC")), [MOMENT]),
    "milliseconds": (
        "moment",
        pl.Series([MOMENT]).cast(pl.Datetime("ms", "UTC")),
        [MOMENT.replace(microsecond=456_000)],
    ),
    "of another zone": ("moment", pl.Series([MOMENT]).dt.convert_time_zone("Asia/Tokyo"), [MOMENT]),
    "hour that is there twice": (
        "moment",
        pl.Series([datetime(2024, 10, 27, hour, 30, tzinfo=UTC) for hour in (0, 1)]).dt.convert_time_zone(
            "Europe/Paris"
        ),
        [datetime(2024, 10, 27, hour, 30, tzinfo=UTC) for hour in (0, 1)],
    ),
    "small float": ("number", pl.Series([0.5, None], dtype=pl.Float32), [0.5, None]),
    "whole numbers as numbers": ("number", pl.Series([2**53]), [float(2**53)]),
    "decimals as numbers": ("number", pl.Series([Decimal("1.10")]), [1.1]),
    "categories": ("text", pl.Series(["a", None, ""], dtype=pl.Categorical), ["a", None, ""]),
    "nothing but nulls": ("text", pl.Series([None], dtype=pl.Null), [None]),
    "numbers as text": ("text", pl.Series([7, None]), ["7", None]),
    "text that spells nothing": ("text", pl.Series(["", "NA", "null", "None", " "]), ["", "NA", "null", "None", " "]),
}


@pytest.mark.parametrize(("column", "values", "wanted"), OTHERS.values(), ids=OTHERS)
def test_a_file_may_have_other_types_than_its_contract(
    tmp_path: Path, column: str, values: pl.Series, wanted: list[Any]
) -> None:
    frame = pl.DataFrame({"id": range(len(values)), column: values})
    found = through(tmp_path, completed(frame))
    assert found["reasons"].to_list() == [[]] * len(values)
    assert_the_same(
        [v.astimezone(UTC) if isinstance(v, datetime) else v for v in found[column]],
        [v.astimezone(UTC) if isinstance(v, datetime) else v for v in wanted],
    )


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("small", 2**15, "small: not a whole number"),
        ("small", 1.5, "small: not a whole number"),
        ("large", -1, "large: not a whole number"),
        ("kind", "c", "kind: not a enum"),
        ("day", MOMENT, "day: not a date"),
        ("moment", MOMENT.replace(tzinfo=None), "moment: not a timestamp"),
        ("ok", 1, "ok: not a truth value"),
    ],
)
def test_a_value_that_does_not_fit_rejects_its_row(tmp_path: Path, column: str, value: object, reason: str) -> None:
    frame = pl.DataFrame({"id": [1], column: [value]})
    found = through(tmp_path, completed(frame))
    (reasons,) = found["reasons"].to_list()
    assert [told.partition(" a")[0] for told in reasons] == [reason.partition(" a")[0]]
    assert found[column].to_list() == [None]


def test_naive_moments_are_of_the_zone_of_the_registry(tmp_path: Path) -> None:
    contract = """\
description: One trip.
columns:
  id: {type: integer, key: true, description: Number.}
  at: {type: timestamp, description: When.}
  on: {type: date, optional: true, description: Day.}
""".replace("  on:", "  'on':")
    row = {**ROW, "time_zone": "Europe/Paris"}
    platform = onboard(tmp_path, row, contracts={"contracts/sales.yaml": contract})
    naive = [datetime(2024, 5, 6, 0, 30), datetime(2024, 5, 6, 23, 59, 59, 999_999), datetime(2024, 5, 7, 0, 0)]
    frame = pl.DataFrame({"id": [1, 2, 3], "at": naive, "on": [date(2024, 5, 6), None, date(2024, 5, 7)]})
    platform.land(f"sales/date={DAY}/a.parquet", frame)
    platform.ingest(DAY)
    paris = [moment.replace(tzinfo=ZoneInfo("Europe/Paris")).astimezone(UTC) for moment in naive]
    assert platform.of("clean").rows() == [(1, paris[0], date(2024, 5, 6)), (2, paris[1], None)]
    assert platform.rejects() == {("a.parquet", 3): ["at: outside the landed partition"]}


def daily(folder: Path, new_columns: str) -> Onboarded:
    return onboard(folder, {**ROW, "new_columns": new_columns})


NO_TEXT: dict[str, pl.Series] = {
    "list": pl.Series([[1.5]]),
    "struct": pl.Series([{"a": 1}]),
    "array": pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2)),
    "bytes": pl.Series([b"\xff"]),
}


@pytest.mark.parametrize("new_columns", ["refuse", "keep"])
@pytest.mark.parametrize("values", NO_TEXT.values(), ids=NO_TEXT)
def test_a_column_that_is_no_text_is_refused(tmp_path: Path, values: pl.Series, new_columns: str) -> None:
    platform = daily(tmp_path, new_columns)
    frame = pl.DataFrame({"id": ["1"], "at": [MOMENT], "euros": values})
    platform.land(f"sales/date={DAY}/a.parquet", frame)
    error = platform.refusal(DAY)
    assert "UnreadableFileError" in error
    assert "'euros'" in error
    assert "plain columns, or jsonl for nested ones" in error


@pytest.mark.parametrize(
    "values", [pl.Series([time(1, 2, 3)]), pl.Series([timedelta(hours=1)])], ids=["time", "duration"]
)
def test_times_of_day_and_durations_are_text_or_refused(tmp_path: Path, values: pl.Series) -> None:
    platform = daily(tmp_path, "keep")
    platform.land(f"sales/date={DAY}/a.parquet", pl.DataFrame({"id": ["1"], "at": [MOMENT], "long": values}))
    result = platform.run(platform.selected(), DAY)
    if result.success:
        assert platform.of("clean")["long"].to_list()[0] in ("01:02:03", "01:02:03.000000000", "PT1H")
    else:
        assert "'long'" in platform.refusal(DAY)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    platform = daily(tmp_path, "refuse")
    platform.land(f"sales/date={DAY}/a.parquet", "id,at\n1,2\n")
    (error,) = errors(platform.run(platform.selected(), DAY))
    assert "UnreadableFileError" in error
    assert "it is not parquet" in error


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    platform = daily(tmp_path, "refuse")
    frame = pl.DataFrame({"id": ["1"], "at": [MOMENT], "euros": [1.0]})
    file = platform.land(f"sales/date={DAY}/a.parquet", frame)
    file.write_bytes(file.read_bytes()[:-20])
    assert "UnreadableFileError" in platform.refusal(DAY)


def test_numbers_that_are_none_are_kept_raw_and_rejected_by_a_contract_file(tmp_path: Path) -> None:
    platform = daily(tmp_path, "refuse")
    frame = pl.DataFrame({"id": ["1", "2", "3"], "at": [MOMENT] * 3, "euros": [math.nan, math.inf, 1.0]})
    platform.land(f"sales/date={DAY}/a.parquet", frame)
    platform.ingest(DAY)
    assert platform.of("raw")["euros"].to_list() == ["NaN", "inf", "1.0"]
    assert platform.of("clean")["id"].to_list() == ["3"]
    assert platform.rejects() == {("a.parquet", 1): ["euros: nan"], ("a.parquet", 2): ["euros: inf"]}
