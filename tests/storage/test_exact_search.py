"""Exact search against the definition: values, rows, order, ties; in parts as at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_builders import brute_force, unit_vectors

from mmsearch import exact_search
from mmsearch.exact_search import search_exact


def test_copies_are_equal_wherever_they_stand() -> None:
    # A matrix product sums the rows at the edge of its blocks in another order, so copies differ in the last bit there.
    vectors = np.repeat(unit_vectors(1, dim=384), 5003, axis=0)
    _, rows = search_exact(vectors, unit_vectors(40, dim=384, seed=3), 2)
    assert (rows == [0, 1]).all()


def test_vector_that_damage_turned_into_nan_is_never_found() -> None:
    vectors = unit_vectors(50)
    vectors[3] = np.nan
    similarities, rows = search_exact(vectors, unit_vectors(2, seed=1), 50)
    assert 3 not in rows[:, :49]
    assert np.isfinite(similarities[:, :49]).all()


@pytest.mark.parametrize("share", [None, 0.9, 0.01])
def test_exact_search_in_parts_is_exact_search_at_once(share: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # With copies of one vector in every part, so that ties have to be broken across them.
    vectors = unit_vectors(3000, dim=8)
    vectors[::7] = vectors[0]
    allowed = None if share is None else np.random.default_rng(4).random(3000) < share
    queries = np.concatenate([vectors[:2], unit_vectors(4, dim=8, seed=5)])
    at_once = search_exact(vectors, queries, 40, allowed)
    monkeypatch.setattr(exact_search, "_BLOCK_ROWS", 64)
    monkeypatch.setattr(exact_search, "_SCORES_IN_MEMORY", 500)
    for whole, parts in zip(at_once, search_exact(vectors, queries, 40, allowed), strict=True):
        np.testing.assert_array_equal(parts, whole)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    distinct=st.integers(1, 6),
    k=st.integers(1, 50),
    half=st.booleans(),
    mask=st.none() | st.integers(0, 2**40 - 1),
)
def test_exact_search_is_brute_force(rows: int, distinct: int, k: int, half: bool, mask: int | None) -> None:
    vectors = unit_vectors(distinct, dim=5)[np.arange(rows) % distinct]
    stored = vectors.astype(np.float16) if half else vectors
    allowed = None if mask is None else np.array([mask >> row & 1 for row in range(rows)], bool)
    query = unit_vectors(1, dim=5, seed=7)
    similarities, found = search_exact(stored, query, k, allowed)
    expected_similarities, expected = brute_force(stored, query[0], k, allowed)
    padding = k - len(expected)
    assert found[0].tolist() == expected + [-1] * padding
    assert similarities[0].tolist() == expected_similarities + [-np.inf] * padding
