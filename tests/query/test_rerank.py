"""The final order against a plain sort, on made-up scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.rerank import below, best_block, by_score, corrected, rescored

# Whole multiples of 1/1024 are exact in every step, so that ties are ties.
GRID = st.integers(-1024, 1024).map(lambda number: number / 1024)
SOME_SCORES = st.lists(GRID, min_size=1, max_size=30).map(np.array)


def naive_order(scores: list[float], logits: list[float], candidates: int, weight: float) -> list[int]:
    """The best `candidates` by score, sorted by score and logit together; then the others by score."""
    by_first_score = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    block = sorted(by_first_score[:candidates], key=lambda row: (-(scores[row] + weight * logits[row]), row))
    return block + by_first_score[candidates:]


@given(scores=SOME_SCORES, candidates=st.integers(1, 40), seed=st.integers(0, 99))
def test_order_is_that_of_a_plain_sort(scores: np.ndarray, candidates: int, seed: int) -> None:
    logits = np.random.default_rng(seed).integers(-8, 8, len(scores)).astype(np.float32)
    block = best_block(scores, candidates)
    final = rescored(scores, block, logits[block], 0.25)
    expected = naive_order(scores.tolist(), logits.tolist(), candidates, 0.25)
    assert by_score(final).tolist() == expected


@given(scores=SOME_SCORES, candidates=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_rest_stands_below_the_block_and_keeps_its_distances(
    scores: np.ndarray, candidates: int, seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(size=len(scores)).astype(np.float32)
    block = best_block(scores, candidates)
    final = rescored(scores, block, logits[block], 5.0)
    np.testing.assert_allclose(final[block], scores[block] + 5.0 * logits[block].astype(np.float64))
    rest = np.setdiff1d(np.arange(len(scores)), block)
    if len(rest):
        assert final[rest].max() < final[block].min()
        np.testing.assert_allclose(final[rest] - final[rest][0], scores[rest] - scores[rest][0], atol=1e-12)


@given(scores=SOME_SCORES, size=st.integers(0, 40), seed=st.integers(0, 99))
def test_the_block_is_the_best_and_marked_rows_lose_its_ties(scores: np.ndarray, size: int, seed: int) -> None:
    last = np.random.default_rng(seed).random(len(scores)) < 0.5
    expected = sorted(range(len(scores)), key=lambda row: (-scores[row], last[row], row))[:size]
    assert best_block(scores, size, last=last).tolist() == expected
    assert best_block(scores, size).tolist() == sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:size]


def test_a_worked_example() -> None:
    cosines, biases = np.float32([0.5, 0.375, 0.25, 0.125]), np.float32([0.25, 0, 0, 0])
    scores = corrected(cosines, biases)
    assert scores.tolist() == [0.25, 0.375, 0.25, 0.125]
    block = best_block(scores, 2)
    assert block.tolist() == [1, 0]
    final = rescored(scores, block, np.float32([-1, 2]), 0.125)
    assert final.tolist() == pytest.approx([0.5, 0.25, 0.25, 0.125])
    assert by_score(final).tolist() == [0, 1, 2, 3]
    assert final[2] < final[1]


def test_without_biases_and_without_a_block_the_cosines_stay() -> None:
    cosines = np.float32([[0.1, 0.3], [0.2, -1]])
    np.testing.assert_array_equal(corrected(cosines, None), cosines.astype(np.float64))
    scores = corrected(cosines[0], None)
    np.testing.assert_array_equal(rescored(scores, np.empty(0, np.int64), np.empty(0, np.float32), 1.0), scores)


def test_scores_handed_in_are_left_as_they_are() -> None:
    scores = np.array([0.5, 0.25])
    rescored(scores, np.array([1]), np.float32([9]), 1.0)
    assert scores.tolist() == [0.5, 0.25]


def test_nothing_is_below_nothing() -> None:
    assert below(1.0, np.empty(0)).tolist() == []
    assert best_block(np.empty(0), 5).tolist() == []
