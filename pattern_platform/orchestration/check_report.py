"""Results of a run of checks as JUnit XML, which every CI system shows: a suite for each asset, a case for each check.

The materialization of an asset is a case too, so that an asset without checks is seen. The file has a failure or an
error exactly when the command ends with exit code 1:

* ``failure``: a check of severity ERROR did not pass.
* ``error``: an asset failed, or a check was not executed.
* ``skipped``: an asset was not materialized, and nothing was wrong with it.
* A check of severity WARN that did not pass is a passed case, as it lets CI go on; ``system-out`` says what it found.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from pattern_platform.orchestration.check_run import Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def write_junit_xml(results: Iterable[Result], file: Path) -> None:
    """Write results; the folder of the file is made where there is none.

    Args:
        results: Of the run.
        file: Where to write.
    """
    document = JUnitXml("pattern-platform check")
    for asset, of_asset in groupby(sorted(results, key=lambda result: result.asset), lambda result: result.asset):
        suite = TestSuite(asset)
        suite.add_testcases([_case(result) for result in of_asset])
        document.add_testsuite(suite)
    document.update_statistics()
    file.parent.mkdir(parents=True, exist_ok=True)
    document.write(str(file), pretty=True)


def told(result: Result) -> str:
    """What a result says beyond its outcome, in one line without what a terminal would obey and XML cannot hold."""
    measured = ", ".join(f"{name}={value}" for name, value in result.metadata)
    said = " | ".join(part for part in (result.description, measured) if part)
    return " ".join("".join(character if character.isprintable() else " " for character in said).split())


def _case(result: Result) -> TestCase:
    name = result.check or "materialization"
    name += f"[{result.partition}]" if result.partition else ""
    case = TestCase(name, classname=result.asset, time=round(result.seconds, 3))
    text = told(result)
    match result.outcome:
        case Outcome.FAILED if result.check:
            case.result = [Failure(text or "the check did not pass", result.severity)]
        case Outcome.FAILED | Outcome.NOT_EXECUTED:
            case.result = [Error(text, result.outcome.value)]
        case Outcome.SKIPPED:
            case.result = [Skipped(text)]
        case Outcome.WARNED:
            case.system_out = f"WARN: {text or 'the check did not pass'}"
        case _ if text:
            case.system_out = text
    return case
