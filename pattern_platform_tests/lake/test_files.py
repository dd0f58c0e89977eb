"""Files and their statistics, where no run reaches: odd footers, pieces, folders, what is left when writing fails."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

from pattern_platform.lake.files import scan_files, statistics_frame, write_files

if TYPE_CHECKING:
    from pathlib import Path


def parquets(table: Path) -> list[Path]:
    return sorted(table.rglob("*.parquet"))


def test_rows_that_differ_in_a_key_go_into_different_files(tmp_path: Path) -> None:
    frame = pl.LazyFrame({"n": [1, 2, 3, 4]})
    files = write_files(frame, tmp_path, keys={"_odd": pl.col("n") % 2})
    assert sorted(file.rows for file in files) == [2, 2]
    assert {file.path for file in files} == {str(path.relative_to(tmp_path)) for path in parquets(tmp_path)}
    assert all(pl.read_parquet(path).columns == ["n"] for path in parquets(tmp_path))
    assert sorted((f.statistics["n"].minimum, f.statistics["n"].maximum) for f in files) == [(1, 3), (2, 4)]


@pytest.mark.parametrize("partition_by", [(), ("p",)])
def test_no_rows_are_no_file(tmp_path: Path, partition_by: tuple[str, ...]) -> None:
    empty = pl.LazyFrame(schema={"n": pl.Int64, "p": pl.String})
    assert write_files(empty, tmp_path, keys={}, partition_by=partition_by) == []
    assert parquets(tmp_path) == []


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def fail(frame: pl.DataFrame) -> pl.DataFrame:
        if frame["n"].max() == 9:
            message = "half way"
            raise ValueError(message)
        return frame

    good, bad = pl.LazyFrame({"n": [1] * 100_000}), pl.LazyFrame({"n": [9]})
    frame = pl.concat([good, bad.map_batches(fail, schema={"n": pl.Int64})])
    with pytest.raises((ValueError, pl.exceptions.ComputeError), match="half way"):
        write_files(frame, tmp_path, keys={"_n": pl.col("n")})
    assert parquets(tmp_path) == []


def test_statistics_of_many_row_groups(tmp_path: Path) -> None:
    values = pl.Series(range(-600_000, 600_000))
    (file,) = write_files(pl.LazyFrame({"n": values, "nothing": [None] * len(values)}).cast({"nothing": pl.Int32}),
                          tmp_path, keys={})  # fmt: skip
    assert (file.rows, file.statistics["n"].minimum, file.statistics["n"].maximum) == (1_200_000, -600_000, 599_999)
    assert file.statistics["nothing"].nulls == file.rows
    assert file.statistics["nothing"].minimum is None


def test_timestamps_are_rounded_outwards(tmp_path: Path) -> None:
    moments = [
        dt.datetime.fromisoformat("1969-12-31T23:59:59.999999"),
        dt.datetime.fromisoformat("2024-05-06T12:00:00.000001"),
    ]
    (file,) = write_files(pl.LazyFrame({"t": moments}), tmp_path, keys={})
    stats = json.loads(file.delta_stats())
    assert stats["minValues"]["t"] == "1969-12-31T23:59:59.999"
    assert stats["maxValues"]["t"] == "2024-05-06T12:00:00.001"


@pytest.mark.parametrize("letter", ["a", "é", "日", "🙂", "\U00020000", "\U0010ffff", "\x7f"])
@pytest.mark.parametrize("length", [1, 16, 63, 64, 65, 300])
def test_text_bounds_hold_the_text(tmp_path: Path, letter: str, length: int) -> None:
    text = letter * length
    (file,) = write_files(pl.LazyFrame({"t": [text]}), tmp_path, keys={})
    bounds = file.statistics["t"]
    if bounds.minimum is not None:
        assert bounds.minimum <= text <= bounds.maximum
    assert json.loads(file.delta_stats())["numRecords"] == 1


def test_floats_have_no_bounds(tmp_path: Path) -> None:
    (file,) = write_files(pl.LazyFrame({"f": [1.0, float("nan")], "b": [True, False]}), tmp_path, keys={})
    stats = json.loads(file.delta_stats())
    assert stats["minValues"] == stats["maxValues"] == {}
    assert stats["nullCount"] == {"f": 0, "b": 0}


def test_folders_of_physical_partitions_are_encoded(tmp_path: Path) -> None:
    frame = pl.LazyFrame({"a b": ["o'x", "../../x", None], "n": [1, 2, 3]})
    files = write_files(frame, tmp_path / "table", keys={}, partition_by=["a b"])
    folders = {file.path.split("/")[0] for file in files}
    assert folders == {"a%20b=o%27x", "a%20b=..%2F..%2Fx", "a%20b=__HIVE_DEFAULT_PARTITION__"}
    assert {file.partition_values["a b"] for file in files} == {"o'x", "../../x", None}
    assert all(path.is_relative_to(tmp_path / "table") for path in parquets(tmp_path))


def test_a_scan_of_files_is_the_frame(tmp_path: Path) -> None:
    frame = pl.DataFrame({"p": ["x", None, "y"], "n": [1, 2, 3], "s": [{"a": 1}, None, {"a": None}]})
    files = write_files(frame.lazy(), tmp_path, keys={}, partition_by=["p"])
    described = statistics_frame(files, {"p": pl.String()})
    wider = pl.Schema({**frame.schema, "later": pl.Float64})
    scanned = scan_files(tmp_path, described, wider, ("p",)).sort("n").collect()
    assert scanned.equals(frame.with_columns(later=pl.lit(None, pl.Float64)), null_equal=True)
    assert scan_files(tmp_path, described.clear(), wider).collect().schema == wider


def test_names_that_look_like_patterns(tmp_path: Path) -> None:
    table = tmp_path / "a[1]*?"
    files = write_files(pl.LazyFrame({"n": [1]}), table, keys={})
    described = statistics_frame(files, {"n": pl.Int64()})
    assert scan_files(table, described, pl.Schema({"n": pl.Int64})).collect()["n"].to_list() == [1]
