"""Any order and any repetition of runs ends in the same table: random histories against a dictionary of partitions.

Between the runs another engine compacts, checkpoints, vacuums or appends. The last test shows that the oracle can fail.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pattern_platform_tests.lake.tables import FRAME_KINDS, Table, as_kind, assert_same_rows

HOURS = dg.HourlyPartitionsDefinition(
    start_date="2024-03-10-00:00", end_date="2024-03-10-06:00", timezone="America/New_York"
)
KEYS = HOURS.get_partition_keys()  # five: there is no 02:00
HOUR = 3_600_000_000
EMPTY = pl.DataFrame(schema={"moment": pl.Datetime("us", "UTC"), "value": pl.Int64})

Rows = list[tuple[int, int]]  # microseconds after the start of an hour, and a value
Step = tuple[str, Any, Any]

NO_SHRINKING = (Phase.explicit, Phase.generate)  # a history costs too much to repeat it hundreds of times
FAST = settings(
    max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, phases=NO_SHRINKING
)

rows = st.lists(
    st.tuples(st.sampled_from([0, 1, 999, 1000, HOUR // 2, HOUR - 1000, HOUR - 999, HOUR - 1]), st.integers(0, 9)),
    max_size=4,
)
hours = st.integers(0, len(KEYS) - 1)
step = st.one_of(
    st.tuples(st.just("write"), hours, rows),
    st.tuples(st.just("write"), hours, rows),
    st.tuples(st.just("range"), st.tuples(hours, hours).map(sorted), st.lists(rows, min_size=5, max_size=5)),
    st.tuples(st.sampled_from(["compact", "checkpoint", "vacuum"]), st.none(), st.none()),
    st.tuples(st.just("append"), hours, rows),
)


def hour_of(index: int, batch: Rows) -> pl.DataFrame:
    """Rows at microseconds after the start of an hour."""
    start = HOURS.time_window_for_partition_key(KEYS[index]).start.astimezone(dt.UTC)
    moments = [start + dt.timedelta(microseconds=offset) for offset, _ in batch]
    return pl.DataFrame({"moment": moments, "value": [value for _, value in batch]}, schema=EMPTY.schema)


@dataclass
class History:
    """A table and the dictionary that says what it should hold."""

    table: Table
    model: dict[int, pl.DataFrame] = field(default_factory=dict)
    kind: type = pl.DataFrame

    def write(self, hour: int, batch: Rows) -> None:
        self.model[hour] = hour_of(hour, batch)
        self.table.write(as_kind(self.model[hour], self.kind), KEYS[hour])

    def range(self, ends: list[int], batches: list[Rows]) -> None:
        chosen = {hour: hour_of(hour, batches[hour]) for hour in range(ends[0], ends[1] + 1)}
        self.model |= chosen
        self.table.write_range(as_kind(pl.concat(chosen.values()), self.kind), KEYS[ends[0]], KEYS[ends[1]])

    def append(self, hour: int, batch: Rows) -> None:
        """Another engine adds rows to an hour: they are the hour's until it is written again."""
        if self.table.path.exists() and batch:
            write_deltalake(self.table.path, hour_of(hour, batch), mode="append")
            self.model[hour] = pl.concat([self.model.get(hour, EMPTY), hour_of(hour, batch)])

    def maintain(self, what: str) -> None:
        if not self.table.path.exists():
            return
        if what == "compact":
            self.table.handle.optimize.compact()
        elif what == "checkpoint":
            self.table.handle.create_checkpoint()
        else:
            self.table.handle.vacuum(0, enforce_retention_duration=False, dry_run=False)

    def check(self) -> None:
        expected = pl.concat([EMPTY, *self.model.values()])
        assert_same_rows(self.table.rows(), expected)
        assert_same_rows(pl.scan_delta(self.table.path).collect(), expected)


