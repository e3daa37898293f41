"""The frame of the reliability tests: outcomes become verdicts, and skips of the full tier become failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import reliability_plugin
from cases import CASES, PROMISES

TESTS = Path(reliability_plugin.__file__).parent
CONFTEST = 'pytest_plugins = ["reliability_plugin"]\n'
MODULE = """
import pytest

@pytest.mark.case("C1", "C2")
def test_good() -> None:
    pass

@pytest.mark.case("C2")
def test_bad() -> None:
    assert False

@pytest.mark.case("F17")
def test_without_its_tool() -> None:
    pytest.skip("no strace")

@pytest.mark.full
@pytest.mark.promise("R2")
def test_that_takes_long() -> None:
    pass
"""


def run(folder: Path, *options: str, module: str = MODULE) -> str:
    """What a run of a module in a folder of its own prints."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(module)
    places = f"pythonpath = {TESTS} {TESTS / 'reliability'}"
    (folder / "pytest.ini").write_text(f"[pytest]\n{places}\nmarkers =\n  case\n  promise\n  full\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def row(printed: str, category: str) -> list[int]:
    line = next(line for line in printed.splitlines() if line.startswith(f"{category} "))
    return [int(number) for number in line.removeprefix(category).split()]


def test_cases_are_counted_by_category(tmp_path: Path) -> None:
    printed = run(tmp_path)
    assert row(printed, "bad input: structure") == [2, 1, 1, 0]
    assert row(printed, "faults: storage") == [1, 0, 0, 1]
    assert row(printed, "promises") == [1, 0, 0, 1]
    assert row(printed, "total") == [4, 1, 1, 2]
    assert "failed: C2" in printed
    assert "full tier: --full runs it" in printed


def test_the_full_tier_takes_no_skip_for_a_proof(tmp_path: Path) -> None:
    printed = run(tmp_path, "--full")
    assert row(printed, "faults: storage") == [1, 0, 1, 0]
    assert row(printed, "promises") == [1, 1, 0, 0]
    assert "a marked test must not be skipped with --full: Skipped: no strace" in printed


def test_a_mark_of_no_case_is_an_error(tmp_path: Path) -> None:
    printed = run(tmp_path, module="import pytest\n\n@pytest.mark.case('C93')\ndef test_it() -> None: ...\n")
    assert "no such case: C93" in printed


@pytest.mark.parametrize(("letter", "count"), [("C", 92), ("F", 42), ("S", 49), ("L", 11)])
def test_every_number_stands_for_one_case(letter: str, count: int) -> None:
    numbers = {int(name[1:]) for name in CASES if name[0] == letter}
    assert numbers == set(range(1, count + 1))


def test_there_are_ten_promises() -> None:
    assert list(PROMISES) == [f"R{number}" for number in range(1, 11)]
