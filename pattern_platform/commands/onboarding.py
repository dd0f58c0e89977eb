"""`pattern-platform registry` and `schema`: what is onboarded, and what is agreed on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pattern_platform.commands.console import console, refusals

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dataframely as dy

    from pattern_platform.ingestion.registry.contract_diff import Difference

registry = typer.Typer(help="The registry of data sets.", no_args_is_help=True)
schema = typer.Typer(help="Contracts and the columns of tables.", no_args_is_help=True)


@registry.command("validate")
def validate_registry(
    path: Annotated[Path | None, typer.Argument(help="The registry; the configured one when absent.")] = None,
) -> None:
    """Check every row of the registry, with its contract; exit code 1 where one is wrong.

    Example: `pattern-platform registry validate data/registry.csv`
    """
    from pattern_platform.ingestion.registry.rows import parse_registry  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.settings import Settings  # noqa: PLC0415

    with refusals():
        settings = Settings()
    file = path or settings.registry
    datasets, mistakes = parse_registry(file, retention_days=settings.privacy.retention_days)
    for mistake in mistakes:
        console.print(f"[red]refused[/] {file.name}, ", end="")
        console.print(str(mistake), markup=False, soft_wrap=True)
    table = Table("data set", "stages", "partitions", "contract", "personal data", title=str(file))
    for dataset in datasets.values():
        kept = f"{', '.join(dataset.personal_data)}: {dataset.retention_days} days" if dataset.personal_data else ""
        partitions = type(dataset.partitions).__name__.removesuffix("PartitionsDefinition").lower()
        partitions = partitions if dataset.partitions else "none"
        table.add_row(dataset.name, dataset.stage, partitions, dataset.contract_name or "none", kept)
    console.print(table)
    if mistakes:
        raise typer.Exit(1)


@registry.command("infer")
def infer_dataset(
    file: Annotated[Path, typer.Argument(help="A landed file.")],
    name: Annotated[str | None, typer.Option(help="Name of the data set; that of its folder when absent.")] = None,
    owner: Annotated[str, typer.Option(help="Who answers for it.")] = "team:data",
    contract: Annotated[Path | None, typer.Option(help="Write the contract to this file.")] = None,
) -> None:
    """Draft the row of the registry and the contract for a file, and say what a person must decide.

    Example: `pattern-platform registry infer data/landing/sales/date=2024-05-06/sales.csv`
    """
    from pattern_platform.ingestion.registry.infer import infer  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.settings import Settings  # noqa: PLC0415

    with refusals():
        landing = Settings().landing.resolve()
    path = file.resolve()
    folder = path.relative_to(landing).parts[0] if path.is_relative_to(landing) else path.name
    called = name or folder.partition(".")[0].lower().replace("-", "_").replace(" ", "_")
    with refusals():
        draft = infer(path, landing, name=called, owner=owner)
    typer.echo(draft.row)
    if contract:
        contract.parent.mkdir(parents=True, exist_ok=True)
        contract.write_text(draft.contract)
    else:
        typer.echo(f"# {draft.contract_name}, beside the registry\n{draft.contract}")
    for doubt in draft.doubts:
        console.print(f"[yellow]look at[/] {doubt}", soft_wrap=True)


Version = Annotated[
    str,
    typer.Argument(help="A contract file, REVISION:FILE of git, package.module:Class, or a table as clean/visits[@3]."),
]


@schema.command("diff")
def diff_schemas(old: Version, new: Version) -> None:
    """Compare two versions of a contract, or of a table; exit code 1 where they are not compatible.

    Example: `pattern-platform schema diff main:data/contracts/comments.yaml data/contracts/comments.yaml`
    """
    with refusals():
        differences = _differences(old, new)
    for difference in differences:
        told = "[green]compatible[/]" if difference.is_compatible else f"[red]not compatible[/], {difference.why}"
        console.print(difference.what, markup=False, end="  ", soft_wrap=True)
        console.print(told, soft_wrap=True)
    breaking = [difference for difference in differences if not difference.is_compatible]
    console.print(f"{len(differences)} difference(s), {len(breaking)} of them not compatible")
    if breaking:
        raise typer.Exit(1)


@schema.command("history")
def show_history(table: Annotated[str, typer.Argument(help="Key of an asset of the lake, as `clean/visits`.")]) -> None:
    """Show which columns a table got when.

    Example: `pattern-platform schema history clean/comments`
    """
    from pattern_platform.ingestion.registry.contract_diff import schema_diff  # noqa: PLC0415 - keeps --help fast

    with refusals():
        history = _history(table)
    before: dict = {}
    for made in history:
        console.print(f"[bold]version {made.version}[/], {made.committed_at:%Y-%m-%d %H:%M}")
        for difference in schema_diff(before, made.schema):
            console.print(f"  {difference.what}", markup=False, soft_wrap=True)
        before = made.schema


def _differences(old: str, new: str) -> Sequence[Difference]:
    from pattern_platform.ingestion.registry.contract_diff import contract_diff, schema_diff  # noqa: PLC0415

    if _is_table(old) or _is_table(new):
        return schema_diff(*(_columns(version) for version in (old, new)))
    return contract_diff(_contract(old), _contract(new))


def _is_table(version: str) -> bool:
    return ":" not in version and not version.endswith((".yaml", ".yml"))


def _columns(version: str) -> dict:
    import polars as pl  # noqa: PLC0415 - keeps --help fast

    if not _is_table(version):
        types = pl.Schema(_contract(version))
        return {name: pl.String() if isinstance(dtype, pl.Enum) else dtype for name, dtype in types.items()}
    from pattern_platform.errors import MissingVersionError  # noqa: PLC0415 - keeps --help fast

    name, _, number = version.partition("@")
    if number and not number.isdecimal():
        message = f"{version!r}: a version is a number, as {name}@3"
        raise typer.BadParameter(message)
    history = _history(name)
    found = [made for made in history if not number or made.version <= int(number)]
    if not found or (number and int(number) > _newest(name)):
        raise MissingVersionError(
            f"{version!r} was refused",
            why=f"the log has the versions {history[0].version} to {_newest(name)}",
            mend="name one of these",
        )
    return dict(found[-1].schema)


def _newest(name: str) -> int:
    from pattern_platform.lake.snapshot import open_table  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.settings import Settings  # noqa: PLC0415

    snapshot = open_table(Settings().lake.joinpath(*name.split("/")))
    return snapshot.version if snapshot else -1


def _history(name: str) -> list:
    from pattern_platform.errors import MissingTableError  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.lake.schema_history import schema_history  # noqa: PLC0415
    from pattern_platform.settings import Settings  # noqa: PLC0415

    found = schema_history(Settings().lake.joinpath(*name.split("/")))
    if not found:
        raise MissingTableError(
            f"{name!r} was refused", why="there is no such table in the lake", mend="name one as clean/visits"
        )
    return found


def _contract(reference: str) -> type[dy.Schema]:
    from pattern_platform.ingestion.registry.contract_file import load_contract, parse_contract, refused  # noqa: PLC0415

    revision, colon, path = reference.partition(":")
    if not (colon and path.endswith((".yaml", ".yml"))):
        return load_contract(reference, Path.cwd())
    shown = subprocess.run(["git", "show", reference], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if shown.returncode:
        raise refused(reference, [f"git knows no {path} at {revision}: {shown.stderr.strip()}"])
    return parse_contract(shown.stdout, path)
