"""The ``pattern-platform`` command."""

from __future__ import annotations

import typer

from pattern_platform.commands import generate, runs, tables

app = typer.Typer(help="A Dagster data platform on Delta Lake.", no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(runs.app)
app.add_typer(tables.app)
app.add_typer(generate.app, name="generate")

if __name__ == "__main__":
    app()
