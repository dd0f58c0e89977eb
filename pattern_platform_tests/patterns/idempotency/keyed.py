"""Keyed Idempotency: the scenarios that hold in every store, and how a test looks into each.

What a store holds is asked of its own driver, so that the oracle shares no code with what it judges. The sessions that
the scenarios write are cut by gaps of 30 minutes in append time, and ordered inside by event time.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pattern_platform.errors import (
    ChangedTypeError,
    CommitConflictError,
    DuplicateKeyError,
    InvalidMetadataError,
    LossyCastError,
    LostKeysError,
    MissingColumnError,
    MissingPartitionsError,
    MissingTableError,
    NullKeyError,
    RowsOutsidePartitionError,
    UnknownColumnError,
    UnsafeAssetKeyError,
    UnsupportedTypeError,
)
from pattern_platform.patterns.idempotency.keyed_idempotency import KeyedIdempotencyIOManager
from pattern_platform_tests.lake.tables import (
    FRAME_KINDS,
    NO_RESOURCES,
    as_kind,
    assert_same_rows,
    loaded_by,
    range_tags,
    shared_instance,
)
from pattern_platform_tests.patterns.idempotency.warehouse_tables import QUICK, power_cut, warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DAYS = dg.DailyPartitionsDefinition("2024-05-06", end_date="2024-05-10")
FIRST, SECOND, THIRD, FOURTH = (f"2024-05-0{number}" for number in (6, 7, 8, 9))
SESSIONS = {"key_columns": ["user_id", "first_append"], "key_name": "session_id", "partition_expr": "first_append"}
KEYED = {"key_columns": ["k"], "key_name": "id"}
_NUMBERS = count(1)


# A store, and an asset in it ------------------------------------------------------------------------------------------


class Counter:
    """Acts once, before the statement of a number."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self.left, self.act = number, act

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()

    def around(self, statement: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given_: Any, **options: Any) -> Any:
            self()
            return statement(*given_, **options)

        return counted


@dataclass(frozen=True)
class Backend(ABC):
    """A store, as its own driver sees it."""

    store: Any

    store_type: ClassVar[Any]

    @abstractmethod
    def values(self, key: Sequence[str], *columns: str) -> list[tuple[Any, ...]]:
        """Texts, whole numbers, flags and lists of them, sorted."""

    @abstractmethod
    def contents(self) -> Mapping[str, Any]:
        """Whatever there is."""

    @abstractmethod
    def interrupt(self, patch: pytest.MonkeyPatch, counter: Counter) -> None:
        """Let a counter count the statements of the runs that follow."""

    def asset(self, **changes: Any) -> Asset:
        return replace(Asset(self), **changes)

    def sessions(self, **changes: Any) -> Asset:
        return self.asset(metadata=SESSIONS, definition=DAYS, key=("sessions",)).with_(**changes)


@dataclass(frozen=True)
class Asset:
    """An asset in a store; every run is given what it returns."""

    backend: Backend
    metadata: Mapping[str, Any] = field(default_factory=lambda: KEYED)
    definition: dg.PartitionsDefinition | None = None
    key: tuple[str, ...] = ("rows",)

    def with_(self, **changes: Any) -> Asset:
        """The same rows, declared otherwise."""
        return replace(self, **changes)

    def declared(self, **metadata: Any) -> Asset:
        return self.with_(metadata={**self.metadata, **metadata})

    @property
    def manager(self) -> KeyedIdempotencyIOManager:
        return KeyedIdempotencyIOManager(store=self.backend.store)

    def definition_of(self, value: object = None, *, single_run: bool = False) -> dg.AssetsDefinition:
        @dg.asset(
            key=list(self.key),
            partitions_def=self.definition,
            metadata=dict(self.metadata),
            backfill_policy=dg.BackfillPolicy.single_run() if single_run else None,
        )
        def rows() -> Any:
            return value

        return rows

    def materialize(self, value: object, partition: str | None = None) -> dict[str, Any]:
        """Materialize, and return what Dagster was told."""
        return self._materialize(self.definition_of(value), partition_key=partition)

    def run(self, value: object, partition: str | None = None) -> dict[str, Any]:
        """Write as a run does, in half its time; Dagster's names of steps are narrower, too, than those of tables."""
        context = dg.build_output_context(
            asset_key=self.key,
            definition_metadata=dict(self.metadata),
            partition_key=partition,
            asset_partitions_def=self.definition,
            run_id="run",
            resources=NO_RESOURCES,
        )
        self.manager.handle_output(context, value)
        return {name: getattr(told, "value", told) for name, told in context.consume_logged_metadata().items()}

    def run_range(self, value: object, first: str, last: str) -> dict[str, Any]:
        return self._materialize(self.definition_of(value, single_run=True), tags=range_tags(first, last))

    def _materialize(self, asset: dg.AssetsDefinition, **run: Any) -> dict[str, Any]:
        result = dg.materialize([asset], instance=shared_instance(), resources={"io_manager": self.manager}, **run)
        (*_, event) = result.get_asset_materialization_events()
        metadata = event.step_materialization_data.materialization.metadata
        return {name: value.value for name, value in metadata.items()}

    def load(
        self, partition: str | None = None, kind: Any = pl.DataFrame, *, whole: bool = False, **metadata: Any
    ) -> pl.DataFrame:
        """What a downstream asset of the same partitions, or of none, is given."""
        definition = None if whole else self.definition
        return loaded_by(self.definition_of(), self.manager, partition, kind, definition=definition, metadata=metadata)

    def values(self, *columns: str) -> list[tuple[Any, ...]]:
        return self.backend.values(self.key, *columns)

    def ids(self) -> list[str]:
        """The keys, none of them twice."""
        found = [key for (key,) in self.values(self.metadata["key_name"])]
        assert len(set(found)) == len(found), found
        return found


