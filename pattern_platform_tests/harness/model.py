"""What a table must hold after each of its commits, computed in plain Python from its log and from what was asked.

The log is read as JSON, rows through delta-rs; nothing here is shared with the code that is judged. Each commit names
its run, each run asked for one operation, each operation is a list of steps, one commit each. So the state of *every*
version is known, whatever was killed or lost a race: an acknowledged write is in the log exactly once, a refused one is
not, an unknown one may be.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pattern_platform.lake.object_path import LakePath

KEYS = [f"p{n}" for n in range(8)]
Row = tuple[Any, ...]
WRITERS = {
    "overwrite": ("data_overwrite", ("p", "n")),
    "merger": ("merger", ("k", "p", "v", "g", "gone")),
    "stateful": ("stateful_merger", ("k", "p", "v", "g", "gone")),
}
_CODE = {pattern: kind for kind, (pattern, _) in WRITERS.items()}
_PREFIX = "pattern_platform."


class Violation(AssertionError):  # noqa: N818 - the word of the trade
    """The table is not what its log and the acknowledgements say."""


# Rows -----------------------------------------------------------------------------------------------------------------


def digest(rows: Iterable[Row]) -> str:
    """A short name of some rows, in any order, each as often as it is there."""
    return hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()[:16]


NOTHING = digest(())


def rows_of(handle: DeltaTable) -> list[Row]:
    """What delta-rs reads, with the columns in the order of their names."""
    table = pa.table(handle.to_pyarrow_table())
    names = sorted(table.column_names)
    return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def handle_of(table: LakePath, version: int | None = None) -> DeltaTable:
    """A table, on a disk or an object store, as delta-rs opens it."""
    options = {} if isinstance(table, Path) else dict(table.options)
    return DeltaTable(str(table), version=version, storage_options=options)


def read(table: LakePath, version: int | None = None) -> tuple[int, list[Row]]:
    """Version and rows of a table; version -1 where there is none."""
    try:
        handle = handle_of(table, version)
    except TableNotFoundError:
        return -1, []
    return handle.version(), rows_of(handle)


def read_statuses(versions: LakePath) -> list[tuple[str, str, int]]:
    """Partition, status and version of a version table; nothing where there is none."""
    try:
        table = pa.table(handle_of(versions).to_pyarrow_table())
    except TableNotFoundError:
        return []
    columns = (table.column(name).to_pylist() for name in ("execution_time", "status", "table_version"))
    return sorted(zip(*columns, strict=True))


def stored(rows: Iterable[Row], kind: str) -> list[Row]:
    """Rows of a batch as :func:`rows_of` gives them back, without those that are deletes."""
    columns = WRITERS[kind][1]
    order = sorted(range(len(columns) - (columns[-1] == "gone")), key=lambda i: columns[i])
    return [tuple(row[i] for i in order) for row in rows if columns[-1] != "gone" or not row[-1]]


# Operations -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What a table holds.

    Args:
        rows: Rows by their key; of an overwritten table the row itself is the key.
        records: Of a stateful merger: by partition, when it was merged last and what the table held then.
        commits: Number of commits that changed rows.
    """

    rows: Mapping[Any, Row] = field(default_factory=dict)
    records: Mapping[str, tuple[int, Mapping[Any, Row]]] = field(default_factory=dict)
    commits: int = 0

    @property
    def digest(self) -> str:
        return digest(self.rows.values())

    @property
    def superseded(self) -> list[str]:
        """The partitions that rest on an earlier one as it was before its replay."""
        found, newest = [], -1
        for key in sorted(self.records):
            number = self.records[key][0]
            if number < newest:
                found.append(key)
            newest = max(newest, number)
        return found

    @property
    def statuses(self) -> list[tuple[str, str]]:
        """The version table, but for what differs from run to run."""
        superseded = self.superseded
        return [(key, "superseded" if key in superseded else "current") for key in sorted(self.records)]


