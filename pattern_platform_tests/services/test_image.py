"""The image by the steps of its Dockerfile: what they install, and that it runs without rights on a read-only root."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pattern_platform_tests.services.image import Stage, StepError, build, command_of, instructions
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.xdist_group("image")
_HEALTHY = (
    "{command} > /tmp/said 2>&1 & for _ in $(seq 240); do {check} && exit 0; sleep 0.5; done; cat /tmp/said; exit 1"
)
_HOUR = "--select raw/visits --select clean/visits --select quarantine/visits --partition 2024-05-06-00:00"


@pytest.fixture(scope="module")
def image() -> Iterator[Stage]:
    folder = Path(tempfile.mkdtemp(prefix="pattern-platform-image-"))  # pytest keeps the last three of its own
    try:
        yield build(CHECKOUT, folder, {})
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


def read_only(image: Stage, command: str) -> str:
    return image.run(command, read_only=json.loads(image.settings["VOLUME"]), seconds=300)


def test_it_runs_as_nobody_special_and_writes_to_its_volumes_alone(image: Stage) -> None:
    assert read_only(image, "id -u").strip() == "1000"
    for folder in ("/var/lib/dagster", "/srv/platform/data", "/srv/platform/data/landing", "$HOME"):
        read_only(image, f"touch {folder}/probe")
    for folder in ("/srv/platform", "/opt/venv", "/opt", "/etc", "/usr/local", "/var"):
        with pytest.raises(StepError, match=r"Read-only file system|Permission denied"):
            read_only(image, f"touch {folder}/probe")


def test_not_even_root_writes_elsewhere(image: Stage) -> None:
    """The negative control: that the root is read-only is more than that its files are root's."""
    root = Stage(image.folder)
    with pytest.raises(StepError, match="Read-only file system"):
        root.run("touch /opt/probe", read_only=["/var/lib/dagster"])
    root.run("touch /opt/probe && rm /opt/probe")


def test_it_holds_what_the_platform_needs_and_nothing_of_its_development(image: Stage) -> None:
    read_only(
        image,
        "python -c 'import dagster_celery, dagster_postgres, psycopg2, redis, openlineage.client'",
    )
    read_only(image, "pattern-platform --help && dagster-webserver --help && dagster-daemon --help && dg --help")
    for module in ("pytest", "hypothesis", "ruff", "moto"):
        with pytest.raises(StepError, match="ModuleNotFoundError"):
            read_only(image, f"python -c 'import {module}'")


def test_every_version_is_that_of_the_lock(image: Stage) -> None:
    locked = set(
        re.findall(r"^([\w.-]+)==([^\s;]+)", (CHECKOUT / "requirements-services.lock").read_text(), re.MULTILINE)
    )
    listed = "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
    installed = dict(pair.split("==") for pair in read_only(image, f'python -c "{listed}"').split())
    found = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in installed.items()}
    assert found.pop("pattern-platform")
    assert len(found) > 50
    assert set(found.items()) <= locked


def test_nothing_is_compiled_when_a_process_starts(image: Stage) -> None:
    loaded = "[m for m in sys.modules.values() if str(getattr(m, '__file__', '')).endswith('.py')]"
    program = (
        f"import sys, pathlib, importlib.util as u, pattern_platform.definitions; found = {loaded}; print(len(found), "
    )
    program += "*(m.__file__ for m in found if not pathlib.Path(u.cache_from_source(m.__file__)).exists()))"
    count, *missing = read_only(image, f'python -c "{program}"').split()
    assert int(count) > 1000
    assert missing == []


def test_it_ingests_an_hour(image: Stage) -> None:
    assert "passed" in read_only(image, f"pattern-platform check {_HOUR}")


def test_its_default_command_becomes_healthy(image: Stage) -> None:
    health = command_of(image.settings["HEALTHCHECK"])
    with pytest.raises(StepError, match="refused"):
        read_only(image, health)  # nobody answers yet
    read_only(image, _HEALTHY.format(command=command_of(image.settings["CMD"]), check=f"{health} 2> /dev/null"))


def test_a_code_server_becomes_healthy(image: Stage) -> None:
    command = "dagster code-server start -h 127.0.0.1 -p 4000 -m pattern_platform.definitions"
    read_only(image, _HEALTHY.format(command=command, check="dagster api grpc-health-check -p 4000 > /dev/null 2>&1"))


def test_instructions_are_read_as_they_are_written() -> None:
    text = '# a\nRUN one \\\n    # said in between\n    && two\nCMD ["a b", "c"]\n'
    assert list(instructions(text)) == [("RUN", "one && two"), ("CMD", '["a b", "c"]')]
    assert command_of('--interval=30s CMD ["a b", "c"]') == "'a b' c"


def test_a_step_that_fails_is_told(image: Stage) -> None:
    with pytest.raises(StepError, match="ended with 3"):
        image.run("echo why; exit 3")
