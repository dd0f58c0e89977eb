"""The example platform with its tables on an object store: materialized, cloned, erased from, its logs shared."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.lake.erasure import left_in_table
from pattern_platform.lake.subject import Subject
from pattern_platform.operations.logs import LogQuery
from pattern_platform.operations.shared_logs import fetch_logs, put_logs
from pattern_platform.orchestration.json_logs import TIME

if TYPE_CHECKING:
    from pattern_platform_tests.services.stores import ObjectStore

pytestmark = pytest.mark.xdist_group("stores")
_CHECKOUT = Path(__file__).parents[2]
_COMMAND = Path(sys.executable).with_name("pattern-platform")
HOUR = "2024-05-06-00:00"
Command = "Callable[..., subprocess.CompletedProcess[str]]"


@pytest.fixture
def home(tmp_path: Path, object_store: ObjectStore) -> Path:
    """A checkout's files, set up for the store; keys come by the environment."""
    for name in ("platform.yaml", "data/registry.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(_CHECKOUT / name, tmp_path / name)
    for name in ("contracts", "landing"):
        shutil.copytree(_CHECKOUT / "data" / name, tmp_path / "data" / name)
    secrets = {"access_key_id", "secret_access_key"}
    config = {k: v for k, v in object_store.storage.model_dump().items() if v is not None and k not in secrets}
    client = {k: v for k, v in object_store.client.model_dump().items() if v is not None}
    overlay = {"storage": {"root_uri": object_store.root, "config": config, "client": client}}
    (tmp_path / "platform.store.yaml").write_text(yaml.safe_dump(overlay))
    return tmp_path


@pytest.fixture
def platform(home: Path, object_store: ObjectStore) -> Command:
    """The command in that home; it must succeed."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATTERN_PLATFORM_HOME": str(home),
            "PATTERN_PLATFORM_ENVIRONMENT": "store",
            "PATTERN_PLATFORM_NAMESPACE": "main",
            "AWS_ACCESS_KEY_ID": str(object_store.storage.access_key_id),
            "AWS_SECRET_ACCESS_KEY": str(object_store.storage.secret_access_key),
            "COLUMNS": "200",
        }
        environment.pop("DAGSTER_HOME", None)
        done = subprocess.run(
            [_COMMAND, *arguments], env=environment, cwd=home, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


def test_the_platform_lives_on_a_store(platform: Command, home: Path, object_store: ObjectStore) -> None:
    lake = object_store.path / "main" / "lake"
    platform("namespace", "current", "--make")
    platform(
        "check", "--select", "raw/visits", "--select", "clean/visits", "--select", "quarantine/visits",
        "--select", "aggregated/visits_by_hour",
        "--partition", HOUR,
    )  # fmt: skip
    assert not (home / "data" / "lake" / "raw").exists()
    table = lake / "clean" / "visits"
    visits = pl.scan_delta(str(table), storage_options=object_store.options).collect()
    assert visits.height > 50

    # A clone is a copy inside the store, and goes alone.
    told = platform("namespace", "create", "trial", "--like", "main").stdout
    assert re.search(r"copied in the object store: [0-9]+ objects", told)
    assert {str(p) for p in (object_store.path / "trial" / "lake").objects()} == {str(p) for p in lake.objects()}
    listed = platform("namespace", "list").stdout
    tables = dict(re.findall(r"(main|trial)\s.*?│\s+\S*\s+│.*?│\s+([0-9]+)\s+│", listed))
    assert tables["main"] == tables["trial"] != "0"
    platform("namespace", "drop", "trial", "--yes")
    assert not (object_store.path / "trial").exists()
    assert table.exists()

    # A person leaves every version of every table there.
    person = visits["user_id"].drop_nulls()[0]
    subject = Subject(person, ("user_id",))
    assert left_in_table(table, subject)
    platform("erase", "--subject", person, "--reason", "case 4711", "--yes")
    assert [left_in_table(log.parent, subject) for log in lake.rglob("_delta_log") if log.parent.exists()] == [
        [] for _ in lake.rglob("_delta_log")
    ]


def test_logs_of_one_host_are_found_on_another(platform: Command, home: Path, object_store: ObjectStore) -> None:
    def logged(folder: Path, *messages: str) -> None:
        lines = ({"time": f"{now:{TIME}}.000Z", "level": "ERROR", "process": "run", "message": m} for m in messages)
        hour = folder / f"{now:date=%Y-%m-%d/hour=%H}"
        hour.mkdir(parents=True, exist_ok=True)
        (hour / "run-1.jsonl").write_text("".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines))

    now, store = datetime.now(UTC), object_store.path / "main" / "logs"
    one, two = home / "one", home / "two"
    logged(one, "first")
    assert [put_logs(one, store, "worker1"), put_logs(one, store, "worker1")] == [1, 0]
    logged(one, "first", "no such file")
    assert put_logs(one, store, "worker1") == 1  # it has grown
    logged(two, "second")
    assert [fetch_logs(store, two, "worker2", now), fetch_logs(store, two, "worker2")] == [1, 0]
    assert put_logs(two, store, "worker2") == 1  # its own, and not what it has fetched
    assert fetch_logs(store, one, "worker1", now + timedelta(hours=1)) == 0  # too old
    assert {json.loads(line)["message"] for line in LogQuery(timedelta(hours=1)).lines(two)} == {
        "first",
        "second",
        "no such file",
    }
    told = platform("logs", "--level", "error", "--last", "2h").stdout  # of a third host
    assert "no such file" in told
    assert "second" in told
    assert "0 file(s) were put" in platform("share-logs").stdout


def test_without_a_store_there_is_nothing_to_share_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATTERN_PLATFORM_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["share-logs"])
    assert done.exit_code == 2
    assert "there is no object store" in done.output
