"""What Sail does in silence, what a lost server does, and what people get wrong: nothing of it reaches a table.

Beside each silent fault there is a test that Sail still has it: where one fails, the check may have become needless.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pyspark.errors import PySparkException
from pyspark.sql.connect.functions import builtin as F  # noqa: N812 - as everybody calls it

from pattern_platform import FastMetadataCleanerIOManager, MergerIOManager, PatternPlatformError
from pattern_platform.errors import (
    ChangedTypeError,
    DuplicateKeyError,
    DuplicateKeyInTableError,
    EngineFaultError,
    InvalidMetadataError,
    LossyCastError,
    MissingColumnError,
    NullInRequiredColumnError,
    NullKeyError,
    RowsOutsidePartitionError,
    UnknownColumnError,
    UnsafePartitionKeyError,
    UnsupportedFrameError,
    UnsupportedStorageError,
    UnsupportedTypeError,
)
from pattern_platform.lake.spark import batch as spark_batch
from pattern_platform.lake.spark import files as spark_files
from pattern_platform.patterns.idempotency.transactional_writer_delta import TransactionalAppendIOManager
from pattern_platform_tests.lake.tables import Table, data_files, live_files, refused
from pattern_platform_tests.patterns.idempotency.merging import before_commit, foreign, held, keyed, merger
from pattern_platform_tests.services.spark.sail import sail_server, session_of, spark_frame

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame, SparkSession

DAYS = dg.DailyPartitionsDefinition("2024-10-05", end_date="2024-10-09")
DAY, NEXT = DAYS.get_partition_keys()[:2]


def rows(day: str = DAY, count: int = 4) -> pl.DataFrame:
    start = dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC)
    return pl.DataFrame(
        {"moment": [start + dt.timedelta(hours=n) for n in range(count)], "n": range(count)},
        schema={"moment": pl.Datetime("us", "UTC"), "n": pl.Int64},
    )


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Two days, of which the second is never touched."""
    table = Table(tmp_path, DAYS)
    table.write(rows(DAY), DAY)
    table.write(rows(NEXT), NEXT)
    return table


# What Sail does in silence ------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_empty_for_sail(session: SparkSession, tmp_path: Path) -> None:
    assert session.read.schema("n bigint").parquet(f"{tmp_path}/gone.parquet").count() == 0


def test_a_table_of_which_the_server_does_not_see_a_file(session: SparkSession, table: Table) -> None:
    keys = table.with_(io_manager=MergerIOManager, metadata={"merge_keys": ["n"]}, definition=None)
    keys.path.joinpath(next(iter(live_files(table)))).rename(table.root / "aside.parquet")
    with refused(table.root, EngineFaultError, "found 4 rows where the log counts 8", "same path"):
        keys.write(spark_frame(session, rows("2024-10-08")))


def test_a_path_with_a_pattern_is_other_files_for_sail(session: SparkSession, tmp_path: Path) -> None:
    rows().write_parquet(tmp_path / "abc.parquet")
    assert session.read.schema("n bigint").parquet(f"{tmp_path}/a*c.parquet").count() == 4


@pytest.mark.parametrize("folder", ["a[1]", "a*b", "a{b}"])
def test_a_table_in_a_folder_that_is_a_pattern(session: SparkSession, tmp_path: Path, folder: str) -> None:
    table = Table(tmp_path / folder, DAYS)
    with refused(tmp_path, UnsupportedStorageError, "pattern", "without them"):
        table.write(spark_frame(session, rows()), DAY)


def test_a_null_partition_is_another_value_for_sail(session: SparkSession, tmp_path: Path) -> None:
    frame = session.range(1).select("id", F.lit(None).cast("int").alias("p"))
    frame.write.partitionBy("p").parquet(f"{tmp_path}/out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p=0"]


