"""What CI, the image and the releases call is there: targets, commands, files, and no more rights than are needed."""

from __future__ import annotations

import json
import re
import shlex
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKFLOWS = sorted((CHECKOUT / ".github/workflows").glob("*.yml"))
ACTIONS = sorted((CHECKOUT / ".github/actions").glob("*/action.yml"))
MAKEFILE = (CHECKOUT / "Makefile").read_text()
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()
TRUSTED_WITH = {  # every right beyond reading the repository, and the one job that has it
    ("cd", "image"): {"contents": "read", "packages": "write"},
    ("cd", "pypi"): {"id-token": "write"},
    ("dependencies", "pull-request"): {"contents": "write", "pull-requests": "write"},
}


def read(file: Path) -> dict[Any, Any]:
    return yaml.safe_load(file.read_text())


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Workflow, name and description of every job that has steps."""
    for file in WORKFLOWS:
        for name, job in read(file)["jobs"].items():
            if "steps" in job:
                yield file.stem, name, job


def steps() -> Iterator[dict[str, Any]]:
    for _, _, job in jobs():
        yield from job["steps"]
    for action in ACTIONS:
        yield from read(action)["runs"]["steps"]


SCRIPTS = [step["run"] for step in steps() if "run" in step]


def targets(makefile: str) -> set[str]:
    return set(re.findall(r"^(\w[\w-]*):", makefile, re.MULTILINE))


def made(script: str) -> list[str]:
    """The targets that a script makes."""
    words = [shlex.split(line) for line in script.replace("\\\n", " ").splitlines() if line.strip().startswith("make ")]
    return [word for line in words for word in line[1:] if "=" not in word]


def calls(script: str) -> list[list[str]]:
    """The arguments of each call of `pattern-platform`, from its folder or in a container, without redirections."""
    joined = re.sub(r"\\\n\s*", " ", script)
    return [
        shlex.split(found) for found in re.findall(r"(?:/|--rm pattern-platform )pattern-platform ([^>)\n]*)", joined)
    ]


def is_understood(arguments: list[str]) -> bool:
    """Whether the command and its options exist; `--help` keeps it from being run."""
    return CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0


# Workflows ------------------------------------------------------------------------------------------------------------


def test_these_are_the_workflows() -> None:
    assert {file.stem for file in WORKFLOWS} == {"ci", "cd", "dependencies"}
    events = {file.stem: read(file)[True] for file in WORKFLOWS}  # YAML takes `on` for a truth value
    assert {name: set(of_one) for name, of_one in events.items()} == {
        "ci": {"push", "pull_request", "workflow_call"},
        "cd": {"push"},
        "dependencies": {"schedule", "workflow_dispatch"},
    }
    assert events["cd"]["push"] == {"tags": ["v*"]}


def test_workflows_make_what_the_makefile_has() -> None:
    found = {target for script in SCRIPTS for target in made(script)}
    assert found <= targets(MAKEFILE)
    assert {"lint", "test", "test-services", "definitions", "check", "wheel", "image", "lock"} <= found


def test_ci_runs_what_the_script_for_a_laptop_runs() -> None:
    ci = [script for workflow, _, job in jobs() if workflow == "ci" for script in scripts(job)]
    assert set(made((CHECKOUT / ".ci/run").read_text())) <= {target for script in ci for target in made(script)}


def scripts(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_a_target_that_is_none_is_found() -> None:
    """The negative control."""
    assert made("make setup PYTHON=python\n") == ["setup"]
    assert not set(made("  make chekc\n")) <= targets(MAKEFILE)


@pytest.mark.parametrize("arguments", calls("\n".join([*SCRIPTS, MAKEFILE])), ids=" ".join)
def test_the_command_understands_what_it_is_called_with(arguments: list[str]) -> None:
    assert is_understood(arguments)


def test_a_call_that_is_none_is_found() -> None:
    """The negative control."""
    assert calls("$(BIN)/pattern-platform chekc --select a \\\n\t--to b > c") == [
        ["chekc", "--select", "a", "--to", "b"]
    ]
    assert not is_understood(["chekc"])
    assert not is_understood(["check", "--selct", "raw/visits"])
    assert len(calls(MAKEFILE)) > 3


def test_jobs_end_and_have_no_right_but_those_that_are_listed() -> None:
    for file in WORKFLOWS:
        assert read(file)["permissions"] == {"contents": "read"}, file
        assert "concurrency" in read(file), file
    for workflow, name, job in jobs():
        assert job["timeout-minutes"] <= 60, (workflow, name)
        assert job.get("permissions") == TRUSTED_WITH.get((workflow, name)), (workflow, name)


def test_actions_are_pinned_by_their_major_version_or_are_here() -> None:
    used = {step["uses"] for step in steps() if "uses" in step}
    for action in used:
        if action.startswith("./"):
            assert (CHECKOUT / action / "action.yml").exists(), action
        else:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", action), action
    assert "./.github/actions/setup" in used


def test_no_script_takes_in_what_somebody_else_may_write() -> None:
    """A branch or a title in `${{ }}` would be part of the script; in the environment it is a value."""
    assert not [script for script in SCRIPTS if "${{" in script]


def test_the_virtual_environment_is_kept_by_what_it_was_made_from() -> None:
    (cache,) = [step["with"] for step in steps() if step.get("uses", "").startswith("actions/cache@")]
    assert cache["path"] == ".venv"
    assert "hashFiles('requirements.lock')" in cache["key"]
    assert "python-version" in cache["key"]


def test_every_python_that_is_tested_is_allowed_by_the_project() -> None:
    (matrix,) = [job["strategy"]["matrix"] for _, _, job in jobs() if "strategy" in job]
    lowest = re.search(r'requires-python = ">=([\d.]+)"', (CHECKOUT / "pyproject.toml").read_text())
    assert lowest
    assert lowest[1] == matrix["python-version"][0]
    image = re.search(r"^ARG PYTHON=([\d.]+)$", DOCKERFILE, re.MULTILINE)
    assert image
    assert image[1] in matrix["python-version"]


# The image ------------------------------------------------------------------------------------------------------------


def copied() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
    return [word for line in lines for word in line.split()[:-1] if not word.startswith("--")]


def test_the_image_copies_what_is_there_and_is_not_ignored() -> None:
    ignored, *others = [line for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert ignored == "*"
    let_in = [line.removeprefix("!") for line in others if line.startswith("!")]
    for source in copied():
        assert (CHECKOUT / source).exists(), source
        assert any(Path(name).parts[0] == source for name in let_in), source
    for name in let_in:
        assert (CHECKOUT / name).exists(), name
        assert Path(name).parts[0] in copied(), name
    assert not any(fnmatch(folder, name) for folder in ("data/lake", "data/warehouse") for name in let_in)


def commands_of_the_image() -> list[list[str]]:
    services = read(CHECKOUT / "compose.yaml")["services"].values()
    said = re.findall(r"`((?:dagster|dg)[^`]*)`", (CHECKOUT / "compose.yaml").read_text().replace("\n# ", " "))
    default = re.search(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)
    assert default
    return [
        json.loads(default[1]),
        *(service["healthcheck"]["test"][1:] for service in services),
        *(line.split() for line in said),
    ]


@pytest.mark.parametrize("command", commands_of_the_image(), ids=lambda command: command[0])
def test_the_commands_of_the_image_are_installed(command: list[str]) -> None:
    assert Path(sys.executable).with_name(command[0]).exists()


def test_the_image_runs_as_nobody_special_and_keeps_what_it_makes() -> None:
    (user,) = re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)
    assert user != "root"
    assert DOCKERFILE.index("USER") < DOCKERFILE.index("CMD")
    (volumes,) = re.findall(r"^VOLUME (.*)$", DOCKERFILE, re.MULTILINE)
    (service,) = read(CHECKOUT / "compose.yaml")["services"].values()
    mounted = [volume.split(":")[1] for volume in service["volumes"]]
    assert set(json.loads(volumes)) <= set(mounted)
    assert "--require-hashes" in DOCKERFILE


def test_the_ui_of_the_container_is_for_its_host_alone() -> None:
    """It has no login."""
    (service,) = read(CHECKOUT / "compose.yaml")["services"].values()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
