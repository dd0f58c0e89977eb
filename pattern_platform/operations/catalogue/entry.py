"""What the catalogue says of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from pattern_platform.operations.catalogue.versions import Version


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: Its name.
        type: Its type as it is stored; empty while nobody knows.
        description: What it means; empty where nobody says.
        unit: Of its numbers, such as ``minutes``.
        is_personal: Whether it holds personal data.
        constraints: What holds for its values.
    """

    name: str
    type: str = ""
    description: str = ""
    unit: str = ""
    is_personal: bool = False
    constraints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """A check of a table: its name, what it says, and whether what follows waits for it."""

    name: str
    description: str
    blocking: bool


@dataclass(frozen=True)
class Entry:
    """A table.

    Args:
        key: Key of its asset.
        description: What a row is.
        group: Its layer or domain.
        owners: Whose it is.
        pattern: How it is written or triggered; empty for a table of others.
        kinds: What it is made with and stored in.
        columns: Its columns, in their order.
        partitions: How it is partitioned; empty where it is not.
        contract: What its rows keep; empty where none is declared.
        freshness: When it counts as late; empty where it never does.
        retention_days: How long rows are kept; None without an end.
        checks: Its checks, by name.
        rests_on_itself: Whether a partition is made from an earlier one.
        upstream: Keys of what it is made from.
        downstream: Keys of the tables that are made from it.
        uri: Where it is; empty while it was never made.
        made_at: When it was made last, in UTC.
        partitions_made: How many partitions are there; None where it has none.
        versions: The last versions of a Delta table, the newest first.
    """

    key: str
    description: str
    group: str
    owners: tuple[str, ...]
    pattern: str = ""
    kinds: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    partitions: str = ""
    contract: str = ""
    freshness: str = ""
    retention_days: int | None = None
    checks: tuple[Check, ...] = ()
    rests_on_itself: bool = False
    upstream: tuple[str, ...] = ()
    downstream: tuple[str, ...] = ()
    uri: str = ""
    made_at: datetime | None = None
    partitions_made: int | None = None
    versions: tuple[Version, ...] = ()

    @property
    def is_personal(self) -> bool:
        """Whether a column holds personal data."""
        return any(column.is_personal for column in self.columns)

    @property
    def gaps(self) -> list[str]:
        """What a reader would miss."""
        lacks = [
            *(["description"] if not self.description else []),
            *(["owner"] if not self.owners else []),
            *(["pattern or group"] if not self.pattern and self.group in ("", "default") else []),
            *(["columns"] if not self.columns else []),
        ]
        undescribed = [column.name for column in self.columns if not column.description]
        return [
            *(f"{self.key} has no {lack}" for lack in lacks),
            *(f"{self.key}: column {name!r} has no description" for name in undescribed),
        ]
