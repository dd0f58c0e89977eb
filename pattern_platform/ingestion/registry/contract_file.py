"""Contracts without code: a YAML file says what a clean row is, and becomes a dataframely schema.

A contract file::

    description: One comment on a post.
    columns:
      comment_id: {type: text, key: true, description: Identity of the comment.}
      posted_at: {type: timestamp, description: When it was written.}
      words: {type: integer, min: 0, unit: words, description: Length of the comment.}
      country: {type: text, optional: true, source: context.country, description: Where it was written.}
    rules:
      written_before_it_arrived: posted_at <= append_time

A rule is a condition of SQL over the columns of a row.
"""

from __future__ import annotations

from datetime import date
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

import dataframely as dy
import polars as pl
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from pattern_platform.errors import InvalidRegistryError
from pattern_platform.orchestration.strict_yaml import load_mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


TAKEN = {"reasons", "malformed", "_row"}  # what parsing calls its own


def _regex(pattern: str) -> str:
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError as error:
        message = f"{pattern!r} is no regular expression"
        raise ValueError(message) from error
    return pattern


def _texts(values: Any) -> Any:  # noqa: ANN401 - whatever is in the file
    if isinstance(values, list) and any(not isinstance(value, str) for value in values):
        message = "each is a text: write yes, no, on, off and numbers in quotes"
        raise ValueError(message)
    return values


