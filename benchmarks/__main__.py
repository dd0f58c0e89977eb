"""``python -m benchmarks``: one table of ratios, each with its goal."""

from __future__ import annotations

import json
import tempfile
from enum import Enum
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import growth, memory, merge, peers, read, runs, spark_engine, stateful, units, write
from benchmarks.measure import Bench, Load, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

_CASES = {
    "write": write.run,
    "read": read.run,
    "growth": growth.run,
    "memory": memory.run,
    "peers": peers.run,
    "merge": merge.run,
    "stateful": stateful.run,
    "units": units.run,
    "runs": runs.run,
    "spark": spark_engine.run,
}
_WITH_PEER = {"memory", "peers"}
_ROUNDS, _QUICK_ROUNDS = 9, 3
_WIDTH = 190  # of the table where the output is no terminal

Case = Enum("Case", {name: name for name in _CASES})


def main(
    *,
    quick: Annotated[bool, typer.Option(help="Fewer rounds and comparisons; for a look, not for a README.")] = False,
    only: Annotated[list[Case] | None, typer.Option(help="Run this case alone; may be repeated.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each side is measured.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the samples here.")] = None,
    directory: Annotated[Path | None, typer.Option(help="Where the temporary tables go.")] = None,
) -> None:
    """Measure the platform side by side with what it is compared to, and print the ratios."""
    chosen = [case.value for case in only or Case]
    console, load = Console(), Load()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="pattern-platform-", dir=directory, ignore_cleanup_errors=True) as folder:
        peer = peers.Peer.start(Path(folder, "peer")) if _WITH_PEER & set(chosen) else None
        bench = Bench(Path(folder), rounds or (_QUICK_ROUNDS if quick else _ROUNDS), quick, peer)
        try:
            for name in chosen:
                with console.status(name):
                    rows.extend(_CASES[name](bench))
        finally:
            if peer:
                peer.stop()
            load.stop()
            console.print(_table(rows))
            console.print(str(load))
    if json_file:
        json_file.write_text(json.dumps({"load": str(load), "rows": [_plain(row) for row in rows]}, indent=1) + "\n")


def _table(rows: Sequence[Row]) -> Table:
    title = "Ours / theirs: median over the rounds of the ratio within a round"
    table = Table("case", "against", title=title, box=box.SIMPLE_HEAD)
    for column in ("ours: median (min)", "theirs: median (min)", "rounds", "ratio", "from-to", "CPU ratio", "goal"):
        table.add_column(column, justify="right")
    table.add_column("met")
    for row in rows:
        spread = f"{min(row.ratios):.2f}-{max(row.ratios):.2f}" if row.ratios else ""
        table.add_row(
            row.case,
            row.against,
            _summary(row, ours=True),
            _summary(row, ours=False),
            str(len(row.ours)),
            row.note if row.ratio is None else f"{row.ratio:.2f}",
            spread,
            "" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}",
            "" if row.goal is None else f"<= {row.goal:g}",
            "" if row.met is None else "yes" if row.met else "NO",
        )
    return table


def _summary(row: Row, *, ours: bool) -> str:
    values = [sample.value for sample in (row.ours if ours else row.base)]
    return f"{median(values):,.1f} ({min(values):,.1f}) {row.unit}" if values else ""


def _plain(row: Row) -> dict[str, object]:
    return {
        "case": row.case,
        "against": row.against,
        "unit": row.unit,
        "ratio": row.ratio,
        "cpu_ratio": row.cpu_ratio,
        "goal": row.goal,
        "met": row.met,
        "note": row.note,
        "ours": [[sample.value, sample.cpu] for sample in row.ours],
        "theirs": [[sample.value, sample.cpu] for sample in row.base],
    }


if __name__ == "__main__":
    typer.run(main)