def play(history: History, steps: list[Step]) -> None:
    for what, where, batch in steps:
        before = history.table.version if history.table.path.exists() else 0
        if what in ("write", "range", "append"):
            getattr(history, what)(where, batch)
        else:
            history.maintain(what)
        if what in ("write", "range"):
            assert history.table.version == before + 1
            history.check()
    if history.model:
        history.check()


@FAST
@given(st.lists(step, max_size=7), st.sampled_from(FRAME_KINDS))
def test_any_history_equals_its_model(steps: list[Step], kind: type) -> None:
    with tempfile.TemporaryDirectory() as root:
        play(History(Table(Path(root), HOURS), kind=kind), steps)


@FAST
@given(st.lists(rows, min_size=5, max_size=5), st.permutations(range(5)), st.lists(hours, max_size=3))
def test_order_and_repetition_do_not_matter(batches: list[Rows], order: list[int], again: list[int]) -> None:
    with tempfile.TemporaryDirectory() as root:
        history = History(Table(Path(root), HOURS))
        for hour in (*again, *order, *again):
            history.write(hour, batches[hour])
        assert_same_rows(history.table.rows(), pl.concat([hour_of(n, batches[n]) for n in range(5)]))


@FAST
@given(st.lists(rows, min_size=5, max_size=5), hours, rows, st.booleans())
def test_a_rerun_touches_its_own_hour_alone(batches: list[Rows], hour: int, batch: Rows, compacted: bool) -> None:  # noqa: FBT001
    with tempfile.TemporaryDirectory() as root:
        history = History(Table(Path(root), HOURS))
        history.range([0, 4], batches)
        if compacted:
            history.maintain("compact")
        history.write(hour, batch)
        window = HOURS.time_window_for_partition_key(KEYS[hour])
        start, end = window.start.astimezone(dt.UTC), window.end.astimezone(dt.UTC)
        inside = pl.col("moment").is_between(start, end, closed="left")
        others = pl.concat([hour_of(n, batches[n]) for n in range(5) if n != hour])
        assert_same_rows(history.table.rows().filter(~inside), others)
        assert_same_rows(history.table.rows().filter(inside), hour_of(hour, batch))


WORDS = ["o'x", "ñ", "a/b", "\U00020000", "x' OR '1'='1", "A", "a"]


@FAST
@given(st.lists(st.tuples(st.sampled_from(WORDS), st.lists(st.integers(-9, 9), max_size=2)), max_size=8), st.booleans())
def test_text_keys_equal_their_model(writes: list[tuple[str, list[int]]], physical: bool) -> None:  # noqa: FBT001
    definition = dg.StaticPartitionsDefinition(WORDS)
    schema = {"moment": pl.String, "n": pl.Int64}
    with tempfile.TemporaryDirectory() as root:
        table = Table(Path(root), definition, metadata={"partition_by": ["moment"] if physical else []})
        model: dict[str, pl.DataFrame] = {}
        for key, values in writes:
            model[key] = pl.DataFrame({"moment": [key] * len(values), "n": values}, schema=schema)
            table.write(model[key], key)
        if model:
            assert_same_rows(table.rows(), pl.concat(model.values()))


class Appender(History):
    """A writer that appends: right the first time, wrong when a partition is run again."""

    def write(self, hour: int, batch: Rows) -> None:
        self.model[hour] = hour_of(hour, batch)
        write_deltalake(self.table.path, self.model[hour], mode="append")


def test_the_oracle_fails_for_a_writer_that_appends(tmp_path: Path) -> None:
    history = Appender(Table(tmp_path, HOURS))
    history.write(0, [(0, 1)])
    history.write(1, [(0, 1)])
    history.check()
    history.write(0, [(0, 1)])
    with pytest.raises(AssertionError):
        history.check()


def test_the_oracle_fails_for_a_writer_that_replaces_everything(tmp_path: Path) -> None:
    history = History(Table(tmp_path, HOURS))
    history.write(0, [(0, 1)])
    write_deltalake(history.table.path, hour_of(1, [(0, 1)]), mode="overwrite")
    history.model[1] = hour_of(1, [(0, 1)])
    with pytest.raises(AssertionError):
        history.check()