def _distinct(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        message = "a value is there twice"
        raise ValueError(message)
    return values


class _Column(BaseModel):
    model_config = ConfigDict(extra="forbid")

    description: Annotated[str, Field(min_length=1)]
    key: bool = False
    optional: bool = False
    source: str | None = None
    unit: str | None = None

    @property
    def common(self) -> dict[str, Any]:
        about = {"source": self.source, "unit": self.unit}
        return {
            "description": self.description,
            "primary_key": self.key,
            "nullable": self.optional,
            "metadata": {name: value for name, value in about.items() if value is not None},
        }


class _Text(_Column):
    type: Literal["text"]
    min_length: Annotated[int, Field(ge=0)] = 0
    max_length: Annotated[int, Field(ge=1)] | None = None
    pattern: Annotated[str, AfterValidator(_regex)] | None = None

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.max_length is not None and self.max_length < self.min_length:
            message = "max_length is less than min_length"
            raise ValueError(message)
        return self

    def made(self) -> dy.Column:
        least = self.min_length or None
        return dy.String(**self.common, min_length=least, max_length=self.max_length, regex=self.pattern)


class _Integer(_Column):
    type: Literal["integer"]
    min: int | None = None
    max: int | None = None

    def made(self) -> dy.Column:
        return dy.Int64(**self.common, min=self.min, max=self.max)


class _Number(_Column):
    type: Literal["number"]
    min: float | None = None
    max: float | None = None

    def made(self) -> dy.Column:
        return dy.Float64(**self.common, min=self.min, max=self.max)


class _Boolean(_Column):
    type: Literal["boolean"]

    def made(self) -> dy.Column:
        return dy.Bool(**self.common)


class _Timestamp(_Column):
    type: Literal["timestamp"]

    def made(self) -> dy.Column:
        return dy.Datetime(**self.common, time_unit="us", time_zone="UTC")


class _Date(_Column):
    type: Literal["date"]
    min: date | None = None
    max: date | None = None

    def made(self) -> dy.Column:
        return dy.Date(**self.common, min=self.min, max=self.max)


class _Category(_Column):
    type: Literal["category"]
    values: Annotated[list[str], Field(min_length=1), AfterValidator(_distinct), BeforeValidator(_texts)]

    def made(self) -> dy.Column:
        return dy.Enum(self.values, **self.common)


_AnyColumn = Annotated[
    _Text | _Integer | _Number | _Boolean | _Timestamp | _Date | _Category, Field(discriminator="type")
]


class _Contract(BaseModel):
    model_config = ConfigDict(extra="forbid")

    description: Annotated[str, Field(min_length=1)]
    columns: Annotated[dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")], _AnyColumn], Field(min_length=1)]
    rules: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = {}


def load_contract(reference: str, folder: Path) -> type[dy.Schema]:
    """The contract that a reference names.

    Args:
        reference: A YAML file below `folder`, or ``package.module:Class`` of a dataframely schema.
        folder: Folder of the registry.

    Raises:
        InvalidRegistryError: There is no such contract, or it is not well formed; every mistake with its path.
    """
    if reference.endswith((".yaml", ".yml")):
        file = folder / reference
        if not file.is_file():
            raise refused(reference, [f"there is no file {reference} beside the registry"])
        try:
            return parse_contract(file.read_text(), reference)
        except (OSError, UnicodeDecodeError) as error:
            raise refused(reference, [f"it cannot be read as UTF-8 text: {error}"]) from error
    module, _, name = reference.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise refused(reference, [f"it cannot be imported: {error}; write a .yaml file, or module:Class"]) from error
    if not (isinstance(found, type) and issubclass(found, dy.Schema)):
        raise refused(reference, ["it is no dataframely.Schema"])
    if taken := [name for name in found.columns() if name in TAKEN]:
        raise refused(
            reference, [f"columns.{name}: the platform has a column of that name; rename it" for name in taken]
        )
    return found


def parse_contract(text: str, name: str) -> type[dy.Schema]:
    """A contract file as a schema.

    Args:
        text: Its content.
        name: What it is called in messages; the class is called after it.

    Raises:
        InvalidRegistryError: As of :func:`load_contract`.
    """
    try:
        contract = TypeAdapter(_Contract).validate_python(load_mapping(text))
    except ValidationError as error:
        raise refused(name, [_told(mistake) for mistake in error.errors()]) from error
    except yaml.YAMLError as error:
        raise refused(name, [f"it is no YAML: {error}"]) from error
    if mistakes := list(_wrong_names(contract)):
        raise refused(name, mistakes)
    types = {column: _made(column, declared, name) for column, declared in contract.columns.items()}
    if not any(column.primary_key for column in types.values()):
        raise refused(name, ["columns: none has `key: true`, by which duplicates are told"])
    rules = {rule: _rule(rule, condition, types, name) for rule, condition in contract.rules.items()}
    title = "".join(part.title() for part in name.rpartition("/")[2].partition(".")[0].split("_"))
    return type(title, (dy.Schema,), {"__doc__": contract.description, **types, **rules})


def _wrong_names(contract: _Contract) -> Iterator[str]:
    folded: dict[str, str] = {}
    for column in contract.columns:
        if column.lower() in folded:
            yield f"columns.{column}: it differs from {folded[column.lower()]} in case alone, which engines do not see"
        folded[column.lower()] = column
        if column in TAKEN or hasattr(dy.Schema, column):
            yield f"columns.{column}: the name is taken; rename it, with `source: {column}`"
    for rule in contract.rules:
        if rule in contract.columns or hasattr(dy.Schema, rule):
            yield f"rules.{rule}: a column, or dataframely, has that name; rename it"


def _made(name: str, declared: _AnyColumn, contract: str) -> dy.Column:
    try:
        return declared.made()
    except (TypeError, ValueError) as error:
        raise refused(contract, [f"columns.{name}: {error}"]) from error


def refused(reference: str, mistakes: list[str]) -> InvalidRegistryError:
    """The refusal of a contract."""
    return InvalidRegistryError(
        f"contract {reference!r} was refused", why="\n        ".join(mistakes), mend="mend it, then load again"
    )


def _rule(name: str, condition: str, columns: dict[str, dy.Column], contract: str) -> Callable[..., pl.Expr]:
    empty = pl.DataFrame(schema={column: declared.dtype for column, declared in columns.items()})
    try:
        expression = pl.sql_expr(condition)
        found = empty.select(expression.alias(name))
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise refused(contract, [f"rules.{name}: {condition!r} is no condition over its columns: {error}"]) from error
    if found.schema[name] != pl.Boolean:
        raise refused(contract, [f"rules.{name}: {condition!r} is a {found.schema[name]}, not a condition"])
    if found.height:
        raise refused(contract, [f"rules.{name}: {condition!r} is about all rows together; a rule is about one"])
    return cast("Callable[..., pl.Expr]", dy.rule()(lambda cls: expression))  # noqa: ARG005 - it passes the class


def _told(mistake: Any) -> str:  # noqa: ANN401 - of pydantic
    path = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        return f"{path}: there is no such key"
    return f"{path}: {mistake['msg']}"
