"""Personal data past its retention: columns are blanked, and fields of raw JSON lines, in every version of a table.

Rows stay, so that counts and what is not personal stay true. Older versions, files and log are treated as an erasure
treats them. Where there is nothing left to blank, nothing is written: a nightly run is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

import polars as pl

from pattern_platform.errors import InvalidErasureError
from pattern_platform.lake.checks import listed
from pattern_platform.lake.json_texts import changed_fields
from pattern_platform.lake.log_scrub import without_bounds
from pattern_platform.lake.rewrite import opened
from pattern_platform.lake.rewrite_table import rewrite_everywhere

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pattern_platform.lake.commit import Commit
    from pattern_platform.lake.json_texts import Paths
    from pattern_platform.lake.log_scrub import Action
    from pattern_platform.lake.object_path import LakePath
    from pattern_platform.lake.snapshot import Snapshot


def blank_columns(
    table: LakePath,
    columns: Sequence[str],
    rows: pl.Expr,
    payload_fields: Mapping[str, Sequence[str]],
    *,
    metadata: Mapping[str, object],
) -> Commit | None:
    """Set personal data to null in the rows that are past their retention.

    Args:
        table: Directory of the table.
        columns: Columns that become null.
        rows: Which rows are past it, in terms of the table; null is no.
        payload_fields: For a column of JSON texts the fields that are removed, as paths: ``("user.email",)``. A path
            goes through lists. A text that is no JSON and names such a field becomes ``{}``: where its value ends,
            nobody can say.
        metadata: Kept in the commit.

    Returns:
        The last commit; None where the newest version had nothing to blank, or is append-only (it is then rewritten
        in place).

    Raises:
        InvalidErasureError: A column does not exist, cannot be null, or is no text; or a file cannot be read.
        MissingTableError: There is no table.
        UnsupportedTableError: As of an erasure.
        CommitConflictError: Other writers won every race.
    """
    snapshot = opened(table)
    _refuse_columns(snapshot, columns, payload_fields)
    _refuse_condition(snapshot, rows)
    fields = {column: tuple(tuple(path.split(".")) for path in paths) for column, paths in payload_fields.items()}
    recorded = {**metadata, "pattern": "retention", "phase": "retention"}
    done = rewrite_everywhere(table, _Blanking(tuple(columns), rows, fields), metadata=recorded)
    return done.commits[-1] if done.commits else None


@dataclass(frozen=True)
class _Blanking:
    """The rewrite that blanks columns, and fields of texts."""

    columns: tuple[str, ...]
    rows: pl.Expr
    fields: Mapping[str, Paths]

    def touched(self, schema: pl.Schema) -> pl.Expr:  # noqa: ARG002 - the columns are of the table
        past = self.rows.fill_null(value=False)
        held = [pl.col(column).is_not_null() for column in self.columns]
        for column, paths in self.fields.items():
            text = pl.when(past).then(pl.col(column))
            held.append(_without_fields(text, paths).ne_missing(text))
        return past & pl.any_horizontal(held)

    def rewritten(self, rows: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
        new = [pl.lit(None, dtype=schema[column]).alias(column) for column in self.columns]
        new += [_without_fields(pl.col(column), paths) for column, paths in self.fields.items()]
        past = self.rows.fill_null(value=False)
        return rows.with_columns(
            pl.when(past).then(blank).otherwise(pl.col(column)).alias(column)
            for column, blank in zip([*self.columns, *self.fields], new, strict=True)
        )

    def is_gone(self, path: str) -> bool:  # noqa: ARG002 - rows stay
        return False

    def scrubbed(self, action: Action, table: LakePath) -> Action | None:
        """Files that are gone may have held what is past its retention: their bounds go. Others get new ones."""
        kind, body = next(iter(action.items()))
        if kind not in ("add", "remove") or not body.get("stats") or (table / unquote(body["path"])).exists():
            return action
        blanked = {*self.columns, *self.fields}
        stats = without_bounds(body["stats"], lambda place, _: place[0] in blanked)
        parsed = {"stats_parsed": None} if "stats_parsed" in body and stats != body["stats"] else {}
        return {kind: {**body, "stats": stats, **parsed}}


def _without_fields(texts: pl.Expr, paths: Paths) -> pl.Expr:
    return texts.map_batches(partial(_blanked, paths=paths), return_dtype=pl.String, is_elementwise=True)


def _blanked(texts: pl.Series, paths: Paths) -> pl.Series:
    """Texts without some fields; those that name none of them are not looked at, nor written anew."""
    names = [path[-1] for path in paths]
    possible = texts.str.contains_any([*names, "\\u"])  # a name may be escaped
    places = possible.arg_true()
    new = pl.Series([changed_fields(text, paths) or "{}" for text in texts.gather(places)], dtype=pl.String)
    return texts.scatter(places, new)


# Refusals -----------------------------------------------------------------------------------------------------------


def _refuse_columns(snapshot: Snapshot, columns: Sequence[str], fields: Mapping[str, Sequence[str]]) -> None:
    schema, required, table = snapshot.schema, snapshot.required, snapshot.table.name
    named = [*columns, *fields]
    if not named or any(not paths or not all(all(path.split(".")) for path in paths) for paths in fields.values()):
        why, mend = "no column is named, or a field without a name", "name what is personal, such as user.email"
    elif both := sorted(set(columns) & set(fields)):
        why, mend = f"{listed(both)} is blanked as a whole and by fields", "declare one of the two"
    elif unknown := sorted({c for c in named if c not in schema}):
        why, mend = f"it has no column {listed(unknown)}", f"name some of {listed(schema.names())}"
    elif fixed := sorted({c for c in columns if c in required}):
        why = f"it declares {listed(fixed)} NOT NULL, and a blanked value is null"
        mend = "let the asset make the column nullable, or erase these rows as a whole"
    elif physical := sorted(set(named) & set(snapshot.partition_columns)):
        why = f"it is partitioned by {listed(physical)}, whose values are names of folders"
        mend = "partition the table by something that is not personal"
    elif other := sorted(c for c in fields if schema[c] != pl.String):
        why, mend = f"{listed(other)} is no column of texts", "blank it as a whole, in columns"
    else:
        return
    raise InvalidErasureError(f"a retention of table {table!r} was refused", why=why, mend=mend)


def _refuse_condition(snapshot: Snapshot, rows: pl.Expr) -> None:
    try:
        is_condition = pl.LazyFrame(schema=snapshot.schema).select(rows).collect_schema().dtypes() == [pl.Boolean]
    except pl.exceptions.PolarsError:
        is_condition = False
    if not is_condition:
        raise InvalidErasureError(
            f"a retention of table {snapshot.table.name!r} was refused",
            why="the rows past it are not named by a condition on columns that the table has",
            mend='give one, such as pl.col("event_time") < limit',
        )
