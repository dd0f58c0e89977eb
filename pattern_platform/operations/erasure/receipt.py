"""What an erasure tells about itself, without naming whom it erased."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from pattern_platform.ingestion.erased import ERASURES
from pattern_platform.lake.whole_file import whole_file

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from pattern_platform.operations.erasure.contents import Erased

_LIBRARIES = ("pattern-platform", "dagster", "deltalake", "duckdb", "polars", "pyarrow")
_SCOPE = (
    "This namespace and the landing folder, which all namespaces read. No other namespace was touched: the same "
    "command there erases what it holds. Backups and what servers keep for themselves are for whoever runs them."
)
_TOTALS = (
    "Totals over many people stay as they are; the consumers of what lost rows are replayed where totals must agree."
)


@dataclass(frozen=True)
class Receipt:
    """An erasure that is over.

    Args:
        subject: Keyed hash of the key, as in the list of erased subjects.
        columns: Columns that hold such a key.
        reason: Why, as whoever asked for it says.
        started: When.
        seconds: How long it took.
        root: Folder of the namespace.
        landing: Landing folder.
        stores: Servers that keep rows.
        erased: What was erased, place by place.
        scanned: How many tables and files were looked through at the end.
        left: Where the subject is still named; empty where the erasure is complete.
    """

    subject: str
    columns: tuple[str, ...]
    reason: str
    started: datetime
    seconds: float
    root: Path
    landing: Path
    stores: tuple[str, ...]
    erased: tuple[Erased, ...]
    scanned: int
    left: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return self.root / ERASURES / f"{self.started:%Y-%m-%dT%H-%M-%S-%fZ}.json"

    def write(self) -> Path:
        """Keep it."""
        told = {
            "subject": self.subject,
            "columns": self.columns,
            "reason": self.reason,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 1),
            "root": str(self.root),
            "landing": str(self.landing),
            "stores": self.stores,
            "scope": _SCOPE,
            "rows": sum(erased.rows for erased in self.erased),
            "erased": [asdict(erased) for erased in self.erased],
            "lost_rows": [e.place for e in self.erased if e.rows and e.kind != "landing"],
            "totals": _TOTALS,
            "proof": {"scanned": self.scanned, "complete": not self.left, "left": self.left},
            "libraries": {name: version(name) for name in _LIBRARIES},
        }
        with whole_file(self.path) as unfinished:
            unfinished.write_text(json.dumps(told, indent=2))
        return self.path
