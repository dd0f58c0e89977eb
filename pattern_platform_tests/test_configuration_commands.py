"""`pattern-platform config`, `registry` and `schema`, as a person runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.settings import Settings
from pattern_platform_tests.ingestion.onboarding import CONTRACT, DAILY, FULL, land, write_registry
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

SALES = "id,at,euros\n1,2024-05-06T01:00:00Z,1.5\n2,2024-05-06T02:00:00Z,2\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A platform of its own: its settings, its data, and the working directory."""
    for name in [name for name in os.environ if name.startswith("PATTERN_PLATFORM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATTERN_PLATFORM_HOME", str(tmp_path))
    monkeypatch.setenv("PATTERN_PLATFORM_NAMESPACE", "main")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)
    shutil.copy(CHECKOUT / "dagster.yaml", tmp_path)
    return tmp_path


def invoke(*arguments: str, code: int = 0) -> str:
    result: Result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


# config ---------------------------------------------------------------------------------------------------------------


def test_settings_that_are_right(home: Path) -> None:
    (home / "platform.yaml").write_text("environment: prod")
    (home / "platform.prod.yaml").write_text("limits: {runs: 9}")
    told = invoke("config", "validate")
    assert "environment prod, namespace main" in told
    assert str(home / "platform.yaml") in told.replace("\n", "")


def test_settings_that_are_wrong_are_all_told(home: Path) -> None:
    (home / "platform.yaml").write_text("limits: {run: 4}\nstorage: s3\n")
    for command in ("validate", "show", "dagster"):
        told = invoke("config", command, code=1)
        assert "limits.run: there is no such key; did you mean runs?" in told
        assert "storage: Input should be a valid dictionary or instance of Storage" in told
        assert "Traceback" not in told


def test_a_misspelt_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATTERN_PLATFORM_LIMITZ__RUNS", "4")
    assert "PATTERN_PLATFORM_LIMITS" in invoke("config", "validate", code=1)


def test_settings_are_shown_as_yaml_without_secrets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "platform.yaml").write_text("sessions_url: redis://u:hunter2@h/0\nlimits: {runs: 6}")
    monkeypatch.setenv("PATTERN_PLATFORM_LIMITS__RUNS", "8")
    told = invoke("config", "show")
    assert "hunter2" not in told
    shown = yaml.safe_load(told)
    assert (shown["limits"]["runs"], shown["namespace"]) == (8, "main")
    assert shown["sessions_url"] == "**********"


def test_the_instance_has_the_limits_that_are_configured(home: Path) -> None:
    (home / "platform.yaml").write_text("limits: {runs: 9}")
    made = yaml.safe_load(invoke("config", "dagster"))
    template = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    coordinator = made["run_coordinator"]["config"]
    assert (coordinator["max_concurrent_runs"], coordinator["namespace"]) == (9, "main")
    assert all(set(limit) >= {"key", "limit"} for limit in coordinator["tag_concurrency_limits"])
    assert set(template) <= set(made)
    configured = ("run_coordinator", "python_logs")
    assert {name: value for name, value in made.items() if name not in configured} == {
        name: value for name, value in template.items() if name not in configured
    }
    assert str(home / "data") in yaml.safe_dump(made["python_logs"], width=1000)


# registry -------------------------------------------------------------------------------------------------------------


def test_three_bad_rows_of_five_are_told_and_the_good_ones_listed(home: Path) -> None:
    rows = [
        {**DAILY, "name": "good", "personal_data": "euros", "retention_days": "7"},
        {**DAILY, "name": "Bad"},
        {**DAILY, "name": "no_contract", "contract": "contracts/none.yaml"},
        {**FULL, "name": "whole", "contract": ""},
        {**DAILY, "name": "zone", "time_zone": "Europe/Pari"},
    ]
    told = invoke("registry", "validate", str(write_registry(home, *rows)), code=1)
    refused = [line for line in told.splitlines() if line.startswith("refused")]
    assert len(refused) == 3
    assert "line 3, column 'name': 'Bad'" in refused[0]
    assert "line 4, column 'contract': 'contracts/none.yaml': there is no file" in refused[1]
    assert (
        "line 6, column 'time_zone': 'Europe/Pari': there is no such time zone; did you mean Europe/Paris?"
        in refused[2]
    )
    listed = {line.split()[1]: line for line in told.splitlines() if line.startswith("│")}
    assert set(listed) == {"good", "whole"}
    assert all(cell in listed["good"] for cell in ("clean", "contracts/sales.yaml", "euros: 7 days"))
    assert "none" in listed["whole"]


def test_the_configured_registry_is_the_one_that_is_checked(home: Path) -> None:
    (home / "platform.yaml").write_text("registry: sources/all.csv")
    write_registry(home / "sources", DAILY).rename(home / "sources/all.csv")
    assert "sales" in invoke("registry", "validate")
    (home / "sources/all.csv").unlink()
    assert "line 1" in invoke("registry", "validate", code=1)


def test_a_registry_with_markup_in_its_cells_is_shown_as_it_is(home: Path) -> None:
    told = invoke("registry", "validate", str(write_registry(home, {**DAILY, "source": "[red]/*.csv"})), code=1)
    assert "'[red]/*.csv'" in told


def test_the_committed_registry_is_good() -> None:
    assert "comments" in invoke("registry", "validate", str(CHECKOUT / "data/registry.csv"))


