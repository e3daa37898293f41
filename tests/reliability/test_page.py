"""docs/RELIABILITY.md says what the tests say: it is written from their marks, and nothing is left out unsaid."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from cases import CASES, PROMISES
from cases_untested import FULL_ALONE, UNTESTED
from corpus import notes
from reliability_page import UNEXPLAINED, MarkedTest, proofs_of, render

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/RELIABILITY.md"
WRITE = "python -m pytest tests --collect-only -q --reliability-page=docs/RELIABILITY.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page as the tests of the whole tree write it now."""
    if missing := [name for name in ("torch", "open_clip", "jinja2") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"without {', '.join(missing)} some tests cannot be collected")
    page = tmp_path_factory.mktemp("page") / "RELIABILITY.md"
    command = [sys.executable, "-m", "pytest", "tests", "--collect-only", "-q", f"--reliability-page={page}"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return page.read_text(encoding="utf-8")


def test_the_page_is_what_the_tests_say(written: str) -> None:
    assert PAGE.read_text(encoding="utf-8") == written, f"write it anew: {WRITE}"


def test_every_case_has_a_test_or_a_reason(written: str) -> None:
    untold = [line for line in written.splitlines() if line.endswith(UNEXPLAINED)]
    assert not untold, "mark a test with them, or give a reason in tests/reliability/cases_untested.py"
    told = {"Cases without a test of their own": UNTESTED, "Cases of the full tier alone": FULL_ALONE}
    for title, reasons in told.items():
        section = written.partition(f"## {title}\n")[2].partition("\n## ")[0]
        stale = [name for name, why in reasons.items() if f"\n- {name} {CASES[name].title}: {why}\n" not in section]
        assert not stale, "these have such a test, or are no cases: take them out of cases_untested.py"


def test_every_note_on_the_corpus_is_told(written: str) -> None:
    section = written.partition("## Where the product does otherwise")[2]
    untold = [note for told in notes().values() for note in told if note not in section]
    assert notes() and not untold


def test_every_promise_has_a_test(written: str) -> None:
    for name, promise in PROMISES.items():
        section = written.split(f"**{name}** ")[1].split("\n**R")[0].split("\n## ")[0]
        assert promise.needs_server or "::test_" in section, f"no test is marked with promise {name}"


def test_a_case_is_of_the_full_tier_alone_when_all_its_tests_are() -> None:
    tests = [
        MarkedTest("tests/a.py::test_a", frozenset({"C1", "R1"}), True),
        MarkedTest("tests/a.py::test_b", frozenset({"C1"}), False),
        MarkedTest("tests/a.py::test_a", frozenset({"C2"}), True),
    ]
    assert proofs_of(tests) == {
        "C1": {"tests/a.py::test_a": True, "tests/a.py::test_b": False},
        "R1": {"tests/a.py::test_a": True},
        "C2": {"tests/a.py::test_a": True},
    }
    page = render(tests)
    assert "| C1 | no bytes at all: error, empty | `a.py::test_b` and 1 more |" in page
    assert "| C2 | one byte, FF: error, unidentified | `a.py::test_a` *full* |" in page
    assert "- `a.py::test_a` (full tier)" in page
    assert f"\n- C2 one byte, FF: error, unidentified: {UNEXPLAINED}\n" in page
    assert f"\n- C3 {CASES['C3'].title}: {UNEXPLAINED}\n" in page
    assert f"| C3 | {CASES['C3'].title} | none: {UNEXPLAINED} |" in page
    assert f"| L8 | {CASES['L8'].title} | none: {UNTESTED['L8']} |" in page
