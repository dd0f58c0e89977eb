"""What every process says, as JSON lines in one folder: ``date=YYYY-MM-DD/hour=HH/<process>-<pid>.jsonl``, in UTC.

The path is the index: a question about the last two hours opens three folders. A file has one writer, which appends
whole lines, so nothing is locked and a killed process loses no line that it had written.

Runs are covered by ``dagster.yaml``, for every code location and every way of launching them::

    python_logs:
      managed_python_loggers: [pattern_platform]
      dagster_handler_config:
        handlers:
          json: {class: pattern_platform.orchestration.json_logs.JsonLogHandler, folder: data/logs, namespace: main}

The daemon and the webserver are covered by the run coordinator, which both load, a code server by its definitions: each
calls :func:`install`. ``pattern-platform namespace current --make`` writes all of that into the ``dagster.yaml``.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
import traceback
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from pattern_platform.orchestration.failures import message_of, root_cause
from pattern_platform.orchestration.partition_tags import PARTITION, RANGE_END, RANGE_START

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RANGE = "..."  # between the first and the last partition of a run over several
TIME = "%Y-%m-%dT%H:%M:%S"
_HOUR = "date=%Y-%m-%d/hour=%H"
_LONGEST_TEXT = 50_000  # characters of a message, and of a stack: a line stays below what readers take
_SIGNS = {"webserver": "webserver", "daemon": "daemon", "grpc": "code-server", "code-server": "code-server"}
_assets_of_steps: dict[str, list[str]] = {}


class JsonLogHandler(logging.Handler):
    """Append each record as a line of JSON. What cannot be written is lost, and fails nothing.

    Args:
        folder: Folder of the logs.
        namespace: Of the platform.
        process: What writes: ``run``, ``daemon``, ``webserver``, ``code-server``.
    """

    def __init__(self, folder: str, namespace: str, process: str = "run") -> None:
        super().__init__()
        self._file = _file_of(Path(folder), process)
        self._about = {"process": process, "namespace": namespace}

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, at once and whole."""
        try:
            moment = datetime.fromtimestamp(record.created, UTC)
            line = {"time": f"{moment:{TIME}}.{moment.microsecond // 1000:03}Z", **_said(record), **self._about}
            known = {key: value for key, value in (line | _context(record)).items() if value is not None}
            self._file.append(moment, json.dumps(known, separators=(",", ":"), default=str))
        except Exception:  # noqa: BLE001 - as every handler of the standard library: a run goes on without its log
            self.handleError(record)


class _File:
    """The file of this process and this hour. A write of a whole line to an appended file is one: no lock is needed."""

    def __init__(self, folder: Path, process: str) -> None:
        self._folder, self._process = folder, process
        self._opened: tuple[Path, Any] | None = None

    def append(self, moment: datetime, line: str) -> None:
        path = self._folder / f"{moment:{_HOUR}}" / f"{self._process}-{os.getpid()}.jsonl"
        opened = self._opened
        if opened is None or opened[0] != path:  # another hour, or a process that was forked
            path.parent.mkdir(parents=True, exist_ok=True)
            self._opened = opened = path, path.open("ab", buffering=0)
        opened[1].write(f"{line}\n".encode())


@cache
def _file_of(folder: Path, process: str) -> _File:
    """One file for all handlers of a process: Dagster makes a handler for each run."""
    return _File(folder, process)


def install(folder: str, namespace: str, process: str | None = None) -> None:
    """Have this process write what is logged outside of runs, by Dagster, the platform and libraries.

    Nothing is done in a process that is none of the three: the lines of a run are those of the handler in
    ``dagster.yaml``, which knows the run.

    Args:
        folder: Folder of the logs.
        namespace: Of the platform.
        process: ``daemon``, ``webserver`` or ``code-server``; found out when absent.
    """
    process = process or _process()
    if process is None:
        return
    # Dagster sets up its own loggers anew when its programs begin. What they say passes the root, which it leaves
    # alone; what the server of its webserver says does not.
    for logger in (logging.getLogger(), logging.getLogger("uvicorn")):
        if not any(isinstance(known, JsonLogHandler) for known in logger.handlers):
            logger.addHandler(JsonLogHandler(folder, namespace, process))


