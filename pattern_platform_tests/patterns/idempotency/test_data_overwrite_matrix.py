"""Every partitions definition with every kind of partition column, across the clock changes of 2024.

A cell writes its partitions one by one in shuffled order, some again, then one anew, then a range in a single run, and
reads one back. After each run the table must equal a dictionary of partitions, one version later. What a column cannot
express is refused. The kinds of frame that go in and out take turns; one test has all sixteen pairs.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg
import polars as pl
import pytest

from pattern_platform import PatternPlatformError
from pattern_platform.errors import InexpressiblePartitionError
from pattern_platform_tests.lake.tables import FRAME_KINDS, Table, as_kind, assert_same_rows, refused, union

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAY = dt.timedelta(days=1)
SEASONS = {
    "utc": ("UTC", dt.datetime.fromisoformat("2024-03-03")),
    "amsterdam-spring": ("Europe/Amsterdam", dt.datetime.fromisoformat("2024-03-31")),
    "amsterdam-autumn": ("Europe/Amsterdam", dt.datetime.fromisoformat("2024-10-27")),
    "new-york-spring": ("America/New_York", dt.datetime.fromisoformat("2024-03-10")),
    "new-york-autumn": ("America/New_York", dt.datetime.fromisoformat("2024-11-03")),
}
COLUMNS: dict[str, pl.DataType] = {
    "date": pl.Date(),
    "utc": pl.Datetime("us", "UTC"),
    "naive": pl.Datetime("us"),
    "string": pl.String(),
    "integer": pl.Int64(),
}
INTEGER_FORMATS = {"hourly": "%Y%m%d%H", "daily": "%Y%m%d", "weekly": "%Y%m%d", "monthly": "%Y%m"}
TIME_SHAPES = (*INTEGER_FORMATS, "multi")
PLAIN_KEYS = {
    "string": ("o'x", "ñandú 1", "a/b", "../../x", "x' OR '1'='1"),
    "integer": ("1", "2", "30", "-4"),
    "date": ("2024-02-28", "2024-02-29", "2024-03-01"),
    "utc": ("2024-03-31T00:00:00+01:00", "2024-03-31T00:00:00+00:00", "2024-03-31T01:00:00.000001+00:00"),
    "naive": ("2024-03-31T00:00:00", "2024-03-31T01:00:00", "2024-03-31T01:00:00.000001"),
}
REGIONS = ("eu", "o'x")


def time_definition(shape: str, season: str, *, integer_keys: bool = False) -> dg.TimeWindowPartitionsDefinition:
    """A few partitions around a clock change; it happens inside one of them, or between two hours."""
    zone, turn = SEASONS[season]
    fmt = {"fmt": INTEGER_FORMATS[shape]} if integer_keys else {}
    if shape == "hourly":
        start, end = turn - dt.timedelta(hours=1), turn + dt.timedelta(hours=4)
        return dg.HourlyPartitionsDefinition(start_date=start, end_date=end, timezone=zone, **fmt)
    if shape == "daily":
        return dg.DailyPartitionsDefinition(start_date=turn - DAY, end_date=turn + 2 * DAY, timezone=zone, **fmt)
    if shape == "weekly":
        start, end = turn - 13 * DAY, turn + 9 * DAY
        return dg.WeeklyPartitionsDefinition(start_date=start, end_date=end, day_offset=1, timezone=zone, **fmt)
    start, end = turn.replace(day=1, month=turn.month - 1), turn.replace(day=1, month=turn.month % 12 + 1)
    end = end.replace(year=turn.year + (turn.month == 12)) + 40 * DAY
    return dg.MonthlyPartitionsDefinition(start_date=start, end_date=end, timezone=zone, **fmt)


@dataclass(frozen=True)
class Cell:
    """One combination of the matrix."""

    shape: str
    column: str
    season: str = "utc"
    integer_keys: bool = False

    @property
    def time(self) -> dg.TimeWindowPartitionsDefinition:
        shape = "daily" if self.shape == "multi" else self.shape
        return time_definition(shape, self.season, integer_keys=self.integer_keys)

    @property
    def definition(self) -> dg.PartitionsDefinition:
        if self.shape == "static":
            return dg.StaticPartitionsDefinition(list(PLAIN_KEYS[self.column]))
        if self.shape == "dynamic":
            return dg.DynamicPartitionsDefinition(name=f"dynamic_{self.column}")
        if self.shape == "multi":
            regions = dg.StaticPartitionsDefinition(list(REGIONS))
            return dg.MultiPartitionsDefinition({"date": self.time, "region": regions})
        return self.time

    def table(self, root: Path) -> Table:
        expression = {"date": "moment", "region": "region"} if self.shape == "multi" else "moment"
        table = Table(root, self.definition, expression)
        if self.shape == "dynamic":
            table.instance.add_dynamic_partitions(f"dynamic_{self.column}", list(PLAIN_KEYS[self.column]))
        return table

    def keys(self, table: Table) -> list[str]:
        return list(self.definition.get_partition_keys(dynamic_partitions_store=table.instance))

    def expressible(self, key: str) -> bool:
        """Whether the column can hold the partition and no other."""
        date = key.keys_by_dimension["date"] if isinstance(key, dg.MultiPartitionKey) else key
        if self.column == "integer" and self.shape in TIME_SHAPES:
            return date.isdigit()
        return (self.shape, self.column) != ("hourly", "date")

    def values(self, key: str, *, truncated: bool) -> list[object]:
        """Values of the partition column: the start of the partition, or moments up to its last microsecond."""
        if self.column == "string":
            return [key] * 3
        if self.column == "integer":
            return [int(key) if key.lstrip("-").isdigit() else 1] * 3
        if self.shape in ("static", "dynamic"):
            parse = dt.date if self.column == "date" else dt.datetime
            return [parse.fromisoformat(key)] * 3
        window = self.time.time_window_for_partition_key(key)
        start, end = window.start, window.end
        if self.column == "date":
            return (
                [start.date()] * 3 if truncated else [start.date(), start.date(), (end - dt.timedelta(hours=3)).date()]
            )
        start, end = start.astimezone(dt.UTC), end.astimezone(dt.UTC)
        last = end - dt.timedelta(microseconds=1)
        moments = [start] * 3 if truncated else [start, start + (end - start) / 2, last]
        return [m.replace(tzinfo=None) for m in moments] if self.column == "naive" else moments

    def batch(self, key: str, generation: int) -> pl.DataFrame:
        """Rows of a partition, other ones in each generation; every third generation is empty."""
        region = {}
        date = key
        if isinstance(key, dg.MultiPartitionKey):
            region = {"region": [key.keys_by_dimension["region"]] * 3}
            date = key.keys_by_dimension["date"]
        values = pl.Series(self.values(date, truncated=generation % 2 == 0), dtype=COLUMNS[self.column])
        frame = pl.DataFrame({"moment": values, **region, "id": [0, 1, 2], "generation": [generation] * 3})
        return frame.clear() if generation % 3 == 2 else frame


AUTUMN = ("utc", "amsterdam-autumn", "new-york-autumn")  # the season that makes keys of another form
CELLS = [Cell(s, column, season) for s in TIME_SHAPES for column in ("date", "utc", "naive") for season in SEASONS]
CELLS += [Cell(s, column, season) for s in TIME_SHAPES for column in ("string", "integer") for season in AUTUMN]
CELLS += [Cell(s, "integer", season, integer_keys=True) for s in TIME_SHAPES for season in AUTUMN]
CELLS += [Cell(shape, column) for shape in ("static", "dynamic") for column in COLUMNS]


def _id(cell: Cell) -> str:
    return f"{cell.shape}-{cell.column}{'-keys' if cell.integer_keys else ''}-{cell.season}"


@pytest.mark.parametrize(("index", "cell"), list(enumerate(CELLS)), ids=[_id(cell) for cell in CELLS])
def test_a_cell_of_the_matrix(tmp_path: Path, index: int, cell: Cell) -> None:
    table = cell.table(tmp_path)
    kinds = itertools.cycle(FRAME_KINDS[index % 4 :] + FRAME_KINDS[: index % 4])
    every_key = cell.keys(table)
    keys = [key for key in every_key if cell.expressible(key)]
    model: dict[str, pl.DataFrame] = {}
    version = 0

    # The whole backfill, in any order.
    dice = random.Random(index)
    for generation, key in enumerate(dice.sample(keys, len(keys))):
        model[key] = cell.batch(key, generation)
        version += 1
        assert table.write(as_kind(model[key], next(kinds)), key).version == version
        assert_same_rows(table.rows(), union(model))

    # What the column cannot express.
    for key in sorted(set(every_key) - set(keys))[:2]:
        with refused(tmp_path, InexpressiblePartitionError, "moment", repr(str(key.split("|")[0]))):
            table.write(as_kind(cell.batch(key, 0), next(kinds)), key)
    if not keys:
        return

    # One partition anew.
    key = dice.choice(keys)
    model[key] = cell.batch(key, 7)
    version += 1
    assert table.write(as_kind(model[key], next(kinds)), key).version == version
    assert_same_rows(table.rows(), union(model))

    # A range of partitions in a single run.
    chosen = _contiguous(keys, every_key)
    batches = {key: cell.batch(key, generation) for generation, key in enumerate(chosen, start=9)}
    model |= batches
    written = table.write_range(as_kind(union(batches), next(kinds)), chosen[0], chosen[-1])
    assert written.version == table.version == version + 1
    assert sorted(written.partitions) == sorted(chosen)
    assert_same_rows(table.rows(), union(model))

    # Read one back.
    key = dice.choice(keys)
    assert_same_rows(table.load(key, kind=next(kinds), definition=cell.definition), model[key])


def _contiguous(keys: Sequence[str], every_key: Sequence[str]) -> list[str]:
    """Partitions of a range run: two dates of all regions, or the first neighbours that are expressible."""
    if isinstance(keys[0], dg.MultiPartitionKey):
        return [k for k in keys if k.keys_by_dimension["date"] in {keys[0].keys_by_dimension["date"], _second(keys)}]
    start = next(i for i, key in enumerate(every_key) if key in keys)
    taken = itertools.takewhile(lambda key: key in keys, every_key[start : start + 3])
    return list(taken)


def _second(keys: Sequence[dg.MultiPartitionKey]) -> str:
    return sorted({key.keys_by_dimension["date"] for key in keys})[1]


@pytest.mark.parametrize("given", FRAME_KINDS)
@pytest.mark.parametrize("physical", [(), ("region",)], ids=["flat", "by-region"])
def test_every_kind_of_frame_goes_in_and_comes_out(tmp_path: Path, given: type, physical: tuple[str, ...]) -> None:
    """Two partitions are without rows; each kind is asked for one of them, and for one with rows."""
    cell = Cell("multi", "utc", "amsterdam-autumn")
    table = cell.table(tmp_path).with_(metadata={"partition_by": list(physical)})
    keys = cell.keys(table)
    model = {key: cell.batch(key, generation) for generation, key in enumerate(keys)}
    for key, batch in model.items():
        table.write(as_kind(batch, given), key)
    found = set()
    for (key, batch), asked in zip([*model.items()] * 2, itertools.cycle(FRAME_KINDS), strict=False):
        assert_same_rows(table.load(key, kind=asked, definition=cell.definition), batch)
        found.add((asked, batch.is_empty()))
    assert found == {(kind, empty) for kind in FRAME_KINDS for empty in (True, False)}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("shape", ["daily", "multi", "static"])
def test_the_partition_column_as_physical_partition(tmp_path: Path, shape: str, column: str) -> None:
    cell = Cell(shape, column, "new-york-autumn", integer_keys=column == "integer" and shape != "static")
    by = ["region", "moment"] if shape == "multi" else ["moment"]
    table = cell.table(tmp_path).with_(metadata={"partition_by": by})
    keys = cell.keys(table)
    model: dict[str, pl.DataFrame] = {}
    for generation, key in enumerate([*keys, *keys[::-1]]):
        model[key] = cell.batch(key, 2 * generation)  # of equal moments, as physical partitions should be
        table.write(model[key], key)
        assert_same_rows(table.rows(), union(model))
    assert list(table.handle.metadata().partition_columns) == by
    for key, batch in model.items():
        assert_same_rows(table.load(key, definition=cell.definition), batch)


@pytest.mark.parametrize("asked", FRAME_KINDS)
def test_an_asset_without_partitions_is_replaced_whole(tmp_path: Path, asked: type) -> None:
    table = Table(tmp_path)
    frames = [pl.DataFrame({"a": [n, n + 1], "b": ["x", None]}) for n in range(4)]
    runs = [*zip(frames, FRAME_KINDS, strict=True), (frames[0].clear(), asked)]
    for version, (frame, given) in enumerate(runs, start=1):
        assert table.write(as_kind(frame, given)).version == version
        assert_same_rows(table.rows(), frame)
        assert_same_rows(table.load(kind=asked), frame)


def test_a_zoned_column_is_kept_as_the_same_moments_in_utc(tmp_path: Path) -> None:
    cell = Cell("hourly", "utc", "amsterdam-autumn")
    table = cell.table(tmp_path)
    keys = cell.keys(table)
    assert any("+0" in key for key in keys), "the second 02:00 hour has a key of its own"
    model = {key: cell.batch(key, 1) for key in keys}
    for key, batch in model.items():
        local = batch.with_columns(pl.col("moment").dt.convert_time_zone("Europe/Amsterdam").dt.cast_time_unit("us"))
        table.write(local, key)
    assert_same_rows(table.rows(), union(model))


@pytest.mark.parametrize(("first", "last"), [(1, 3), (2, 3), (4, 4), (4, 5)])
def test_a_range_run_beside_the_second_hour_is_right_or_refused(tmp_path: Path, first: int, last: int) -> None:
    """Dagster 1.13.27 caches moments that are equal but for their fold: once ranges of both hours were asked for, some
    have an hour too many or too few. A batch of the asked hours must not empty another one."""
    cell = Cell("hourly", "utc", "new-york-autumn")
    table = cell.table(tmp_path).with_(key=("hours",))
    keys = cell.keys(table)
    for a, b in itertools.combinations_with_replacement(keys, 2):  # fills the cache
        cell.definition.get_partition_keys_in_range(dg.PartitionKeyRange(a, b))
    model = {key: cell.batch(key, 1) for key in keys}
    for key, batch in model.items():
        table.write(batch, key)
    new = {key: cell.batch(key, 3) for key in keys[first : last + 1]}
    with contextlib.suppress(PatternPlatformError, dg.DagsterError):
        table.write_range(union(new), keys[first], keys[last])
        model |= new
    assert_same_rows(table.rows(), union(model))


def test_hours_of_a_clock_change_are_real_hours() -> None:
    zone = ZoneInfo("America/New_York")
    keys = Cell("hourly", "utc", "new-york-autumn").time.get_partition_keys()
    starts = [Cell("hourly", "utc", "new-york-autumn").time.time_window_for_partition_key(k).start for k in keys]
    assert [b.timestamp() - a.timestamp() for a, b in itertools.pairwise(starts)] == [3600.0] * (len(keys) - 1)
    assert starts[0].astimezone(zone).hour == 23
