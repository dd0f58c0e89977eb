"""The patterns of the DuckDB files under kills, full disks, failing files and others at work (F7, F13, F20, F28, F32).

After each of them: what was acknowledged is there, nothing is there twice or by half, view, units and registry agree,
and the next run works. What must be true is in :mod:`pattern_platform_tests.harness.warehouse`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from pattern_platform.errors import DatabaseLockedError
from pattern_platform.warehouse import database as database_module
from pattern_platform_tests.faults.bare import child
from pattern_platform_tests.faults.test_overwrite_faults import FillDisk, own_mounts
from pattern_platform_tests.harness.model import Violation
from pattern_platform_tests.harness.processes import COMPILER, Died, Writer, Zygote, compiled_shim, needs_linux
from pattern_platform_tests.harness.test_kth import FAULTS
from pattern_platform_tests.harness.warehouse import KEYS, KINDS, WEEKS, WHOLE, database_of, read_state, write_here
from pattern_platform_tests.lake.tables import shared_instance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import dagster as dg

    from pattern_platform_tests.harness.warehouse import State

pytestmark = needs_linux
each_kind = pytest.mark.parametrize("kind", KINDS)


class Store:
    """A DuckDB file, what is known of it, and somebody who reads it all the time."""

    def __init__(self, zygote: Zygote, root: Path, kind: str, rng: random.Random) -> None:
        root.mkdir(exist_ok=True)
        self.zygote, self.root, self.kind, self.rng = zygote, root, kind, rng
        self.state: State = {}
        self.history: list[State] = [{}]
        self.happened: Counter[str] = Counter()
        self.usual = 0.1  # seconds from the asset's body to the answer
        self.reader = zygote.fork()
        self.reader.ask("read warehouse", root, kind=kind)

    # What is asked ----------------------------------------------------------------------------------------------------

    def next_keys(self) -> list[str]:
        """Partitions that may be run now."""
        if self.kind != "units":
            first = self.rng.randrange(len(KEYS))
            return KEYS[first : first + self.rng.choice([1, 1, 3])]
        week = self.rng.choice(WEEKS)
        free = [key for key in week if self.state.get(key, ("", -1))[1] < 0]
        return self.rng.choice([week, week, [week[0]], [self.rng.choice(free)] if free else week])

    def after(self, run: str, keys: Sequence[str], count: int) -> State:
        """The state that a run leaves."""
        if self.kind == "proxy":
            return {WHOLE: (run, count)}
        rows = count + 1 if self.kind == "transaction" else count
        state = {**self.state, **dict.fromkeys(keys, (run, rows))}
        if self.kind == "units":
            for week in WEEKS:
                again = [key for key in week if key in keys and self.state.get(key, ("", -1))[1] >= 0]
                if again:
                    gone = [key for key in week if key in self.state and key not in keys]
                    state |= dict.fromkeys(gone, (run, -1))
        return state

    def ask(self, writer: Writer, keys: Sequence[str], count: int, **more: object) -> int:
        return writer.ask("write warehouse", self.root, kind=self.kind, keys=keys, count=count, **more)

    def attempt(self, writer: Writer, *, kill: bool = False, **more: object) -> dict[str, Any] | None:
        """One run, and what it left; None when the writer was killed."""
        keys, count = self.next_keys(), self.rng.randint(1, 40)
        if self.kind == "proxy":
            keys = keys[:1]
        asked = self.ask(writer, keys, count, **more)
        answer = None
        try:
            while not (answer := self._next(writer)) and asked not in writer.runs:
                pass
            began = time.monotonic()
            if kill:
                select.select([writer], [], [], self.rng.uniform(0, 1.3 * self.usual))
                for message in writer.kill():
                    answer = message if "done" in message else answer
            while not kill and answer is None:
                answer = self._next(writer)
            if not kill:
                self.usual = (self.usual + time.monotonic() - began) / 2
        except Died:
            writer.close()
        self.look(writer.runs.get(asked), keys, count, answer)
        return answer

    @staticmethod
    def _next(writer: Writer) -> dict[str, Any] | None:
        message = writer.receive()
        if "done" in message:
            return message
        writer.note(message)
        return None

    # What must be true afterwards -------------------------------------------------------------------------------------

    def look(self, run: str | None, keys: Sequence[str], count: int, answer: dict[str, Any] | None) -> None:
        """Compare what there is now with what there was, and with what the run was to leave."""
        now = read_state(self.kind, self.root)
        before, after = self.state, self.after(run, keys, count) if run else self.state
        acknowledged = answer is not None and "error" not in answer
        if acknowledged and now != after:
            raise Violation(f"{keys} was acknowledged, and there is {now}, not {after}")
        if now not in (before, after):
            raise Violation(f"{keys} left {now}, which is neither {before} nor {after}")
        outcome = "acknowledged" if acknowledged else "failed" if answer else "killed"
        self.happened[f"{outcome}, {'new' if now == after != before else 'old'}"] += 1
        self.state = now
        self.history.append(now)

    def close(self) -> int:
        """What the reader saw is what there was, in its order."""
        self.reader.ask("read warehouse", self.root, kind=self.kind)  # which ends the loop
        place, states = 0, 0
        while "done" not in (message := self.reader.receive()):
            seen = {key: (run, rows) for key, (run, rows) in message["state"].items()}
            states += 1
            try:
                place = self.history.index(seen, place)
            except ValueError:
                raise Violation(f"a reader saw {seen}, which no run left after that") from None
        self.reader.close()
        if "error" in message:
            raise Violation(f"a reader failed: {message['text']}")
        if not message["reads"]:
            raise Violation("nobody read")
        return states


# Kills ----------------------------------------------------------------------------------------------------------------


def kill_loop(zygote: Zygote, root: Path, kind: str, kills: int, seed: int) -> Counter[str]:
    """Kill a writer again and again; after each the next run, by another process, works."""
    store = Store(zygote, root, kind, random.Random(seed))
    try:
        writer = zygote.fork()
        store.attempt(writer)
        writer.close()
        for _ in range(kills):
            store.attempt(zygote.fork(), kill=True)
            writer = zygote.fork()
            if (answer := store.attempt(writer)) is None or "error" in answer:
                raise Violation(f"the run after a kill failed: {answer}")
            writer.close()
        seen = store.close()
    except Violation as error:
        raise Violation(f"{kind}, seed {seed}: {error}") from error
    print(f"{kind}, seed {seed}: {dict(store.happened)}, {seen} states seen")  # noqa: T201 - the numbers
    return store.happened


@each_kind
def test_f07_f32_a_killed_run_leaves_the_old_state_or_the_new(zygote: Zygote, tmp_path: Path, kind: str) -> None:
    kill_loop(zygote, tmp_path / "store", kind, kills=2, seed=1)


@pytest.mark.soak
@each_kind
def test_f07_f32_a_run_killed_many_times(zygote: Zygote, tmp_path: Path, kind: str, soak: int) -> None:
    happened = kill_loop(zygote, tmp_path / "store", kind, kills=soak, seed=random.randrange(10**6))
    if soak >= 100:
        assert {"killed, old", "killed, new"} <= set(happened), happened


# Files that fail ------------------------------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C compiler: nothing can be put before the C library")
_PLENTY = 10**6
_LONGEST = 100  # file operations of a run that makes the file


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with Zygote(LD_PRELOAD=str(compiled_shim(tmp_path_factory.mktemp("shim")))) as zygote:
        yield zygote


def fail_loop(zygote: Zygote, root: Path, kind: str, seed: int, tries: int) -> Counter[str]:
    """One of the file operations of a run fails, or is its last; then it works again, in this process or another."""
    store = Store(zygote, root, kind, random.Random(seed))
    faults: Iterator[str] = itertools.cycle(FAULTS)
    try:
        writer = zygote.fork()
        store.attempt(writer)
        for _ in range(tries):
            name = next(faults)
            fault = {"by": "shim", "under": str(root), **FAULTS[name]}
            counted = store.attempt(writer, fault={**fault, "k": _PLENTY})
            if counted is None or "error" in counted:
                raise Violation(f"a run that nothing hindered failed: {counted}")
            k = store.rng.randint(1, max(1, counted["fault"]["count"]))
            answer = store.attempt(writer, fault={**fault, "k": k})
            if answer is None and name != "killed":
                raise Violation(f"{name}, operation {k}: the process died")
            if answer is None or store.rng.random() < 0.3:
                if answer:
                    writer.close()
                writer = zygote.fork()
            repeated = store.attempt(writer)
            if repeated is None or "error" in repeated:
                raise Violation(f"{name}, operation {k} ({answer}): the next run failed: {repeated}")
        writer.close()
        store.close()
    except Violation as error:
        raise Violation(f"{kind}, seed {seed}: {error}") from error
    print(f"{kind}, seed {seed}: {dict(store.happened)}")  # noqa: T201 - the numbers
    return store.happened


@needs_compiler
@each_kind
def test_f20_a_file_operation_that_fails_leaves_the_old_state_or_the_new(
    preloaded: Zygote, tmp_path: Path, kind: str
) -> None:
    happened = fail_loop(preloaded, tmp_path / "store", kind, seed=1, tries=len(FAULTS))
    assert happened["failed, old"] + happened["failed, new"] + happened["killed, old"] + happened["killed, new"]


@needs_compiler
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.soak)], ids=["every third", "each"])
def test_f07_a_first_run_killed_at_each_file_operation(preloaded: Zygote, tmp_path: Path, step: int) -> None:
    """The file may be there already, and be none that DuckDB opens."""
    fault = {"by": "shim", **FAULTS["killed"]}
    for k in range(1, _LONGEST, step):
        root = tmp_path / str(k)
        root.mkdir()
        writer = preloaded.fork()
        ask = {"kind": "overwrite", "keys": KEYS[:1], "count": 2}
        with contextlib.suppress(Died):
            answer = writer.do("write warehouse", root, **ask, fault={**fault, "under": str(root), "k": k})
            assert "error" not in answer
            assert k > 5
            break
        writer.close()
        writer = preloaded.fork()
        answer = writer.do("write warehouse", root, **ask)
        assert "error" not in answer, (k, answer)
        writer.close()
        assert [*read_state("overwrite", root)] == KEYS[:1]
    writer.close()


@pytest.mark.soak
@needs_compiler
@each_kind
def test_f20_many_file_operations_that_fail(preloaded: Zygote, tmp_path: Path, kind: str, soak: int) -> None:
    fail_loop(preloaded, tmp_path / "store", kind, seed=random.randrange(10**6), tries=soak)


FULL_DISK = """
import os, subprocess, sys
from pathlib import Path
from pattern_platform_tests.faults.test_warehouse_faults import fill_disk
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], check=True)
print(fill_disk(folder))
sys.stdout.flush()
os._exit(0)  # threads of native libraries may abort a process while it ends, and nothing is left to do
"""


def fill_disk(folder: Path) -> str:
    """Replace a day with ever more room on the disk. Gives, for each kind, F for each failure and W for each write."""
    disk, outcomes = FillDisk(folder), ""
    for kind in KINDS:
        for pages in (0, 20, 700):
            root = folder / kind
            root.mkdir()
            write_here(kind, root, KEYS[:1], 3, instance=shared_instance())
            before = read_state(kind, root)
            disk.narrow(pages)
            outcome = "W"
            try:
                write_here(kind, root, KEYS[:1], 9000, instance=shared_instance())
            except Exception as error:  # noqa: BLE001 - of Polars, DuckDB or the system, looked at by its text
                assert any(word in str(error) for word in ("No space left", "os error 28", "Errno 28")), error  # noqa: PT017
                outcome = "F"
            disk.relax()
            now = read_state(kind, root)
            assert (now == before) == (outcome == "F"), (kind, pages, outcome, now)
            write_here(kind, root, KEYS[:1], 5, instance=shared_instance())  # there is room again
            ((_, count),) = read_state(kind, root).values()
            assert count in (5, 6)
            outcomes += outcome
            shutil.rmtree(root)
        outcomes += " "
    return outcomes


def test_f20_a_full_disk_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    wrap = own_mounts(tmp_path)
    if not wrap:
        pytest.skip("this process may not mount a file system")
    run = child(FULL_DISK, tmp_path, wrap=wrap)
    assert run.returncode == 0, run.stderr[-3000:]
    outcomes = run.stdout.split()[-len(KINDS) :]
    assert {outcome[0] for outcome in outcomes} == {"F"}
    assert {outcome[-1] for outcome in outcomes} == {"W"}


# Others at work -------------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("same", [True, False], ids=["same partition", "other partitions"])
def test_f05_f28_runs_at_once(zygote: Zygote, tmp_path: Path, kind: str, same: bool) -> None:  # noqa: FBT001
    """Two processes begin in the same moment, and one reads: one run is after the other, and none is lost."""
    store = Store(zygote, tmp_path / "store", kind, random.Random(0))
    writers = [zygote.fork(), zygote.fork()]
    store.attempt(writers[0])  # makes the file
    for number in range(2):
        # The same first day, or a day each: of a week of its own, as the first of a week is what resets it.
        days = [WEEKS[0][:1], WEEKS[0 if same else 1][:1]]
        begin = time.monotonic() + 0.05
        counts = [number * 2 + 1, number * 2 + 2]
        asked = [store.ask(w, day, n, at=begin) for w, day, n in zip(writers, days, counts, strict=True)]
        answers = [writer.answer() for writer in writers]
        assert not [answer for answer in answers if "error" in answer], answers
        runs = [writer.runs[number] for writer, number in zip(writers, asked, strict=True)]
        states = []
        for order in ((0, 1), (1, 0)):
            store.state = store.history[-1]
            middle = [store.after(runs[n], days[n], counts[n]) for n in order[:1]]
            store.state = middle[0]
            states.append((middle[0], store.after(runs[order[1]], days[order[1]], counts[order[1]])))
        now = read_state(kind, store.root)
        # Whose commit came last is known of the same partition; of others a reader may have seen either first.
        order = [pair for pair in states if pair[1] == now]
        assert order, (now, states)
        if same or kind == "proxy":
            store.history += order[0]
        else:
            store.history += [state for pair in order for state in pair[:1]]
            store.history.append(now)
        store.state = now
    for writer in writers:
        writer.close()
    if same or kind == "proxy":
        store.close()
    else:
        store.reader.close()


def test_f04_two_first_runs_at_once_make_the_file(zygote: Zygote, tmp_path: Path) -> None:
    writers = [zygote.fork(), zygote.fork()]
    for number in range(6):
        root = tmp_path / str(number)
        root.mkdir()
        begin = time.monotonic() + 0.05
        for writer, keys in zip(writers, WEEKS, strict=True):
            writer.ask("write warehouse", root, kind="overwrite", keys=keys[:1], count=1, at=begin)
        answers = [writer.answer() for writer in writers]
        assert not [answer for answer in answers if "error" in answer], answers
        assert len(read_state("overwrite", root)) == 2
    for writer in writers:
        writer.close()


STOPS = """
import ctypes, os, sys, duckdb
from pattern_platform.warehouse.database import connected
database, opened = sys.argv[1], {"DuckDB": duckdb.connect, "the platform": connected}[sys.argv[2]]
ctypes.CDLL(None).shim_arm(os.fsencode(os.path.dirname(database)), 1, 0, 4)  # STOPPED: it would lock the file now
with opened(database) as connection:
    connection.execute("INSERT INTO days VALUES ('second')")