def note_assets(definitions: Iterable[dg.AssetsDefinition]) -> None:
    """Remember which assets a step makes or checks, where its name does not say it.

    Args:
        definitions: Assets and checks of the code location.
    """
    for definition in definitions:
        if definition.is_executable:
            keys = {*definition.keys, *(check.asset_key for check in definition.check_keys)}
            _assets_of_steps[definition.node_def.name] = sorted(key.to_user_string() for key in keys)


def _process() -> str | None:
    if multiprocessing.parent_process() is not None:
        return None  # a run, which its code server has started
    program = " ".join([*Path(sys.argv[0]).parts[-2:], *sys.argv[1:3]])
    return next((name for sign, name in _SIGNS.items() if sign in program), None)


def _said(record: logging.LogRecord) -> dict[str, Any]:
    """The level, the logger and the message; a failed check counts as its severity, which Dagster logs as DEBUG."""
    about: Mapping[str, Any] = getattr(record, "dagster_meta", {})
    event: dg.DagsterEvent | None = about.get("dagster_event")
    message = about["orig_message"] if "orig_message" in about else record.getMessage()
    data, level = event.event_specific_data if event else None, record.levelname
    if isinstance(data, dg.AssetCheckEvaluation) and not data.passed:
        level = "WARNING" if data.severity is dg.AssetCheckSeverity.WARN else "ERROR"
    return {"level": level, "logger": record.name, "message": message[:_LONGEST_TEXT]}


def _context(record: logging.LogRecord) -> dict[str, Any]:
    """Run, job, step, assets, partition, event and error of a record, None where it has none."""
    about: Mapping[str, Any] = getattr(record, "dagster_meta", {})
    event: dg.DagsterEvent | None = about.get("dagster_event")
    step: str | None = about.get("step_key")
    return {
        "run_id": about.get("run_id"),
        "job": about.get("job_name"),
        "asset": _assets(event, step),
        "partition": (event.partition if event else None) or partition_of_run(about.get("job_tags") or {}),
        "step": step,
        "event": event.event_type_value if event else None,
        "error": _error(record, event),
    }


def _assets(event: dg.DagsterEvent | None, step: str | None) -> list[str] | None:
    data = event.event_specific_data if event else None
    if isinstance(data, dg.AssetCheckEvaluation):
        return [data.asset_key.to_user_string()]
    if event and event.asset_key:
        return [event.asset_key.to_user_string()]
    return None if step is None else assets_of_step(step)


def assets_of_step(step: str) -> list[str]:
    """The assets that a step makes or checks; the one that its name says, where its code location noted none."""
    node = step.partition(".")[0].partition("[")[0]  # a step of a graph, or one of several of an op
    return _assets_of_steps.get(node) or [node.replace("__", "/")]


def partition_of_run(tags: Mapping[str, str]) -> str | None:
    """The partition of a run, or the first and the last of several; None for a run without."""
    if RANGE_START in tags and RANGE_END in tags:
        return f"{tags[RANGE_START]}{RANGE}{tags[RANGE_END]}"
    return tags.get(PARTITION)


def _error(record: logging.LogRecord, event: dg.DagsterEvent | None) -> dict[str, str | None] | None:
    error = getattr(event.event_specific_data, "error", None) if event else None
    if error is not None:
        cause = root_cause(error)
        stack = "".join(error.stack) + (f"\n{cause.to_string()}" if cause is not error else "")
        said = message_of(cause)[:_LONGEST_TEXT]
        return {"type": cause.cls_name, "message": said, "stack": stack[:_LONGEST_TEXT]}
    if record.exc_info and (raised := record.exc_info[1]):
        stack = "".join(traceback.format_exception(raised))
        return {"type": type(raised).__name__, "message": str(raised)[:_LONGEST_TEXT], "stack": stack[-_LONGEST_TEXT:]}
    return None
