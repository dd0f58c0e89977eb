"""Every reader reads the same rows, prunes no file too many, and delta-rs can go on writing these tables."""

from __future__ import annotations

import datetime as dt
import decimal
import operator
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pattern_platform_tests.lake.tables import Table, assert_same_rows, live_files

if TYPE_CHECKING:
    from collections.abc import Callable

UTC = dt.UTC
MOMENTS = [
    dt.datetime(2024, 5, 6, 12, tzinfo=UTC),
    dt.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    dt.datetime(2024, 10, 27, 1, 0, 0, 1, tzinfo=UTC),
    None,
]
NAN = float("nan")
EVERY_TYPE = pl.DataFrame(
    {
        "id": [1, 2, 3, 4],
        "zoned": pl.Series(MOMENTS, dtype=pl.Datetime("us", "UTC")),
        "naive": pl.Series([m and m.replace(tzinfo=None) for m in MOMENTS], dtype=pl.Datetime("us")),
        "day": [dt.date(1582, 10, 15), dt.date(2024, 2, 29), None, dt.date(9999, 12, 31)],
        "text": ["ñ", "", None, "x" * 5000],
        "float": [NAN, -0.0, None, float("inf")],
        "single": pl.Series([NAN, 1.5, None, -1.5], dtype=pl.Float32),
        "tiny": pl.Series([-128, 127, None, 0], dtype=pl.Int8),
        "big": pl.Series([-(2**63), 2**63 - 1, None, 0], dtype=pl.Int64),
        "truth": [True, False, None, True],
        "bytes": [b"\x00\xff", b"", None, b"x"],
        "money": pl.Series([decimal.Decimal("-1.50"), None, decimal.Decimal(0), decimal.Decimal("9" * 10)]).cast(
            pl.Decimal(12, 2)
        ),
        "nested": [{"a": 1, "b": {"c": "x"}}, {"a": None, "b": {"c": None}}, None, {"a": 2, "b": {"c": "ñ"}}],
        "several": [[1, None], [], None, [3]],
        "structs": [[{"at": MOMENTS[0]}], [], None, [{"at": None}]],
        "with.dot": [1, 2, 3, None],
        "with space": ["a", "b", "c", None],
        "ünï'cøde": [1, 2, 3, None],
    }
)
ODD = ["o'x", "a b", "a/b", "ñ", None, "a%2Fb", "x=y", "100%"]


def by_delta_rs(table: Table) -> pl.DataFrame:
    return table.rows()


def by_polars(table: Table) -> pl.DataFrame:
    return pl.scan_delta(table.path).collect()


def by_duckdb(table: Table) -> pl.DataFrame:
    dataset = table.handle.to_pyarrow_dataset()
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return pl.DataFrame(connection.register("t", dataset).execute("FROM t").to_arrow_table())


