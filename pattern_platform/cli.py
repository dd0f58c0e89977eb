"""The ``pattern-platform`` command."""

from __future__ import annotations

import typer

from pattern_platform.commands import (
    catalogue,
    check,
    configuration,
    doctor,
    generate,
    namespaces,
    observe,
    onboarding,
    privacy,
    runs,
    tables,
)

app = typer.Typer(help="A Dagster data platform on Delta Lake.", no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(runs.app)
app.add_typer(tables.app)
app.add_typer(privacy.app)
app.add_typer(catalogue.app)
app.add_typer(check.app)
app.add_typer(observe.app)
app.add_typer(doctor.app)
app.add_typer(generate.app, name="generate")
app.add_typer(namespaces.app, name="namespace")
app.add_typer(configuration.config, name="config")
app.add_typer(onboarding.registry, name="registry")
app.add_typer(onboarding.schema, name="schema")

if __name__ == "__main__":
    app()