@contextmanager
def refused(backend: Backend, error: type[Exception], *culprits: str, silent: str = "\0") -> Iterator[None]:
    """The run inside is refused with a class of error that names the culprits, and nothing in the store changes."""
    before = backend.contents()
    with pytest.raises(error) as caught:
        yield
    for culprit in culprits:
        assert culprit in str(caught.value)
    assert silent not in str(caught.value)
    assert backend.contents() == before


def keyed(**values: object) -> pl.DataFrame:
    """Rows ``key: value``."""
    return pl.DataFrame({"k": list(values), "v": list(values.values())}, schema={"k": pl.String, "v": pl.Int64})


def on(day: str, **values: int) -> pl.DataFrame:
    """Rows ``key: value`` of a day."""
    return keyed(**values).with_columns(day=pl.lit(dt.date.fromisoformat(day)))


BY_DAY = {**KEYED, "partition_expr": "day"}


def key_by_hand(*attributes: str) -> str:
    """The key of attributes that need no escape in JSON."""
    return sha256(("[" + ",".join(f'"{text}"' for text in attributes) + "]").encode()).hexdigest()


# Sessions -------------------------------------------------------------------------------------------------------------

LOG = {
    "user_id": pl.String,
    "page": pl.String,
    "event_time": pl.Datetime("us", "UTC"),
    "append_time": pl.Datetime("us", "UTC"),
}


def at(clock: str, day: str = FIRST) -> dt.datetime:
    return dt.datetime.fromisoformat(f"{day}T{clock:0<8}".replace("T0:", "T00:") + "+00:00")


def visit(user: str, page: str, event: str, append: str = "") -> tuple[str, str, dt.datetime, dt.datetime]:
    """A record, with times as ``10:01`` or ``10:01:30``."""
    event_time, append_time = (
        at(clock if clock.count(":") == 2 else f"{clock}:00") for clock in (event, append or event)
    )
    return user, page, event_time, append_time


def log_of(*records: tuple[Any, ...]) -> pl.DataFrame:
    return pl.DataFrame(list(records), schema=LOG, orient="row")


def sessions(log: pl.DataFrame) -> pl.DataFrame:
    """The sessions of a log."""
    pause = pl.col("append_time").diff().over("user_id") > dt.timedelta(minutes=30)
    ordered = log.sort("append_time", maintain_order=True)
    numbered = ordered.with_columns(number=pause.fill_null(value=False).cum_sum().over("user_id"))
    return (
        numbered.group_by("user_id", "number")
        .agg(
            first_append=pl.col("append_time").min(),
            first_event=pl.col("event_time").min(),
            pages=pl.col("page").sort_by("event_time", "append_time", "page"),
        )
        .drop("number")
    )


def sessions_of(log: pl.DataFrame, day: str) -> pl.DataFrame:
    return sessions(log).filter(pl.col("first_append").dt.date() == dt.date.fromisoformat(day))


BOOK = log_of(visit("u1", "A", "03:03:20"), visit("u1", "B", "03:03:26"), visit("u1", "C", "03:05:26"))
LATE = log_of(
    visit("u1", "H", "10:00", "10:01"), visit("u1", "P", "10:15", "10:16"), visit("u1", "C", "10:30", "10:31")
)
WITH_LATE = pl.concat([LATE, log_of(visit("u1", "S", "09:55", "10:40"))])
START = dt.datetime(2024, 5, 6, 20, tzinfo=dt.UTC)


@st.composite
def logs(draw: st.DrawFn) -> pl.DataFrame:
    """Records of two users over some midnights, in the order in which they are appended; events come late."""
    moment, records = START, []
    for number, (user, pause, late) in enumerate(
        draw(
            st.lists(
                st.tuples(st.sampled_from(["u1", "ü 2"]), st.sampled_from([1, 29, 30, 31, 200]), st.integers(0, 90)),
                min_size=1,
                max_size=14,
            )
        )
    ):
        moment += dt.timedelta(minutes=pause)
        records.append((user, f"p{number}", moment - dt.timedelta(minutes=late), moment))
    return log_of(*records)


# What every store keeps -----------------------------------------------------------------------------------------------

UTC, NAIVE = pl.Datetime("us", "UTC"), pl.Datetime("us")
NOON = dt.datetime(2024, 3, 31, 12, 30, 0, 123456, tzinfo=dt.UTC)
LOCAL = dt.datetime(2024, 3, 31, 2, 30, 0, 1)  # noqa: DTZ001 - a column without zone; it is no time of Berlin
TEXTS = ["", " ", "é\u2028\u0085\n\r\t", 'a "q" \\ \'', "null", "{1,2}", "日本", "\ufeffx", "𝄞", "%00"]

