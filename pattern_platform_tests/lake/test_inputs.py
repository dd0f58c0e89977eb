"""What an asset is given: exactly the mapped partitions, as the kind of frame it asks for, or a refusal."""

from __future__ import annotations

import datetime as dt
from pathlib import Path  # noqa: TC003 - pytest reads it
from typing import Any

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from pattern_platform.errors import (
    InvalidMetadataError,
    MissingPartitionsError,
    MissingTableError,
    MissingVersionError,
    UnreadableVersionError,
    UnsupportedFrameError,
)
from pattern_platform.lake.log import commit_path
from pattern_platform_tests.lake.tables import (
    FRAME_KINDS,
    Table,
    assert_same_rows,
    failing,
    failures,
    live_files,
    refused,
)

START = dt.datetime(2024, 5, 6, tzinfo=dt.UTC)  # a Monday
HOUR = dt.timedelta(hours=1)
HOURS = dg.HourlyPartitionsDefinition(start_date="2024-05-06-00:00", end_date="2024-05-08-00:00")
DAYS = dg.DailyPartitionsDefinition(start_date="2024-05-06", end_date="2024-05-20")
WEEKS = dg.WeeklyPartitionsDefinition(start_date="2024-05-06", end_date="2024-05-20", day_offset=1)
COUNTRIES = dg.StaticPartitionsDefinition(["nl", "be", "fr", "us", "o'x"])
CONTINENTS = dg.StaticPartitionsDefinition(["europe", "america"])
KEYS = HOURS.get_partition_keys()


def events(start: dt.datetime, end: dt.datetime) -> pl.DataFrame:
    """Two rows an hour: on the hour, and a microsecond before the next."""
    hours = pl.datetime_range(start, end, "1h", time_zone="UTC", closed="left", eager=True)
    moments = pl.concat([hours, hours + HOUR - dt.timedelta(microseconds=1)]).sort()
    return pl.DataFrame({"moment": moments.dt.cast_time_unit("us")}).with_columns(
        id=pl.col("moment").dt.epoch("us"), name=pl.col("moment").dt.to_string()
    )


def hour(n: int) -> pl.DataFrame:
    return events(START + n * HOUR, START + (n + 1) * HOUR)


DAY_ONE = events(START, START + 24 * HOUR)


def hours_table(root: Path, present: range = range(24)) -> Table:
    """Hours of 2024-05-06, each written by a run of its own."""
    table = Table(root, HOURS)
    for n in present:
        table.write(hour(n), KEYS[n])
    return table


def foreign_table(root: Path, frame: pl.DataFrame, definition: dg.PartitionsDefinition | None, **write: Any) -> Table:
    """A table that delta-rs made, declared as an asset."""
    table = Table(root, definition)
    write_deltalake(table.path, frame, **write)
    return table


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """24 hours of one day; read only."""
    return hours_table(tmp_path_factory.mktemp("day"))


# Mappings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*FRAME_KINDS, None, Any])
def test_24_hours_make_a_day_in_every_kind(day: Table, kind: Any) -> None:
    assert_same_rows(day.load("2024-05-06", kind=kind, definition=DAYS), DAY_ONE)


def test_identity(day: Table) -> None:
    assert_same_rows(day.load(KEYS[7], definition=HOURS), hour(7))


def test_the_hour_before(day: Table) -> None:
    before = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)
    assert_same_rows(day.load(KEYS[7], definition=HOURS, mapping=before), hour(6))


@pytest.mark.filterwarnings("ignore:Parameter `allow_nonexistent:dagster.BetaWarning")
def test_the_hour_before_the_first_is_an_empty_frame_with_columns(day: Table) -> None:
    before = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True)
    assert day.load(KEYS[0], definition=HOURS, mapping=before).schema == DAY_ONE.schema


def test_a_range_run_reads_its_range(day: Table) -> None:
    loaded = day.load(key_range=(KEYS[3], KEYS[6]), definition=HOURS)
    assert_same_rows(loaded, pl.concat([hour(n) for n in (3, 4, 5, 6)]))


