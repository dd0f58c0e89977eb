"""Retention: personal columns and fields of raw lines are blanked, in every version, and nothing else changes."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from pattern_platform import read_version_table
from pattern_platform.errors import InvalidErasureError, MissingTableError, UnsupportedTableError
from pattern_platform.lake import rewrite_table as rewrite_module
from pattern_platform.lake.immutable import write_once
from pattern_platform.lake.json_texts import changed_fields
from pattern_platform.lake.log import commit_path
from pattern_platform.lake.retention import blank_columns
from pattern_platform.lake.rewrite_history import RewrittenHistory
from pattern_platform_tests.lake.tables import Table, contents
from pattern_platform_tests.patterns.idempotency.merging import day, keyed, stateful

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

OLD, NEW = dt.date(2024, 1, 1), dt.date(2024, 3, 1)
PAST = pl.col("day") < dt.date(2024, 2, 1)
ADDRESS = "192.0.2.1"


def visits(*days: dt.date | None, ip: str | None = ADDRESS) -> pl.DataFrame:
    line = json.dumps({"user": {"ip": ip, "n": 1}, "page": "é"}, ensure_ascii=False)
    return pl.DataFrame(
        {"day": pl.Series(days, dtype=pl.Date), "ip": [ip] * len(days), "payload": [line] * len(days)},
        schema_overrides={"ip": pl.String},
    )


def blank(table: Path, columns: Sequence[str] = ("ip",), rows: pl.Expr = PAST, **fields: Any) -> Any:
    return blank_columns(table, columns, rows, fields, metadata={"run_id": "r"})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """An old file, one that is astride, a new one; the old one is in version 0 alone, as an overwrite left it."""
    path = tmp_path / "visits"
    write_deltalake(path, visits(OLD, OLD))
    write_deltalake(path, visits(OLD), mode="overwrite")
    write_deltalake(path, visits(OLD, NEW, None), mode="append")
    write_deltalake(path, visits(NEW), mode="append")
    return path


def rows(table: Path, version: int | None = None) -> list[tuple[Any, ...]]:
    frame = pl.DataFrame(DeltaTable(table, version=version).to_pyarrow_table())
    return frame.select("day", "ip", "payload").rows()


def blanked(lines: Sequence[tuple[Any, ...]], payload: str | None = None) -> list[tuple[Any, ...]]:
    """The rows as they shall be, on paper."""
    return [(d, None, payload or p) if d == OLD else (d, i, p) for d, i, p in lines]


def test_columns_of_old_rows_are_null_and_nothing_else_changes(table: Path) -> None:
    before = {version: rows(table, version) for version in range(4)}
    untouched = {path for path in table.glob("*.parquet") if pl.read_parquet(path)["day"].to_list() == [NEW]}
    kept = {path: path.read_bytes() for path in untouched}
    made = blank(table)
    assert made.version == 4
    assert made.change_set.rows == {"rewritten": 2}
    assert made.change_set.remove.height == 2
    for version, lines in before.items():
        assert sorted(rows(table, version), key=str) == sorted(blanked(lines), key=str)
    assert sorted(rows(table), key=str) == sorted(blanked(before[3]), key=str)
    assert {path: path.read_bytes() for path in untouched} == kept
    assert len(kept) == 1
    assert DeltaTable(table).history(1)[0]["pattern_platform.phase"] == "retention"


def test_nothing_is_left_on_disk_or_in_the_log(tmp_path: Path) -> None:
    table = tmp_path / "visits"
    write_deltalake(table, visits(OLD))
    write_deltalake(table, visits(OLD), mode="overwrite")
    DeltaTable(table).vacuum(0, enforce_retention_duration=False, dry_run=False)
    DeltaTable(table).create_checkpoint()
    blank(table, payload=["user.ip"])
    assert not [path for path in table.rglob("*.json") if ADDRESS in path.read_text()]
    for path in table.rglob("*.parquet"):
        assert ADDRESS not in str(
            pl.read_parquet(path, glob=False).to_dicts() if "_delta_log" not in path.parts else ""
        )
    checkpoint = DeltaTable(table, version=1)
    assert ADDRESS not in str(pl.DataFrame(checkpoint.get_add_actions(flatten=True)).to_dicts())


def test_a_second_night_writes_nothing(table: Path) -> None:
    blank(table, payload=["user.ip"])
    before = contents(table)
    assert blank(table, payload=["user.ip"]) is None
    assert contents(table) == before


def test_a_row_that_grows_old_is_blanked_the_next_night(table: Path) -> None:
    blank(table)
    assert blank(table, rows=PAST | (pl.col("day") == NEW)).change_set.rows == {"rewritten": 2}
    assert {ip for day, ip, _ in rows(table) if day} == {None}
    assert [ip for day, ip, _ in rows(table) if day is None] == [ADDRESS]


def test_fields_of_raw_lines_are_removed_and_the_others_stay(table: Path) -> None:
    blank(table, (), payload=["user.ip"])
    for when, ip, line in rows(table):
        expected = {"user": {"n": 1}, "page": "é"} if when == OLD else {"user": {"ip": ADDRESS, "n": 1}, "page": "é"}
        assert json.loads(line) == expected
        assert ip == ADDRESS


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param('{"ip": "x"}', "{}", id="field"),
        pytest.param('{"ip": null, "a": 1}', '{"a": 1}', id="null"),
        pytest.param('{"a":1,  "b":"ip"}', '{"a":1,  "b":"ip"}', id="another's value: not written anew"),
        pytest.param('[{"ip": 1}, {"ip": 2, "b": 1}]', '[{}, {"b": 1}]', id="list"),
        pytest.param('{"hops": [{"ip": 1, "c": 2}], "x": 1}', '{"hops": [{"c": 2}], "x": 1}', id="path through a list"),
        pytest.param('{"\\u0069p": "x", "a": 1}', '{"a": 1}', id="escaped name"),
        pytest.param('{"a": 1, "ip": "192.0', "{}", id="cut line"),
        pytest.param("host=a ip=192.0.2.1", "{}", id="no JSON"),
        pytest.param("a tip on a trip", "a tip on a trip", id="no JSON, no such word"),
        pytest.param('"ip"', '"ip"', id="a JSON text"),
        pytest.param('{"ip": 1, "a": "\\ud800é"}', '{"a": "\\ud800\\u00e9"}', id="half a character"),
        pytest.param(None, None, id="no line"),
    ],
)
def test_lines_of_any_kind(tmp_path: Path, line: str | None, expected: str | None) -> None:
    table = tmp_path / "raw"
    write_deltalake(table, pl.DataFrame({"day": [OLD], "payload": pl.Series([line], dtype=pl.String)}))
    blank(table, (), payload=["ip", "hops.ip"])
    assert DeltaTable(table).to_pyarrow_table()["payload"].to_pylist() == [expected]
    assert blank(table, (), payload=["ip", "hops.ip"]) is None


values = st.recursive(
    st.integers() | st.text(max_size=3) | st.none() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)


def without(value: Any, path: Sequence[str]) -> Any:
    """A JSON value without a field, on paper."""
    if isinstance(value, list):
        return [without(element, path) for element in value]
    if not isinstance(value, dict):
        return value
    if len(path) == 1 or not isinstance(value.get(path[0]), dict | list):  # what should hold it goes as a whole
        return {name: field for name, field in value.items() if name != path[0]}
    return {name: without(field, path[1:]) if name == path[0] else field for name, field in value.items()}


@given(values)
def test_any_json_value_loses_the_field_alone(value: Any) -> None:
    assert json.loads(changed_fields(json.dumps(value), (("a", "b"), ("b",)))) == without(without(value, "ab"), "b")


def test_versions_of_partitions_stay_and_a_replay_brings_nothing_back(tmp_path: Path) -> None:
    table: Table = stateful(tmp_path)
    for number, key in enumerate("abc", start=5):
        table.write(keyed(**{key: number}), day(number))
    recorded = read_version_table(str(table.path))
    blank(table.path, ("v",), pl.col("k") == "a")
    assert read_version_table(str(table.path)).equals(recorded)
    table.write(keyed(b=9), day(6))
    assert dict(table.rows().select("k", "v").rows()) == {"a": None, "b": 9}


def test_a_table_that_is_written_once_is_blanked_in_place(tmp_path: Path) -> None:
    write_once(visits(OLD, NEW).lazy(), tmp_path / "1", metadata={})
    assert blank(tmp_path / "1") is None
    assert [ip for _, ip, _ in rows(tmp_path / "1")] == [None, ADDRESS]
    assert DeltaTable(tmp_path / "1").version() == 0


def test_the_condition_may_ask_for_a_physical_partition(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", visits(OLD, NEW), partition_by=["day"])
    write_deltalake(tmp_path / "t", visits(OLD, NEW), partition_by=["day"], mode="overwrite")
    blank(tmp_path / "t")
    for version in (0, 1, 2):
        assert {when: ip for when, ip, _ in rows(tmp_path / "t", version)} == {OLD: None, NEW: ADDRESS}


def test_a_file_from_before_a_column_was_added_has_nothing_to_blank(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", visits(OLD).drop("ip"))
    write_deltalake(tmp_path / "t", visits(OLD), mode="append", schema_mode="merge")
    assert blank(tmp_path / "t").change_set.rows == {"rewritten": 1}
    assert {ip for _, ip, _ in rows(tmp_path / "t")} == {None}


def test_without_the_rewrite_of_history_an_older_version_tells(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = RewrittenHistory(rows=0, files=frozenset(), log_files=0)
    monkeypatch.setattr(rewrite_module, "rewrite_history", lambda *_, **__: nothing)
    blank(table)
    assert {ip for _, ip, _ in rows(table, 0)} == {ADDRESS}


# Refusals -----------------------------------------------------------------------------------------------------------


def _required(table: Path) -> None:
    schema = json.loads(DeltaTable(table).schema().to_json())
    for field in schema["fields"]:
        field["nullable"] = field["name"] != "ip"
    lines = [json.loads(line) for line in commit_path(table, 0).read_text().splitlines()]
    for line in lines:
        if "metaData" in line:
            line["metaData"]["schemaString"] = json.dumps(schema)
    commit_path(table, 0).write_text("\n".join(map(json.dumps, lines)) + "\n")


def _constrained(table: Path) -> None:
    DeltaTable(table).alter.add_constraint({"d": "day is not null"})


REFUSALS: dict[str, tuple[Mapping[str, Any], str]] = {
    "no column": ({"columns": ()}, "name what is personal"),
    "an unknown column": ({"columns": ("ipp",)}, "name some of 'day', 'ip', 'payload'"),
    "an unknown text": ({"columns": (), "payloads": ["ip"]}, "name some of"),
    "a text without fields": ({"payload": []}, "name what is personal"),
    "a field without a name": ({"payload": ["user..ip"]}, "name what is personal"),
    "an empty field": ({"payload": [""]}, "name what is personal"),
    "fields of a date": ({"columns": (), "day": ["ip"]}, "blank it as a whole"),
    "both": ({"columns": ("payload",), "payload": ["ip"]}, "declare one of the two"),
    "a condition on nothing": ({"rows": pl.col("moment") < 1}, "pl.col("),
    "no condition": ({"rows": pl.col("day")}, "pl.col("),
    "a condition of another type": ({"rows": pl.col("day") < "x"}, "pl.col("),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_blanked_is_refused_untouched(tmp_path: Path, name: str) -> None:
    write_deltalake(tmp_path / "t", visits(OLD))
    before = contents(tmp_path)
    given, mend = REFUSALS[name]
    with pytest.raises(InvalidErasureError) as caught:
        blank(tmp_path / "t", **given)
    assert mend in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("spoil", "error", "mend"),
    [
        (_required, InvalidErasureError, "make the column nullable"),
        (_constrained, UnsupportedTableError, "write it with the engine that made it"),
    ],
)
def test_tables_that_cannot_be_blanked_are_refused(
    tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception], mend: str
) -> None:
    write_deltalake(tmp_path / "t", visits(OLD))
    spoil(tmp_path / "t")
    with pytest.raises(error, match=mend):
        blank(tmp_path / "t")


def test_a_physical_partition_cannot_be_blanked(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", visits(OLD), partition_by=["ip"])
    with pytest.raises(InvalidErasureError, match="names of folders"):
        blank(tmp_path / "t")


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingTableError, match="give the folder of a table"):
        blank(tmp_path / "t")
