"""A place on an object store: its names, and what it does to a store in memory that keeps conditional puts."""

from __future__ import annotations

import pickle
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from uuid import uuid4

import dagster as dg
import obstore
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster_deltalake import AzureConfig, GcsConfig, LocalConfig, S3Config
from dagster_deltalake.config import ClientConfig

from pattern_platform.errors import UnsafeAssetKeyError, UnsupportedStorageError
from pattern_platform.lake.conditional_put import refuse_unconditional
from pattern_platform.lake.location import location_of, options_of, refuse_around, root_of
from pattern_platform.lake.object_path import (
    ObjectPath,
    files_below,
    folders_below,
    storage_options,
)
from pattern_platform.lake.statistics import read_footer
from pattern_platform.lake.whole_file import replace_whole, whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET = "do-not-show"  # noqa: S105 - of nothing
OPTIONS = {"secret_access_key": SECRET, "region": "us-east-1"}
TABLE = ObjectPath.of("s3://bucket/lake/ns/table", OPTIONS)


# Names --------------------------------------------------------------------------------------------------------------


def test_its_names_are_those_of_a_path() -> None:
    path, place = Path("/lake/ns/table/part-1.parquet"), TABLE / "part-1.parquet"
    assert (place.name, place.suffix) == (path.name, path.suffix)
    assert place.parent == TABLE
    assert place.with_name("other") == TABLE / "other"
    assert TABLE.joinpath("a", "b") == TABLE / "a" / "b" == TABLE / "a/b" == TABLE / PurePosixPath("a/b")
    assert (TABLE / "a/b").relative_to(TABLE) == PurePosixPath("a/b")
    assert str(TABLE) == f"{TABLE}" == "s3://bucket/lake/ns/table"


def test_its_parents_end_with_the_bucket() -> None:
    assert [str(p) for p in TABLE.parents] == ["s3://bucket/lake/ns", "s3://bucket/lake", "s3://bucket"]
    bucket = TABLE.parents[-1]
    assert (bucket.parent, bucket.parents, bucket.name, bucket.bucket) == (bucket, (), "", "s3://bucket")
    assert {p.options for p in TABLE.parents} == {TABLE.options}


def test_a_slash_at_the_end_makes_no_other_place() -> None:
    assert ObjectPath.of("s3://bucket/lake/", OPTIONS) == ObjectPath.of("s3://bucket/lake", OPTIONS)


def test_it_is_a_key_whatever_the_order_of_its_options() -> None:
    same = ObjectPath.of(str(TABLE), dict(reversed(OPTIONS.items())))
    assert {TABLE: 1}[same] == 1
    assert len({same, TABLE}) == 1
    assert ObjectPath.of(str(TABLE), {**OPTIONS, "region": "eu-west-1"}) != TABLE
    assert sorted([TABLE / "b", TABLE / "a"]) == [TABLE / "a", TABLE / "b"]
    assert pickle.loads(pickle.dumps(TABLE)) == TABLE  # noqa: S301 - its own


def test_it_never_shows_how_it_is_reached() -> None:
    shown = [repr(TABLE), str(TABLE), f"{TABLE!r:>200}", repr([TABLE.parent]), repr({"table": TABLE / "a"})]
    assert SECRET not in "".join(shown)
    assert "s3://bucket/lake/ns" in shown[0]
    assert storage_options(TABLE) == OPTIONS
    assert storage_options(Path("/lake")) is None


# Where a table is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "storage"),
    [
        ("s3://bucket/lake", S3Config(region="us-east-1")),
        ("az://container/lake", AzureConfig(account_name="account", account_key="a2V5")),
        ("gs://bucket/lake", GcsConfig(bucket="bucket")),
    ],
)
def test_a_root_on_each_kind_of_store(uri: str, storage: S3Config | AzureConfig | GcsConfig) -> None:
    options = options_of(storage)
    assert options
    assert "provider" not in options
    root = root_of(uri, options)
    assert (str(root), storage_options(root)) == (uri, options)


def test_options_are_texts_and_leave_out_what_is_not_set() -> None:
    options = options_of(S3Config(region="us-east-1"), ClientConfig(allow_http=True, connect_timeout=5))
    assert options == {"region": "us-east-1", "imdsv1_fallback": "False", "allow_http": "True", "connect_timeout": "5"}
    assert options_of(LocalConfig()) is None


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("/lake", OPTIONS),
        ("lake", OPTIONS),
        ("file:///lake", OPTIONS),
        ("s3://bucket/lake", None),
        ("az://container", None),
        ("s3://bucket/lake?region=x", OPTIONS),
        ("s3://bucket/lake#x", OPTIONS),
    ],
)
def test_a_root_that_does_not_go_with_its_storage_is_refused(uri: str, options: Mapping[str, str] | None) -> None:
    with pytest.raises(UnsupportedStorageError, match="give a folder without storage, or a URI such as") as caught:
        root_of(uri, options)
    assert SECRET not in str(caught.value)


# What it does -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder() -> ObjectPath:
    """A folder of a store in memory, which a process keeps for as long as it lives."""
    return ObjectPath.of(f"memory:///{uuid4().hex}", {})


