"""`pattern-platform logs`, `metrics` and `lineage`: what the platform did, for people and for other tools."""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pattern_platform.commands.console import console, refusals
from pattern_platform.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import dagster as dg

app = typer.Typer()
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
_LONGEST_ID = 8
_SECONDS_BETWEEN_LOOKS = 0.5
_LOCATIONS = ("pattern_platform.definitions", "pattern_platform.dashboards.definitions")


def parse_duration(text: str | timedelta) -> timedelta:
    """A duration as ``30m``, ``2h`` or ``1d``; typer also passes the default through here.

    Raises:
        typer.BadParameter: It is none.
    """
    if isinstance(text, timedelta):
        return text
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", text)
    if not found:
        message = f"{text!r} is no duration; write a whole number of minutes, hours or days, as 30m, 2h or 1d"
        raise typer.BadParameter(message)
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def parse_level(text: str) -> str:
    """A log level, in any case.

    Raises:
        typer.BadParameter: It is none.
    """
    from pattern_platform.operations.logs import LEVELS  # noqa: PLC0415 - keeps --help fast

    if text.lower() not in LEVELS:
        message = f"{text!r} is no level; there are {', '.join(LEVELS)}"
        raise typer.BadParameter(message)
    return text.lower()


Last = Annotated[timedelta, typer.Option(parser=parse_duration, metavar="DURATION", help="How far back, as 30m, 2h.")]


@app.command()
def logs(
    asset: Annotated[str | None, typer.Option(help="Key of an asset, as `clean/visits`, or its last part.")] = None,
    level: Annotated[
        str, typer.Option(parser=parse_level, metavar="LEVEL", help="This level and above: debug, info, ... critical.")
    ] = "info",
    partition: Annotated[str | None, typer.Option(help="Partition key, as `2024-05-07`.")] = None,
    run: Annotated[str | None, typer.Option(help="A run id, or how it begins.")] = None,
    last: Last = timedelta(hours=1),
    limit: Annotated[int, typer.Option(min=1, help="The most lines; the newest are shown.")] = 1_000,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="The lines as they were written.")] = False,
) -> None:
    """Show what runs, daemon, webserver and code servers logged, the newest last.

    Example: `pattern-platform logs --asset visits --level error --last 2h`
    """
    from pattern_platform.operations.logs import LogQuery  # noqa: PLC0415 - keeps --help fast
    from pattern_platform.operations.shared_logs import fetch_logs  # noqa: PLC0415

    query = LogQuery(last=last, level=level, asset=asset, partition=partition, run=run, limit=limit)
    with refusals():
        settings = Settings()
        if stored := settings.stored(settings.namespace):
            fetch_logs(stored / "logs", settings.logs, gethostname(), datetime.now(UTC) - last)
        lines = query.lines(settings.logs)
    for line in lines:
        if as_json:
            typer.echo(line)
        else:
            _show(json.loads(line))
    if not lines:
        typer.echo("no such lines; ask for a longer time with --last, or a lower --level", err=True)
    if len(lines) == limit:
        typer.echo(f"these are the newest {limit} lines; there may be more, see --limit", err=True)


@app.command()
def share_logs() -> None:
    """Put the logs of this host on the object store, where `logs` of any host finds them. For a timer, every minute.

    Example: `pattern-platform share-logs`
    """
    from pattern_platform.operations.shared_logs import put_logs  # noqa: PLC0415 - keeps --help fast

    with refusals():
        settings = Settings()
        stored = settings.stored(settings.namespace)
        if stored is None:
            message = "there is no object store to share on: see storage in platform.yaml, and docs/object-stores.md"
            raise typer.BadParameter(message)
        count = put_logs(settings.logs, stored / "logs", gethostname())
    console.print(f"{count} file(s) were put below {stored}/logs", soft_wrap=True)


def _show(line: dict[str, Any]) -> None:
    colour = _COLOURS.get(line["level"])
    about = [line["process"], line.get("run_id", "")[:_LONGEST_ID], *line.get("asset", ()), line.get("partition")]
    text = f"{line['time']} {line['level']:<8} {' '.join(filter(None, about))}: {line['message']}"
    if error := line.get("error"):
        text += f"\n  {error['type']}: {error['message']}"
    console.print(text, style=colour, markup=False, highlight=False, soft_wrap=True)