@dataclass(frozen=True)
class Operation:
    """Something that a writer is asked to do.

    Args:
        kind: One of ``overwrite``, ``merger``, ``stateful``, ``compact``, ``vacuum``.
        keys: Partition keys, in their order.
        rows: The batch, in the columns of :data:`WRITERS`.
    """

    kind: str
    keys: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()

    @property
    def steps(self) -> int:
        """Commits that change rows."""
        return 0 if self.kind not in WRITERS else 1 if self.kind == "overwrite" else len(self.keys)

    def apply(self, step: int, state: State) -> State:
        """The state after one of its commits."""
        commits = state.commits + 1
        if self.kind == "overwrite":
            kept = [row for row in state.rows.values() if row[1] not in self.keys]
            rows = [*kept, *stored(self.rows, self.kind)]
            return replace(state, rows={row: row for row in rows}, commits=commits)
        key = self.keys[step]
        batch = [row for row in self.rows if row[1] == key]
        if self.kind == "merger":
            return replace(state, rows=_merged(state.rows, batch, self.kind), commits=commits)
        if behind := [other for other in state.superseded if other < key]:
            raise Violation(f"partition {key} was merged although {behind} were superseded")
        earlier = [other for other in sorted(state.records) if other < key]
        base = state.records[earlier[-1]][1] if earlier else {}
        rows = _merged(base, batch, self.kind)
        return State(rows, {**state.records, key: (commits, rows)}, commits)

    def message(self) -> dict[str, Any]:
        """What a child is told."""
        return {"do": self.kind, "keys": self.keys, "rows": self.rows}


def _merged(rows: Mapping[Any, Row], batch: Sequence[Row], kind: str) -> dict[Any, Row]:
    merged = {key: row for key, row in rows.items() if key not in {change[0] for change in batch}}
    return merged | {change[0]: stored([change], kind)[0] for change in batch if not change[-1]}


# The log --------------------------------------------------------------------------------------------------------------


