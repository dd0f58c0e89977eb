"""Assets over real tables in a DuckDB file.

What a table holds is asked of DuckDB on a connection of the test's own, so that the oracle shares no code with what it
judges.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, settings

from pattern_platform_tests.lake.tables import loaded_by, range_tags, shared_instance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pattern_platform.warehouse.io_manager import DuckDBIOManager

CONFIG: dict[str, Any] = {"custom_user_agent": "dagster"}  # within a process a file has one configuration
QUICK = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)


@dataclass(frozen=True)
class Warehouse:
    """An asset in a DuckDB file; every run is given what it returns."""

    folder: Path
    io_manager: type[DuckDBIOManager]
    definition: dg.PartitionsDefinition | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    key: tuple[str, ...] = ("warehouse", "visits")
    keeps: list[duckdb.DuckDBPyConnection] | None = None  # for kept_open

    @property
    def database(self) -> Path:
        return self.folder / "store.duckdb"

    @property
    def manager(self) -> DuckDBIOManager:
        return self.io_manager(**{"database": str(self.database), **self.options})

    @property
    def asset_key(self) -> dg.AssetKey:
        return dg.AssetKey(self.key)

    def with_(self, **changes: Any) -> Warehouse:
        """The same table, declared otherwise."""
        return replace(self, **changes)

    # Runs -------------------------------------------------------------------------------------------------------------

    def asset(self, value: object = None, *, single_run: bool = False) -> dg.AssetsDefinition:
        @dg.asset(
            key=list(self.key),
            partitions_def=self.definition,
            metadata={**({"partition_expr": "day"} if self.definition else {}), **self.metadata},
            backfill_policy=dg.BackfillPolicy.single_run() if single_run else None,
        )
        def table() -> Any:
            return value

        return table

    def run(self, value: object, partition: str | None = None) -> dict[str, Any]:
        """Materialize a partition, or the table of an asset without partitions, and return what Dagster was told."""
        return self._materialize(self.asset(value), partition_key=partition)

    def run_range(self, value: object, first: str, last: str) -> dict[str, Any]:
        """Materialize a range of partitions in a single run."""
        return self._materialize(self.asset(value, single_run=True), tags=range_tags(first, last))

    def _materialize(self, asset: dg.AssetsDefinition, **run: Any) -> dict[str, Any]:
        try:
            result = dg.materialize([asset], instance=shared_instance(), resources={"io_manager": self.manager}, **run)
        finally:
            if self.keeps == [] and self.database.exists():
                self.keeps.append(duckdb.connect(str(self.database), config=CONFIG))
        (*_, event) = result.get_asset_materialization_events()
        metadata = event.step_materialization_data.materialization.metadata
        return {name: value.value for name, value in metadata.items()}

    def operate(self, operation: dg.AssetsDefinition, **config: Any) -> dict[str, Any]:
        """Materialize another asset beside the table, and return what Dagster was told."""
        result = dg.materialize(
            [operation, self.asset()],
            selection=[operation],
            instance=shared_instance(),
            resources={"io_manager": self.manager},
            run_config={"ops": {operation.op.name: {"config": config}}},
        )
        (event,) = result.get_asset_materialization_events()
        return {name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()}

    def check(self, check: dg.AssetChecksDefinition) -> dg.AssetCheckEvaluation:
        """Evaluate a check of the table alone."""
        result = dg.materialize(
            [self.asset(), check],
            selection=dg.AssetSelection.checks(check),
            instance=shared_instance(),
            resources={"io_manager": self.manager},
            raise_on_error=False,
        )
        (evaluation,) = result.get_asset_check_evaluations()
        return evaluation

    def load(
        self, partition: str | None = None, kind: Any = pl.DataFrame, *, whole: bool = False, **metadata: Any
    ) -> pl.DataFrame:
        """What a downstream asset of the same partitions, or of none, is given."""
        definition = None if whole else self.definition
        return loaded_by(self.asset(), self.manager, partition, kind, definition=definition, metadata=metadata)

    # What DuckDB says of it -------------------------------------------------------------------------------------------

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of the test's own, which hears from nobody but DuckDB."""
        with duckdb.connect(str(self.database), config=CONFIG) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection

    def sql(self, statement: str) -> pl.DataFrame:
        with self.connection() as connection:
            return connection.sql(statement).pl()

    def execute(self, statement: str) -> None:
        with self.connection() as connection:
            connection.execute(statement).fetchall()

    def rows(self, suffix: str = "") -> pl.DataFrame:
        *_, schema, name = ("main", *self.key)
        return self.sql(f'FROM store."{schema}"."{name}{suffix}"')

    def ids(self) -> list[str]:
        """The ids of all rows, none of them twice."""
        ids = self.rows()["id"].to_list()
        assert len(ids) == len(set(ids)), sorted(ids)
        return sorted(ids)

    def loads(self) -> dict[str, int | None]:
        """How many rows the registry says of each partition."""
        return dict(self.rows("__loads").select("partition", "rows").sort("partition").rows())

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table and view of the file, and how each is defined."""
        if not self.database.exists():
            return {"views": []}
        with self.connection() as connection:
            names = connection.execute("SELECT schema, name, column_names FROM (SHOW ALL TABLES)").fetchall()
            found: dict[str, list[tuple[Any, ...]]] = {}
            for schema, name, columns in names:
                rows = connection.execute(f'FROM "{schema}"."{name}"').fetchall()
                found[f"{schema}.{name}"] = [tuple(columns), *sorted(rows, key=repr)]
            views = "SELECT schema_name, view_name, sql FROM duckdb_views() WHERE NOT internal"
            found["views"] = sorted(connection.execute(views).fetchall())
        return found


@contextmanager
def kept_open(table: Warehouse) -> Iterator[Warehouse]:
    """A table whose file this process holds from its first run on: DuckDB takes longer to open a file than a run does.

    For long histories; what there is at their end is what there is when the file was closed and is opened anew.
    """
    keeps: list[duckdb.DuckDBPyConnection] = []
    table = table.with_(keeps=keeps)
    try:
        yield table
        before = table.contents()
        while keeps:
            keeps.pop().close()
        assert table.contents() == before
    finally:
        while keeps:
            keeps.pop().close()


def days(*batches: tuple[str, int], **columns: object) -> pl.DataFrame:
    """Some rows of each day, each with an id of its own."""
    rows = [(dt.date.fromisoformat(day), f"{day}#{number}") for day, count in batches for number in range(count)]
    frame = pl.DataFrame(rows, schema={"day": pl.Date, "id": pl.String}, orient="row")
    return frame.with_columns(pl.lit(value).alias(name) for name, value in columns.items())


def ids_of(*batches: tuple[str, int]) -> list[str]:
    """The ids of :func:`days`, in their order."""
    return sorted(days(*batches)["id"])


@contextmanager
def refused(table: Warehouse, error: type[Exception], *culprits: str) -> Iterator[None]:
    """The run inside is refused with a class of error that names the culprits, and nothing in the file changes."""
    before = table.contents()
    with pytest.raises(error) as caught:
        yield
    for culprit in culprits:
        assert culprit in str(caught.value)
    assert table.contents() == before


def power_cut(*_: Any, **__: Any) -> None:
    message = "power"
    raise RuntimeError(message)


def killed(program: str, *arguments: object) -> None:
    """Run a program that kills itself."""
    command: Sequence[str] = [sys.executable, "-c", program, *map(str, arguments)]
    died = subprocess.run(command, check=False, capture_output=True)
    assert died.returncode == -9, died.stderr


def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings of the runs that follow."""
    said: list[str] = []
    monkeypatch.setattr(dg.DagsterLogManager, "warning", lambda _, text, *given: said.append(text % given))
    return said
