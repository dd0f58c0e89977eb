"""Dashboards of another team: made of tables as promised, deployed apart, coupled by names alone.

The tables of the other side are written here with delta-rs or Polars, as any provider might.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
import yaml
from deltalake import DeltaTable, write_deltalake

from pattern_platform import dashboards as package
from pattern_platform import definitions as provider
from pattern_platform.dashboards import assets as module
from pattern_platform.dashboards import contract, partner
from pattern_platform.dashboards import definitions as consumer
from pattern_platform.dashboards.assets import (
    AD_IMPRESSIONS,
    AD_PRICES,
    CHECKS,
    COUNT_ARRIVALS,
    FLIGHT_DAYS,
    PROVIDED,
    RAW_FLIGHTS,
    SENSORS,
    VISITS_CUBE,
    ad_revenue,
    arrivals,
    top_pages,
)
from pattern_platform.dashboards.partner import PRICES, write_prices
from pattern_platform.datasets import DATASETS
from pattern_platform.ingestion.landing import INGESTION_SCHEMA, raw_schema
from pattern_platform.patterns.data_flow.isolated_sequencer import UPSTREAM_RUN, delta_commit_sensor
from pattern_platform.resources import delta_tables
from pattern_platform.settings import Settings
from pattern_platform.visits import contract as visits_contract
from pattern_platform.visits.billing import ad_impressions
from pattern_platform_tests.lake.tables import contents, range_tags
from pattern_platform_tests.platform import Platform, errors
from pattern_platform_tests.test_structure import CHECKOUT
from pattern_platform_tests.visits.blog import MONDAY, TUESDAY, succeeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import dataframely as dy

Row = tuple[Any, ...]
FLIGHT_DAY = "2013-01-02"


def date(day: str) -> dt.date:
    return dt.date.fromisoformat(day)


class Dashboards(Platform):
    """The dashboards, and the tables of others as those write them."""

    def __init__(self, folder: Path) -> None:
        stored = [spec.with_io_manager_key("data_overwrite") for spec in PROVIDED]
        super().__init__(folder, [*module.ASSETS, *stored, *CHECKS])

    def provide(self, spec: dg.AssetSpec, rows: pl.DataFrame) -> None:
        """A team writes its table, in place of what it was."""
        table = self.lake.joinpath(*spec.key.path)
        table.parent.mkdir(parents=True, exist_ok=True)
        rows.write_delta(str(table), mode="overwrite", delta_write_options={"schema_mode": "overwrite"})

    def stored(self, asset: dg.AssetsDefinition) -> list[dict[str, Any]]:
        """The rows of a dashboard, as delta-rs hands them to PyArrow."""
        return pl.DataFrame(DeltaTable(self.lake.joinpath(*asset.key.path)).to_pyarrow_table()).to_dicts()

    def refused(self, asset: dg.AssetsDefinition, partition: str = "") -> str:
        """The run is refused for its contract, and no file changes."""
        before = contents(self.lake)
        result = self.run([asset.key], partition)
        assert not result.success
        (error,) = errors(result)
        assert error.startswith("BrokenContractError"), error
        assert contents(self.lake) == before
        return error


@pytest.fixture
def board(tmp_path: Path) -> Dashboards:
    return Dashboards(tmp_path)


# Top pages: the asset of another location -----------------------------------------------------------------------------


def cube(pages: Mapping[str, int], day: str = MONDAY) -> pl.DataFrame:
    """A cube of two users: the first opened each page once, the second did the rest."""
    each = [(page, user, n) for page, count in pages.items() for user, n in (("u1", 1), ("u2", count - 1)) if n]
    total = sum(pages.values())
    groups: list[Row] = [*each, *((page, None, count) for page, count in pages.items())]
    groups += [(None, "u1", len(pages)), (None, "u2", total - len(pages)), (None, None, total)]
    return pl.DataFrame(
        [(date(day), *group) for group in groups],
        schema={"day": pl.Date, "page": pl.String, "user_id": pl.String, "visits": pl.Int64},
        orient="row",
    )


# The fifth and the sixth are equal, so are the second and the third: the first by name, whatever their order.
TIES = {"zoo": 4, "home": 9, "about": 2, "index": 4, "blog": 3, "contact": 2}
TOP = [(1, "home", 9), (2, "index", 4), (3, "zoo", 4), (4, "blog", 3), (5, "about", 2)]


def top(board: Dashboards, day: str = MONDAY) -> list[Row]:
    rows = [row for row in board.stored(top_pages) if row["day"] == date(day)]
    return sorted(map(itemgetter("rank", "page", "visits"), rows))


def test_the_top_pages_of_a_cube_are_ranked_and_ties_are_by_name(board: Dashboards) -> None:
    board.provide(VISITS_CUBE, pl.concat([cube(TIES), cube({"home": 5, "about": 7}, TUESDAY)]))
    for day in (MONDAY, TUESDAY):
        result = succeeded(board.run([top_pages.key], day))
        assert [check.passed for check in result.get_asset_check_evaluations()] == [True]
    assert top(board) == TOP
    assert top(board, TUESDAY) == [(1, "about", 7), (2, "home", 5)]
    succeeded(board.run_range([top_pages.key], MONDAY, TUESDAY))  # both at once, and again: the same
    assert (top(board), top(board, TUESDAY)) == (TOP, [(1, "about", 7), (2, "home", 5)])


def test_a_day_without_visits_has_no_top_pages(board: Dashboards) -> None:
    """The provider made the day, and it is empty, which is not the same as a day that is not there."""

    @dg.asset(
        key=VISITS_CUBE.key,
        partitions_def=VISITS_CUBE.partitions_def,
        metadata=VISITS_CUBE.metadata,
        io_manager_key="data_overwrite",
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def visits_cube() -> pl.DataFrame:
        return cube(TIES)

    succeeded(Platform(board.folder, [visits_cube]).run_range([visits_cube.key], MONDAY, TUESDAY))
    for day in (MONDAY, TUESDAY):
        succeeded(board.run([top_pages.key], day))
    assert (top(board), top(board, TUESDAY)) == (TOP, [])


def test_a_day_that_the_provider_has_not_made_is_no_empty_dashboard(board: Dashboards) -> None:
    (error,) = errors(board.run([top_pages.key], MONDAY))
    assert error.startswith("MissingTableError")
    board.provide(VISITS_CUBE, cube(TIES))
    (error,) = errors(board.run([top_pages.key], TUESDAY))
    assert error.startswith("MissingPartitionsError")
    assert not board.lake.joinpath(*top_pages.key.path).exists()


# What is promised -----------------------------------------------------------------------------------------------------


def test_columns_beyond_the_contract_may_come_and_go(board: Dashboards) -> None:
    board.provide(VISITS_CUBE, cube(TIES).with_columns(is_new=pl.lit(value=True)).select(pl.all().reverse()))
    succeeded(board.run([top_pages.key], MONDAY))
    assert top(board) == TOP
    assert set(board.stored(top_pages)[0]) == {"day", "rank", "page", "visits"}
    board.provide(VISITS_CUBE, cube(TIES))
    succeeded(board.run([top_pages.key], MONDAY))
    assert top(board) == TOP


@pytest.mark.parametrize(
    ("broken", "culprit"),
    [
        pytest.param(cube(TIES).drop("visits"), "visits", id="missing"),
        pytest.param(cube(TIES).rename({"page": "seite"}), "page", id="renamed"),
        pytest.param(cube(TIES).cast({"visits": pl.Int32}), "visits", id="smaller"),
        pytest.param(cube(TIES).cast({"visits": pl.Float64}), "visits", id="a fraction"),
        pytest.param(cube(TIES).cast({"visits": pl.String}), "visits", id="text"),
        pytest.param(cube(TIES).with_columns(visits=pl.lit(0, pl.Int64)), "visits", id="out of range"),
    ],
)
def test_a_cube_that_is_not_as_promised_is_refused(board: Dashboards, broken: pl.DataFrame, culprit: str) -> None:
    board.provide(VISITS_CUBE, broken)
    error = board.refused(top_pages, MONDAY)
    assert "aggregated/visits_cube" in error
    assert culprit in error
    assert not board.lake.joinpath(*top_pages.key.path).exists()
    board.provide(VISITS_CUBE, cube(TIES))
    succeeded(board.run([top_pages.key], MONDAY))
    board.provide(VISITS_CUBE, broken)
    board.refused(top_pages, MONDAY)
    assert top(board) == TOP


def test_prices_and_landed_flights_that_are_not_as_promised_are_refused(board: Dashboards) -> None:
    board.provide(AD_IMPRESSIONS, IMPRESSIONS)
    board.provide(AD_PRICES, pl.DataFrame({"ad_id": ["ad 1"], "cents": [1.5]}))
    assert "cents" in board.refused(ad_revenue)
    board.provide(AD_PRICES, pl.DataFrame({"ad_id": ["ad 1", "ad 1"], "cents": [1, 2]}))
    assert "partners/ad_prices" in board.refused(ad_revenue)  # two prices of one ad would count it twice
    board.provide(AD_PRICES, pl.DataFrame({"ad_id": ["ad 1"], "cents": [-1]}))
    assert "cents" in board.refused(ad_revenue)
    board.provide(RAW_FLIGHTS, landed({"a.csv": 1}).drop("source_file"))
    assert "source_file" in board.refused(arrivals, FLIGHT_DAY)


# Ad revenue: commits of a partner -------------------------------------------------------------------------------------


def shown(*ads: str, day: str = MONDAY) -> pl.DataFrame:
    rows = [(f"{day}-{n}", ad, date(day), 2) for n, ad in enumerate(ads)]
    return pl.DataFrame(
        rows, schema={"visit_id": pl.String, "ad_id": pl.String, "day": pl.Date, "cents": pl.Int64}, orient="row"
    )


IMPRESSIONS = pl.concat([shown("ad 1", "ad 2", "ad 1", "ad 4"), shown("ad 1", "ad 3", day=TUESDAY)])


def revenue(board: Dashboards) -> list[Row]:
    return sorted(map(itemgetter("ad_id", "impressions", "cents"), board.stored(ad_revenue)))


def test_every_day_is_priced_and_an_ad_without_a_price_brings_nothing_yet(board: Dashboards) -> None:
    board.provide(AD_IMPRESSIONS, IMPRESSIONS)
    write_prices(board.lake)
    succeeded(board.run([ad_revenue.key]))
    assert PRICES == {"ad 1": 12, "ad 2": 7, "ad 3": 30}
    assert revenue(board) == [("ad 1", 3, 36), ("ad 2", 1, 7), ("ad 3", 1, 30), ("ad 4", 1, 0)]


def test_without_a_table_of_prices_there_is_no_dashboard(board: Dashboards) -> None:
    board.provide(AD_IMPRESSIONS, IMPRESSIONS)
    (error,) = errors(board.run([ad_revenue.key]))
    assert error.startswith("MissingTableError")
    assert "partners/ad_prices" in error
    assert not board.lake.joinpath(*ad_revenue.key.path).exists()


def test_a_partner_who_takes_all_prices_away_leaves_the_dashboard_as_it_is(board: Dashboards) -> None:
    """Refused, because nobody can tell a table that was emptied from one that is not filled yet."""
    board.provide(AD_IMPRESSIONS, IMPRESSIONS)
    write_prices(board.lake)
    succeeded(board.run([ad_revenue.key]))
    before = revenue(board)
    DeltaTable(board.lake.joinpath(*AD_PRICES.key.path)).delete()
    (error,) = errors(board.run([ad_revenue.key]))
    assert "partners/ad_prices" in error
    assert revenue(board) == before


def test_where_no_ad_has_a_price_none_brings_anything(board: Dashboards) -> None:
    board.provide(AD_IMPRESSIONS, IMPRESSIONS)
    write_prices(board.lake, {"ad 9": 100})
    succeeded(board.run([ad_revenue.key]))
    assert revenue(board) == [("ad 1", 3, 0), ("ad 2", 1, 0), ("ad 3", 1, 0), ("ad 4", 1, 0)]


def test_a_price_of_an_ad_that_nobody_saw_brings_nothing(board: Dashboards) -> None:
    board.provide(AD_IMPRESSIONS, IMPRESSIONS)
    write_prices(board.lake, {"ad 9": 100, "ad 1": 1})
    succeeded(board.run([ad_revenue.key]))
    assert revenue(board) == [("ad 1", 3, 3), ("ad 2", 1, 0), ("ad 3", 1, 0), ("ad 4", 1, 0)]


def test_a_new_commit_of_the_partner_is_reported_and_the_next_run_prices_anew(board: Dashboards) -> None:
    sensor = delta_commit_sensor(AD_PRICES.key, board.lake.joinpath(*AD_PRICES.key.path))
    assert sensor.name == SENSORS[0].name
    instance, cursor = dg.DagsterInstance.ephemeral(), None
    board.instance = instance

    def reported() -> list[str]:
        """Data versions of the materializations that a look at the table yields."""
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor, sensor_name=sensor.name)
        tick: Any = sensor(context)
        if isinstance(tick, dg.SkipReason):
            return []
        cursor = tick.cursor
        for event in tick.asset_events:
            assert event.asset_key == AD_PRICES.key
            instance.report_runless_asset_event(event)
        return [event.tags["dagster/data_version"] for event in tick.asset_events]

    board.provide(AD_IMPRESSIONS, IMPRESSIONS)
    assert reported() == []
    write_prices(board.lake)
    assert reported() == ["0"]
    assert reported() == []
    succeeded(board.run([ad_revenue.key]))
    assert revenue(board)[0] == ("ad 1", 3, 36)
    write_prices(board.lake, {"ad 1": 20, "ad 4": 5})
    assert reported() == ["1"]
    assert revenue(board)[0] == ("ad 1", 3, 36)  # until the next run
    succeeded(board.run([ad_revenue.key]))
    assert revenue(board) == [("ad 1", 3, 60), ("ad 2", 1, 0), ("ad 3", 1, 0), ("ad 4", 1, 5)]
    DeltaTable(board.lake.joinpath(*AD_PRICES.key.path)).optimize.compact()
    assert reported() == []


def test_the_partner_knows_delta_lake_alone() -> None:
    """What is written is a table of delta-rs with nothing of this platform in its log."""
    imported = {name for name in vars(partner) if getattr(vars(partner)[name], "__module__", "").startswith("pattern_")}
    assert imported == {"write_prices"}


# Arrivals: after a job of another location ----------------------------------------------------------------------------


def landed(lines: Mapping[str, int], day: str = FLIGHT_DAY) -> pl.DataFrame:
    """Landed lines of flights, as the other team stores them."""
    start = FLIGHT_DAYS.time_window_for_partition_key(day).start.astimezone(dt.UTC)
    rows = [(start, file, number + 1) for file, count in lines.items() for number in range(count)]
    frame = pl.DataFrame(rows, schema=INGESTION_SCHEMA, orient="row")
    return frame.with_columns(pl.lit("x").alias(name) for name in DATASETS["flights"].header)


def test_arrivals_count_the_lines_of_each_file_of_a_day_of_new_york(board: Dashboards) -> None:
    days = [landed({"a.csv": 3, "b.csv": 1}), landed({"c.csv": 2}, "2013-01-03")]
    board.provide(RAW_FLIGHTS, pl.concat(days))
    result = succeeded(board.run([arrivals.key], FLIGHT_DAY))
    assert [check.passed for check in result.get_asset_check_evaluations()] == [True]
    start = dt.datetime(2013, 1, 2, 5, tzinfo=dt.UTC)
    found = sorted(map(itemgetter("day", "file", "lines"), board.stored(arrivals)))
    assert found == [(start, "a.csv", 3), (start, "b.csv", 1)]
    before = board.stored(arrivals)
    succeeded(board.run([arrivals.key], FLIGHT_DAY))
    assert board.stored(arrivals) == before


def test_a_file_that_is_there_twice_is_found(board: Dashboards) -> None:
    """The negative control of the check."""
    board.provide(RAW_FLIGHTS, landed({"a.csv": 3}))
    succeeded(board.run([arrivals.key], FLIGHT_DAY))
    table = board.lake.joinpath(*arrivals.key.path)
    write_deltalake(table, DeltaTable(table).to_pyarrow_table(), mode="append")
    assert not board.evaluate(CHECKS[1], FLIGHT_DAY).passed


# IS-7: either location stands without the other -----------------------------------------------------------------------

LOAD = """
import sys
from importlib.abc import MetaPathFinder