def test_7_days_make_a_week(tmp_path: Path) -> None:
    table = Table(tmp_path, DAYS)
    for n in range(8):
        table.write(events(START + n * 24 * HOUR, START + (n * 24 + 2) * HOUR), DAYS.get_partition_keys()[n])
    week = pl.concat([events(START + n * 24 * HOUR, START + (n * 24 + 2) * HOUR) for n in range(7)])
    assert_same_rows(table.load("2024-05-06", definition=WEEKS), week)


@pytest.mark.parametrize("column", ["date", "string"])
def test_7_days_make_a_week_by_other_columns(tmp_path: Path, column: str) -> None:
    keys = DAYS.get_partition_keys()
    table = Table(tmp_path, DAYS)
    for n, key in enumerate(keys):
        moment = pl.Series([key]).str.to_date() if column == "date" else pl.Series([key])
        table.write(pl.DataFrame({"moment": moment, "n": [n]}), key)
    assert table.load("2024-05-13", definition=WEEKS)["n"].sort().to_list() == [7, 8, 9, 10, 11, 12, 13]


@pytest.mark.parametrize("partition_by", [(), ("country",)], ids=["flat", "physical"])
def test_partitions_that_are_not_contiguous(tmp_path: Path, partition_by: tuple[str, ...]) -> None:
    table = Table(tmp_path, COUNTRIES, "country", metadata={"partition_by": list(partition_by)})
    for n, key in enumerate(COUNTRIES.get_partition_keys()):
        table.write(pl.DataFrame({"country": [key], "n": [n]}), key)
    mapping = dg.StaticPartitionMapping({"nl": "europe", "fr": "europe", "o'x": "europe", "us": "america"})
    loaded = table.load("europe", definition=CONTINENTS, mapping=mapping)
    assert_same_rows(loaded, pl.DataFrame({"country": ["nl", "fr", "o'x"], "n": [0, 2, 4]}))
    some = dg.SpecificPartitionsPartitionMapping(["be", "us"])
    assert table.load(definition=None, mapping=some)["n"].sort().to_list() == [1, 3]


def test_hours_that_are_not_contiguous(day: Table) -> None:
    some = dg.SpecificPartitionsPartitionMapping([KEYS[1], KEYS[3], KEYS[23]])
    assert_same_rows(day.load(mapping=some), pl.concat([hour(1), hour(3), hour(23)]))


def test_the_last_partition(tmp_path: Path) -> None:
    table = Table(tmp_path, COUNTRIES, "country")
    for key in COUNTRIES.get_partition_keys():
        table.write(pl.DataFrame({"country": [key]}), key)
    assert table.load(mapping=dg.LastPartitionMapping())["country"].to_list() == ["o'x"]


@pytest.mark.parametrize("mapping", [None, dg.AllPartitionMapping()], ids=["default", "all"])
def test_an_asset_without_partitions_reads_them_all(tmp_path: Path, mapping: dg.PartitionMapping | None) -> None:
    table = Table(tmp_path, COUNTRIES, "country")
    for key in COUNTRIES.get_partition_keys():
        table.write(pl.DataFrame({"country": [key]}), key)
    assert sorted(table.load(mapping=mapping)["country"]) == sorted(COUNTRIES.get_partition_keys())