def by_files(table: Table) -> pl.DataFrame:
    """Without the log's help: DuckDB reads the Parquet files of a table without physical partitions."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return pl.DataFrame(connection.execute("FROM read_parquet(?)", [table.handle.file_uris()]).to_arrow_table())


def by_the_platform(table: Table) -> pl.DataFrame:
    return table.load()


READERS = (by_delta_rs, by_polars, by_duckdb, by_the_platform)


@pytest.mark.parametrize("read", [*READERS, by_files])
def test_every_type_is_read_as_it_was_written(tmp_path: Path, read: Callable[[Table], pl.DataFrame]) -> None:
    table = Table(tmp_path)
    table.write(EVERY_TYPE)
    got = read(table)
    got = got.with_columns(pl.col(c).cast(t) for c, t in EVERY_TYPE.schema.items() if got.schema[c] != t)
    assert_frame_equal(got.sort("id"), EVERY_TYPE)


@pytest.mark.parametrize("column", [c for c in EVERY_TYPE.columns if c not in ("nested", "several", "structs")])
def test_a_filter_on_any_type_finds_the_same_rows(tmp_path: Path, column: str) -> None:
    table = Table(tmp_path)
    table.write(EVERY_TYPE)
    for value in EVERY_TYPE[column]:
        literal = pl.lit(value, dtype=EVERY_TYPE.schema[column])
        for condition in (pl.col(column) == literal, pl.col(column) >= literal, pl.col(column) <= literal):
            assert_frame_equal(pl.scan_delta(table.path).filter(condition).collect(), EVERY_TYPE.filter(condition))
    for condition in (pl.col(column).is_null(), pl.col(column).is_not_null()):
        assert_frame_equal(pl.scan_delta(table.path).filter(condition).collect(), EVERY_TYPE.filter(condition))


@pytest.mark.parametrize("moment", [dt.datetime.max.replace(tzinfo=UTC), dt.datetime.min.replace(tzinfo=UTC)])
def test_the_ends_of_time(tmp_path: Path, moment: dt.datetime) -> None:
    """9999-12-31 23:59:59.999999 is a common word for "for ever"; its millisecond ends in the year 10000."""
    frame = pl.DataFrame({"until": pl.Series([moment], dtype=pl.Datetime("us", "UTC")), "n": [1]})
    table = Table(tmp_path)
    table.write(frame)
    assert_same_rows(table.rows(), frame)
    assert pl.scan_delta(table.path).filter(pl.col("until") == moment).collect().height == 1


def test_moments_beyond_python(tmp_path: Path) -> None:
    far = pl.DataFrame({"n": [300_000_000_000_000_000]}).select(pl.col("n").cast(pl.Datetime("us")))  # year 11476
    table = Table(tmp_path)
    table.write(far)
    assert pl.scan_delta(table.path).collect().equals(far)


@pytest.mark.parametrize("read", READERS)
def test_physical_partitions_with_odd_values(tmp_path: Path, read: Callable[[Table], pl.DataFrame]) -> None:
    frame = pl.DataFrame({"p": ODD, "q": [1, 2, None, 4, 5, 6, 7, 8], "n": range(len(ODD))})
    table = Table(tmp_path, metadata={"partition_by": ["p", "q"]})
    table.write(frame)
    assert_same_rows(read(table), frame)


@pytest.mark.parametrize("value", ODD)
def test_pruning_by_an_odd_physical_partition(tmp_path: Path, value: str | None) -> None:
    frame = pl.DataFrame({"p": ODD, "n": range(len(ODD))})
    table = Table(tmp_path, metadata={"partition_by": ["p"]})
    table.write(frame)
    condition = pl.col("p").eq_missing(pl.lit(value, dtype=pl.String))
    expected = frame.filter(condition)
    assert_same_rows(pl.scan_delta(table.path).filter(condition).collect(), expected)
    files = pl.DataFrame(table.handle.get_add_actions(flatten=True))["partition.p"]
    assert files.eq_missing(pl.Series([value], dtype=pl.String)).sum() == 1


PHYSICAL: dict[str, pl.Series] = {
    "text": pl.Series(["x", None]),
    "integer": pl.Series([-7, None]),
    "byte": pl.Series([-7, None], dtype=pl.Int8),
    "boolean": pl.Series([True, None]),
    "day": pl.Series([dt.date(2024, 2, 29), None]),
    "zoned": pl.Series(MOMENTS[2:], dtype=pl.Datetime("us", "UTC")),
    "naive": pl.Series([dt.datetime.fromisoformat("1969-12-31T23:59:59.999999"), None], dtype=pl.Datetime("us")),
    "float": pl.Series([0.1, None]),
    "money": pl.Series([decimal.Decimal("1.50"), None], dtype=pl.Decimal(10, 2)),
}


@pytest.mark.parametrize("kind", PHYSICAL)
def test_physical_partitions_of_every_type(tmp_path: Path, kind: str) -> None:
    frame = pl.DataFrame({"p": PHYSICAL[kind], "n": [1, 2]})
    table = Table(tmp_path, metadata={"partition_by": ["p"]})
    for _ in range(2):
        table.write(frame)
        for read in (by_delta_rs, by_polars, by_the_platform):
            assert_frame_equal(read(table).sort("n"), frame)


# Statistics ---------------------------------------------------------------------------------------------------------

NO_SHRINKING = (Phase.explicit, Phase.generate)  # a run costs too much to repeat it hundreds of times
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
LETTERS = st.sampled_from(["a", "é", "\U00020000", "\U0010ffff", "\x7f"])
EPOCH, SECOND = dt.datetime.fromisoformat("1970-01-01"), dt.timedelta(seconds=1)
LAST_DAY = dt.datetime.fromisoformat("9999-12-31")
COLUMNS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "integers": (pl.Int64, st.integers(-(2**63), 2**63 - 1)),
    "few integers": (pl.Int32, st.integers(-3, 3)),
    "text": (pl.String, TEXT),
    "long text": (pl.String, st.builds(operator.add, st.builds(operator.mul, LETTERS, st.integers(0, 90)), TEXT)),
    "zoned": (pl.Datetime("us", "UTC"), st.datetimes(max_value=LAST_DAY, timezones=st.just(UTC))),
    "naive": (pl.Datetime("us"), st.datetimes(EPOCH - SECOND, EPOCH + SECOND)),
    "days": (pl.Date, st.dates()),
    "floats": (pl.Float64, st.floats()),
    "booleans": (pl.Boolean, st.booleans()),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_statistics_never_hide_a_row(kind: str) -> None:
    dtype, strategy = COLUMNS[kind]

    @settings(
        max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, phases=NO_SHRINKING
    )
    @given(st.lists(st.none() | strategy, min_size=1, max_size=8))
    def check(values: list[Any]) -> None:
        frame = pl.DataFrame({"p": [0] * len(values), "c": pl.Series(values, dtype=dtype)}).with_row_index("id")
        frame = frame.with_columns(pl.col("id").cast(pl.Int64), p=pl.int_range(pl.len()) % 2)
        with tempfile.TemporaryDirectory() as root:
            table = Table(Path(root), metadata={"partition_by": ["p"]})  # two files
            table.write(frame)
            scan = pl.scan_delta(table.path)
            for value in {repr(v): v for v in values}.values():
                literal = pl.lit(value, dtype=dtype)
                for found in (
                    pl.col("c") == literal,
                    pl.col("c") > literal,
                    pl.col("c") <= literal,
                    pl.col("c").is_null(),
                ):
                    assert_same_rows(scan.filter(found).collect(), frame.filter(found))

    check()


def test_statistics_do_prune(tmp_path: Path) -> None:
    """Not only right, but of use: of two hours a filter opens one file."""
    hours = dg.HourlyPartitionsDefinition(start_date="2024-05-06-00:00", end_date="2024-05-07-00:00")
    table = Table(tmp_path, hours)
    for n in range(3):
        moments = pl.Series([dt.datetime(2024, 5, 6, n, 30, tzinfo=UTC)], dtype=pl.Datetime("us", "UTC"))
        table.write(pl.DataFrame({"moment": moments, "n": [n]}), hours.get_partition_keys()[n])
    (table.path / next(iter(_files_of_hour(table, 0)))).unlink()
    later = pl.col("moment") >= dt.datetime(2024, 5, 6, 1, tzinfo=UTC)
    assert sorted(pl.scan_delta(table.path).filter(later).collect()["n"]) == [1, 2]
    assert table.load(hours.get_partition_keys()[2], definition=hours)["n"].to_list() == [2]


def _files_of_hour(table: Table, hour: int) -> list[str]:
    actions = pl.DataFrame(table.handle.get_add_actions(flatten=True))
    return actions.filter(pl.col("min.moment").dt.hour() == hour)["path"].to_list()


def test_what_the_log_says_of_a_file(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.write(pl.DataFrame({"t": pl.Series(MOMENTS, dtype=pl.Datetime("us", "UTC")), "f": [1.0, NAN, None, 2.0]}))
    (file,) = pl.DataFrame(table.handle.get_add_actions(flatten=True)).iter_rows(named=True)
    assert file["num_records"] == 4
    assert file["null_count.t"] == file["null_count.f"] == 1
    assert file["min.t"] == dt.datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
    assert file["max.t"] == dt.datetime(2024, 10, 27, 1, 0, 0, 1000, tzinfo=UTC)
    assert file.get("max.f") is None
    assert file["size_bytes"] == (table.path / file["path"]).stat().st_size


# delta-rs goes on writing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partition_by", [(), ("p",)], ids=["flat", "physical"])
def test_delta_rs_works_on_these_tables(tmp_path: Path, partition_by: tuple[str, ...]) -> None:
    keys = dg.StaticPartitionsDefinition(["o'x", "ñ", "c"])
    table = Table(tmp_path, keys, "p", metadata={"partition_by": list(partition_by)})
    small = EVERY_TYPE.drop("structs")
    model = {key: small.head(2).with_columns(p=pl.lit(key), id=pl.lit(n * 10) + pl.col("id")) for n, key in enumerate(
        keys.get_partition_keys())}  # fmt: skip
    for key, frame in model.items():
        table.write(frame, key)
    expected = pl.concat(model.values())

    more = small.tail(2).with_columns(p=pl.lit("c"), id=pl.col("id") + 100)
    write_deltalake(table.path, more, mode="append", partition_by=list(partition_by) or None)
    expected = pl.concat([expected, more])
    assert_same_rows(table.rows(), expected)

    source = pl.DataFrame({"id": [1, 999], "text": ["merged", "unseen"]})
    matched = table.handle.merge(source, "t.id = s.id", source_alias="s", target_alias="t")
    matched.when_matched_update({"text": "s.text"}).execute()
    expected = expected.with_columns(text=pl.when(pl.col("id") == 1).then(pl.lit("merged")).otherwise("text"))
    assert_same_rows(table.rows(), expected)

    table.handle.delete("id = 2")
    expected = expected.filter(pl.col("id") != 2)
    table.handle.optimize.compact()
    table.handle.create_checkpoint()
    table.handle.vacuum(0, enforce_retention_duration=False, dry_run=False)
    assert_same_rows(table.rows(), expected)
    assert_same_rows(by_polars(table), expected)

    table.write(model["ñ"].head(1), "ñ")
    expected = pl.concat([expected.filter(pl.col("p") != "ñ"), model["ñ"].head(1)])
    for read in (by_delta_rs, by_polars, by_duckdb):
        assert_same_rows(read(table), expected)
    assert_same_rows(table.load(definition=None), expected)


def test_delta_rs_restores_an_older_version(tmp_path: Path) -> None:
    table = Table(tmp_path)
    frames = [pl.DataFrame({"n": [n]}) for n in range(3)]
    for frame in frames:
        table.write(frame)
    table.handle.restore(1)
    assert_same_rows(table.rows(), frames[0])
    assert_same_rows(table.load(), frames[0])
    table.write(frames[2])
    assert_same_rows(table.rows(), frames[2])
    assert len(live_files(table)) == 1
