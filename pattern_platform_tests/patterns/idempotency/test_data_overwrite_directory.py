"""Data Overwrite on plain directories: readers that know nothing but files see the old directory or the new one."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest

from pattern_platform.errors import (
    InvalidMetadataError,
    LossyCastError,
    MissingPartitionsError,
    PatternPlatformError,
    RowsOutsidePartitionError,
    UnsupportedTableError,
)
from pattern_platform.lake.file_io_manager import file_name
from pattern_platform.patterns.idempotency import data_overwrite_directory as module
from pattern_platform.patterns.idempotency.data_overwrite_directory import DirectoryOverwriteIOManager
from pattern_platform_tests.lake.tables import FRAME_KINDS, as_kind, assert_same_rows
from pattern_platform_tests.patterns.idempotency.plain_files import ODD_KEYS, Files, kill, refused, rows_of
from pattern_platform_tests.patterns.idempotency.warehouse_tables import power_cut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AB = dg.StaticPartitionsDefinition(["a", "b"])
A_DAY_AND_MORE = 25 * 3600


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, DirectoryOverwriteIOManager, AB)


def by_polars(folder: Path) -> list[tuple[Any, ...]]:
    found = pl.scan_parquet(f"{folder}/partition=*/*.parquet", hive_schema={"partition": pl.String})
    return found.select("partition", "v").collect().rows()


def by_arrow(folder: Path) -> list[tuple[Any, ...]]:
    table = ds.dataset(folder, format="parquet", partitioning="hive").to_table(columns=["partition", "v"])
    return list(zip(table["partition"].to_pylist(), table["v"].to_pylist(), strict=True))


def by_duckdb(folder: Path) -> list[tuple[Any, ...]]:
    source = f"read_parquet('{folder}/partition=*/*.parquet', hive_partitioning = true, hive_types_autocast = false)"
    with duckdb.connect() as connection:
        return connection.execute(f"SELECT partition, v FROM {source}").fetchall()  # noqa: S608 - a folder of the test


READERS: dict[str, Callable[[Path], list[tuple[Any, ...]]]] = {
    "polars": by_polars,
    "arrow": by_arrow,
    "duckdb": by_duckdb,
}
readers = pytest.mark.parametrize("reader", READERS)


def seen(files: Files) -> list[tuple[Any, ...]]:
    """What all readers agree on."""
    found = [sorted(read(files.folder)) for read in READERS.values()]
    assert found[0] == found[1] == found[2]
    return found[0]


def hidden(files: Files) -> list[str]:
    return sorted(path.name for path in files.folder.iterdir() if path.name.startswith("."))


def age(files: Files, seconds: float = A_DAY_AND_MORE) -> None:
    """What is there was there before."""
    moment = time.time() - seconds
    for path in files.folder.iterdir():
        os.utime(path, (moment, moment), follow_symlinks=False)


# What a run replaces --------------------------------------------------------------------------------------------------


def test_a_run_replaces_its_directory_and_no_other(files: Files) -> None:
    files.run(rows_of("a", 1, 2), "a")
    files.run(rows_of("b", 3), "b")
    assert seen(files) == [("a", 1), ("a", 2), ("b", 3)]
    other = (files.folder / "partition=b").readlink()
    for _ in range(3):
        files.run(rows_of("a", 4), "a")
        assert seen(files) == [("a", 4), ("b", 3)]
    assert (files.folder / "partition=b").readlink() == other
    assert files.names() == ["partition=a", "partition=b"]
    assert all((files.folder / name).is_symlink() for name in files.names())


def test_an_empty_run_empties_its_partition_and_keeps_its_columns(files: Files) -> None:
    files.write(rows_of("a", 1), "a")
    files.write(rows_of("b", 1), "b")
    files.write(rows_of("a"), "a")
    assert seen(files) == [("b", 1)]
    assert_same_rows(files.load("a"), rows_of("a"))
    assert files.load("a").schema == rows_of("a").schema
    assert files.load(whole=True).rows() == [("b", 1)]


def test_a_range_is_replaced_directory_by_directory(files: Files) -> None:
    files.run_range(pl.concat([rows_of("b", 2), rows_of("a", 1, 1)]), "a", "b")
    assert seen(files) == [("a", 1), ("a", 1), ("b", 2)]
    files.run_range(rows_of("b", 3), "a", "b")
    assert seen(files) == [("b", 3)]


def test_an_asset_without_partitions_is_one_directory(tmp_path: Path) -> None:
    files = Files(tmp_path, DirectoryOverwriteIOManager)
    for number in (1, 2):
        told = files.write(rows_of("a", number))
        assert seen(files) == [("all", number)]
    assert told["dagster/row_count"] == 1
    assert told["dagster/uri"] == str(files.folder)


def test_types_come_back_as_they_are_kept(files: Files) -> None:
    batch = rows_of("a", 1).with_columns(
        at=pl.lit(dt.datetime(2024, 3, 31, 1, tzinfo=dt.UTC)).dt.convert_time_zone("Europe/Berlin"),
        nested=pl.lit([{"x": 1}]),
        short=pl.lit(7, pl.UInt8),
        texts=pl.Series([["é\u2028", None]]),
        bytes=pl.lit(b"\0"),
    )
    files.write(batch, "a")
    kept = batch.with_columns(pl.col("at").dt.convert_time_zone("UTC"), pl.col("short").cast(pl.Int16))
    assert_same_rows(files.load("a"), kept)


def test_odd_partition_keys_are_directories_of_their_own_inside_the_folder(tmp_path: Path) -> None:
    files = Files(tmp_path / "root", DirectoryOverwriteIOManager, dg.StaticPartitionsDefinition(ODD_KEYS))
    for key in ODD_KEYS[::4]:
        files.write(rows_of(key, -1), key)
    for number, key in enumerate(ODD_KEYS):
        files.write(rows_of(key, number), key)
    assert seen(files) == sorted((key, number) for number, key in enumerate(ODD_KEYS))
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert len(files.names()) == len(ODD_KEYS)


def test_a_long_key_is_written_or_refused(tmp_path: Path) -> None:
    """Two hundred bytes of a key are six hundred of a name."""
    keys = ["日" * 66, "x" * 200]
    files = Files(tmp_path, DirectoryOverwriteIOManager, dg.StaticPartitionsDefinition(keys))
    for key in keys:
        try:
            files.write(rows_of(key, 1), key)
        except PatternPlatformError:
            assert not any(name.startswith(f"partition={key[0]}") for name in files.names())
        else:
            assert (key, 1) in seen(files)


# Readers --------------------------------------------------------------------------------------------------------------


@readers
def test_a_reader_that_loops_never_sees_half_a_batch(files: Files, reader: str) -> None:
    """It reads the old rows or the new, or does not find a file, and lists again."""
    count, read = 2000, READERS[reader]
    files.write(rows_of("a", *[0] * count), "a")
    files.write(rows_of("b", 7), "b")
    done, found = threading.Event(), []

    def loop() -> None:
        while not done.is_set():
            try:
                rows = read(files.folder)
            except (FileNotFoundError, duckdb.IOException) as error:
                assert "No such file" in str(error)  # noqa: PT017 - the link has moved: it lists again
                continue
            found.append((len(rows), len({v for p, v in rows if p == "a"}), ("b", 7) in rows))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(loop)
        try:
            for number in range(1, 15):
                files.write(rows_of("a", *[number] * count), "a")
        finally:
            done.set()
        running.result()
    found.append((count + 1, 1, len(read(files.folder)) == count + 1))
    assert set(found) == {(count + 1, 1, True)}


LISTED: dict[str, Callable[[Path], Callable[[], list[int]]]] = {
    "polars": lambda folder: _polars_listed(str(folder / "partition=a/*.parquet")),
    "arrow": lambda folder: _arrow_listed(folder / "partition=a"),
    "polars, resolved": lambda folder: _polars_listed(f"{(folder / 'partition=a').resolve()}/*.parquet"),
    "arrow, resolved": lambda folder: _arrow_listed((folder / "partition=a").resolve()),
}


def _polars_listed(pattern: str) -> Callable[[], list[int]]:
    frame = pl.scan_parquet(pattern)
    frame.collect_schema()

    def read() -> list[int]:
        return frame.collect()["v"].to_list()

    return read


def _arrow_listed(folder: Path) -> Callable[[], list[int]]:
    dataset = ds.dataset(sorted(map(str, folder.glob("*.parquet"))), format="parquet")

    def read() -> list[int]:
        return dataset.to_table()["v"].to_pylist()

    return read


@pytest.mark.parametrize("reader", LISTED)
def test_a_directory_that_was_listed_can_be_read_after_it_was_replaced(files: Files, reader: str) -> None:
    """By whoever resolved the link; who did not finds no file, and never one of other rows."""
    files.write(rows_of("a", 1, 2), "a")
    read = LISTED[reader](files.folder)
    files.write(rows_of("a", 3, 4, 5), "a")
    if "resolved" in reader:
        assert sorted(read()) == [1, 2]
    else:
        with pytest.raises(FileNotFoundError):
            read()
        assert sorted(LISTED[reader](files.folder)()) == [3, 4, 5]


def test_an_input_that_was_listed_is_read_after_a_run(files: Files) -> None:
    files.write(rows_of("a", 1), "a")
    frame = files.manager.scan(files.folder / "partition=a")
    files.write(rows_of("a", 2), "a")
    assert frame.collect()["v"].to_list() == [1]


def test_what_was_replaced_stays_until_the_next_run(files: Files) -> None:
    files.write(rows_of("a", 1), "a")
    first = (files.folder / "partition=a").resolve()
    files.write(rows_of("a", 2), "a")
    assert pl.read_parquet(first / "*.parquet")["v"].to_list() == [1]
    files.write(rows_of("a", 3), "a")
    assert not first.exists()
    assert len(hidden(files)) == 2
    assert seen(files) == [("a", 3)]


# Runs that die --------------------------------------------------------------------------------------------------------

STEPS = {
    "while it writes": (f"{module.__name__}", "write_files"),
    "before the rename": ("pathlib:Path", "rename"),
    "before the link": ("pathlib:Path", "symlink_to"),
    "before the link moves": ("os", "replace"),
    "before it tidies up": (f"{module.__name__}", "_remove_others"),
}


def test_a_run_that_is_killed_leaves_the_old_rows_or_the_new(tmp_path: Path) -> None:
    died = {step: Files(tmp_path / str(n), DirectoryOverwriteIOManager, AB) for n, step in enumerate(STEPS)}
    for files in died.values():
        files.write(rows_of("a", 1), "a")
        files.write(rows_of("b", 2), "b")
    kill({STEPS[step]: files for step, files in died.items()})
    for step, files in died.items():
        new = step == "before it tidies up"
        assert seen(files) == ([*[("a", 9)] * 3, ("b", 2)] if new else [("a", 1), ("b", 2)]), step
        assert len(hidden(files)) == (4 if step == "before the link moves" else 3), step
        files.write(rows_of("a", 3), "a")
        assert seen(files) == [("a", 3), ("b", 2)], step
        age(files)
        for _ in range(2):
            files.write(rows_of("a", 4), "a")
        assert seen(files) == [("a", 4), ("b", 2)], step
        left = [name.rpartition(".")[0] for name in hidden(files)]
        assert left == [".partition=a"] * 2 + [".partition=b"], step


@pytest.mark.parametrize("step", STEPS)
def test_an_error_leaves_the_old_rows_or_the_new(files: Files, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = STEPS[step]
    files.write(rows_of("a", 1), "a")
    with monkeypatch.context() as patch:
        patch.setattr(f"{owner.replace(':', '.')}.{name}", power_cut)
        with pytest.raises(RuntimeError, match="power"):
            files.write(rows_of("a", 9), "a")
    assert seen(files) == [("a", 9 if step == "before it tidies up" else 1)]
    assert not [name for name in hidden(files) if name.startswith(".writing")]
    files.write(rows_of("a", 2), "a")
    assert seen(files) == [("a", 2)]
    assert len(hidden(files)) == 2


def test_what_another_run_is_writing_now_stays(files: Files) -> None:
    writing = files.folder / ".writing..partition=a.0123"
    files.write(rows_of("a", 1), "a")
    writing.mkdir()
    for _ in range(2):
        files.write(rows_of("a", 2), "a")
    assert writing.exists()
    age(files, 23 * 3600)
    files.write(rows_of("a", 3), "a")
    assert writing.exists()
    age(files)
    files.write(rows_of("a", 4), "a")
    assert not writing.exists()
    assert seen(files) == [("a", 4)]


def test_partitions_whose_keys_begin_alike_are_left_alone(tmp_path: Path) -> None:
    keys = ["2024", "2024.05", "2024.05.06", "20", ".2024", "2024."]
    files = Files(tmp_path, DirectoryOverwriteIOManager, dg.StaticPartitionsDefinition(keys))
    for key in keys:
        for number in (1, 2):
            files.write(rows_of(key, number), key)
        (files.folder / f".writing..{files.manager.place_of(files.folder, file_name(key)).name}.0123").mkdir(
            exist_ok=True
        )
    age(files)
    for key in keys:
        before = set(hidden(files))
        place = files.manager.place_of(files.folder, file_name(key)).name
        mine = {name for name in before if name.removeprefix(".writing.").rpartition(".")[0] == f".{place}"}
        files.write(rows_of(key, 3), key)
        after = set(hidden(files))
        assert before - mine <= after, key
    assert seen(files) == sorted((key, 3) for key in keys)


# At once --------------------------------------------------------------------------------------------------------------


def test_two_runs_of_a_partition_at_once_leave_one_of_them(files: Files) -> None:
    for _ in range(5):
        together = threading.Barrier(3)

        def write(given: tuple[str, int], together: threading.Barrier = together) -> None:
            key, number = given
            together.wait()
            files.write(rows_of(key, *[number] * 1000), key)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(write, [("a", 1), ("a", 2), ("b", 3)]))
        found = seen(files)
        assert found in [[("a", number)] * 1000 + [("b", 3)] * 1000 for number in (1, 2)]
    assert not [name for name in hidden(files) if name.startswith(".writing")]


def test_runs_of_other_partitions_that_fail_meanwhile_disturb_nobody(files: Files) -> None:
    """What they began is removed while a run looks through the folder."""
    done = threading.Event()
    files.write(rows_of("a", 0), "a")

    def fail() -> None:
        while not done.is_set():
            begun = files.folder / ".writing..partition=b.0123"
            begun.mkdir()
            begun.rmdir()

    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(fail)
        try:
            for number in range(25):
                files.write(rows_of("a", number), "a")
        finally:
            done.set()
        failing.result()
    assert seen(files) == [("a", 24)]


# Inputs and refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_every_kind_of_frame_goes_in_and_comes_out(files: Files, kind: type) -> None:
    files.write(as_kind(rows_of("a", 1, 2), kind), "a")
    assert_same_rows(files.load("a", kind), rows_of("a", 1, 2))


def test_inputs(files: Files) -> None:
    with pytest.raises(MissingPartitionsError, match="'a'"):
        files.load("a")
    assert files.load("a", allow_missing_partitions=True).is_empty()
    files.write(rows_of("a", 1), "a")
    with refused(files, MissingPartitionsError, "'b'"):
        files.load(whole=True)
    files.write(rows_of("b", 2).with_columns(w=pl.lit("x")), "b")
    assert sorted(files.load(whole=True).rows()) == [("a", 1, None), ("b", 2, "x")]
    assert files.load("b", columns=["w"]).rows() == [("x",)]
    with refused(files, InvalidMetadataError, "'w'"):
        files.load("a", columns=["w"])
    with refused(files, InvalidMetadataError, "table_version"):
        files.load("a", table_version=1)


def test_what_does_not_belong_in_the_directory_is_refused(files: Files) -> None:
    files.write(rows_of("a", 1), "a")
    with refused(files, RowsOutsidePartitionError, "1 row(s)"):
        files.write(pl.concat([rows_of("a", 1), rows_of("b", 1)]), "a")
    with refused(files, LossyCastError, "'v'"):
        files.write(rows_of("a", 1).cast({"v": pl.UInt64}), "a")
    with refused(files, InvalidMetadataError, "partition_expr"):
        files.with_(metadata={"partition_expr": None}).write(rows_of("a", 1), "a")
    assert len(hidden(files)) == 1


def test_a_real_directory_in_place_of_the_link_is_refused(files: Files) -> None:
    files.write(rows_of("b", 2), "b")
    place = files.folder / "partition=a"
    place.mkdir()
    rows_of("a", 1).write_parquet(place / "theirs.parquet")
    with refused(files, UnsupportedTableError, "partition=a"):
        files.write(rows_of("a", 2), "a")
    assert len(hidden(files)) == 1
    assert seen(files) == [("a", 1), ("b", 2)]


def test_a_link_that_leads_nowhere_is_replaced(files: Files) -> None:
    files.folder.mkdir(parents=True)
    (files.folder / "partition=a").symlink_to(".partition=a.gone")
    files.write(rows_of("a", 1), "a")
    assert seen(files) == [("a", 1)]
