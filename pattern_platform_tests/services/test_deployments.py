"""`deploy/`: what can be known without a cluster or an engine. The fleet is run, in test_fleet.py."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import yaml
from dagster_celery.cli import get_validated_config
from dagster_celery.launcher import CeleryRunLauncher
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import UserDefinedDagsterK8sConfig
from dagster_k8s.models import k8s_snake_case_dict
from kubernetes import client
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform.operations.doctor.instance import secrets
from pattern_platform.operations.doctor.workers import workers
from pattern_platform.orchestration.celery_launcher import WatchedCeleryRunLauncher
from pattern_platform.orchestration.run_coordinator import AssetTagRunCoordinator
from pattern_platform.runners import LIMITS
from pattern_platform.settings import Settings
from pattern_platform_tests.operations.test_doctor import deployment
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEPLOY = CHECKOUT / "deploy"
TEMPLATES = sorted(DEPLOY.glob("*/dagster.yaml"))
UNITS = sorted(DEPLOY.glob("*/*.service"))
PROGRAMS = Path(sys.executable).parent
VALUES = yaml.safe_load((DEPLOY / "kubernetes/values.yaml").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())


def understood(schema: Any, config: Mapping[str, Any]) -> None:
    """Raises unless a config fits what a class of Dagster takes."""

    @dg.op(config_schema=schema)
    def taken() -> None: ...

    @dg.job
    def taking() -> None:
        taken()

    dg.validate_run_config(taking, {"ops": {"taken": {"config": config}}})


def variables(content: Any) -> Iterator[str]:
    """What `env:` names."""
    if isinstance(content, dict):
        if set(content) == {"env"} and isinstance(content["env"], str):
            yield content["env"]
        for value in content.values():
            yield from variables(value)


def named_in(folder: Path) -> set[str]:
    """The variables of an example of an environment."""
    lines = (folder / "environment.example").read_text().splitlines()
    return {line.partition("=")[0] for line in lines if line[:1] not in ("", "#")}


# The instance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.parent.name)
def test_a_template_is_given_the_limits_of_the_platform(template: Path) -> None:
    told = CliRunner().invoke(app, ["config", "dagster", "--template", str(template)])
    assert told.exit_code == 0, told.output
    made = yaml.safe_load(told.output)
    config = made["run_coordinator"]["config"]
    assert config["max_concurrent_runs"] == Settings().limits.runs
    assert {limit["key"]: limit["limit"] for limit in config["tag_concurrency_limits"]} == LIMITS
    understood(AssetTagRunCoordinator.config_type(), config)
    assert not {"max_concurrent_runs", "tag_concurrency_limits"} & set(  # nobody keeps them in two places
        yaml.safe_load(template.read_text())["run_coordinator"]["config"]
    )


def test_every_form_has_what_the_one_of_the_checkout_has() -> None:
    assert [file.parent.name for file in TEMPLATES] == ["celery_fleet", "compose", "single_host"]
    ours = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    for template in TEMPLATES:
        theirs = yaml.safe_load(template.read_text())
        assert ours.keys() <= theirs.keys()
        assert theirs["run_monitoring"].keys() == ours["run_monitoring"].keys()
        assert theirs["storage"]["postgres"]["postgres_db"]["scheme"] == "postgresql+psycopg2"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.parent.name)
def test_secrets_are_variables_that_the_example_names(template: Path) -> None:
    content = yaml.safe_load(template.read_text())
    named = set(variables(content))
    assert "DAGSTER_POSTGRES_PASSWORD" in named
    assert named <= named_in(template.parent)
    assert secrets(deployment(config=content)).outcome.value == "ok"


def test_the_workers_file_is_what_celery_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "RESULTS_URL"):
        monkeypatch.setenv(name, f"redis://{name.lower()}")
    read = get_validated_config(str(DEPLOY / "celery_fleet/worker.yaml"))
    assert (read["broker"], read["backend"]) == ("redis://broker_url", "redis://results_url")


def test_a_flat_workers_file_is_ignored_without_a_word(tmp_path: Path) -> None:
    """Pins what the doctor warns of."""
    (tmp_path / "worker.yaml").write_text("broker: redis://here\n")
    assert "redis" not in str(get_validated_config(str(tmp_path / "worker.yaml")))


def test_the_launcher_takes_what_its_base_takes() -> None:
    template = yaml.safe_load((DEPLOY / "celery_fleet/dagster.yaml").read_text())
    launcher = template["run_launcher"]["config"]
    understood(WatchedCeleryRunLauncher.config_type(), {**launcher, "broker": "redis://b", "backend": "redis://b"})
    with pytest.raises(dg.DagsterInvalidConfigError, match="lost_after_seconds"):
        understood(CeleryRunLauncher.config_type(), {**launcher, "broker": "redis://b", "backend": "redis://b"})


def test_the_overlay_of_the_fleet_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (CHECKOUT / "platform.yaml", DEPLOY / "celery_fleet/platform.production.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    monkeypatch.setenv("PATTERN_PLATFORM_HOME", str(tmp_path))
    monkeypatch.setenv("PATTERN_PLATFORM_ENVIRONMENT", "production")
    assert str(Settings().lake) == "s3://company-platform/tables/main/lake"
    assert Settings().limits.runs == 16


def test_a_broker_that_does_not_answer_is_found() -> None:
    found = workers(deployment())
    assert (found.outcome.value, "the broker does not answer" in found.what) == ("failure", True)


# systemd --------------------------------------------------------------------------------------------------------------


def section(unit: Path) -> Mapping[str, str]:
    file = configparser.RawConfigParser(strict=False)
    file.read(unit)
    return file["Service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda file: file.name)
def test_a_unit_starts_a_program_that_is_there_on_loopback_alone(unit: Path) -> None:
    command = section(unit)["ExecStart"]
    (program,) = re.findall(r"/srv/pattern-platform/\.venv/bin/([\w-]+)", command)
    assert (PROGRAMS / program).exists()
    assert "0.0.0.0" not in command  # noqa: S104 - that it is not
    assert ("--host 127.0.0.1" in command) == (program in {"dagster", "dagster-webserver"})
    assert section(unit)["User"] == "platform"
    assert section(unit)["EnvironmentFile"] == "/etc/pattern-platform/environment"
    assert section(unit)["Restart"] == "always"


def test_a_code_server_takes_port_and_module_from_the_name_of_its_unit() -> None:
    command = section(DEPLOY / "single_host/pattern-platform-code@.service")["ExecStart"]
    _, _, script = shlex.split(command.replace("$$", "$").replace("%%", "%"))
    said = subprocess.run(
        ["bash", "-c", script.replace("exec ", "echo ")],
        env={"ADDRESS": "4001:pattern_platform.dashboards.definitions"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip().endswith("--port 4001 --module-name pattern_platform.dashboards.definitions")


def test_a_worker_is_stopped_with_all_its_processes() -> None:
    assert section(DEPLOY / "celery_fleet/pattern-platform-worker.service")["KillMode"] == "control-group"


# Kubernetes -----------------------------------------------------------------------------------------------------------


def test_the_queue_of_the_cluster_has_the_limits_of_the_platform() -> None:
    coordinator = VALUES["dagsterDaemon"]["runCoordinator"]["config"]["customRunCoordinator"]
    understood(AssetTagRunCoordinator.config_type(), coordinator["config"])
    assert coordinator["class"] == AssetTagRunCoordinator.__name__
    assert coordinator["module"] == AssetTagRunCoordinator.__module__
    assert coordinator["config"]["max_concurrent_runs"] == Settings().limits.runs
    assert {each["key"]: each["limit"] for each in coordinator["config"]["tag_concurrency_limits"]} == LIMITS


def as_launched(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the launcher that the chart makes of its values."""
    names = {
        "containerConfig": "container_config",
        "podSpecConfig": "pod_spec_config",
        "jobSpecConfig": "job_spec_config",
    }
    return {
        "service_account_name": VALUES["global"]["serviceAccountName"],
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
        "dagster_home": "/opt/dagster/dagster_home",
        "image_pull_policy": values["imagePullPolicy"],
        "load_incluster_config": values["loadInclusterConfig"],
        "env_secrets": [secret["name"] for secret in values["envSecrets"]],
        "fail_pod_on_run_failure": values["failPodOnRunFailure"],
        "run_k8s_config": {names[name]: content for name, content in values["runK8sConfig"].items()},
    }


