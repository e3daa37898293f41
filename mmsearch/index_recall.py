"""How much of the truth an index finds: sample queries made from its own vectors, and the share of right answers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmsearch.exact_search import Vectors, unit_float32

_QUERIES = 64
_SEED = 64_206


def sample_queries(vectors: Vectors) -> npt.NDArray[np.float32]:
    """Unit queries (64, D), the same for the same `vectors` (N, D).

    Half lie between two stored vectors. Half lie far from all of them, as sentences do from photos; those are harder,
    because their nearest vectors differ by little.
    """
    random = np.random.default_rng(_SEED)
    half = _QUERIES // 2
    picked = unit_float32(vectors[np.sort(random.integers(0, len(vectors), 2 * half))])
    first, second = random.permutation(picked).reshape(2, half, -1)
    away = random.standard_normal(first.shape, np.float32)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    queries = np.concatenate([first + second, first + away])
    # Opposite vectors would sum to nothing; the small part of `away` keeps every query a direction.
    queries += 1e-3 * np.concatenate([away, away])
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries


def found_fraction(found: npt.NDArray[np.int64], expected: npt.NDArray[np.int64]) -> float:
    """ann_recall_at_k: the share of the rows `expected` (Q, k) that are in the same line of `found` (Q, k)."""
    hits = sum(len(np.intersect1d(some, right)) for some, right in zip(found, expected, strict=True))
    return hits / expected.size
