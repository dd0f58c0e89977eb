"""Writers, compaction, vacuum and a reader that begin at the same moment (F1, F2, F4, F5, F6, F15, F18, F21).

The oracle is that of Jepsen: what was acknowledged is in the table exactly once, what failed is not in it, and the rows
of every version are those that its commits make, one after the other. A round is a new table, so that making it is a
race too; each writer writes a few times, partitions and keys of its own and some that all of them want.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from pattern_platform import read_version_table
from pattern_platform.lake import version_table as version_table_module
from pattern_platform.lake.maintenance import orphans
from pattern_platform.lake.object_path import storage_options
from pattern_platform.lake.version_table import version_table_of
from pattern_platform_tests.harness.model import (
    KEYS,
    WRITERS,
    History,
    Operation,
    State,
    Violation,
    check_orphans,
    read_statuses,
    stored,
)
from pattern_platform_tests.harness.processes import Writer, Zygote, needs_linux
from pattern_platform_tests.harness.workload import change, write
from pattern_platform_tests.harness.writer import do

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pattern_platform.lake.object_path import LakePath

pytestmark = needs_linux
WRITING = 3
TURNS = 3
SETTINGS = {"options": {"table_properties": {"delta.checkpointInterval": "5"}}}
SHARED = 10**6  # the key that every merge changes
# What a write, or a vacuum, may be refused with when others are faster: nothing of it is in the table then.
MAY_FAIL = {"CommitConflictError"}
# A vacuum without retention takes files from under those who read them, which it says.
MAY_FAIL_BESIDE_VACUUM = {*MAY_FAIL, "FileNotFoundError", "MissingVersionError"}
MAY_BE_REFUSED = {"stateful": {"SupersededPartitionsError"}}


@dataclass
class Round:
    """One new table, and all who race for it.

    Args:
        root: Folder of the table.
        kind: Which IO manager writes.
        maintained: ``compact`` and ``vacuum``: what runs beside the writers, after each of their commits.
        failed: How often what failed, over all rounds.
    """

    root: LakePath
    kind: str
    rng: random.Random
    maintained: Sequence[str] = ()
    failed: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0

    def run(self, writers: Sequence[Writer], maintainers: Sequence[Writer], reader: Writer) -> int:
        """Race, then judge; returns the number of reads."""
        self.root.mkdir()
        history = History(self.root / "table")
        begin = time.monotonic() + 0.01
        reader.ask("read", self.root)
        for maintainer, what in zip(maintainers, self.maintained, strict=False):
            maintainer.ask(what, self.root, until_told=True)
        asked: dict[tuple[Writer, int], Operation] = {}
        for turn in range(TURNS):
            for number, writer in enumerate(writers):
                operation = self._operation(number, turn)
                request = writer.ask(operation, self.root, **SETTINGS, **({} if turn else {"at": begin}))
                asked[writer, request] = operation
        answers = [(writer, writer.answer()) for writer in writers for _ in range(TURNS)]
        for maintainer, what in zip(maintainers, self.maintained, strict=False):
            self._judge_maintenance(maintainer, what)
        for (writer, request), operation in asked.items():
            if run := writer.runs.get(request):
                history.asked[run] = operation
        acknowledged = self._judge(history, asked, answers)
        return self._judge_reads(history, reader, acknowledged)

    def _operation(self, number: int, turn: int) -> Operation:
        shared, own = KEYS[0], KEYS[number + 1]
        if self.kind == "overwrite":
            return write(self.kind, State(), self.rng, [self.rng.choice([shared, own])])
        key = self.rng.choice([shared, own]) if self.kind == "merger" else KEYS[self.rng.randrange(WRITING + 1)]
        # Keys of its own, and the one that everybody changes: v is that of the run that committed last.
        rows = [change(100 * number + n, key, self.rng) for n in self.rng.sample(range(20), 3)]
        return Operation(self.kind, (key,), (*rows, (SHARED, key, 10 * turn + number, "a", False)))

    def _judge_maintenance(self, maintainer: Writer, what: str) -> None:
        maintainer.ask("nothing", self.root)  # which ends the loop
        answer = maintainer.answer()
        maintainer.answer()
        if odd := set(answer["failed"]) - (MAY_FAIL_BESIDE_VACUUM if "vacuum" in self.maintained else MAY_FAIL):
            raise Violation(f"{what} failed: {[answer['texts'][name] for name in odd]}")
        self.failed[f"{what} done"] += answer["maintained"]
        for error, times in answer["failed"].items():
            self.failed[f"{what} {error}"] += times

    def _judge(
        self,
        history: History,
        asked: dict[tuple[Writer, int], Operation],
        answers: Sequence[tuple[Writer, dict[str, Any]]],
    ) -> list[tuple[float, int]]:
        allowed = (MAY_FAIL_BESIDE_VACUUM if "vacuum" in self.maintained else MAY_FAIL) | MAY_BE_REFUSED.get(
            self.kind, set()
        )
        acknowledged = []
        for writer, answer in answers:
            operation, run = asked[writer, answer["done"]], writer.runs.get(answer["done"])
            if error := answer.get("error"):
                if error not in allowed:
                    raise Violation(f"{operation.kind} failed: {error} {answer['text']}")
                if run:
                    history.check_failed(run)
                self.failed[f"{operation.kind} {error}"] += 1
            else:
                history.check_acknowledged(str(run), answer["version"])
                acknowledged.append((answer["moment"], answer["version"]))
        self.acknowledged = len(acknowledged)
        versions = [version for _, version in acknowledged]
        if len(set(versions)) < len(versions):
            raise Violation(f"two runs reported one version: {sorted(versions)}")
        history.check_rows()
        if "vacuum" not in self.maintained:
            history.check_versions()
        check_orphans(history.table, lambda: set(orphans(history.table, older_than=timedelta(0))["path"]))
        if self.kind == "stateful":
            self._judge_versions(history)
        return acknowledged

    def _judge_versions(self, history: History) -> None:
        """What was recorded can be restored, vacuum or not; the version table is that of the newest commit."""
        history.check_recorded()
        reported = read_version_table(str(history.table), storage_options(history.table))
        versions = reported.select("execution_time", "status", "table_version").rows()
        history.check_statuses(versions)
        history.check_statuses(read_statuses(version_table_of(history.table)))

    def _judge_reads(self, history: History, reader: Writer, acknowledged: list[tuple[float, int]]) -> int:
        reader.ask("nothing", self.root)  # which ends the loop
        reads = []
        while "done" not in (message := reader.receive()):
            reads.append(message)
        reader.answer()
        return history.check_reads([*reads, message], acknowledged)


def race(zygote: Zygote, folder: LakePath, kind: str, rounds: int, seed: int) -> None:
    """Rounds with the same processes, each on a new table."""
    rng = random.Random(seed)
    everybody = [zygote.fork() for _ in range(WRITING + 3)]
    *writing, first, second, reader = everybody
    failed: Counter[str] = Counter()
    acknowledged = reads = 0
    try:
        for number in range(rounds):
            maintained = [(), ("compact", "compact"), ("compact", "vacuum")][number % 3]
            one = Round(folder / f"round{number}", kind, rng, maintained, failed)
            try:
                reads += one.run(writing, (first, second), reader)
            except Violation as error:
                raise Violation(f"seed {seed}, round {number}, {kind} beside {maintained}: {error}") from error
            acknowledged += one.acknowledged
            if isinstance(one.root, Path):
                shutil.rmtree(one.root)
    finally:
        for writer in everybody:
            writer.close()
    print(f"{kind}, seed {seed}: {rounds} rounds, {acknowledged} acknowledged, {dict(failed)}, {reads} reads")  # noqa: T201
    assert acknowledged > rounds
    assert reads


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_acknowledged_is_there_exactly_once(zygote: Zygote, tmp_path: Path, kind: str) -> None:
    """F1, F2 (compaction), F4 (first write), F5, F6 (same keys), F15 (parallel backfill), F18 (vacuum), F21."""
    race(zygote, tmp_path, kind, rounds=3, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_acknowledged_is_there_exactly_once_many_times(
    zygote: Zygote, tmp_path: Path, kind: str, soak: int
) -> None:
    """F1, F2 (compaction), F4 (first write), F5, F6 (same keys), F15 (parallel backfill), F18 (vacuum), F21."""
    race(zygote, tmp_path, kind, rounds=soak, seed=random.randrange(10**6))


def test_a_version_table_never_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F15: a run that ends while another brings the version table in line."""
    real = version_table_module.replace_rows

    def late(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(version_table_module, "replace_rows", real)
        materialize(tmp_path, "p1")
        real(*args, **kwargs)

    def materialize(root: Path, key: str) -> None:
        operation = Operation("stateful", (key,), ((1, key, 1, "a", False),))
        do({**operation.message(), "id": 1, "root": str(root)}, Unheard())

    monkeypatch.setattr(version_table_module, "replace_rows", late)
    materialize(tmp_path, "p0")
    assert [row[0] for row in read_statuses(version_table_of(tmp_path / "table"))] == ["p0", "p1"]


class Unheard:
    """A channel to nobody."""

    def send(self, **message: object) -> None:
        pass

    def waiting(self) -> bool:
        return False


# Negative controls: each check finds what it is there for -------------------------------------------------------------


@pytest.fixture
def history(zygote: Zygote, tmp_path: Path) -> History:
    """A table of two runs."""
    history = History(tmp_path / "table")
    writer = zygote.fork()
    for key in ("p0", "p1"):
        operation = Operation("overwrite", (key,), ((key, 1), (key, 2)))
        answer = writer.do(operation, tmp_path)
        history.asked[answer["run"]] = operation
        history.check_acknowledged(answer["run"], answer["version"])
    writer.close()
    history.check_rows()
    return history


def test_control_two_compactions_of_delta_rs_are_found(history: History) -> None:
    """F1: each doubles what the other wrote."""
    first, second = DeltaTable(history.table), DeltaTable(history.table)
    first.optimize.compact()
    history.check_rows()
    second.optimize.compact()
    with pytest.raises(Violation, match="8 rows for 4"):
        history.check_rows()


def test_control_a_first_write_that_replaces_another_is_found(tmp_path: Path) -> None:
    """F4: two writers find no table, each makes one."""
    history = History(tmp_path / "table")
    for run, n in (("one", 1), ("two", 2)):
        history.asked[run] = Operation("overwrite", (f"p{n}",), ((f"p{n}", n),))
        write_deltalake(
            history.table,
            pl.DataFrame(history.asked[run].rows, schema=["p", "n"], orient="row"),
            mode="overwrite",
            commit_properties=_named(run),
        )
    with pytest.raises(Violation, match="version 1: 1 rows for 2"):
        history.check_rows()


def test_control_a_lost_acknowledgement_is_found(history: History) -> None:
    history.asked["lost"] = Operation("overwrite", ("p2",))
    with pytest.raises(Violation, match="was acknowledged, and made"):
        history.check_acknowledged("lost", 3)


def test_control_a_version_of_another_run_is_found(history: History) -> None:
    """A writer that opens the table again after its commit reports the version of whoever came next."""
    run = next(run for run, made in history.landed.items() if made == [1])
    with pytest.raises(Violation, match=r"reported version 2, and made \[1\]"):
        history.check_acknowledged(run, DeltaTable(history.table).version())


def test_control_a_failed_run_that_wrote_is_found(history: History) -> None:
    with pytest.raises(Violation, match="failed, and made"):
        history.check_failed(next(iter(history.landed)))


def test_control_a_run_that_commits_twice_is_found(history: History) -> None:
    """F21: a retry of the engine that appends again."""
    rows = pl.DataFrame([("p0", 3)], schema=["p", "n"], orient="row")
    run = next(iter(history.landed))
    write_deltalake(history.table, rows, mode="append", commit_properties=_named(run))
    with pytest.raises(Violation, match="committed already"):
        history.check_rows()


def test_control_a_full_vacuum_beside_a_writer_is_found(history: History) -> None:
    """F18: it removes the file of a write that commits later."""
    source = next(history.table.glob("*.parquet"))
    source.unlink()
    with pytest.raises(Violation, match="cannot be read"):
        history.check_rows()


def test_control_a_merge_onto_a_superseded_partition_is_found() -> None:
    """F15: the replay of a middle partition, and then a partition that rests on the one before the replay."""
    state = State()
    for key in ("p0", "p1", "p0"):
        state = Operation("stateful", (key,)).apply(0, state)
    assert state.statuses == [("p0", "current"), ("p1", "superseded")]
    with pytest.raises(Violation, match=r"\['p1'\] were superseded"):
        Operation("stateful", ("p2",)).apply(0, state)


def test_control_a_lost_update_of_the_shared_key_is_found(tmp_path: Path) -> None:
    """F5: the run that committed last does not win."""
    history = History(tmp_path / "table")
    for run, v in (("one", 1), ("two", 2)):
        history.asked[run] = Operation("merger", ("p0",), ((SHARED, "p0", v, "a", False),))
    first = pl.DataFrame(stored(history.asked["one"].rows, "merger"), schema=["g", "k", "p", "v"], orient="row")
    write_deltalake(history.table, first, commit_properties=_named("one", "merger"))
    write_deltalake(history.table, first, mode="overwrite", commit_properties=_named("two", "merger"))
    with pytest.raises(Violation, match="version 1: 1 rows for 1"):
        history.check_rows()


def _named(run: str, pattern: str = "data_overwrite") -> CommitProperties:
    return CommitProperties({"pattern_platform.pattern": pattern, "pattern_platform.run_id": run})