class Gone(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        for package in sys.argv[2:]:
            if name == package or name.startswith(package + "."):
                raise ImportError(f"{name} is not deployed here")

sys.meta_path.insert(0, Gone())
import importlib
import dagster as dg
defs = importlib.import_module(sys.argv[1]).defs
dg.Definitions.validate_loadable(defs)
print(*sorted(spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()))
"""
HERE, THERE = "pattern_platform.dashboards", ("pattern_platform.visits", "pattern_platform.flights")


def load(location: str, *without: str) -> subprocess.CompletedProcess[str]:
    """Load a code location in a fresh interpreter, in which some packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, location, *without],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_is_7_the_dashboards_load_where_the_other_team_is_not_deployed() -> None:
    loaded = load(f"{HERE}.definitions", *THERE, "pattern_platform.definitions", "pattern_platform.resources")
    assert loaded.returncode == 0, loaded.stderr
    expected = [spec.key.to_user_string() for spec in consumer.defs.resolve_all_asset_specs()]
    assert loaded.stdout.split() == sorted(expected)


def test_is_7_the_platform_loads_where_the_dashboards_are_not_deployed() -> None:
    loaded = load("pattern_platform.definitions", HERE)
    assert loaded.returncode == 0, loaded.stderr
    expected = [spec.key.to_user_string() for spec in provider.defs.resolve_all_asset_specs()]
    assert loaded.stdout.split() == sorted(expected)


