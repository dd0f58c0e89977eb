"""The k-th file operation of a write fails, for every k until the write needs no more of them (F7, F8, F20, F21).

A preloaded library stands between the process and the C library, so that the operations of Polars and of delta-rs fail
as those of Python do; where there is no C compiler, those of Python alone fail, and files that may not grow. Whatever
fails: the table holds the old rows or the new ones and can be read, what was acknowledged is in it, and the same
operation succeeds afterwards, in the same process or in another.
"""

from __future__ import annotations

import errno
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pattern_platform_tests.harness.model import WRITERS, History, Operation, State, Violation, read_statuses
from pattern_platform_tests.harness.processes import COMPILER, Died, Writer, Zygote, compiled_shim, needs_linux
from pattern_platform_tests.harness.workload import write

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

pytestmark = needs_linux
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C compiler: the operations of Python alone fail")
OPTIONS = {"durability": "fsync", "table_properties": {"delta.checkpointInterval": "1"}}
# The same numbers as in shim.c.
FAULTS: dict[str, dict[str, Any]] = {
    "once": {"mode": 0, "errno": errno.EIO},
    "disk full from then on": {"mode": 1, "errno": errno.ENOSPC},
    "done, and reported as failed": {"mode": 2, "errno": errno.EIO},
    "killed": {"mode": 3, "errno": 0},
}
SIZES = [0, 1, 100, 700, 1000, 1500, 2000, 3000, 5000]
_LONGEST = 4000  # operations of a write
# What a table holds, and what is done to it: names of partitions, each list one run; or what maintains it.
CASES: dict[str, tuple[str, list[list[str] | str], list[str] | str]] = {
    "first": ("overwrite", [], ["p1", "p2"]),
    "overwrite": ("overwrite", [["p0"], ["p1", "p2"], "compact"], ["p1"]),
    "merger": ("merger", [["p0"], ["p1"]], ["p0", "p1"]),
    "stateful": ("stateful", [["p0"], ["p1"], ["p2"]], ["p1"]),
    "compact": ("overwrite", [["p0"], ["p1"], ["p2"]], "compact"),
    "vacuum": ("stateful", [["p0"], ["p1"], ["p1"]], "vacuum"),
}
CLEANED_UP = "vacuum after a clean-up"
CASES[CLEANED_UP] = ("stateful", [["p0"], ["p1"], ["p1"], "clean up"], "vacuum")


@dataclass
class Case:
    """A table before an operation, and the operation."""

    zygote: Zygote
    folder: Path
    name: str

    def __post_init__(self) -> None:
        kind, before, last = CASES[self.name]
        rng, state = random.Random(self.name), State()
        self.root = self.folder / "before"
        self.root.mkdir()
        self.history = History(self.root / "table")
        writer = self.zygote.fork()
        for what in before:
            if what == "clean up":  # of the log, up to its first checkpoint
                self.history.walk()
                (self.history.table / "_delta_log" / f"{0:020}.json").unlink()
                continue
            operation = _operation(kind, what, state, rng)
            self._note(writer, writer.do(operation, self.root, options=OPTIONS), operation, self.history.asked)
        writer.close()
        self.history.check_rows()
        self.history.check_recorded()
        self.operation = _operation(kind, last, state, rng)

    @staticmethod
    def _note(writer: Writer, answer: dict[str, Any] | None, operation: Operation, asked: dict[str, Operation]) -> None:
        if answer and "error" in answer:
            raise Violation(f"an undisturbed {operation.kind} failed: {answer['error']} {answer['text']}")
        if run := list(writer.runs.values())[-1:]:
            asked.setdefault(run[0], operation)

    def count(self, fault: dict[str, Any]) -> int:
        """How many operations of the kind that the fault counts there are."""
        return self._attempt(0, fault)[1]

    def fail(self, k: int, fault: dict[str, Any], **more: object) -> tuple[str, str] | None:
        """Fail the k-th operation; returns which it was and what became of the write, or None past the last."""
        outcome, count = self._attempt(k, fault, **more)
        return None if fault["by"] != "size" and 0 <= count < k else outcome

    def _attempt(self, k: int, fault: dict[str, Any], **more: object) -> tuple[tuple[str, str], int]:
        root = self.folder / "now"
        shutil.copytree(self.root, root)
        history = self.history.moved(root / "table")
        writer: Writer | None = self.zygote.fork()
        assert writer
        try:
            fault = {**fault, "k": k, "under": str(root)}
            asked = writer.ask(self.operation, root, options=OPTIONS, fault=fault, **more)
            try:
                answer: dict[str, Any] = writer.answer()
            except Died:
                if fault.get("mode") != FAULTS["killed"]["mode"]:
                    raise Violation("the writer died, and nobody killed it") from None
                answer = {"error": "killed", "text": "", "fault": {"what": "killed", "count": -1}}
            if run := writer.runs.get(asked):
                history.asked[run] = self.operation
            if answer.get("error") == "killed":
                writer.close()
                writer = None
            self._judge(history, answer, run)
            if writer and k % 2:
                writer.close()
                writer = None
            writer = self._again(history, root, writer)
        except Violation as error:
            raise Violation(f"{self.name}, {fault}: {error}") from error
        finally:
            if writer:
                writer.close()
        shutil.rmtree(root)
        return (answer["fault"].get("what", ""), answer.get("error", "done")), answer["fault"].get("count", -1)

    def _judge(self, history: History, answer: dict[str, Any], run: str | None) -> None:
        """The old table or the new one; the new one when that was said."""
        try:
            history.check_rows()
            history.check_recorded()
            if "error" not in answer and self.operation.kind in WRITERS:
                history.check_acknowledged(str(run), answer["version"])
        except Violation as error:
            raise Violation(f"after {answer}: {error}") from error

    def _again(self, history: History, root: Path, writer: Writer | None) -> Writer:
        """The same operation, undisturbed."""
        writer = writer or self.zygote.fork()
        answer = writer.do(self.operation, root, options=OPTIONS)
        self._note(writer, answer, self.operation, history.asked)
        history.check_rows()
        if self.operation.kind in WRITERS:
            history.check_acknowledged(answer["run"], answer["version"])
        if self.operation.kind == "stateful":
            history.check_statuses(read_statuses(root / "table__versions"))
        return writer


