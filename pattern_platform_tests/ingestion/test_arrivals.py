"""Arrivals: a file whose name nobody knew becomes a partition and a run, once, and again when it is delivered again."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from deltalake import DeltaTable

from pattern_platform.ingestion.landing_zone import LandingZone
from pattern_platform.lake.whole_file import whole_file
from pattern_platform.visits import page_speed as module
from pattern_platform.visits.page_speed import ARRIVALS, REGIONS
from pattern_platform_tests.platform import Platform
from pattern_platform_tests.visits.blog import succeeded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ODD_NAMES = ["blanks in it", "commas, and more", "dots.in.it", "ünïcode", "[brackets]", "per%20cent", "star*", "a=b"]


class Landing(Platform):
    """Page speed over a folder, looked at by its sensor as the daemon does it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, module.ASSETS)
        self.instance = dg.DagsterInstance.ephemeral()
        self.speeds = self.landing / "page_speed"

    def deliver(self, *regions: str, load: int = 12) -> None:
        for region in regions:
            with whole_file(self.speeds / f"{region}.csv") as unfinished:
                unfinished.write_text(f"page,load_ms\nhome,{load}\n")

    def tick(self) -> dict[str, str]:
        """The run keys that are requested, by partition; the partitions are there then."""
        result: Any = ARRIVALS(self.context)
        (added,) = result.dynamic_partitions_requests
        assert added.partitions_def_name == REGIONS.name
        self.instance.add_dynamic_partitions(added.partitions_def_name, added.partition_keys)
        keys = {request.partition_key: request.run_key for request in result.run_requests}
        assert sorted(keys) == sorted(added.partition_keys)
        assert len({*keys.values()}) == len(keys) == len(result.run_requests)
        assert all(request.asset_selection == [module.page_speed.key] for request in result.run_requests)
        return keys

    @property
    def context(self) -> dg.SensorEvaluationContext:
        landing = LandingZone(root=str(self.landing))
        return dg.build_sensor_context(instance=self.instance, resources={"landing": landing})

    @property
    def partitions(self) -> list[str]:
        return sorted(self.instance.get_dynamic_partitions(str(REGIONS.name)))


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(tmp_path)


def test_where_nothing_landed_nothing_is_requested(landing: Landing) -> None:
    assert landing.tick() == {}
    landing.speeds.mkdir(parents=True)
    assert landing.tick() == {}
    assert landing.partitions == []


def test_three_files_are_three_partitions_and_three_runs(landing: Landing) -> None:
    landing.deliver("north", "south", "east")
    result: Any = ARRIVALS(landing.context)
    assert [request.partition_key for request in result.run_requests] == ["east", "north", "south"]
    (added,) = result.dynamic_partitions_requests
    assert sorted(added.partition_keys) == ["east", "north", "south"]
    assert set(landing.tick()) == {"east", "north", "south"}
    assert landing.partitions == ["east", "north", "south"]


def test_dagster_takes_runs_of_partitions_that_are_only_just_asked_for(landing: Landing, tmp_path: Path) -> None:
    """As its daemon evaluates the sensor: the partition of a run must be known, or be asked for beside it."""
    landing.deliver("north", "eu.central, 1")
    repository = dg.Definitions(module.ASSETS, sensors=[ARRIVALS], resources=landing.resources).get_repository_def()
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        context = dg.build_sensor_context(
            instance_ref=instance.get_ref(),
            repository_def=repository,
            resources={"landing": LandingZone(root=str(landing.landing))},
        )
        with context:
            tick = ARRIVALS.evaluate_tick(context)
    assert [request.tags["dagster/partition"] for request in tick.run_requests or []] == ["eu.central, 1", "north"]


def test_the_same_files_have_the_same_run_keys(landing: Landing) -> None:
    landing.deliver("north", "south", "east")
    before = landing.tick()
    assert landing.tick() == landing.tick() == before
    assert landing.partitions == ["east", "north", "south"]