def test_is_7_a_package_that_is_not_deployed_is_missed_by_who_needs_it() -> None:
    """The negative control."""
    loaded = load(f"{HERE}.definitions", f"{HERE}.contract")
    assert loaded.returncode == 1
    assert f"{HERE}.contract is not deployed here" in loaded.stderr


# The coupling by name, made visible -----------------------------------------------------------------------------------


def columns(schema: type[dy.Schema]) -> dict[str, tuple[pl.DataType, bool]]:
    """Type of each column, and whether it may be null."""
    return {name: (column.dtype, column.nullable) for name, column in schema.columns().items()}


def rules_of(schema: type[dy.Schema], names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(schema.columns()[name], "min", None) for name in names}


def test_what_is_relied_on_is_part_of_what_is_promised() -> None:
    relied, promised = columns(contract.VisitsCube), columns(visits_contract.VisitsCube)
    assert relied.items() <= promised.items()
    assert rules_of(contract.VisitsCube, relied) == rules_of(visits_contract.VisitsCube, relied)


def described(key: dg.AssetKey) -> dict[str, str | None]:
    """The columns that the provider describes."""
    (spec,) = (spec for spec in provider.defs.resolve_all_asset_specs() if spec.key == key)
    return {column.name: column.type for column in spec.metadata["dagster/column_schema"].columns}