def test_the_launcher_of_the_cluster_takes_its_values() -> None:
    launcher = as_launched(VALUES["runLauncher"]["config"]["k8sRunLauncher"])
    understood(K8sRunLauncher.config_type(), launcher)
    asked = UserDefinedDagsterK8sConfig.from_dict(launcher["run_k8s_config"])
    assert asked.container_config["resources"]["limits"] == {"memory": "2Gi"}


def test_a_misspelt_value_is_found() -> None:
    """The negative control."""
    launcher = as_launched(VALUES["runLauncher"]["config"]["k8sRunLauncher"])
    with pytest.raises(dg.DagsterInvalidConfigError):
        understood(K8sRunLauncher.config_type(), {**launcher, "env_secret": []})
    with pytest.raises(Exception, match="resorces"):
        UserDefinedDagsterK8sConfig.from_dict({"container_config": {"resorces": {}}})


PODS = [
    VALUES["dagsterWebserver"],
    VALUES["dagsterDaemon"],
    *VALUES["dagster-user-deployments"]["deployments"],
]


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.get("name", "service"))
def test_pods_are_what_kubernetes_takes_with_one_image_and_secrets_of_the_cluster(pod: dict[str, Any]) -> None:
    assert pod["image"] == VALUES["dagsterWebserver"]["image"]
    models = {
        "resources": client.V1ResourceRequirements,
        "podSecurityContext": client.V1PodSecurityContext,
        "securityContext": client.V1SecurityContext,
    }
    for name, model in models.items():
        assert k8s_snake_case_dict(model, pod[name])
    for variable in pod["env"]:
        assert k8s_snake_case_dict(client.V1EnvVar, variable).keys() == {"name", "value"}
        assert not re.search("PASSWORD|SECRET|KEY|TOKEN", variable["name"])
    assert [secret["name"] for secret in pod["envSecrets"]] == ["platform-environment"]
    assert pod["podSecurityContext"]["runAsNonRoot"]


