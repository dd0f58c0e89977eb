"""Writers that are killed at random moments of a write, while somebody reads (F7, F8, F15, F16, F21).

Moments are chosen among what happens in the folder: the n-th time that a file appears, is written or goes, and up to
some milliseconds after it. After each kill the table opens, it is what its log says, the lock is free, the report of
orphans names what the dead left; then the same operation is repeated by a new process, which may be killed again. Every
state that a reader saw is one that a commit made, whole. In the end everything is as in a run that nobody disturbed.
"""

from __future__ import annotations

import random
import select
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import filelock
import pytest
from deltalake import DeltaTable, write_deltalake

from pattern_platform import read_version_table
from pattern_platform.lake.lock import _LOCK_FILE
from pattern_platform.lake.maintenance import orphans
from pattern_platform.lake.object_path import storage_options
from pattern_platform.lake.version_table import version_table_of
from pattern_platform_tests.harness.model import (
    WRITERS,
    History,
    Operation,
    State,
    Violation,
    check_orphans,
    digest,
    read,
    read_statuses,
)
from pattern_platform_tests.harness.processes import Died, Watch, Writer, Zygote, needs_linux, spin
from pattern_platform_tests.harness.workload import next_operation, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pattern_platform.lake.object_path import LakePath

pytestmark = needs_linux
KINDS = [*WRITERS, "compact", "vacuum"]
SETTINGS = {"options": {"table_properties": {"delta.checkpointInterval": "4"}}}
_KILLS_OF_A_TABLE = 20
_ENOUGH = 100  # kills, to reach every stage
_DELAYS = (0.0, 0.0, 0.0002, 0.001, 0.003)


