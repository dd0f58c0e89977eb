"""The device updates: days that can be followed by eye, a correction of one of them, and the sample."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.ingestion.cleaning import clean_rows
from pattern_platform.ingestion.dataset import Dataset
from pattern_platform.ingestion.landing import read_landed
from pattern_platform.lake.partitions import window_of
from pattern_platform.visits.contract import DeviceUpdate
from pattern_platform.visits.device_updates import CORRECTED_DAY, DAYS, HEADER, write_correction, write_days

SAMPLE = Path(__file__).parents[2] / "data" / "landing"
DEVICE_UPDATES = Dataset(
    name="device_updates",
    description="Updates of the devices that the blog is read on.",
    owner="team:web",
    landing="device_updates/date=%Y-%m-%d/*.csv",
    format="csv",
    partitions=dg.DailyPartitionsDefinition("2024-05-06", "2024-05-11"),
    contract=DeviceUpdate,
    time_column="day",
    header=HEADER,
)


@pytest.fixture
def updates(tmp_path: Path) -> pl.DataFrame:
    """The clean rows of the first delivery."""
    write_days(tmp_path)
    return pl.concat(clean(tmp_path, str(day)) for day in DAYS)


def test_the_sample_is_what_the_generator_makes_today(tmp_path: Path) -> None:
    """The sample is as it is after the correction; the demo delivers the first version itself."""
    paths = write_days(tmp_path)
    write_correction(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in paths}
    committed = {path.relative_to(SAMPLE): path.read_bytes() for path in SAMPLE.glob("device_updates/*/*")}
    assert made == committed
    assert list(made) == [Path(f"device_updates/date=2024-05-{day:02}/devices.csv") for day in range(6, 11)]


def test_every_row_is_clean_and_keeps_its_text(updates: pl.DataFrame) -> None:
    rows = [
        (day, *(value or None for value in device[:-1]), device[-1] == "true")
        for day, devices in DAYS.items()
        for device in devices
    ]
    assert updates.rows() == rows
    assert updates.schema == pl.Schema(DeviceUpdate)
    assert updates["processor_brand"].null_count() == 1


def test_days_have_new_changed_and_withdrawn_devices(updates: pl.DataFrame) -> None:
    updates = updates.with_columns(new=pl.col("id").is_first_distinct())
    assert updates.group_by("day", maintain_order=True).len()["len"].to_list() == [3, 4, 5, 3, 2]
    new = updates.group_by("day", maintain_order=True).agg(pl.col("new").sum())["new"].to_list()
    assert new == [3, 3, 4, 1, 1]
    assert updates.filter(pl.col("id").is_duplicated())["id"].unique().sort().to_list() == [
        "galaxy-a33",
        "galaxy-m54",
        "iphone-11",
        "iphone-12",
        "pixel-7",
    ]
    assert updates.filter("is_deleted").select("day", "id").rows() == [(CORRECTED_DAY.replace(day=9), "iphone-12")]


def test_one_misspelt_brand_is_mended_and_another_stays(updates: pl.DataFrame) -> None:
    brands = {
        device: updates.filter(pl.col("id") == device)["brand_name"].to_list()
        for device in ("galaxy-a33", "redmi-note-9")
    }
    assert brands == {"galaxy-a33": ["samsun", "samsung"], "redmi-note-9": ["xiaom"]}


def test_the_correction_completes_names_and_drops_a_device_that_never_was(tmp_path: Path) -> None:
    write_days(tmp_path)
    day = str(CORRECTED_DAY)
    before = clean(tmp_path, day)
    path = write_correction(tmp_path)
    after = clean(tmp_path, day)

    assert list(path.parent.iterdir()) == [path]
    assert path == tmp_path / f"device_updates/date={day}/devices.csv"
    dropped = before.join(after, on="id", how="anti")
    assert dropped["id"].to_list() == ["iphone-15"]
    changed = before.join(after, on="id").filter(pl.col("full_name") != pl.col("full_name_right"))
    assert changed.select("id", "full_name", "full_name_right").rows() == [
        ("galaxy-m54", "galaxy-", "galaxy-m54"),
        ("iphone-14", "iphone-", "iphone-14"),
    ]
    others = ["id", "brand_name", "processor_brand", "is_deleted"]
    assert after.select(others).equals(before.join(dropped, on="id", how="anti").select(others))


def test_the_command_lands_the_days_and_then_the_correction(tmp_path: Path) -> None:
    runner, folder = CliRunner(), tmp_path / "by command"
    for arguments in ([], ["--correct"]):
        result = runner.invoke(app, ["generate", "devices", "--landing", str(folder), *arguments])
        assert result.exit_code == 0, result.output
    write_days(tmp_path / "expected")
    write_correction(tmp_path / "expected")
    landed, expected = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.csv")}
        for root in (folder, tmp_path / "expected")
    )
    assert landed == expected


def clean(landing: Path, day: str) -> pl.DataFrame:
    raw = read_landed(DEVICE_UPDATES, landing, day)
    window = window_of([day], DEVICE_UPDATES.partitions, "day", pl.Schema(DeviceUpdate))
    cleaned = clean_rows(DEVICE_UPDATES, raw, window)
    assert cleaned.quarantine.is_empty()
    return cleaned.clean
