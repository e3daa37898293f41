"""Every protection has a test that fails when the protection is taken away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from protection import Protection
from protection_runs import ROOT, copied_tree, run_tests, run_without, without
from protections import PROTECTIONS

EACH = pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda protection: str(protection.name))


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    with copied_tree() as copied:
        yield copied


@EACH
def test_a_protection_stands_where_it_is_said_to_and_its_test_is_there(protection: Protection) -> None:
    without(protection, (ROOT / protection.file).read_text(encoding="utf-8"))
    file, _, inside = protection.test.split("[")[0].partition("::")
    name = inside.rpartition("::")[2]
    assert re.search(rf"^ *(def|class) {name}|^{name} = " if name else "", (ROOT / file).read_text(), re.MULTILINE)


def test_every_protection_has_a_name_of_its_own() -> None:
    names = [protection.name for protection in PROTECTIONS]
    assert sorted(names) == sorted(set(names))


@pytest.mark.case("P1")
@pytest.mark.full
def test_with_every_protection_in_its_place_their_tests_pass(tree: Path) -> None:
    whole = run_tests(sorted({protection.test for protection in PROTECTIONS}), tree)
    assert whole.passed, whole.printed


@pytest.mark.case("P1")
@pytest.mark.full
@EACH
def test_a_protection_is_missed_when_it_is_taken_away(protection: Protection, tree: Path) -> None:
    missed = run_without(protection, tree)
    assert missed.failed, f"{protection.test} did not fail without {protection.name}:\n{missed.printed}"
