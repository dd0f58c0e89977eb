"""Changes by key: what a batch of upserts and soft deletes says of each key, and the rows that say nothing sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import polars as pl

from pattern_platform.errors import ChangedTypeError, DuplicateKeyError, InvalidMetadataError, NullKeyError
from pattern_platform.lake.checks import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pattern_platform.lake.declarations import MergerDeclaration

REASON = f"_reason_{uuid4().hex}"  # a name that no column of a table has
NULL = "null in {}"
DUPLICATE = "another row of the batch has the same key, and nothing says which is the last"


@dataclass(frozen=True)
class Changes:
    """At most one change a key.

    Args:
        upserts: Rows to update or insert, with the table's columns.
        deletes: Rows whose key leaves the table, with the table's columns.
        keys: Key columns.
        sequence: Column that orders the changes of a key.
        dropped_duplicates: Rows of the batch that a later row of the same key made void.
    """

    upserts: pl.DataFrame
    deletes: pl.DataFrame
    keys: tuple[str, ...]
    sequence: str | None
    dropped_duplicates: int = 0


def refuse_declaration(declaration: MergerDeclaration, given: pl.Schema, name: str) -> None:
    """Refuse merge metadata that the columns of a batch contradict.

    Raises:
        InvalidMetadataError: A declared column does not exist, or is of a type that has no order.
        ChangedTypeError: The soft-delete column is not boolean.
    """
    flag, sequence = declaration.soft_delete, declaration.sequence_by
    wanted = {"merge_keys": declaration.merge_keys, "sequence_by": (sequence,) if sequence else ()}
    for key, columns in wanted.items():
        unknown = [column for column in columns if column not in given]
        nested = [column for column in columns if column in given and given[column].is_nested()]
        if unknown or nested:
            raise InvalidMetadataError(
                f"metadata {key!r} of asset {name!r} was refused",
                why=f"there is no column {listed(unknown)}" if unknown else f"column {listed(nested)} is nested",
                mend=f"choose among the columns {', '.join(given)}",
            )
    if flag and flag in given and given[flag] != pl.Boolean:
        raise ChangedTypeError(
            f"column {flag!r} of type {given[flag]} was refused",
            why="soft_delete names a boolean column, true for a row that is deleted",
            mend=f'compute it in the asset, such as (pl.col("op") == "delete").alias("{flag}")',
        )


def changes_of(batch: pl.DataFrame, declaration: MergerDeclaration) -> tuple[Changes, pl.DataFrame]:
    """What a batch says of each key.

    Args:
        batch: Rows with the table's columns, and the soft-delete column where one is declared.
        declaration: What the asset declares.

    Returns:
        The changes; and the bad rows, with a column :data:`REASON`: those without key, sequence or flag, and
        those of one key that nothing orders.

    Raises:
        NullKeyError: There are bad rows of the first kind, and the asset refuses them.
        DuplicateKeyError: There are bad rows of the second kind, and the asset refuses them.
    """
    keys, sequence, flag = list(declaration.merge_keys), declaration.sequence_by, declaration.soft_delete
    reason = pl.coalesce([pl.when(_absent(batch, c)).then(pl.lit(NULL.format(c))) for c in decisive(declaration)])
    rows = batch.with_columns(reason.alias(REASON))
    bad = rows.filter(pl.col(REASON).is_not_null())
    good = rows.filter(pl.col(REASON).is_null()) if bad.height else rows
    last = good
    if good.select(keys).is_duplicated().any():
        if sequence:
            last = good.filter(pl.col(sequence) == pl.col(sequence).max().over(keys)).unique(maintain_order=True)
        tied = last.select(keys).filter(pl.struct(keys).is_duplicated()).unique()
        ties = good.join(tied, on=keys, how="semi").with_columns(pl.lit(DUPLICATE).alias(REASON))
        last, good = (frame.join(tied, on=keys, how="anti", maintain_order="left") for frame in (last, good))
        bad = pl.concat([bad, ties])
    if bad.height and declaration.bad_rows == "refuse":
        raise refusal_of(dict(bad.group_by(REASON).len().iter_rows()), declaration)
    stored = [c for c in batch.columns if c != flag]
    return Changes(
        upserts=(last.filter(~pl.col(flag)) if flag else last).select(stored),
        deletes=(last.filter(flag) if flag else last.clear()).select(stored),
        keys=tuple(keys),
        sequence=sequence,
        dropped_duplicates=good.height - last.height,
    ), bad


def decisive(declaration: MergerDeclaration) -> list[str]:
    """The columns without which a row says nothing sure."""
    return [*declaration.merge_keys, *filter(None, (declaration.sequence_by, declaration.soft_delete))]


def _absent(batch: pl.DataFrame, column: str) -> pl.Expr:
    """Null; and NaN in a float sequence or key, which has no place in any order."""
    value = pl.col(column)
    return value.is_null() | value.is_nan() if batch.schema[column].is_float() else value.is_null()


def refusal_of(bad: Mapping[str, int], declaration: MergerDeclaration) -> NullKeyError | DuplicateKeyError:
    """The refusal of bad rows.

    Args:
        bad: Their number, by reason.
        declaration: What the asset declares.
    """
    quarantine = 'set the asset metadata "bad_rows": "quarantine"'
    without = {reason: rows for reason, rows in bad.items() if reason != DUPLICATE}
    if without:
        return NullKeyError(
            f"{sum(without.values())} row(s) were refused: {', '.join(sorted(without))}",
            why="a row without its key would be inserted again on every run, one without order or flag is undecided",
            mend=f"drop or fill them in the asset, or {quarantine}",
        )
    return DuplicateKeyError(
        f"{bad[DUPLICATE]} row(s) with duplicate {', '.join(declaration.merge_keys)} were refused",
        why="which of them is the last "
        + ("is not known: their sequence is the same" if declaration.sequence_by else "is not declared"),
        mend="keep one of them in the asset, "
        + ("" if declaration.sequence_by else 'or name the column that orders them in "sequence_by", ')
        + f"or {quarantine}",
    )
