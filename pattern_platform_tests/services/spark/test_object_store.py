"""The same on an object store that the server and the runs reach by the same URI."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest
from pyspark.sql import DataFrame as SparkFrame

from pattern_platform.lake.spark.connect import SparkConnect
from pattern_platform_tests.lake.tables import Table, assert_same_rows
from pattern_platform_tests.patterns.idempotency.merging import DAYS, changed, held, merger, stateful, versions
from pattern_platform_tests.services.spark.sail import sail_server, session_of, spark_frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pattern_platform_tests.services.servers import Server
    from pattern_platform_tests.services.stores import ObjectStore


@pytest.fixture
def on_store(object_store: ObjectStore) -> Iterator[Server]:
    with sail_server(object_store) as server:
        yield server


def test_tables_on_an_object_store(object_store: ObjectStore, on_store: Server) -> None:
    session, store = session_of(on_store.url), object_store
    options = {**store.arguments, "engine": SparkConnect(url=on_store.url)}
    made = {"root": store.path, "options": options}
    first, second = DAYS.get_partition_keys()[:2]

    moment = dt.datetime.fromisoformat(first).replace(tzinfo=dt.UTC)
    batch = pl.DataFrame({"moment": [moment, moment], "n": [1, 2], "p": ["a b%/ü", None]})
    batch = batch.cast({"moment": pl.Datetime("us", "UTC")})
    table = Table(**made, definition=DAYS, metadata={"partition_by": ["p"]})
    for _ in range(2):
        table.write(spark_frame(session, batch), first)
    assert_same_rows(table.rows().with_columns(pl.col("moment").dt.convert_time_zone("UTC")), batch)

    received = []

    @dg.asset(ins={"rows": dg.AssetIn("table")}, partitions_def=DAYS)
    def downstream(rows: SparkFrame) -> None:
        received.extend(sorted(row["p"] or "" for row in rows.collect()))

    dg.materialize(
        [table.asset(), downstream],
        selection=[downstream],
        partition_key=first,
        resources={"io_manager": table.manager},
    )
    assert received == ["", "a b%/ü"]

    merged = merger(**made, key=("merged",), metadata={"soft_delete": "gone"})
    merged.write(spark_frame(session, changed(a=1, b=1)))
    merged.write(spark_frame(session, changed(b=2, c=2, gone=["a"])))
    assert held(merged) == {"b": 2, "c": 2}

    kept = stateful(**made, key=("kept",))
    for key in (first, second, first):
        kept.write(spark_frame(session, pl.DataFrame({"k": [key], "v": [1]})), key)
    assert list(held(kept)) == [first]
    assert list(versions(kept).values()) == [3, 2]
    assert not [path for path in store.path.objects() if "spark-" in str(path)]
    session.stop()
