"""The asset metadata that the platform reads, and what each key may be.

One place knows the names: the IO managers read them here, and ``validate_definitions`` checks them here.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, model_validator

from pattern_platform.errors import InvalidMetadataError

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        key = str(first["loc"][0]) if first["loc"] else "merge_keys"
        raise InvalidMetadataError(
            f"metadata {key!r} of {of} was refused",
            why=f"{plain[key]!r} is not allowed: {first['msg']}" if key in plain else "it is missing",
            mend=f"see {declaration.__name__}.{key} in pattern_platform.lake.declarations",
        ) from error