Output = Annotated[Path | None, typer.Option(help="Write to this file, not to the terminal.", dir_okay=False)]


@app.command()
def metrics(
    output: Output = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve them at /metrics of this port, until Ctrl-C.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to serve them at; 0.0.0.0 for all.")] = "127.0.0.1",
) -> None:
    """Show rows, rejects, lateness, durations, waits, freshness and cost of each asset, as OpenMetrics for Prometheus.

    Example: `pattern-platform metrics --port 9108`
    """
    from pattern_platform.operations.metrics import exposition, serve  # noqa: PLC0415 - keeps --help fast

    if output and port:
        message = "give --output for a file or --port for a server, not both"
        raise typer.BadParameter(message)
    with refusals(), _instance() as instance:
        settings = Settings()
        options = settings.storage.options
        if port is None:
            _write(exposition(instance, settings.namespace, options).decode(), output)
            return
        server, thread = serve(instance, settings.namespace, port, host=host, storage_options=options)
        console.print(f"metrics at http://{host}:{server.server_port}/metrics, until Ctrl-C")
        try:
            while thread.is_alive():
                thread.join(_SECONDS_BETWEEN_LOOKS)  # one without an end is not interrupted
        except KeyboardInterrupt:
            server.shutdown()


@app.command()
def lineage(
    run: Annotated[list[str] | None, typer.Option(help="A run id; repeatable. All of --last when absent.")] = None,
    last: Last = timedelta(hours=1),
    output: Output = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Send them to this server, as http://localhost:5000.")
    ] = None,
) -> None:
    """Show what runs read and wrote, as OpenLineage events, one a line (needs `pattern-platform[openlineage]`).

    Example: `pattern-platform lineage --last 1d --url http://localhost:5000`
    """
    if output and url:
        message = "give --output for a file or --url for a server, not both"
        raise typer.BadParameter(message)
    if url and not re.match(r"https?://[^/]", url):
        message = f"{url!r} is no address of a server; write it as http://localhost:5000"
        raise typer.BadParameter(message)
    with refusals(), _instance() as instance:
        from pattern_platform.operations.open_lineage import as_lines, run_events, send  # noqa: PLC0415

        specs = {spec.key: spec for name in _LOCATIONS for spec in import_module(name).defs.resolve_all_asset_specs()}
        namespace = Settings().namespace
        records = _runs(instance, run, last)
        events = [event for record in records for event in run_events(record, instance, specs, namespace)]
        if url:
            console.print(f"{send(events, url)} events of {len(records)} runs sent to {url}")
        else:
            _write(as_lines(events), output)


def _runs(instance: dg.DagsterInstance, ids: Sequence[str] | None, last: timedelta) -> Sequence[dg.RunRecord]:
    import dagster as dg  # noqa: PLC0415 - keeps --help fast

    from pattern_platform.errors import UnknownRunError  # noqa: PLC0415

    if not ids:
        since = datetime.now(UTC) - last
        return instance.get_run_records(dg.RunsFilter(updated_after=since), ascending=True)
    records = instance.get_run_records(dg.RunsFilter(run_ids=list(ids)), ascending=True)
    if unknown := sorted({*ids} - {record.dagster_run.run_id for record in records}):
        raise UnknownRunError(
            f"run(s) {', '.join(unknown)} were refused",
            why="this instance knows no such run",
            mend="give whole run ids, as the UI shows them, or --last 1d",
        )
    return records


@contextmanager
def _instance() -> Generator[dg.DagsterInstance]:
    import dagster as dg  # noqa: PLC0415 - keeps --help fast

    from pattern_platform.errors import NoInstanceError  # noqa: PLC0415

    what, mend = (
        "the history of runs was refused",
        "set DAGSTER_HOME to the absolute path of the folder of dagster.yaml",
    )
    if not os.environ.get("DAGSTER_HOME"):
        raise NoInstanceError(what, why="DAGSTER_HOME is not set", mend=mend)
    try:
        opened = dg.DagsterInstance.get()
    except dg.DagsterError as error:
        raise NoInstanceError(what, why=" ".join(str(error).split()), mend=mend) from error
    with opened as instance:
        yield instance


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    # A reader, as the textfile collector of Prometheus, must never see half of it.
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        unfinished.write_text(text)
        unfinished.replace(output)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        message = f"{output} cannot be written: {error.strerror}; choose another file with --output"
        raise typer.BadParameter(message) from error