def test_null_partition_values_stay_null(session: SparkSession, tmp_path: Path) -> None:
    table = Table(tmp_path, metadata={"partition_by": ["p"]})
    batch = pl.DataFrame({"p": [None, 0, 1], "n": [1, 2, 3]}, schema={"p": pl.Int32, "n": pl.Int64})
    table.write(spark_frame(session, batch))
    assert sorted(table.rows().select("p", "n").rows(), key=str) == [(0, 2), (1, 3), (None, 1)]


def test_the_zone_of_a_session_is_in_the_files_of_sail(session: SparkSession, tmp_path: Path) -> None:
    session.range(1).select(F.lit("2024-01-01").cast("timestamp").alias("t")).write.parquet(f"{tmp_path}/out")
    (file,) = (tmp_path / "out").iterdir()
    assert pl.read_parquet_schema(file)["t"] == pl.Datetime("us", session.conf.get("spark.sql.session.timeZone"))


def test_every_reader_takes_the_timestamps_for_utc(session: SparkSession, table: Table) -> None:
    batch = session.range(1).select(
        F.lit(f"{DAY} 03:00:00+00:00").cast("timestamp").alias("moment"), F.col("id").alias("n")
    )
    table.write(batch, DAY)
    assert pl.read_delta(str(table.path)).filter(pl.col("moment") < dt.datetime(2024, 10, 6, tzinfo=dt.UTC)).height == 1
    assert table.load(DAY, definition=DAYS).schema["moment"] == pl.Datetime("us", "UTC")