# name: (type given, values, type kept)
KEPT: dict[str, tuple[Any, list[Any], Any]] = {
    "string": (pl.String, TEXTS, pl.String),
    "int8": (pl.Int8, [-128, 127, 0], pl.Int16),
    "int16": (pl.Int16, [-(2**15), 2**15 - 1, 0], pl.Int16),
    "int32": (pl.Int32, [-(2**31), 2**31 - 1, 0], pl.Int32),
    "int64": (pl.Int64, [-(2**63), 2**63 - 1, 2**53 + 1], pl.Int64),
    "uint8": (pl.UInt8, [0, 255], pl.Int16),
    "uint16": (pl.UInt16, [0, 2**16 - 1], pl.Int32),
    "uint32": (pl.UInt32, [0, 2**32 - 1], pl.Int64),
    "float32": (pl.Float32, [0.1, 3.4028234663852886e38, 1e-45, 16777216.0], pl.Float32),
    "float64": (pl.Float64, [0.1 + 0.2, 1.7976931348623157e308, 5e-324, 1e16, 2.0], pl.Float64),
    "flag": (pl.Boolean, [True, False], pl.Boolean),
    "date": (pl.Date, [dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(9999, 12, 31)], pl.Date),
    "utc": (UTC, [NOON, dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)], UTC),
    "berlin": (pl.Datetime("us", "Europe/Berlin"), [NOON, dt.datetime(2024, 10, 27, 0, 30, tzinfo=dt.UTC)], UTC),
    "milliseconds": (pl.Datetime("ms", "UTC"), [NOON.replace(microsecond=123000)], UTC),
    "local": (NAIVE, [LOCAL, dt.datetime(1960, 1, 1, 0, 0, 0, 1)], NAIVE),  # noqa: DTZ001 - likewise
    "categorical": (pl.Categorical, ["x", "é"], pl.String),
    "enum": (pl.Enum(["b", "a"]), ["a", "b"], pl.String),
    "strings": (pl.List(pl.String), [[], TEXTS, [None], [None, "NULL", ""]], pl.List(pl.String)),
    "int16s": (pl.List(pl.Int16), [[], [1, None, -(2**15)]], pl.List(pl.Int16)),
    "int32s": (pl.List(pl.Int32), [[], [1, None]], pl.List(pl.Int32)),
    "int64s": (pl.List(pl.Int64), [[], [2**63 - 1, None]], pl.List(pl.Int64)),
    "uint8s": (pl.List(pl.UInt8), [[], [255, None]], pl.List(pl.Int16)),
    "float32s": (pl.List(pl.Float32), [[], [0.1, None]], pl.List(pl.Float32)),
    "float64s": (pl.List(pl.Float64), [[], [5e-324, None]], pl.List(pl.Float64)),
    "flags": (pl.List(pl.Boolean), [[], [True, None, False]], pl.List(pl.Boolean)),
    "dates": (pl.List(pl.Date), [[], [dt.date(1, 1, 1), None]], pl.List(pl.Date)),
    "utcs": (pl.List(UTC), [[], [NOON, None]], pl.List(UTC)),
    "locals": (pl.List(NAIVE), [[], [LOCAL, None]], pl.List(NAIVE)),
    "array": (pl.Array(pl.Int64, 2), [[1, 2], [3, None]], pl.List(pl.Int64)),
}

REFUSED: dict[str, tuple[Any, Any, type[Exception]]] = {
    "binary": (pl.Binary, b"x", UnsupportedTypeError),
    "decimal": (pl.Decimal(10, 2), 1, UnsupportedTypeError),
    "time": (pl.Time, dt.time(1), UnsupportedTypeError),
    "duration": (pl.Duration, dt.timedelta(1), UnsupportedTypeError),
    "struct": (pl.Struct({"a": pl.Int64}), {"a": 1}, UnsupportedTypeError),
    "list of lists": (pl.List(pl.List(pl.Int64)), [[1]], UnsupportedTypeError),
    "list of structs": (pl.List(pl.Struct({"a": pl.Int64})), [{"a": 1}], UnsupportedTypeError),
    "list of bytes": (pl.List(pl.Int8), [1], UnsupportedTypeError),
    "null": (pl.Null, None, UnsupportedTypeError),
    "uint64": (pl.UInt64, 2**64 - 1, LossyCastError),
    "int128": (pl.Int128, 2**64, UnsupportedTypeError),
    "nanoseconds": (pl.Datetime("ns", "UTC"), NOON, LossyCastError),
}


