"""Which unit a partition belongs to: days, weeks, months and years, and what they are frozen into."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Literal

from pattern_platform.errors import InexpressiblePartitionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import dagster as dg

Unit = Literal["day", "week", "month", "year"]

FULL = "full"  # the one unit of an asset without partitions
FROZEN = "frozen_"
_DAY = "%Y%m%d"


def frozen_name(unit: str, into: Literal["month", "year"]) -> str:
    """What a unit is part of once it is frozen."""
    return FROZEN + unit.removeprefix(FROZEN)[: {"month": 6, "year": 4}[into]]


def unit_of(key: str, definition: dg.TimeWindowPartitionsDefinition, unit: Unit) -> tuple[str, bool]:
    """The unit that a partition belongs to.

    Args:
        key: The partition.
        definition: Partitions of the asset.
        unit: What the table is divided into. A week starts on Monday, and at the latest on 1 January: weeks that are
            numbered within a year of their own would take the name of another.

    Returns:
        The first day of the unit as ``YYYYMMDD``, and whether the partition is the first of it.

    Raises:
        InexpressiblePartitionError: The partition reaches into the next unit.
    """
    window = definition.time_window_for_partition_key(key)
    start = _start(window.start.date(), unit)
    if _start(_just_before(window.end), unit) != start:
        raise InexpressiblePartitionError(
            f"partition {key!r} was refused",
            why=f"it ends in another {unit} than it starts in",
            mend=f"partition the asset by what fits into a {unit}, or choose a longer unit",
        )
    return start.strftime(_DAY), _start(_just_before(window.start), unit) != start


def _just_before(moment: dt.datetime) -> dt.date:
    """The day of the last moment before; in absolute time, for some zones change their clocks at midnight."""
    return (moment.astimezone(dt.UTC) - dt.timedelta(microseconds=1)).astimezone(moment.tzinfo).date()


def _start(day: dt.date, unit: Unit) -> dt.date:
    new_year = day.replace(month=1, day=1)
    if unit == "week":
        return max(day - dt.timedelta(days=day.weekday()), new_year)
    return {"day": day, "month": day.replace(day=1), "year": new_year}[unit]


def end_of(frozen: str, unit: Unit) -> dt.date:
    """The day after the last unit that starts in a frozen month or year."""
    digits = frozen.removeprefix(FROZEN)
    first = dt.date(int(digits[:4]), int(digits[4:] or 1), 1)
    following = (first.replace(day=28) + dt.timedelta(days=4)).replace(day=1) if digits[4:] else None
    after = following or first.replace(year=first.year + 1)
    start = day = after - dt.timedelta(days=1)
    while _start(day, unit) <= start:
        day += dt.timedelta(days=1)
    return day


def grouped_by_unit(
    keys: Iterable[str], definition: dg.TimeWindowPartitionsDefinition, unit: Unit
) -> dict[str, tuple[Sequence[str], bool]]:
    """The partitions of a run by their unit, and whether the first of the unit is among them."""
    groups: dict[str, tuple[list[str], bool]] = {}
    for key in keys:
        start, is_first = unit_of(key, definition, unit)
        in_unit, has_first = groups.get(start, ([], False))
        groups[start] = ([*in_unit, key], has_first or is_first)
    return dict(groups)
