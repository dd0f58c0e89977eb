"""`pattern-platform doctor`: what is wrong with a deployment, before a run finds out."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pattern_platform.commands.console import console, refusals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pattern_platform.operations.doctor.deployment import Deployment
    from pattern_platform.operations.doctor.finding import Finding

app = typer.Typer()
_LOCATIONS = ("pattern_platform.definitions", "pattern_platform.dashboards.definitions")
_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}
_OF_DAGSTER = "dagster.yaml"


@app.command()
def doctor(
    worker: Annotated[
        Path | None, typer.Option(help="Configuration of the Celery workers.", exists=True, dir_okay=False)
    ] = None,
    module: Annotated[
        list[str] | None, typer.Option(help="Module of a code location, instead of the platform's; repeatable.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Examine the deployment that DAGSTER_HOME and platform.yaml describe, from the host that this runs on.

    Exit code 0: nothing is wrong, though there may be warnings. 1: something is. 2: it was asked for wrongly.

    Example: `pattern-platform doctor --worker /etc/pattern-platform/worker.yaml`
    """
    from pattern_platform.operations.doctor.checks import examined  # noqa: PLC0415 - keeps --help fast

    with refusals():
        findings = examined(_deployment(worker, module or _LOCATIONS))
    if as_json:
        told = [{"check": name, **vars(finding)} for name, finding in findings.items()]
        typer.echo(json.dumps(told, indent=2))
    else:
        _show(findings)
    raise typer.Exit(int(any(finding.outcome.value == "failure" for finding in findings.values())))


def _deployment(worker: Path | None, modules: Sequence[str]) -> Deployment:
    from pattern_platform.operations.doctor.deployment import Deployment  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.runners import LIMITS  # noqa: PLC0415
    from pattern_platform.settings import Settings  # noqa: PLC0415

    settings = Settings()
    given = os.environ.get("DAGSTER_HOME")
    home = Path(given) if given else None
    return Deployment(
        home=home,
        config=_read((home or settings.dagster_home) / _OF_DAGSTER),
        worker=_read(worker) if worker else None,
        definitions={name: import_module(name).defs for name in modules},
        runs=settings.limits.runs,
        limits=LIMITS,
        lake=settings.lake,
        folders={"DuckDB files": settings.warehouse, "landed files": settings.landing, "logs": settings.logs},
        webserver=settings.webserver,
    )


def _read(file: Path) -> dict[str, Any]:
    """A file of YAML; nothing where there is none, which is a finding of its own."""
    from yaml import YAMLError  # noqa: PLC0415 - keeps --help fast

    from pattern_platform.orchestration.strict_yaml import load_mapping  # noqa: PLC0415

    try:
        return load_mapping(file.read_text()) if file.exists() else {}
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        message = f"{file} cannot be read: {error}"
        raise typer.BadParameter(message) from error


def _show(findings: Mapping[str, Finding]) -> None:
    table = Table("check", "", "what", title="Doctor", show_lines=True)
    for name, finding in findings.items():
        outcome = Text(finding.outcome.value, style=_COLOURS[finding.outcome.value])
        more = f"\nwhy: {finding.why}\ndo:  {finding.mend}" if finding.why else ""
        table.add_row(name, outcome, Text(finding.what + more, overflow="fold"))
    console.print(table)
    counted = [finding.outcome.value for finding in findings.values()]
    console.print(f"checks: {len(counted)}, failures: {counted.count('failure')}, warnings: {counted.count('warning')}")
