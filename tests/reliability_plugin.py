"""Marks that say which case or promise a test proves, the full tier, and a table of cases at the end of a run.

`--full` runs the tests of the full tier as well, and there a marked test that is skipped is a failure: a missing tool
must not look like a proof. `--reliability-page=FILE` writes docs/RELIABILITY.md from the marks of the collected tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest
from cases import CASES, PROMISES
from hypothesis import HealthCheck, settings
from reliability_page import MarkedTest, render

KINDS = {"case": CASES, "promise": PROMISES}
_OUTCOMES = pytest.StashKey[dict[str, list[str]]]()
# A folder that is shared between examples is what those tests mean, and reading files is not quick.
_UNSURPRISING = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
_COLUMNS = ("tried", "passed", "failed", "skipped")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reliability")
    group.addoption("--full", action="store_true", help="run the full tier too; there a marked test must not skip")
    group.addoption("--reliability-page", metavar="FILE", help="write the page of promises, cases and their tests")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_OUTCOMES] = {}
    examples = 1000 if config.getoption("--full") else 100
    settings.register_profile("fuzz", deadline=None, max_examples=examples, suppress_health_check=_UNSURPRISING)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for kind, known in KINDS.items():
            if unknown := sorted(set(marked(item, kind)) - set(known)):
                raise pytest.UsageError(
                    f"{item.nodeid}: no such {kind}: {', '.join(unknown)} (tests/reliability/cases.py)"
                )
        if item.get_closest_marker("full") and not config.getoption("--full"):
            item.add_marker(pytest.mark.skip(reason="full tier: --full runs it"))
    if page := config.getoption("--reliability-page"):
        Path(page).write_text(render(marked_tests(items)), encoding="utf-8")


def marked(item: pytest.Item, kind: str) -> list[str]:
    """The cases or promises that the marks of a test name."""
    return [name for mark in item.iter_markers(kind) for name in mark.args]


def marked_tests(items: Iterable[pytest.Item]) -> list[MarkedTest]:
    """The marked ones of the collected tests, in the order they were collected in."""
    found = []
    for item in items:
        names = {name for kind in KINDS for name in marked(item, kind)}
        if names:
            function = item.nodeid.split("[")[0]
            found.append(MarkedTest(function, frozenset(names), item.get_closest_marker("full") is not None))
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    names = {name for kind in KINDS for name in marked(item, kind)}
    if not names:
        return report
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--full"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"a marked test must not be skipped with --full: {reason}"
    if report.when == "call" or not report.passed:
        for name in names:
            item.config.stash[_OUTCOMES].setdefault(name, []).append(report.outcome)
    return report


def verdict(outcomes: list[str]) -> str:
    """What became of a case: failed if a test of it failed, passed if one passed, skipped if none ran."""
    return next((outcome for outcome in ("failed", "passed") if outcome in outcomes), "skipped")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    outcomes = config.stash[_OUTCOMES]
    if not outcomes:
        return
    table: dict[str, Counter[str]] = {}
    for name, case in CASES.items():
        if name in outcomes:
            table.setdefault(case.category, Counter()).update(["tried", verdict(outcomes[name])])
    for name in PROMISES:
        if name in outcomes:
            table.setdefault("promises", Counter()).update(["tried", verdict(outcomes[name])])
    table["total"] = sum(table.values(), Counter())
    terminalreporter.section("reliability: cases by category")
    terminalreporter.line(f"{'':34}" + "".join(f"{column:>9}" for column in _COLUMNS))
    for category, counts in table.items():
        terminalreporter.line(f"{category:34}" + "".join(f"{counts[column]:9}" for column in _COLUMNS))
    if failed := [name for name in outcomes if verdict(outcomes[name]) == "failed"]:
        terminalreporter.line(f"failed: {', '.join(failed)}")
    waiting = sum(case.needs_server for case in CASES.values())
    terminalreporter.line(f"{waiting} cases are about `mmsearch serve` and come with it")
