"""Any history of merges, reruns and upkeep of others equals a dictionary: random machines for both mergers.

The last tests show that the machines can fail.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import ABCMeta, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pattern_platform import MergerIOManager, StatefulMergerIOManager
from pattern_platform.errors import DuplicateKeyError, PatternPlatformError
from pattern_platform_tests.lake.tables import FRAME_KINDS, as_kind
from pattern_platform_tests.patterns.idempotency.merging import (
    Model,
    day,
    did,
    foreign,
    held,
    merger,
    small_files,
    stateful,
    stored_versions,
    vacuum,
    versions,
)

if TYPE_CHECKING:
    from pattern_platform_tests.lake.tables import Table, Written

NO_SHRINKING = (Phase.explicit, Phase.generate)  # a history costs too much to repeat it hundreds of times
FAST = settings(
    max_examples=5,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=NO_SHRINKING,
)

keys = st.sampled_from("abcdefghij")
kinds = st.sampled_from(FRAME_KINDS)


class Abstract(ABCMeta, type(RuleBasedStateMachine)):
    """Of machines with abstract methods: hypothesis has a metaclass of its own."""


class Machine(RuleBasedStateMachine, metaclass=Abstract):
    """A table in a folder of its own, of small files, and those who look after it."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.patches = pytest.MonkeyPatch()
        small_files(self.patches, rows=3)
        self.table = self.make()

    @abstractmethod
    def make(self) -> Table:
        """The table, not written yet, in the folder."""

    def teardown(self) -> None:
        self.patches.undo()
        shutil.rmtree(self.root)

    @property
    def exists(self) -> bool:
        return self.table.path.exists()

    @precondition(lambda self: self.exists)
    @rule()
    def compact(self) -> None:
        self.table.handle.optimize.compact()

    @precondition(lambda self: self.exists)
    @rule()
    def checkpoint(self) -> None:
        self.table.handle.create_checkpoint()


# The merger ---------------------------------------------------------------------------------------------------------

Row = tuple[int, str, bool]  # sequence, region, deleted
changes = st.dictionaries(
    keys,
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["eu", "us", "a/b"]), st.booleans()), min_size=1, max_size=2),
    max_size=5,
)


class MergerMachine(Machine):
    """Batches of changes of ten keys, with sequences; each is again given later, as a rerun would."""

    appends: ClassVar[bool] = False

    def make(self) -> Table:
        self.rows: dict[str, tuple[int, str]] = {}
        self.given: list[dict[str, list[Row]]] = []
        return merger(self.root, metadata={"sequence_by": "v", "soft_delete": "gone"})

    @initialize(by_region=st.booleans())
    def layout(self, by_region: bool) -> None:  # noqa: FBT001 - hypothesis gives it by name
        if by_region:
            self.table = self.table.with_(metadata={**self.table.metadata, "partition_by": ["region"]})

    @rule(batch=changes, kind=kinds)
    def merge(self, batch: dict[str, list[Row]], kind: type) -> None:
        self.given.append(batch)
        rows = [(key, *row) for key, several in batch.items() for row in several]
        schema = {"k": pl.String, "v": pl.Int64, "region": pl.String, "gone": pl.Boolean}
        frame = pl.DataFrame(rows, schema=schema, orient="row")
        if self.appends:
            foreign(self.table, frame.filter(~pl.col("gone")).drop("gone"))
            self.apply(batch)
            return
        if any(len({row for row in several if row[0] == max(several)[0]}) > 1 for several in batch.values()):
            with pytest.raises(DuplicateKeyError):
                self.table.write(as_kind(frame, kind))
            return
        assert did(self.table.write(as_kind(frame, kind)).metadata) == self.apply(batch)

    def apply(self, batch: dict[str, list[Row]]) -> dict[str, int]:
        done = dict.fromkeys(("inserted", "updated", "deleted", "ignored", "dropped_duplicates"), 0)
        for key, several in batch.items():
            sequence, region, deleted = max(several)
            done["dropped_duplicates"] += len(several) - 1
            known = self.rows.get(key)
            if (known and known[0] > sequence) or (deleted and not known):
                done["ignored"] += 1
            elif deleted:
                del self.rows[key]
                done["deleted"] += 1
            else:
                self.rows[key] = (sequence, region)
                done["updated" if known else "inserted"] += 1
        return {name: count for name, count in done.items() if count}

    @precondition(lambda self: self.given)
    @rule(data=st.data(), kind=kinds)
    def again(self, data: Any, kind: type) -> None:
        self.merge(data.draw(st.sampled_from(self.given)), kind)

    @precondition(lambda self: self.exists)
    @rule(region=st.sampled_from(["eu", "us"]))
    def someone_moves_a_region(self, region: str) -> None:
        self.table.handle.delete(f"region = '{region}'")
        self.rows = {key: row for key, row in self.rows.items() if row[1] != region}

    @precondition(lambda self: self.exists)
    @rule()
    def vacuum(self) -> None:
        vacuum(self.table)

    @invariant()
    def the_table_is_the_dictionary(self) -> None:
        if self.exists:
            assert sorted(self.table.rows().select("k", "v", "region").rows()) == sorted(
                (key, *row) for key, row in self.rows.items()
            )
            assert self.table.handle.count() == len(self.rows)


