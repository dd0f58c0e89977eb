"""Keyed Idempotency for files: one file a partition, old or new and never half, whatever its key is called."""

from __future__ import annotations

import csv
import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pattern_platform.errors import (
    InvalidMetadataError,
    LossyCastError,
    MissingPartitionsError,
    PatternPlatformError,
    RowsOutsidePartitionError,
    UnsafeAssetKeyError,
    UnsupportedStorageError,
)
from pattern_platform.patterns.idempotency.keyed_idempotency_files import KeyedFilesIOManager
from pattern_platform_tests.lake.tables import FRAME_KINDS, NO_RESOURCES, as_kind
from pattern_platform_tests.patterns.idempotency.plain_files import ODD_KEYS, Files, kill, refused, rows_of
from pattern_platform_tests.patterns.idempotency.warehouse_tables import QUICK, power_cut

if TYPE_CHECKING:
    from pathlib import Path

AB = dg.StaticPartitionsDefinition(["a", "b"])
DAYS = dg.DailyPartitionsDefinition("2024-10-01", end_date="2024-10-05")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, KeyedFilesIOManager, AB)


def lines(files: Files, name: str) -> list[list[str]]:
    """What Python reads from a file."""
    with (files.folder / f"{name}.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_k_1_a_rerun_with_a_header_makes_no_fourth_file(tmp_path: Path) -> None:
    files = Files(tmp_path, KeyedFilesIOManager, DAYS, {"header": False})
    days = {"2024-10-01": 3, "2024-10-02": 4, "2024-10-03": 3}

    def batch(day: str) -> pl.DataFrame:
        return pl.DataFrame({"p": dt.date.fromisoformat(day), "id": pl.int_range(days[day], eager=True)})

    for day in days:
        files.run(batch(day), day)
    names = [f"{day}.csv" for day in days]
    assert files.names() == names
    assert [len(lines(files, day)) for day in days] == [3, 4, 3]
    headed = files.with_(options={"header": True})
    for _ in range(2):
        for day in days:
            headed.run(batch(day), day)
    assert files.names() == names == sorted(path.name for path in files.folder.iterdir())
    assert [lines(files, day)[0] for day in days] == [["p", "id"]] * 3
    assert [len(lines(files, day)) for day in days] == [4, 5, 4]


def test_a_range_in_one_run_is_a_file_each(files: Files) -> None:
    files.run_range(pl.concat([rows_of("b", 2), rows_of("a", 1, 1)]), "a", "b")
    assert (lines(files, "a")[1:], lines(files, "b")[1:]) == ([["a", "1"]] * 2, [["b", "2"]])
    files.run_range(rows_of("b", 3), "a", "b")
    assert (lines(files, "a"), lines(files, "b")[1:]) == ([["p", "v"]], [["b", "3"]])


def test_an_asset_without_partitions_is_one_file(tmp_path: Path) -> None:
    files = Files(tmp_path, KeyedFilesIOManager)
    for _ in range(2):
        told = files.write(rows_of("a", 1, 2))
    assert files.names() == ["all.csv"]
    assert told["dagster/row_count"] == 2
    assert told["dagster/uri"] == str(files.folder)
    assert files.load().rows() == [("a", "1"), ("a", "2")]


# Names ----------------------------------------------------------------------------------------------------------------


def test_odd_partition_keys_are_files_of_their_own_inside_the_folder(tmp_path: Path) -> None:
    files = Files(tmp_path / "root", KeyedFilesIOManager, dg.StaticPartitionsDefinition(ODD_KEYS))
    for number, key in enumerate(ODD_KEYS):
        files.write(rows_of(key, number), key)
    assert len(files.names()) == len(ODD_KEYS) == len(list(tmp_path.rglob("*.csv")))
    assert len({name.lower() for name in files.names()}) == len(ODD_KEYS)
    for number, key in enumerate(ODD_KEYS):
        context = dg.build_input_context(
            asset_key=files.key,
            upstream_output=dg.build_output_context(definition_metadata=files.declared, resources=NO_RESOURCES),
            asset_partitions_def=files.definition,
            partition_key=key,
            asset_partition_key_range=dg.PartitionKeyRange(key, key),
            definition_metadata={},
            dagster_type=dg.PythonObjectDagsterType(pl.DataFrame),
            name="rows",
        )
        loaded = files.manager.load_input(context)
        assert isinstance(loaded, pl.DataFrame)
        assert loaded.rows() == [(key, str(number))]


def test_a_long_key_is_written_or_refused(tmp_path: Path) -> None:
    """Two hundred bytes of a key are six hundred of a name."""
    key = "日" * 66
    files = Files(tmp_path, KeyedFilesIOManager, dg.StaticPartitionsDefinition([key, "x" * 200]))
    files.write(rows_of("x" * 200, 1), "x" * 200)
    try:
        files.write(rows_of(key, 1), key)
    except PatternPlatformError:
        assert len(list(files.folder.iterdir())) == 1
    else:
        assert len(files.names()) == 2


def test_partitions_of_two_dimensions(tmp_path: Path) -> None:
    two = dg.MultiPartitionsDefinition({"day": DAYS, "shop": dg.StaticPartitionsDefinition(["x/y", "é"])})
    files = Files(tmp_path, KeyedFilesIOManager, two, metadata={"partition_expr": {"day": "d", "shop": "p"}})
    for shop in ("x/y", "é"):
        batch = rows_of(shop, 1).with_columns(d=pl.lit(dt.date(2024, 10, 1)))
        files.run(batch, dg.MultiPartitionKey({"day": "2024-10-01", "shop": shop}))
    assert len(files.names()) == 2
    for shop in ("x/y", "é"):
        loaded = files.load(dg.MultiPartitionKey({"day": "2024-10-01", "shop": shop}))
        assert loaded["p"].to_list() == [shop]


# Old or new -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["polars.LazyFrame.sink_csv", "os.replace"])
def test_an_error_leaves_the_old_file_and_nothing_else(
    files: Files, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    files.write(rows_of("a", 1), "a")
    with monkeypatch.context() as patch, refused(files, RuntimeError, "power"):
        patch.setattr(place, power_cut)
        files.write(rows_of("a", 2), "a")
    assert [path.name for path in files.folder.iterdir()] == ["a.csv"]
    files.write(rows_of("a", 2), "a")
    assert lines(files, "a")[1:] == [["a", "2"]]


def test_a_killed_run_leaves_the_old_file(files: Files) -> None:
    files.write(rows_of("a", 1), "a")
    before = files.contents()
    kill({("os", "replace"): files})
    assert files.contents() == before
    assert len(list(files.folder.iterdir())) == 2, "it was killed before it wrote"
    assert files.load("a").rows() == [("a", "1")]
    files.write(rows_of("a", 2), "a")
    assert files.load("a").rows() == [("a", "2")]
    assert files.names() == ["a.csv"]


def test_readers_see_one_file(files: Files) -> None:
    count = 5000
    files.write(rows_of("a", *[0] * count), "a")
    done, seen = threading.Event(), set()

    def read() -> None:
        while not done.is_set():
            values = pl.read_csv(files.folder / "a.csv")["v"]
            seen.add((len(values), values.n_unique()))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            for number in range(1, 30):
                files.write(rows_of("a", *[number] * count), "a")
        finally:
            done.set()
        reader.result()
    assert seen == {(count, 1)}


def test_two_runs_of_a_partition_at_once_leave_one_of_them(files: Files) -> None:
    together = threading.Barrier(2)

    def write(number: int) -> None:
        together.wait()
        files.write(rows_of("a", *[number] * 1000), "a")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, [1, 2]))
    assert lines(files, "a")[1:] in [[["a", str(number)]] * 1000 for number in (1, 2)]
    assert len(list(files.folder.iterdir())) == 1


