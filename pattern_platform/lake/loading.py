"""What a parameter asks for by its annotation: which engine reads the table, and the kind of frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from pattern_platform.errors import InvalidMetadataError
from pattern_platform.lake.frames import from_lazy, is_narwhals_type
from pattern_platform.lake.spark.connect import is_frame_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pattern_platform.lake.snapshot import Snapshot
    from pattern_platform.lake.spark.connect import SparkConnect
    from pattern_platform.lake.window import Window


class Loader(Protocol):
    """Makes the kind of frame that a parameter asks for."""

    def empty(self, schema: pl.Schema) -> object:
        """A frame without rows."""
        ...

    def rows(
        self,
        snapshot: Snapshot,
        window: Window,
        files: tuple[pl.DataFrame, pl.DataFrame],
        columns: Sequence[str] | None,
    ) -> object:
        """The rows of a window.

        Args:
            snapshot: The table.
            window: Which rows.
            files: What ``window.split(snapshot.files)`` gives.
            columns: Which columns; None for all.
        """
        ...


@dataclass(frozen=True)
class PolarsLoader:
    """Frames in this process.

    Args:
        wanted: The annotation of the parameter.
    """

    wanted: Any

    def empty(self, schema: pl.Schema) -> object:
        """As of every loader."""
        return from_lazy(pl.LazyFrame(schema=schema), self.wanted)

    def rows(
        self,
        snapshot: Snapshot,
        window: Window,
        files: tuple[pl.DataFrame, pl.DataFrame],
        columns: Sequence[str] | None,
    ) -> object:
        """As of every loader."""
        rows = snapshot.scan(window, files)
        return from_lazy(rows if columns is None else rows.select(columns), self.wanted)


def loader_of(wanted: Any, engine: SparkConnect | None, of: str) -> Loader:  # noqa: ANN401 - an annotation
    """What loads a parameter.

    Args:
        wanted: Its annotation. ``narwhals.LazyFrame`` is read by the engine where there is one, else by Polars.
        engine: The Spark server of the IO manager.
        of: The input, for the error message.

    Raises:
        InvalidMetadataError: A Spark frame is asked for, and no server is configured.
        MissingDriverError: The client of Spark Connect is not installed.
    """
    generic = is_narwhals_type(wanted)
    if not is_frame_type(wanted) and not (generic and engine):
        return PolarsLoader(wanted)
    if engine is None:
        raise InvalidMetadataError(
            f"input {of!r} was refused",
            why="it asks for a Spark frame, and the IO manager of the table that it reads knows no Spark server",
            mend='give the IO manager one: engine=SparkConnect(url="sc://host:15002"), or annotate the parameter with '
            "polars.LazyFrame",
        )
    session = engine.session()
    from pattern_platform.lake.spark.loader import SparkLoader  # noqa: PLC0415 - Spark, where it is used

    return SparkLoader(session, generic=generic)
