"""A person whose data is erased: which rows and which texts hold it, and which still mention it.

Two rules, on purpose not the same. A row is erased where a column or JSON field that is declared to hold such keys has
this one. The proof afterwards asks for less: a text that says the key counts, whatever its column is called, so that a
column which nobody declared is found.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from pattern_platform.errors import InvalidErasureError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from polars._typing import PolarsDataType

TEXT_COLUMNS = ("payload", "record")  # the line as it landed, and the record of a rejected row: JSON, or what came


@dataclass(frozen=True)
class Subject:
    """A person whose data is erased.

    Args:
        key: Value that identifies them.
        columns: Names of the columns and JSON fields that hold such a key, at any depth: ``("user_id",)``. Elements of
            a list have its name.

    Raises:
        InvalidErasureError: One of the two is empty, or the key is made of signs alone.
    """

    key: str
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what would hold for everybody, or for nobody."""
        if not re.search(r"\w", self.key) or self.key != self.key.strip():
            raise InvalidErasureError(
                "an erasure was refused",
                why="the key is empty, has blanks around it, or has no letter and no digit",
                mend="give the value that identifies the person, as the tables hold it",
            )
        if isinstance(self.columns, str) or not self.columns or not all(self.columns):
            raise InvalidErasureError(
                "an erasure was refused",
                why="no column is named that holds the key, or one of the names is empty",
                mend='name the columns and JSON fields, such as ("user_id",)',
            )

    def in_row(self, schema: Mapping[str, PolarsDataType]) -> pl.Expr:
        """Whether a row is erased: a field named in ``columns``, of text or integers, equals the key, or its JSON does.

        Args:
            schema: Columns of the rows.
        """
        texts = [
            pl.col(column).map_batches(self._in_texts, return_dtype=pl.Boolean, is_elementwise=True)
            for column in TEXT_COLUMNS
            if schema.get(column) == pl.String and column not in self.columns
        ]
        return _any([*_leaves(schema, self._equals), *texts])

    def in_text(self, text: str) -> bool:
        """Whether a raw line is erased: JSON with a field named in ``columns`` that equals the key.

        A text that is no JSON is erased where it has the key as a whole word: nobody can say what it means there.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return self.is_word_of(text)
        return any(text_of(found) == self.key for found in _named(value, self.columns))

    def mentioned(self, schema: Mapping[str, PolarsDataType]) -> pl.Expr:
        """Whether a row still mentions the person: as :meth:`in_row`, or a text, at any depth, says the key.

        Args:
            schema: Columns of the rows.
        """
        return self.in_row(schema) | _any(_leaves(schema, self._says))

    def is_word_of(self, text: str) -> bool:
        """Whether a text has the key as a whole word: no letter or digit continues it."""
        return re.search(self._pattern, text) is not None

    def is_said_in(self, text: str) -> bool:
        """Whether a text says the key: has it as a whole word, or is it.

        A key of digits alone must be the whole text: as a word it is any number, and no table would ever be clean.
        """
        return text == self.key or (not self.key.isdecimal() and self.is_word_of(text))

    @property
    def _pattern(self) -> str:
        return rf"(?:^|\W|_){re.escape(self.key)}(?:$|\W|_)"

    def _equals(self, value: pl.Expr, dtype: PolarsDataType, name: str) -> pl.Expr | None:
        if name not in self.columns:
            return None
        if dtype == pl.String:
            return value == self.key
        number = _integer(self.key)
        if not dtype.is_integer() or number is None:
            return None
        held = pl.Series([self.key]).cast(dtype, strict=False)[0]
        return None if held is None else value == pl.lit(held, dtype=dtype)

    def _says(self, value: pl.Expr, dtype: PolarsDataType, name: str) -> pl.Expr | None:  # noqa: ARG002 - any name
        if dtype != pl.String:
            return None
        return value == self.key if self.key.isdecimal() else value.str.contains(self._pattern)

    def _in_texts(self, texts: pl.Series) -> pl.Series:
        """As :meth:`in_text`, of those that may hold the key: as it is, or as JSON escapes it."""
        possible = texts.str.contains(self.key, literal=True) | texts.str.contains("\\", literal=True)
        places = possible.arg_true()
        held = [place for place, text in zip(places, texts.gather(places), strict=True) if self.in_text(text)]
        return pl.Series(texts.name, [False], dtype=pl.Boolean).new_from_index(0, len(texts)).scatter(held, True)  # noqa: FBT003


def text_of(value: Any) -> str | None:  # noqa: ANN401 - a JSON value
    """A JSON value as text; None for objects and lists."""
    if isinstance(value, dict | list):
        return None
    return value if isinstance(value, str) else json.dumps(value)


def _integer(key: str) -> int | None:
    """The key as an integer, where that is how the integer is written."""
    return int(key) if re.fullmatch(r"0|-?[1-9]\d{0,38}", key, re.ASCII) else None


def _named(value: Any, names: Collection[str], *, here: bool = False) -> Iterator[Any]:  # noqa: ANN401 - a JSON value
    """The values of the fields with one of the names, at any depth; the elements of a list have its name."""
    if isinstance(value, dict):
        for name, field in value.items():
            yield from _named(field, names, here=name in names)
    elif isinstance(value, list):
        for element in value:
            yield from _named(element, names, here=here)
    elif here:
        yield value


def _leaves(
    schema: Mapping[str, PolarsDataType], test: Callable[[pl.Expr, PolarsDataType, str], pl.Expr | None]
) -> list[pl.Expr]:
    """A test of every field without fields of its own: for each column that has such fields, whether one passes."""
    found = (_leaf(pl.col(column), dtype, column, test) for column, dtype in schema.items())
    return [passes for passes in found if passes is not None]


def _leaf(
    value: pl.Expr,
    dtype: Any,  # noqa: ANN401 - a type of any kind
    name: str,
    test: Callable[[pl.Expr, PolarsDataType, str], pl.Expr | None],
) -> pl.Expr | None:
    if isinstance(dtype, pl.Struct):
        fields = [_leaf(value.struct.field(f.name), f.dtype, f.name, test) for f in dtype.fields]
        tests = [field for field in fields if field is not None]
        return _any(tests) if tests else None
    if isinstance(dtype, pl.List):
        element = _leaf(pl.element(), dtype.inner, name, test)
        return None if element is None else value.list.eval(element).list.any()
    return test(value, dtype, name)


def _any(tests: list[pl.Expr]) -> pl.Expr:
    """Whether one is true; a null is none."""
    return pl.any_horizontal(test.fill_null(value=False) for test in tests) if tests else pl.lit(value=False)