# Inputs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_every_kind_of_frame_goes_in_and_comes_out(files: Files, kind: type) -> None:
    files.write(as_kind(rows_of("a", 1, 2), kind), "a")
    assert files.load("a", kind).rows() == [("a", "1"), ("a", "2")]


@settings(QUICK, max_examples=15)
@given(
    texts=st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))),
    header=st.booleans(),
)
def test_texts_and_nulls_come_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str], *, header: bool) -> None:
    files = Files(tmp_path_factory.getbasetemp() / "texts", KeyedFilesIOManager, options={"header": header})
    files.write(pl.DataFrame({"n": pl.int_range(len(texts), eager=True), "text": pl.Series(texts, dtype=pl.String)}))
    place = files.manager.place_of(files.folder, "all")
    assert files.manager.scan(place).collect().rows() == [(str(n), text) for n, text in enumerate(texts)]


@pytest.mark.parametrize("header", [True, False])
def test_empty_partitions_are_told_from_those_never_written(tmp_path: Path, *, header: bool) -> None:
    files = Files(tmp_path, KeyedFilesIOManager, AB, {"header": header})
    with refused(files, MissingPartitionsError, "'a'"):
        files.load("a")
    assert files.load("a", allow_missing_partitions=True).is_empty()
    files.write(rows_of("a"), "a")
    assert files.load("a").is_empty()
    assert files.load("a").columns == (["p", "v"] if header else [])
    with refused(files, MissingPartitionsError, "'b'"):
        files.load(whole=True)
    files.write(rows_of("b", 1), "b")
    assert files.load("b").rows() == [("b", "1")]
    assert files.load(whole=True).rows() == [("b", "1")]


