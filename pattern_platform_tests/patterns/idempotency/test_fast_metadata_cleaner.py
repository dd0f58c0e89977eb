"""Fast Metadata Cleaner: its scenarios for both methods, then what a replay, a schema, freezing and a unit may be.

What the tables hold is asked of DuckDB, on a connection of the test's own.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
import duckdb
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pattern_platform.errors import (
    ChangedTypeError,
    FrozenUnitError,
    InexpressiblePartitionError,
    InvalidMetadataError,
    LossyCastError,
    MissingColumnError,
    MissingPartitionsError,
    MissingTableError,
    PatternPlatformError,
    ReplayUnitError,
    RowsOutsidePartitionError,
    SupersededPartitionsError,
    TooManyUnitsError,
    UnknownColumnError,
    UnsafeAssetKeyError,
    UnsupportedStorageError,
    UnsupportedTableError,
)
from pattern_platform.orchestration.unit_tables import freezing_asset, unit_schema_asset, units_check, waiting_check
from pattern_platform.patterns.idempotency.data_overwrite_duckdb import WarehouseOverwriteIOManager
from pattern_platform.patterns.idempotency.fast_metadata_cleaner import FastMetadataCleanerIOManager
from pattern_platform.warehouse import units as units_module
from pattern_platform.warehouse.loads import Loads
from pattern_platform.warehouse.unit_calendar import Unit, unit_of
from pattern_platform.warehouse.units import Units
from pattern_platform_tests.lake.tables import FRAME_KINDS, as_kind, assert_same_rows
from pattern_platform_tests.patterns.idempotency.warehouse_tables import (
    CONFIG,
    QUICK,
    Warehouse,
    days,
    ids_of,
    kept_open,
    killed,
    power_cut,
    refused,
    warnings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DAYS = dg.DailyPartitionsDefinition("2023-01-01", end_date="2026-01-01")
HOURLY = {"partition_expr": "at"}
ADDING = {"schema_evolution": "add_columns"}
MON, TUE, WED, THU = "2023-11-06", "2023-11-07", "2023-11-08", "2023-11-09"
WEEK = (MON, TUE, WED, THU)
TWO_EACH = tuple((day, 2) for day in WEEK)
Method = Literal["drop", "truncate"]
METHODS: tuple[Method, Method] = ("drop", "truncate")
both_methods = pytest.mark.parametrize("method", METHODS)


def store(folder: Path, *, unit: Unit = "week", method: Method = "drop", **changes: Any) -> Warehouse:
    table = Warehouse(folder, FastMetadataCleanerIOManager, DAYS, {"unit": unit, "method": method})
    return table.with_(**changes)


@pytest.fixture
def visits(tmp_path: Path) -> Warehouse:
    return store(tmp_path)


@pytest.fixture(params=METHODS)
def either(tmp_path: Path, request: pytest.FixtureRequest) -> Warehouse:
    """The table under each of the methods."""
    return store(tmp_path, method=request.param)


def units_of(table: Warehouse) -> list[str]:
    """The tables of the units in the file, whatever the registry says."""
    names = table.sql("SELECT table_name FROM duckdb_tables()")["table_name"].to_list()
    return sorted(name.split("__")[1] for name in names if "__" in name and not name.endswith("__loads"))


def load_week(table: Warehouse) -> Warehouse:
    table.run_range(days(*TWO_EACH), MON, THU)
    return table


def freeze(table: Warehouse, before: str, **config: Any) -> dict[str, Any]:
    return table.operate(freezing_asset(table.asset_key, "io_manager"), before=before, **config)


def change_schema(table: Warehouse, **types: str) -> dict[str, Any]:
    return table.operate(unit_schema_asset(table.asset_key, "io_manager"), types=types)


def adds_up(table: Warehouse) -> bool:
    return table.check(units_check(table.asset_key, ["day", "id"], "io_manager")).passed


def waiting(table: Warehouse) -> dg.AssetCheckEvaluation:
    return table.check(waiting_check(table.asset_key, "io_manager"))


# The scenarios ------------------------------------------------------------------------------------------------------


def test_fmc_1_four_days_and_their_rerun(either: Warehouse) -> None:
    for _ in range(2):
        told = [either.run(days((day, 2)), day) for day in WEEK]
        assert [run["duckdb/units_reset"] for run in told] == [["20231106"], [], [], []]
        assert [run["duckdb/units"] for run in told] == [1, 1, 1, 1]
        assert either.ids() == ids_of(*TWO_EACH)
    assert units_of(either) == ["20231106"]
    assert told[-1]["dagster/row_count"] == 8
    assert told[-1]["duckdb/rows_inserted"] == 2
    assert told[-1]["dagster/table_name"] == "warehouse.visits"
    assert told[-1]["dagster/uri"] == str(either.database)
    assert [column.name for column in told[-1]["dagster/column_schema"].columns] == ["day", "id"]
    assert adds_up(either)


def test_fmc_2_a_day_alone_is_refused_and_its_unit_replayed(either: Warehouse) -> None:
    load_week(either)
    command = f"dg launch --assets warehouse/visits --partition-range {MON}...{THU}"
    with refused(either, ReplayUnitError, f"'{TUE}'", "20231106", command):
        either.run(days((TUE, 3)), TUE)
    assert either.ids() == ids_of(*TWO_EACH)
    fixed = ((MON, 2), (TUE, 3), (WED, 2), (THU, 2))
    told = either.run_range(days(*fixed), *command.rsplit(" ", 1)[1].split("..."))
    assert told["duckdb/units_reset"] == ["20231106"]
    assert told["duckdb/partitions_to_replay"] == []
    assert either.ids() == ids_of(*fixed)


@pytest.mark.parametrize(
    "damage",
    [
        "DROP VIEW warehouse.visits",
        "CREATE OR REPLACE VIEW warehouse.visits AS SELECT * FROM warehouse.visits__20231106 LIMIT 1",
    ],
    ids=["dropped", "replaced"],
)
def test_a_view_that_someone_changed_is_made_again_by_the_next_run(either: Warehouse, damage: str) -> None:
    load_week(either)
    either.execute(damage)
    load_week(either)
    assert either.ids() == ids_of(*TWO_EACH)
    assert adds_up(either)


NEW_YEARS = ("2023-12-25", "2023-12-31", "2024-01-01", "2024-01-07", "2024-12-30", "2024-12-31")
NEW_YEARS += ("2025-01-01", "2025-01-05", "2025-01-06")


def test_fmc_3_weeks_around_new_year(either: Warehouse) -> None:
    told = [either.run(days((day, 1)), day) for day in NEW_YEARS]
    assert units_of(either) == ["20231225", "20240101", "20241230", "20250101", "20250106"]
    resets = [run["duckdb/units_reset"] for run in told]
    assert resets == [["20231225"], [], ["20240101"], [], ["20241230"], [], ["20250101"], [], ["20250106"]]
    assert either.ids() == ids_of(*[(day, 1) for day in NEW_YEARS])
    assert told[-1]["dagster/row_count"] == 9
    assert adds_up(either)


def test_the_books_week_names_lose_two_days() -> None:
    """The negative control: number of the ISO week and calendar year, as in the book's example."""
    with duckdb.connect() as connection:
        for text in NEW_YEARS:
            day = dt.date.fromisoformat(text)
            name = f"visits_{day.isocalendar().week}_{day.year}"
            if day.isoweekday() == 1 or day.timetuple().tm_yday == 1:
                connection.execute(f"DROP TABLE IF EXISTS {name}")
                connection.execute(f"CREATE TABLE {name} (day DATE)")
            connection.execute(f"INSERT INTO {name} VALUES (?)", [day])  # noqa: S608 - a name of the book
        names = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        view = " UNION ALL ".join(f"FROM {name}" for name in names)
        left = {str(day) for (day,) in connection.execute(view).fetchall()}
    assert len(left) == 7
    assert set(NEW_YEARS) - left == {"2024-01-01", "2024-01-07"}