def test_an_object_is_there_once_it_is_put_and_a_folder_with_it(folder: ObjectPath) -> None:
    place = folder / "a/b.txt"
    assert not place.exists()
    assert not folder.is_dir()
    for act in (place.stat, place.read_bytes, place.footer, place.unlink):
        with pytest.raises(FileNotFoundError):
            act()
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True)
    assert not place.parent.exists()
    place.put("é".encode())
    assert (place.exists(), folder.is_dir(), (folder / "a").exists(), place.read_text()) == (True, True, True, "é")
    assert place.stat().st_size == 2
    assert place.stat().st_mtime_ns // 10**9 == int(place.stat().st_mtime)
    place.unlink()
    assert not (folder / "a").exists()


def test_a_name_that_only_begins_alike_is_no_folder(folder: ObjectPath) -> None:
    (folder / "table__versions/x").put(b"")
    assert not (folder / "table").exists()
    assert list((folder / "table").iterdir()) == []
    assert (folder / "table").objects() == {}


def test_an_object_that_is_there_is_left_if_asked_so(folder: ObjectPath) -> None:
    place = folder / "commit"
    place.put(b"1", if_absent=True)
    with pytest.raises(FileExistsError, match="commit"):
        place.put(b"2", if_absent=True)
    assert place.read_bytes() == b"1"
    tag = place.stat().st_ino
    place.put(b"2")
    assert place.read_bytes() == b"2"
    assert place.stat().st_ino != tag


def test_what_is_in_a_folder_and_below(folder: ObjectPath) -> None:
    names = ["_delta_log/0.json", "_delta_log/1.json", "p=1/deep/z.parquet", "p=1/x.parquet", "y.parquet"]
    table = folder / "t"
    for name in names:
        (table / name).put(name.encode())
    assert sorted(path.name for path in table.iterdir()) == ["_delta_log", "p=1", "y.parquet"]
    assert sorted(path.name for path in (table / "_delta_log").glob("*.json")) == ["0.json", "1.json"]
    assert sorted(str(p.relative_to(table)) for p in table.rglob("*.parquet")) == [
        "p=1/deep/z.parquet",
        "p=1/x.parquet",
        "y.parquet",
    ]
    assert list(folder.rglob("_delta_log")) == [table / "_delta_log"]
    assert files_below(table) == names
    assert folders_below(table) == []
    assert table.objects()[PurePosixPath("y.parquet")].st_size == len("y.parquet")


def test_a_file_takes_the_place_of_another_whole(folder: ObjectPath) -> None:
    place, unfinished = folder / "a", folder / ".a"
    place.put(b"old")
    unfinished.put(b"new")
    replace_whole(place, unfinished)
    assert (place.read_bytes(), unfinished.exists()) == (b"new", False)
    with whole_file(place) as local:
        local.write_bytes(b"newer")
        assert place.read_bytes() == b"new"
    assert place.read_bytes() == b"newer"
    with pytest.raises(OSError, match="in the middle"), whole_file(place) as local:
        _fail(local)
    assert place.read_bytes() == b"newer"


def _fail(local: Path) -> None:
    local.write_bytes(b"half")
    raise OSError("in the middle")


@pytest.mark.parametrize("columns", [1, 3000])  # the footer of the second is longer than what is asked for at first
def test_a_footer_is_read_without_the_file(folder: ObjectPath, tmp_path: Path, columns: int) -> None:
    pl.DataFrame({f"column_{n}": [n] * 3 for n in range(columns)}).write_parquet(tmp_path / "x.parquet")
    place = folder / "x.parquet"
    place.put(tmp_path / "x.parquet")
    footer = read_footer(place)
    assert (footer.num_rows, footer.num_columns) == (3, columns)
    assert footer.equals(pq.read_metadata(tmp_path / "x.parquet"))
    place.put(b"no table")
    with pytest.raises(pa.ArrowException):
        read_footer(place)


def test_a_table_inside_a_table_is_refused(folder: ObjectPath) -> None:
    (folder / "outer/_delta_log/00000000000000000000.json").put(b"{}")
    options = {"allow_http": "True"}
    (ObjectPath.of(str(folder), options) / "outer/_delta_log/0.json").put(b"{}")
    inner, other = (location_of(dg.AssetKey([name, "inner"]), str(folder), options) for name in ("outer", "other"))
    with pytest.raises(UnsafeAssetKeyError, match="'outer' is a table itself"):
        refuse_around(inner, "outer/inner")
    refuse_around(other, "other/inner")


def test_a_table_around_a_table_is_refused(folder: ObjectPath) -> None:
    (folder / "outer/inner/_delta_log/00000000000000000000.json").put(b"{}")
    with pytest.raises(UnsafeAssetKeyError, match="outer/inner"):
        refuse_around(folder / "outer", "outer")


# Conditional puts ---------------------------------------------------------------------------------------------------


def test_a_store_that_keeps_conditional_puts_is_taken_and_left_as_it_was(folder: ObjectPath) -> None:
    refuse_unconditional(folder / "table")
    assert folder.objects() == {}


def test_a_store_that_ignores_them_is_refused(folder: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    put = obstore.put

    def ignoring(*place: object, mode: str) -> object:
        return put(*place, mode="overwrite") if mode else None

    monkeypatch.setattr(obstore, "put", ignoring)
    for _ in range(2):  # a refusal is not forgotten
        with pytest.raises(UnsupportedStorageError, match="ignores If-None-Match"):
            refuse_unconditional(folder / "table")
    assert folder.objects() == {}
