"""A loading asset, its audit, the view that shows it, and the retention, over real tables and a real DuckDB file.

What the tables hold is asked of delta-rs, what the view shows of DuckDB, on connections of the test's own.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable

from pattern_platform.orchestration.publications import audit_check, publication_asset, retention_asset, shown_check
from pattern_platform.patterns.idempotency.proxy import ProxyIOManager
from pattern_platform.warehouse.database import transaction
from pattern_platform.warehouse.versions import Versions
from pattern_platform_tests.harness.forks import forks_of
from pattern_platform_tests.lake.tables import shared_instance, to_polars

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator

CONFIG: dict[str, Any] = {"custom_user_agent": "dagster"}  # within a process a file has one configuration
AUDIT = "has_ids"
FORKS = forks_of(__name__)
forking = pytest.mark.xdist_group("proxy processes")  # one forking process is enough


@dataclass
class Proxy:
    """An asset with its view; a callable value is called in the run."""

    folder: Path
    key: tuple[str, ...] = ("internal", "catalogue")
    view: tuple[str, ...] = ("published", "catalogue")
    lake: str = "lake"
    file: str = "views.duckdb"
    retries: int = 0
    partitions: dg.PartitionsDefinition | None = None
    passes: bool = True
    examined: list[pl.DataFrame] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.folder / self.lake

    @property
    def database(self) -> Path:
        return self.folder / self.file

    @property
    def tables(self) -> Path:
        """The folder of the loads."""
        return self.root.joinpath(*self.key)

    @property
    def resources(self) -> dict[str, Any]:
        return {"proxy": ProxyIOManager(root_uri=str(self.root), database=str(self.database))}

    # Definitions ------------------------------------------------------------------------------------------------------

    def loading(self, value: object = None) -> dg.AssetsDefinition:
        @dg.asset(
            key=list(self.key),
            io_manager_key="proxy",
            partitions_def=self.partitions,
            retry_policy=dg.RetryPolicy(max_retries=self.retries) if self.retries else None,
        )
        def load() -> Any:
            return value() if callable(value) else value

        return load

    def examine(self, rows: pl.LazyFrame) -> dg.AssetCheckResult:
        self.examined.append(rows.collect())
        return dg.AssetCheckResult(passed=self.passes)

    @cached_property
    def audit(self) -> dg.AssetChecksDefinition:
        return audit_check(dg.AssetKey(self.key), AUDIT, self.examine, "proxy", description="As the test wants it.")

    @cached_property
    def publication(self) -> dg.AssetsDefinition:
        return publication_asset(dg.AssetKey(self.key), "proxy", key=list(self.view), audits=[AUDIT])

    @cached_property
    def retention(self) -> dg.AssetsDefinition:
        return retention_asset(dg.AssetKey(self.key), "proxy", key=["maintenance", "_".join(self.key)])

    @cached_property
    def shown_check(self) -> dg.AssetChecksDefinition:
        return shown_check(dg.AssetKey(self.view), "proxy")

    # Runs -------------------------------------------------------------------------------------------------------------

    def run(
        self,
        selection: dg.AssetSelection,
        value: object = None,
        *,
        others: tuple[Any, ...] = (),
        succeeds: bool = True,
        config: dict[str, Any] | None = None,
        partition: str | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Materialize what is selected; a run that is to fail does not raise."""
        result = dg.materialize(
            [self.loading(value), self.audit, self.publication, *others],
            selection=selection,
            partition_key=partition,
            instance=shared_instance(),
            resources={**self.resources, "io_manager": dg.mem_io_manager},
            run_config={"ops": config or {}, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=succeeds,
        )
        assert result.success == succeeds
        return result

    def load(self, value: object, *, audited: bool = True, **options: Any) -> int:
        """Load, with the audit or without, and return the version."""
        chosen = dg.AssetSelection.assets(list(self.key))
        result = self.run(chosen if audited else chosen.without_checks(), value, **options)
        return told(result, self.key)["proxy/version"]

    def audit_alone(self) -> bool:
        result = self.run(dg.AssetSelection.checks(self.audit), succeeds=self.passes)
        (evaluation,) = result.get_asset_check_evaluations()
        return evaluation.passed

    def publish(self, version: int | None = None) -> dict[str, Any]:
        """Move the view, and return what Dagster was told."""
        config = {self.publication.op.name: {"config": {"version": version}}} if version is not None else None
        return told(self.run(dg.AssetSelection.assets(list(self.view)), config=config), self.view)

    def release(self, value: object) -> int:
        """Load, audit and publish in one run."""
        result = self.run(dg.AssetSelection.assets(list(self.key), list(self.view)), value)
        assert [evaluation.passed for evaluation in result.get_asset_check_evaluations()] == [True]
        return told(result, self.view)["proxy/version"]

    def retain(self, *, keep: int = 5, days: float = 30) -> dict[str, Any]:
        config = {self.retention.op.name: {"config": {"keep": keep, "days": days}}}
        key = self.retention.key
        return told(self.run(dg.AssetSelection.assets(key), config=config, others=(self.retention,)), tuple(key.path))

    def hold(self, version: int, reason: str | None) -> None:
        with transaction(str(self.database)) as connection:
            Versions.of(connection, dg.AssetKey(self.key)).held(version, reason).write(connection)

    def is_as_registered(self) -> bool:
        result = dg.materialize(
            [self.loading(), self.publication, self.shown_check],
            selection=dg.AssetSelection.checks(self.shown_check),
            instance=shared_instance(),
            resources=self.resources,
            raise_on_error=False,  # it is blocking
        )
        (evaluation,) = result.get_asset_check_evaluations()
        return evaluation.passed

    def input(self, of: tuple[str, ...] | None = None, kind: Any = pl.DataFrame, **metadata: Any) -> pl.DataFrame:
        """What a downstream asset is given of the view, or of another asset."""
        received: list[object] = []

        def downstream(rows: Any) -> None:
            received.extend((type(rows), to_polars(rows)))

        downstream.__annotations__ = {"rows": kind, "return": None}
        reader = dg.asset(ins={"rows": dg.AssetIn(list(of or self.view), metadata=metadata)})(downstream)
        self.run(dg.AssetSelection.assets(reader), others=(reader,))
        given, frame = received
        assert given is kind
        assert isinstance(frame, pl.DataFrame)
        return frame

    # What DuckDB and delta-rs say of it -------------------------------------------------------------------------------

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with duckdb.connect(str(self.database), config=CONFIG) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection

    def sql(self, statement: str) -> pl.DataFrame:
        with self.connection() as connection:
            return connection.sql(statement).pl()

    def execute(self, *statements: str) -> None:
        with self.connection() as connection:
            for statement in statements:
                connection.execute(statement).fetchall()

    def _beside(self, key: tuple[str, ...], suffix: str) -> str:
        *_, schema, name = ("main", *key)
        return f'"{self.database.stem}"."{schema}"."{name}{suffix}"'

    def shown(self) -> pl.DataFrame:
        """What the view shows."""
        return self.sql(f"FROM {self._beside(self.view, '')}")

    def ids(self) -> list[int]:
        return sorted(self.shown()["id"])

    def columns(self) -> dict[str, str]:
        """The view's columns with DuckDB's types."""
        return dict(self.sql(f"DESCRIBE {self._beside(self.view, '')}").select("column_name", "column_type").rows())

    def versions(self) -> pl.DataFrame:
        return self.sql(f"FROM {self._beside(self.key, '__versions')}")

    def live(self) -> list[int]:
        """The versions that are not removed."""
        return self.versions().filter(pl.col("removed_at").is_null())["version"].to_list()

    def publications(self) -> list[tuple[int, str]]:
        return self.sql(f"FROM {self._beside(self.view, '__publications')}").select("version", "action").rows()

    def times(self) -> list[dt.datetime]:
        return self.sql(f"FROM {self._beside(self.view, '__publications')}")["published_at"].to_list()

    def aged(self, days: float, *versions: int) -> None:
        """Let versions have been loaded earlier."""
        aged = f"SET loaded_at = loaded_at - INTERVAL {days} DAY WHERE version IN {versions}"
        self.execute(f"UPDATE {self._beside(self.key, '__versions')} {aged}")

    def table(self, version: int) -> Path:
        return Path(self.versions().filter(version=version)["uri"][0])

    def rows(self, version: int) -> pl.DataFrame:
        """What delta-rs reads of a version."""
        row = self.versions().filter(version=version).row(0, named=True)
        return pl.DataFrame(DeltaTable(row["uri"], version=row["delta_version"]).to_pyarrow_table())

    def manifest(self) -> list[str]:
        path = self.root.joinpath(*self.view, "_symlink_format_manifest", "manifest")
        assert [file.name for file in path.parent.iterdir()] == ["manifest"]
        return sorted(path.read_text().splitlines())

    def manifest_of(self, version: int) -> list[str]:
        """What the manifest is to name."""
        row = self.versions().filter(version=version).row(0, named=True)
        return sorted(DeltaTable(row["uri"], version=row["delta_version"]).file_uris())


def told(result: dg.ExecuteInProcessResult, key: tuple[str, ...]) -> dict[str, Any]:
    """What Dagster was told of an asset."""
    events = result.get_asset_materialization_events()
    (found,) = [e.materialization for e in events if e.materialization.asset_key == dg.AssetKey(list(key))]
    return {name: value.value for name, value in found.metadata.items()}


def ids(count: int, first: int = 0, **columns: object) -> pl.DataFrame:
    """Some rows, each with an id of its own."""
    frame = pl.DataFrame({"id": range(first, first + count)}, schema={"id": pl.Int64})
    return frame.with_columns(pl.lit(value).alias(name) for name, value in columns.items()) if columns else frame


def digest(folder: Path) -> str:
    """All names, permissions and bytes below a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(f"{path.relative_to(folder)}:{path.stat().st_mode}:".encode())
        total.update(path.read_bytes() if path.is_file() else b"")
    return total.hexdigest()


@contextmanager
def replaced(place: tuple[Any, str], by: Callable[..., Any]) -> Iterator[None]:
    """For as long as it takes inside, a function gets itself first and then what it is given."""
    owner, name = place
    real = getattr(owner, name)
    setattr(owner, name, lambda *given, **named: by(real, *given, **named))
    try:
        yield
    finally:
        setattr(owner, name, real)


@contextmanager
def failing_once(place: tuple[Any, str], *, after: bool) -> Iterator[None]:
    """The first call of a function fails, before or after it has done its work."""
    calls: list[int] = []

    def fails(real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        calls.append(1)
        result = real(*given, **named) if after or len(calls) > 1 else None
        if len(calls) == 1:
            message = "power"
            raise RuntimeError(message)
        return result

    with replaced(place, fails):
        yield
    assert calls, f"{place[1]} was never called"
