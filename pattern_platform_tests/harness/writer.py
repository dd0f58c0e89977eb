"""A process that forks writers: ``python -m pattern_platform_tests.harness.writer <descriptor>``.

Importing Dagster, Polars and delta-rs takes a second, forking a process that has done it a few milliseconds. A writer
is told what to do, a JSON line each, tells when its asset runs and what became of it, and waits for the next. The
imports start no thread that a child would miss; the pools of Polars and delta-rs start with their first work, which is
always a child's.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import warnings
from collections import Counter
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from dagster_deltalake import S3Config
from dagster_deltalake.config import ClientConfig
from deltalake import CommitProperties, DeltaTable, write_deltalake

from pattern_platform.lake.location import root_of
from pattern_platform.lake.maintenance import compact, vacuum
from pattern_platform.lake.version_table import version_table_of
from pattern_platform.patterns.idempotency.data_overwrite import DataOverwriteIOManager
from pattern_platform.patterns.idempotency.merger import MergerIOManager
from pattern_platform.patterns.idempotency.stateful_merger import StatefulMergerIOManager
from pattern_platform_tests.harness import warehouse
from pattern_platform_tests.harness.model import KEYS, WRITERS, digest, read, read_statuses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pattern_platform.lake.object_path import LakePath

MANAGERS = {"overwrite": DataOverwriteIOManager, "merger": MergerIOManager, "stateful": StatefulMergerIOManager}
MERGING = {"merge_keys": ["k"], "soft_delete": "gone", "partition_by": ["g"]}
SCHEMAS = {
    kind: {c: pl.String if c in "pg" else pl.Boolean if c == "gone" else pl.Int64 for c in columns}
    for kind, (_, columns) in WRITERS.items()
}
TABLE = "table"
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
NO_TIME = timedelta(0)
_LOOK, _LOOK_FAR = 0.0005, 0.02  # seconds between two looks for a commit, on a disk and on an object store

Message = dict[str, Any]


class Channel:
    """JSON lines to and from the process that asks."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._lines = connection, connection.makefile("r")

    def send(self, **message: object) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def __iter__(self) -> Iterator[Message]:
        return (json.loads(line) for line in self._lines)

    def waiting(self) -> bool:
        """Whether there is a message, or nobody listens any more."""
        return bool(select.select([self._connection], [], [], 0)[0])


# What a writer does ---------------------------------------------------------------------------------------------------


@cache
def instance() -> dg.DagsterInstance:
    """Made before the first fork; a child has a copy of it."""
    return dg.DagsterInstance.ephemeral()


def root_of_table(message: Message) -> LakePath:
    """Where a table is, on a disk or an object store."""
    return root_of(message["root"], message.get("store"))


def storage_of(message: Message) -> dict[str, Any]:
    """The same as arguments of an IO manager."""
    if "store" not in message:
        return {"root_uri": message["root"]}
    store = message["store"]
    known = {name: value for name, value in store.items() if name in S3Config.model_fields}
    client = ClientConfig(allow_http=store.get("allow_http") == "True")
    return {"root_uri": message["root"], "storage": S3Config(**known), "client_options": client}


def do(message: Message, channel: Channel) -> Message:
    """One operation, from the message to the answer."""
    table = root_of_table(message) / TABLE
    if message.get("until_told"):
        return maintain_until_told(message, channel)
    if message["do"] == "compact":
        durable = message.get("options", {}).get("durability") == "fsync"
        return {"versions": [made.version for made in compact(table, durable=durable)]}
    if message["do"] == "vacuum":
        return {"removed": vacuum(table, retention=NO_TIME, longest_run=NO_TIME)}
    if message["do"] == "read":
        return read_until_told(table, channel)
    if message["do"] in warehouse.DO:
        return warehouse.DO[message["do"]](message, channel, instance())
    return materialize(message, channel)