"""


@needs_compiler
@pytest.mark.parametrize(
    ("opener", "kept"), [("the platform", ["first", "second"]), ("DuckDB", ["second"])], ids=["platform", "control"]
)
def test_f05_a_file_that_is_closed_while_another_opens_it_loses_nothing(
    tmp_path: Path, opener: str, kept: list[str]
) -> None:
    """DuckDB 2.0 alone reads the header, then locks the file, and writes over what was committed between the two."""
    database = str(tmp_path / "store.duckdb")
    opened = {"DuckDB": duckdb.connect, "the platform": database_module.connected}[opener]
    with opened(database) as connection:
        connection.execute("CREATE TABLE days (day VARCHAR)")
    preloaded = {**os.environ, "LD_PRELOAD": str(compiled_shim(tmp_path))}
    second = subprocess.Popen([sys.executable, "-c", STOPS, database, opener], env=preloaded)

    def commit() -> None:
        with opened(database) as connection:
            connection.execute("INSERT INTO days VALUES ('first')")

    first = threading.Thread(target=commit)
    try:
        _, status = os.waitpid(second.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it never came to lock the file"
        first.start()
        first.join(timeout=0.5 if opener == "the platform" else None)
        assert first.is_alive() == (opener == "the platform")  # which waits for its turn
    finally:
        second.send_signal(signal.SIGCONT)
    first.join()
    assert second.wait() == 0
    with opened(database) as connection:
        assert connection.execute("SELECT day FROM days ORDER BY day").fetchall() == [(day,) for day in kept]


HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def let_go(holder: subprocess.Popen[str]) -> None:
    """Tell whoever holds the file to end."""
    assert holder.stdin
    holder.stdin.close()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process keeps the file, until it is told to end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(database_of(tmp_path))], text=True, **pipes) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        let_go(process)


def write_day(kind: str, root: Path, count: int = 1, **more: Any) -> dg.ExecuteInProcessResult:
    return write_here(kind, root, KEYS[:1], count, instance=shared_instance(), **more)


@each_kind
def test_a_file_that_another_process_keeps_is_given_up_and_tried_again(
    tmp_path: Path, kind: str, held: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(database_module, "WAIT_SECONDS", 0.2)
        with pytest.raises(DatabaseLockedError, match=f"PID {held.pid}") as refused:
            write_day(kind, tmp_path)
        assert refused.value.retryable
        assert refused.value.allow_retries
    let_go(held)
    held.wait()
    assert read_state(kind, tmp_path) == {}
    write_day(kind, tmp_path)
    assert read_state(kind, tmp_path)


def test_a_file_that_another_process_lets_go_is_waited_for(tmp_path: Path, held: subprocess.Popen[str]) -> None:
    """The holder ends when the run has begun, and the run finds the file free."""
    write_day("units", tmp_path, started=lambda _: let_go(held))
    assert len(read_state("units", tmp_path)) == 1


# Negative controls: each violation is found ---------------------------------------------------------------------------

FIRST = KEYS[0]
PLANTED: dict[str, tuple[str, str]] = {
    "a row twice": ("overwrite", "INSERT INTO visits FROM visits LIMIT 1"),
    "a row that is gone": ("overwrite", "DELETE FROM visits WHERE n = 0"),
    "half of another run": ("overwrite", "UPDATE visits SET run = 'another' WHERE n > 0"),
    "a registry that is behind": ("overwrite", "UPDATE visits__loads SET run_id = 'another'"),
    "a registry that lost a partition": ("overwrite", "DELETE FROM visits__loads"),
    "a table without a registry": ("overwrite", "DROP TABLE visits__loads"),
    "tables that do not agree": ("transaction", "UPDATE visits__totals SET n = n + 1"),
    "one table of two": ("transaction", "DELETE FROM visits__rows"),
    "a view that leaves rows out": ("units", "CREATE OR REPLACE VIEW visits AS FROM visits__20240506 WHERE n = 0"),
    "a unit that the view does not know": ("units", "CREATE TABLE visits__20240513 AS FROM visits__20240506"),
    "a key twice": ("keyed", "INSERT INTO visits FROM visits"),
    "a view of something else": (
        "proxy",
        "CREATE OR REPLACE VIEW published.visits AS SELECT 1 AS day, 1 AS n, 1 AS run",
    ),
    "a view without its registry": ("proxy", "DROP TABLE published.visits__publications"),
    "a publication that was lost": ("proxy", "UPDATE published.visits__publications SET number = 2"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_control_a_planted_violation_is_found(tmp_path: Path, what: str) -> None:
    kind, statement = PLANTED[what]
    write_day(kind, tmp_path, 3)
    assert read_state(kind, tmp_path)
    with duckdb.connect(str(database_of(tmp_path)), config={"custom_user_agent": "dagster"}) as connection:
        connection.execute(statement)
    with pytest.raises(Violation):
        read_state(kind, tmp_path)


def test_control_an_acknowledged_run_that_is_lost_is_found(zygote: Zygote, tmp_path: Path) -> None:
    store = Store(zygote, tmp_path / "store", "overwrite", random.Random(3))
    writer = zygote.fork()
    store.attempt(writer)
    kept = database_of(store.root).read_bytes()
    store.attempt(writer)
    database_of(store.root).write_bytes(kept)
    with pytest.raises(Violation, match="neither"):
        store.look(None, [], 0, None)
    with pytest.raises(Violation, match="was acknowledged"):
        store.look("run", KEYS[:1], 1, {"done": 1})
    writer.close()
    store.reader.close()


def test_control_a_state_that_no_run_left_is_found(zygote: Zygote, tmp_path: Path) -> None:
    store = Store(zygote, tmp_path / "store", "overwrite", random.Random(3))
    writer = zygote.fork()
    store.attempt(writer)
    writer.close()
    while not store.reader.messages:
        store.reader.pump()
    store.history = [{"other": ("run", 1)}]
    with pytest.raises(Violation, match="which no run left"):
        store.close()