@dataclass
class History:
    """The versions of a table, each with what it must hold.

    Args:
        table: Directory of the table.
    """

    table: LakePath
    state: State = field(default_factory=State)
    states: dict[int, State] = field(default_factory=dict)
    asked: dict[str, Operation] = field(default_factory=dict)
    landed: dict[str, list[int]] = field(default_factory=dict)

    def moved(self, table: LakePath) -> History:
        """The same history, of a copy of the table."""
        landed = {run: [*made] for run, made in self.landed.items()}
        return History(table, self.state, {**self.states}, {**self.asked}, landed)

    def walk(self) -> State:
        """Read the commits that are new."""
        while (path := self.table / "_delta_log" / f"{len(self.states):020}.json").exists():
            self._commit(len(self.states), [json.loads(line) for line in path.read_text().splitlines()])
        return self.state

    def _commit(self, version: int, actions: list[dict[str, Any]]) -> None:
        info = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        about = {k.removeprefix(_PREFIX): v for k, v in info.items() if k.startswith(_PREFIX)}
        files = [file for action in actions if (file := action.get("add") or action.get("remove"))]
        if kind := _CODE.get(about.get("pattern", "")):
            run = about["run_id"]
            asked, steps = self.asked.get(run), self.landed.setdefault(run, [])
            if asked is None or asked.kind != kind:
                raise Violation(f"version {version} is of run {run}, which was never asked to {kind}")
            if len(steps) == asked.steps:
                raise Violation(f"version {version}: run {run} committed already, in {steps}")
            self.state = asked.apply(len(steps), self.state)
            steps.append(version)
        elif any(file["dataChange"] for file in files):
            raise Violation(f"version {version} changes rows and names no run")
        self.states[version] = self.state

    def expected(self, version: int) -> str:
        """The rows of a version."""
        return self.states[version].digest if version >= 0 else NOTHING

    # Checks -----------------------------------------------------------------------------------------------------------

    def check_rows(self) -> None:
        """The newest version is what its log says, and can be read."""
        self.walk()
        try:
            version, rows = read(self.table)
        except Exception as error:
            raise Violation(f"the table cannot be read: {error!r}") from error
        if version != len(self.states) - 1:
            raise Violation(f"opens as version {version}, the log has {len(self.states) - 1}")
        if digest(rows) != self.state.digest:
            odd = sorted({*rows} ^ {*self.state.rows.values()})
            raise Violation(f"version {version}: {len(rows)} rows for {len(self.state.rows)}, of them odd {odd[:10]}")

    def check_versions(self) -> None:
        """Every version that can still be read is what it was."""
        for version, state in self.states.items():
            if digest(read(self.table, version)[1]) != state.digest:
                raise Violation(f"version {version} holds other rows than its commits say")

    def check_recorded(self) -> None:
        """What each partition of a stateful merger left can be read, for the next replay starts from it."""
        for partition, (number, kept) in self.state.records.items():
            made = min(version for version, state in self.states.items() if state.commits == number)
            try:
                rows = read(self.table, made)[1]
            except (DeltaError, OSError) as error:
                raise Violation(f"version {made}, of partition {partition}, cannot be read: {error!r}") from error
            if digest(rows) != digest(kept.values()):
                raise Violation(f"version {made}, of partition {partition}, is not what it was")

    def check_acknowledged(self, run: str, version: int) -> None:
        """The run is in the log, whole and once, and the version that it reported is its own."""
        self.walk()
        made = self.landed.get(run, [])
        if len(made) != self.asked[run].steps:
            raise Violation(f"run {run} was acknowledged, and made {made} for {self.asked[run].steps} commit(s)")
        if made[-1] != version:
            raise Violation(f"run {run} reported version {version}, and made {made}")

    def check_failed(self, run: str) -> None:
        """A run that failed is not in the log."""
        self.walk()
        if self.landed.get(run):
            raise Violation(f"run {run} failed, and made version(s) {self.landed[run]}")

    def check_reads(self, reads: Sequence[Mapping[str, Any]], acknowledged: Iterable[tuple[float, int]]) -> int:
        """Every read saw one version, whole, and none older than what was acknowledged before the read began.

        Args:
            reads: As the reader tells them, in their order.
            acknowledged: When a version was acknowledged.

        Returns:
            The number of reads.
        """
        self.walk()
        newest, allowed = -1, [[], *([list(status) for status in state.statuses] for state in self.states.values())]
        for seen in reads:
            if "error" in seen:
                raise Violation(f"a reader failed: {seen['error']}")
            version = seen["version"]
            if version < newest:
                raise Violation(f"a reader saw version {version} after {newest}")
            newest = version
            if seen["rows"] != self.expected(version):
                raise Violation(f"a reader saw other rows in version {version} than its commits say")
            if seen["statuses"] not in allowed:
                raise Violation(f"a reader saw a version table that no version made: {seen['statuses']}")
            if late := [made for moment, made in acknowledged if moment < seen["last"] and made > version]:
                raise Violation(f"a reader saw version {version} after {late} had been acknowledged")
        return sum(seen["reads"] for seen in reads)

    def check_statuses(self, reported: Sequence[Row]) -> None:
        """The version table names the partitions, with their status and the version that each made."""
        numbers = {key: number for key, (number, _) in self.state.records.items()}
        made = {key: min(v for v, s in self.states.items() if s.commits == number) for key, number in numbers.items()}
        if [(key, status) for key, status, _ in reported] != self.state.statuses:
            raise Violation(f"version table {reported}, expected {self.state.statuses}")
        if odd := [key for key, _, version in reported if version != made[key]]:
            raise Violation(f"version table {reported} names other versions of {odd} than {made}")


def orphans_on_disk(table: LakePath) -> set[str]:
    """The data files that no commit of the log names."""
    named = set()
    for path in sorted((table / "_delta_log").glob("*.json")):
        for line in path.read_text().splitlines():
            action = json.loads(line)
            if file := action.get("add") or action.get("remove"):
                named.add(file["path"])
    on_disk = {path.relative_to(table).as_posix() for path in table.rglob("*.parquet")}
    return {path for path in on_disk if not path.startswith("_delta_log/")} - named


def check_orphans(table: LakePath, reported: Callable[[], set[str]]) -> set[str]:
    """The report names exactly the files that no commit does."""
    expected, found = orphans_on_disk(table), reported()
    if found != expected:
        raise Violation(f"orphans: {found - expected} reported wrongly, {expected - found} not reported")
    return expected
