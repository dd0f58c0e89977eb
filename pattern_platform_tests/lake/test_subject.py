"""Who is meant: which rows and texts are erased, and which the proof afterwards finds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattern_platform.errors import InvalidErasureError
from pattern_platform.lake.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

WHO = Subject("u-42", ("user_id",))


def held(frame: pl.LazyFrame, condition: pl.Expr) -> list[bool]:
    return frame.select(pl.all().is_null(), held=condition).collect(engine="streaming")["held"].to_list()


def erased(subject: Subject, **columns: Any) -> list[bool]:
    frame = pl.DataFrame(columns).lazy()
    return held(frame, subject.in_row(frame.collect_schema()))


def mentioned(subject: Subject, **columns: Any) -> list[bool]:
    frame = pl.DataFrame(columns).lazy()
    return held(frame, subject.mentioned(frame.collect_schema()))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(pl.Series(["u-42", "u-421", None, "U-42", ""]), [True, False, False, False, False], id="texts"),
        pytest.param(pl.Series([["u-42"], ["u-1", "u-42"], [], None]), [True, True, False, False], id="list"),
        pytest.param(pl.Series([1.5, 42.0]), [False, False], id="floats are no keys"),
    ],
)
def test_a_declared_column_holds_the_key_or_not(values: pl.Series, expected: Sequence[bool]) -> None:
    assert erased(WHO, user_id=values) == expected


def test_a_column_of_another_name_is_none_of_the_row() -> None:
    assert erased(WHO, page=["u-42"]) == [False]


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int32, pl.Int64])
def test_an_integer_column_holds_a_key_that_is_written_so(dtype: Any) -> None:
    column = pl.Series([42, 4, None], dtype=dtype)
    assert erased(Subject("42", ("user_id",)), user_id=column) == [True, False, False]
    assert erased(Subject("042", ("user_id",)), user_id=column) == [False] * 3
    assert erased(Subject("99999999999999999999", ("user_id",)), user_id=column) == [False] * 3
    assert erased(WHO, user_id=column) == [False] * 3


def test_a_field_of_a_nested_column_holds_the_key() -> None:
    events = [[{"user_id": "u-1"}, {"user_id": "u-42"}], [{"user_id": None}], None]
    assert erased(WHO, events=events) == [True, False, False]
    assert erased(WHO, about=[{"user_id": "u-42", "n": 1}, {"user_id": "u-4", "n": 2}]) == [True, False]


@pytest.mark.parametrize("column", ["payload", "record"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('{"user_id": "u-42"}', True, id="field"),
        pytest.param('{"a": [{"b": {"user_id": "u-42"}}]}', True, id="depth"),
        pytest.param('{"user_id": ["u-1", "u-42"]}', True, id="list"),
        pytest.param('{"user_id": "u\\u002d42"}', True, id="escaped"),
        pytest.param('{"page": "u-42"}', False, id="another field"),
        pytest.param('{"user_id": "u-421"}', False, id="a longer key"),
        pytest.param('{"user_id": "u-42', True, id="cut line"),
        pytest.param("2024,u-42,home", True, id="csv"),
        pytest.param("2024,u-421,home", False, id="csv of another"),
        pytest.param("", False, id="empty"),
        pytest.param("[" * 100_000, False, id="too deep"),
        pytest.param('{"user_id": NaN}', False, id="nan"),
    ],
)
def test_a_raw_line_holds_the_key_by_its_fields_or_as_a_word(column: str, text: str, *, expected: bool) -> None:
    assert WHO.in_text(text) is expected
    assert erased(WHO, **{column: [text, None]}) == [expected, False]


def test_a_raw_line_holds_a_number_as_text() -> None:
    who = Subject("42", ("user_id",))
    assert who.in_text('{"user_id": 42}')
    assert who.in_text('{"user_id": "42"}')
    assert not who.in_text('{"user_id": 42.5}')
    assert not who.in_text('{"user_id": true, "n": 42}')


@given(
    st.recursive(
        st.sampled_from(["u-42", "u-4", 'é"\\', None, 42]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["user_id", "x"]), inner),
        max_leaves=6,
    ),
    st.booleans(),
)
def test_the_column_is_asked_as_the_text_is(value: Any, ascii_only: bool) -> None:  # noqa: FBT001 - hypothesis
    for who in (WHO, Subject('é"\\', ("user_id",)), Subject("42", ("user_id",))):
        line = json.dumps(value, ensure_ascii=ascii_only)
        assert erased(who, payload=[line]) == [who.in_text(line)]


def test_the_proof_finds_a_word_in_any_text() -> None:
    assert mentioned(WHO, page=["/users/u-42/edit", "/users/u-421", None]) == [True, False, False]
    assert mentioned(WHO, tags=[["a", "by u-42"], ["a"], None]) == [True, False, False]
    assert mentioned(WHO, about=[{"x": {"y": "u-42"}}, {"x": {"y": "u"}}]) == [True, False]
    assert mentioned(WHO, payload=['{"page": "u-42"}', '{"user_id": "u\\u002d42"}', "{}"]) == [True, True, False]


def test_the_proof_takes_signs_of_the_key_as_they_are() -> None:
    who = Subject("a.b+c@x", ("user_id",))
    assert mentioned(who, page=["a.b+c@x", "(a.b+c@x)", "a-b+c@x", "aab+c@x"]) == [True, True, False, False]


def test_a_number_is_no_word_of_other_texts() -> None:
    who = Subject("42", ("user_id",))
    assert mentioned(who, page=["p-42", "42", "2024-10-42"]) == [False, True, False]
    assert mentioned(who, payload=['{"n": 42}', '{"user_id": 42}', "42,home"]) == [False, True, True]


def test_a_table_without_texts_mentions_nobody() -> None:
    assert mentioned(WHO, n=[1, 2]) == [False, False]
    assert erased(WHO, n=[1, 2]) == [False, False]


@pytest.mark.parametrize(
    ("key", "columns", "why"),
    [
        ("", ("user_id",), "the key is empty"),
        ("  ", ("user_id",), "the key is empty"),
        (" u-42", ("user_id",), "blanks around it"),
        ("--", ("user_id",), "no letter and no digit"),
        ("u-42", (), "no column is named"),
        ("u-42", ("",), "one of the names is empty"),
        ("u-42", "user_id", "no column is named"),
    ],
)
def test_a_subject_that_means_everybody_or_nobody_is_refused(key: str, columns: Any, why: str) -> None:
    with pytest.raises(InvalidErasureError, match=why) as caught:
        Subject(key, columns)
    assert "give the value" in caught.value.mend or "name the columns" in caught.value.mend
