"""A namespace with a table of each kind, a published view, exports and DuckDB tables, and what may be done to them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
from deltalake import DeltaTable

from pattern_platform import DataOverwriteIOManager, StatefulMergerIOManager
from pattern_platform.lake.maintenance import compact, vacuum
from pattern_platform.patterns.idempotency.data_overwrite_directory import DirectoryOverwriteIOManager
from pattern_platform.patterns.idempotency.keyed_idempotency import KeyedIdempotencyIOManager
from pattern_platform.patterns.idempotency.keyed_idempotency_files import KeyedFilesIOManager
from pattern_platform.warehouse.keyed_store import DuckDBStore
from pattern_platform_tests.lake.tables import shared_instance
from pattern_platform_tests.patterns.idempotency.proxies import CONFIG, Proxy, ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pattern_platform.orchestration.namespace import Namespace

DAYS = dg.DailyPartitionsDefinition("2024-10-05", "2024-10-20")
FIRST, SECOND = "2024-10-05", "2024-10-06"
NO_TIME = timedelta()


@dataclass(frozen=True)
class Work:
    """The assets of one namespace, over its root."""

    namespace: Namespace

    @property
    def root(self) -> Path:
        return self.namespace.root

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    @cached_property
    def proxy(self) -> Proxy:
        return Proxy(self.root, file="warehouse/catalogue.duckdb")

    @property
    def managers(self) -> dict[str, Any]:
        return {
            "overwrite": DataOverwriteIOManager(root_uri=str(self.lake)),
            "stateful": StatefulMergerIOManager(root_uri=str(self.lake)),
            "directory": DirectoryOverwriteIOManager(root_uri=str(self.root)),
            "files": KeyedFilesIOManager(root_uri=str(self.root)),
            "keyed": KeyedIdempotencyIOManager(
                store=DuckDBStore(database=str(self.root / "warehouse" / "sessions.duckdb"))
            ),
        }

    def run(self, key: str, manager: str, day: str, rows: pl.DataFrame, **metadata: Any) -> None:
        """Materialize one day of an asset."""

        @dg.asset(key=key.split("/"), io_manager_key=manager, partitions_def=DAYS, metadata=metadata)
        def asset() -> pl.DataFrame:
            return rows

        dg.materialize([asset], partition_key=day, instance=shared_instance(), resources=self.managers)

    # What may be done -------------------------------------------------------------------------------------------------

    def overwrite(self, day: str = FIRST, *values: int) -> None:
        self.run("raw/days", "overwrite", day, of_day(day, values), **BY_DAY)

    def merge(self, day: str = FIRST, **values: int) -> None:
        rows = pl.DataFrame({"k": list(values), "v": list(values.values())})
        self.run("clean/users", "stateful", day, rows, merge_keys=["k"])

    def export(self, day: str = FIRST, *values: int) -> None:
        self.run("exports/days", "directory", day, of_day(day, values), **BY_DAY)
        self.run("exports/sessions", "files", day, of_day(day, values), **BY_DAY)

    def store(self, day: str = FIRST, *values: int) -> None:
        self.run("web/sessions", "keyed", day, of_day(day, values), key_columns=["v"], key_name="key", **BY_DAY)

    def release(self, count: int) -> None:
        self.proxy.release(ids(count))

    def retain(self) -> None:
        self.proxy.aged(100, 1, 2, 3)
        self.proxy.retain(keep=1, days=1)

    def compact(self) -> None:
        assert compact(self.lake / "raw/days")

    def vacuum(self) -> None:
        assert vacuum(self.lake / "raw/days", retention=NO_TIME, longest_run=NO_TIME)

    def filled(self) -> Work:
        """With two days of everything, one of them written twice."""
        self.overwrite(FIRST, 1, 2)
        self.overwrite(SECOND, 3)
        self.overwrite(FIRST, 4, 5)
        self.merge(FIRST, a=1)
        self.merge(SECOND, a=2, b=3)
        self.export(FIRST, 1, 2)
        self.export(FIRST, 3, 4)
        self.store(FIRST, 1, 2)
        self.release(2)
        self.release(3)
        return self

    # What is there ----------------------------------------------------------------------------------------------------

    def reads(self) -> Mapping[str, object]:
        """What readers that know nothing of the platform find."""
        tables = {path.parent.relative_to(self.lake).as_posix(): path.parent for path in self.lake.rglob("_delta_log")}
        found: dict[str, object] = {}
        for name, path in tables.items():
            newest = DeltaTable(path).version()
            for version in range(newest + 1):
                rows = DeltaTable(path, version=version).to_pyarrow_table()
                found[f"{name}@{version}"] = sorted(map(repr, rows.to_pylist()))
        found["view"] = sorted(self.proxy.shown()["id"])
        found["manifest"] = sorted(pl.read_parquet(self.proxy.manifest())["id"])
        for day in (self.root / "exports" / "days").glob("partition=*"):
            found[day.name] = sorted(pl.read_parquet(day / "*.parquet")["v"])
        for file in (self.root / "exports" / "sessions").glob("*.csv"):
            found[file.name] = file.read_text()
        with duckdb.connect(str(self.root / "warehouse" / "sessions.duckdb"), config=CONFIG) as connection:
            found["sessions"] = sorted(connection.sql("FROM web.sessions").fetchall())
        return found

    def paths(self) -> list[str]:
        """What names a path in a DuckDB file, a manifest or a link."""
        views = self.proxy.sql("SELECT sql FROM duckdb_views() WHERE NOT internal")["sql"].to_list()
        uris = self.proxy.versions()["uri"].to_list()
        links = [os.fspath(path.readlink()) for path in self.root.rglob("*") if path.is_symlink()]
        return [*views, *uris, *links, *self.proxy.manifest()]


BY_DAY = {"partition_expr": "day"}


def of_day(day: str, values: Sequence[int]) -> pl.DataFrame:
    """Rows of a day."""
    return pl.DataFrame({"v": values}).with_columns(pl.lit(day).str.to_date().alias("day"))


def digest(root: Path) -> dict[str, str]:
    """Every file below a folder, with its mode and bytes; locks and the commands' own folder are no content."""
    found = {}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if inside.parts[0] == "namespaces" or path.suffix == ".lock":
            continue
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[inside.as_posix()] = f"{path.lstat().st_mode:o} {content}"
    return found