def _operation(kind: str, what: list[str] | str, state: State, rng: random.Random) -> Operation:
    return Operation(what) if isinstance(what, str) else write(kind, state, rng, what)


def fail_each(case: Case, fault: dict[str, Any], ks: Iterable[int]) -> Counter[str]:
    """Fail one operation after the other."""
    outcomes: Counter[str] = Counter()
    for k in ks:
        failed = case.fail(k, fault)
        if failed is None:
            break
        outcomes[failed[1]] += 1
    print(f"{case.name}, {fault}: {outcomes.total()} faults, {dict(outcomes)}")  # noqa: T201 - the numbers
    return outcomes


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """The process that forks writers whose file operations can fail."""
    with Zygote(LD_PRELOAD=str(compiled_shim(tmp_path_factory.mktemp("shim")))) as zygote:
        yield zygote


def some(count: int, seed: str, most: int = 2) -> list[int]:
    """A few of the operations, spread over all of them."""
    rng = random.Random(seed)
    return sorted({1 + int(count * (n + rng.random()) / most) for n in range(most)})


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_some_failing_operations(preloaded: Zygote, tmp_path: Path, name: str) -> None:
    """F7, F8, F20, F21, F18 (vacuum): a few of the operations, of each kind of failure."""
    case = Case(preloaded, tmp_path, name)
    reads, changes = (case.count({"by": "shim", **FAULTS[fault]}) for fault in ("once", "killed"))
    assert reads > changes > 5  # or nothing stands before the C library
    for fault, how in FAULTS.items():
        assert fail_each(case, {"by": "shim", **how}, some(reads if fault == "once" else changes, name + fault))


@needs_compiler
@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", CASES)
def test_every_failing_operation(preloaded: Zygote, tmp_path: Path, name: str, fault: str) -> None:
    """F7, F8, F20, F21, F18 (vacuum): each of the operations, of each kind of failure."""
    outcomes = fail_each(Case(preloaded, tmp_path, name), {"by": "shim", **FAULTS[fault]}, range(1, _LONGEST))
    assert 5 < outcomes.total() < _LONGEST - 1


@pytest.mark.parametrize("name", CASES)
def test_some_failing_operations_of_python(zygote: Zygote, tmp_path: Path, name: str) -> None:
    """F7, F20: without a compiler."""
    case, how = Case(zygote, tmp_path, name), {"by": "hook", **FAULTS["once"]}
    assert fail_each(case, how, some(case.count(how), name))


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["once", "disk full from then on"])
@pytest.mark.parametrize("name", CASES)
def test_every_failing_operation_of_python(zygote: Zygote, tmp_path: Path, name: str, fault: str) -> None:
    """F7, F20: without a compiler."""
    case = Case(zygote, tmp_path, name)
    assert fail_each(case, {"by": "hook", **FAULTS[fault]}, range(1, _LONGEST)).total() > 10


@pytest.mark.parametrize("name", CASES)
def test_files_that_cannot_grow(zygote: Zygote, tmp_path: Path, name: str) -> None:
    """F20: every file that a writer makes ends after so many bytes, whoever writes it."""
    outcomes = fail_each(Case(zygote, tmp_path, name), {"by": "size"}, random.Random(name).sample(SIZES, 1))
    assert outcomes


def test_a_vacuum_that_cannot_read_a_recorded_version_keeps_it(zygote: Zygote, tmp_path: Path) -> None:
    """F16: the only way to a version is a checkpoint that cannot be read while the vacuum runs."""
    case = Case(zygote, tmp_path, CLEANED_UP)
    checkpoint = case.history.table / "_delta_log" / f"{1:020}.checkpoint.parquet"
    readable = checkpoint.read_bytes()
    checkpoint.write_bytes(b"not now")
    writer = zygote.fork()
    writer.do("vacuum", case.root)
    writer.close()
    checkpoint.write_bytes(readable)
    case.history.check_recorded()


# Negative controls: each check finds what it is there for -------------------------------------------------------------


def test_control_a_writer_that_removes_before_it_writes_is_found(zygote: Zygote, tmp_path: Path) -> None:
    case = Case(zygote, tmp_path, "stateful")
    with pytest.raises(Violation, match="cannot be read"):
        case.fail(0, {"by": "size"}, by_hand="unlink_first")


def test_control_a_writer_in_two_commits_is_found(zygote: Zygote, tmp_path: Path) -> None:
    case = Case(zygote, tmp_path, "merger")
    with pytest.raises(Violation, match="names no run"):
        case.fail(20, {"by": "hook", **FAULTS["once"]}, by_hand="remove_first")


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_control_the_first_failing_operation_is_an_error(preloaded: Zygote, tmp_path: Path, name: str) -> None:
    case = Case(preloaded, tmp_path, name)
    failed = case.fail(1, {"by": "shim", **FAULTS["disk full from then on"]})
    assert failed
    assert failed[0]
    assert failed[1] != "done"


def test_control_a_file_that_cannot_grow_is_an_error(zygote: Zygote, tmp_path: Path) -> None:
    failed = Case(zygote, tmp_path, "overwrite").fail(0, {"by": "size"})
    assert failed
    assert failed[1] != "done"