def materialize(message: Message, channel: Channel) -> Message:
    """Write a batch through Dagster."""
    kind, keys = message["do"], message["keys"]
    runs: list[str] = []

    @dg.asset(
        name=TABLE,
        partitions_def=dg.StaticPartitionsDefinition(KEYS),
        metadata={"partition_expr": "p", **({} if kind == "overwrite" else MERGING)},
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def asset(context) -> Any:  # noqa: ANN001 - Dagster does not resolve a quoted annotation
        runs.append(context.run.run_id)
        channel.send(run=runs[0], asked=message["id"])
        if by_hand := message.get("by_hand"):
            BY_HAND[by_hand](Path(message["root"]) / TABLE, message, runs[0], channel)
        return pl.DataFrame(message["rows"], schema=SCHEMAS[kind], orient="row")

    manager = MANAGERS[kind](**storage_of(message), **message.get("options", {}))
    result = dg.materialize(
        [asset],
        instance=instance(),
        resources={"io_manager": manager},
        partition_key=keys[0] if len(keys) == 1 else None,
        tags=dict(zip(RANGE_TAGS, (keys[0], keys[-1]), strict=True)) if len(keys) > 1 else None,
    )
    (*_, event) = result.get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    return {"version": metadata["delta/version"].value, "run": runs[0]}


def read_until_told(table: LakePath, channel: Channel) -> Message:
    """Read the table over and over, and tell each state that was seen: from when to when, and how often."""
    os.nice(10)
    versions = version_table_of(table)
    seen: Message = {}
    redone = 0
    while not channel.waiting():
        began = time.monotonic()
        try:
            version, rows = read(table)
            recorded = read_statuses(versions)
        except FileNotFoundError:
            redone += 1  # vacuumed without any retention: the newest version is whole
            if redone < 3:
                continue
            raise
        redone = 0
        state = {"version": version, "rows": digest(rows), "statuses": [row[:2] for row in recorded]}
        if all(seen.get(name) == value for name, value in state.items()):
            seen |= {"last": began, "reads": seen["reads"] + 1}
            continue
        if seen:
            channel.send(**seen)
        seen = {**state, "first": began, "last": began, "reads": 1}
    return seen


def maintain_until_told(message: Message, channel: Channel) -> Message:
    """Compact or vacuum after each commit of somebody else; what failed is counted, with one example of each kind."""
    os.nice(10)
    done, failed, texts = 0, Counter[str](), {}
    once = {**message, "until_told": False}
    log = root_of_table(message) / TABLE / "_delta_log"
    version = 0
    while not channel.waiting():
        if not (log / f"{version:020}.json").exists():
            time.sleep(_LOOK if isinstance(log, Path) else _LOOK_FAR)  # no event of its own marks a commit
            continue
        try:
            do(once, channel)
            done += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            failed[type(error).__name__] += 1
            texts[type(error).__name__] = str(error)[:1000]
        while (log / f"{version:020}.json").exists():
            version += 1
    return {"maintained": done, "failed": failed, "texts": texts}


# Writers that are wrong -----------------------------------------------------------------------------------------------


def _named(message: Message, run: str) -> CommitProperties:
    pattern = WRITERS[message["do"]][0]
    return CommitProperties({"pattern_platform.pattern": pattern, "pattern_platform.run_id": run})


def _frame(message: Message) -> pl.DataFrame:
    frame = pl.DataFrame(message["rows"], schema=SCHEMAS[message["do"]], orient="row")
    return frame.drop("gone", strict=False)


def two_commits(table: Path, message: Message, run: str, _: Channel) -> None:
    """Delete, then append, each a commit that names the run."""
    keys = ", ".join(f"'{key}'" for key in message["keys"])
    DeltaTable(table).delete(f"p IN ({keys})", commit_properties=_named(message, run))
    write_deltalake(table, _frame(message), mode="append", commit_properties=_named(message, run))


def restore_then_merge(table: Path, message: Message, run: str, _: Channel) -> None:
    """Restore, then merge; the second commit names the run."""
    DeltaTable(table).restore(1)
    merger = DeltaTable(table).merge(
        _frame(message), "s.k = t.k", source_alias="s", target_alias="t", commit_properties=_named(message, run)
    )
    merger.when_matched_update_all().when_not_matched_insert_all().execute()


def in_place(table: Path, _message: Message, _run: str, channel: Channel) -> None:
    """Write over a live file, and wait half way to be killed."""
    path = Path(DeltaTable(table).file_uris()[0].removeprefix("file://"))
    os.truncate(path, path.stat().st_size // 2)
    channel.send(half=True)
    signal.pause()


def unlink_first(table: Path, _message: Message, _run: str, _channel: Channel) -> None:
    """Remove the live files, as if they were replaced already."""
    for uri in DeltaTable(table).file_uris():
        Path(uri.removeprefix("file://")).unlink()


def remove_first(table: Path, message: Message, run: str, _: Channel) -> None:
    """Empty the partition in a commit that names the run, and let the platform write it after that."""
    keys = ", ".join(f"'{key}'" for key in message["keys"])
    DeltaTable(table).delete(f"p IN ({keys})", commit_properties=CommitProperties({"was": run}))


BY_HAND: Mapping[str, Callable[[Path, Message, str, Channel], None]] = {
    "two_commits": two_commits,
    "restore_then_merge": restore_then_merge,
    "in_place": in_place,
    "remove_first": remove_first,
    "unlink_first": unlink_first,
}


# Faults ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def faulty(fault: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Have the k-th file operation under a folder fail inside. What is yielded tells afterwards which it was."""
    told: dict[str, Any] = {}
    if fault is None:
        yield told
    elif fault["by"] == "shim":
        shim = ctypes.CDLL(None)
        shim.shim_arm(os.fsencode(fault["under"]), fault["k"], fault["errno"], fault["mode"])
        try:
            yield told
        finally:
            shim.shim_disarm()
            shim.shim_what.restype = ctypes.c_char_p
            told |= {"count": shim.shim_count(), "what": os.fsdecode(shim.shim_what() or b"")}
    elif fault["by"] == "hook":
        with _hooked(fault, told):
            yield told
    else:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["k"], resource.RLIM_INFINITY))
        try:
            yield told
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


