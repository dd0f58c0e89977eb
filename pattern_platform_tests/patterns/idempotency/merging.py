"""Tables that are merged into: how the tests of both mergers make them, disturb them, and look at them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import dagster as dg
import polars as pl
import pytest
from deltalake import write_deltalake
from deltalake.transaction import AddAction

from pattern_platform import MergerIOManager, StatefulMergerIOManager, read_version_table
from pattern_platform.errors import SupersededPartitionsError, UnrecordedCommitError
from pattern_platform.lake import commit as commit_module
from pattern_platform.lake import merge as merge_module
from pattern_platform.lake.object_path import delta_table, storage_options
from pattern_platform_tests.lake.tables import Table, contents, shared_instance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pattern_platform import PatternPlatformError

T = TypeVar("T")
ROWS = {"k": pl.String, "v": pl.Int64}


def merger(root: Path, *keys: str, io_manager: Any = MergerIOManager, **changes: Any) -> Table:
    """An asset that is merged by key, without ``partition_expr`` unless one is given."""
    metadata = {"merge_keys": list(keys or ("k",)), **changes.pop("metadata", {})}
    return Table(root, **{"partition_expr": None, "io_manager": io_manager, "metadata": metadata, **changes})


def keyed(**values: int | None) -> pl.DataFrame:
    """Rows ``key: value``."""
    return pl.DataFrame({"k": list(values), "v": list(values.values())}, schema=ROWS)


def changed(*, gone: Sequence[str] = (), **values: int) -> pl.DataFrame:
    """Rows ``key: value`` and soft deletes, flagged in ``gone``."""
    deleted = pl.DataFrame({"k": list(gone), "v": [None] * len(gone), "gone": [True] * len(gone)}, schema=GONE)
    return pl.concat([keyed(**values).with_columns(gone=pl.lit(value=False)), deleted])


GONE = {**ROWS, "gone": pl.Boolean}


def held(table: Table, version: int | None = None) -> dict[str, int]:
    """The rows as delta-rs reads them, ``key: value``; a key that is there twice fails."""
    rows = table.rows(version).select("k", "v").rows()
    assert len({key for key, _ in rows}) == len(rows), sorted(rows)
    return dict(sorted(rows))


def did(metadata: Any) -> dict[str, int]:
    """What became of the rows of a batch, without what did not happen."""
    prefix = "delta/rows_"
    return {name.removeprefix(prefix): n for name, n in metadata.items() if name.startswith(prefix) and n}


def quarantine(table: Table) -> pl.DataFrame:
    """What was set aside, as delta-rs reads it."""
    return pl.DataFrame(delta_table(table.path.with_name(f"{table.path.name}__quarantine")).to_pyarrow_table())


def small_files(monkeypatch: pytest.MonkeyPatch, rows: int = 4) -> None:
    """Let a table of some rows be one of several files."""
    monkeypatch.setattr(merge_module, "ROWS_PER_FILE", rows)
    monkeypatch.setattr(merge_module, "MOST_ROWS", rows * 5 // 4)


def bounds(table: Table, column: str = "k") -> dict[str, tuple[Any, Any]]:
    """Least and greatest value of a column by live file, looked up in the files themselves."""
    found = {}
    for path in table.handle.file_uris():
        values = pl.read_parquet(path, columns=[column])[column]
        found[path.rsplit("/", 1)[-1]] = (values.min(), values.max())
    return found


def before_commit(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Act once, when the next write of the platform has planned and is about to take the lock."""
    lock = commit_module.table_lock

    @contextmanager
    def late(path: Path) -> Iterator[None]:
        monkeypatch.setattr(commit_module, "table_lock", lock)
        act()
        with lock(path):
            yield

    monkeypatch.setattr(commit_module, "table_lock", late)


def foreign(table: Table, rows: pl.DataFrame, **options: Any) -> None:
    """Another engine writes."""
    write_deltalake(table.path, rows, **{"mode": "append", **options})


