"""Namespaces made, listed and dropped, by the commands themselves, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import filelock
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.errors import NamespaceInUseError, UnknownNamespaceError
from pattern_platform.operations.namespaces import folders as namespace_folders
from pattern_platform.operations.namespaces.life import create, drop, opened, standings
from pattern_platform.orchestration.namespace import Namespace
from pattern_platform.warehouse.database import transaction
from pattern_platform_tests.operations.namespace_work import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder of a checkout of the branch trial, with a table in main."""
    shutil.copy(CHECKOUT / "platform.yaml", tmp_path)
    heads = tmp_path / ".git" / "refs" / "heads"
    heads.mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/trial\n")
    for branch in ("main", "trial"):
        (heads / branch).write_text("0" * 40)
    write_deltalake(tmp_path / "data" / "lake" / "raw" / "days", pa.table({"v": [1, 2]}))
    return tmp_path / "data"


def ran(data: Path, *arguments: str, **environment: str) -> Result:
    """Run `pattern-platform namespace` for the checkout of a data folder."""
    given = {"PATTERN_PLATFORM_HOME": str(data.parent), "PATTERN_PLATFORM_DATA": str(data), "COLUMNS": "220"}
    unset: dict[str, Any] = {"PATTERN_PLATFORM_NAMESPACE": None}
    return CliRunner().invoke(app, ["namespace", *arguments], env={**unset, **given, **environment})


def said(result: Result) -> str:
    """What was said, in one line."""
    return " ".join(result.output.split())


