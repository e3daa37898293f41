"""Whatever happens to files and to runs, in any order: a query finds what a plain dictionary says it should."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from figures import tell
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from stateful_machine import Life
from tiny_model import write_tiny_model

from mmsearch.model import load_model

QUICK_SEED = 2026

Lives = Callable[[int, int, int], None]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Lives:
    """Runs so many lives of so many steps from a seed."""
    base = tmp_path_factory.mktemp("models")
    old = load_model(write_tiny_model(base / "old", name="old", seed=0), threads=1)
    new = load_model(write_tiny_model(base / "new", name="new", seed=1), threads=1)

    def run(examples: int, steps: int, number: int) -> None:
        tell(pytestconfig, f"stateful properties: {examples} lives of {steps} steps from seed {number}")
        asked = settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            # Making a failing life shorter takes minutes, and one of twenty steps can be read as it is.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        Life.models = old, new
        run_state_machine_as_test(seed(number)(Life), settings=asked)

    return run


@pytest.mark.case("L11")
@pytest.mark.promise("R2", "R4", "R5")
def test_a_collection_tells_the_truth_through_fifty_lives(lives: Lives) -> None:
    lives(50, 20, QUICK_SEED)


@pytest.mark.full
@pytest.mark.case("L11")
@pytest.mark.promise("R2", "R4", "R5")
def test_a_collection_tells_the_truth_through_many_lives(lives: Lives) -> None:
    lives(200, 30, secrets.randbelow(1 << 32))