class AppendingMachine(MergerMachine):
    """The negative control: a writer that appends what a batch brings."""

    appends = True


# The stateful merger ------------------------------------------------------------------------------------------------

DAYS = range(5, 11)
days = st.sampled_from(DAYS)
batches = st.dictionaries(keys, st.one_of(st.none(), st.integers(0, 9)), max_size=4)
Batch = dict[str, int | None]


def frame_of(number: int, batch: Batch) -> pl.DataFrame:
    rows = [(key, value, value is None) for key, value in batch.items()]
    frame = pl.DataFrame(rows, schema={"k": pl.String, "v": pl.Int64, "gone": pl.Boolean}, orient="row")
    return frame.with_columns(day=pl.lit(day(number)).str.to_date())


class StatefulMachine(Machine):
    """Runs of six days in any order, alone or as ranges; compaction, vacuum and hands of others between them."""

    io_manager: ClassVar[type[MergerIOManager]] = StatefulMergerIOManager

    def make(self) -> Table:
        self.model = Model()
        self.given: dict[int, Batch] = {}
        return stateful(self.root, io_manager=self.io_manager, partition_expr="day", metadata={"soft_delete": "gone"})

    @rule(number=days, batch=batches)
    def run(self, number: int, batch: Batch) -> None:
        if self.refused(number):
            return
        written = self.table.write(frame_of(number, batch), day(number))
        self.merged(number, written.version, batch)
        assert written.version == self.table.version
        assert written.metadata.get("delta/superseded_partitions", []) == list(map(day, sorted(self.model.superseded)))

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def replay(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.given)))
        self.run(number, self.given[number])

    @precondition(lambda self: self.model.superseded)
    @rule()
    def mend(self) -> None:
        for number in sorted(self.model.superseded):
            self.run(number, self.given[number])

    @rule(ends=st.tuples(days, days).map(sorted), several=st.lists(batches, min_size=6, max_size=6))
    def run_range(self, ends: list[int], several: list[Batch]) -> None:
        numbers = range(ends[0], ends[1] + 1)
        if len(numbers) < 2 or self.refused(ends[0]):
            return
        frame = pl.concat(frame_of(number, several[number - 5]) for number in numbers)
        written = self.table.write_range(frame, day(ends[0]), day(ends[1]))
        self.check_range(numbers, written)
        for number in numbers:
            self.merged(number, written.version - ends[1] + number, several[number - 5])

    def check_range(self, numbers: range, written: Written) -> None:
        expected = {day(number): written.version - numbers[-1] + number for number in numbers}
        assert written.metadata["delta/versions"] == expected

    def merged(self, number: int, version: int, batch: Batch) -> None:
        self.given[number] = batch
        self.model.merge(number, version, batch)

    def refused(self, number: int) -> bool:
        expected = self.model.refusal(number)
        if expected:
            with pytest.raises(PatternPlatformError) as refusal:
                self.table.write(frame_of(number, {"a": 99}), day(number))
            assert type(refusal.value) is expected
        return bool(expected)

    @precondition(lambda self: self.exists)
    @rule()
    def vacuum_what_no_day_needs(self) -> None:
        vacuum(self.table, keep=sorted(self.model.versions.values()))

    @precondition(lambda self: self.exists and not self.model.foreign)
    @rule()
    def someone_appends(self) -> None:
        foreign(self.table, frame_of(10, {"foreign": 1}).drop("gone"))
        self.model.foreign = True

    @precondition(lambda self: self.model.foreign and self.model.versions)
    @rule()
    def undo(self) -> None:
        self.table.handle.restore(max(self.model.versions.values()))
        self.model.foreign = False

    @invariant()
    def the_table_is_the_model(self) -> None:
        if self.exists:
            assert held(self.table) == {**self.model.rows, **({"foreign": 1} if self.model.foreign else {})}
            self.versions_are_those_of_the_model()

    def versions_are_those_of_the_model(self) -> None:
        expected = {day(number): version for number, version in sorted(self.model.versions.items())}
        stale = {f"10-{number:02}*" for number in self.model.superseded}
        assert stored_versions(self.table) == expected
        assert {name for name in versions(self.table) if name.endswith("*")} == stale


class PlainMachine(StatefulMachine):
    """The negative control: a plain merge, which has no versions and restores nothing."""

    io_manager = MergerIOManager

    def check_range(self, numbers: range, written: Written) -> None:
        pass

    def refused(self, number: int) -> bool:
        return self.model.refusal(number) is not None

    def versions_are_those_of_the_model(self) -> None:
        pass


MergerMachine.TestCase.settings = FAST
StatefulMachine.TestCase.settings = FAST


def test_any_history_of_a_merger_equals_a_dictionary() -> None:
    run_state_machine_as_test(MergerMachine, settings=FAST)


def test_any_history_of_a_stateful_merger_equals_its_model() -> None:
    run_state_machine_as_test(StatefulMachine, settings=FAST)


@pytest.mark.parametrize("machine", [AppendingMachine, PlainMachine])
def test_a_machine_fails_for_the_wrong_writer(machine: type[Machine]) -> None:
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(machine, settings=settings(FAST, report_multiple_bugs=False))
