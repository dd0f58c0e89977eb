"""Any sequence of batches leaves, through Spark Connect, the table that Polars leaves; the last tests can fail."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pattern_platform.lake.spark import batch as spark_batch
from pattern_platform.lake.spark import changes as spark_changes
from pattern_platform.lake.spark import merge as spark_merge
from pattern_platform_tests.lake.tables import Table
from pattern_platform_tests.patterns.idempotency.merging import (
    merger,
    quarantine,
    small_files,
    stateful,
    stored_versions,
    versions,
)
from pattern_platform_tests.services.spark.sail import Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import SparkSession

EXAMPLES = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)
DAYS = dg.DailyPartitionsDefinition("2024-10-05", end_date="2024-10-09")
NAMES = DAYS.get_partition_keys()


@contextmanager
def pair(session: SparkSession, make: Callable[..., Table], **changes: Any) -> Iterator[Pair]:
    """Two tables in a folder of their own, of small files."""
    root, patches = Path(tempfile.mkdtemp()), pytest.MonkeyPatch()
    small_files(patches, rows=3)
    for module in (spark_batch, spark_changes, spark_merge):
        patches.setattr(module, "MOST_ROWS", 3)
    try:
        yield Pair(session, make(root / "polars", **changes), make(root / "spark", **changes))
    finally:
        patches.undo()
        shutil.rmtree(root)


# Overwrite ----------------------------------------------------------------------------------------------------------

moments = st.integers(0, 24 * 3600 * 1_000_000 - 1).map(lambda us: dt.timedelta(microseconds=us))
texts = st.one_of(st.none(), st.sampled_from(["", "é" * 50, "a/b", "x=y", "100%", "null"]))
rows = st.tuples(
    moments,
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    st.one_of(st.none(), st.sampled_from([0.5, -1e300, float("inf"), float("nan")])),
    texts,
    st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=2)),
    st.sampled_from(["eu", "us", "a/b c%", None]),
)
SCHEMA = {
    "moment": pl.Datetime("us", "UTC"),
    "n": pl.Int64,
    "f": pl.Float64,
    "s": pl.String,
    "l": pl.List(pl.Int64),
    "region": pl.String,
    "st": pl.Struct({"a": pl.Int16, "b": pl.String}),
    "d": pl.Decimal(12, 2),
    "day": pl.Date,
    "b": pl.Boolean,
    "bin": pl.Binary,
    "naive": pl.Datetime("us"),
    "small": pl.Int8,
    "f32": pl.Float32,
}


def frame_of(day: str, given: list[tuple[Any, ...]]) -> pl.DataFrame:
    start = dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC)
    made = [
        (
            *(start + row[0], *row[1:]),
            {"a": len(row[3] or ""), "b": row[3]},
            None if row[1] is None else row[1] % 10**10,
            start.date(),
            None if row[1] is None else row[1] > 0,
            None if row[3] is None else row[3].encode(),
            (start + row[0]).replace(tzinfo=None),
            None if row[1] is None else row[1] % 100,
            row[2] if row[2] != -1e300 else 0.0,
        )
        for row in given
    ]
    return pl.DataFrame(made, schema=SCHEMA, orient="row")


steps = st.lists(st.tuples(st.sampled_from(NAMES), st.lists(rows, max_size=6), st.booleans()), min_size=2, max_size=5)


@given(given=steps, by_region=st.booleans())
@EXAMPLES
def test_overwrite(session: SparkSession, given: list[Any], by_region: bool) -> None:  # noqa: FBT001
    metadata = {"partition_by": ["region"]} if by_region else {}
    with pair(session, Table, definition=DAYS, metadata=metadata) as tables:
        for day, batch, twice in given:
            if by_region and twice:  # both days in one run, each in files of its own
                last = NAMES[min(NAMES.index(day) + 1, len(NAMES) - 1)]
                tables.write_range(pl.concat([frame_of(day, batch), frame_of(last, batch[:2])]), day, last)
            else:
                tables.write(frame_of(day, batch), day)
        files = pl.DataFrame(tables.spark.handle.get_add_actions(flatten=True))
        assert set(files["num_records"]) <= set(range(1, 15))
        if not by_region:
            assert (files["min.moment"].dt.date() == files["max.moment"].dt.date()).all()


# Merge --------------------------------------------------------------------------------------------------------------

keys = st.sampled_from([*"abcdef" * 4, "abc", None])
regions = st.sampled_from(["eu", "us", None])
sequences = st.sampled_from([0, 1, 2, 3, 3, 3, None])
changes = st.lists(
    st.tuples(keys, st.integers(1, 2), sequences, regions, st.booleans()),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row[:3],
)
CHANGES = {"k": pl.String, "k2": pl.Int64, "v": pl.Int64, "region": pl.String, "gone": pl.Boolean}


def changes_of(given: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(given, schema=CHANGES, orient="row")


@given(
    given=st.lists(changes, min_size=3, max_size=6),
    sequence=st.booleans(),
    quarantined=st.booleans(),
    by_region=st.booleans(),
)
@EXAMPLES
def test_merge(
    session: SparkSession,
    given: list[Any],
    sequence: bool,  # noqa: FBT001
    quarantined: bool,  # noqa: FBT001
    by_region: bool,  # noqa: FBT001
) -> None:
    metadata: dict[str, Any] = {"merge_keys": ["k", "k2"], "soft_delete": "gone"}
    metadata |= {"sequence_by": "v"} if sequence else {}
    metadata |= {"bad_rows": "quarantine"} if quarantined else {}
    metadata |= {"partition_by": ["region"]} if by_region else {}
    with pair(session, merger, metadata=metadata) as tables:
        for batch in [*given, given[0]]:
            frame = changes_of(batch)
            tables.write(frame)
        if quarantined and tables.polars.path.with_name("table__quarantine").exists():
            left, right = (
                quarantine(t).select("k", "k2", "v", "region", "_reason") for t in (tables.polars, tables.spark)
            )
            assert sorted(left.rows(), key=str) == sorted(right.rows(), key=str)


@given(given=st.lists(st.tuples(st.sampled_from(NAMES), changes), min_size=2, max_size=4))
@EXAMPLES
def test_merge_of_several_partitions_in_a_run(session: SparkSession, given: list[Any]) -> None:
    metadata = {"merge_keys": ["k", "k2"], "soft_delete": "gone", "bad_rows": "quarantine"}
    changed = {"metadata": metadata, "definition": DAYS, "partition_expr": "day"}
    with pair(session, merger, **changed) as tables:
        for _ in range(2):
            batch = pl.concat(changes_of(rows_).with_columns(day=pl.lit(day).str.to_date()) for day, rows_ in given)
            tables.write_range(batch, NAMES[0], NAMES[-1])


# Stateful merge -----------------------------------------------------------------------------------------------------

batches = st.dictionaries(
    st.sampled_from("abcdefghij"), st.one_of(st.none(), st.integers(0, 9)), min_size=1, max_size=4
)


@given(given=st.lists(st.tuples(st.sampled_from(NAMES), batches), min_size=4, max_size=7))
@EXAMPLES
def test_stateful_merge(session: SparkSession, given: list[Any]) -> None:
    metadata = {"merge_keys": ["k"], "soft_delete": "gone"}
    with pair(session, stateful, metadata=metadata, definition=DAYS) as tables:
        for day, batch in given:
            made = [(key, value, value is None) for key, value in batch.items()]
            schema = {"k": pl.String, "v": pl.Int64, "gone": pl.Boolean}
            tables.write(pl.DataFrame(made, schema=schema, orient="row"), day)
            assert versions(tables.spark) == versions(tables.polars)
            assert stored_versions(tables.spark) == stored_versions(tables.polars)


# Negative controls --------------------------------------------------------------------------------------------------


def test_a_writer_that_forgets_the_sequence_is_found(session: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_changes.F, "max", spark_changes.F.min)
    with pair(session, merger, metadata={"sequence_by": "v"}) as tables, pytest.raises(AssertionError):
        tables.write(pl.DataFrame({"k": ["a", "a"], "v": [1, 2]}))


def test_tables_that_differ_are_found(session: SparkSession) -> None:
    with pair(session, stateful, definition=DAYS) as tables:
        tables.write(pl.DataFrame({"k": ["a"], "v": [1]}), NAMES[0])
        tables.polars.write(pl.DataFrame({"k": ["a"], "v": [2]}), NAMES[1])
        with pytest.raises(AssertionError):
            tables.assert_same()
