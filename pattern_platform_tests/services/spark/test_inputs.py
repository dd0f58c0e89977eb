"""Inputs as Spark frames, and one function over narwhals on both engines."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import dagster as dg
import narwhals as nw
import polars as pl
import pytest
from pyspark.sql import DataFrame as SparkFrame

from pattern_platform import DataOverwriteIOManager, MergerIOManager, validate_definitions
from pattern_platform.errors import (
    EngineFaultError,
    InvalidMetadataError,
    MissingDriverError,
    MissingPartitionsError,
    MissingTableError,
    MissingVersionError,
    UnsupportedTableError,
)
from pattern_platform.lake.spark.connect import SparkConnect
from pattern_platform_tests.lake.tables import Table, assert_same_rows, live_files, shared_instance
from pattern_platform_tests.services.spark.sail import sail_server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pattern_platform_tests.services.servers import Server

DAYS = dg.DailyPartitionsDefinition("2024-10-05", end_date="2024-10-09")
DAY, NEXT, LATER, NEVER = DAYS.get_partition_keys()
pytestmark = pytest.mark.usefixtures("session")


def rows(day: str, count: int = 4) -> pl.DataFrame:
    start = dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC)
    return pl.DataFrame(
        {
            "moment": [start + dt.timedelta(hours=n) for n in range(count)],
            "n": range(count),
            "page": ["a", "b"] * (count // 2),
        },
        schema={"moment": pl.Datetime("us", "UTC"), "n": pl.Int64, "page": pl.String},
    )


@pytest.fixture
def table(tmp_path: Path, sail: Server) -> Table:
    table = Table(tmp_path, DAYS, options={"engine": SparkConnect(url=sail.url)})
    for day in (DAY, NEXT, LATER):
        table.write(rows(day), day)
    return table


def given(table: Table, key: str | None = DAY, annotation: Any = SparkFrame, **metadata: Any) -> Any:
    """What a downstream asset is given."""
    received = []

    def downstream(rows: Any) -> None:
        received.append((type(rows), rows if isinstance(rows, nw.LazyFrame) else pl.DataFrame(rows.toArrow())))

    downstream.__annotations__ = {"rows": annotation, "return": None}
    reader = dg.asset(
        ins={"rows": dg.AssetIn(list(table.key), metadata=metadata)}, partitions_def=DAYS if key else None
    )(downstream)
    dg.materialize(
        [table.asset(), reader],
        selection=[reader],
        partition_key=key,
        instance=shared_instance(),
        resources={"io_manager": table.manager},
    )
    return received[0]


def test_a_partition(table: Table) -> None:
    kind, frame = given(table)
    assert issubclass(kind, SparkFrame)
    assert_same_rows(frame.with_columns(pl.col("moment").dt.convert_time_zone("UTC")), rows(DAY))


def test_a_whole_table(table: Table) -> None:
    assert given(table.with_(definition=None), None)[1].height == 12


def test_files_astride_are_looked_into(table: Table) -> None:
    table.handle.optimize.compact()
    assert len(live_files(table)) == 1
    assert given(table, NEXT)[1]["moment"].dt.day().unique().to_list() == [6]


def test_columns(table: Table) -> None:
    assert given(table, columns=["page", "n"])[1].columns == ["page", "n"]
    with pytest.raises(InvalidMetadataError, match="has no column"):
        given(table, columns=["pages"])


def test_an_older_version(table: Table) -> None:
    table.write(rows(DAY, 8), DAY)
    assert given(table)[1].height == 8
    assert given(table, table_version=1)[1].height == 4
    with pytest.raises(MissingVersionError):
        given(table, table_version=99)


def test_missing_partitions(table: Table) -> None:
    with pytest.raises(MissingPartitionsError, match="allow_missing_partitions"):
        given(table, NEVER)
    assert given(table, NEVER, allow_missing_partitions=True)[1].schema.names() == ["moment", "n", "page"]


def test_a_table_that_does_not_exist(table: Table) -> None:
    other = table.with_(key=("other",))
    with pytest.raises(MissingTableError, match="materialize 'other' first"):
        given(other)
    assert given(other, allow_missing_partitions=True)[1].shape == (0, 0)


def test_columns_that_were_added_later_and_physical_partitions(table: Table) -> None:
    changed = table.with_(key=("other",), metadata={"schema_evolution": "add_columns", "partition_by": ["page"]})
    changed.write(rows(DAY), DAY)
    changed.write(rows(NEXT).with_columns(extra=pl.lit(7)), NEXT)
    for day, extra in ((DAY, [None]), (NEXT, [7])):
        frame = given(changed, day)[1]
        assert frame["extra"].unique().to_list() == extra
        assert sorted(frame["page"]) == ["a", "a", "b", "b"]


def test_a_table_whose_files_do_not_say_what_its_rows_are(table: Table) -> None:
    log = table.path / "_delta_log" / f"{table.version + 1:020}.json"
    log.write_text('{"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}}\n')
    with pytest.raises(UnsupportedTableError, match=r"polars\.LazyFrame"):
        given(table)


def test_a_file_that_the_server_does_not_see(table: Table) -> None:
    """Sail gives no rows for it."""
    table.path.joinpath(min(live_files(table))).rename(table.root / "aside.parquet")
    with pytest.raises(EngineFaultError, match="found 8 rows where the log counts 12"):
        given(table.with_(definition=None), None)


def test_no_server_is_configured(table: Table) -> None:
    with pytest.raises(InvalidMetadataError, match="engine=SparkConnect"):
        given(table.with_(options={}))


def test_the_client_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(MissingDriverError, match=r"pip install 'pattern-platform\[spark\]'"):
        SparkConnect(url="sc://127.0.0.1:1").session()


def test_each_server_has_a_session_of_its_own(sail: Server) -> None:
    with sail_server() as other:
        sessions = [SparkConnect(url=url).session() for url in (sail.url, other.url, sail.url)]
        assert sessions[0] is sessions[2]
        assert sessions[0] is not sessions[1]
        assert [session.range(n).count() for n, session in enumerate(sessions)] == [0, 1, 2]
        sessions[1].stop()
        assert SparkConnect(url=other.url).session().range(3).count() == 3
        SparkConnect(url=other.url).session().stop()


def test_the_url_comes_from_the_environment(table: Table, sail: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_URL", sail.url)
    assert given(table.with_(options={"engine": SparkConnect(url=dg.EnvVar("SPARK_URL"))}))[1].height == 4


def test_spark_is_not_imported_where_it_is_not_used(tmp_path: Path) -> None:
    program = f"""
