"""What a run made, as frames: the version that it made of a Delta table, or a table in DuckDB as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from pattern_platform.errors import MissingTableError, UnreadableOutputError
from pattern_platform.lake.location import root_of
from pattern_platform.lake.snapshot import open_version
from pattern_platform.lake.window import Window
from pattern_platform.warehouse.database import connected
from pattern_platform.warehouse.keyed_store import PARTITION
from pattern_platform.warehouse.names import TableName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import polars as pl

    from pattern_platform.orchestration.graphql.answers import Materialization

_DUCKDB = b"DUCK"  # what a file of it has after a checksum of eight bytes


@dataclass(frozen=True)
class Output:
    """What a run made of an asset.

    Args:
        key: Key of the asset.
        partition: The partition, ``<first>...<last>`` for several of one run; None where it has none.
        metadata: What the run told last of it.
    """

    key: str
    partition: str | None
    metadata: Mapping[str, Any]

    @property
    def uri(self) -> str | None:
        """Where the table is."""
        return self.metadata.get("dagster/uri")

    @property
    def version(self) -> int | None:
        """Version of a Delta table that the run made."""
        return self.metadata.get("delta/version")

    def read(self, storage_options: Mapping[str, str] | None = None) -> pl.LazyFrame:
        """All rows of the table: of a Delta table as the run left it, of one in DuckDB as they are now.

        Args:
            storage_options: How the object store is reached that the table is on; of a local one None.

        Raises:
            UnreadableOutputError: The run told of no table, or its files are not reachable from here.
            UnsupportedStorageError: Options are given for a local table, or none for one on an object store.
            MissingVersionError: The version was cleaned up.
            MissingTableError: The table in DuckDB is gone.
            DatabaseLockedError: Another process held the DuckDB file for too long.
        """
        if self.uri is None:
            raise self._unreadable("the run did not say where its table is (`dagster/uri`)")
        path = root_of(self.uri, storage_options)
        if not path.exists():
            raise self._unreadable(f"there is no {self.uri} on this machine", "read it where the tables are mounted")
        if self.version is not None:
            return open_version(path, self.version).scan(Window())
        if not isinstance(path, Path) or not _is_duckdb(path):
            raise self._unreadable(f"{self.uri} is neither a version of a Delta table nor a DuckDB file")
        with connected(str(path), read_only=True) as connection:
            table = TableName.of(connection, dg.AssetKey.from_user_string(self.key))
            if not table.exists(connection):
                raise MissingTableError(
                    f"output {self.key!r} was refused",
                    why=f"{self.uri} does not hold its table any more",
                    mend="materialize it again",
                )
            return connection.table(table.sql()).pl().drop(PARTITION, strict=False).lazy()

    def _unreadable(self, why: str, mend: str = "read it as its asset describes it; `metadata` says more") -> Exception:
        return UnreadableOutputError(f"output {self.key!r} was refused", why=why, mend=mend)


class Outputs:
    """What a run made, by the key of the asset, or by its last part where no other has the same.

    Args:
        outputs: The outputs.
        of: The run, for messages.
    """

    def __init__(self, outputs: Iterable[Output], of: str) -> None:
        self._by_key, self._of = {output.key: output for output in outputs}, of

    @classmethod
    def of(cls, materializations: Iterable[Materialization], of: str) -> Outputs:
        """One output for each asset, however many of its partitions the run made."""
        made: dict[str, list[Materialization]] = {}
        for materialization in materializations:
            made.setdefault(materialization.key, []).append(materialization)
        return cls([_output(key, events) for key, events in made.items()], of)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    def __getitem__(self, name: str) -> Output:
        found = [key for key in self._by_key if name in (key, key.rpartition("/")[2])]
        if name in self._by_key or len(found) == 1:
            return self._by_key[name if name in self._by_key else found[0]]
        made = ", ".join(found or self._by_key) or "nothing"
        raise UnreadableOutputError(
            f"output {name!r} of {self._of} was refused",
            why=f"several are called so: {made}" if found else f"it made {made}",
            mend="write the whole key of what it made",
        )


def _output(key: str, events: list[Materialization]) -> Output:
    partitions = sorted({event.partition for event in events if event.partition is not None})
    partition = None
    if partitions:
        partition = partitions[0] if len(partitions) == 1 else f"{partitions[0]}...{partitions[-1]}"
    return Output(key, partition, events[-1].metadata)


def _is_duckdb(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(12)[8:] == _DUCKDB