_HOOKED = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.listdir", "os.scandir", "os.truncate"}
_hook: dict[str, Callable[[str, object], None]] = {}


@contextlib.contextmanager
def _hooked(fault: Mapping[str, Any], told: dict[str, Any]) -> Iterator[None]:
    """The operations that Python sees: its audit events, ``stat`` and ``fsync``."""
    told |= {"count": 0, "what": ""}

    def count(name: str, path: object) -> None:
        known = isinstance(path, str | bytes | os.PathLike)
        if name == "fsync" or (known and os.fsdecode(path).startswith(fault["under"])):
            told["count"] += 1
            if told["count"] == fault["k"] or (fault["mode"] == 1 and told["count"] > fault["k"]):
                told["what"] = told["what"] or f"{name} {path}"
                raise OSError(fault["errno"], os.strerror(fault["errno"]), str(path))

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: object, *args: Any, **kwargs: Any) -> Any:
            count(name, path)
            return real(path, *args, **kwargs)

        return call

    if not _hook:
        sys.addaudithook(lambda name, args: _hook["count"](name, args[0]) if name in _HOOKED else None)
    _hook["count"] = count
    real = os.stat, os.fsync
    os.stat, os.fsync = counted("stat", os.stat), counted("fsync", os.fsync)
    try:
        yield
    finally:
        os.stat, os.fsync = real
        _hook["count"] = lambda *_: None


# The processes --------------------------------------------------------------------------------------------------------


def serve(channel: Channel) -> None:
    """Do what is asked until nobody asks any more."""
    channel.send(pid=os.getpid())
    for message in channel:
        if (at := message.get("at")) is not None:
            while time.monotonic() < at:  # all writers of a round begin in the same microsecond
                pass
        told: dict[str, Any] = {}
        try:
            with faulty(message.get("fault")) as told:
                answer = do(message, channel)
            answer = {"done": message["id"], **answer}
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
            answer = {"done": message["id"], "error": type(error).__name__, "text": str(error)[:2000]}
        channel.send(**answer, moment=time.monotonic(), fault=told)


def main() -> None:
    """Fork a writer for each connection that is handed over."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    faulthandler.register(signal.SIGUSR1)
    # What a first run imports late, every child would import again.
    dg.materialize([dg.asset(name="nothing")(lambda: None)], instance=instance())
    gc.freeze()
    server = socket.socket(fileno=int(sys.argv[1]))
    while True:
        data, descriptors, *_ = socket.recv_fds(server, 16, 1)
        if not data:
            return
        connection = socket.socket(fileno=descriptors[0])
        if os.fork() == 0:
            server.close()
            with contextlib.suppress(ConnectionError):  # nobody asks any more
                serve(Channel(connection))
            os._exit(0)
        connection.close()


if __name__ == "__main__":
    main()