def rows_of(result: Result) -> dict[str, list[str]]:
    """The lines of the list by name, cell by cell."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line]
    return {line[1]: line for line in lines}


# The life of a namespace ----------------------------------------------------------------------------------------------


def test_a_namespace_is_made_listed_and_dropped(data: Path) -> None:
    made = ran(data, "create", "trial", "--like", "main")
    assert made.exit_code == 0
    assert "raw/days at version 0" in made.output
    assert "referenced (hard links): 1 files" in made.output
    rows = rows_of(ran(data, "list"))
    assert list(rows) == ["main", "trial"]
    assert rows["trial"][:5] == ["*", "trial", "research", "trial", "1"]
    assert rows["trial"][6] != "0 bytes"  # its data file is shared
    assert rows["trial"][8] == "main"
    dropped = ran(data, "drop", "trial", "--yes")
    assert dropped.output == "namespace trial is gone\n"
    assert list(rows_of(ran(data, "list"))) == ["main"]
    assert DeltaTable(data / "lake" / "raw" / "days").to_pyarrow_table().num_rows == 2


def test_a_copy_is_told_from_a_reference(data: Path) -> None:
    assert "referenced (hard links): 0 files" in ran(data, "create", "trial", "--like", "main", "--copy").output


def test_the_current_namespace_is_that_of_the_branch_or_as_the_environment_says(data: Path) -> None:
    assert "trial (research)" in ran(data, "current").output
    assert "main (serving)" in ran(data, "current", PATTERN_PLATFORM_NAMESPACE="main").output
    (data.parent / ".git" / "HEAD").write_text("0" * 40)
    assert "main (serving)" in ran(data, "current").output
    home = ran(data, "current", "--dagster-home", PATTERN_PLATFORM_NAMESPACE="e2e-7").output
    assert home == f"{data}/namespaces/e2e-7/dagster_home\n"
    assert not (data / "namespaces").exists()  # looking makes nothing


def test_the_folder_that_runs_made_is_marked_for_its_branch(data: Path) -> None:
    (data / "namespaces" / "trial" / "lake").mkdir(parents=True)
    listed = ran(data, "list")
    assert "trial" not in rows_of(listed)
    assert "trial, of this checkout, is not made: `pattern-platform namespace current --make`" in said(listed)
    assert ran(data, "current", "--make").exit_code == 0
    assert rows_of(ran(data, "list"))["trial"][3] == "trial"
    mark = (data / "namespaces" / "trial" / "namespace.json").read_text()
    assert ran(data, "current", "--make").exit_code == 0
    assert (data / "namespaces" / "trial" / "namespace.json").read_text() == mark
    assert opened(Namespace("main", data), "main") is None


def test_a_branch_that_is_gone_is_marked(data: Path) -> None:
    ran(data, "create", "trial")
    (data.parent / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    assert rows_of(ran(data, "list"))["trial"][3] == "trial"
    (data.parent / ".git" / "refs" / "heads" / "trial").unlink()
    assert rows_of(ran(data, "list"))["trial"][3] == "trial (gone)"
    shutil.rmtree(data.parent / ".git")
    assert rows_of(ran(data, "list"))["trial"][3] == "trial"  # it is not known


def test_nothing_is_dropped_without_a_yes(data: Path) -> None:
    create(Namespace("trial", data))
    result = ran(data, "drop", "trial")
    assert (result.exit_code, "Delete" in result.output) == (1, True)
    assert (data / "namespaces" / "trial").exists()


def test_sizes_and_times_are_those_of_the_files(data: Path) -> None:
    (main,) = standings(data)
    files = [path for path in (data / "lake").rglob("*") if path.is_file()]
    assert main.tables == 1
    assert (main.size, main.shared) == (sum(path.stat().st_size for path in files), 0)
    assert main.last_write is not None
    assert main.last_write.timestamp() == pytest.approx(max(path.stat().st_mtime for path in files), abs=1e-3)


# Dropped whole --------------------------------------------------------------------------------------------------------


def test_a_drop_that_was_killed_is_finished_by_the_next_command(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(namespace := Namespace("trial", data))

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(namespace_folders, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            drop(namespace)
    assert not namespace.root.exists()
    assert (data / "namespaces" / ".dropped-trial").exists()
    ran(data, "list")
    assert not (data / "namespaces" / ".dropped-trial").exists()


def test_links_are_removed_and_never_followed(data: Path, tmp_path: Path) -> None:
    create(namespace := Namespace("trial", data))
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("x")
    (outside / "folder").chmod(0o500)
    (namespace.root / "lake").symlink_to(outside)
    (namespace.root / "exports").mkdir()
    (namespace.root / "exports" / "link").symlink_to(outside / "file")
    before = digest(outside)
    drop(namespace)
    assert digest(outside) == before


def test_read_only_folders_are_dropped_by_anybody(data: Path) -> None:
    create(namespace := Namespace("trial", data))
    (namespace.root / "lake" / "load").mkdir(parents=True)
    (namespace.root / "lake" / "load" / "x.parquet").write_text("x")
    os.chmod(namespace.root / "lake" / "load", 0o500)  # noqa: PTH101
    drop(namespace)
    assert not namespace.root.exists()


# Refused --------------------------------------------------------------------------------------------------------------

BAD_NAMES = {
    "": "use lower-case letters",
    "..": "use lower-case letters",
    "../main": "use lower-case letters",
    "/tmp": "use lower-case letters",  # noqa: S108
    "a/b": "use lower-case letters",
    "Trial": "use lower-case letters",
    "é": "use lower-case letters",
    ".hidden": "use lower-case letters",
    "x" * 60: "longer than 48",
    "main": "drop another one",
    "master": "drop another one",
    "release-1.0": "drop another one",
    "nobody": "choose one of main, trial",
    "unmarked": "current --make",
    "renamed": "current --make",
    "broken": "current --make",
    "link": "current --make",
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_namespace_is_not_dropped(data: Path, name: str) -> None:
    create(Namespace("trial", data), "trial")
    folder = data / "namespaces"
    for other in ("unmarked", "broken"):
        (folder / other).mkdir()
    (folder / "broken" / "namespace.json").write_text("[")
    shutil.copytree(folder / "trial", folder / "renamed")  # its mark names another one
    (folder / "link").symlink_to(folder / "trial")
    before = digest(data.parent)
    result = ran(data, "drop", "--yes", "--", name)
    assert result.exit_code == 1
    assert BAD_NAMES[name] in said(result)
    assert digest(data.parent) == before


@pytest.mark.parametrize("name", [*list(BAD_NAMES)[:9], "main", "unmarked", "trial"])
def test_a_name_that_is_bad_or_taken_is_not_made(data: Path, name: str) -> None:
    create(Namespace("trial", data))
    (data / "namespaces" / "unmarked").mkdir()
    before = digest(data.parent)
    result = ran(data, "create", "--like", "main", "--", name)
    assert result.exit_code == 1
    assert "mend:" in result.output
    assert digest(data.parent) == before


@pytest.mark.parametrize("option", ["--copy", "--with-runs"])
def test_how_to_clone_nothing_is_refused(data: Path, option: str) -> None:
    result = ran(data, "create", "trial", option)
    assert result.exit_code == 2
    assert "--like" in result.output


def test_runs_that_are_not_there_are_refused(data: Path) -> None:
    result = ran(data, "create", "trial", "--like", "main", "--with-runs")
    assert result.exit_code == 1
    assert "leave --with-runs out" in said(result)
    assert not (data / "namespaces" / "trial").exists()


def partitions_of(home: Path, asset: dg.AssetsDefinition) -> set[str | None]:
    """What the Dagster of a namespace knows of."""
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        return {record.partition_key for record in instance.fetch_materializations(asset.key, limit=10).records}


def test_runs_come_along_when_asked(data: Path) -> None:
    main, trial = Namespace("main", data), Namespace("trial", data)
    main.dagster_home.mkdir()

    @dg.asset(partitions_def=dg.DailyPartitionsDefinition("2024-10-05", "2024-10-20"))
    def table() -> None: ...

    @dg.asset
    def cloning(context) -> None:  # noqa: ANN001 - Dagster does not resolve a quoted annotation
        result = ran(data, "create", "trial", "--like", "main", "--with-runs")
        assert result.exit_code == 1
        assert f"run {context.run.run_id} is STARTED" in said(result)

    with dg.DagsterInstance.local_temp(str(main.dagster_home)) as instance:
        dg.materialize([table], partition_key="2024-10-06", instance=instance)
        dg.materialize([cloning], instance=instance)
        assert not trial.root.exists()
        assert ran(data, "create", "trial", "--like", "main", "--with-runs").exit_code == 0
        dg.materialize([table], partition_key="2024-10-07", instance=instance)
    assert partitions_of(main.dagster_home, table) == {"2024-10-06", "2024-10-07"}
    assert partitions_of(trial.dagster_home, table) == {"2024-10-06"}


@pytest.fixture
def used(data: Path) -> Iterator[Namespace]:
    """A namespace with a database, which others may use."""
    create(namespace := Namespace("trial", data))
    with transaction(str(namespace.root / "warehouse" / "billing.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS v")
    yield namespace
    drop(namespace)  # once nobody uses it any more


def still_used(namespace: Namespace, *culprits: str) -> None:
    with pytest.raises(NamespaceInUseError) as caught:
        drop(namespace)
    for culprit in (*culprits, "drop it again"):
        assert culprit in str(caught.value)
    assert namespace.root.exists()


def test_a_namespace_with_runs_under_way_is_not_dropped(used: Namespace) -> None:
    used.dagster_home.mkdir()
    (used.dagster_home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    before = os.environ.get("DAGSTER_HOME")

    @dg.op
    def look(context) -> None:  # noqa: ANN001 - Dagster does not resolve a quoted annotation
        still_used(used, f"run {context.run_id} is STARTED")

    @dg.job
    def job() -> None:
        look()

    with dg.DagsterInstance.local_temp(str(used.dagster_home)) as instance:
        assert job.execute_in_process(instance=instance).success
    assert os.environ.get("DAGSTER_HOME") == before


def test_a_namespace_whose_database_is_open_is_not_dropped(used: Namespace) -> None:
    file = used.root / "warehouse" / "billing.duckdb"
    program = f"import duckdb, sys; c = duckdb.connect({str(file)!r}); print('open', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"open\n"
    try:
        still_used(used, "billing.duckdb is open in another process")
    finally:
        holder.communicate()


def test_a_namespace_with_a_writer_is_not_dropped(used: Namespace) -> None:
    (used.root / "lake" / "days").mkdir(parents=True)
    with filelock.FileLock(used.root / "lake" / "days" / "_commit.lock"):
        still_used(used, "a writer holds days")


def test_a_mark_of_another_format_is_no_mark(data: Path) -> None:
    create(namespace := Namespace("trial", data))
    for text in ("{}", '{"name": "trial"}', '{"name": "trial", "color": 1}', "null", '"trial"', ""):
        (namespace.root / "namespace.json").write_text(text)
        with pytest.raises(UnknownNamespaceError, match="no namespace"):
            drop(namespace)
    (namespace.root / "namespace.json").write_text(json.dumps({"name": "trial", "kind": "research", "branch": None}))
    drop(namespace)
