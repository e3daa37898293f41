"""What rounding to float16 does to vectors and to their products, measured on the vectors themselves."""

from __future__ import annotations

import numpy as np
import pytest

from mmsearch.float16_rounding import Rounding, float16_error


def test_the_largest_distance_counts_and_the_largest_departure_from_length_one() -> None:
    rounding = Rounding()
    lengths = np.array([1, 1.001, 1], np.float32)
    rounding.seen(0, lengths=lengths, distances=np.array([0.0005, 0, 0.0002], np.float32))
    assert rounding.deviation == pytest.approx(0.001, abs=1e-6)
    rounding.seen(3, lengths=lengths, distances=np.array([0, 0.0005, 0.002], np.float32))
    assert rounding.deviation == pytest.approx(0.002, abs=1e-6)
    rounding.seen(6, lengths=np.array([0.9971], np.float32))
    assert rounding.deviation == pytest.approx(0.0029, abs=1e-6)


def test_rows_whose_length_is_not_one_are_odd_and_do_not_count() -> None:
    rounding = Rounding()
    assert rounding.odd.tolist() == []
    assert rounding.seen(10, lengths=np.array([1, 1.01, np.nan, np.inf, 0], np.float32)).tolist() == [0, 1, 1, 1, 1]
    far = np.array([0, np.nan, 0.5], np.float32)
    assert rounding.seen(20, lengths=np.ones(3, np.float32), distances=far).tolist() == [False, True, True]
    assert rounding.odd.tolist() == [11, 12, 13, 14, 21, 22]
    assert rounding.deviation == 0


def test_products_of_rounded_vectors_are_off_by_no_more_than_is_said() -> None:
    found = np.random.default_rng(1).standard_normal((2, 500, 24))
    vectors, queries = (found / np.linalg.norm(found, axis=2, keepdims=True)).astype(np.float32)
    held = vectors.astype(np.float16).astype(np.float32)
    rounding = Rounding()
    rounding.seen(0, lengths=np.linalg.norm(vectors, axis=1), distances=np.linalg.norm(vectors - held, axis=1))
    rounded = queries.astype(np.float16).astype(np.float32) @ held.T
    off = np.abs(rounded - queries.astype(np.float64) @ vectors.T).max(axis=1)
    errors = float16_error(queries, rounding.deviation)
    assert (off <= errors).all()
    assert errors.max() < 1e-3