def test_inputs(files: Files) -> None:
    files.write(rows_of("a", 1), "a")
    files.write(rows_of("b", 2).with_columns(w=pl.lit("x")), "b")
    assert sorted(files.load(whole=True).rows()) == [("a", "1", None), ("b", "2", "x")]
    assert files.load("a", columns=["v"]).rows() == [("1",)]
    with refused(files, InvalidMetadataError, "'w'"):
        files.load("a", columns=["w"])
    with refused(files, InvalidMetadataError, "table_version"):
        files.load("a", table_version=1)


# Refusals -------------------------------------------------------------------------------------------------------------


def test_what_does_not_belong_in_the_file_is_refused(files: Files) -> None:
    files.write(rows_of("a", 1), "a")
    with refused(files, RowsOutsidePartitionError, "1 row(s)"):
        files.write(pl.concat([rows_of("a", 1), rows_of("b", 1)]), "a")
    with refused(files, LossyCastError, "'v'"):
        files.write(rows_of("a", 1).cast({"v": pl.UInt64}), "a")
    with refused(files, InvalidMetadataError, "'p'"):
        files.write(rows_of("a", 1).drop("p"), "a")
    with refused(files, InvalidMetadataError, "partition_expr"):
        files.with_(metadata={"partition_expr": None}).write(rows_of("a", 1), "a")
    assert [path.name for path in files.folder.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("dtype", [pl.List(pl.Int64), pl.Struct({"x": pl.Int64}), pl.Binary], ids=str)
def test_what_a_csv_file_does_not_hold_is_refused(files: Files, dtype: pl.DataType) -> None:
    files.write(rows_of("a", 1), "a")
    with refused(files, PatternPlatformError, "odd"):
        files.write(rows_of("a", 1).with_columns(odd=pl.lit(None, dtype)), "a")
    assert [path.name for path in files.folder.iterdir()] == ["a.csv"]


def test_declarations_and_places_are_refused_before_a_run(files: Files, tmp_path: Path) -> None:
    manager = files.manager
    with pytest.raises(InvalidMetadataError, match="partition_expr"):
        manager.refuse_spec(dg.AssetSpec("rows", partitions_def=AB))
    with pytest.raises(UnsafeAssetKeyError):
        manager.refuse_spec(dg.AssetSpec(dg.AssetKey(["..", "rows"])))
    with pytest.raises(UnsupportedStorageError):
        KeyedFilesIOManager(root_uri="s3://bucket").refuse_spec(dg.AssetSpec("rows"))
    manager.refuse_spec(dg.AssetSpec("rows", partitions_def=AB, metadata={"partition_expr": "p"}))
    assert not list(tmp_path.iterdir())
