"""`pattern-platform config`: what is configured."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated

import typer

from pattern_platform.commands.console import console, refusals

if TYPE_CHECKING:
    from pattern_platform.settings import Settings

config = typer.Typer(help="What is configured, by platform.yaml and the environment.", no_args_is_help=True)


@config.command("validate")
def validate_config() -> None:
    """Check platform.yaml, its overlay and the environment; exit code 1 where something is wrong."""
    from pattern_platform.settings import Settings, home  # noqa: PLC0415 - keeps --help fast

    with refusals():
        settings = Settings()
    console.print(f"{home() / 'platform.yaml'}: environment {settings.environment}, namespace {settings.namespace}")


@config.command("show")
def show_config() -> None:
    """Show every setting as it is now, with secrets masked."""
    import yaml  # noqa: PLC0415 - keeps --help fast

    from pattern_platform.settings import Settings  # noqa: PLC0415

    with refusals():
        settings = Settings()
    console.print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), markup=False, highlight=False)


@config.command("dagster")
def show_instance(
    template: Annotated[
        Path | None,
        typer.Option(help="A dagster.yaml of `deploy`, instead of the one beside platform.yaml.", exists=True),
    ] = None,
) -> None:
    """Print the dagster.yaml of this namespace: the one of the checkout, with the limits and places configured.

    `pattern-platform namespace current --make` writes it where it is looked for.

    Example: `pattern-platform config dagster --template deploy/celery_fleet/dagster.yaml`
    """
    from pattern_platform.settings import Settings, home  # noqa: PLC0415 - keeps --help fast

    with refusals():
        typer.echo(_instance_file(Settings(), template or home() / "dagster.yaml"), nl=False)


def write_instance_file(settings: Settings) -> None:
    """Write the dagster.yaml of a namespace into its DAGSTER_HOME.

    Args:
        settings: Whose namespace and limits it is of.
    """
    from pattern_platform.lake.whole_file import whole_file  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.settings import home  # noqa: PLC0415

    template = home() / "dagster.yaml"
    if template.exists():  # an installed package has none, and its users write their own
        with whole_file(settings.dagster_home / "dagster.yaml") as unfinished:
            unfinished.write_text(_instance_file(settings, template))


def _instance_file(settings: Settings, template: Path) -> str:
    import yaml  # noqa: PLC0415 - keeps --help fast

    from pattern_platform.orchestration.instance_file import instance_config  # noqa: PLC0415
    from pattern_platform.runners import LIMITS  # noqa: PLC0415

    content = yaml.safe_load(template.read_text())
    runs, namespace = settings.limits.runs, settings.namespace
    made = instance_config(content, runs=runs, limits=LIMITS, namespace=namespace, logs=settings.logs)
    return yaml.safe_dump(made, sort_keys=False, width=120)
