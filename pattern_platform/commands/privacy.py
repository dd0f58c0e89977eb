"""`pattern-platform erase`: the right to be forgotten."""

from __future__ import annotations

from socket import gethostname
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.markup import escape
from rich.table import Column, Table

from pattern_platform.commands.console import console, refusals
from pattern_platform.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pattern_platform.operations.erasure.contents import Erased
    from pattern_platform.patterns.idempotency.keyed_idempotency import KeyedIdempotencyIOManager
    from pattern_platform.warehouse.keyed_store import ServedStore

app = typer.Typer()


@app.command()
def erase(
    subject: Annotated[
        str,
        typer.Option(prompt="Key of the person", help="Key of the person, as the tables hold it; asked for if absent."),
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(help="Column, or field of a record, that holds such a key; those of the settings when not given."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, and who asked, for the receipt; never with the key in it.")] = "",
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show where the person is.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase a person from everything that the namespace keeps, and from the landed files.

    Every table with its older versions, every DuckDB file, every plain file, and the store of the sessions: also what
    no asset defines any more. The person goes on a list first, so that no later run brings them back. At the end
    everything is looked through, and a receipt is kept below `erasures`: exit code 1 where something still names the
    person. A person with several keys (a login, an address) is erased key by key, each with its columns. Totals over
    many people stay. End the runs of the namespace before. Interrupted, the same command goes on.

    Example: `pattern-platform erase --subject user-000017 --reason "case 4711" --dry-run`
    """
    from pattern_platform.lake.subject import Subject  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.operations.erasure.erasure import Erasure  # noqa: PLC0415
    from pattern_platform.operations.shared_logs import fetch_logs  # noqa: PLC0415

    with refusals():
        settings = Settings()
        person = Subject(subject, tuple(column or settings.privacy.subject_columns))
        stored = settings.stored(settings.namespace)
        if stored:
            fetch_logs(stored / "logs", settings.logs, gethostname())  # which are looked through with our own
        lake = stored / "lake" if stored else None
        erasure = Erasure(person, settings.root, settings.landing, _servers(settings), lake)
        found = erasure.find()
        _show(found, "would be erased" if dry_run else "to erase")
        if dry_run:
            return
        if not yes:
            typer.confirm("Erase this for good?", abort=True)
        receipt = erasure.run(reason)
    console.print(f"the receipt is {escape(str(receipt.path))}", soft_wrap=True)
    if receipt.left:
        console.print("[red]left[/] the person is still named in:")
        for where in receipt.left:
            console.print(f"  {where}", markup=False, soft_wrap=True)
        console.print("mend: remove it there, or name the column that holds the key with --column; then run again")
        raise typer.Exit(1)
    console.print(f"nothing is left: {receipt.scanned} tables and files were looked through")


def _servers(settings: Settings) -> list[ServedStore]:
    """The stores that are in no folder."""
    from pattern_platform.resources import warehouse_and_exports  # noqa: PLC0415 - keeps --help fast

    if settings.sessions_url is None:
        return []
    manager = cast("KeyedIdempotencyIOManager", warehouse_and_exports(settings)["keyed_idempotency"])
    return [cast("ServedStore", manager.store)]


def _show(found: Sequence[Erased], title: str) -> None:
    if not found:
        console.print("the person was found nowhere")
        return
    table = Table(Column("place", overflow="fold"), "kind", "rows", "files of all versions", title=title)
    for place in found:
        table.add_row(escape(place.place), place.kind, str(place.rows), str(place.files or ""))
    console.print(table)
    console.print(f"{sum(place.rows for place in found)} row(s) in {len(found)} place(s)")
