"""The base of the IO managers that write plain files, for readers who know nothing else."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path  # noqa: TC003 - Dagster reads the annotations of a resource
from typing import TYPE_CHECKING
from urllib.parse import quote

import dagster as dg
import polars as pl

from pattern_platform.errors import InvalidMetadataError, MissingPartitionsError, UnsafePartitionKeyError
from pattern_platform.lake.checks import input_name, listed, refuse_outside, refuse_unknown_columns
from pattern_platform.lake.declarations import InputDeclaration, TableDeclaration, parse
from pattern_platform.lake.frames import from_lazy, to_lazy
from pattern_platform.lake.location import location_of
from pattern_platform.lake.partitions import window_of
from pattern_platform.lake.schema import casts_to, column_schema, stored_schema

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_NAME = 200
WHOLE = "all"  # what an asset without partitions is called


class FileIOManager(dg.ConfigurableIOManager):
    """Plain files, below ``<root_uri>/<asset key parts joined by />``.

    Args:
        root_uri: Folder of all files.
    """

    root_uri: str

    @abstractmethod
    def place_of(self, folder: Path, partition: str) -> Path:
        """Where a partition is, in the folder of its asset."""

    @abstractmethod
    def write(self, rows: pl.LazyFrame, place: Path) -> None:
        """Put rows in the place of a partition, all of them or none."""

    @abstractmethod
    def scan(self, place: Path) -> pl.LazyFrame:
        """The rows of a partition."""

    def refuse_spec(self, spec: dg.AssetSpec) -> None:
        """Refuse an asset that could not be stored, by its declaration alone."""
        location_of(spec.key, self.root_uri)
        _declared(spec.metadata, spec.key.to_user_string(), partitioned=spec.partitions_def is not None)

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Check a batch and replace its partitions, each at once."""
        folder = location_of(context.asset_key, self.root_uri)
        partitioned = context.has_asset_partitions
        declared = _declared(context.definition_metadata, context.asset_key.to_user_string(), partitioned=partitioned)
        rows = to_lazy(obj)
        given = rows.collect_schema()
        casts, _ = casts_to(schema := stored_schema(given), given, "strict")
        rows = rows.select(casts).collect(engine="streaming").lazy()  # read once, checked before a file is made
        if partitioned and (column := declared.partition_expr):
            keys, definition = context.asset_partition_keys, context.asset_partitions_def
            refuse_outside(rows, window_of(keys, definition, column, schema))
            parts = {key: rows.filter(window_of([key], definition, column, schema).rows) for key in keys}
        else:
            parts = {WHOLE: rows}
        places = {partition: self.place_of(folder, file_name(partition)) for partition in parts}
        for partition, place in places.items():
            self.write(parts[partition], place)
        count = rows.select(pl.len()).collect().item()
        counted = "dagster/row_count" if not partitioned else "dagster/partition_row_count"
        context.add_output_metadata(
            {
                "dagster/uri": str(folder),
                "dagster/column_schema": column_schema(schema),
                **({counted: count} if len(parts) == 1 else {"files/rows_written": count}),
            }
        )

    def load_input(self, context: dg.InputContext) -> object:
        """Load the mapped partitions, as the kind of frame that the parameter asks for."""
        name, folder = context.asset_key.to_user_string(), location_of(context.asset_key, self.root_uri)
        declared = parse(InputDeclaration, context.definition_metadata, of=f"input {input_name(context)!r}")
        if declared.table_version is not None:
            raise InvalidMetadataError(
                f'metadata "table_version" of input {input_name(context)!r} was refused',
                why="plain files have no versions",
                mend="leave it out, or store the asset in Delta Lake",
            )
        keys = list(context.asset_partition_keys) if context.has_asset_partitions else [WHOLE]
        places = {key: self.place_of(folder, file_name(key)) for key in keys}
        if missing := [key for key, place in places.items() if not place.exists()]:
            if not declared.allow_missing_partitions:
                raise MissingPartitionsError(
                    f"input {input_name(context)!r} was refused",
                    why=f"partition(s) {listed(missing)} of {name!r} were never written",
                    mend='materialize them first, or set the input metadata "allow_missing_partitions": True',
                )
            context.log.warning("%s has no partition(s) %s", name, listed(missing))
        parts = [self.scan(place) for key, place in places.items() if key not in missing]
        rows = pl.concat(parts, how="diagonal_relaxed") if parts else pl.LazyFrame()
        if parts:
            refuse_unknown_columns(declared.columns, rows.collect_schema(), input_name(context), name)
            rows = rows.select(declared.columns or pl.all())
        return from_lazy(rows, context.dagster_type.typing_type)


def file_name(partition: str) -> str:
    """A partition key as the name of a file: what would leave the folder, hide in it, or be two, is percent-encoded.

    Raises:
        UnsafePartitionKeyError: The name is longer than a file may have, with what is put before it and behind it.
    """
    name = quote(partition, safe=": ,+@-_.")
    if len(name) > _LONGEST_NAME:
        raise UnsafePartitionKeyError(
            f"partition key {partition!r} was refused",
            why=f"it would be {len(name)} characters long as the name of a file, and {_LONGEST_NAME} fit",
            mend="choose a shorter partition key",
        )
    return f"%2E{name[1:]}" if name.startswith(".") else name


def _declared(metadata: Mapping[str, object], name: str, *, partitioned: bool) -> TableDeclaration:
    declared = parse(TableDeclaration, metadata, of=f"asset {name!r}")
    if partitioned and declared.partition_expr is None:
        raise InvalidMetadataError(
            f"asset {name!r} was refused",
            why="it is partitioned, and does not say which column holds the partition",
            mend='set its metadata "partition_expr" to the name of the column',
        )
    return declared
