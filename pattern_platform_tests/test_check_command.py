"""`pattern-platform check`: which exit code, what JUnit XML says of it, and what is refused before anything runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from junitparser import JUnitXml
from typer.testing import CliRunner

from pattern_platform.cli import app
from pattern_platform_tests.test_structure import CHECKOUT

if TYPE_CHECKING:
    from click.testing import Result
    from junitparser import TestCase

SHOP = """
import os
import warnings
from pathlib import Path

import dagster as dg

warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)
DAYS = dg.DailyPartitionsDefinition("2024-05-06", end_date="2024-05-11")
HOURS = dg.HourlyPartitionsDefinition("2024-05-06-00:00", end_date="2024-05-07-00:00")
COUNTRIES_AND_SIZES = dg.MultiPartitionsDefinition(
    {"country": dg.StaticPartitionsDefinition(["fr", "pl"]), "size": dg.StaticPartitionsDefinition(["s", "l"])}
)
CUSTOMERS = dg.DynamicPartitionsDefinition(name="customers")
PASSED, WRONG = dg.AssetCheckResult(passed=True), dg.AssetCheckResult(passed=False, metadata={"rows": 3})


def noted(text):
    with Path(os.environ["SHOP_NOTES"]).open("a") as notes:
        notes.write(text + "\\n")


def checked(asset, name, result, **options):
    @dg.asset_check(asset=asset, name=name, **options)
    def check() -> dg.AssetCheckResult:
        return result

    return check


@dg.asset(key=["raw", "orders"], partitions_def=DAYS)
def orders(context) -> int:
    noted(f"orders {context.partition_key}")
    if context.partition_key == "2024-05-10":
        raise ValueError("no\\x1b[31m orders")
    return 7


@dg.asset_check(asset=orders, partitions_def=DAYS)
def is_seven(context, orders: int) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=context.partition_key != "2024-05-09" and orders == 7, metadata={"rows": orders})


@dg.asset(key=["clean", "orders"], partitions_def=DAYS, ins={"raw": dg.AssetIn(["raw", "orders"])})
def clean_orders(raw: int) -> int:
    return raw


@dg.asset(
    partitions_def=DAYS, deps=[clean_orders], backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=2)
)
def totals(context) -> None:
    noted(f"totals {len(context.partition_keys)}")


@dg.asset(partitions_def=HOURS)
def clicks() -> None: ...


@dg.asset(partitions_def=COUNTRIES_AND_SIZES)
def stock(context) -> None:
    noted(f"stock {context.partition_key.keys_by_dimension['country']}")


@dg.asset(partitions_def=CUSTOMERS)
def letters() -> None: ...


@dg.asset(key=["figures", "right"], group_name="figures")
def right() -> int:
    noted("right")
    return 1


@dg.asset(key=["figures", "wrong"], group_name="bad")
def wrong() -> int:
    return 1


@dg.asset(deps=[wrong], group_name="bad")
def after_wrong() -> None: ...


@dg.asset
def doubtful() -> None: ...


@dg.asset
def untold() -> None: ...


@dg.asset_check(asset=untold)
def forgets_to_return():
    return True


@dg.asset
def gated() -> None: ...


@dg.asset(deps=[gated])
def behind_the_gate() -> None: ...


@dg.asset(output_required=False)
def maybe():
    if False:
        yield dg.Output(1)


class Payment(dg.Config):
    currency: str


@dg.asset
def payments(config: Payment) -> None: ...


@dg.op
def first_step() -> int:
    return 1


@dg.op
def second_step(before: int) -> int:
    raise ValueError("the second step")


@dg.graph_asset
def in_steps() -> int:
    return second_step(first_step())


@dg.resource
def store(_context):
    raise ValueError("the store is down")


@dg.asset(required_resource_keys={"store"})
def stored() -> None: ...


@dg.resource(config_schema={"server": dg.StringSource})
def mail(_context): ...


@dg.asset(required_resource_keys={"mail"})
def mailed() -> None: ...


@dg.multi_asset(specs=[dg.AssetSpec("head"), dg.AssetSpec("tail")])
def coin():
    yield dg.MaterializeResult("head")
    raise ValueError("half way")


@dg.asset(check_specs=[dg.AssetCheckSpec("as_it_is_made", asset="self_checked")])
def self_checked() -> dg.MaterializeResult:
    return dg.MaterializeResult(check_results=[PASSED])


