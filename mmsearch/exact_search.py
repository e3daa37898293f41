"""Exact nearest neighbours over mapped vectors with numpy alone: a small collection needs no other index.

A similarity that leaves this room is the dot product of the query and the stored vector, summed in float64 in a fixed
order and rounded to float32. So equal vectors have equal similarities wherever they stand, and an answer does not
depend on how many queries were asked together; the matrix product keeps neither promise and only preselects.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float16] | npt.NDArray[np.float32]

# Larger than the rounding error of a float32 product of unit vectors with some thousand components, and far smaller
# than any difference that matters.
PRESELECT_TOLERANCE = 1e-5
_BLOCK_ROWS = 4096
_GATHER_BELOW = 0.25
_SCORES_IN_MEMORY = 1 << 24


def unit_float32(vectors: Vectors) -> npt.NDArray[np.float32]:
    """`vectors` (N, D) as float32; float16 ones are normalised again, because rounding changed their length."""
    if vectors.dtype == np.float32:
        return np.asarray(vectors)
    wide = np.asarray(vectors).astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, np.newaxis]
    np.divide(wide, lengths, out=wide, where=lengths > 0)
    return wide


def exact_similarities(
    vectors: Vectors, rows: npt.NDArray[np.int64], query: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Cosine of the unit `query` (D,) to each of `rows` of `vectors` (N, D): float32 (len(rows),), in [-1, 1].

    A vector with NaN in it, which only damage can explain, gets -inf.
    """
    similarities = np.empty(len(rows), np.float32)
    wide_query = query.astype(np.float64)
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = unit_float32(vectors[rows[start : start + _BLOCK_ROWS]])
        similarities[start : start + len(block)] = (block * wide_query).sum(axis=1)
    # Vectors are unit length to within the rounding of float32, so a cosine of 1 may come out a little larger.
    np.clip(similarities, -1, 1, out=similarities)
    similarities[np.isnan(similarities)] = -np.inf
    return similarities


def best_rows(
    rows: npt.NDArray[np.int64], similarities: npt.NDArray[np.float32], k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The `k` best of `rows`, by similarity descending, then row ascending; padded to k with -inf and -1."""
    order = np.lexsort((rows, -similarities))[:k]
    best_similarities = np.full(k, -np.inf, np.float32)
    best = np.full(k, -1, np.int64)
    best_similarities[: len(order)] = similarities[order]
    best[: len(order)] = rows[order]
    return best_similarities, best


def search_exact(
    vectors: Vectors, queries: npt.NDArray[np.float32], k: int, allowed: npt.NDArray[np.bool_] | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The `k` nearest rows of `vectors` (N, D) to each query (Q, D): similarities (Q, k) float32, rows (Q, k) int64.

    Order: similarity descending, then row ascending. Only rows that `allowed` (N,) admits are looked at. Where fewer
    than k are left, -inf and -1 fill up.
    """
    # As many rows at a time as leave the scores of all queries in memory: converting float16 is what takes the time, so
    # it is done once for all queries.
    at_once = max(_BLOCK_ROWS, _SCORES_IN_MEMORY // max(1, len(queries)))
    if len(vectors) <= at_once:
        return _search_part(vectors, queries, k, allowed)
    similarities = np.full((len(queries), k), -np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(vectors), at_once):
        part = slice(start, start + at_once)
        near, rows = _search_part(vectors[part], queries, k, None if allowed is None else allowed[part])
        for number in range(len(queries)):
            here, before = rows[number] >= 0, found[number] >= 0
            candidates = np.concatenate([found[number][before], rows[number][here] + start])
            cosines = np.concatenate([similarities[number][before], near[number][here]])
            similarities[number], found[number] = best_rows(candidates, cosines, k)
    return similarities, found


def _search_part(
    vectors: Vectors, queries: npt.NDArray[np.float32], k: int, allowed: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """What `search_exact` says, of so few vectors that the scores of all queries fit into memory."""
    rows = _rows_to_score(len(vectors), allowed)
    similarities = np.full((len(queries), k), -np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    if not len(rows):
        return similarities, found
    scores = _preselection_scores(vectors, rows, queries)
    if allowed is not None and len(rows) == len(vectors):
        scores[:, ~allowed] = -np.inf
    for number, query in enumerate(queries):
        near = rows[_within_reach_of_best(scores[number], k)]
        similarities[number], found[number] = best_rows(near, exact_similarities(vectors, near, query), k)
    return similarities, found


def _rows_to_score(row_count: int, allowed: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.int64]:
    """All rows, or the allowed ones where they are so few that gathering them costs less than scoring all."""
    if allowed is None or np.count_nonzero(allowed) > row_count * _GATHER_BELOW:
        return np.arange(row_count)
    return np.flatnonzero(allowed)


def _preselection_scores(
    vectors: Vectors, rows: npt.NDArray[np.int64], queries: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    scores = np.empty((len(queries), len(rows)), np.float32)
    for start, block in _blocks(vectors, rows):
        np.matmul(queries, block.T, out=scores[:, start : start + len(block)])
    scores[np.isnan(scores)] = -np.inf
    return scores


def _blocks(vectors: Vectors, rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    everything = len(rows) == len(vectors)
    for start in range(0, len(rows), _BLOCK_ROWS):
        stop = start + _BLOCK_ROWS
        yield start, unit_float32(vectors[start:stop] if everything else vectors[rows[start:stop]])


def _within_reach_of_best(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    kth_best = np.partition(scores, -k)[-k] if k < len(scores) else -np.inf
    return np.flatnonzero((scores >= kth_best - PRESELECT_TOLERANCE) & (scores > -np.inf))