def test_fmc_4_a_first_run_on_wednesday(either: Warehouse) -> None:
    told = either.run(days((WED, 2)), WED)
    assert units_of(either) == ["20231106"]
    assert told["duckdb/units_reset"] == ["20231106"]
    assert either.ids() == ids_of((WED, 2))


class Reader(threading.Thread):
    """Reads the view again and again, until it is told to stop; each read is one of the states."""

    def __init__(self, table: Warehouse, states: Sequence[list[str]]) -> None:
        super().__init__()
        self.table, self.states = table, states
        self.seen: list[int] = []
        self.error: BaseException | None = None
        self.stopping, self.read = threading.Event(), threading.Condition()

    def run(self) -> None:
        try:
            with duckdb.connect(str(self.table.database), config=CONFIG) as connection:
                while not self.stopping.is_set():
                    rows = connection.execute("SELECT id FROM warehouse.visits").fetchall()
                    with self.read:
                        self.seen.append(self.states.index(sorted(id_ for (id_,) in rows)))
                        self.read.notify_all()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            with self.read:
                self.error = error
                self.read.notify_all()

    def reads_more(self) -> None:
        """Wait until a read has begun and ended."""
        with self.read:
            wanted = len(self.seen) + 2
            assert self.read.wait_for(lambda: self.error or len(self.seen) >= wanted, timeout=30), "no read"
            assert self.error is None, self.error


STATES = [
    ids_of(*TWO_EACH),
    ids_of((MON, 3)),  # Monday alone is replayed
    ids_of((MON, 3), (TUE, 1)),
    ids_of((MON, 1), (TUE, 4), (WED, 1)),  # the unit is replayed in one run
    ids_of((MON, 1), (TUE, 4), (WED, 1), ("2023-11-13", 5)),  # another unit
]


def play_states(table: Warehouse, after_each: Callable[[int], None]) -> None:
    """From the first of the states, which is there, through the others."""
    runs: list[Callable[[], object]] = [
        lambda: table.run(days((MON, 3)), MON),
        lambda: table.run(days((TUE, 1)), TUE),
        lambda: table.run_range(days((MON, 1), (TUE, 4), (WED, 1)), MON, WED),
        lambda: table.run(days(("2023-11-13", 5)), "2023-11-13"),
    ]
    after_each(0)
    for number, run in enumerate(runs, start=1):
        run()
        after_each(number)


