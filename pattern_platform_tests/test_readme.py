"""The code in the README runs as it stands, and its picture shows the real graph."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pattern_platform.dashboards.definitions import defs as dashboards
from pattern_platform.definitions import defs
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

BESIDE = ("__completeness", "__fallback", "_csv", "_delta")  # made with the asset whose name they begin with
README = (CHECKOUT / "README.md").read_text()


def block(language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return code


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block("python"), "README.md", "exec", dont_inherit=True), names)  # noqa: S102 - our own README
    job = names["defs"].resolve_implicit_global_asset_job_def()
    for hour in range(24):
        job.execute_in_process(partition_key=f"2024-05-06-{hour:02}:00", asset_selection=[dg.AssetKey("events")])
    job.execute_in_process(partition_key="2024-05-06", asset_selection=[dg.AssetKey("daily")])
    assert pl.read_delta("lake/daily")["amount"].to_list() == [24]


def test_the_picture_shows_the_graph() -> None:
    picture = block("mermaid")
    labels = dict(re.findall(r"(\w+)\[([\w/]+)\]", picture))
    drawn = {
        (labels[source], labels[target])
        for source, target in re.findall(r"(\w+)(?:\[[\w/]+\])? --(?: [\w ]+ --)?> (\w+)", picture)
        if source in labels
    }
    real = {
        (dep.asset_key.to_user_string(), spec.key.to_user_string())
        for location in (defs, dashboards)
        for spec in location.resolve_all_asset_specs()
        for dep in spec.deps
        if spec.group_name != "maintenance" and dep.asset_key != spec.key  # a day rests on the day before
        if not spec.key.path[-1].endswith(BESIDE)
    }
    assert drawn == real