import sys, dagster as dg, polars as pl
from pattern_platform import MergerIOManager
@dg.asset(metadata={{"merge_keys": ["k"]}})
def table() -> pl.DataFrame:
    return pl.DataFrame({{"k": [1]}})
dg.materialize([table], resources={{"io_manager": MergerIOManager(root_uri={str(tmp_path)!r})}})
assert not [name for name in sys.modules if name.partition(".")[0] in ("pyspark", "narwhals")]
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


# One function on both -------------------------------------------------------------------------------------------------


def visits_per_page(visits: nw.LazyFrame) -> nw.LazyFrame:
    """Visits and the first of them, by page: nothing here knows an engine."""
    return visits.group_by("page").agg(nw.len().cast(nw.Int64).alias("visits"), nw.col("moment").min().alias("first"))


def platform(root: Path, resources: Mapping[str, Any]) -> pl.DataFrame:
    """Raw visits -> visits by page, of every day; the engine is in the resources alone."""

    @dg.asset(partitions_def=DAYS, metadata={"partition_expr": "moment"}, io_manager_key="overwrite")
    def visits(context) -> pl.DataFrame:  # noqa: ANN001 - Dagster does not resolve a quoted annotation
        return rows(context.partition_key, 6)

    @dg.asset(
        partitions_def=DAYS,
        metadata={"merge_keys": ["page"], "sequence_by": "first"},
        io_manager_key="merge",
    )
    def pages(visits: nw.LazyFrame) -> nw.LazyFrame:
        return visits_per_page(visits)

    definitions = validate_definitions(dg.Definitions(assets=[visits, pages], resources=resources))
    for day in (DAY, NEXT, LATER, NEXT):
        definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            partition_key=day, instance=shared_instance(), asset_selection=[visits.key, pages.key]
        )
    return pl.read_delta(f"{root}/pages")


def test_one_function_by_configuration(tmp_path: Path, sail: Server) -> None:
    found = []
    for name, engine in (("polars", None), ("spark", SparkConnect(url=sail.url))):
        root = tmp_path / name
        resources = {
            "overwrite": DataOverwriteIOManager(root_uri=str(root), engine=engine),
            "merge": MergerIOManager(root_uri=str(root), engine=engine),
        }
        found.append(platform(root, resources))
    assert_same_rows(*found)
    assert found[0].height == 2
    assert found[0]["visits"].sum() == 6