def foreign_file(table: Table, rows: pl.DataFrame, statistics: str) -> None:
    """Another engine writes a file, and says of it what it likes."""
    name, handle = f"foreign-{uuid4().hex}.parquet", table.handle
    rows.write_parquet(table.path / name)
    add = AddAction(name, (table.path / name).stat().st_size, {}, 0, True, statistics)
    handle.create_write_transaction([add], mode="append", schema=handle.schema())


def vacuum(table: Table, *, keep: Sequence[int] | None = None) -> None:
    """Another engine removes the files that only older versions hold."""
    table.handle.vacuum(0, enforce_retention_duration=False, dry_run=False, keep_versions=list(keep) if keep else None)


def elsewhere(act: Callable[[], T]) -> T:
    """Act as another process would: in a thread that has read nothing yet."""

    def apart() -> T:
        try:
            return act()
        finally:
            shared_instance().dispose()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(apart).result()


def refusal(root: Path, error: type[PatternPlatformError], act: Callable[[], object]) -> list[str]:
    """The partitions of the replay that a refusal names, in its order; no file under the root changes."""
    before = contents(root)
    with pytest.raises(error) as caught:
        act()
    assert contents(root) == before
    return [line.split()[-1] for line in caught.value.mend.splitlines() if "--partition" in line]


# The stateful merger ------------------------------------------------------------------------------------------------

DAYS = dg.DailyPartitionsDefinition("2024-10-05", end_date="2024-10-15")


def day(number: int) -> str:
    return f"2024-10-{number:02}"


def stateful(root: Path, **changes: Any) -> Table:
    """An asset of days that is merged by ``k``, and whose versions are kept."""
    return merger(root, **{"io_manager": StatefulMergerIOManager, "definition": DAYS, **changes})


def versions(table: Table) -> dict[str, int]:
    """The version table; a superseded partition is marked by a star."""
    known = read_version_table(str(table.path), storage_options(table.path))
    rows = known.select("execution_time", "table_version", "status").rows()
    stars = {"current": "", "superseded": "*"}
    return {key.removeprefix("2024-") + stars[status]: version for key, version, status in rows}


def stored_versions(table: Table) -> dict[str, int]:
    """What delta-rs reads from the version table."""
    rows = pl.DataFrame(delta_table(table.path.with_name(f"{table.path.name}__versions")).to_pyarrow_table())
    return dict(rows.sort("position").select("execution_time", "table_version").rows())


@dataclass
class Model:
    """A stateful merger on paper.

    Args:
        versions: Version by partition.
        states: Rows by version.
        onto: For each partition, which partition in which version it was merged onto.
        rows: The rows now.
        foreign: Whether someone else changed rows after the newest recorded version.
    """

    versions: dict[int, int] = field(default_factory=dict)
    states: dict[int, dict[str, int]] = field(default_factory=dict)
    onto: dict[int, tuple[int, int] | None] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    foreign: bool = False

    def previous(self, partition: int) -> tuple[int, int] | None:
        before = max((p for p in self.versions if p < partition), default=None)
        return None if before is None else (before, self.versions[before])

    @property
    def superseded(self) -> set[int]:
        """Whoever was not merged onto what the partition before it is now; and whoever rests on such a one."""
        found: set[int] = set()
        for partition in sorted(self.versions):
            previous = self.previous(partition)
            if self.onto[partition] != previous or (previous and previous[0] in found):
                found.add(partition)
        return found

    def refusal(self, partition: int) -> type[PatternPlatformError] | None:
        if self.foreign:
            return UnrecordedCommitError
        return SupersededPartitionsError if min(self.superseded, default=99) < partition else None

    def merge(self, partition: int, version: int, batch: Mapping[str, int | None]) -> None:
        """A batch of values; None for a soft delete."""
        previous = self.previous(partition)
        before = self.states[previous[1]] if previous else {}
        self.rows = {key: value for key, value in {**before, **batch}.items() if value is not None}
        self.onto[partition], self.versions[partition] = previous, version
        self.states[version] = self.rows