def test_a_draft_is_two_files_that_are_taken_as_they_are(home: Path) -> None:
    file = land(home / "data", "web-sales/date=2024-05-06/a.csv", SALES)
    told = invoke("registry", "infer", str(file), "--owner", "team:shop", "--contract", "contracts/web_sales.yaml")
    row, _, doubts = told.partition("look at")
    (home / "registry.csv").write_text(row)
    assert "placeholder" in doubts
    checked = invoke("registry", "validate", "registry.csv")
    assert "web_sales" in checked
    assert "daily" in checked or "timewindow" in checked
    assert "number" in (home / "contracts/web_sales.yaml").read_text()


def test_a_draft_without_a_file_for_the_contract_shows_it(home: Path) -> None:
    file = land(home / "data", "sales/date=2024-05-06/a.csv", SALES)
    told = invoke("registry", "infer", str(file), "--name", "shop")
    assert "# contracts/shop.yaml, beside the registry" in told
    assert "shop,Records of shop.,team:data,sales/date=%Y-%m-%d/*.csv,csv" in told


@pytest.mark.parametrize("name", ["none.csv", "notes.txt", "empty.csv"])
def test_a_file_that_tells_nothing_is_refused(home: Path, name: str) -> None:
    if name != "none.csv":
        (home / name).write_text("")
    told = invoke("registry", "infer", name, code=1)
    assert f"file {name} was refused" in told
    assert "Traceback" not in told


def test_inferring_with_wrong_settings_tells_the_settings(home: Path) -> None:
    (home / "platform.yaml").write_text("limit: {}")
    assert "did you mean limits?" in invoke("registry", "infer", "a.csv", code=1)


# schema ---------------------------------------------------------------------------------------------------------------


def test_contracts_are_compared(home: Path) -> None:
    (home / "old.yaml").write_text(CONTRACT)
    (home / "new.yaml").write_text(CONTRACT.replace("type: number, min: 0", "type: integer, min: 0"))
    (home / "optional.yaml").write_text(CONTRACT + "  note: {type: text, optional: true, description: A remark.}\n")
    told = invoke("schema", "diff", "old.yaml", "new.yaml", code=1)
    assert "~ euros: Float64 -> Int64  not compatible, readers expect the type it had" in told
    assert "+ note: String  compatible" in invoke("schema", "diff", "old.yaml", "optional.yaml")
    assert "0 difference(s), 0 of them not compatible" in invoke("schema", "diff", "old.yaml", "old.yaml")


def test_a_contract_is_compared_with_the_one_of_a_revision(home: Path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *who, *arguments], cwd=home, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    (home / "sales.yaml").write_text(CONTRACT)
    git("add", "sales.yaml")
    git("commit", "-q", "-m", "first")
    (home / "sales.yaml").write_text(CONTRACT.replace("min: 0, ", ""))
    told = invoke("schema", "diff", "main:sales.yaml", "sales.yaml", code=1)
    assert "~ euros: min 0.0 -> None  not compatible" in told
    for reference in ("v9:sales.yaml", "main:other.yaml"):
        assert "git knows no" in invoke("schema", "diff", reference, "sales.yaml", code=1)


def test_a_class_is_compared_with_a_file(home: Path) -> None:
    (home / "likes.yaml").write_text(CONTRACT)
    told = invoke("schema", "diff", "pattern_platform.visits.contract:Like", "likes.yaml", code=1)
    assert "- like_id  not compatible" in told


def lake_table(home: Path) -> None:
    """A table that got a column with its third commit."""
    table = Settings(data=home / "data").lake / "clean/sales"
    table.parent.mkdir(parents=True)
    pl.DataFrame({"id": ["1"]}).write_delta(str(table))
    pl.DataFrame({"id": ["1"]}).write_delta(str(table), mode="append")
    pl.DataFrame({"id": ["2"], "note": ["x"]}).write_delta(
        str(table), mode="append", delta_write_options={"schema_mode": "merge"}
    )


def test_the_history_of_a_table(home: Path) -> None:
    lake_table(home)
    lines = [line for line in invoke("schema", "history", "clean/sales").splitlines() if line.strip()]
    assert [line.split(",")[0] for line in lines] == ["version 0", "  + id: String", "version 2", "  + note: String"]


def test_versions_of_a_table_are_compared(home: Path) -> None:
    lake_table(home)
    for old in ("clean/sales@0", "clean/sales@1"):
        assert "+ note: String  compatible" in invoke("schema", "diff", old, "clean/sales")
    assert "- note: String  not compatible" in invoke("schema", "diff", "clean/sales", "clean/sales@0", code=1)
    (home / "sales.yaml").write_text("description: d\ncolumns:\n  id: {type: text, key: true, description: d}\n")
    assert "- note: String" in invoke("schema", "diff", "clean/sales", "sales.yaml", code=1)
    assert "0 difference(s)" in invoke("schema", "diff", "clean/sales@0", "sales.yaml")


@pytest.mark.parametrize(
    ("old", "told", "code"),
    [
        ("clean/sale", "'clean/sale' was refused", 1),
        ("clean/sales@latest", "latest", 2),
        ("clean/sales@9", "9", 1),
        ("none.yaml", "there is no file none.yaml", 1),
        ("shop.contract:Sale", "cannot be imported", 1),
    ],
)
def test_what_is_not_there_is_told(home: Path, old: str, told: str, code: int) -> None:
    lake_table(home)
    output = invoke("schema", "diff", old, "clean/sales", code=code)
    assert told in output
    assert "Traceback" not in output


def test_the_history_of_what_is_no_table() -> None:
    assert "name one as clean/visits" in invoke("schema", "history", "clean/none", code=1)