def test_what_is_relied_on_of_the_other_tables_is_what_their_owners_describe() -> None:
    assert {*columns(contract.AdImpression)} <= {*described(AD_IMPRESSIONS.key)}
    raw = raw_schema(DATASETS["flights"])
    assert {name: raw.get(name) for name in columns(contract.LandedFlight)} == pl.Schema(contract.LandedFlight)
    assert {*described(RAW_FLIGHTS.key)} == {*raw}
    assert ad_impressions.key == AD_IMPRESSIONS.key


def test_the_partitions_declared_here_are_those_of_the_provider() -> None:
    theirs = {spec.key: spec for spec in provider.defs.resolve_all_asset_specs()}
    ours = [spec for spec in PROVIDED if spec.key in theirs]
    assert [spec.key for spec in PROVIDED if spec not in ours] == [AD_PRICES.key]  # the partner's, who is outside
    assert {spec.key: spec.partitions_def for spec in ours} == {s.key: theirs[s.key].partitions_def for s in ours}
    for spec in ours:
        assert spec.metadata["partition_expr"] == theirs[spec.key].metadata["partition_expr"], spec.key
        assert spec.partitions_def is not None


def test_the_tables_declared_here_are_stored_where_the_provider_stores_them() -> None:
    """Either side names the IO manager; both must mean the same files."""
    assert consumer.defs.resources is not None
    assert provider.defs.resources is not None
    ours, theirs = consumer.defs.resources["data_overwrite"], provider.defs.resources["data_overwrite"]
    assert ours.root_uri == theirs.root_uri
    roots = {getattr(resource, "root_uri", None) for resource in delta_tables(Settings()).values()}
    assert roots == {ours.root_uri}


