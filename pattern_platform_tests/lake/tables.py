"""Assets over real tables in a temporary folder.

What a table holds is asked of delta-rs, never of the platform, so that the oracle shares no code with what it judges.
"""

from __future__ import annotations

import atexit
import shutil
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from pattern_platform import DataOverwriteIOManager
from pattern_platform.lake.object_path import delta_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from deltalake import DeltaTable

    from pattern_platform import PatternPlatformError
    from pattern_platform.lake.io_manager import DeltaIOManager

FRAME_KINDS: tuple[type, ...] = (pl.LazyFrame, pl.DataFrame, pa.Table, pa.RecordBatchReader)

# For the context of an output that is built by hand: where it is given none, it makes an instance of Dagster to find
# that there is none, which takes longer than a run.
_held = ExitStack()
atexit.register(_held.close)
NO_RESOURCES: Any = _held.enter_context(dg.build_resources({}))

_threads = threading.local()


def shared_instance() -> dg.DagsterInstance:
    """An ephemeral instance for each thread: making one costs more than a run."""
    if not hasattr(_threads, "instance"):
        _threads.instance = dg.DagsterInstance.ephemeral()
    return _threads.instance


def as_kind(frame: pl.DataFrame, kind: type) -> object:
    """A frame as one of the four kinds that an asset may return."""
    if kind is pl.LazyFrame:
        return frame.lazy()
    if kind is pa.Table:
        return frame.to_arrow()
    if kind is pa.RecordBatchReader:
        return frame.to_arrow().to_reader(max_chunksize=2)
    return frame


def to_polars(value: object) -> pl.DataFrame:
    """Any of the four kinds as a DataFrame."""
    if isinstance(value, pl.LazyFrame):
        return value.collect()
    if isinstance(value, pa.RecordBatchReader):
        return pl.DataFrame(value.read_all())
    return pl.DataFrame(value)


def range_tags(first: str, last: str) -> dict[str, str]:
    """The tags by which Dagster runs a range of partitions at once."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def loaded_by(
    upstream: dg.AssetsDefinition,
    manager: dg.ConfigurableIOManager,
    partition: str | None = None,
    kind: Any = pl.DataFrame,
    *,
    definition: dg.PartitionsDefinition | None = None,
    mapping: dg.PartitionMapping | None = None,
    key_range: tuple[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    instance: dg.DagsterInstance | None = None,
) -> pl.DataFrame:
    """What an asset downstream of another is given, as the kind of frame that its parameter asks for."""
    received: list[object] = []

    def downstream(rows: Any) -> None:
        received.extend((type(rows), to_polars(rows)))

    downstream.__annotations__ = {"return": None} | ({} if kind is None else {"rows": kind})
    reader = dg.asset(
        ins={"rows": dg.AssetIn(list(upstream.key.path), partition_mapping=mapping, metadata=metadata or {})},
        partitions_def=definition,
        backfill_policy=dg.BackfillPolicy.single_run() if key_range else None,
    )(downstream)
    dg.materialize(
        [upstream, reader],
        selection=[reader],
        partition_key=partition,
        tags=range_tags(*key_range) if key_range else None,
        instance=instance or shared_instance(),
        resources={"io_manager": manager},
    )
    given, frame = received
    assert given is (kind if kind in FRAME_KINDS else pl.DataFrame)
    assert isinstance(frame, pl.DataFrame)
    return frame


@dataclass(frozen=True)
class Written:
    """What a run told Dagster."""

    version: int
    metadata: Mapping[str, Any]
    partitions: Sequence[str | None]


@dataclass(frozen=True)
class Table:
    """An asset and its table; what its runs return is given to :meth:`write`.

    One on an object store has a root there, and ``options`` that say how it is reached.
    """

    root: Any  # a Path, or an ObjectPath
    definition: dg.PartitionsDefinition | None = None
    partition_expr: object = "moment"
    key: tuple[str, ...] = ("table",)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    retry_policy: dg.RetryPolicy | None = None
    instance: dg.DagsterInstance = field(default_factory=shared_instance)
    io_manager: type[DeltaIOManager] = DataOverwriteIOManager

    @property
    def path(self) -> Any:
        return self.root.joinpath(*self.key)

    @property
    def handle(self) -> DeltaTable:
        return delta_table(self.path)

    @property
    def version(self) -> int:
        return self.handle.version()

    @property
    def manager(self) -> DeltaIOManager:
        return self.io_manager(**{"root_uri": str(self.root), **self.options})

    def rows(self, version: int | None = None) -> pl.DataFrame:
        """What delta-rs reads."""
        return pl.DataFrame(delta_table(self.path, version).to_pyarrow_table())

    def asset(self, value: object = None, *, single_run: bool = False) -> dg.AssetsDefinition:
        """The asset; a callable value is called in the run, with its context."""
        expression = {"partition_expr": self.partition_expr} if self.definition and self.partition_expr else {}

        @dg.asset(
            key=list(self.key),
            partitions_def=self.definition,
            metadata={**expression, **self.metadata},
            retry_policy=self.retry_policy,
            backfill_policy=dg.BackfillPolicy.single_run() if single_run else None,
        )
        def table(context) -> Any:  # noqa: ANN001 - Dagster does not resolve a quoted annotation
            return value(context) if callable(value) else value

        return table

    def write(self, value: object, key: str | None = None) -> Written:
        """Materialize one partition, or the table of an asset without partitions."""
        return self._materialize(self.asset(value), partition_key=key)

    def write_range(self, value: object, first: str, last: str) -> Written:
        """Materialize a range of partitions in a single run."""
        return self._materialize(self.asset(value, single_run=True), tags=range_tags(first, last))

    def _materialize(self, asset: dg.AssetsDefinition, **run: Any) -> Written:
        result = dg.materialize([asset], instance=self.instance, resources={"io_manager": self.manager}, **run)
        events = [
            event.step_materialization_data.materialization for event in result.get_asset_materialization_events()
        ]
        metadata = {name: value.value for name, value in events[-1].metadata.items()}
        return Written(metadata["delta/version"], metadata, [event.partition for event in events])

    def load(
        self,
        key: str | None = None,
        *,
        kind: Any = pl.DataFrame,
        definition: dg.PartitionsDefinition | None = None,
        mapping: dg.PartitionMapping | None = None,
        key_range: tuple[str, str] | None = None,
        **metadata: Any,
    ) -> pl.DataFrame:
        """What a downstream asset is given for a partition of its own."""
        return loaded_by(
            self.asset(),
            self.manager,
            key,
            kind,
            definition=definition,
            mapping=mapping,
            key_range=key_range,
            metadata=metadata,
            instance=self.instance,
        )

    def with_(self, **changes: Any) -> Table:
        """The same table, declared otherwise."""
        return replace(self, **changes)


def copied(table: Table, root: Path) -> Table:
    """A table of its own, to go on from where another ends: files are copied in less time than a run takes."""
    shutil.copytree(table.root, root, dirs_exist_ok=True)
    return table.with_(root=root)


def union(model: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The table that a model of partitions stands for."""
    return pl.concat(model.values())


