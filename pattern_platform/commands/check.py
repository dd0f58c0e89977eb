"""`pattern-platform check`: what CI runs, with an exit code that tells whether the checks passed."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from pattern_platform.commands.console import console, refusals

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dagster as dg

    from pattern_platform.orchestration.check_run import Result

app = typer.Typer()
_LOCATIONS = ("pattern_platform.definitions", "pattern_platform.dashboards.definitions")
_WRONG_USAGE = 2
_COLOURS = {"passed": "green", "materialized": "green", "warned": "yellow", "skipped": "yellow"}
_MOST_TOLD = 160


@app.command()
def check(
    select: Annotated[
        list[str], typer.Option(help="Key of an asset, or Dagster's selection syntax, as `group:clean`; repeatable.")
    ],
    partition: Annotated[str | None, typer.Option(help="The partition, as the UI shows it.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="First partition of several.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last partition of several.")] = None,
    *,
    only_checks: Annotated[
        bool, typer.Option("--only-checks", help="Materialize nothing: check what is stored.")
    ] = False,
    module: Annotated[
        list[str] | None,
        typer.Option(help="Module whose `defs` are the definitions, instead of the platform's; repeatable."),
    ] = None,
    junit_xml: Annotated[
        Path | None, typer.Option(help="Write the results here, as JUnit XML.", dir_okay=False, writable=True)
    ] = None,
) -> None:
    """Materialize assets with their checks, in this process, and fail when a check fails.

    Exit code 0: all passed, or failed with severity WARN alone. 1: a check of severity ERROR failed, whether it blocks
    or not, an asset failed, or a check was not executed. 2: nothing ran, as it was asked for wrongly.

    Runs are recorded in the instance of DAGSTER_HOME, in none where it is not set; limits of the run queue do not bind.

    Example: `pattern-platform check --select aggregated/visits_cube --partition 2024-05-06 --junit-xml checks.xml`
    """
    from pattern_platform.errors import CheckRunError  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.orchestration.check_report import write_junit_xml  # noqa: PLC0415

    with refusals():
        try:
            first, last = _range(partition, first, last)
            results = _results(module or _LOCATIONS, select, (first, last), only_checks=only_checks)
        except CheckRunError as error:
            console.print(Text.assemble(("refused ", "red"), str(error)), soft_wrap=True)
            raise typer.Exit(_WRONG_USAGE) from error
    if junit_xml:
        write_junit_xml(results, junit_xml)
    _show(results)
    raise typer.Exit(int(any(result.is_bad for result in results)))


def _range(partition: str | None, first: str | None, last: str | None) -> tuple[str | None, str | None]:
    from pattern_platform.errors import CheckRunError  # noqa: PLC0415 - keeps --help fast

    if partition is not None and (first, last) != (None, None):
        raise CheckRunError(
            "--partition beside --from and --to was refused", why="they say the same", mend="leave one of them out"
        )
    if (first is None) != (last is None):
        raise CheckRunError(
            "--from without --to, or --to without --from, was refused",
            why="partitions are given from the first to the last",
            mend="add the other, or use --partition for one",
        )
    return (first, last) if partition is None else (partition, partition)


def _results(
    modules: Sequence[str], select: Sequence[str], partitions: tuple[str | None, str | None], *, only_checks: bool
) -> list[Result]:
    from pattern_platform.orchestration import check_selection  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.orchestration.check_run import run_checks  # noqa: PLC0415
    from pattern_platform.settings import Settings  # noqa: PLC0415

    selected = check_selection.select({name: _definitions(name) for name in modules}, select, only_checks=only_checks)
    with _instance() as instance:
        keys = check_selection.partitions_between(selected, *partitions, instance)
        return run_checks(selected, keys, instance, Settings().namespace)


def _definitions(module: str) -> dg.Definitions:
    """The definitions of a module; what it raises while it is imported is its own."""
    import dagster as dg  # noqa: PLC0415 - keeps --help fast

    from pattern_platform.errors import CheckRunError  # noqa: PLC0415

    sys.path[:0] = [folder for folder in (str(Path.cwd()),) if folder not in sys.path]  # as `dagster -m` does
    if not _is_found(module):
        raise CheckRunError(
            f"--module {module!r} was refused",
            why=f"no such module is installed, or in {Path.cwd()}",
            mend="write it as Python imports it, as my_project.definitions, and run where it is found",
        )
    defs = getattr(import_module(module), "defs", None)
    if not isinstance(defs, dg.Definitions):
        raise CheckRunError(
            f"--module {module!r} was refused",
            why="it has no `defs` that are dagster.Definitions",
            mend="name the module of the definitions, which has `defs = dg.Definitions(...)`",
        )
    return defs


def _is_found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # a parent that is none; no name at all
        return False


def _instance() -> dg.DagsterInstance:
    import dagster as dg  # noqa: PLC0415 - keeps --help fast

    from pattern_platform.errors import CheckRunError  # noqa: PLC0415

    if not os.environ.get("DAGSTER_HOME"):
        return dg.DagsterInstance.ephemeral()
    try:
        return dg.DagsterInstance.get()
    except dg.DagsterError as error:
        raise CheckRunError(
            "the instance of DAGSTER_HOME was refused",
            why=" ".join(str(error).split()),
            mend="let DAGSTER_HOME be the absolute path of a folder with a dagster.yaml, or unset it",
        ) from error


def _show(results: Sequence[Result]) -> None:
    from pattern_platform.orchestration.check_report import told  # noqa: PLC0415 - keeps --help fast

    table = Table("asset", "check", "partition", "outcome", "severity", "seconds", "says", title="Checks")
    for column in table.columns:
        column.overflow = "fold"  # the log of a CI system is narrow, and half a key is none
    for result in results:
        outcome = Text(result.outcome.value, style=_COLOURS.get(result.outcome.value, "red"))
        says = Text(told(result)[:_MOST_TOLD])
        cells = (result.asset, result.check or "", result.partition)
        table.add_row(*map(Text, cells), outcome, result.severity, f"{result.seconds:.1f}", says)
    console.print(table)
    for result in results:
        if result.is_bad:
            name = " ".join(part for part in (result.asset, result.check, result.partition) if part)
            console.print(Text.assemble((result.outcome.value, "red"), f" {name}  {told(result)}"), soft_wrap=True)
    checks, bad = sum(result.check is not None for result in results), sum(result.is_bad for result in results)
    console.print(f"checks: {checks}, failures: {bad}")