def test_fmc_5_a_reader_sees_the_unit_before_or_after(either: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    load_week(either)
    reader = Reader(either, STATES)
    places = 0
    for name in ("reset", "load", "expose"):
        real = getattr(Units, name)

        def watched(*given: Any, _real: Callable[..., None] = real, **named: Any) -> None:
            nonlocal places
            reader.reads_more()
            _real(*given, **named)
            reader.reads_more()
            places += 1

        monkeypatch.setattr(Units, name, watched)
    reader.start()
    try:
        play_states(either, lambda _: reader.reads_more())
    finally:
        reader.stopping.set()
        reader.join()
    assert reader.error is None
    assert places == 4 + 4 + 3  # every load, the exposing after it, and a reset but for Tuesday
    assert reader.seen == sorted(reader.seen)
    assert set(reader.seen) == set(range(len(STATES)))


def test_fmc_5_a_read_transaction_outlives_the_reset(either: Warehouse) -> None:
    load_week(either)
    with either.connection() as connection:
        connection.begin()
        before = connection.execute("SELECT id FROM warehouse.visits ORDER BY id").fetchall()
        either.run_range(days((MON, 1)), MON, THU)
        assert connection.execute("SELECT id FROM warehouse.visits ORDER BY id").fetchall() == before
        connection.commit()
        assert connection.execute("SELECT id FROM warehouse.visits").fetchall() == [(f"{MON}#0",)]


READING = """
import sys, threading
from pattern_platform.warehouse.database import connected
stopping = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stopping.set()), daemon=True).start()
while not stopping.is_set():
    with connected(sys.argv[1]) as connection:
        rows = connection.execute("SELECT id FROM warehouse.visits").fetchall()
    print(*sorted(id for (id,) in rows), flush=True)
"""


@both_methods
def test_fmc_5_a_reader_in_another_process(tmp_path: Path, method: Method) -> None:
    table = load_week(store(tmp_path, method=method))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    seen: list[int] = []
    with subprocess.Popen([sys.executable, "-c", READING, str(table.database)], text=True, **pipes) as process:
        assert process.stdout
        lines = process.stdout

        def is_seen(number: int) -> None:
            while not seen or seen[-1] != number:
                line = lines.readline()
                assert line, process.communicate()
                seen.append(STATES.index(line.split()))

        play_states(table, is_seen)
        rest, errors = process.communicate()
    seen.extend(STATES.index(line.split()) for line in rest.splitlines())
    assert (process.returncode, errors) == (0, "")
    assert seen == sorted(seen)
    assert set(seen) == set(range(len(STATES)))


def test_fmc_6_a_new_column_is_null_in_the_units_before(tmp_path: Path) -> None:
    for method in METHODS:
        visits = store(tmp_path / method, method=method, metadata=ADDING)
        visits.run(days((MON, 2)), MON)
        visits.run(days(("2023-11-13", 2), referral="search"), "2023-11-13")
        shown = visits.rows()
        assert shown.columns == ["day", "id", "referral"]
        held = dict(shown.group_by("day").agg("referral").with_columns(pl.col("day").cast(pl.String)).rows())
        assert held == {MON: [None, None], "2023-11-13": ["search", "search"]}
        assert_same_rows(visits.load(MON), days((MON, 2)).with_columns(referral=pl.lit(None, pl.String)))
        assert adds_up(visits)
        visits.run(days((MON, 1)), MON)  # the unit is replayed without the column
        assert visits.rows()["referral"].null_count() == 1


def test_fmc_7_weeks_are_frozen_into_their_month(either: Warehouse) -> None:
    weeks = (MON, "2023-11-13", "2023-11-20")
    for day in weeks:
        either.run(days((day, 2)), day)
    before = either.rows()
    told = freeze(either, "2023-12-04")
    assert told["duckdb/units_before"] == ["20231106", "20231113", "20231120"]
    assert told["duckdb/units"] == units_of(either) == ["frozen_202311"]
    assert_same_rows(either.rows(), before)
    assert adds_up(either)
    for day in (MON, "2023-11-30", "2023-12-03"):  # one of a week that starts in November, and was never loaded
        with refused(either, FrozenUnitError, f"'{day}'", "frozen_202311"):
            either.run(days((day, 1)), day)
    with refused(either, FrozenUnitError):
        either.run_range(days(("2023-12-04", 1)), "2023-12-03", "2023-12-04")
    either.run(days(("2023-12-04", 1)), "2023-12-04")
    assert units_of(either) == ["20231204", "frozen_202311"]
    assert either.rows().height == before.height + 1


@pytest.mark.parametrize("place", ["reset", "load", "expose"])
def test_fmc_8_a_load_that_fails_after_the_reset(
    either: Warehouse, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    load_week(either)
    real = getattr(Units, place)

    def dies(*given: Any, **named: Any) -> None:
        real(*given, **named)
        power_cut()

    with monkeypatch.context() as patch:
        patch.setattr(Units, place, dies)
        with refused(either, RuntimeError, "power"):
            either.run(days((MON, 3)), MON)
        with refused(either, RuntimeError, "power"):
            either.run(days(("2023-11-13", 3)), "2023-11-13")
    told = either.run(days((MON, 3)), MON)
    assert told["duckdb/units_reset"] == ["20231106"]
    assert either.ids() == ids_of((MON, 3))


def test_fmc_8_a_run_that_dies_after_its_commit_is_retried(either: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dg.OutputContext, "add_output_metadata", power_cut)
        with pytest.raises(RuntimeError, match="power"):
            either.run(days((MON, 2)), MON)
    assert either.ids() == ids_of((MON, 2))
    either.run(days((MON, 2)), MON)
    assert either.ids() == ids_of((MON, 2))


KILLED = """
import datetime as dt, os, signal, sys
import dagster as dg, polars as pl
from pattern_platform.patterns.idempotency.fast_metadata_cleaner import FastMetadataCleanerIOManager
from pattern_platform.warehouse.loads import Loads
Loads.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
@dg.asset(
    key=["warehouse", "visits"],
    partitions_def=dg.DailyPartitionsDefinition("2023-01-01"),
    metadata={"partition_expr": "day"},
)
def visits():
    ids = pl.int_range(int(sys.argv[4]), eager=True).cast(pl.String)
    return pl.DataFrame({"id": ids}).with_columns(day=pl.lit(dt.date.fromisoformat(sys.argv[3])))
manager = FastMetadataCleanerIOManager(database=sys.argv[1], method=sys.argv[2])
dg.materialize([visits], partition_key=sys.argv[3], resources={"io_manager": manager})
"""


@pytest.mark.parametrize(
    ("method", "day"), [("drop", MON), ("truncate", MON), ("drop", "2023-11-13")], ids=["drop", "truncate", "new unit"]
)
def test_a_killed_run_leaves_everything_as_it_was(tmp_path: Path, method: Method, day: str) -> None:
    table = load_week(store(tmp_path, method=method))
    before = table.contents()
    killed(KILLED, table.database, method, day, 300_000)  # rows enough to be in the file before the end
    assert table.contents() == before
    table.run(days((day, 1)), day)
    assert table.ids() == (ids_of((MON, 1)) if day == MON else ids_of(*TWO_EACH, (day, 1)))


def test_a_killed_first_run_leaves_no_table(tmp_path: Path) -> None:
    table = store(tmp_path)
    killed(KILLED, table.database, "drop", MON, 10)
    assert table.contents() == {"views": []}
    table.run(days((MON, 2)), MON)
    assert table.ids() == ids_of((MON, 2))


# Nothing is deleted row by row --------------------------------------------------------------------------------------


def statements(table: Warehouse, act: Callable[[], object]) -> list[str]:
    """What DuckDB was asked to do, by its own log."""
    with table.connection() as connection:
        connection.execute("CALL enable_logging('QueryLog')").fetchall()
        act()
        logged = connection.execute("SELECT message FROM duckdb_logs WHERE type = 'QueryLog'").fetchall()
    return [text.strip().upper() for (text,) in logged]


def everything(table: Warehouse) -> None:
    """Loads, replays, a freeze and a change of the schema."""
    table.run(days((MON, 2)), MON)
    table.run(days((TUE, 2)), TUE)
    table.run_range(days(*TWO_EACH), MON, THU)
    table.run(days(("2024-01-01", 1), referral="x"), "2024-01-01")
    table.run(days((MON, 1)), MON)
    table.run_range(days((TUE, 1)), TUE, THU)
    freeze(table, "2023-12-04")
    change_schema(table, referral="VARCHAR")


def test_no_row_is_deleted(either: Warehouse) -> None:
    said = statements(either, lambda: everything(either.with_(metadata=ADDING)))
    assert not [text for text in said if "DELETE" in text or "UPDATE" in text or "MERGE" in text]
    emptied = "TRUNCATE" if either.options["method"] == "truncate" else "DROP TABLE IF EXISTS"
    assert sum(text == f'{emptied} "STORE"."WAREHOUSE"."VISITS__20231106"' for text in said) >= 2
    assert sum(text.startswith("COMMIT") for text in said) == 8


def test_a_delete_would_be_found(tmp_path: Path) -> None:
    """The negative control, a pattern that deletes rows."""
    table = store(tmp_path, io_manager=WarehouseOverwriteIOManager, options={})
    table.run(days((MON, 2)), MON)
    said = statements(table, lambda: table.run(days((MON, 2)), MON))
    assert [text for text in said if text.startswith("DELETE")]


def test_the_methods_differ_in_what_becomes_of_the_table(either: Warehouse) -> None:
    load_week(either)
    identity = "SELECT table_oid FROM duckdb_tables() WHERE table_name = 'visits__20231106'"
    with either.connection() as connection:
        before = connection.execute(identity).fetchall()
        load_week(either)
        after = connection.execute(identity).fetchall()
    assert len(before) == 1
    assert (after == before) == (either.options["method"] == "truncate")


def test_a_unit_of_many_row_groups_is_replaced(either: Warehouse) -> None:
    many = pl.DataFrame({"day": [dt.date(2023, 11, 6)]}).select("day", id=pl.int_ranges(0, 300_000)).explode("id")
    for _ in range(2):
        either.run(many, MON)
        assert_same_rows(either.rows(), many)


# What a run may be --------------------------------------------------------------------------------------------------


def test_an_asset_without_partitions_is_one_unit(either: Warehouse) -> None:
    table = either.with_(definition=None)
    for batch in (days((MON, 3)), days((TUE, 1)), days(), days((MON, 2))):
        told = table.run(batch)
        assert told["duckdb/units_reset"] == ["full"]
        assert told["dagster/row_count"] == batch.height
        assert_same_rows(table.rows(), batch)
        assert_same_rows(table.load(), batch)
    assert units_of(table) == ["full"]
    assert adds_up(table)
    assert waiting(table).passed
    with refused(table, UnknownColumnError, "'referral'"):
        table.run(days((MON, 1), referral="x"))
    with refused(table, MissingColumnError, "'id'"):
        table.run(days((MON, 1)).select("day"))
    assert freeze(table, "2030-01-01")["duckdb/units"] == ["full"]


def test_a_range_replays_units_in_one_transaction(either: Warehouse) -> None:
    load_week(either)
    span = (*((f"2023-11-{number:02}", 1) for number in range(6, 15)),)
    told = either.run_range(days(*span), MON, "2023-11-14")
    assert told["duckdb/units_reset"] == ["20231106", "20231113"]
    assert told["duckdb/rows_inserted"] == 9
    assert either.ids() == ids_of(*span)
    assert either.loads() == dict(span)


def test_a_range_with_a_refused_unit_changes_no_unit(visits: Warehouse) -> None:
    load_week(visits)
    visits.run(days(("2023-11-13", 1)), "2023-11-13")
    with refused(visits, ReplayUnitError, f"'{THU}'", f"{MON}...2023-11-12"):
        visits.run_range(days((THU, 1), ("2023-11-13", 5)), THU, "2023-11-19")


def test_a_range_from_the_first_leaves_the_rest_waiting(either: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    load_week(either)
    said = warnings(monkeypatch)
    told = either.run_range(days((MON, 1), (TUE, 1)), MON, TUE)
    assert told["duckdb/partitions_to_replay"] == [WED, THU]
    assert [text for text in said if "wait for their replay" in text and f"--partition {THU}" in text]
    told = either.run_range(days((WED, 1), (THU, 1)), WED, THU)
    assert told["duckdb/partitions_to_replay"] == told["duckdb/units_reset"] == []
    assert either.ids() == ids_of(*((day, 1) for day in WEEK))


def test_a_unit_without_its_first_is_replayed_by_all_that_it_holds(either: Warehouse) -> None:
    either.run(days((TUE, 2)), TUE)
    assert either.run(days((TUE, 3)), TUE)["duckdb/units_reset"] == ["20231106"]
    assert either.ids() == ids_of((TUE, 3))
    either.run(days((THU, 1)), THU)
    with refused(either, ReplayUnitError, f"--partition-range {TUE}...{THU}"):
        either.run(days((THU, 2)), THU)
    either.run_range(days((TUE, 1), (WED, 1)), TUE, THU)
    assert either.ids() == ids_of((TUE, 1), (WED, 1))
    assert either.loads() == {TUE: 1, WED: 1, THU: 0}


def test_the_first_partition_loaded_late_takes_nothing_away(either: Warehouse) -> None:
    for day in (TUE, WED):
        either.run(days((day, 2)), day)
    told = either.run(days((MON, 2)), MON)
    assert told["duckdb/units_reset"] == told["duckdb/partitions_to_replay"] == []
    assert either.ids() == ids_of((MON, 2), (TUE, 2), (WED, 2))


def test_a_replay_of_the_first_alone_names_the_others(either: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    load_week(either)
    said = warnings(monkeypatch)
    told = either.run(days((MON, 3)), MON)
    assert told["duckdb/partitions_to_replay"] == [TUE, WED, THU]
    commands = [f"dg launch --assets warehouse/visits --partition {day}" for day in (TUE, WED, THU)]
    assert all(any(command in text for text in said) for command in commands)
    assert either.loads() == {MON: 3, TUE: None, WED: None, THU: None}
    assert_same_rows(either.load(MON), days((MON, 3)))
    with refused(either, SupersededPartitionsError, commands[0], f"'{TUE}'"):
        either.load(TUE)
    assert either.load(TUE, allow_missing_partitions=True).is_empty()
    for number, day in enumerate((WED, TUE, THU)):
        evaluation = waiting(either)
        assert not evaluation.passed
        assert not evaluation.blocking
        assert evaluation.metadata["waiting"].value == [d for d in WEEK[1:] if d not in (WED, TUE, THU)[:number]]
        assert f"--partition {THU}" in str(evaluation.metadata["replay"].value)
        either.run(days((day, 1)), day)
        assert_same_rows(either.load(day), days((day, 1)))
    assert waiting(either).passed
    assert either.ids() == ids_of((MON, 3), (TUE, 1), (WED, 1), (THU, 1))


def test_an_empty_batch_is_loaded_too(either: Warehouse) -> None:
    either.run(days(), MON)
    assert units_of(either) == ["20231106"]
    assert either.loads() == {MON: 0}
    assert either.load(MON).is_empty()
    either.run(days((TUE, 2)), TUE)
    with refused(either, ReplayUnitError):
        either.run(days(), TUE)
    either.run(days(), MON)
    assert either.ids() == []
    assert either.loads() == {MON: 0, TUE: None}


@pytest.mark.parametrize("kind", FRAME_KINDS)
def test_every_kind_of_frame_goes_in_and_comes_out(visits: Warehouse, kind: type) -> None:
    visits.run(as_kind(days((MON, 3)), kind), MON)
    assert_same_rows(visits.load(MON, kind), days((MON, 3)))


def test_rows_of_another_day_are_refused(visits: Warehouse) -> None:
    load_week(visits)
    with refused(visits, RowsOutsidePartitionError, "1 row(s)"):
        visits.run(days((MON, 2), (TUE, 1)), MON)
    with refused(visits, RowsOutsidePartitionError, "2 row(s)"):
        visits.run(days((MON, 2)).with_columns(day=pl.lit(None, pl.Date)), MON)


def test_inputs(visits: Warehouse) -> None:
    with pytest.raises(MissingTableError):
        visits.load(MON)
    assert visits.load(MON, allow_missing_partitions=True).is_empty()
    assert not visits.database.exists()
    load_week(visits)
    visits.run(days(("2023-11-13", 1)), "2023-11-13")
    assert_same_rows(visits.load(TUE, columns=["id"]), days((TUE, 2)).select("id"))
    with refused(visits, MissingPartitionsError, "'2023-11-10'"):
        visits.load("2023-11-10")
    assert visits.load("2023-11-10", allow_missing_partitions=True).is_empty()
    assert sorted(visits.load(whole=True, allow_missing_partitions=True)["id"]) == visits.ids()
    with refused(visits, InvalidMetadataError, "table_version"):
        visits.load(MON, table_version=1)
    freeze(visits, "2023-12-04")
    assert_same_rows(visits.load(TUE), days((TUE, 2)))


# The schema ---------------------------------------------------------------------------------------------------------


def test_a_strict_table_takes_no_new_column(visits: Warehouse) -> None:
    load_week(visits)
    for day in (MON, "2023-11-10", "2023-11-13"):
        with refused(visits, UnknownColumnError, "'referral'"):
            visits.run(days((day, 1), referral="x"), day)
    with refused(visits, MissingColumnError, "'id'"):
        visits.run(days(("2023-11-13", 1)).select("day"), "2023-11-13")


def test_an_optional_column_may_be_missing_until_all_units_have_it(tmp_path: Path) -> None:
    visits = store(tmp_path, metadata=ADDING)
    visits.run(days((MON, 1)), MON)
    visits.run(days(("2023-11-13", 1), referral="x"), "2023-11-13")
    visits.run(days(("2023-11-14", 1)), "2023-11-14")
    visits.run(days(("2023-11-20", 1)), "2023-11-20")
    assert visits.rows()["referral"].null_count() == 3
    told = change_schema(visits)
    assert told["duckdb/units_changed"] == ["20231106", "20231120"]
    assert told["columns"] == {"day": "Date", "id": "String", "referral": "String"}
    assert visits.rows()["referral"].null_count() == 3
    assert change_schema(visits)["duckdb/units_changed"] == []
    with refused(visits, MissingColumnError, "'referral'"):
        visits.run(days(("2023-11-21", 1)), "2023-11-21")
    visits.run(days(("2023-11-21", 1), referral=None), "2023-11-21")
    assert visits.rows().height == 5
    assert adds_up(visits)


def test_a_column_keeps_its_type_in_every_unit(tmp_path: Path) -> None:
    visits = store(tmp_path, metadata=ADDING)
    visits.run(days((MON, 1), n=1), MON)
    visits.run(days(("2023-11-13", 1), n=1, referral="x"), "2023-11-13")
    for day in (TUE, "2023-11-20"):
        with refused(visits, ChangedTypeError, "'n'"):
            visits.run(days((day, 1), n="secret"), day)
        with refused(visits, LossyCastError, "'n'"):
            visits.run(days((day, 1), n=0.5), day)
        with refused(visits, ChangedTypeError, "'referral'"):
            visits.run(days((day, 1), n=1, referral=7), day)
    with refused(visits, InvalidMetadataError, "case-insensitive"):
        visits.run(days((TUE, 1), n=1, N=1), TUE)
    visits.run(days((TUE, 1)).with_columns(n=pl.lit(2, pl.Int8)), TUE)
    assert visits.rows().schema["n"] == pl.Int32


def test_an_optional_column_in_another_case_is_refused(tmp_path: Path) -> None:
    visits = store(tmp_path, metadata=ADDING)
    visits.run(days((MON, 1)), MON)
    visits.run(days(("2023-11-13", 1), referral="x"), "2023-11-13")
    for day in (TUE, "2023-11-14", "2023-11-20"):
        with refused(visits, InvalidMetadataError, "'referral'", "'Referral'"):
            visits.run(days((day, 1), Referral="y"), day)


def test_types_are_widened_in_every_unit(either: Warehouse) -> None:
    narrow = {"n": pl.lit(1, pl.Int16), "ratio": pl.lit(0.5, pl.Float32), "price": pl.lit(1, pl.Decimal(5, 2))}
    wide = {"n": pl.lit(2**40), "ratio": pl.lit(0.1), "price": pl.lit(1, pl.Decimal(9, 2))}
    for day in (MON, "2023-11-13"):
        either.run(days((day, 1)).with_columns(**narrow), day)
    for column, value in wide.items():
        with refused(either, LossyCastError, f"'{column}'"):
            either.run(days((TUE, 1)).with_columns(**{**narrow, column: value}), TUE)
    told = change_schema(either, n="BIGINT", ratio="double", price="DECIMAL(9, 2)")
    assert told["duckdb/units_changed"] == ["20231106", "20231113"]
    assert either.rows().height == 2
    either.run(days((TUE, 1)).with_columns(**wide), TUE)
    either.run(days(("2023-11-20", 1)).with_columns(**wide), "2023-11-20")
    shown = either.rows()
    wider = pl.Schema({"n": pl.Int64, "ratio": pl.Float64, "price": pl.Decimal(9, 2)})
    assert shown.select(wider.names()).schema == wider
    assert sorted(shown["n"]) == [1, 1, 2**40, 2**40]
    assert adds_up(either)


REFUSED_TYPES: list[tuple[dict[str, str], type[PatternPlatformError]]] = [
    ({"n": "SMALLINT"}, LossyCastError),
    ({"n": "FLOAT"}, LossyCastError),
    ({"n": "BIGINT", "ratio": "FLOAT"}, LossyCastError),
    ({"n": "VARCHAR"}, ChangedTypeError),
    ({"day": "TIMESTAMP"}, ChangedTypeError),
    ({"id": "BIGINT"}, ChangedTypeError),
    ({"nothing": "BIGINT"}, InvalidMetadataError),
    ({"n": "NONSENSE"}, InvalidMetadataError),
    ({"n": ""}, InvalidMetadataError),
    ({"n": "BIGINT; DROP TABLE warehouse.visits__loads"}, InvalidMetadataError),
    ({"n": "BIGINT) AS a, (SELECT 1"}, InvalidMetadataError),
    ({"n": "BIGINT) --"}, InvalidMetadataError),
    ({"n": "BIGINT AS a"}, InvalidMetadataError),
    ({"n": "BIGINT\n"}, InvalidMetadataError),
    ({"n": "ENUM('a')"}, InvalidMetadataError),
    ({"n": "BIGINT USING (SELECT 1)"}, InvalidMetadataError),
]


@pytest.fixture(scope="module")
def two_weeks(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """A table that nothing changes."""
    table = store(tmp_path_factory.mktemp("weeks"))
    for day in (MON, "2023-11-13"):
        table.run(days((day, 1), n=1, ratio=0.5), day)
    return table


@pytest.mark.parametrize(("types", "error"), REFUSED_TYPES, ids=[str(types) for types, _ in REFUSED_TYPES])
def test_other_changes_of_types_are_refused(
    two_weeks: Warehouse, types: dict[str, str], error: type[PatternPlatformError]
) -> None:
    with refused(two_weeks, error):
        change_schema(two_weeks, **types)


@pytest.mark.parametrize("text", ["UUID", "JSON"])
def test_a_type_that_no_batch_has_is_refused(visits: Warehouse, text: str) -> None:
    visits.run(days((MON, 1), ref="6ba7b810-9dad-11d1-80b4-00c04fd430c8", doc="1"), MON)
    for column in ("ref", "doc", "id"):
        with refused(visits, PatternPlatformError, text):
            change_schema(visits, **{column: text})


# Freezing -----------------------------------------------------------------------------------------------------------


def test_only_whole_months_and_years_are_frozen(visits: Warehouse) -> None:
    weeks = ("2023-10-30", MON, "2023-11-27", "2023-12-04", "2023-12-25", "2024-01-01", "2024-01-29")
    for day in weeks:
        visits.run(days((day, 1)), day)
    rows = visits.rows()
    before = visits.contents()
    freeze(visits, "2023-11-05")  # the week of 30 October is not over
    assert visits.contents() == before
    assert freeze(visits, "2023-11-06")["duckdb/units"][0] == "frozen_202310"
    assert freeze(visits, "2023-12-03")["duckdb/units"][1] == "20231106"
    weeks_left = ["20231204", "20231225", "20240101", "20240129"]
    assert freeze(visits, "2023-12-04")["duckdb/units"] == ["frozen_202310", "frozen_202311", *weeks_left]
    assert freeze(visits, "2023-12-31", into="year")["duckdb/units"] == ["frozen_202310", "frozen_202311", *weeks_left]
    assert freeze(visits, "2024-01-01", into="year")["duckdb/units"] == ["frozen_2023", "20240101", "20240129"]
    assert sorted(units_of(visits)) == ["20240101", "20240129", "frozen_2023"]
    assert_same_rows(visits.rows(), rows)
    assert adds_up(visits)
    for day in ("2023-01-02", MON, "2023-12-31"):
        with refused(visits, FrozenUnitError, "frozen_2023"):
            visits.run(days((day, 1)), day)
    assert freeze(visits, "2024-01-01")["duckdb/units"] == ["frozen_2023", "20240101", "20240129"]
    visits.run(days(("2024-01-02", 2)), "2024-01-02")
    assert visits.rows().height == rows.height + 2


@pytest.mark.parametrize(("unit", "into"), [("month", "month"), ("year", "month"), ("year", "year")])
def test_units_are_frozen_into_something_longer(tmp_path: Path, unit: Unit, into: str) -> None:
    table = store(tmp_path, unit=unit)
    table.run(days(("2023-01-01", 1)), "2023-01-01")
    with refused(table, InvalidMetadataError, into, unit):
        freeze(table, "2025-01-01", into=into)


def test_units_of_different_columns_are_frozen_together(tmp_path: Path) -> None:
    table = store(tmp_path, unit="day", metadata=ADDING)
    table.run(days((MON, 1)), MON)
    table.run(days((TUE, 1), referral="x"), TUE)
    table.run(days((WED, 1), campaign=7), WED)
    before = table.rows()
    assert freeze(table, "2023-12-01")["duckdb/units"] == ["frozen_202311"]
    assert_same_rows(table.rows(), before)


def test_a_unit_that_waits_is_not_frozen(visits: Warehouse) -> None:
    """Its partitions could not be replayed any more."""
    load_week(visits)
    visits.run(days((MON, 1)), MON)
    with refused(visits, PatternPlatformError, f"--partition {TUE}"):
        freeze(visits, "2024-01-01")
    visits.run_range(days((TUE, 1)), TUE, THU)
    assert freeze(visits, "2024-01-01")["duckdb/units"] == ["frozen_202311"]


@pytest.mark.parametrize("place", [Units, Loads], ids=["expose", "write"])
def test_an_operation_that_fails_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: type
) -> None:
    table = store(tmp_path, metadata=ADDING)
    load_week(table)
    table.run(days(("2023-11-13", 1), n=1), "2023-11-13")
    with monkeypatch.context() as patch:
        patch.setattr(place, "expose" if place is Units else "write", power_cut)
        with refused(table, RuntimeError, "power"):
            freeze(table, "2024-01-01")
        with refused(table, RuntimeError, "power"):
            change_schema(table, n="BIGINT")
    assert change_schema(table, n="BIGINT")["duckdb/units_changed"] == ["20231106", "20231113"]
    assert freeze(table, "2024-01-01")["duckdb/units"] == ["frozen_202311"]


# Refusals -----------------------------------------------------------------------------------------------------------


def test_most_units(visits: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    said = warnings(monkeypatch)
    monkeypatch.setattr(units_module, "MOST_UNITS", 3)
    monkeypatch.setattr(units_module, "_WARN_FROM", 3)
    for day in (MON, "2023-11-13"):
        visits.run(days((day, 1)), day)
    assert not said
    visits.run(days(("2023-11-20", 1)), "2023-11-20")
    assert [text for text in said if "3 units of at most 3" in text and "freeze" in text]
    with refused(visits, TooManyUnitsError, "4 tables", "freeze"):
        visits.run(days(("2023-11-27", 1)), "2023-11-27")
    visits.run(days((MON, 2)), MON)  # a replay makes none
    freeze(visits, "2023-12-04")
    visits.run(days(("2023-12-04", 1)), "2023-12-04")
    assert visits.rows().height == 5


def test_the_unit_of_a_table_with_rows_stays_what_it_is(visits: Warehouse) -> None:
    load_week(visits)
    daily = visits.with_(options={**visits.options, "unit": "day"})
    for day in (TUE, THU):
        with refused(daily, InvalidMetadataError, f"'{day}'", "20231106"):
            daily.run(days((day, 1)), day)
    monthly = visits.with_(options={**visits.options, "unit": "month"})
    with refused(monthly, InvalidMetadataError, "20231106", "20231101"):
        monthly.run_range(days((MON, 1)), MON, THU)


@pytest.mark.parametrize("day", ["2024-01-01", "2024-01-03"])
def test_another_unit_that_starts_on_the_same_day_is_refused_too(tmp_path: Path, day: str) -> None:
    table = store(tmp_path, unit="month")
    month = tuple((f"2024-01-{number:02}", 1) for number in range(1, 16))
    table.run_range(days(*month), month[0][0], month[-1][0])
    weekly = table.with_(options={"unit": "week"})
    with refused(weekly, InvalidMetadataError, "20240101"):
        weekly.run(days((day, 1)), day)


def test_an_asset_that_gets_or_loses_partitions_is_refused(visits: Warehouse) -> None:
    """Its rows would be there twice."""
    load_week(visits)
    with refused(visits, InvalidMetadataError):
        visits.with_(definition=None).run(days(*TWO_EACH))
    whole = visits.with_(key=("warehouse", "whole"), definition=None)
    whole.run(days(*TWO_EACH))
    with refused(whole, InvalidMetadataError):
        whole.with_(definition=DAYS).run(days((MON, 2)), MON)


@pytest.mark.parametrize("hour", ["00:00", "05:00", "23:00"])
def test_partitions_of_another_length_are_refused(visits: Warehouse, hour: str) -> None:
    """Their rows would be there twice."""
    hours = dg.HourlyPartitionsDefinition("2023-11-01-00:00", end_date="2023-12-01-00:00")
    hourly = visits.with_(definition=hours, metadata=HOURLY)
    daily = hourly.with_(definition=DAYS)
    batch = at_hours(hours, [f"{MON}-{hour}"])
    hourly.run(batch, f"{MON}-{hour}")
    with refused(hourly, InvalidMetadataError):
        daily.run(batch, MON)
    other = daily.with_(key=("warehouse", "other"))
    other.run(batch, MON)
    with refused(other, InvalidMetadataError):
        other.with_(definition=hours).run(batch, f"{MON}-{hour}")


WEEKLY = dg.WeeklyPartitionsDefinition("2023-01-01", end_date="2025-01-01")  # from Sunday to Sunday


@pytest.mark.parametrize(("unit", "key"), [("week", "2023-11-05"), ("month", "2023-10-29"), ("day", "2023-11-05")])
def test_partitions_that_straddle_units_are_refused(tmp_path: Path, unit: Unit, key: str) -> None:
    table = store(tmp_path, unit=unit, definition=WEEKLY)
    with pytest.raises(InexpressiblePartitionError) as caught:
        table.run(days(), key)
    assert f"'{key}'" in str(caught.value)
    assert table.contents() == {"views": []}


def test_partitions_longer_than_a_day(tmp_path: Path) -> None:
    mondays = dg.WeeklyPartitionsDefinition("2023-01-02", day_offset=1, end_date="2025-01-01")
    weekly = store(tmp_path, definition=mondays)
    weekly.run(days((TUE, 2)), MON)
    assert weekly.run(days((THU, 1)), MON)["duckdb/units_reset"] == ["20231106"]
    assert weekly.ids() == ids_of((THU, 1))
    months = dg.MonthlyPartitionsDefinition("2023-01-01", end_date="2025-01-01")
    yearly = store(tmp_path / "years", unit="year", definition=months)
    for month in ("2023-01-01", "2023-02-01", "2024-01-01"):
        yearly.run(days((month, 1)), month)
    assert units_of(yearly) == ["20230101", "20240101"]
    with refused(yearly, ReplayUnitError, "2023-01-01...2023-02-01"):
        yearly.run(days(("2023-02-03", 1)), "2023-02-01")
    yearly.run(days(("2023-01-31", 1)), "2023-01-01")
    assert yearly.ids() == ids_of(("2023-01-31", 1), ("2024-01-01", 1))


UNTIMED = [
    dg.StaticPartitionsDefinition(["a", "b"]),
    dg.DynamicPartitionsDefinition(name="tenants_of_units"),
    dg.MultiPartitionsDefinition({"day": DAYS, "site": dg.StaticPartitionsDefinition(["a"])}),
]


@pytest.mark.parametrize("definition", UNTIMED, ids=lambda definition: type(definition).__name__)
def test_partitions_that_are_no_time_are_refused(tmp_path: Path, definition: dg.PartitionsDefinition) -> None:
    table = store(tmp_path, definition=definition)
    spec = dg.AssetSpec(table.asset_key, partitions_def=definition, metadata={"partition_expr": "day"})
    with pytest.raises(InvalidMetadataError, match=type(definition).__name__):
        table.manager.refuse_spec(spec)
    if isinstance(definition, dg.StaticPartitionsDefinition):
        with pytest.raises(InvalidMetadataError, match="StaticPartitionsDefinition"):
            table.run(days().with_columns(day=pl.lit("a")), "a")
        assert table.contents() == {"views": []}


def test_declarations(tmp_path: Path) -> None:
    table = store(tmp_path)
    spec = dg.AssetSpec(table.asset_key, partitions_def=DAYS, metadata={"partition_expr": "day"})
    table.manager.refuse_spec(spec)
    refusals: list[tuple[dict[str, Any], type[PatternPlatformError]]] = [
        ({"metadata": {}}, InvalidMetadataError),
        ({"metadata": {"partition_expr": "day", "partition_by": ["day"]}}, InvalidMetadataError),
        ({"key": dg.AssetKey(["warehouse", "visits__loads"])}, UnsafeAssetKeyError),
        ({"key": dg.AssetKey(["warehouse", "visits__20231106"])}, UnsafeAssetKeyError),
    ]
    for changes, error in refusals:
        with pytest.raises(error):
            table.manager.refuse_spec(spec.replace_attributes(**changes))
    for database in (":memory:", "", "md:visits"):
        with pytest.raises(UnsupportedStorageError):
            FastMetadataCleanerIOManager(database=database).refuse_spec(spec)
    with refused(table, InvalidMetadataError, "partition_expr"):
        table.with_(metadata={"partition_expr": None}).run(days((MON, 1)), MON)
    with refused(table, UnsafeAssetKeyError, "visits__20231106"):
        table.with_(key=("warehouse", "visits__20231106")).run(days((MON, 1)), MON)


def test_tables_of_others_are_left_alone(visits: Warehouse) -> None:
    load_week(visits)
    visits.execute("CREATE TABLE warehouse.pages AS SELECT DATE '2023-11-06' AS day, 'x' AS id")
    visits.execute("CREATE VIEW warehouse.users AS SELECT DATE '2023-11-06' AS day, 'x' AS id")
    for name in ("pages", "users"):
        with refused(visits, UnsupportedTableError, f"'{name}'", f"{name}__loads"):
            visits.with_(key=("warehouse", name)).run(days((MON, 1)), MON)
    for key in (("elsewhere", "warehouse", "visits"), ("warehouse", "Visits"), ("WAREHOUSE", "visits")):
        with refused(visits, UnsupportedTableError, "warehouse/visits"):
            visits.with_(key=key).run(days((MON, 1)), MON)
    visits.execute("DROP TABLE warehouse.visits__loads")
    with refused(visits, UnsupportedTableError, "visits__loads"):
        visits.run(days((MON, 1)), MON)


def test_tables_of_one_schema_do_not_meet(visits: Warehouse) -> None:
    """One name begins as the other does."""
    longer = visits.with_(key=("warehouse", "visits_of"))
    load_week(visits)
    longer.run(days((MON, 1), extra=1), MON)
    visits.run(days((MON, 3)), MON)
    assert longer.ids() == ids_of((MON, 1))
    assert visits.ids() == ids_of((MON, 3))
    with refused(visits, UnknownColumnError, "'extra'"):
        visits.run(days(("2023-11-13", 1), extra=1), "2023-11-13")


def test_a_schema_in_another_case_is_the_same(visits: Warehouse) -> None:
    visits.with_(key=("warehouse", "pages")).run(days((MON, 1)), MON)
    visits = visits.with_(key=("Warehouse", "visits"))
    told = visits.run(days((MON, 1)), MON)
    assert [column.name for column in told["dagster/column_schema"].columns] == ["day", "id"]
    with refused(visits, UnknownColumnError, "'referral'"):
        visits.run(days((TUE, 1), referral="x"), TUE)


def test_a_file_may_be_named_as_the_schema_is(visits: Warehouse) -> None:
    table = visits.with_(key=(visits.database.stem, "visits"))
    for day in (MON, "2023-11-13"):
        table.run(days((day, 2)), day)
    assert_same_rows(table.load(MON), days((MON, 2)))
    assert freeze(table, "2023-12-04")["duckdb/units"] == ["frozen_202311"]
    assert adds_up(table)


def test_the_view_is_over_its_own_units(visits: Warehouse, tmp_path: Path) -> None:
    """Whatever else is called the same, and however the file is opened."""
    load_week(visits)
    visits.execute("CREATE TABLE main.visits__20231106 AS SELECT 'another' AS id")
    assert visits.ids() == ids_of(*TWO_EACH)
    visits.run(days(("2023-11-13", 1)), "2023-11-13")
    assert visits.ids() == ids_of(*TWO_EACH, ("2023-11-13", 1))
    moved = visits.database.rename(tmp_path / "moved.duckdb")
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA warehouse")
        connection.execute("CREATE TABLE warehouse.visits__20231106 AS SELECT 'another' AS id")
        connection.execute(f"ATTACH '{moved}' AS attached (READ_ONLY)")
        assert len(connection.execute("FROM attached.warehouse.visits").fetchall()) == 9


@pytest.mark.parametrize("key", [("visits",), ("order", "select"), ("a", "b.c", "Table")], ids=str)
def test_names_are_quoted(visits: Warehouse, key: tuple[str, ...]) -> None:
    table = visits.with_(key=key, metadata={"partition_expr": 'the "day"'})
    batch = days((MON, 1)).rename({"day": 'the "day"', "id": "group by"})
    for _ in range(2):
        table.run(batch, MON)
    later = batch.with_columns(pl.lit(dt.date(2023, 11, 13)).alias('the "day"'))
    table.run(later, "2023-11-13")
    assert_same_rows(table.load(MON), batch)
    assert table.check(units_check(table.asset_key, ['the "day"', "group by"], "io_manager")).passed
    assert freeze(table, "2023-12-04")["duckdb/units"] == ["frozen_202311"]
    assert_same_rows(table.load("2023-11-13"), later)


def test_the_check_of_the_units_fails(visits: Warehouse) -> None:
    """For a row twice, for one too few, and for one that the registry does not know."""
    check = units_check(visits.asset_key, ["day", "id"], "io_manager")
    load_week(visits)
    passed = visits.check(check)
    assert passed.passed
    assert passed.blocking
    assert {name: value.value for name, value in passed.metadata.items()} == dict.fromkeys(
        ("recorded", "in_units", "in_view", "keys"), 8
    )
    spoilt = {
        "DELETE FROM warehouse.visits__20231106 WHERE day = '2023-11-07'": {"in_units": 6, "in_view": 6, "keys": 6},
        "INSERT INTO warehouse.visits__20231106 FROM warehouse.visits__20231106 LIMIT 2": {"in_units": 10, "keys": 8},
        "CREATE OR REPLACE VIEW warehouse.visits AS FROM warehouse.visits__20231106 LIMIT 3": {"in_view": 3},
    }
    for statement, counts in spoilt.items():
        load_week(visits)
        visits.execute(statement)
        failed = visits.check(check)
        assert not failed.passed
        assert {name: failed.metadata[name].value for name in counts} == counts
        visits.execute("CREATE OR REPLACE VIEW warehouse.visits AS FROM warehouse.visits__20231106")


# The units of days and hours ----------------------------------------------------------------------------------------


def starts_a_unit(day: dt.date, unit: Unit) -> bool:
    new_year = (day.month, day.day) == (1, 1)
    return {
        "day": True,
        "week": day.isoweekday() == 1 or new_year,
        "month": day.day == 1,
        "year": new_year,
    }[unit]


def first_of(day: dt.date, unit: Unit) -> dt.date:
    """Day after day backwards."""
    while not starts_a_unit(day, unit):
        day -= dt.timedelta(days=1)
    return day


AGES = dg.DailyPartitionsDefinition("1970-01-01")
UNITS: tuple[Unit, ...] = ("day", "week", "month", "year")


@settings(QUICK, max_examples=400)
@given(st.dates(dt.date(1970, 1, 1), dt.date(2069, 12, 31)), st.sampled_from(UNITS))
@example(dt.date(2024, 12, 30), "week")
@example(dt.date(2025, 1, 1), "week")
@example(dt.date(2025, 1, 5), "week")
@example(dt.date(2024, 2, 29), "month")
@example(dt.date(2023, 12, 31), "year")
def test_the_unit_of_a_day(day: dt.date, unit: Unit) -> None:
    first = first_of(day, unit)
    name = f"{first.year:04}{first.month:02}{first.day:02}"
    assert unit_of(day.isoformat(), AGES, unit) == (name, first == day)


@pytest.mark.parametrize("unit", UNITS)
def test_a_load_in_each_unit(visits: Warehouse, unit: Unit) -> None:
    table = visits.with_(options={**visits.options, "unit": unit})
    loaded = ("2024-01-31", "2024-02-01", "2024-02-02", "2024-12-31", "2025-01-01")
    for day in loaded:
        table.run(days((day, 1)), day)
    names = {first_of(dt.date.fromisoformat(day), unit).strftime("%Y%m%d") for day in loaded}
    assert units_of(table) == sorted(names)
    assert table.ids() == ids_of(*((day, 1) for day in loaded))
    table.run(days(("2025-01-01", 2)), "2025-01-01")  # the first of a unit, whichever it is
    assert table.ids() == ids_of(*((day, 1) for day in loaded[:-1]), ("2025-01-01", 2))


def hours_of(day: str, zone: str) -> tuple[dg.HourlyPartitionsDefinition, list[str]]:
    """The hours of a day in a zone, asked of the definition."""
    hours = dg.HourlyPartitionsDefinition("2023-01-01-00:00", end_date="2026-01-01-00:00", timezone=zone)
    begin = dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC) - dt.timedelta(days=2)
    keys = hours.get_partition_keys_in_time_window(dg.TimeWindow(begin, begin + dt.timedelta(days=5)))
    return hours, [key for key in keys if key.startswith(day)]


def at_hours(hours: dg.HourlyPartitionsDefinition, keys: Sequence[str]) -> pl.DataFrame:
    starts = [hours.time_window_for_partition_key(key).start.astimezone(dt.UTC) for key in keys]
    return pl.DataFrame({"at": starts, "id": keys})


CLOCK_CHANGES = [
    ("Europe/Berlin", "2024-10-27", 25),
    ("Europe/Berlin", "2024-03-31", 23),
    ("America/New_York", "2024-11-03", 25),
    ("America/Santiago", "2024-09-08", 23),  # there is no midnight
    ("America/Santiago", "2024-04-06", 25),  # 23:00 comes twice
    ("America/Havana", "2024-11-03", 25),  # midnight comes twice
]


@pytest.mark.parametrize(("zone", "day", "count"), CLOCK_CHANGES)
def test_hours_of_a_day_on_which_the_clock_changes(tmp_path: Path, zone: str, day: str, count: int) -> None:
    hours, keys = hours_of(day, zone)
    assert len(keys) == count
    table = store(tmp_path, unit="day", definition=hours, metadata=HOURLY)
    batch = at_hours(hours, keys)
    table.run_range(batch, keys[0], keys[-1])
    assert units_of(table) == [day.replace("-", "")]
    assert table.ids() == sorted(keys)
    with refused(table, ReplayUnitError, f"{keys[0]}...{keys[-1]}"):
        table.run(at_hours(hours, keys[1:2]), keys[1])
    told = table.run(at_hours(hours, keys[:1]), keys[0])
    assert told["duckdb/partitions_to_replay"] == keys[1:]
    for key in keys[1:4]:
        table.run(at_hours(hours, [key]), key)
    assert table.ids() == sorted(keys[:4])


@pytest.mark.parametrize(("zone", "day"), sorted({(zone, day) for zone, day, _ in CLOCK_CHANGES}))
@pytest.mark.parametrize("unit", UNITS)
def test_the_hours_before_and_after_a_clock_change_belong_to_their_days(zone: str, day: str, unit: Unit) -> None:
    middle = dt.date.fromisoformat(day)
    for date in (middle - dt.timedelta(days=1), middle, middle + dt.timedelta(days=1)):
        hours, keys = hours_of(date.isoformat(), zone)
        first = first_of(date, unit)
        expected = [(first.strftime("%Y%m%d"), first == date and number == 0) for number in range(len(keys))]
        assert [unit_of(key, hours, unit) for key in keys] == expected


def test_a_week_of_hours_starts_at_monday_of_its_zone(tmp_path: Path) -> None:
    hours = dg.HourlyPartitionsDefinition("2023-01-01-00:00", end_date="2026-01-01-00:00", timezone="Asia/Tokyo")
    table = store(tmp_path, definition=hours, metadata=HOURLY)
    for key in ("2023-11-05-23:00", "2023-11-06-00:00", "2023-11-06-01:00"):
        table.run(at_hours(hours, [key]), key)
    assert units_of(table) == ["20231030", "20231106"]
    told = table.run(at_hours(hours, ["2023-11-06-00:00"]), "2023-11-06-00:00")
    assert told["duckdb/partitions_to_replay"] == ["2023-11-06-01:00"]


# Any history --------------------------------------------------------------------------------------------------------

FIRST = dt.date(2024, 12, 27)  # a Friday; weeks start on the 30th, on 1 January and on the 6th


@dataclass
class Model:
    """What the units hold after each run."""

    held: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(dict))
    waiting: set[str] = field(default_factory=set)

    def refuses(self, batch: dict[str, list[str]]) -> bool:
        for unit, keys in self.by_unit(batch).items():
            again = keys & self.held[unit].keys()
            if again and unit not in keys and not self.held[unit].keys() <= keys:
                return True
        return False

    def run(self, batch: dict[str, list[str]]) -> set[str]:
        """Bring a batch in; the units that it empties, or makes."""
        reset = set()
        for unit, keys in self.by_unit(batch).items():
            if keys & self.held[unit].keys():
                self.waiting |= self.held[unit].keys()
                self.held[unit].clear()
                reset.add(unit)
            elif not self.held[unit]:
                reset.add(unit)
            self.held[unit] |= {key: batch[key] for key in keys}
            self.waiting -= keys
        return reset

    def by_unit(self, batch: dict[str, list[str]]) -> dict[str, set[str]]:
        units: dict[str, set[str]] = defaultdict(set)
        for key in batch:
            units[first_of(dt.date.fromisoformat(key), "week").isoformat()].add(key)
        return units

    @property
    def ids(self) -> list[str]:
        return sorted(id_ for unit in self.held.values() for ids in unit.values() for id_ in ids)

    @property
    def loads(self) -> dict[str, int | None]:
        counts: dict[str, int | None] = {k: len(ids) for unit in self.held.values() for k, ids in unit.items()}
        return dict(sorted((counts | dict.fromkeys(self.waiting)).items()))


Step = tuple[int, int, int, str]  # first day, how many days, how many rows of each, what fails
steps = st.tuples(
    st.integers(0, 11),
    st.sampled_from([1, 1, 1, 1, 2, 3, 5, 8]),
    st.integers(0, 2),
    st.sampled_from(["", "", "", "", "", "reset", "load", "expose"]),
)
HISTORY = [(3, 1, 2, ""), (4, 1, 2, ""), (4, 1, 1, ""), (3, 1, 1, ""), (4, 1, 1, ""), (3, 2, 2, "load"), (3, 2, 2, "")]


@settings(QUICK, max_examples=5)
@given(st.lists(steps, min_size=3, max_size=9), st.sampled_from(METHODS))
@example(HISTORY, "drop")
@example(HISTORY, "truncate")
def test_any_order_and_repetition_of_runs_equals_the_model(history: list[Step], method: Method) -> None:
    with tempfile.TemporaryDirectory() as folder, kept_open(store(Path(folder), method=method)) as table:
        model = Model()
        for number, step in enumerate(history):
            play(table, model, number, step)


def play(table: Warehouse, model: Model, number: int, step: Step) -> None:
    begin, length, count, failing = step
    keys = [(FIRST + dt.timedelta(days=begin + offset)).isoformat() for offset in range(length)]
    batch = {key: [f"{key}#{row}@{number}" for row in range(count)] for key in keys}
    rows = [(dt.date.fromisoformat(key), id_) for key, ids in batch.items() for id_ in ids]
    frame = pl.DataFrame(rows, schema={"day": pl.Date, "id": pl.String}, orient="row")

    def run() -> dict[str, Any]:
        return table.run(frame, keys[0]) if length == 1 else table.run_range(frame, keys[0], keys[-1])

    if model.refuses(batch):
        with refused(table, ReplayUnitError):
            run()
        return
    if failing:
        before = table.contents()
        with pytest.MonkeyPatch.context() as patch:
            real = getattr(Units, failing)
            patch.setattr(Units, failing, lambda *given, **named: (real(*given, **named), power_cut()))
            try:
                told = run()
            except RuntimeError:
                assert table.contents() == before
                return
        assert failing == "reset"  # nothing was to be reset
        assert model.run(batch) == set(told["duckdb/units_reset"])
    else:
        told = run()
        reset = model.run(batch)
        assert {f"{unit[:4]}-{unit[4:6]}-{unit[6:]}" for unit in told["duckdb/units_reset"]} == reset
        assert set(told["duckdb/partitions_to_replay"]) == model.waiting
    assert table.ids() == model.ids
    assert table.loads() == model.loads