def test_the_run_key_rests_on_the_file_alone(landing: Landing) -> None:
    """A daemon that starts again finds the same files, and they are no arrivals; so the key is written out here."""
    landing.deliver("north")
    os.utime(landing.speeds / "north.csv", ns=(0, 1_715_000_000_123_456_789))
    arrival = '["Arrival", {"modified_ns": 1715000000123456789, "partition": "north", "size": 21}]'
    assert landing.tick() == {"north": sha256(arrival.encode()).hexdigest()}


def _larger(landing: Landing) -> None:
    landing.deliver("south", load=1_000)


def _as_large(landing: Landing) -> None:
    landing.deliver("south", load=13)
    _touched(landing)  # of two within a tick of the system's clock nobody can tell


def _touched(landing: Landing) -> None:
    file = landing.speeds / "south.csv"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000))


@pytest.mark.parametrize("deliver_again", [_larger, _as_large, _touched])
def test_a_file_delivered_again_is_requested_again_and_no_other(landing: Landing, deliver_again: Any) -> None:
    landing.deliver("north", "south", "east")
    before = landing.tick()
    deliver_again(landing)
    after = landing.tick()
    assert {region for region, key in after.items() if key != before[region]} == {"south"}
    assert landing.tick() == after
    assert landing.partitions == ["east", "north", "south"]


def test_one_more_file_is_one_more_request(landing: Landing) -> None:
    landing.deliver("north")
    before = landing.tick()
    landing.deliver("south")
    after = landing.tick()
    assert set(after) == {"north", "south"}
    assert after["north"] == before["north"]


def test_a_file_that_is_taken_away_is_requested_no_more_and_stays_a_partition(landing: Landing) -> None:
    landing.deliver("north", "south")
    before = landing.tick()
    (landing.speeds / "north.csv").unlink()
    assert landing.tick() == {"south": before["south"]}
    assert landing.partitions == ["north", "south"]


def test_what_is_not_finished_is_no_arrival(landing: Landing) -> None:
    with whole_file(landing.speeds / "north.csv") as unfinished:
        unfinished.write_text("page,load_ms\n")
        assert list(landing.speeds.iterdir()) == [unfinished]
        assert landing.tick() == {}
    assert set(landing.tick()) == {"north"}


@pytest.mark.parametrize("name", [".north.csv", ".csv", "north.csv.part", "north.txt", "north", "deeper/north.csv"])
def test_what_is_hidden_or_called_otherwise_is_no_arrival(landing: Landing, name: str) -> None:
    file = landing.speeds / name
    file.parent.mkdir(parents=True)
    file.write_text("page,load_ms\n")
    assert landing.tick() == {}
    assert landing.partitions == []


def test_a_folder_is_no_arrival(landing: Landing) -> None:
    (landing.speeds / "north.csv").mkdir(parents=True)
    assert landing.tick() == {}


def loads(landing: Landing) -> Sequence[str]:
    return sorted(DeltaTable(landing.lake / "raw/page_speed").to_pyarrow_table()["region"].to_pylist())


def test_whatever_a_file_is_called_its_run_reads_it(landing: Landing) -> None:
    """From the files through the sensor to the table, each name as it is."""
    landing.deliver(*ODD_NAMES)
    landing.deliver("stars and more")  # what a careless pattern would find, too
    requested = landing.tick()
    assert sorted(requested) == sorted([*ODD_NAMES, "stars and more"]) == landing.partitions
    for region in requested:
        succeeded(landing.run([module.page_speed.key], region))
    assert loads(landing) == sorted(requested)
    succeeded(landing.run([module.page_speed.key], "star*"))
    assert loads(landing) == sorted(requested)


def test_the_sensor_looks_from_the_start() -> None:
    assert ARRIVALS.default_status is dg.DefaultSensorStatus.RUNNING
    assert ARRIVALS.name == "raw__page_speed__arrivals"
