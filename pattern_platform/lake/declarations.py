"""The asset metadata that the platform reads, and what each key may be.

One place knows the names: the IO managers read them here, and ``validate_definitions`` checks them here.
"""

from __future__ import annotations

import re
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, model_validator

from pattern_platform.errors import InvalidMetadataError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]*")

D = TypeVar("D", bound=BaseModel)


class TableDeclaration(BaseModel):
    """What an asset declares about its table.

    Args:
        partition_expr: Column that holds the partition, or a column for each partition dimension.
        partition_by: Physical partition columns.
        schema_evolution: What happens to columns that the table lacks.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    partition_expr: StrictStr | dict[StrictStr, StrictStr] | None = None
    partition_by: tuple[StrictStr, ...] = ()
    schema_evolution: Literal["strict", "add_columns"] = "strict"

    @property
    def not_stored(self) -> tuple[str, ...]:
        """Columns of a batch that say what to do with a row, and are no columns of the table."""
        return ()


class MergerDeclaration(TableDeclaration):
    """What an asset declares about a table that is merged into by key.

    Args:
        merge_keys: Columns that identify a row.
        sequence_by: Column that orders the changes of a key; the last wins, and a stored row outlasts older changes.
        soft_delete: Boolean column, not stored; true deletes the row, and never inserts it.
        bad_rows: What happens to rows that say nothing sure: no key, or a key twice and nothing that orders them.
    """

    merge_keys: tuple[StrictStr, ...] = Field(min_length=1)
    sequence_by: StrictStr | None = None
    soft_delete: StrictStr | None = None
    bad_rows: Literal["refuse", "quarantine"] = "refuse"

    @property
    def not_stored(self) -> tuple[str, ...]:
        """The soft-delete column."""
        return (self.soft_delete,) if self.soft_delete else ()

    @model_validator(mode="after")
    def _columns_differ(self) -> MergerDeclaration:
        columns = [*self.merge_keys, *filter(None, (self.sequence_by, self.soft_delete))]
        if len(set(columns)) < len(columns):
            message = "merge_keys, sequence_by and soft_delete name a column twice"
            raise ValueError(message)
        return self


class StatefulMergerDeclaration(MergerDeclaration):
    """What an asset declares about a table whose version each partition records.

    Args:
        foreign_commits: Whether commits of others that change rows are refused or accepted.
    """

    foreign_commits: Literal["refuse", "accept"] = "refuse"


class TableRules(BaseModel):
    """What every row of one of several tables keeps.

    Args:
        primary_key: Columns that identify a row, never null.
        checks: Conditions as SQL writes them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    primary_key: tuple[StrictStr, ...] = ()
    checks: tuple[StrictStr, ...] = ()


class TransactionDeclaration(TableDeclaration):
    """What an asset declares about tables that are written together.

    Args:
        tables: The tables in the order in which they are written, with their rules.
    """

    tables: dict[StrictStr, TableRules] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_stay_apart(self) -> TransactionDeclaration:
        folded = [name.lower() for name in self.tables]
        if len(set(folded)) < len(folded) or any(
            not _TABLE_NAME.fullmatch(name) or name == "loads" or "__" in name for name in folded
        ):
            message = "a table has a name of letters, digits and single '_', beginning with a letter, and not 'loads'"
            raise ValueError(message)
        return self


class KeyedDeclaration(TableDeclaration):
    """What an asset declares about rows that are kept by a key of their attributes.

    Args:
        key_columns: Attributes that never change, of which the key is made, in this order.
        key_name: Column of the key.
        lost_keys: What happens when a partition no longer brings a key that it brought before.
    """

    key_columns: tuple[StrictStr, ...] = Field(min_length=1)
    key_name: StrictStr
    lost_keys: Literal["refuse", "delete", "keep"] = "refuse"


class InputDeclaration(BaseModel):
    """What an asset declares about one of its inputs.

    Args:
        columns: Projection; all columns when absent.
        table_version: Version of the table to read; the newest when absent.
        allow_missing_partitions: Whether absent partitions are a warning instead of an error.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    columns: tuple[StrictStr, ...] | None = None
    table_version: StrictInt | None = None
    allow_missing_partitions: StrictBool = False


class TransactionInputDeclaration(InputDeclaration):
    """What an asset declares about an input of several tables.

    Args:
        table: The table that it reads; all of them, as a mapping, when absent.
    """

    table: StrictStr | None = None


class ProxyInputDeclaration(InputDeclaration):
    """What an asset declares about an input that is a view.

    Args:
        as_of: A time with its zone, as ``2024-05-06T12:00:00+00:00``: what the view showed then.
    """

    as_of: StrictStr | None = None

    @model_validator(mode="after")
    def _one_version(self) -> ProxyInputDeclaration:
        if self.as_of is not None and (self.table_version is not None or not datetime.fromisoformat(self.as_of).tzinfo):
            message = "as_of is a time with its zone, and not beside table_version"
            raise ValueError(message)
        return self


def parse(declaration: type[D], metadata: Mapping[str, object], *, of: str) -> D:
    """Read the platform's keys from the metadata of an asset or an input.

    Args:
        declaration: What is declared.
        metadata: Metadata as Dagster holds it; keys of others are passed over.
        of: Whose metadata it is, for the error message.

    Raises:
        InvalidMetadataError: A key is missing, mistyped or misspelt.
    """
    ours = list(declaration.model_fields)
    plain = {key: getattr(value, "value", value) for key, value in metadata.items()}
    for key in plain:
        if key not in ours and "/" not in key and (close := get_close_matches(key, ours, n=1, cutoff=0.85)):
            raise InvalidMetadataError(
                f"metadata {key!r} of {of} was refused",
                why="the platform does not know this key, and it looks like one of its own",
                mend=f"write {close[0]!r}, or give your own key a prefix such as 'team/{key}'",
            )
    try:
        return declaration.model_validate({key: plain[key] for key in ours if key in plain})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else None  # none where two keys contradict each other
        raise InvalidMetadataError(
            f"metadata {key!r} of {of} was refused" if key else f"metadata of {of} was refused",
            why="it is missing"
            if key and key not in plain
            else f"{plain[key]!r}: {first['msg']}"
            if key
            else first["msg"],
            mend=f"see {declaration.__name__}{f'.{key}' if key else ''} in pattern_platform.lake.declarations",
        ) from error
