"""Two versions of a contract: what is different, and whether readers and stored rows can live with it."""

from __future__ import annotations

import polars as pl
import pytest

from pattern_platform.ingestion.registry.contract_diff import contract_diff, schema_diff
from pattern_platform.ingestion.registry.contract_file import parse_contract

BASE = """\
description: One sale.
columns:
  id: {type: text, key: true, description: Number of the sale.}
  euros: {type: number, min: 0, unit: euros, description: What was paid.}
  note: {type: text, optional: true, max_length: 9, description: A remark.}
  kind: {type: category, values: [shop, web], description: Where.}
rules:
  web_is_paid: kind = 'shop' OR euros > 0
"""
# What is replaced in the contract, by what, the difference that is told, and whether it is compatible.
CHANGES = {
    "new optional column": ("rules:", "  a: {type: date, optional: true, description: d}\nrules:", "+ a: Date", True),
    "new required column": ("rules:", "  a: {type: date, description: d}\nrules:", "+ a: Date", False),
    "column removed": (
        "  note: {type: text, optional: true, max_length: 9, description: A remark.}\n",
        "",
        "- note",
        False,
    ),
    "another type": ("euros: {type: number", "euros: {type: integer", "~ euros: Float64 -> Int64", False),
    "required": ("optional: true, max", "max", "~ note: optional -> required", False),
    "optional": ("unit: euros", "optional: true, unit: euros", "~ euros: required -> optional", False),
    "unit": ("unit: euros", "unit: cents", "~ euros: unit euros -> cents", False),
    "unit at last": ("unit: euros, ", "", "~ euros: unit euros -> None", False),
    "limit tightened": ("min: 0", "min: 1", "~ euros: min 0.0 -> 1.0", False),
    "limit dropped": ("min: 0, ", "", "~ euros: min 0.0 -> None", False),
    "length": ("max_length: 9", "max_length: 99", "~ note: max_length 9 -> 99", False),
    "key": ("note: {type: text, optional: true", "note: {type: text, key: true", "~ note: part of the key", False),
    "source": ("unit: euros", "source: paid.euros, unit: euros", "~ euros: taken from euros -> paid.euros", True),
    "description": ("A remark.", "What was said.", "~ note: another description", True),
    "rule changed": ("euros > 0", "euros > 1", "~ rule web_is_paid", False),
    "rule removed": ("rules:\n  web_is_paid: kind = 'shop' OR euros > 0\n", "", "- rule web_is_paid", False),
    "rule added": ("rules:\n", "rules:\n  cheap: euros < 9\n", "+ rule cheap", False),
    "value added": ("[shop, web]", "[shop, web, phone]", "~ kind: Enum", False),
    "value removed": ("[shop, web]", "[shop]", "~ kind: Enum", False),
}


@pytest.mark.parametrize(("was", "instead", "told", "compatible"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_told_with_whom_it_breaks(was: str, instead: str, told: str, *, compatible: bool) -> None:
    assert was in BASE
    found = contract_diff(parse_contract(BASE, "old.yaml"), parse_contract(BASE.replace(was, instead), "new.yaml"))
    matching = [difference for difference in found if difference.what.startswith(told)]
    assert len(matching) == 1, found
    assert matching[0].is_compatible is compatible
    assert bool(matching[0].why) is not compatible
    others = [difference for difference in found if difference not in matching]
    assert all(not difference.is_compatible for difference in others), "a change brings no other that hides it"


def test_a_contract_is_itself() -> None:
    """The negative control: what is not changed is not told, whatever the file is called."""
    assert contract_diff(parse_contract(BASE, "a.yaml"), parse_contract(BASE, "b.yaml")) == []


def test_the_order_of_columns_is_no_difference() -> None:
    lines = BASE.splitlines(keepends=True)
    swapped = "".join([*lines[:2], lines[3], lines[2], *lines[4:]])
    assert contract_diff(parse_contract(BASE, "a.yaml"), parse_contract(swapped, "b.yaml")) == []


def test_differences_come_in_the_order_of_the_columns_and_rules_last() -> None:
    new = BASE.replace("min: 0", "min: 1").replace("What was paid.", "Paid.").replace("euros > 0", "euros > 2")
    new = new.replace("rules:", "  a: {type: text, optional: true, description: d}\nrules:").replace("Number", "No.")
    found = [d.what for d in contract_diff(parse_contract(BASE, "a.yaml"), parse_contract(new, "b.yaml"))]
    assert [what[:9] for what in found] == ["~ id: ano", "~ euros: ", "~ euros: ", "+ a: Stri", "~ rule we"]


def test_a_renamed_column_is_one_that_is_lost_and_one_that_is_new() -> None:
    new = parse_contract(BASE.replace("euros:", "price:").replace("euros >", "price >"), "b.yaml")
    told = [difference.what for difference in contract_diff(parse_contract(BASE, "a.yaml"), new)]
    assert told[:2] == ["- euros", "+ price: Float64"]


def test_tables_are_compared_by_their_columns() -> None:
    old = {"id": pl.String(), "euros": pl.Float64(), "gone": pl.Date()}
    new = {"id": pl.String(), "euros": pl.Int64(), "note": pl.String()}
    assert [(d.what, d.is_compatible) for d in schema_diff(old, new)] == [
        ("- gone: Date", False),
        ("~ euros: Float64 -> Int64", False),
        ("+ note: String", True),
    ]
    assert schema_diff(old, old) == []


def test_a_zone_and_a_precision_are_part_of_a_type() -> None:
    found = schema_diff({"at": pl.Datetime("us", "UTC")}, {"at": pl.Datetime("us")})
    assert len(found) == 1
    assert not found[0].is_compatible
