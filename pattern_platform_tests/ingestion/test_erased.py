"""The list of erased subjects: it names nobody, and nobody on it comes back from a landed file."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pattern_platform.errors import DamagedListError
from pattern_platform.ingestion.erased import ErasedSubjects

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY, OTHER, COLUMNS = "user-000017", "user-000018", ("user_id",)


@pytest.fixture
def erased(tmp_path: Path) -> ErasedSubjects:
    return ErasedSubjects(tmp_path / "erasures" / "erased.json")


def lines(*payloads: str | None) -> pl.DataFrame:
    rows = range(1, len(payloads) + 1)
    return pl.DataFrame(
        {"source_row": rows, "payload": payloads}, schema={"source_row": pl.Int64, "payload": pl.String}
    )


def kept(erased: ErasedSubjects, *payloads: str | None) -> list[str | None]:
    return erased.drop(lines(*payloads))["payload"].to_list()


# The list -------------------------------------------------------------------------------------------------------------


def test_the_list_names_nobody(erased: ErasedSubjects) -> None:
    token = erased.add(KEY, COLUMNS)
    text = erased.path.read_text()
    assert KEY not in text
    assert token in text
    assert len(token) == 64


def test_a_subject_is_on_the_list_once_and_keeps_its_token(erased: ErasedSubjects) -> None:
    tokens = {erased.add(KEY, COLUMNS) for _ in range(3)}
    assert len(tokens) == 1
    assert len(json.loads(erased.path.read_text())["subjects"]) == 1
    assert erased.add(KEY, ("user_id", "author")) in tokens
    assert [s["columns"] for s in json.loads(erased.path.read_text())["subjects"]] == [["user_id"], ["author"]]


def test_two_lists_hash_the_same_key_differently(tmp_path: Path) -> None:
    """The salt is each list's own: whoever has one list cannot look a key up in another."""
    one, two = (ErasedSubjects(tmp_path / name).add(KEY, COLUMNS) for name in ("one.json", "two.json"))
    assert one != two


def test_erasures_at_the_same_time_lose_nobody(erased: ErasedSubjects) -> None:
    threads = [threading.Thread(target=erased.add, args=(f"user-{n}", COLUMNS)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(erased.path.read_text())["subjects"]) == 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda _: "[]",
        lambda _: '{"subjects": []}',
        lambda _: '{"salt": "zz", "subjects": []}',
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"subject":', '"who":'),
        lambda text: text.replace('"columns":', '"fields":'),
    ],
    ids=["empty", "another value", "no salt", "no hex", "cut", "no subject", "no columns"],
)
def test_a_damaged_list_lets_nothing_pass(erased: ErasedSubjects, damage: Callable[[str], str]) -> None:
    erased.add(KEY, COLUMNS)
    erased.path.write_text(damage(erased.path.read_text()))
    for refused in (lambda: kept(erased, "{}"), lambda: erased.add(OTHER, COLUMNS)):
        with pytest.raises(DamagedListError, match="bring it back from a backup") as error:
            refused()
        assert KEY not in str(error.value)


# The filter -----------------------------------------------------------------------------------------------------------


def test_without_a_list_the_rows_are_the_same_object(erased: ErasedSubjects) -> None:
    rows = lines('{"user_id":"user-000017"}')
    assert erased.drop(rows) is rows


THEIRS = [
    '{"user_id":"user-000017","page":"A"}',
    '{ "user_id" : "user-000017" }',
    '{"a":{"b":[{"user_id":"user-000017"}]}}',
    '{"user_id":"user\\u002d000017"}',
    '{"page":"A","user_id":"user-000017',
    '{"user_id":"user-000018","by":{"user_id":"user-000017"}}',
]
OF_OTHERS = [
    '{"user_id":"user-000018"}',
    '{"user_id":"user-0000170"}',
    '{"user_id":"user-00001',
    '{"user_id":null}',
    '{"friend":"user-000017"}',
    '{"text":"{\\"user_id\\":\\"user-000017\\"}"}',
    "not json",
    "",
    None,
]


@pytest.mark.parametrize("line", THEIRS)
def test_a_line_of_an_erased_subject_is_dropped(erased: ErasedSubjects, line: str) -> None:
    erased.add(KEY, COLUMNS)
    assert kept(erased, line, "{}") == ["{}"]


@pytest.mark.parametrize("line", OF_OTHERS)
def test_a_line_of_others_stays(erased: ErasedSubjects, line: str | None) -> None:
    """The negative control."""
    erased.add(KEY, COLUMNS)
    assert kept(erased, line) == [line]


def test_what_stays_keeps_its_order_and_its_row_numbers(erased: ErasedSubjects) -> None:
    erased.add(KEY, COLUMNS)
    rows = lines(*OF_OTHERS[:4], *THEIRS, *OF_OTHERS[4:])
    expected = rows.filter(~pl.col("payload").is_in(THEIRS).fill_null(value=False))
    assert_frame_equal(erased.drop(rows), expected)


def test_rows_of_a_csv_file_are_dropped_by_their_column(erased: ErasedSubjects) -> None:
    erased.add(KEY, ("user_id", "author"))
    rows = pl.DataFrame({"user_id": [KEY, OTHER, None, OTHER], "author": [OTHER, KEY, OTHER, None], "post": [KEY] * 4})
    assert_frame_equal(erased.drop(rows), rows[2:])


def test_a_key_with_quotes_blanks_and_umlauts_is_found(erased: ErasedSubjects) -> None:
    key = 'ü "2" \\ /'
    erased.add(key, COLUMNS)
    for line in (json.dumps({"user_id": key}), json.dumps({"user_id": key}, ensure_ascii=False)):
        assert kept(erased, line) == []


def test_a_number_is_the_same_in_json_and_csv(erased: ErasedSubjects) -> None:
    erased.add("17", COLUMNS)
    assert kept(erased, '{"user_id":17}', '{"user_id": 170}', '{"user_id":"17"}') == ['{"user_id": 170}']
    assert erased.drop(pl.DataFrame({"user_id": [17, 170]}))["user_id"].to_list() == [170]
