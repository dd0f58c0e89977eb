"""Contracts in YAML: what they say of a row, and what is told of those that are no contracts."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import dataframely as dy
import polars as pl
import pytest

from pattern_platform.errors import InvalidRegistryError
from pattern_platform.ingestion.registry.contract_file import load_contract, parse_contract
from pattern_platform.ingestion.registry.rows import parse_registry
from pattern_platform_tests.ingestion.onboarding import DAILY, write_registry
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

FULL = """\
description: One reading of a sensor.
columns:
  sensor: {type: text, key: true, min_length: 2, max_length: 4, pattern: "^[A-Z]+$", description: Which.}
  at: {type: timestamp, key: true, source: meta.at, description: When.}
  day: {type: date, min: 2024-05-06, max: 2024-05-07, description: On which day.}
  celsius: {type: number, min: -40, max: 60.5, unit: degrees Celsius, optional: true, description: How warm.}
  beats: {type: integer, min: 0, max: 9, description: How often.}
  ok: {type: boolean, description: Whether it was well.}
  kind: {type: category, values: [indoor, outdoor], description: Where.}
rules:
  outside_is_not_hot: kind = 'indoor' OR celsius IS NULL OR celsius < 50
"""
GOOD: dict[str, Any] = {
    "sensor": "AB",
    "at": datetime(2024, 5, 6, tzinfo=UTC),
    "day": date(2024, 5, 6),
    "celsius": 60.5,
    "beats": 9,
    "ok": True,
    "kind": "indoor",
}


def kept(contract: type[dy.Schema], **changes: object) -> int:
    row = {name: [value] for name, value in {**GOOD, **changes}.items()}
    return contract.filter(pl.DataFrame(row, schema=pl.Schema(contract)))[0].height


def test_a_contract_is_columns_limits_and_rules() -> None:
    contract = parse_contract(FULL, "contracts/sensor_readings.yaml")
    assert (contract.__name__, contract.__doc__) == ("SensorReadings", "One reading of a sensor.")
    assert pl.Schema(contract) == {
        "sensor": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "day": pl.Date,
        "celsius": pl.Float64,
        "beats": pl.Int64,
        "ok": pl.Boolean,
        "kind": pl.Enum(["indoor", "outdoor"]),
    }
    assert contract.primary_key() == ["sensor", "at"]
    columns = contract.columns()
    assert {name: column.metadata for name, column in columns.items() if column.metadata} == {
        "at": {"source": "meta.at"},
        "celsius": {"unit": "degrees Celsius"},
    }
    assert [name for name, column in columns.items() if column.nullable] == ["celsius"]
    assert columns["celsius"].description == "How warm."


BREAKS: dict[str, dict[str, object]] = {
    "too short": {"sensor": "A"},
    "too long": {"sensor": "ABCDE"},
    "another pattern": {"sensor": "ab"},
    "missing": {"ok": None},
    "too early": {"day": date(2024, 5, 5)},
    "too late": {"day": date(2024, 5, 8)},
    "too cold": {"celsius": -40.1},
    "too warm": {"celsius": 60.6},
    "too few": {"beats": -1},
    "too many": {"beats": 10},
    "rule": {"kind": "outdoor", "celsius": 50.0},
}


@pytest.mark.parametrize("changes", BREAKS.values(), ids=BREAKS)
def test_a_row_that_breaks_it_is_told_apart(changes: dict[str, object]) -> None:
    contract = parse_contract(FULL, "c.yaml")
    assert kept(contract) == 1
    assert kept(contract, **changes) == 0


@pytest.mark.parametrize("changes", [{"celsius": None}, {"celsius": -40.0}, {"day": date(2024, 5, 7)}, {"beats": 0}])
def test_limits_are_part_of_what_is_allowed(changes: dict[str, object]) -> None:
    assert kept(parse_contract(FULL, "c.yaml"), **changes) == 1


ID = "  id: {type: text, key: true, description: Number.}\n"
HEAD = "description: One sale.\ncolumns:\n" + ID
MISTAKES = {
    "type of SQL": (HEAD + "  a: {type: string, description: d}", "columns.a", "'text', 'integer', 'number'"),
    "no type": (HEAD + "  a: {description: d}", "columns.a", "type"),
    "type alone": (HEAD + "  a: text", "columns.a", "dictionary"),
    "no description": (HEAD + "  a: {type: text}", "columns.a", "description"),
    "empty description": (HEAD + "  a: {type: text, description: ''}", "columns.a", "at least 1 character"),
    "key misspelt": (HEAD + "  a: {type: text, description: d, lenght: 4}", "lenght", "there is no such key"),
    "limit of another type": (HEAD + "  a: {type: text, description: d, min: 1}", "min", "there is no such key"),
    "limit as a word": (HEAD + "  a: {type: integer, min: one, description: d}", "columns.a", "valid integer"),
    "limit with a point": (HEAD + "  a: {type: integer, min: 1.5, description: d}", "columns.a", "integer"),
    "day that is none": (HEAD + "  a: {type: date, min: 2024-13-01, description: d}", "", "month"),
    "limits swapped": (HEAD + "  a: {type: integer, min: 5, max: 1, description: d}", "columns.a", "max"),
    "lengths swapped": (HEAD + "  a: {type: text, min_length: 5, max_length: 1, description: d}", "columns.a", "max"),
    "optional key": (HEAD + "  a: {type: text, key: true, optional: true, description: d}", "columns.a", "key"),
    "pattern": (HEAD + "  a: {type: text, pattern: '[', description: d}", "columns.a", "no regular expression"),
    "look ahead": (HEAD + "  a: {type: text, pattern: '(?=x)', description: d}", "columns.a", "no regular expression"),
    "no value": (HEAD + "  a: {type: category, values: [], description: d}", "columns.a", "at least 1 item"),
    "value twice": (HEAD + "  a: {type: category, values: [x, x], description: d}", "columns.a", "there twice"),
    "truth values as words": (HEAD + "  a: {type: category, values: [yes, no], description: d}", "columns.a", "quote"),
    "name with a space": (HEAD + "  unit price: {type: number, description: d}", "columns.unit price", "pattern"),
    "column twice": (HEAD + ID, "id", "twice"),
    "columns by case": (HEAD + "  ID: {type: text, description: d}", "ID", ""),
    "no key": (HEAD.replace("key: true, ", ""), "columns", "none has `key: true`"),
    "no columns": ("description: d\ncolumns: {}", "columns", "at least 1 item"),
    "nothing": ("", "description", "columns: Field required"),
    "list": ("- description: d", "", "no mapping"),
    "section misspelt": (HEAD + "rule: {a: id > 1}", "rule", "there is no such key"),
    "rules as a list": (HEAD + "rules: [id > 'a']", "rules", "dictionary"),
    "rule that is cut off": (HEAD + "rules: {r: id >}", "rules.r", "no condition over its columns"),
    "rule over no column": (HEAD + "rules: {r: ids > 'a'}", "rules.r", 'valid columns: ["id"]'),
    "rule that is no condition": (HEAD + "rules: {r: id}", "rules.r", "is a String, not a condition"),
    "rule over all rows": (HEAD + "rules: {r: count(id) > 1}", "rules.r", "row"),
    "rule called like a column": (HEAD + "rules: {id: id > 'a'}", "rules.id", ""),
    "tab": (HEAD + "\ta: {type: text, description: d}", "", "no YAML"),
    "brace": (HEAD + "  a: {type: text, description: d", "", "no YAML"),
}


@pytest.mark.parametrize(("text", "path", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_path(text: str, path: str, told: str) -> None:
    with pytest.raises(InvalidRegistryError) as refused:
        parse_contract(text, "contracts/sales.yaml")
    assert path in refused.value.why
    assert told in refused.value.why
    assert "contracts/sales.yaml" in refused.value.what


def test_what_the_mistakes_are_made_of_is_a_contract() -> None:
    """The negative control of the test above."""
    assert parse_contract(HEAD, "c.yaml").primary_key() == ["id"]
    assert list(parse_contract(HEAD + "rules: {r: id > 'a'}", "c.yaml").columns()) == ["id"]


def test_every_mistake_is_told_at_once() -> None:
    text = HEAD + "  a: {type: txt, description: d}\n  b: {type: integer, min: x}\nrule: {}"
    with pytest.raises(InvalidRegistryError) as refused:
        parse_contract(text, "c.yaml")
    told = refused.value.why
    assert all(path in told for path in ("columns.a", "columns.b", "rule: ")), told
    assert len(told.splitlines()) == 4


@pytest.mark.parametrize("name", ["filter", "columns", "validate", "cast", "primary_key", "sample", "reasons"])
def test_a_column_may_not_be_called_like_what_a_contract_does(name: str) -> None:
    """It would be no contract any more: dataframely, or the platform, finds the column in the place of a method."""
    with pytest.raises(InvalidRegistryError) as refused:
        parse_contract(HEAD + f"  {name}: {{type: text, description: d}}", "c.yaml")
    assert name in refused.value.why


@pytest.mark.parametrize("name", ["filter", "columns", "validate"])
def test_nor_may_a_rule(name: str) -> None:
    with pytest.raises(InvalidRegistryError) as refused:
        parse_contract(HEAD + f"rules: {{{name}: id > 'a'}}", "c.yaml")
    assert name in refused.value.why


def test_a_contract_that_cannot_be_read_hides_no_other_row(tmp_path: Path) -> None:
    rows = [
        {**DAILY, "name": "first"},
        {**DAILY, "name": "latin", "contract": "contracts/latin.yaml"},
        {**DAILY, "name": "swapped", "contract": "contracts/swapped.yaml"},
        {**DAILY, "name": "folder", "contract": "contracts/folder.yaml"},
        {**DAILY, "name": "last"},
    ]
    swapped = HEAD + "  at: {type: timestamp, description: d}\n  a: {type: number, min: 5, max: 1, description: d}\n"
    path = write_registry(tmp_path, *rows, contracts={"contracts/swapped.yaml": swapped})
    (tmp_path / "contracts/latin.yaml").write_bytes(b"description: \xe9t\xe9\n")
    (tmp_path / "contracts/folder.yaml").mkdir()
    datasets, mistakes = parse_registry(path, retention_days=30)
    assert list(datasets) == ["first", "last"]
    assert [(mistake.line, mistake.column) for mistake in mistakes] == [
        (3, "contract"),
        (4, "contract"),
        (5, "contract"),
    ]


def test_text_of_all_languages_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(HEAD.replace("One sale.", "Ein Verkäufchen, 売上").encode())
    assert load_contract("c.yaml", tmp_path).__doc__ == "Ein Verkäufchen, 売上"


def test_a_contract_may_be_a_class() -> None:
    contract = load_contract("pattern_platform.visits.contract:Like", CHECKOUT)
    assert issubclass(contract, dy.Schema)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("contracts/none.yaml", "there is no file contracts/none.yaml beside the registry"),
        ("shop.contract:Sale", "cannot be imported"),
        ("pattern_platform.visits.contract:Liked", "cannot be imported"),
        ("pattern_platform.visits.contract", "cannot be imported"),
        ("pathlib:Path", "no dataframely.Schema"),
        (".:x", "cannot be imported"),
    ],
)
def test_a_reference_that_leads_nowhere_says_what_to_write(tmp_path: Path, reference: str, told: str) -> None:
    with pytest.raises(InvalidRegistryError, match=told.replace(".", r"\.")):
        load_contract(reference, tmp_path)


def test_the_committed_contract_is_one() -> None:
    contract = load_contract("contracts/comments.yaml", CHECKOUT / "data")
    assert contract.primary_key() == ["comment_id"]