def test_files_with_other_types_than_asked_for(
    session: SparkSession, table: Table, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As Spark's own default for timestamps, INT96, would make them."""
    other = tmp_path_factory.mktemp("other") / "other.parquet"
    pq.write_table(rows().to_arrow(), other, use_deprecated_int96_timestamps=True)
    monkeypatch.setattr(spark_files, "read_footer", lambda _: pq.read_metadata(other))
    with refused(table.root, EngineFaultError, "'moment'", "ns"):
        table.write(spark_frame(session, rows()), DAY)


def test_rows_that_get_lost_on_the_way(session: SparkSession, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    written = spark_files._written

    def lossy(*arguments: Any) -> dict[int, list[str]]:
        return {slot: paths[1:] for slot, paths in written(*arguments).items()}

    monkeypatch.setattr(spark_files, "_written", lossy)
    with refused(table.root, EngineFaultError, "hold 0 rows where its query counted 4", "run again"):
        table.write(spark_frame(session, rows()), DAY)


def test_a_frame_that_grows_between_count_and_write(
    session: SparkSession, table: Table, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source, counted = tmp_path_factory.mktemp("source"), spark_batch.counted
    rows().write_parquet(source / "1.parquet")

    def growing(*arguments: Any) -> pl.DataFrame:
        found = counted(*arguments)
        rows().write_parquet(source / "2.parquet")
        return found

    monkeypatch.setattr(spark_batch, "counted", growing)
    with refused(table.root, EngineFaultError, "gives other rows each time"):
        table.write(session.read.parquet(str(source)), DAY)


# A server that is lost ----------------------------------------------------------------------------------------------


@pytest.fixture
def lost(tmp_path: Path) -> Path:
    """A pipe by which the server's second query says that it is at work."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    return pipe


@pytest.mark.parametrize("io_manager", ["overwrite", "merge"])
def test_a_server_killed_while_it_writes(lost: Path, tmp_path: Path, io_manager: str) -> None:
    counted = tmp_path / "counted"

    def held_up(batches: Any) -> Any:
        import os  # noqa: PLC0415 - runs in the server
        import time  # noqa: PLC0415

        for batch in batches:
            if os.path.exists(counted_path):  # noqa: PTH110
                with open(pipe_path, "w") as told:  # noqa: PTH123
                    told.write("writing")
                time.sleep(600)
            yield batch
        open(counted_path, "w").close()  # noqa: PTH123

    counted_path, pipe_path = str(counted), str(lost)
    with sail_server() as server, sail_server() as other:
        made = Table(tmp_path / "lake", DAYS, retry_policy=dg.RetryPolicy(max_retries=1))
        if io_manager == "merge":
            made = made.with_(io_manager=MergerIOManager, metadata={"merge_keys": ["n"]})
        made.with_(retry_policy=None).write(spark_frame(session_of(server.url), rows()), DAY)
        before, failures = data_files(made), []

        def kill() -> None:
            lost.read_text()  # until the server opens it
            server.stop()

        killer = threading.Thread(target=kill)
        killer.start()

        def batch(context: dg.AssetExecutionContext) -> DataFrame:
            if context.retry_number == 0:
                return spark_frame(session_of(server.url), rows(count=6)).mapInArrow(
                    held_up, "moment timestamp, n bigint"
                )
            killer.join()
            failures.append(data_files(made))
            return spark_frame(session_of(other.url), rows(count=6))

        made.write(batch, DAY)
        assert failures == [before]  # the failed attempt left nothing behind
        assert sorted(made.rows()["n"]) == list(range(6))


def test_an_error_of_the_query_is_not_ours(session: SparkSession, table: Table) -> None:
    """It is raised as it is, and a retry policy repeats it."""
    broken = spark_frame(session, rows()).select("moment", F.expr("cast(concat('x', n) as bigint)").alias("n"))
    before = data_files(table)
    with pytest.raises(PySparkException) as caught:
        table.write(broken, DAY)
    assert not isinstance(caught.value, PatternPlatformError)
    assert data_files(table) == before


# What people get wrong ----------------------------------------------------------------------------------------------


def test_a_string_for_a_number(session: SparkSession, table: Table) -> None:
    """Sail appends it as NULL to a Delta table."""
    wrong = spark_frame(session, rows()).withColumn("n", F.concat(F.lit("x"), F.col("n").cast("string")))
    with refused(table.root, ChangedTypeError, "'n'", "String", "convert it in the asset to Int64"):
        table.write(wrong, DAY)


def test_a_wider_number(session: SparkSession, table: Table) -> None:
    with refused(table.root, LossyCastError, "'n'", "Float64", "cast or round it in the asset"):
        table.write(spark_frame(session, rows()).withColumn("n", F.col("n") * 0.5), DAY)


def test_rows_of_another_day(session: SparkSession, table: Table) -> None:
    both = spark_frame(session, pl.concat([rows(), rows(NEXT)]))
    with refused(table.root, RowsOutsidePartitionError, "4 row(s)", "filter them in the asset"):
        table.write(both, DAY)


def test_rows_without_a_day(session: SparkSession, table: Table) -> None:
    without = spark_frame(session, rows()).withColumn("moment", F.when(F.col("n") > 0, F.col("moment")))
    with refused(table.root, RowsOutsidePartitionError, "1 row(s)"):
        table.write(without, DAY)


def test_a_missing_column(session: SparkSession, table: Table) -> None:
    with refused(table.root, MissingColumnError, "'n'", "return the column(s)"):
        table.write(spark_frame(session, rows()).drop("n"), DAY)


def test_a_column_more(session: SparkSession, table: Table) -> None:
    with refused(table.root, UnknownColumnError, "'more'", "add_columns"):
        table.write(spark_frame(session, rows()).withColumn("more", F.lit(1)), DAY)


def test_a_column_twice(session: SparkSession, table: Table) -> None:
    left, right = (spark_frame(session, rows()).alias(name) for name in "ab")
    joined = left.join(right, F.col("a.n") == F.col("b.n")).select("a.*", F.col("b.n"))
    with refused(table.root, InvalidMetadataError, "two columns 'n'", 'on="n"'):
        table.write(joined, DAY)


@pytest.mark.parametrize(
    ("column", "culprit"),
    [
        (F.create_map(F.lit("a"), F.lit(1)), "map<string,int>"),
        (F.expr("interval 1 day"), "interval"),
        (F.expr("interval 1 month"), "interval"),
    ],
)
def test_a_type_that_not_every_reader_has(session: SparkSession, tmp_path: Path, column: Any, culprit: str) -> None:
    with refused(tmp_path, UnsupportedTypeError, "'odd'", culprit, "cast it to a string"):
        Table(tmp_path).write(session.range(1).select("id", column.alias("odd")))


def test_a_column_of_nothing(session: SparkSession, tmp_path: Path) -> None:
    with refused(tmp_path, UnsupportedTypeError, "'odd'", "cast it in the asset"):
        Table(tmp_path).write(session.range(1).select("id", F.lit(None).alias("odd")))


@pytest.mark.parametrize("value", ["", "x" * 300])
def test_a_partition_value_that_is_no_folder(session: SparkSession, tmp_path: Path, value: str) -> None:
    table = Table(tmp_path, metadata={"partition_by": ["p"]})
    with refused(tmp_path, UnsafePartitionKeyError, "'p'", "change it in the asset"):
        table.write(session.range(1).select("id", F.lit(value).alias("p")))


def test_nulls_where_there_must_be_none(session: SparkSession, tmp_path: Path) -> None:
    table, merged = Table(tmp_path), merger(tmp_path)
    required = pa.schema([pa.field("k", pa.string()), pa.field("v", pa.int64(), nullable=False)])
    write_deltalake(table.path, pa.table({"k": ["a"], "v": [1]}, schema=required))
    for asset in (table, merged):
        with refused(tmp_path, NullInRequiredColumnError, "'v'", "drop or fill these rows"):
            asset.write(spark_frame(session, keyed(b=None)))


def test_a_key_of_null(session: SparkSession, tmp_path: Path) -> None:
    batch = spark_frame(session, keyed(a=1)).withColumn("k", F.lit(None).cast("string"))
    with refused(tmp_path, NullKeyError, "1 row(s)", "null in k", "quarantine"):
        merger(tmp_path).write(batch)


def test_a_key_twice(session: SparkSession, tmp_path: Path) -> None:
    twice = spark_frame(session, pl.concat([keyed(a=1), keyed(a=2)]))
    with refused(tmp_path, DuplicateKeyError, "2 row(s)", "sequence_by"):
        merger(tmp_path).write(twice)


def test_a_key_twice_in_the_table(session: SparkSession, tmp_path: Path) -> None:
    table = merger(tmp_path)
    table.write(keyed(a=1))
    foreign(table, keyed(a=2))
    with refused(tmp_path, DuplicateKeyInTableError, "more than once", "merge_keys"):
        table.write(spark_frame(session, keyed(a=3)))


def test_a_frame_for_an_io_manager_that_takes_none(session: SparkSession, tmp_path: Path) -> None:
    appended = Table(tmp_path, DAYS, io_manager=TransactionalAppendIOManager)
    with refused(tmp_path, UnsupportedFrameError, "MergerIOManager", "toArrow()"):
        appended.write(spark_frame(session, rows()), DAY)
    cleaner = FastMetadataCleanerIOManager(database=str(tmp_path / "w.duckdb"), unit="week")
    with pytest.raises(UnsupportedFrameError, match="toArrow"):
        dg.materialize(
            [Table(tmp_path, DAYS).asset(spark_frame(session, rows()))],
            partition_key=DAY,
            resources={"io_manager": cleaner},
        )


def test_a_commit_of_another_meanwhile(session: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is made again from what the batch left in its files on their way."""
    table = merger(tmp_path)
    table.write(keyed(a=1, b=1))
    before_commit(monkeypatch, lambda: table.write(keyed(a=5, c=5)))
    table.write(spark_frame(session, keyed(a=2, d=2)))
    assert held(table) == {"a": 2, "b": 1, "c": 5, "d": 2}
    assert not list(table.path.glob("spark-*"))