def kept() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every type with its values and a null; as it is given, and as it is kept."""
    height = max(len(values) for _, values, _ in KEPT.values()) + 1
    padded = {name: (values + [None] * height)[:height] for name, (_, values, _) in KEPT.items()}
    ks = [f"k{number}" for number in range(height)]
    return tuple(
        pl.DataFrame([pl.Series("k", ks), *(pl.Series(n, padded[n], dtype=spec[side]) for n, spec in KEPT.items())])
        for side in (0, 2)
    )


# Key columns with values, and the texts that the key is made of.
IN_UTC = "2024-03-31T12:30:00.123456Z"
BERLIN = pl.Datetime("us", "Europe/Berlin")
ATTRIBUTES: dict[str, tuple[Any, Any, str]] = {
    "text": (pl.String, "u1", '["u1"]'),
    "escapes": (pl.String, 'a"b\\c/d\n\x01\x7f', '["a\\"b\\\\c/d\\n\\u0001\x7f"]'),
    "non-ascii": (pl.String, "é 日\u2028", '["é 日\u2028"]'),
    "no text": (pl.String, "", '[""]'),
    "category": (pl.Categorical, "é", '["é"]'),
    "enum": (pl.Enum(["a"]), "a", '["a"]'),
    "negative": (pl.Int64, -(2**63), '["-9223372036854775808"]'),
    "short": (pl.UInt8, 7, '["7"]'),
    "true": (pl.Boolean, True, '["true"]'),
    "false": (pl.Boolean, False, '["false"]'),
    "date": (pl.Date, dt.date(2024, 5, 6), '["2024-05-06"]'),
    "early date": (pl.Date, dt.date(1, 2, 3), '["0001-02-03"]'),
    "utc": (UTC, NOON, f'["{IN_UTC}"]'),
    "berlin": (BERLIN, NOON, f'["{IN_UTC}"]'),
    "milliseconds": (pl.Datetime("ms", "UTC"), NOON.replace(microsecond=7000), '["2024-03-31T12:30:00.007000Z"]'),
    "before 1970": (UTC, dt.datetime(1969, 12, 31, 23, 59, 59, 999999, dt.UTC), '["1969-12-31T23:59:59.999999Z"]'),
    "doubled hour": (BERLIN, dt.datetime(2024, 10, 27, 1, 30, tzinfo=dt.UTC), '["2024-10-27T01:30:00.000000Z"]'),
}


# The child ------------------------------------------------------------------------------------------------------------


def child(backend_class: type[Backend], store: str, key: str, action: str) -> None:
    """A run in a process of its own, which may kill itself before the statement of a number."""
    backend = backend_class(backend_class.store_type(**json.loads(store)))
    if action == "sessions":
        backend.sessions(key=(key,)).materialize(sessions_of(WITH_LATE, FIRST), FIRST)
        print(hash("u1"))  # noqa: T201 - what the parent waits for
        return
    with pytest.MonkeyPatch.context() as patch:
        if action.isdigit():
            backend.interrupt(patch, Counter(int(action), lambda: os.kill(os.getpid(), signal.SIGKILL)))
        else:
            getattr(backend, action)(patch)
        backend.asset(key=(key,)).declared(lost_keys="keep").run(keyed(a=9, c=9))


def started(backend: Backend, key: str, action: str, **environment: str) -> subprocess.Popen[str]:
    module, name = type(backend).__module__, type(backend).__name__
    program = f"import sys; from {__name__} import child; from {module} import {name}; child({name}, *sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(backend.store.model_dump()), key, action],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed(backend: Backend, action: str) -> None:
    died = started(backend, "rows", action)
    _, said = died.communicate()
    assert died.returncode == -signal.SIGKILL, said


# The scenarios --------------------------------------------------------------------------------------------------------


class Scenarios:
    """What holds in every store. A test class has the fixture ``backend``: a store that is empty."""

    # From the book ----------------------------------------------------------------------------------------------------

    def test_k_2_a_replay_with_more_users_keeps_the_keys(self, backend: Backend) -> None:
        asset = backend.sessions()
        asset.materialize(sessions_of(BOOK, FIRST), FIRST)
        (before,) = asset.load(FIRST).rows(named=True)
        assert before["pages"] == ["A", "B", "C"]
        assert before["session_id"] == key_by_hand("u1", "2024-05-06T03:03:20.000000Z")
        asset.materialize(sessions_of(pl.concat([BOOK, log_of(visit("u2", "D", "04:55:26"))]), FIRST), FIRST)
        after = {row["user_id"]: row for row in asset.load(FIRST).rows(named=True)}
        assert set(after) == {"u1", "u2"}
        assert after["u1"]["ingestion_time"] > before["ingestion_time"]
        assert {**after["u1"], "ingestion_time": None} == {**before, "ingestion_time": None}
        assert len(asset.ids()) == 2

    @pytest.mark.parametrize("moment", ["first_append", "first_event"])
    def test_k_3_a_late_record_keeps_the_key_of_append_time_alone(self, backend: Backend, moment: str) -> None:
        asset = backend.sessions().declared(key_columns=["user_id", moment], lost_keys="keep")
        asset.run(sessions_of(LATE, FIRST), FIRST)
        first = asset.ids()
        asset.run(sessions_of(WITH_LATE, FIRST), FIRST)
        if moment == "first_append":
            assert asset.ids() == first == [key_by_hand("u1", "2024-05-06T10:01:00.000000Z")]
            assert asset.values("pages") == [(["S", "H", "P", "C"],)]
        else:  # the control: the same session twice, and by default not even that
            assert len(asset.ids()) == 2
            with refused(backend, LostKeysError):
                asset.declared(lost_keys="refuse").run(sessions_of(WITH_LATE, FIRST), FIRST)

    def test_k_5_two_users_in_the_same_second(self, backend: Backend) -> None:
        asset = backend.sessions()
        asset.run(sessions_of(log_of(visit("u1", "A", "10:00"), visit("u2", "A", "10:00")), FIRST), FIRST)
        assert len(asset.ids()) == 2

    def test_k_6_every_process_makes_the_same_keys(self, backend: Backend) -> None:
        children = [started(backend, f"seed{seed}", "sessions", PYTHONHASHSEED=seed) for seed in "01"]
        said = [child.communicate() for child in children]
        assert [child.returncode for child in children] == [0, 0], said
        assert said[0][0] != said[1][0], "the seeds hash alike"
        keys = [backend.sessions(key=(f"seed{seed}",)).ids() for seed in "01"]
        assert keys == [[key_by_hand("u1", "2024-05-06T10:01:00.000000Z")]] * 2

    @pytest.mark.parametrize("lost_keys", ["refuse", "delete", "keep"])
    def test_k_7_a_source_that_lost_its_first_record(
        self, backend: Backend, lost_keys: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asset = backend.sessions().declared(lost_keys=lost_keys)
        elsewhere = sessions_of(log_of(visit("u9", "X", "10:00")), FIRST)
        asset.run(pl.concat([sessions_of(LATE, FIRST), elsewhere]), FIRST)
        stored, said = asset.ids(), warnings(monkeypatch)
        compacted = pl.concat([sessions_of(LATE[1:], FIRST), elsewhere])
        new = key_by_hand("u1", "2024-05-06T10:16:00.000000Z")
        old = key_by_hand("u1", "2024-05-06T10:01:00.000000Z")
        if lost_keys == "refuse":
            with refused(backend, LostKeysError, "no longer contains the first record", FIRST, "lost_keys"):
                asset.run(compacted, FIRST)
        elif lost_keys == "delete":
            assert asset.run(compacted, FIRST)["keyed/keys_lost"] == 1
            assert set(asset.ids()) == {*stored, new} - {old}
            assert sorted(asset.load(FIRST)["session_id"]) == asset.ids()
            assert asset.run(compacted, FIRST)["keyed/keys_lost"] == 0
        else:
            assert asset.run(compacted, FIRST)["keyed/keys_lost"] == 1
            assert set(asset.ids()) == {*stored, new}
            assert sorted(asset.load(FIRST)["session_id"]) == asset.ids()
        if lost_keys != "refuse":
            assert any("1 key(s) are no longer in the source" in text for text in said)

    def test_keys_that_are_made_of_other_columns_are_lost_keys(self, backend: Backend) -> None:
        asset = backend.asset()
        asset.run(keyed(a=1))
        with refused(backend, LostKeysError, "'v'"):
            asset.declared(key_columns=["v"]).run(keyed(a=1))

    # Replays ----------------------------------------------------------------------------------------------------------

    @settings(QUICK, max_examples=2)
    @given(log=logs(), data=st.data())
    def test_any_order_repetition_and_split_of_runs_leaves_the_same(
        self, backend: Backend, log: pl.DataFrame, data: st.DataObject
    ) -> None:
        days, number = [FIRST, SECOND, THIRD], next(_NUMBERS)
        asset, once = (backend.sessions(key=(f"log{number}_{part}",)) for part in ("runs", "once"))
        runs = data.draw(st.lists(st.tuples(st.sampled_from(days), st.integers(0, log.height)), max_size=3), "prefixes")
        held: dict[str, set[str]] = {}
        for day, length in [*runs, *((day, log.height) for day in data.draw(st.permutations(days), "at the end"))]:
            batch = sessions_of(log[:length], day)
            texts = batch["first_append"].dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
            keys = {key_by_hand(user, text) for user, text in zip(batch["user_id"], texts, strict=True)}
            if held.get(day, set()) - keys:
                with pytest.raises(LostKeysError):
                    asset.run(batch, day)
            else:
                asset.run(batch, day)
                held[day] = keys
            assert set(asset.ids()) == set().union(*held.values())
        once.run_range(pl.concat([sessions_of(log, day) for day in days]), FIRST, THIRD)
        assert once.ids() == asset.ids()
        left, right = (part.load(whole=True, allow_missing_partitions=True) for part in (asset, once))
        assert_same_rows(left.drop("ingestion_time"), right.drop("ingestion_time"))
        assert_same_rows(
            left.drop("session_id", "ingestion_time"),
            sessions(log).filter(pl.col("first_append") < at("00:00:00", FOURTH)),
        )

    def test_a_key_that_moves_to_another_partition_is_not_lost(self, backend: Backend) -> None:
        asset = backend.asset(metadata=BY_DAY, definition=DAYS)

        def held() -> dict[str, list[str]]:
            return {day: sorted(asset.load(day)["k"]) for day in (FIRST, SECOND)}

        asset.run_range(pl.concat([on(FIRST, a=1, b=1), on(SECOND, c=1)]), FIRST, SECOND)
        assert held() == {FIRST: ["a", "b"], SECOND: ["c"]}
        asset.run_range(pl.concat([on(FIRST, b=2), on(SECOND, a=2, c=2)]), FIRST, SECOND)
        assert held() == {FIRST: ["b"], SECOND: ["a", "c"]}
        assert asset.declared(lost_keys="delete").run(on(FIRST, b=3), FIRST)["keyed/keys_lost"] == 0
        assert held() == {FIRST: ["b"], SECOND: ["a", "c"]}
        asset.run(on(FIRST, a=4, b=4), FIRST)
        assert held() == {FIRST: ["a", "b"], SECOND: ["c"]}
        asset.run(on(SECOND, c=5), SECOND)
        assert held() == {FIRST: ["a", "b"], SECOND: ["c"]}
        with refused(backend, LostKeysError, "1 key(s)", FIRST):
            asset.run(on(FIRST, b=6), FIRST)
        asset.declared(lost_keys="delete").run(on(FIRST, b=6), FIRST)
        asset.run(on(SECOND, a=7, c=7), SECOND)
        asset.declared(lost_keys="delete").run(on(SECOND), SECOND)
        assert held() == {FIRST: ["b"], SECOND: []}
        assert asset.values("k", "v") == [("b", 6)]

    # Types, and the key -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("rows_first", [True, False], ids=["", "an empty run first"])
    def test_every_type_comes_back_as_it_was(self, backend: Backend, *, rows_first: bool) -> None:
        asset, (batch, expected) = backend.asset(), kept()
        if not rows_first:
            asset.run(batch.clear())
            assert asset.load().drop("id", "ingestion_time").schema == expected.schema
        for _ in range(2):
            asset.run(batch)
            found = asset.load().sort("k")
            assert found["ingestion_time"].dtype == UTC
            found = found.drop("id", "ingestion_time")
            assert found.schema == expected.schema
            assert_frame_equal(found, expected.sort("k"), check_exact=True)
        assert str(asset.load()["float64"].null_count()) == str(expected["float64"].null_count())
        zero = pl.DataFrame({"k": ["k0"], "v": [-0.0]})
        backend.asset(key=("zero",)).run(zero)
        assert str(backend.asset(key=("zero",)).load()["v"].item()) == "-0.0"

    def test_types_that_some_store_would_change_are_refused(self, backend: Backend) -> None:
        before = backend.contents()
        for name, (dtype, value, error) in REFUSED.items():
            batch = pl.DataFrame({"k": ["a"], "odd": pl.Series([value], dtype=dtype)})
            with pytest.raises(error, match="odd"):
                backend.asset(key=(f"rows_of_{name}",)).run(batch)
            assert backend.contents() == before, name

    def test_the_key_is_what_the_docstring_says(self, backend: Backend) -> None:
        columns = {f"c{n}": pl.Series([value], dtype=t) for n, (t, value, _) in enumerate(ATTRIBUTES.values())}
        text = "[" + ",".join(text[1:-1] for _, _, text in ATTRIBUTES.values()) + "]"
        asset = backend.asset(key=("together",), metadata={"key_columns": list(columns), "key_name": "the Key"})
        asset.run(pl.DataFrame(columns))
        assert asset.ids() == [sha256(text.encode()).hexdigest()]
        backwards = asset.with_(key=("backwards",)).declared(key_columns=list(columns)[::-1])
        backwards.run(pl.DataFrame(columns))
        assert backwards.ids() != asset.ids()
        dtype, value, text = ATTRIBUTES["false"]
        alone = backend.asset(key=("alone",))
        alone.run(pl.DataFrame({"k": pl.Series([value], dtype=dtype)}))
        assert alone.ids() == [sha256(text.encode()).hexdigest()]

    def test_equal_instants_have_one_key_whatever_their_unit_and_zone(self, backend: Backend) -> None:
        asset = backend.asset(definition=DAYS, metadata={**KEYED, "partition_expr": "k"})
        moment = dt.datetime(2024, 5, 6, 12, tzinfo=dt.UTC)
        for dtype in (UTC, pl.Datetime("ms", "UTC"), BERLIN, pl.Datetime("ms", "Asia/Kolkata")):
            asset.run(pl.DataFrame({"k": pl.Series([moment], dtype=dtype)}), FIRST)
            assert asset.ids() == [key_by_hand("2024-05-06T12:00:00.000000Z")], dtype
        assert asset.load(FIRST)["k"].to_list() == [moment]

    def test_equal_numbers_have_one_key_whatever_their_width(self, backend: Backend) -> None:
        asset = backend.asset()
        asset.run(pl.DataFrame({"k": pl.Series([7], dtype=pl.Int64)}))
        for dtype in (pl.UInt8, pl.Int16, pl.UInt32):
            asset.run(pl.DataFrame({"k": pl.Series([7], dtype=dtype)}))
        assert asset.ids() == [key_by_hand("7")]

    def test_a_partition_column_may_be_a_category(self, backend: Backend) -> None:
        asset = backend.asset(
            definition=dg.StaticPartitionsDefinition(["x", "y"]), metadata={**KEYED, "partition_expr": "p"}
        )
        asset.run(keyed(a=1).with_columns(p=pl.lit("x").cast(pl.Categorical)), "x")
        assert asset.load("x")["p"].to_list() == ["x"]

    def test_keys_that_are_no_keys_are_refused(self, backend: Backend) -> None:
        asset = backend.asset(metadata={"key_columns": ["k", "v"], "key_name": "id"})
        asset.run(keyed(a=1, b=2))
        rows = [("a", 42), ("a", 42)]
        with refused(backend, DuplicateKeyError, "2 row(s)", "'k', 'v'", silent="42"):
            asset.run(pl.DataFrame(rows, schema=["k", "v"], orient="row"))
        with refused(backend, NullKeyError, "'v'", silent="'k'"):
            asset.run(keyed(a=1, secret=None))
        with refused(backend, UnsupportedTypeError, "'v'", "Float64"):
            asset.run(pl.DataFrame({"k": ["a"], "v": [1.0]}))
        for dtype in (pl.Time, pl.Duration, pl.Binary, pl.List(pl.String)):
            with refused(backend, UnsupportedTypeError, "'v'"):
                asset.run(pl.DataFrame({"k": ["a"], "v": pl.Series([None], dtype=dtype)}))
        with refused(backend, NullKeyError, "'v'"):
            asset.run(pl.DataFrame({"k": ["a"], "v": pl.Series([None], dtype=pl.Boolean)}))
        with refused(backend, MissingColumnError, "'v'"):
            asset.run(pl.DataFrame({"k": ["a"]}))

    def test_equal_texts_in_other_columns_are_other_keys(self, backend: Backend) -> None:
        asset = backend.asset(metadata={"key_columns": ["a", "b"], "key_name": "id"})
        asset.run(pl.DataFrame({"a": ['x","y', "x", "1"], "b": ["z", 'y","z', "23"]}))
        asset.run(pl.DataFrame({"a": ['x","y', "x", "1", "12"], "b": ["z", 'y","z', "23", "3"]}))
        assert len(asset.ids()) == 4

    # Names ------------------------------------------------------------------------------------------------------------

    def test_reserved_columns_are_refused(self, backend: Backend) -> None:
        for column in ("id", "ID", "ingestion_time", "Ingestion_Time", "_partition", "_PARTITION"):
            with refused(backend, InvalidMetadataError, column):
                backend.asset().run(keyed(a=1).with_columns(pl.lit("x").alias(column)))

    def test_a_key_cannot_have_the_name_of_another_column(self, backend: Backend) -> None:
        for name in ("ingestion_time", "_partition", "_Partition", "INGESTION_TIME", ""):
            asset = backend.asset().declared(key_name=name)
            with refused(backend, InvalidMetadataError):
                asset.run(keyed(a=1))
            with pytest.raises(InvalidMetadataError):
                asset.manager.refuse_spec(dg.AssetSpec("rows", metadata=asset.metadata))

    def test_odd_names_are_kept(self, backend: Backend) -> None:
        name = 'The "Key" é; --'
        asset = backend.asset(metadata={"key_columns": ["Select k"], "key_name": name}, key=("Order", "Select"))
        batch = pl.DataFrame({"Select k": ["a", "b"], "order": [1, 2], 'x"y': [None, "z"], "$1": ["%s", "'"]})
        for _ in range(2):
            asset.run(batch)
            assert_same_rows(asset.load().drop(name, "ingestion_time"), batch)
        assert asset.ids() == sorted(map(key_by_hand, "ab"))
        asset.declared(lost_keys="delete").run(batch[:1])
        assert asset.ids() == [key_by_hand("a")]

    def test_long_names_are_kept_or_refused(self, backend: Backend) -> None:
        """PostgreSQL cuts a name after 63 bytes."""
        for asset, column in (
            (backend.asset(key=("x" * 60,)), "v"),
            (backend.asset(key=("y" * 80,)), "v"),
            (backend.asset(), "c" * 80),
        ):
            batch = keyed(a=1).rename({"v": column})
            before = backend.contents()
            try:
                asset.run(batch)
            except (InvalidMetadataError, UnsafeAssetKeyError):
                assert backend.contents() == before
                continue
            asset.run(batch)
            assert_same_rows(asset.load().drop("id", "ingestion_time"), batch)

    def test_a_name_that_another_table_needs_is_refused(self, backend: Backend) -> None:
        for name in ("rows__loads", "rows_"):
            with refused(backend, UnsafeAssetKeyError, name):
                backend.asset(key=(name,)).run(keyed(a=1))

    # Declarations and schemas -----------------------------------------------------------------------------------------

    def test_a_declaration_without_a_key_is_refused(self, backend: Backend) -> None:
        for missing in KEYED:
            asset = backend.asset(metadata={name: value for name, value in KEYED.items() if name != missing})
            with refused(backend, InvalidMetadataError, missing):
                asset.run(keyed(a=1))
        for odd in ({"key_columns": []}, {"lost_keys": "forget"}, {"key_colums": ["k"]}):
            with refused(backend, InvalidMetadataError, next(iter(odd))):
                backend.asset().declared(**odd).run(keyed(a=1))
        asset = backend.asset(definition=DAYS)
        with refused(backend, InvalidMetadataError, "partition_expr"):
            asset.run(on(FIRST, a=1), FIRST)
        with pytest.raises(InvalidMetadataError, match="partition_expr"):
            asset.manager.refuse_spec(dg.AssetSpec("rows", partitions_def=DAYS, metadata=KEYED))
        asset.manager.refuse_spec(dg.AssetSpec("rows", partitions_def=DAYS, metadata=BY_DAY))

    def test_rows_of_another_partition_are_refused(self, backend: Backend) -> None:
        asset = backend.asset(metadata=BY_DAY, definition=DAYS)
        with refused(backend, RowsOutsidePartitionError, "1 row(s)", FIRST):
            asset.run(pl.concat([on(FIRST, a=1), on(SECOND, b=1)]), FIRST)
        with refused(backend, RowsOutsidePartitionError):
            asset.run(on(FIRST, a=1).with_columns(day=pl.lit(None, pl.Date)), FIRST)

    def test_schema_evolution(self, backend: Backend) -> None:
        asset = backend.asset(metadata=BY_DAY, definition=DAYS)
        evolving = asset.declared(schema_evolution="add_columns")
        asset.run(on(FIRST, a=1), FIRST)
        wider = on(SECOND, b=2).with_columns(
            w=pl.lit(2.5), at=pl.lit(NOON, UTC), tags=pl.Series([["x", None]], dtype=pl.List(pl.String))
        )
        with refused(backend, UnknownColumnError, "'w'"):
            asset.run(wider, SECOND)
        evolving.run(wider, SECOND)
        found = asset.load(whole=True, allow_missing_partitions=True).sort("k").drop("id", "ingestion_time")
        assert_same_rows(found, pl.concat([on(FIRST, a=1), wider], how="diagonal"))
        with refused(backend, MissingColumnError, "'w'"):
            evolving.run(on(FIRST, a=1), FIRST)
        with refused(backend, ChangedTypeError, "'v'", silent="secret"):
            evolving.run(wider.with_columns(v=pl.lit("secret")), SECOND)
        with refused(backend, LossyCastError, "'v'"):
            evolving.run(wider.with_columns(v=pl.lit(1.5)), SECOND)
        evolving.run(wider.with_columns(w=None, v=pl.lit(3, pl.Int8)), SECOND)
        assert asset.load(SECOND).select("v", "w").rows() == [(3, None)]
        evolving.run(on(FIRST, a=1).with_columns(w=None, at=None, tags=None), FIRST)
        assert asset.load(FIRST).select("v", "w").rows() == [(1, None)]

    def test_what_dagster_is_told(self, backend: Backend) -> None:
        asset = backend.asset(metadata=BY_DAY, definition=DAYS, key=("store", "rows"))
        told = asset.materialize(on(FIRST, a=1, b=2), FIRST)
        assert told["dagster/partition_row_count"] == 2
        assert told["dagster/table_name"] == "store.rows"
        assert told["dagster/uri"] == backend.store.uri
        columns = [column.name for column in told["dagster/column_schema"].columns]
        assert columns == ["id", "k", "v", "day", "ingestion_time"]
        told = asset.run_range(on(FIRST, a=1, b=2), FIRST, SECOND)
        assert told["keyed/rows_upserted"] == 2

    # Partitions and inputs --------------------------------------------------------------------------------------------

    def test_every_kind_of_frame_goes_in_and_comes_out(self, backend: Backend) -> None:
        asset = backend.asset()
        for number, kind in enumerate(FRAME_KINDS):
            asset.materialize(as_kind(keyed(a=number, b=2), kind))
            assert_same_rows(asset.load(kind=kind).select("k", "v"), keyed(a=number, b=2))

    def test_empty_partitions_are_told_from_those_never_written(self, backend: Backend) -> None:
        asset = backend.asset(metadata=BY_DAY, definition=DAYS)
        for act in (lambda: asset.load(FIRST), lambda: asset.load(whole=True)):
            with refused(backend, MissingTableError):
                act()
        assert asset.load(FIRST, allow_missing_partitions=True).is_empty()
        asset.run(on(FIRST), FIRST)
        assert asset.load(FIRST).columns == ["id", "k", "v", "day", "ingestion_time"]
        assert asset.load(FIRST).is_empty()
        with refused(backend, MissingPartitionsError, SECOND, silent=FIRST):
            asset.load(SECOND)
        assert asset.load(SECOND, allow_missing_partitions=True).is_empty()
        asset.run(on(SECOND, a=1), SECOND)
        assert asset.load(FIRST).is_empty()
        assert asset.load(SECOND)["k"].to_list() == ["a"]

    def test_an_asset_without_partitions(self, backend: Backend) -> None:
        asset = backend.asset()
        with refused(backend, MissingTableError):
            asset.load()
        assert asset.load(allow_missing_partitions=True).is_empty()
        asset.run(keyed(a=1, b=2))
        with refused(backend, LostKeysError, "1 key(s)"):
            asset.run(keyed(a=1))
        asset.run(keyed(a=2, b=2, c=2))
        assert asset.values("k", "v") == [("a", 2), ("b", 2), ("c", 2)]
        assert asset.load(columns=["v", "id"]).columns == ["v", "id"]
        with refused(backend, InvalidMetadataError, "'nothing'"):
            asset.load(columns=["nothing"])
        with refused(backend, InvalidMetadataError, "table_version"):
            asset.load(table_version=1)

    def test_partitions_of_two_dimensions(self, backend: Backend) -> None:
        two = dg.MultiPartitionsDefinition({"day": DAYS, "shop": dg.StaticPartitionsDefinition(["é x", "y"])})
        asset = backend.asset(definition=two, metadata={**KEYED, "partition_expr": {"day": "day", "shop": "shop"}})
        for shop in ("é x", "y"):
            partition = dg.MultiPartitionKey({"day": FIRST, "shop": shop})
            asset.run(on(FIRST, **{shop[0]: 1}).with_columns(shop=pl.lit(shop)), partition)
        for shop in ("é x", "y"):
            assert asset.load(dg.MultiPartitionKey({"day": FIRST, "shop": shop}))["k"].to_list() == [shop[0]]

    # All or nothing ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
    def test_an_error_before_any_statement_changes_nothing(self, backend: Backend, *, known: bool) -> None:
        asset = backend.asset().declared(lost_keys="delete", schema_evolution="add_columns")
        if known:
            asset.run(keyed(a=1, b=1))
        before, number = backend.contents(), 0
        while True:
            number += 1
            with pytest.MonkeyPatch.context() as patch:
                counter = Counter(number, power_cut)
                backend.interrupt(patch, counter)
                with suppress(RuntimeError):  # of the power cut
                    asset.run(keyed(a=2, c=2).with_columns(w=pl.lit("x")))
                if counter.left > 0:
                    break
            assert backend.contents() == before, number
        assert number > 5
        assert asset.values("k", "v", "w") == [("a", 2, "x"), ("c", 2, "x")]

    def test_k_8_a_killed_run_changes_nothing_and_its_retry_is_right(self, backend: Backend) -> None:
        asset = backend.asset().declared(lost_keys="keep")
        asset.run(keyed(a=1, b=1))
        number = self.statements(backend) - 1
        before = backend.contents()
        killed(backend, str(number))
        assert backend.contents() == before
        for _ in range(2):
            asset.run(keyed(a=9, c=9))
            assert asset.values("k", "v") == [("a", 9), ("b", 1), ("c", 9)]

    @staticmethod
    def statements(backend: Backend) -> int:
        """How many statements a run has."""
        asset = backend.asset(key=("counted",))
        asset.run(keyed(a=1))
        with pytest.MonkeyPatch.context() as patch:
            counter = Counter(1000, power_cut)
            backend.interrupt(patch, counter)
            asset.run(keyed(a=2, c=2))
        return 1000 - counter.left

    # At once ----------------------------------------------------------------------------------------------------------

    def test_readers_see_one_batch(self, backend: Backend) -> None:
        """Every run replaces all values; a reader of the driver, and an input, see those of one run."""
        asset = backend.asset()
        asset.run(keyed(**{f"k{n}": 0 for n in range(50)}))
        done, seen = threading.Event(), []

        def read() -> None:
            try:
                while not done.is_set():
                    for values in ([v for (v,) in asset.values("v")], asset.load()["v"].to_list()):
                        seen.append((len(values), len(set(values))))  # noqa: PERF401 - read one by one
            finally:
                shared_instance().dispose()

        with ThreadPoolExecutor(1) as pool:
            reader = pool.submit(read)
            try:
                for number in range(1, 9):
                    asset.run(keyed(**{f"k{n}": number for n in range(50)}))
            finally:
                done.set()
            reader.result()
        assert len(seen) >= 2
        assert set(seen) == {(50, 1)}

    def test_two_runs_at_once_are_one_after_the_other(self, backend: Backend) -> None:
        asset = backend.asset().declared(lost_keys="delete")
        batches = {1: keyed(a=1, b=1, c=1), 2: keyed(b=2, c=2, d=2)}
        asset.run(keyed(b=0))
        for _ in range(3):
            together = threading.Barrier(2)

            def run(number: int, together: threading.Barrier = together) -> int:
                together.wait()
                try:
                    asset.run(batches[number])
                except CommitConflictError as error:
                    assert error.retryable  # noqa: PT017
                    return 0
                finally:
                    shared_instance().dispose()
                return number

            with ThreadPoolExecutor(2) as pool:
                written = {number for number in pool.map(run, batches) if number}
            assert written
            assert written == {1, 2} or backend.store.kind == "redis"
            assert asset.values("k", "v") in [sorted(batches[number].rows()) for number in written]