def test_the_job_that_is_followed_is_there_and_has_the_same_partitions() -> None:
    (followed,) = SENSORS[1]._monitored_jobs
    assert (followed.job_name, followed.repository_name) == ("ingest_flights", "__repository__")
    job = provider.defs.resolve_job_def(followed.job_name)
    assert job.partitions_def == FLIGHT_DAYS == consumer.defs.resolve_job_def(COUNT_ARRIVALS.name).partitions_def
    assert RAW_FLIGHTS.key in job.asset_layer.executable_asset_keys
    locations = yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())["load_from"]
    modules = {place["python_module"]["location_name"]: place["python_module"]["module_name"] for place in locations}
    assert modules[followed.location_name] == provider.__name__
    assert modules["dashboards"] == consumer.__name__ == f"{package.__name__}.definitions"


@pytest.mark.parametrize(
    ("tags", "days"),
    [
        ({"dagster/partition": FLIGHT_DAY}, [FLIGHT_DAY]),
        (range_tags("2013-01-01", "2013-01-03"), ["2013-01-01", "2013-01-02", "2013-01-03"]),
    ],
)
def test_a_run_that_is_followed_requests_its_days(tags: dict[str, str], days: list[str]) -> None:
    instance = dg.DagsterInstance.ephemeral()
    job = provider.defs.resolve_job_def("ingest_flights")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS, tags=tags)
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job.name)
    context = dg.build_run_status_sensor_context(SENSORS[1].name, event, instance, run)
    requests: list[Any] = list(SENSORS[1](context))
    assert [request.partition_key for request in requests] == days
    assert {request.tags[UPSTREAM_RUN] for request in requests} == {run.run_id}
    assert len({request.run_key for request in requests}) == len(days)