def test_a_partitioned_asset_reads_a_whole_table_without_partitions(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.write(DAY_ONE)
    assert_same_rows(table.load("2024-05-06", definition=DAYS), DAY_ONE)


@pytest.mark.filterwarnings("ignore:Class `MultiToSingle:dagster.BetaWarning")
def test_two_dimensions_to_one(tmp_path: Path) -> None:
    both = dg.MultiPartitionsDefinition({"date": DAYS, "country": COUNTRIES})
    table = Table(tmp_path, both, {"date": "moment", "country": "country"})
    for n, (date, country) in enumerate((d, c) for d in DAYS.get_partition_keys()[:2] for c in ("nl", "o'x")):
        frame = pl.DataFrame({"moment": [START + (n // 2) * 24 * HOUR], "country": [country], "n": [n]})
        table.write(frame.with_columns(pl.col("moment").dt.cast_time_unit("us")), _multi(date, country))
    present = {"allow_missing_partitions": True}
    by_day = dg.MultiToSingleDimensionPartitionMapping("date")
    by_country = dg.MultiToSingleDimensionPartitionMapping("country")
    assert sorted(table.load("2024-05-07", definition=DAYS, mapping=by_day, **present)["n"]) == [2, 3]
    assert sorted(table.load("o'x", definition=COUNTRIES, mapping=by_country, **present)["n"]) == [1, 3]
    assert table.load(_multi("2024-05-06", "o'x"), definition=both)["n"].to_list() == [1]


def _multi(date: str, country: str) -> dg.MultiPartitionKey:
    return dg.MultiPartitionKey({"date": date, "country": country})


# Metadata of an input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_columns_are_projected_in_the_asked_order(day: Table, kind: type) -> None:
    loaded = day.load(KEYS[2], kind=kind, definition=HOURS, columns=["name", "id"])
    assert loaded.columns == ["name", "id"]
    assert_same_rows(loaded, hour(2).select("name", "id"))


def test_a_lazy_input_is_a_scan(day: Table) -> None:
    loaded = day.load("2024-05-06", kind=pl.LazyFrame, definition=DAYS, columns=["id"])
    assert_same_rows(loaded, DAY_ONE.select("id"))


def test_an_older_version(tmp_path: Path) -> None:
    table = hours_table(tmp_path, range(2))
    table.write(hour(1).clear(), KEYS[1])
    assert table.load(KEYS[1], definition=HOURS).is_empty()
    assert_same_rows(table.load(KEYS[1], definition=HOURS, table_version=2), hour(1))
    with refused(tmp_path, MissingPartitionsError, repr(KEYS[1])):
        table.load(KEYS[1], definition=HOURS, table_version=1)


@pytest.mark.parametrize("version", [99, -1, 2**70])
def test_a_version_that_never_was(day: Table, version: int) -> None:
    with refused(day.root, MissingVersionError, str(version)):
        day.load(KEYS[1], definition=HOURS, table_version=version)


@failures
def test_a_version_that_cannot_be_read_just_now(tmp_path: Path, failure: str) -> None:
    table = hours_table(tmp_path, range(3))
    with (
        failing(commit_path(table.path, 1), failure),
        pytest.raises(UnreadableVersionError, match="version 2") as caught,
    ):
        table.load(KEYS[1], definition=HOURS, table_version=2)
    assert caught.value.allow_retries
    assert_same_rows(table.load(KEYS[1], definition=HOURS, table_version=2), hour(1))


@failures
def test_a_version_that_cannot_be_read_from_its_checkpoint(tmp_path: Path, failure: str) -> None:
    table = hours_table(tmp_path, range(3))
    DeltaTable(table.path, version=2).create_checkpoint()
    for version in range(2):
        commit_path(table.path, version).unlink()
    checkpoint = table.path / "_delta_log" / f"{2:020}.checkpoint.parquet"
    with failing(checkpoint, failure):
        with pytest.raises(UnreadableVersionError, match="version 2"):
            table.load(KEYS[1], definition=HOURS, table_version=2)
        with pytest.raises(MissingVersionError, match="version 1"):
            table.load(KEYS[0], definition=HOURS, table_version=1)
    assert_same_rows(table.load(KEYS[1], definition=HOURS, table_version=2), hour(1))


@pytest.mark.parametrize(
    ("metadata", "culprit"),
    [
        ({"columns": "id"}, "columns"),
        ({"columns": ["id", "nme"]}, "nme"),
        ({"columns": [1]}, "columns"),
        ({"colums": ["id"]}, "colums"),
        ({"table_version": "3"}, "table_version"),
        ({"table_version": True}, "table_version"),
        ({"allow_missing_partition": True}, "allow_missing_partition"),
        ({"allow_missing_partitions": "yes"}, "allow_missing_partitions"),
    ],
)
def test_metadata_that_is_wrong(day: Table, metadata: dict[str, Any], culprit: str) -> None:
    with refused(day.root, InvalidMetadataError, culprit):
        day.load(KEYS[1], definition=HOURS, **metadata)


@pytest.mark.parametrize("kind", [dict, list[pl.DataFrame], pl.Series, str])
def test_an_annotation_that_is_no_frame(day: Table, kind: Any) -> None:
    with pytest.raises(UnsupportedFrameError):
        day.load(KEYS[1], kind=kind, definition=HOURS)


# What is missing ----------------------------------------------------------------------------------------------------


def test_a_missing_table(tmp_path: Path) -> None:
    table = Table(tmp_path, HOURS)
    with refused(tmp_path, MissingTableError, "'table'", KEYS[3]):
        table.load(KEYS[3], definition=HOURS)
    assert table.load(KEYS[3], definition=HOURS, allow_missing_partitions=True).is_empty()


def test_missing_hours_are_named(tmp_path: Path) -> None:
    table = hours_table(tmp_path, range(20))
    with refused(tmp_path, MissingPartitionsError, "4 of 24", *map(repr, KEYS[20:24])):
        table.load("2024-05-06", definition=DAYS)
    loaded = table.load("2024-05-06", definition=DAYS, allow_missing_partitions=True)
    assert_same_rows(loaded, pl.concat([hour(n) for n in range(20)]))


def test_an_hour_without_rows_is_present(tmp_path: Path) -> None:
    table = hours_table(tmp_path, range(23))
    with pytest.raises(MissingPartitionsError):
        table.load("2024-05-06", definition=DAYS)
    table.write(hour(23).clear(), KEYS[23])
    expected = pl.concat([hour(n) for n in range(23)])
    assert_same_rows(table.load("2024-05-06", definition=DAYS), expected)
    for happening in (
        table.handle.optimize.compact,
        table.handle.create_checkpoint,
        lambda: table.handle.vacuum(0, dry_run=False, enforce_retention_duration=False),
        lambda: write_deltalake(table.path, hour(24), mode="append"),
    ):
        happening()
        assert_same_rows(table.load("2024-05-06", definition=DAYS), expected)


def test_a_range_run_makes_its_empty_hours_present(tmp_path: Path) -> None:
    table = hours_table(tmp_path, range(0))
    table.write_range(pl.concat([hour(0), hour(23)]), KEYS[0], KEYS[23])
    assert_same_rows(table.load("2024-05-06", definition=DAYS), pl.concat([hour(0), hour(23)]))


def test_a_table_whose_every_partition_is_empty(tmp_path: Path) -> None:
    table = hours_table(tmp_path, range(0))
    table.write(hour(0).clear(), KEYS[0])
    assert table.load(KEYS[0], definition=HOURS).is_empty()
    assert table.load(KEYS[0], definition=HOURS).schema == hour(0).schema
    with refused(tmp_path, MissingPartitionsError, repr(KEYS[1])):
        table.load(KEYS[1], definition=HOURS)


def test_an_empty_table_without_partitions_is_present(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.write(hour(0).clear())
    assert table.load().schema == hour(0).schema


# Tables and files of other writers ----------------------------------------------------------------------------------

LAYOUTS: dict[str, dict[str, Any]] = {
    "one file": {},
    "physical": {"partition_by": ["country"]},
    "no statistics": {"configuration": {"delta.dataSkippingNumIndexedCols": "0"}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_table_that_delta_rs_wrote(tmp_path: Path, layout: str) -> None:
    frame = events(START, START + 48 * HOUR).with_columns(country=pl.col("id") % 3)
    table = foreign_table(tmp_path, frame, HOURS, **LAYOUTS[layout])
    for n in (0, 23, 47):
        window = pl.col("moment").is_between(START + n * HOUR, START + (n + 1) * HOUR, closed="left")
        assert_same_rows(table.load(KEYS[n], definition=HOURS), frame.filter(window))
    first_day = frame.filter(pl.col("moment") < START + 24 * HOUR)
    assert_same_rows(table.load("2024-05-06", definition=DAYS), first_day)
    with refused(tmp_path, MissingPartitionsError, "2024-05-08"):
        table.with_(definition=DAYS).load("2024-05-08", definition=DAYS)


def test_a_hole_inside_a_file_of_delta_rs_is_found(tmp_path: Path) -> None:
    frame = pl.concat([hour(0), hour(2)])
    table = foreign_table(tmp_path, frame, HOURS)
    with refused(tmp_path, MissingPartitionsError, "1 of 3", repr(KEYS[1])):
        table.load(mapping=dg.SpecificPartitionsPartitionMapping(KEYS[:3]))


@pytest.mark.parametrize("partition_by", [[], ["moment"]], ids=["flat", "physical"])
@pytest.mark.parametrize("kind", ["date", "string", "integer"])
def test_delta_rs_wrote_other_partition_columns(tmp_path: Path, kind: str, partition_by: list[str]) -> None:
    keys = DAYS.get_partition_keys()[:3]
    column = pl.Series(keys).str.to_date() if kind == "date" else pl.Series(keys)
    definition: dg.PartitionsDefinition = DAYS
    if kind == "integer":
        keys, column = ["1", "20", "3"], pl.Series([1, 20, 3])
        definition = dg.StaticPartitionsDefinition([*keys, "4"])
    frame = pl.DataFrame({"moment": column, "n": [0, 1, 2]})
    table = foreign_table(tmp_path, frame, definition, partition_by=partition_by)
    table = table.with_(metadata={"partition_by": partition_by})
    for n, key in enumerate(keys):
        assert table.load(key, definition=definition)["n"].to_list() == [n]
    with refused(tmp_path, MissingPartitionsError, definition.get_partition_keys()[3]):
        table.load(definition.get_partition_keys()[3], definition=definition)
    table.write(frame.filter(pl.col("n") == 1).with_columns(n=pl.lit(10, pl.Int64)), keys[1])
    assert sorted(table.rows()["n"]) == [0, 2, 10]


def test_files_astride_several_hours(tmp_path: Path) -> None:
    table = hours_table(tmp_path, range(6))
    table.handle.optimize.compact()
    assert len(live_files(table)) == 1
    assert_same_rows(table.load(KEYS[3], definition=HOURS), hour(3))
    new = hour(3).with_columns(name=pl.lit("new"))
    table.write(new, KEYS[3])
    oracle = pl.concat([hour(n) if n != 3 else new for n in range(6)])
    assert_same_rows(table.rows(), oracle)
    for n in range(6):
        assert_same_rows(table.load(KEYS[n], definition=HOURS), hour(n) if n != 3 else new)


def test_an_astride_file_is_rewritten_for_the_hour_that_leaves_it(tmp_path: Path) -> None:
    table = hours_table(tmp_path, range(4))
    table.handle.optimize.compact()
    for n in (0, 2, 3):
        written = table.write(hour(n).clear(), KEYS[n])
        assert written.metadata["delta/rows_deleted"] == 2
        assert written.metadata["delta/rows_inserted"] == 0
    assert_same_rows(table.rows(), hour(1))


def test_nulls_in_the_partition_column_belong_to_no_partition(tmp_path: Path) -> None:
    frame = pl.concat([hour(0), hour(1).with_columns(moment=pl.lit(None, hour(1).schema["moment"]))])
    table = foreign_table(tmp_path, frame, HOURS)
    assert_same_rows(table.load(KEYS[0], definition=HOURS), hour(0))
    table.write(hour(0).clear(), KEYS[0])
    assert table.rows()["moment"].null_count() == table.rows().height == 2


def test_a_column_that_was_added_later_is_null_before(tmp_path: Path) -> None:
    table = hours_table(tmp_path, range(2)).with_(metadata={"schema_evolution": "add_columns"})
    table.write(hour(2).with_columns(added=pl.lit("x")), KEYS[2])
    loaded = table.load(mapping=dg.SpecificPartitionsPartitionMapping(KEYS[:3]))
    assert loaded.columns == [*hour(0).columns, "added"]
    assert loaded["added"].null_count() == 4
    assert table.load(KEYS[0], definition=HOURS)["added"].null_count() == 2
    older = table.load(KEYS[0], definition=HOURS, table_version=2)
    assert older.columns == hour(0).columns


def test_time_travel_after_a_vacuum_says_so(tmp_path: Path) -> None:
    table = hours_table(tmp_path, range(1))
    table.write(hour(0), KEYS[0])
    table.handle.vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises((MissingVersionError, FileNotFoundError)):
        table.load(KEYS[0], definition=HOURS, table_version=1)


def test_a_handle_of_an_old_version_does_not_hide_new_hours(tmp_path: Path) -> None:
    table = hours_table(tmp_path, range(1))
    assert_same_rows(table.load(KEYS[0], definition=HOURS), hour(0))
    write_deltalake(table.path, hour(1), mode="append")
    assert_same_rows(table.load(KEYS[1], definition=HOURS), hour(1))
    DeltaTable(table.path).delete("true")
    with refused(tmp_path, MissingPartitionsError, repr(KEYS[1])):
        table.load(KEYS[1], definition=HOURS)
