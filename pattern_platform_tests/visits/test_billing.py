"""What advertisers pay: two tables that always agree, and a ledger that never changes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from deltalake import DeltaTable

from pattern_platform.visits import assets as visits
from pattern_platform.visits import billing as module
from pattern_platform.visits.billing import CENTS_PER_IMPRESSION, CHECKS, ad_impressions, adds_up, billing
from pattern_platform_tests.platform import errors, told
from pattern_platform_tests.visits.blog import MONDAY, TUESDAY, both_days, clean, copied, correct, run

if TYPE_CHECKING:
    from pathlib import Path

    from pattern_platform_tests.platform import Platform

PARTS = (visits, module)
BILL = "billing.warehouse.billing"
BOTH = [billing.key, ad_impressions.key]
Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def _billed(tmp_path_factory: pytest.TempPathFactory, _ingested: Path) -> Path:
    return both_days(_ingested, tmp_path_factory.mktemp("billed"), PARTS, BOTH)


@pytest.fixture
def billed(tmp_path: Path, _billed: Path) -> Platform:
    """Both days were billed, each in a run of its own."""
    return copied(_billed, tmp_path, PARTS)


def expected(blog: Platform, day: str | None = None) -> Rows:
    """Visit, ad, day and price of each impression."""
    shown = [row for row in clean(blog, day) if row["ad_id"] is not None]
    return sorted((row["visit_id"], row["ad_id"], row["append_time"].date(), CENTS_PER_IMPRESSION) for row in shown)


def totals_of(impressions: Rows) -> Rows:
    counted = Counter((day, ad) for _, ad, day, _ in impressions)
    return sorted((day, ad, n, n * CENTS_PER_IMPRESSION) for (day, ad), n in counted.items())


def bill_less(blog: Platform) -> None:
    """A correction of Monday: an hour in which ads were shown never was."""
    hour = next(row["append_time"].hour for row in clean(blog, MONDAY) if row["ad_id"])
    correct(blog, MONDAY, hour, lambda _: [])


def impressions(blog: Platform) -> Rows:
    return blog.sql("billing", f"FROM {BILL}__impressions SELECT visit_id, ad_id, day, cents ORDER BY ALL").rows()


def totals(blog: Platform) -> Rows:
    return blog.sql("billing", f"FROM {BILL}__totals SELECT day, ad_id, impressions, cents ORDER BY ALL").rows()


def ledger(blog: Platform) -> Rows:
    table = DeltaTable(blog.lake / "ledger/ad_impressions").to_pyarrow_table()
    return sorted(zip(*(table[column].to_pylist() for column in ("visit_id", "ad_id", "day", "cents")), strict=True))


def version(blog: Platform) -> int:
    return DeltaTable(blog.lake / "ledger/ad_impressions").version()


def test_what_is_billed_is_what_was_shown(billed: Platform) -> None:
    assert len(expected(billed)) > 50
    assert impressions(billed) == ledger(billed) == expected(billed)
    assert totals(billed) == totals_of(expected(billed))
    assert {ad for _, ad, *_ in impressions(billed)} == {"ad 1", "ad 2", "ad 3", "ad 4"}


def test_everything_twice(billed: Platform) -> None:
    """X-2: row by row the same, and no version of the ledger more."""
    before = impressions(billed), totals(billed), ledger(billed), version(billed)
    for day in (TUESDAY, MONDAY):
        result = run(billed, BOTH, day)
        assert told(result, ad_impressions.key)["delta/skipped_partitions"] == [day]
    assert (impressions(billed), totals(billed), ledger(billed), version(billed)) == before


def test_a_correction_changes_the_bill_and_not_the_ledger(billed: Platform) -> None:
    before = ledger(billed)
    bill_less(billed)
    result = run(billed, BOTH, MONDAY)
    assert told(result, ad_impressions.key)["delta/skipped_partitions"] == [MONDAY]
    assert impressions(billed) == expected(billed) != before
    assert totals(billed) == totals_of(expected(billed))
    assert ledger(billed) == before


def test_a_first_run_skips_nothing(blog: Platform) -> None:
    """The negative control of what is skipped."""
    result = run(blog, BOTH, MONDAY)
    assert told(result, ad_impressions.key)["delta/skipped_partitions"] == []
    assert ledger(blog) == expected(blog, MONDAY)


def test_a_price_of_nothing_breaks_a_rule_and_changes_neither_table(
    billed: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = impressions(billed), totals(billed), ledger(billed)
    bill_less(billed)
    with monkeypatch.context() as patch:
        patch.setattr(module, "CENTS_PER_IMPRESSION", 0)
        result = billed.run(BOTH, MONDAY)
    assert not result.success
    (error,) = errors(result)
    assert error.startswith("BrokenRuleError")
    assert "cents > 0" in error
    assert (impressions(billed), totals(billed), ledger(billed)) == before
    run(billed, BOTH, MONDAY)
    assert totals(billed) == totals_of(impressions(billed)) == totals_of(expected(billed))


def test_totals_that_break_a_rule_take_the_impressions_back(billed: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second table refuses what the first has taken already: a total is there twice."""
    before = impressions(billed), totals(billed)
    bill_less(billed)
    real = module.pl.LazyFrame.sort
    with monkeypatch.context() as patch:
        patch.setattr(
            module.pl.LazyFrame,
            "sort",
            lambda frame, *by, **how: (
                module.pl.concat([real(frame, *by, **how)] * 2) if by == ("ad_id",) else real(frame, *by, **how)
            ),
        )
        result = billed.run(BOTH, MONDAY)
    (error,) = errors(result)
    assert error.startswith("BrokenRuleError")
    assert "billing__totals" in error
    assert (impressions(billed), totals(billed)) == before


@pytest.mark.parametrize("table", ["impressions", "totals"])
def test_tables_that_do_not_agree_are_found(blog: Platform, table: str) -> None:
    """The negative control of the check, which holds back what comes after it."""
    run(blog, [billing.key], MONDAY)
    assert blog.evaluate(adds_up, MONDAY).passed
    blog.execute("billing", f"DELETE FROM {BILL}__{table} WHERE ad_id = 'ad 1'")  # noqa: S608
    evaluation = blog.evaluate(adds_up, MONDAY)
    assert not evaluation.passed
    assert evaluation.metadata["stated"] != evaluation.metadata["counted"]


def test_the_days_of_the_ledger_hold_a_visit_once(billed: Platform) -> None:
    _, unique = CHECKS
    assert billed.evaluate(unique, MONDAY).passed
    assert len({row[0] for row in ledger(billed)}) == len(ledger(billed))