@dataclass
class Table:
    """A table, those who write and read it, and what is known of it."""

    zygote: Zygote
    root: LakePath
    kind: str
    rng: random.Random
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.root.mkdir()
        self.path = self.root / "table"
        self.history = History(self.path)
        self.done: list[Operation] = []
        self.acknowledged: list[tuple[float, int]] = []
        self.orphans: set[str] = set()
        self.usual = 12  # events of an operation
        self.watch = self._watch()
        self.reader = self.zygote.fork()
        self.reader.ask("read", self.root)

    def _watch(self) -> Any:
        return Watch(self.root)

    def close(self) -> None:
        self.watch.close()
        self.reader.close()

    # One operation, or as much of it as there was time for ------------------------------------------------------------

    def attempt(self, writer: Writer, operation: Operation, *, kill: bool, **more: object) -> dict[str, Any] | None:
        """The answer, or None when the writer was killed."""
        self.watch.drain()
        nth = self.rng.randint(0, self.usual) if kill else 10**9
        delay = self.rng.choice(_DELAYS) if nth else self.rng.uniform(0, 0.05)
        asked = writer.ask(operation, self.root, **SETTINGS, **more)
        try:
            answer = self._until(writer, nth)
        except Died:
            raise Violation("a writer died that nobody killed") from None
        if answer is None:
            spin(delay)
            for message in writer.kill():
                answer = message if "done" in message else answer
                writer.note(message)
        if run := writer.runs.get(asked):
            self.history.asked[run] = operation
        if answer is None:
            self._look_at_the_dead()
        elif "error" in answer:
            raise Violation(f"{operation.kind} failed: {answer['error']} {answer['text']}")
        else:
            self._acknowledge(answer, run)
            if kill:
                self.happened["killed after the answer"] += 1
        return answer

    def _until(self, writer: Writer, nth: int) -> dict[str, Any] | None:
        """Wait for the answer, or for the n-th event."""
        events = 0
        while events < nth:
            select.select([writer, self.watch], [], [], 100)
            events += sum(1 for _ in self.watch.events())
            while writer.messages or select.select([writer], [], [], 0)[0]:
                message = writer.receive()
                if "done" in message:
                    self.usual = max(6, (self.usual + events) // 2)
                    if nth == 10**9:
                        return message
                    writer.messages.appendleft(message)
                    return None
                writer.note(message)
        return None

    # What must be true afterwards -------------------------------------------------------------------------------------

    def _acknowledge(self, answer: dict[str, Any], run: str | None) -> None:
        if run:
            self.history.check_acknowledged(run, answer["version"])
            self.acknowledged.append((answer["moment"], answer["version"]))
        self.check()
        if self.history.state.records:
            self.check_version_table()

    def _look_at_the_dead(self) -> None:
        before = len(self.history.states)
        self.history.walk()
        committed = len(self.history.states) > before
        self.check_lock()
        self.check()
        left = self.check_orphans()
        stages = {"committed, not acknowledged": committed, "files, not committed": left, "nothing yet": True}
        self.happened[next(stage for stage, reached in stages.items() if reached)] += 1
        if self.history.state.records:
            self.check_reported_versions()

    def check(self) -> None:
        self.history.check_rows()

    def check_lock(self) -> None:
        if self.path.exists():
            try:
                filelock.FileLock(self.path / _LOCK_FILE, timeout=0).acquire().lock.release()
            except filelock.Timeout as error:
                raise Violation("the dead keep the lock") from error

    def check_orphans(self) -> bool:
        """Whether the dead left files; the report names exactly them."""
        reported = lambda: set(orphans(self.path, older_than=timedelta(0))["path"])  # noqa: E731
        if not (self.path / "_delta_log").exists():
            return any(self.path.rglob("*.parquet"))
        found = check_orphans(self.path, reported)
        new, self.orphans = found - self.orphans, found
        return bool(new)

    def check_reported_versions(self) -> None:
        reported = read_version_table(str(self.path), storage_options(self.path))
        self.history.check_statuses(reported.select("execution_time", "status", "table_version").rows())

    def check_version_table(self) -> None:
        """The stored one, as delta-rs reads it."""
        self.history.check_statuses(read_statuses(version_table_of(self.path)))
        self.history.check_recorded()

    def check_reads(self) -> int:
        self.reader.ask("read", self.root)  # which ends the loop
        reads = []
        while "done" not in (message := self.reader.receive()):
            reads.append(message)
        return self.history.check_reads([*reads, message], self.acknowledged)

    def check_undisturbed(self) -> None:
        """The same operations, by one process that nobody disturbs, end in the same table."""
        other = type(self)(self.zygote, self.root.with_name(self.root.name + "-undisturbed"), self.kind, self.rng)
        try:
            writer = other.zygote.fork()
            for operation in self.done:
                other.attempt(writer, operation, kill=False)
            writer.close()
            if digest(read(other.path)[1]) != digest(read(self.path)[1]):
                raise Violation("the undisturbed run ends in another table")
            if other.history.state.statuses != self.history.state.statuses:
                raise Violation("the undisturbed run ends in another version table")
        finally:
            other.close()


def kill_loop(
    zygote: Zygote, folder: LakePath, kind: str, kills: int, rng: random.Random, made: type[Table] = Table
) -> tuple[Counter[str], int]:
    """Kill writers, over and over, on a few tables."""
    happened: Counter[str] = Counter()
    reads = life = 0
    while happened.total() < kills:
        life += 1
        end = min(kills, happened.total() + min(_KILLS_OF_A_TABLE, (kills + 1) // 2))
        table = made(zygote, folder / f"life{life}", kind, rng, happened)
        try:
            reads += _life(table, end)
        finally:
            table.close()
    return happened, reads


def _life(table: Table, end: int) -> int:
    writer, pending = None, None
    while table.happened.total() < end or pending:
        writer = writer or table.zygote.fork()
        operation = pending or next_operation(table.kind, table.history.state, table.rng)
        target = operation.kind == table.kind and table.happened.total() < end
        kill = target and table.rng.random() < 0.75
        answer = table.attempt(writer, operation, kill=kill)
        pending = operation if answer is None else None
        if answer is not None:
            table.done.append(operation)
        if kill:
            writer = None
    if writer:
        writer.close()
    reads = table.check_reads()
    if table.kind != "vacuum":
        table.history.check_versions()
    table.check_undisturbed()
    return reads


# The tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_writer_leaves_the_old_table_or_the_new(zygote: Zygote, tmp_path: Path, kind: str) -> None:
    """F7, F8, F21, and F16 of the vacuum: a few kills of each writer."""
    _run(zygote, tmp_path, kind, kills=4, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_writer_killed_many_times(zygote: Zygote, tmp_path: Path, kind: str, soak: int) -> None:
    """F7, F8, F21, and F16 of the vacuum: many kills of each writer, at every stage of a write."""
    happened = _run(zygote, tmp_path, kind, kills=soak, seed=random.randrange(10**6))
    if soak >= _ENOUGH:
        stages = {"nothing yet", "committed, not acknowledged", *(["files, not committed"] if kind != "vacuum" else [])}
        assert stages <= set(happened), happened


def _run(zygote: Zygote, folder: Path, kind: str, *, kills: int, seed: int) -> Counter[str]:
    try:
        happened, reads = kill_loop(zygote, folder, kind, kills, random.Random(seed))
    except Violation as error:
        raise Violation(f"seed {seed}: {error}") from error
    print(f"{kind}, seed {seed}: {happened.total()} kills, {dict(happened)}, {reads} reads")  # noqa: T201 - the numbers
    assert reads
    return happened


# Negative controls: each check finds what it is there for -------------------------------------------------------------


@pytest.fixture
def table(zygote: Zygote, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Table]:
    table = Table(zygote, tmp_path / "root", getattr(request, "param", "overwrite"), random.Random(0))
    writer = zygote.fork()
    keys = ["p0", "p1"]
    table.attempt(writer, write(table.kind, State(), random.Random(7), keys), kill=False)
    writer.close()
    yield table
    table.close()


def again(table: Table, **more: object) -> None:
    """A second write of the same partitions, with other rows."""
    writer = table.zygote.fork()
    try:
        operation = write(table.kind, table.history.state, random.Random(8), ["p0", "p1"])
        table.attempt(writer, operation, kill=False, **more)
    finally:
        writer.close()


def test_control_a_write_in_two_commits_is_found(table: Table) -> None:
    with pytest.raises(Violation, match="committed already"):
        again(table, by_hand="two_commits")


def test_control_a_write_that_names_no_run_is_found(table: Table) -> None:
    with pytest.raises(Violation, match="names no run"):
        again(table, by_hand="remove_first")


@pytest.mark.parametrize("table", ["merger"], indirect=True)
def test_control_a_restore_and_a_merge_are_found(table: Table) -> None:
    with pytest.raises(Violation, match="names no run"):
        again(table, by_hand="restore_then_merge")


def test_control_a_file_written_over_in_place_is_found(table: Table) -> None:
    writer = table.zygote.fork()
    writer.ask(write("overwrite", table.history.state, random.Random(8), ["p0"]), table.root, by_hand="in_place")
    while "half" not in writer.receive():
        pass
    writer.kill()
    with pytest.raises(Violation, match="cannot be read"):
        table.check()


def test_control_a_lock_that_is_kept_is_found(table: Table) -> None:
    with filelock.FileLock(table.path / _LOCK_FILE), pytest.raises(Violation, match="keep the lock"):
        table.check_lock()


def test_control_an_orphan_that_is_not_reported_is_found(table: Table) -> None:
    live = read(table.path)[1]
    (table.path / "part-dead.parquet").write_bytes(b"")
    with pytest.raises(Violation, match="not reported"):
        check_orphans(table.path, set)
    with pytest.raises(Violation, match="reported wrongly"):
        check_orphans(table.path, lambda: {"part-dead.parquet", "part-live.parquet"})
    assert table.check_orphans()
    assert read(table.path)[1] == live


def test_control_rows_that_change_without_a_commit_are_found(table: Table) -> None:
    table.history.walk()
    write_deltalake(table.path, DeltaTable(table.path).to_pyarrow_table(), mode="append")
    with pytest.raises(Violation, match="names no run"):
        table.check()


@pytest.mark.parametrize("table", ["stateful"], indirect=True)
def test_control_a_version_table_that_lags_or_lies_is_found(table: Table) -> None:
    (first, second) = [(key, status, 1 + n) for n, (key, status) in enumerate(table.history.state.statuses)]
    table.history.check_statuses([first, second])
    for wrong in ([first], [first, (*second[:1], "superseded", 2)], [first, (*second[:2], 1)]):
        with pytest.raises(Violation, match="version table"):
            table.history.check_statuses(wrong)


def test_control_what_a_reader_must_not_see_is_found(table: Table) -> None:
    newest = max(table.history.states)
    seen = {"version": newest, "rows": table.history.expected(newest), "statuses": [], "last": 5.0, "reads": 1}
    assert table.history.check_reads([seen], [(1.0, newest)]) == 1
    for wrong, why in [
        ([{**seen, "rows": digest([("mix",)])}], "other rows"),
        ([seen, {**seen, "version": -1}], "after"),
        ([{**seen, "version": -1, "rows": digest(())}], "had been acknowledged"),
        ([{**seen, "statuses": [["p0", "current"]]}], "version table that no version made"),
        ([{"error": "torn"}], "a reader failed"),
    ]:
        with pytest.raises(Violation, match=why):
            table.history.check_reads(wrong, [(1.0, newest)])
