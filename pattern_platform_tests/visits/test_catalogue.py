"""What others read: versions that passed their audits, behind names that are moved, and what a person does by hand."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.commands.console import console
from pattern_platform.lake.maintenance import vacuum
from pattern_platform.visits import assets as visits
from pattern_platform.visits import catalogue as module
from pattern_platform.visits import device_updates, devices
from pattern_platform.visits.catalogue import CHECKS, MAINTENANCE, PUBLISHED_CATALOGUE, PUBLISHED_CUBE, device_catalogue
from pattern_platform_tests.platform import Platform, errors, told
from pattern_platform_tests.visits.blog import (
    MONDAY,
    TUESDAY,
    assets_of,
    copied,
    correct,
    cube_by_hand,
    fewer,
    run,
    succeeded,
)

if TYPE_CHECKING:
    from pathlib import Path

PARTS = (visits, devices, module)
IDENTIFIED, CUBE_ADDS_UP, CATALOGUE_SHOWN, CUBE_SHOWN = CHECKS
OF_CATALOGUE, OF_CUBE = MAINTENANCE
LOADING, CATALOGUE, CUBE = device_catalogue.key, PUBLISHED_CATALOGUE.key, PUBLISHED_CUBE.key
RELEASE = [LOADING, CATALOGUE]
DEVICES = [key for definition in devices.ASSETS for key in definition.keys]
ALL_DAYS = [day.isoformat() for day in device_updates.DAYS]
CORRECTED = device_updates.CORRECTED_DAY.isoformat()
FIELDS = ("id", "brand_name", "full_name", "processor_brand")
Rows = list[tuple[Any, ...]]


# Devices --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    shop = Platform(folder, assets_of([devices]))
    device_updates.write_days(shop.landing)
    succeeded(shop.run_range(DEVICES, ALL_DAYS[0], ALL_DAYS[-1]))
    return folder


def released(folder: Path, to: Path) -> Platform:
    shop = copied(folder, to, [devices, module])
    succeeded(shop.run(RELEASE))  # in the copy: a view names the files of its version by their path
    return shop


@pytest.fixture
def shop(tmp_path: Path, _shop: Path) -> Platform:
    """All days of devices as they were delivered first, and the first version of the catalogue."""
    return released(_shop, tmp_path)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, _shop: Path) -> Platform:
    """The same, shared by the tests of what is refused and changes nothing."""
    return released(_shop, tmp_path_factory.mktemp("untouched"))


def correct_devices(shop: Platform) -> None:
    """Deliver a day again, and replay it with those that follow it."""
    device_updates.write_correction(shop.landing)
    succeeded(shop.run_range(DEVICES, CORRECTED, ALL_DAYS[-1]))


def expected_devices(*, corrected: bool = False) -> Rows:
    """The devices after all days, one update after the other."""
    found: dict[str, tuple[Any, ...]] = {}
    for day, updates in device_updates.DAYS.items():
        taken = device_updates.CORRECTION if corrected and day == device_updates.CORRECTED_DAY else updates
        for device, *values, deleted in taken:
            found.pop(device, None)
            if deleted == "false":
                found[device] = (device, *(value or None for value in values))
    return sorted(found.values())


def catalogue(shop: Platform) -> Rows:
    rows = shop.sql("catalogue", "FROM catalogue.published.device_catalogue")
    assert tuple(rows.columns) == FIELDS
    return sorted(rows.rows())


def shown(shop: Platform, view: str = "device_catalogue") -> list[tuple[int, str]]:
    """The versions that a view showed, and what was done."""
    return shop.sql("catalogue", f"FROM catalogue.published.{view}__publications SELECT version, action").rows()


def versions(shop: Platform, table: str = "internal.device_catalogue") -> list[int]:
    """Those that are not removed."""
    rows = shop.sql("catalogue", f"FROM catalogue.{table}__versions WHERE removed_at IS NULL ORDER BY version")
    return rows["version"].to_list()


def manifest(shop: Platform, view: str = "device_catalogue") -> list[str]:
    return (shop.lake / f"published/{view}/_symlink_format_manifest/manifest").read_text().splitlines()


def spoil(shop: Platform) -> None:
    """A device that is there twice, as nobody of the platform would have written it."""
    table = shop.lake / "clean/devices"
    write_deltalake(table, DeltaTable(table).to_pyarrow_table().slice(0, 1), mode="append")


def test_the_catalogue_is_the_devices_as_they_are(shop: Platform) -> None:
    assert catalogue(shop) == expected_devices()
    correct_devices(shop)
    assert catalogue(shop) == expected_devices()
    result = shop.run(RELEASE)
    assert told(result, CATALOGUE)["proxy/version"] == 2
    assert {e.check_name for e in result.get_asset_check_evaluations()} == {
        "devices_are_identified",
        "shows_its_version",
    }
    assert catalogue(shop) == expected_devices(corrected=True)
    assert sorted(pl.read_parquet(manifest(shop)).select(FIELDS).rows()) == expected_devices(corrected=True)


def test_the_catalogue_twice(shop: Platform) -> None:
    """X-2: a load is a version of its own, and the rows are the same; a publication alone changes nothing."""
    succeeded(shop.run(RELEASE))
    assert versions(shop) == [1, 2]
    assert catalogue(shop) == expected_devices()
    files, before = manifest(shop), shown(shop)
    assert told(shop.run([CATALOGUE]), CATALOGUE)["proxy/action"] == "none: it was shown already"
    assert (manifest(shop), shown(shop)) == (files, before)


def test_a_load_that_fails_its_audit_is_not_shown(shop: Platform) -> None:
    spoil(shop)
    files = manifest(shop)
    result = shop.run(RELEASE)
    assert not result.success
    assert versions(shop) == [1, 2]
    for attempt in (shop.run([CATALOGUE]), shop.run([CATALOGUE], config={PUBLISHED_CATALOGUE.op.name: {"version": 2}})):
        (error,) = errors(attempt)
        assert error.startswith("UnauditedVersionError")
        assert "'devices_are_identified'" in error
        assert (catalogue(shop), manifest(shop), shown(shop)) == (expected_devices(), files, [(1, "publish")])
    assert not shop.evaluate(IDENTIFIED).passed
    assert shop.evaluate(CATALOGUE_SHOWN).passed


def test_an_empty_catalogue_fails_its_audit(shop: Platform) -> None:
    DeltaTable(shop.lake / "clean/devices").delete()
    assert not shop.run(RELEASE).success
    assert catalogue(shop) == expected_devices()


def test_a_roll_back_by_the_config_of_a_run(shop: Platform) -> None:
    correct_devices(shop)
    succeeded(shop.run(RELEASE))
    back = shop.run([CATALOGUE], config={PUBLISHED_CATALOGUE.op.name: {"version": 1}})
    assert told(back, CATALOGUE)["proxy/action"] == "roll back"
    assert catalogue(shop) == expected_devices()
    assert sorted(pl.read_parquet(manifest(shop)).select(FIELDS).rows()) == expected_devices()
    assert shop.evaluate(CATALOGUE_SHOWN).passed
    assert told(shop.run([CATALOGUE]), CATALOGUE)["proxy/action"] == "roll back"  # to the newest, shown before
    assert catalogue(shop) == expected_devices(corrected=True)
    assert shown(shop) == [(1, "publish"), (2, "publish"), (1, "roll back"), (2, "roll back")]


@pytest.mark.parametrize("version", [0, 7, -1])
def test_a_version_that_never_was_is_not_shown(untouched: Platform, version: int) -> None:
    (error,) = errors(untouched.run([CATALOGUE], config={PUBLISHED_CATALOGUE.op.name: {"version": version}}))
    assert error.startswith("MissingVersionError")
    assert catalogue(untouched) == expected_devices()
    assert shown(untouched) == [(1, "publish")]


def test_config_of_another_kind_is_refused_before_anything_runs(untouched: Platform) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError):
        untouched.run([CATALOGUE], config={PUBLISHED_CATALOGUE.op.name: {"version": "one"}})
    with pytest.raises(dg.DagsterInvalidConfigError):
        untouched.run([OF_CATALOGUE.key], config={OF_CATALOGUE.op.name: {"keeps": 1}})


def test_a_view_that_shows_something_else_is_found(shop: Platform) -> None:
    """The negative control of what a view is checked for."""
    assert shop.evaluate(CATALOGUE_SHOWN).passed
    shop.execute("catalogue", "CREATE OR REPLACE VIEW catalogue.published.device_catalogue AS SELECT 'x' AS id")
    assert not shop.evaluate(CATALOGUE_SHOWN).passed


# Retention and legal holds --------------------------------------------------------------------------------------------


def typed(shop: Platform, *arguments: str, exit_code: int = 0) -> str:
    """What the command says, on one line: how wide a terminal is, is another matter."""
    console.width = 400
    told_ = CliRunner().invoke(app, arguments, env={"PATTERN_PLATFORM_DATA": str(shop.folder)})
    assert told_.exit_code == exit_code, told_.output
    return " ".join(told_.output.split())


def retain(shop: Platform, retention: dg.AssetsDefinition, **config: Any) -> dict[str, Any]:
    result = shop.run([retention.key], config={retention.op.name: config})
    return told(result, retention.key)


def test_old_versions_go_but_what_is_shown_or_held(shop: Platform) -> None:
    for _ in range(3):
        succeeded(shop.run(RELEASE))
    tables = {file.name for file in (shop.lake / "internal/device_catalogue").iterdir() if file.is_dir()}
    assert len(tables) == 4
    assert retain(shop, OF_CATALOGUE)["proxy/removed"] == []  # none of them is old
    shop.run([CATALOGUE], config={PUBLISHED_CATALOGUE.op.name: {"version": 2}})
    said = typed(shop, "hold", "internal/device_catalogue", "1", "--reason", "case 17")
    assert said == "version 1 of internal/device_catalogue is on hold: case 17"

    told_ = retain(shop, OF_CATALOGUE, keep=1, days=0)
    assert (told_["proxy/removed"], told_["proxy/under_legal_hold"]) == ([3], [1])
    assert versions(shop) == [1, 2, 4]
    assert len([*(shop.lake / "internal/device_catalogue").glob("*/_delta_log")]) == 3
    assert catalogue(shop) == expected_devices()

    assert typed(shop, "release", "internal/device_catalogue", "1").endswith("is not on hold")
    assert retain(shop, OF_CATALOGUE, keep=1, days=0)["proxy/removed"] == [1]
    assert versions(shop) == [2, 4]


def test_the_versions_behind_a_name_are_listed(shop: Platform) -> None:
    succeeded(shop.run(RELEASE))
    typed(shop, "hold", "internal/device_catalogue", "2", "--reason", "case 17")
    shop.run([CATALOGUE], config={PUBLISHED_CATALOGUE.op.name: {"version": 1}})
    said = typed(shop, "published", "published/device_catalogue")
    assert "published/device_catalogue, versions of internal/device_catalogue" in said
    assert "shown is version 1, since" in said
    assert "(roll back)" in said
    assert "case 17" in said
    assert "devices_are_identified" in said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("hold", "internal/device_catalogue", "7", "--reason", "x"), "never loaded"),
        (("release", "internal/device_catalogue", "0"), "never loaded"),
        (("hold", "internal/other", "1", "--reason", "x"), "never loaded"),
        (("published", "published/other"), "nothing was published"),
        (("published", "internal/device_catalogue"), "nothing was published"),
    ],
)
def test_what_the_commands_refuse(untouched: Platform, arguments: tuple[str, ...], why: str) -> None:
    before = untouched.sql("catalogue", "SHOW ALL TABLES")["name"].to_list()
    said = typed(untouched, *arguments, exit_code=1)
    assert "refused" in said
    assert why in said
    assert untouched.sql("catalogue", "SHOW ALL TABLES")["name"].to_list() == before
    assert versions(untouched) == [1]


def test_a_removed_version_is_neither_held_nor_shown(shop: Platform) -> None:
    succeeded(shop.run(RELEASE))
    assert retain(shop, OF_CATALOGUE, keep=1, days=0)["proxy/removed"] == [1]
    assert "it was removed" in typed(shop, "hold", "internal/device_catalogue", "1", "--reason", "x", exit_code=1)
    (error,) = errors(shop.run([CATALOGUE], config={PUBLISHED_CATALOGUE.op.name: {"version": 1}}))
    assert error.startswith("MissingVersionError")


def test_commands_before_anything_was_published_make_nothing(tmp_path: Path) -> None:
    for arguments in (("published", "published/device_catalogue"), ("release", "internal/device_catalogue", "1")):
        ran = CliRunner().invoke(app, arguments, env={"PATTERN_PLATFORM_DATA": str(tmp_path)})
        assert ran.exit_code == 1
        assert "refused" in ran.output
    assert not (tmp_path / "warehouse").exists()


# The cube -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cubes(blog: Platform) -> Platform:
    """The cube of Monday, published."""
    run(blog, [visits.visits_cube.key], MONDAY)
    succeeded(blog.run([CUBE]))
    return blog


def cube(blog: Platform) -> Counter[tuple[Any, ...]]:
    rows = blog.sql("catalogue", "FROM catalogue.published.visits_cube SELECT day, page, user_id, visits").rows()
    assert len({row[:3] for row in rows}) == len(rows)
    return Counter({row[:3]: row[3] for row in rows})


def test_the_audited_cube_is_shown_while_a_later_day_is_written(cubes: Platform) -> None:
    monday = cube_by_hand(cubes, MONDAY)
    assert cube(cubes) == monday
    chosen = dg.AssetSelection.assets(visits.visits_cube.key).without_checks()
    succeeded(cubes.run(chosen, TUESDAY))
    assert cube(cubes) == monday
    assert cubes.evaluate(CUBE_SHOWN).passed
    assert cubes.evaluate(CUBE_ADDS_UP).passed
    assert cube(cubes) == monday
    succeeded(cubes.run([CUBE]))
    assert cube(cubes) == cube_by_hand(cubes)
    assert shown(cubes, "visits_cube") == [(1, "publish"), (2, "publish")]


def test_a_reader_keeps_the_version_with_which_it_began(cubes: Platform) -> None:
    monday = cube_by_hand(cubes, MONDAY).total()
    with duckdb.connect(str(cubes.warehouse / "catalogue.duckdb"), config={"custom_user_agent": "dagster"}) as reader:
        reader.begin()
        count = "SELECT sum(visits) FROM catalogue.published.visits_cube"
        assert reader.execute(count).fetchall() == [(monday,)]
        run(cubes, [visits.visits_cube.key], TUESDAY)
        succeeded(cubes.run([CUBE]))
        assert reader.execute(count).fetchall() == [(monday,)]
        reader.commit()
        assert reader.execute(count).fetchall() == [(cube_by_hand(cubes).total(),)]


def test_the_cube_twice(cubes: Platform) -> None:
    """X-2: the same rows, and a roll back to the version before as it was."""
    run(cubes, [visits.visits_cube.key], MONDAY)
    succeeded(cubes.run([CUBE]))
    assert cube(cubes) == cube_by_hand(cubes, MONDAY)


def test_a_corrected_cube_is_rolled_back(cubes: Platform) -> None:
    before = cube(cubes)
    correct(cubes, MONDAY, 10, fewer)
    run(cubes, [visits.visits_cube.key], MONDAY)
    succeeded(cubes.run([CUBE]))
    assert cube(cubes) == cube_by_hand(cubes, MONDAY) != before
    succeeded(cubes.run([CUBE], config={PUBLISHED_CUBE.op.name: {"version": 1}}))
    assert cube(cubes) == before


def test_a_cube_that_does_not_add_up_is_not_shown(cubes: Platform) -> None:
    before = cube(cubes)
    table = cubes.lake / "aggregated/visits_cube"
    rows = pl.DataFrame(DeltaTable(table).to_pyarrow_table())
    lost = rows.filter(pl.col("page").is_null() | pl.col("user_id").is_not_null() | (pl.col("page") != "home"))
    assert lost.height == rows.height - 1
    write_deltalake(table, lost, mode="overwrite")
    evaluation = cubes.evaluate(CUBE_ADDS_UP)
    assert not evaluation.passed
    assert evaluation.metadata["wrong_days"].value == [MONDAY]
    (error,) = errors(cubes.run([CUBE]))
    assert error.startswith("UnauditedVersionError")
    assert cube(cubes) == before
    run(cubes, [visits.visits_cube.key], MONDAY)
    succeeded(cubes.run([CUBE]))
    assert cube(cubes) == before


def test_what_is_shown_of_the_cube_outlives_a_vacuum_and_a_retention(cubes: Platform) -> None:
    before = cube(cubes)
    for _ in range(3):
        correct(cubes, MONDAY, 10, fewer)
        run(cubes, [visits.visits_cube.key], MONDAY)
    vacuum(cubes.lake / "aggregated/visits_cube", retention=dt.timedelta(0), longest_run=dt.timedelta(0))
    assert cube(cubes) == before
    assert retain(cubes, OF_CUBE, keep=1, days=0)["proxy/removed"] == [2, 3]
    assert versions(cubes, "aggregated.visits_cube") == [1, 4]
    vacuum(cubes.lake / "aggregated/visits_cube", retention=dt.timedelta(0), longest_run=dt.timedelta(0))
    assert cube(cubes) == before
    succeeded(cubes.run([CUBE]))
    assert cube(cubes) == cube_by_hand(cubes, MONDAY)
    (error,) = errors(cubes.run([CUBE], config={PUBLISHED_CUBE.op.name: {"version": 2}}))
    assert error.startswith("MissingVersionError")