defs = dg.Definitions(
    resources={"store": store, "mail": mail.configured({"server": {"env": "SHOP_MAIL_SERVER"}})},
    assets=[
        *(orders, clean_orders, totals, clicks, stock, letters, right, wrong, after_wrong, doubtful, untold, gated),
        *(behind_the_gate, maybe, payments, in_steps, stored, mailed, coin, self_checked, dg.AssetSpec("theirs")),
    ],
    asset_checks=[
        is_seven,
        forgets_to_return,
        checked(right, "is_right", PASSED),
        checked(wrong, "is_right", WRONG),
        checked(doubtful, "looks_right", WRONG._replace(severity=dg.AssetCheckSeverity.WARN)),
        checked(gated, "lets_through", WRONG, blocking=True),
        checked(behind_the_gate, "is_right", PASSED),
        checked("theirs", "is_right", PASSED),
        checked(stock, "whole_table", PASSED),
        checked(stored, "is_right", PASSED),
        checked(self_checked, "beside_it", PASSED),
    ],
)
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module `shop`, where the command is run; there is no instance."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("shop", "stall", "torn"):  # those of another test
        sys.modules.pop(module, None)
    monkeypatch.setenv("SHOP_NOTES", str(tmp_path / "notes.txt"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return tmp_path


def ran(*arguments: str, module: str | None = "shop") -> Result:
    """Run the command in this process."""
    modules = () if module is None else ("--module", module)
    return CliRunner().invoke(app, ["check", *modules, *arguments], env={"COLUMNS": "250"})


def checked(*select: str, exit_code: int, options: tuple[str, ...] = ()) -> dict[str, TestCase]:
    """Run the command, and read its JUnit XML, which must agree with the exit code: cases by asset and name."""
    file = Path("reports/checks.xml")
    result = ran(*(text for one in select for text in ("--select", one)), *options, "--junit-xml", str(file))
    assert result.exit_code == exit_code, result.output
    document = JUnitXml.fromfile(str(file))
    assert bool(document.failures + document.errors) == bool(exit_code)
    cases = [case for suite in document for case in suite]
    found = {f"{case.classname} {case.name}": case for case in cases}
    assert len(found) == len(cases), "a result hides another"
    return found


def said(result: Result) -> str:
    return " ".join(result.output.split())


def kinds(case: TestCase) -> list[str]:
    return [type(result).__name__ for result in case.result]


# What the exit code tells ---------------------------------------------------------------------------------------------


def test_checks_that_pass_end_well() -> None:
    cases = checked("figures/right", exit_code=0)
    assert [*cases] == ["figures/right materialization", "figures/right is_right"]
    assert not any(kinds(case) for case in cases.values())


def test_a_failing_check_that_blocks_nothing_ends_badly() -> None:
    cases = checked("figures/wrong", "after_wrong", exit_code=1)
    (failure,) = cases["figures/wrong is_right"].result
    assert (type(failure).__name__, failure.type, failure.message) == ("Failure", "ERROR", "rows=3")
    assert not kinds(cases["after_wrong materialization"])


def test_dagster_itself_ends_well_on_a_failing_check_that_blocks_nothing(shop: Path) -> None:
    """Why the command exists; when this fails, Dagster has learnt it."""
    (shop / "home").mkdir()
    command = [Path(sys.executable).with_name("dg"), "launch", "--assets", "figures/wrong", "-m", "shop"]
    config = '{"execution": {"config": {"in_process": {}}}}'
    launched = subprocess.run(
        [*command, "--config-json", config],
        env={**os.environ, "DAGSTER_HOME": str(shop / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Asset check 'is_right' on 'figures/wrong' did not pass" in launched.stdout + launched.stderr
    assert launched.returncode == 0


def test_a_warning_ends_well_and_is_told() -> None:
    cases = checked("doubtful", exit_code=0)
    assert cases["doubtful looks_right"].system_out == "WARN: rows=3"
    assert not kinds(cases["doubtful looks_right"])
    assert "warned" in ran("--select", "doubtful").output


def test_a_check_that_returned_no_result_ends_badly() -> None:
    """Dagster takes it for a step that succeeded."""
    cases = checked("untold", exit_code=1)
    assert kinds(cases["untold forgets_to_return"]) == ["Error"]
    assert "returns an AssetCheckResult" in cases["untold forgets_to_return"].result[0].message


def test_behind_a_blocking_check_nothing_is_made_and_nothing_is_passed() -> None:
    cases = checked("gated+", exit_code=1)
    assert kinds(cases["gated lets_through"]) == ["Failure"]
    assert kinds(cases["behind_the_gate materialization"]) == ["Skipped"]
    assert kinds(cases["behind_the_gate is_right"]) == ["Error"]


def test_an_asset_that_fails_says_why_and_its_checks_are_not_executed() -> None:
    cases = checked('key:"raw/orders"+', exit_code=1, options=("--partition", "2024-05-10"))
    (error,) = cases["raw/orders materialization[2024-05-10]"].result
    assert error.message == "ValueError: no [31m orders"  # without what a terminal would obey
    assert kinds(cases["raw/orders is_seven[2024-05-10]"]) == ["Error"]
    assert kinds(cases["clean/orders materialization[2024-05-10]"]) == ["Skipped"]


def test_a_step_of_an_asset_that_fails_ends_badly() -> None:
    cases = checked("in_steps", exit_code=1)
    assert cases["in_steps materialization"].result[0].message == "ValueError: the second step"


def test_a_run_that_fails_before_its_first_step_ends_badly() -> None:
    cases = checked("stored", exit_code=1)
    assert cases["stored materialization"].result[0].message == "ValueError: the store is down"
    assert kinds(cases["stored is_right"]) == ["Error"]


def test_what_is_made_together_fails_together() -> None:
    """A step that fails after the first of its assets is no success of that asset."""
    cases = checked("head", "tail", exit_code=1)
    assert {name: kinds(case) for name, case in cases.items()} == {
        "head materialization": ["Error"],
        "tail materialization": ["Error"],
    }


def test_an_asset_that_made_nothing_is_skipped_and_ends_well() -> None:
    assert kinds(checked("maybe", exit_code=0)["maybe materialization"]) == ["Skipped"]


# What is run ----------------------------------------------------------------------------------------------------------


def test_a_range_runs_each_partition_and_one_that_fails_stops_no_other(shop: Path) -> None:
    options = ("--from", "2024-05-08", "--to", "2024-05-10")
    cases = checked("raw/orders", exit_code=1, options=options)
    days = ("2024-05-08", "2024-05-09", "2024-05-10")
    found = {day: kinds(cases[f"raw/orders is_seven[{day}]"]) for day in days}
    assert found == dict(zip(days, ([], ["Failure"], ["Error"]), strict=True))
    assert (shop / "notes.txt").read_text().split() == [word for day in days for word in ("orders", day)]


def test_a_range_takes_as_many_partitions_in_a_run_as_the_asset_allows(shop: Path) -> None:
    cases = checked("totals", exit_code=0, options=("--from", "2024-05-06", "--to", "2024-05-08"))
    assert (shop / "notes.txt").read_text().splitlines() == ["totals 2", "totals 1"]
    assert [*cases] == [f"totals materialization[2024-05-0{day}]" for day in (6, 7, 8)]


def test_a_partition_of_several_dimensions_is_given_as_the_ui_shows_it(shop: Path) -> None:
    cases = checked("stock", exit_code=0, options=("--partition", "pl|s"))
    assert (shop / "notes.txt").read_text() == "stock pl\n"
    assert {*cases} == {"stock materialization[pl|s]", "stock whole_table[pl|s]"}


def test_only_checks_reads_what_was_stored(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop / "home").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(shop / "home"))
    options = ("--partition", "2024-05-06")
    checked("raw/orders", exit_code=0, options=options)
    cases = checked("raw/orders", exit_code=0, options=(*options, "--only-checks"))
    assert [*cases] == ["raw/orders is_seven[2024-05-06]"]
    assert (shop / "notes.txt").read_text() == "orders 2024-05-06\n"


def test_only_checks_of_what_was_never_stored_ends_badly() -> None:
    """The negative control: nothing is materialized behind one's back."""
    cases = checked("raw/orders", exit_code=1, options=("--partition", "2024-05-06", "--only-checks"))
    assert kinds(cases["raw/orders is_seven[2024-05-06]"]) == ["Error"]


def test_only_checks_says_of_a_check_that_its_asset_alone_evaluates_it() -> None:
    cases = checked("self_checked", exit_code=0, options=("--only-checks",))
    assert {name: kinds(case) for name, case in cases.items()} == {
        "self_checked as_it_is_made": ["Skipped"],
        "self_checked beside_it": [],
    }
    assert not kinds(checked("self_checked", exit_code=0)["self_checked as_it_is_made"])


def test_checks_of_what_others_make_are_run() -> None:
    assert [*checked("theirs", exit_code=0)] == ["theirs is_right"]


def test_dagsters_selection_syntax_is_understood() -> None:
    figures = checked("group:figures", exit_code=0)
    assert [*checked('key:"figures/*" and not group:bad', exit_code=0)] == [*figures]
    both = checked("group:figures", "doubtful", exit_code=0)
    assert {case.split()[0] for case in both} == {"figures/right", "doubtful"}


def test_several_modules_are_run_in_their_order(shop: Path) -> None:
    (shop / "stall.py").write_text(
        "import dagster as dg\nimport shop\n\n@dg.asset(deps=[shop.right])\ndef stall() -> None:\n"
        "    shop.noted('stall')\n\ndefs = dg.Definitions([stall, dg.AssetSpec(['figures', 'right'])])\n"
    )
    result = ran("--module", "stall", "--select", "stall", "--select", "figures/right")
    assert result.exit_code == 0, result.output
    assert (shop / "notes.txt").read_text().split() == ["right", "stall"]


def test_the_platform_is_checked_on_an_hour_of_its_sample(shop: Path) -> None:
    hour = "visits/date=2024-05-06/hour=00"
    shutil.copytree(CHECKOUT / "data/landing" / hour, shop / "landing" / hour)
    select = [text for key in ("raw", "clean", "quarantine") for text in ("--select", f"{key}/visits")]
    finished = subprocess.run(
        [sys.executable, "-m", "pattern_platform.cli", "check", *select, "--partition", "2024-05-06-00:00"],
        env={**os.environ, "PATTERN_PLATFORM_DATA": str(shop), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "keeps_the_contract" in finished.stdout
    assert "failures: 0" in finished.stdout


# What is refused ------------------------------------------------------------------------------------------------------

PARTITION = ("--partition", "2024-05-06")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--select", "raw/ordres", *PARTITION), "did you mean 'raw/orders'"),
        (("--select", "orders", *PARTITION), "did you mean 'raw/orders', 'clean/orders'"),
        (("--select", "raw/orders", "--select", "group:nobody", *PARTITION), "selection 'group:nobody' was refused"),
        (("--select", "raw/orders, clean/orders", *PARTITION), "write a key as `raw/visits`"),
        (("--select", "", *PARTITION), "write a key as `raw/visits`"),
        (("--select", "group:"), "write a key as `raw/visits`"),
        (("--select", "raw/orders"), "it has 2024-05-06 to 2024-05-10"),
        (("--select", "raw/orders", "--partition", "2024-5-6"), "did you mean '2024-05-06'"),
        (("--select", "raw/orders", "--partition", "2031-05-06"), "it has 2024-05-06 to 2024-05-10"),
        (("--select", "clicks", *PARTITION), "it has 2024-05-06-00:00 to 2024-05-06-23:00"),
        (("--select", "letters", "--partition", "ann"), "it has no partition yet"),
        (("--select", "figures/right", *PARTITION), "leave out --partition"),
        (("--select", "stock", "--partition", "pl|s", "--only-checks"), "leave out --partition"),
        (("--select", "raw/orders", "--select", "clicks", *PARTITION), "clicks and raw/orders have different"),
        (("--select", "raw/orders", "--from", "2024-05-08", "--to", "2024-05-07"), "turn them round"),
        (("--select", "raw/orders", "--from", "2024-05-08"), "use --partition for one"),
        (("--select", "raw/orders", "--to", "2024-05-08", *PARTITION), "leave one of them out"),
        (("--select", "after_wrong", "--only-checks"), "leave out --only-checks"),
        (("--select", "tail"), "add --select head"),
        (("--select", "figures/right", "--select", "payments"), "give the configuration defaults"),
        (("--select", "figures/right", "--select", "mailed"), "SHOP_MAIL_SERVER"),
        (PARTITION, "--select"),
        (("--select", "figures/right", "--junit-xml", "."), "--junit-xml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_run_is_refused_and_says_what_to_do(arguments: tuple[str, ...], told: str, shop: Path) -> None:
    result = ran(*arguments)
    assert result.exit_code == 2, result.output
    assert told in said(result)
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    assert not (shop / "notes.txt").exists(), "something ran"


@pytest.mark.parametrize("module", ["shopp", "shop.definitions", "shop/definitions.py", "", "json"])
def test_a_module_without_definitions_is_refused(module: str) -> None:
    result = ran("--select", "figures/right", module=module)
    assert result.exit_code == 2, result.output
    assert f"--module {module!r} was refused" in said(result)
    assert "definitions" in said(result)


def test_what_a_module_raises_is_not_taken_for_a_module_that_is_missing(shop: Path) -> None:
    (shop / "torn.py").write_text("import a_library_that_is_not_installed\n")
    result = ran("--select", "x", module="torn")
    assert isinstance(result.exception, ModuleNotFoundError)
    assert result.exit_code == 1


@pytest.mark.parametrize("home", ["relative", "/nowhere/at/all"])
def test_a_home_that_is_none_is_refused(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", home)
    result = ran("--select", "figures/right")
    assert result.exit_code == 2, result.output
    assert "absolute path of a folder" in said(result)


def test_the_platform_names_the_asset_that_was_meant() -> None:
    result = ran("--select", "raw/visit", "--partition", "2024-05-06-00:00", module=None)
    assert result.exit_code == 2, result.output
    assert "did you mean 'raw/visits'" in said(result)
