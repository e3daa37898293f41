"""How much of the truth an index finds: sample queries made from its own vectors, and the share of right answers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmsearch.exact_search import Vectors, unit_float32

_QUERIES = 256
_SEED = 64_206
_SPREAD_ROWS = 4096


def sample_queries(vectors: Vectors) -> npt.NDArray[np.float32]:
    """Unit queries (256, D), the same for the same `vectors` (N, D).

    Half lie between two stored vectors. Half are random directions with the spread that the stored vectors have around
    their mean, and so far from all of them, as sentences are from photos. Both are a little harder than real sentences,
    measured on captions among a million vectors.
    """
    random = np.random.default_rng(_SEED)
    half = _QUERIES // 2
    picked = unit_float32(vectors[np.sort(random.integers(0, len(vectors), 2 * half))])
    first, second = random.permutation(picked).reshape(2, half, -1)
    several = unit_float32(vectors[np.sort(random.integers(0, len(vectors), _SPREAD_ROWS))])
    spread = random.standard_normal((half, _SPREAD_ROWS), np.float32) @ (several - several.mean(axis=0))
    queries = np.concatenate([first + second, spread])
    # Opposite vectors would sum to nothing, and equal ones have no spread: a small part of anything keeps a direction.
    queries += 1e-3 * random.standard_normal(queries.shape, np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries


def found_fraction(found: npt.NDArray[np.int64], expected: npt.NDArray[np.int64]) -> float:
    """ann_recall_at_k: the share of the rows `expected` (Q, k) that are in the same line of `found` (Q, k)."""
    hits = sum(len(np.intersect1d(some, right)) for some, right in zip(found, expected, strict=True))
    return hits / expected.size
