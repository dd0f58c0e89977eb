"""The catalogue: what it says of every table, that the real one lacks nothing, that it is read without a network."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner

from pattern_platform import DataOverwriteIOManager, PatternPlatformError
from pattern_platform.cli import app
from pattern_platform.errors import CatalogueError
from pattern_platform.lake.maintenance import compact
from pattern_platform.operations.catalogue.dictionary import HEADER, data_dictionary
from pattern_platform.operations.catalogue.entries import catalogue_entries
from pattern_platform.operations.catalogue.entry import Column, Entry
from pattern_platform.operations.catalogue.picture import lineage_picture
from pattern_platform.operations.catalogue.site import page_of, pages, write_site

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

DAYS = dg.DailyPartitionsDefinition("2024-05-06", end_date="2024-05-16")
AT = datetime(2024, 5, 20, 12, 30, tzinfo=UTC)
TEMPERATURES = dg.TableSchema(
    columns=[
        dg.TableColumn("day", description="The day, in UTC.", constraints=dg.TableColumnConstraints(nullable=False)),
        dg.TableColumn("degrees", "Float64", "The mean of the day.", tags={"unit": "°C"}),
        dg.TableColumn("reader", description="Who read it.", tags={"personal_data": "true"}),
    ]
)


@dg.asset(
    key=["raw", "temperatures"],
    description="A row for each day, <b>as read</b>.",
    group_name="weather",
    owners=["team:weather", "ada@example.org"],
    kinds={"polars", "deltalake"},
    tags={"pattern_platform/pattern": "data_overwrite"},
    partitions_def=DAYS,
    io_manager_key="delta",
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=2), warn_window=timedelta(hours=26)),
    metadata={
        "partition_expr": "day",
        "dagster/column_schema": TEMPERATURES,
        "pattern_platform/contract": "degrees: between -90 and 60",
        "pattern_platform/retention_days": 30,
    },
)
def temperatures(context) -> pl.DataFrame:  # noqa: ANN001 - Dagster does not resolve a quoted annotation
    """A day."""
    day = datetime.fromisoformat(context.partition_key).date()
    return pl.DataFrame({"day": [day], "degrees": [12.5], "reader": ["ada"], "station": [1]})


@dg.asset(
    key=["clean", "temperatures"],
    description="The same, smoothed with the day before.",
    group_name="weather",
    owners=["team:weather"],
    partitions_def=DAYS,
    io_manager_key="delta",
    deps=[
        temperatures,
        dg.AssetDep(
            ["clean", "temperatures"],
            partition_mapping=dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1),
        ),
    ],
    metadata={"partition_expr": "day", "dagster/column_schema": dg.TableSchema([dg.TableColumn("day")])},
)
def smoothed() -> pl.DataFrame:
    """It has a column that nobody describes."""
    return pl.DataFrame()


@dg.asset(deps=[smoothed])
def upkeep() -> None:
    """No table."""


@dg.asset_check(asset=temperatures, blocking=True, description="It is never hotter than 60 °C.")
def not_too_hot() -> dg.AssetCheckResult:
    """It passes."""
    return dg.AssetCheckResult(passed=True)


FORECAST = dg.AssetSpec(
    ["forecast"],
    description="What others make of it.",
    group_name="guests",
    owners=["team:guests"],
    deps=[dg.AssetKey(["clean", "temperatures"])],
    metadata={"dagster/column_schema": dg.TableSchema([dg.TableColumn("day", description="The day.")])},
    freshness_policy=dg.FreshnessPolicy.cron("0 3 * * *", timedelta(hours=1), timezone="Europe/Berlin"),
)
OURS = dg.Definitions([temperatures, smoothed, upkeep], asset_checks=[not_too_hot])
THEIRS = dg.Definitions([FORECAST, dg.AssetSpec(["raw", "temperatures"], partitions_def=DAYS)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """The catalogue after two days, a compaction, and a writer that nobody knows."""
    lake, instance = tmp_path_factory.mktemp("lake"), dg.DagsterInstance.ephemeral()
    resources = {"delta": DataOverwriteIOManager(root_uri=str(lake))}
    for day in ("2024-05-06", "2024-05-07"):
        assert dg.materialize([temperatures], partition_key=day, instance=instance, resources=resources).success
    table = lake / "raw" / "temperatures"
    compact(table)
    write_deltalake(table, DeltaTable(table).to_pyarrow_table().slice(0, 1), mode="append")
    return catalogue_entries([OURS, THEIRS], instance, lake)


def entry(entries: list[Entry], key: str) -> Entry:
    (found,) = [entry for entry in entries if entry.key == key]
    return found


# What is said of a table ----------------------------------------------------------------------------------------------


def test_an_entry_says_what_its_definition_says() -> None:
    found = entry(catalogue_entries([OURS, THEIRS]), "raw/temperatures")
    assert found.description == "A row for each day, <b>as read</b>."
    assert (found.group, found.owners) == ("weather", ("team:weather", "ada@example.org"))
    assert (found.pattern, found.kinds) == ("data_overwrite", ("deltalake", "polars"))
    assert found.partitions == "Daily, starting 2024-05-06 UTC"
    assert (found.contract, found.retention_days) == ("degrees: between -90 and 60", 30)
    assert found.freshness == "late after 2 d, warns after 1 d 2 h"
    assert [(check.name, check.blocking) for check in found.checks] == [("not_too_hot", True)]
    assert found.columns == (
        Column("day", "", "The day, in UTC.", constraints=("never null",)),
        Column("degrees", "Float64", "The mean of the day.", "°C"),
        Column("reader", "", "Who read it.", is_personal=True),
    )
    assert found.is_personal
    assert (found.made_at, found.partitions_made, found.versions, found.uri) == (None, None, (), "")


def test_lineage_crosses_the_locations() -> None:
    raw, clean, forecast = (
        entry(catalogue_entries([THEIRS, OURS]), key) for key in ("raw/temperatures", "clean/temperatures", "forecast")
    )
    assert (raw.upstream, raw.downstream, raw.rests_on_itself) == ((), ("clean/temperatures",), False)
    assert (clean.upstream, clean.downstream) == (("raw/temperatures",), ("forecast",))
    assert clean.rests_on_itself
    assert forecast.upstream == ("clean/temperatures",)


def test_the_location_that_makes_a_table_describes_it_and_upkeep_is_none() -> None:
    entries = catalogue_entries([THEIRS, OURS])
    assert [found.key for found in entries] == ["clean/temperatures", "forecast", "raw/temperatures"]
    assert entry(entries, "raw/temperatures").owners == ("team:weather", "ada@example.org")
    assert entries == catalogue_entries([OURS, THEIRS])
    assert entry(entries, "forecast").freshness == "made within 1 h before each '0 3 * * *' (Europe/Berlin)"


def test_what_was_made_is_told_with_its_types(made: list[Entry]) -> None:
    found = entry(made, "raw/temperatures")
    assert found.made_at is not None
    assert abs(found.made_at - datetime.now(UTC)) < timedelta(minutes=10)
    assert found.partitions_made == 2
    assert found.uri.endswith("raw/temperatures")
    assert [(column.name, column.type, column.unit) for column in found.columns] == [
        ("day", "Date", ""),
        ("degrees", "Float64", "°C"),
        ("reader", "String", ""),
        ("station", "Int64", ""),  # stored, and declared by nobody
    ]
    assert found.gaps == ["raw/temperatures: column 'station' has no description"]


def test_the_last_five_versions_are_told_with_who_made_them(made: list[Entry]) -> None:
    versions = entry(made, "raw/temperatures").versions
    numbers = [version.version for version in versions]
    assert numbers == sorted(numbers, reverse=True)
    assert len(versions) <= 5
    foreign, upkeep_, *runs = versions
    assert (foreign.rows, foreign.run_id, foreign.changes_rows) == (3, "", True)
    assert (upkeep_.rows, upkeep_.run_id, upkeep_.changes_rows) == (2, "", False)
    assert runs[0].rows == 2
    assert runs[0].run_id
    assert runs[0].at <= upkeep_.at <= foreign.at


# Nothing is missing ---------------------------------------------------------------------------------------------------


def test_every_table_of_the_platform_is_described() -> None:
    from pattern_platform.dashboards.definitions import defs as dashboards  # noqa: PLC0415
    from pattern_platform.definitions import defs as platform  # noqa: PLC0415

    entries = catalogue_entries([platform, dashboards])
    assert {"raw/visits", "clean/flights", "dashboards/top_pages", "partners/ad_prices"} <= {e.key for e in entries}
    assert [gap for found in entries for gap in found.gaps] == []


def test_a_column_without_a_description_is_a_gap() -> None:
    """The negative control."""
    found = entry(catalogue_entries([OURS, THEIRS]), "clean/temperatures")
    assert found.gaps == ["clean/temperatures: column 'day' has no description"]
    bare = Entry(key="a", description="", group="default", owners=())
    assert bare.gaps == [f"a has no {lack}" for lack in ("description", "owner", "pattern or group", "columns")]


# The site -------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page refers to, and what it says."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.said = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_same_catalogue_is_the_same_site(made: list[Entry]) -> None:
    assert pages(made, AT) == pages(list(made), AT)
    assert pages(made, AT) != pages(made, AT + timedelta(minutes=1))
    assert "Generated 2024-05-20 12:30 UTC" in pages(made, AT)["index.html"]


def test_the_site_refers_to_its_own_pages_alone(made: list[Entry]) -> None:
    files = pages(made, AT)
    assert set(files) == {"index.html", "dictionary.csv", *(f"tables/{page_of(found.key)}" for found in made)}
    for name, content in files.items():
        assert "://" not in content, name
        assert not re.search(r"@import|url\(|<link|<iframe", content), name
        for link in Page(content).links if name.endswith(".html") else ():
            target = "index.html" if link == "../index.html" else unquote(link)
            folder = "tables/" if name.startswith("tables/") and target != "index.html" else ""
            assert folder + target in files, (name, link)


def test_a_page_says_what_the_entry_says_and_runs_none_of_it(made: list[Entry]) -> None:
    files = pages(made, AT)
    page = Page(files["tables/raw.temperatures.html"])
    for text in ("<b>as read</b>", "team:weather, ada@example.org", "°C", "personal data", "30 days", "another writer"):
        assert text in page.said
    for text in ("upkeep; no row changed", "between -90 and 60", "not_too_hot", "late after 2 d", "2 made"):
        assert text in page.said
    assert {"b", "script"} & set(page.tags) == set()
    index = Page(files["index.html"])
    assert "3 tables" in " ".join(index.said.split())
    assert "2 gaps in what is described" in index.said
    assert "each rests on an earlier one" in Page(files["tables/clean.temperatures.html"]).said


def test_any_key_has_a_page_of_its_own() -> None:
    keys = ["a/b", "a.b", "a b", "../../etc/passwd", "ä", 'x"><script>', "a~b"]
    entries = [Entry(key=key, description=key, group="g", owners=("team:x",)) for key in keys]
    files = pages(entries, AT)
    assert len(files) == len(keys) + 2
    assert all(re.fullmatch(r"tables/[A-Za-z0-9_.~-]+", name) for name in files if name.startswith("tables/"))
    assert ".." not in "".join(files)
    assert Page(files["index.html"]).tags.count("script") == 1  # the search


def test_the_picture_shows_all_that_a_table_rests_on_and_ends_in_a_circle() -> None:
    def linked(key: str, upstream: str, downstream: str) -> Entry:
        return Entry(key, key, "g", ("t",), upstream=tuple(upstream), downstream=tuple(downstream))

    entries = {e.key: e for e in (linked("b", "a", "cd"), linked("c", "b", "d"), linked("d", "bc", ""))}
    picture = lineage_picture("b", entries)
    x = {box.key: box.x for box in picture.boxes}
    assert x["a"] < x["b"] < x["c"] < x["d"]
    assert [box.key for box in picture.boxes if not box.is_entry] == ["a"]
    assert len(picture.curves) == 4
    assert all(box.x >= 0 and box.x + picture.box_width <= picture.width for box in picture.boxes)
    circle = {e.key: e for e in (linked("a", "c", "b"), linked("b", "a", "c"), linked("c", "b", "a"))}
    assert {box.key for box in lineage_picture("a", circle).boxes} == {"a", "b", "c"}


def test_the_dictionary_has_a_line_for_each_column(made: list[Entry]) -> None:
    awkward = replace(made[0], description='a "quoted", text\nof two lines')
    lines = list(csv.DictReader(io.StringIO(data_dictionary([awkward, *made[1:]]))))
    assert len(lines) == sum(len(found.columns) for found in made)
    assert tuple(lines[0]) == HEADER
    assert lines[0]["table_description"] == awkward.description
    (degrees,) = [line for line in lines if line["column"] == "degrees"]
    assert (degrees["type"], degrees["unit"], degrees["personal_data"]) == ("Float64", "°C", "no")
    assert (degrees["owners"], degrees["retention_days"]) == ("team:weather ada@example.org", "30")
    assert {line["column"] for line in lines if line["personal_data"] == "yes"} == {"reader"}


# The folder -----------------------------------------------------------------------------------------------------------


def written(folder: Path) -> dict[str, str]:
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found.pop(".pattern-platform-catalogue").splitlines() == sorted(found)
    return found


def test_a_site_replaces_an_earlier_one_with_the_pages_of_tables_that_are_gone(
    made: list[Entry], tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "site"
    write_site(folder, pages(made, AT))
    assert written(folder) == pages(made, AT)
    write_site(folder, pages(made[:1], AT))
    assert written(folder) == pages(made[:1], AT)


def refused(folder: Path, why: str) -> CatalogueError:
    with pytest.raises(CatalogueError, match=why) as error:
        write_site(folder, {"index.html": "new"})
    return error.value


def test_a_folder_of_others_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert "folder of its own" in refused(tmp_path, "1 file.* that no catalogue wrote: 'mine.txt'").mend
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_beside_an_earlier_site_is_not_lost(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    write_site(folder, {"index.html": "old", "tables/a.html": "a"})
    (folder / "tables" / "notes.html").write_text("by hand")
    refused(folder, "'tables/notes.html'")
    assert (folder / "index.html").read_text() == "old"


def test_an_output_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    assert "does not exist yet" in refused(tmp_path / "file", "it is a file").mend
    assert "can be written to" in refused(tmp_path / "file" / "site", "cannot be written").mend
    (tmp_path / "site" / "index.html").mkdir(parents=True)
    refused(tmp_path / "site", "cannot be written: Is a directory")
    assert (tmp_path / "file").read_text() == "keep"


def test_a_table_whose_log_is_damaged_is_named(tmp_path: Path) -> None:
    resources = {"delta": DataOverwriteIOManager(root_uri=str(tmp_path))}
    assert dg.materialize([temperatures], partition_key="2024-05-06", resources=resources).success
    log = tmp_path / "raw" / "temperatures" / "_delta_log"
    (log / f"{DeltaTable(log.parent).version() + 1:020}.json").write_text('{"add": {"path')
    with pytest.raises(PatternPlatformError, match="'temperatures' was refused") as error:
        catalogue_entries([OURS], lake=tmp_path)
    assert "backup" in str(error.value)


# The command ----------------------------------------------------------------------------------------------------------


def ran(*arguments: str, **environment: Any) -> Result:
    return CliRunner().invoke(app, ["catalogue", *arguments], env={"COLUMNS": "200", "DAGSTER_HOME": "", **environment})


def test_the_command_writes_the_site_of_both_locations(tmp_path: Path) -> None:
    result = ran("--output", str(tmp_path / "site"), "--generated-at", "2024-05-20T12:30")
    assert result.exit_code == 0, result.output
    assert "tables are described in" in result.output
    assert "gap" not in result.output
    site = written(tmp_path / "site")
    assert {"tables/raw.visits.html", "tables/dashboards.top_pages.html", "dictionary.csv"} <= set(site)
    assert "Generated 2024-05-20 12:30 UTC" in site["index.html"]


def test_the_command_refuses_what_it_cannot_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    result = ran("--output", str(tmp_path / "file"))
    assert result.exit_code == 1
    assert "it is a file" in result.output
    assert "name a folder" in result.output


@pytest.mark.parametrize("moment", ["yesterday", "2024-05-20", "2024-13-01T00:00"])
def test_the_command_refuses_what_is_no_moment(moment: str, tmp_path: Path) -> None:
    result = ran("--output", str(tmp_path / "site"), "--generated-at", moment)
    assert result.exit_code == 2
    assert "%Y-%m-%dT%H:%M" in result.output
    assert not (tmp_path / "site").exists()
