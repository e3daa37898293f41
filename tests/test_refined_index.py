"""What stands between a source of candidates and the answer: nothing may be missed that its error can hide."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from mmsearch import refined_index
from mmsearch.exact_search import search_exact
from mmsearch.refined_index import RefinedIndex
from mmsearch.vector_index import FEW_ALLOWED, ExactIndex

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
ROWS = 2000


class Given:
    """A source with scores that `scored` gives for queries (Q, D), (Q, N) of them, each `off` from the similarity at
    most. Of equal scores it names the last row first.
    """

    place, recall, masks, most = "made up", 1.0, False, 512
    odd = np.empty(0, np.int64)

    def __init__(self, scored: Callable[[Floats], Floats], off: float) -> None:
        self._scored, self._off = scored, off

    def error(self, queries: Floats) -> npt.NDArray[np.float64]:
        return np.full(len(queries), self._off)

    def propose(self, queries: Floats, count: int, allowed: Mask | None) -> tuple[Floats, Rows]:
        scores = self._scored(queries)
        order = np.argsort(-scores[:, ::-1], axis=1, kind="stable")[:, :count]
        rows = (scores.shape[1] - 1 - order).astype(np.int64)
        best: Floats = np.take_along_axis(scores, rows, axis=1)
        return best, rows


class Noted(ExactIndex):
    """The index for what is left over, and what it was asked."""

    def __init__(self, vectors: Floats) -> None:
        super().__init__(vectors)
        self.asked: list[tuple[Floats, int, Mask | None]] = []

    def search(self, queries: Floats, k: int, allowed: Mask | None = None) -> tuple[Floats, Rows]:
        self.asked.append((queries, k, allowed))
        return super().search(queries, k, allowed)


def units(count: int, seed: int) -> Floats:
    found = np.random.default_rng(seed).standard_normal((count, 16))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def with_cosines(cosines: Floats) -> Floats:
    """Vectors (N, 2) with exactly these cosines to (1, 0)."""
    return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)


def test_scores_that_are_off_by_all_of_their_error_hide_nothing() -> None:
    off, vectors, queries = 0.02, units(ROWS, 1), units(40, 2)
    wrong = (0.999 * off * np.random.default_rng(3).choice([-1, 1], ROWS)).astype(np.float32)
    other = Noted(vectors)
    index = RefinedIndex(vectors, Given(lambda asked: asked @ vectors.T + wrong, off), lambda: other)
    for found, expected in zip(index.search(queries, 10), search_exact(vectors, queries, 10), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not other.asked


def test_a_row_whose_score_is_that_of_the_last_candidate_is_asked_for() -> None:
    # All of it can be told exactly in float32. Row 0 is as near as row 200, and both scores are off by all they may be.
    off, cosines = 1 / 32, np.full(400, 0.25, np.float32)
    cosines[[0, 200]] = 0.75
    scores = cosines.copy()
    scores[200] += off
    scores[:100] = 0.75 - off
    vectors, query = with_cosines(cosines), np.array([[1, 0]], np.float32)
    source = Given(lambda asked: scores[np.newaxis], off)
    index = RefinedIndex(vectors, source, lambda: pytest.fail("the source knows enough"))
    similarities, rows = index.search(query, 1)
    assert (similarities.tolist(), rows.tolist()) == ([[0.75]], [[0]])


@pytest.fixture
def no_pass_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refined_index, "search_exact", lambda *_: pytest.fail("numpy looks at every row"))


def test_what_does_not_stand_out_from_the_candidates_is_left_to_the_other_index(no_pass_over_all: None) -> None:
    vectors, queries = units(ROWS, 1), units(3, 2)
    # More copies than the source can name.
    vectors[:600] = queries[1]
    other, allowed = Noted(vectors), np.arange(ROWS) != 5
    index = RefinedIndex(vectors, Given(lambda asked: asked @ vectors.T, 1e-5), lambda: other)
    found = index.search(queries, 4, allowed)
    for own, expected in zip(found, search_exact(vectors, queries, 4, allowed), strict=True):
        np.testing.assert_array_equal(own, expected)
    ((asked, k, mask),) = other.asked
    np.testing.assert_array_equal(asked, queries[1:2])
    assert k == 4 and mask is allowed


def test_a_few_rows_that_may_be_found_are_looked_at_one_by_one() -> None:
    vectors, queries = units(ROWS, 1), units(3, 2)
    allowed = np.arange(ROWS) < FEW_ALLOWED
    source = Given(lambda asked: pytest.fail("the source is asked"), 1e-5)
    source.masks = True
    index = RefinedIndex(vectors, source, lambda: pytest.fail("the other index is asked"))
    for own, expected in zip(
        index.search(queries, 4, allowed), search_exact(vectors, queries, 4, allowed), strict=True
    ):
        np.testing.assert_array_equal(own, expected)


def test_a_failure_of_the_other_index_is_not_the_sources() -> None:
    vectors = units(ROWS, 1)
    vectors[:600] = vectors[0]

    class Broken(ExactIndex):
        def search(self, *_: object) -> tuple[Floats, Rows]:
            raise RuntimeError("a file is gone")

    index = RefinedIndex(vectors, Given(lambda asked: asked @ vectors.T, 1e-5), lambda: Broken(vectors))
    with pytest.raises(RuntimeError, match="a file is gone"):
        index.search(vectors[:1], 4)
    assert index.place == "made up"
