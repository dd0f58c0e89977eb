"""SQL over frames, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl


def query(sql: str, frames: Mapping[str, pl.DataFrame], parameters: Mapping[str, object] | None = None) -> pl.DataFrame:
    """Run one SQL statement over some frames.

    Args:
        sql: A query that names the frames as tables.
        frames: The frames.
        parameters: Values for ``$name`` placeholders.
    """
    with duckdb.connect() as connection:
        for name, frame in frames.items():
            connection.register(name, frame)
        return connection.sql(sql, params=dict(parameters) if parameters else None).pl()
