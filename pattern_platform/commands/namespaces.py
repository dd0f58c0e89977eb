"""`pattern-platform namespace`: the namespaces of the git branches, listed, made and dropped."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from pattern_platform.commands.console import console, refusals
from pattern_platform.orchestration.namespace import (
    Namespace,
    current_branch,
    local_branches,
    namespace_of_branch,
)
from pattern_platform.settings import Settings, home

app = typer.Typer(help="Namespaces: tables and runs for each git branch.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the namespace, as `namespace list` shows it.")]


@app.command("list")
def list_namespaces() -> None:
    """Show all namespaces: their branches, tables, bytes and last write.

    Bytes that hard links share with another namespace are shown apart. What killed commands left is removed.
    """
    from pattern_platform.operations.namespaces.life import standings  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.operations.namespaces.objects import Size, size_of  # noqa: PLC0415

    with refusals():
        settings = Settings()
        found = standings(settings.data)
        stored = {
            s.namespace.name: size_of(place / "lake") for s in found if (place := settings.stored(s.namespace.name))
        }
    branches = local_branches(home())
    table = Table("", "name", "kind", "branch", "tables", "size", "shared", "last write", "cloned from")
    for standing in found:
        namespace, mark = standing.namespace, standing.mark
        branch = mark.branch if mark else None
        on_store = stored.get(namespace.name, Size(0, 0, 0))
        is_gone = branch is not None and branches is not None and branch not in branches
        table.add_row(
            "*" if namespace.name == settings.namespace else "",
            namespace.name,
            namespace.kind,
            f"{branch} (gone)" if is_gone else branch or "",
            str(standing.tables + on_store.tables),
            decimal(standing.size + on_store.size),
            decimal(standing.shared),
            f"{standing.last_write:%Y-%m-%d %H:%M}" if standing.last_write else "",
            mark.cloned_from["namespace"] if mark and mark.cloned_from else "",
            style="yellow" if is_gone else None,
        )
    console.print(table)
    if settings.namespace not in {standing.namespace.name for standing in found}:
        console.print(
            f"{settings.namespace}, of this checkout, is not made: `pattern-platform namespace current --make`"
        )


@app.command()
def create(
    name: Name,
    like: Annotated[str | None, typer.Option(help="Namespace to clone; an empty one when absent.")] = None,
    *,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the bytes of tables; do not link them.")] = False,
    with_runs: Annotated[bool, typer.Option("--with-runs", help="Copy what Dagster knows of the runs, too.")] = False,
) -> None:
    """Make a namespace, empty or as a shallow clone of another one.

    A clone has the tables of the other at their versions. Their data files are referenced (hard links, no bytes), or
    copied where that is not possible, as on an object store; the command says which. Logs, DuckDB files and exports are
    copied. Without --with-runs its Dagster begins without runs, so that automation takes every partition for missing.
    An erasure in one of the two leaves the rows in the other: repeat it there.

    Example: `pattern-platform namespace create trial --like main`
    """
    from pattern_platform.operations.namespaces.clone import clone  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.operations.namespaces.life import create as create_empty  # noqa: PLC0415
    from pattern_platform.operations.namespaces.objects import copy_lake  # noqa: PLC0415

    with refusals():
        settings = Settings()
        target, branch = Namespace(name, settings.data), _branch_of(name)
        if like is None:
            if copy or with_runs:
                message = "it says how a clone is made; name what to clone with --like"
                raise typer.BadParameter(message, param_hint="--copy" if copy else "--with-runs")
            create_empty(target, branch)
            console.print(f"namespace {name} is there, empty: {target.root}", soft_wrap=True)
            return
        source = Namespace(like, settings.data)
        mark, taken = clone(source, target, branch=branch, copy=copy, with_runs=with_runs)
        places = settings.stored(like), settings.stored(name)
        stored = copy_lake(places[0] / "lake", places[1] / "lake") if places[0] and places[1] else None
    console.print(f"namespace {name} is there, like {like}: {target.root}", soft_wrap=True)
    for table, version in (mark.cloned_from or {})["tables"].items():
        console.print(f"  {table} at version {version}", highlight=False, soft_wrap=True)
    console.print(f"referenced (hard links): {taken.linked} files, {decimal(taken.linked_bytes)}")
    console.print(f"copied: {taken.copied} files, {decimal(taken.copied_bytes)}")
    if stored:
        console.print(f"copied in the object store: {stored.objects} objects, {decimal(stored.size)}")


@app.command()
def drop(name: Name, *, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete a namespace with its tables, DuckDB files, exports and runs.

    Refused for main and other namespaces that serve, and while runs or writers are at work in it.

    Example: `pattern-platform namespace drop trial`
    """
    from pattern_platform.operations.namespaces.life import drop as drop_namespace  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.operations.namespaces.objects import remove_lake  # noqa: PLC0415

    with refusals():
        settings = Settings()
        namespace, stored = Namespace(name, settings.data), settings.stored(name)
        if not yes:
            places = f"{namespace.root} and {stored}" if stored else namespace.root
            typer.confirm(f"Delete {places} with all that they keep?", abort=True)
        drop_namespace(namespace)
        if stored:
            remove_lake(stored)
    console.print(f"namespace {name} is gone")


@app.command()
def current(
    *,
    make: Annotated[
        bool, typer.Option("--make", help="Make its folder where there is none, and the dagster.yaml.")
    ] = False,
    dagster_home: Annotated[bool, typer.Option("--dagster-home", help="Print that folder alone.")] = False,
) -> None:
    """Show the namespace of this checkout, and where it is.

    It is PATTERN_PLATFORM_NAMESPACE, else made from the git branch, else main.
    """
    from pattern_platform.commands.configuration import write_instance_file  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.operations.namespaces.life import opened  # noqa: PLC0415

    with refusals():
        settings = Settings()
        namespace = Namespace(settings.namespace, settings.data)
        if make:
            opened(namespace, _branch_of(namespace.name))
            write_instance_file(settings)
    if dagster_home:
        typer.echo(settings.dagster_home)
        return
    console.print(f"{namespace.name} ({namespace.kind})")
    console.print(f"tables: {namespace.root}\nDAGSTER_HOME: {settings.dagster_home}", soft_wrap=True)


def _branch_of(name: str) -> str | None:
    """The branch whose namespace has a name; that of this checkout where there are no others."""
    known = {current_branch(home()), *(local_branches(home()) or ())}
    return next((branch for branch in known if branch and namespace_of_branch(branch) == name), None)