def test_the_environment_of_the_pods_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VALUES["dagsterDaemon"]["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    assert str(Settings().lake) == "s3://company-platform/tables/main/lake"


def test_the_chart_is_that_of_the_version_that_is_installed() -> None:
    for file in ("README.md", "values.yaml"):
        assert dg.__version__ in (DEPLOY / "kubernetes" / file).read_text(), file


# Compose --------------------------------------------------------------------------------------------------------------

OURS = {name: service for name, service in COMPOSE["services"].items() if name != "postgres"}


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_compose_runs_the_one_image(name: str) -> None:
    service = OURS[name]
    assert service["image"] == yaml.safe_load((CHECKOUT / "compose.yaml").read_text())["services"]["platform"]["image"]
    program, *_ = service["command"] if service["command"][0] != "sh" else shlex.split(service["command"][2])
    assert (PROGRAMS / program).exists()
    assert set(service["depends_on"]) <= set(COMPOSE["services"])
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        assert (DEPLOY / "compose" / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_nothing_of_compose_is_published_but_the_ui_to_its_host() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:3000:3000"]


def test_secrets_of_compose_are_variables_that_must_be_set() -> None:
    found = re.findall(r"PASSWORD: (.*)", (DEPLOY / "compose/compose.yaml").read_text())
    assert len(found) == 2
    assert all(re.fullmatch(r"\$\{(\w+):\?.*\}", value) for value in found)


def test_workspaces_name_servers_that_are_started() -> None:
    servers = yaml.safe_load((DEPLOY / "compose/workspace.yaml").read_text())["load_from"]
    assert {server["grpc_server"]["host"] for server in servers} <= set(OURS)
    assert {server["grpc_server"]["location_name"] for server in servers} == {
        entry["python_module"]["location_name"]
        for entry in yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())["load_from"]
    }
    for folder in ("single_host", "celery_fleet"):
        text = (DEPLOY / folder / "workspace.yaml").read_text()
        for server in yaml.safe_load(text)["load_from"]:
            assert server["grpc_server"]["host"] == "127.0.0.1"
            assert (
                f"pattern-platform-code@{server['grpc_server']['port']}:"
                in (DEPLOY / "single_host/README.md").read_text()
            )