def assert_same_rows(left: pl.DataFrame, right: pl.DataFrame) -> None:
    """The same rows, each as often, in any order of rows and columns."""
    assert_frame_equal(left.select(sorted(left.columns)), right.select(sorted(right.columns)), check_row_order=False)


def live_files(table: Table) -> set[str]:
    """Names of the data files of the newest version."""
    return {uri.rsplit("/", 1)[-1] for uri in table.handle.file_uris()}


def data_files(table: Table) -> set[str]:
    """Names of the data files that are on disk, live or not."""
    return {path.name for path in table.path.rglob("*.parquet") if "_delta_log" not in path.parts}


def contents(root: Path) -> dict[str, bytes]:
    """Every file under a folder with its bytes; lock files are no content."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


# What takes the place of a file. A failing ``stat`` is simulated by a folder: an engine that lists the log passes over
# either. A failing ``read`` is simulated by a link to the memory of the own process, whose beginning nobody may read:
# the file opens, and each read is an input/output error of the system, for root too.
FAILURES: dict[str, Callable[[Path], None]] = {
    "stat": lambda file: file.mkdir(),
    "read": lambda file: file.symlink_to("/proc/self/mem"),
}
without_memory = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs the memory of a process as file")
failures = pytest.mark.parametrize("failure", ["stat", pytest.param("read", marks=without_memory)])


@contextmanager
def failing(file: Path, failure: str) -> Iterator[None]:
    """For as long as it takes inside, an operation on a file fails; afterwards the file is as before."""
    aside = file.with_name(f"aside.{file.name}")
    file.rename(aside)
    FAILURES[failure](file)
    try:
        yield
    finally:
        file.rmdir() if file.is_dir() else file.unlink()
        aside.rename(file)


@contextmanager
def refused(root: Path, error: type[PatternPlatformError], *culprits: str) -> Iterator[None]:
    """The run inside is refused with a class of error that names the culprits, and no file under the root changes."""
    before = contents(root)
    with pytest.raises(error) as caught:
        yield
    for culprit in culprits:
        assert culprit in str(caught.value)
    assert contents(root) == before
