"""The rank of every positive, counted so that a tie is never in the model's favour.

Inside a group of equal scores the items that are not relevant come first, so a positive with score `s` that is the
m-th best of its query's positives has the rank `m + #{not relevant items with a score >= s}`, 1 being the best. A
constant scorer therefore gets the worst rank there is, whatever the order of the file. The usual
`argsort(scores)[::-1]` would hand the tie to the highest row instead.

Every metric in `mmsearch.eval.metrics` follows from these ranks alone, so the scores (a gigabyte and more on large
sets) are looked at one block of queries at a time and never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsearch.errors import UsageError
from mmsearch.eval.relevance import Relevance, Rows

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Embeddings = npt.NDArray[np.float32]

BLOCK_BYTES = 64 * 2**20  # one block of float32 scores; the largest thing scoring allocates


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks of all positives of the queries that have one.

    The ranks of the i-th scored query are `positions[offsets[i]:offsets[i + 1]]`, int64, ascending, 1 for the best. A
    positive that the system did not return has the rank `gallery + 1`. `queries` (Q,) holds the rows of the scored
    queries and `excluded` those of the queries without any positive in the gallery. `tied` (Q,) is true where the
    best positive shares its score with an item that is not relevant. Ranks up to `depth` are known; it is less than
    `gallery` where only the best few items were returned.
    """

    positions: Rows
    offsets: Rows
    queries: Rows
    excluded: Rows
    tied: npt.NDArray[np.bool_]
    gallery: int
    depth: int

    @property
    def best(self) -> Rows:
        """The rank of the best positive of every scored query, int64 (Q,)."""
        return self.positions[self.offsets[:-1]]

    @property
    def relevant(self) -> Rows:
        """The number of positives of every scored query, int64 (Q,)."""
        return np.diff(self.offsets)

    @property
    def tie_rate(self) -> float:
        """The share of scored queries whose best positive ties with an item that is not relevant; 0 without queries."""
        return float(self.tied.mean()) if len(self.tied) else 0.0


def rank_embeddings(
    queries: Embeddings,
    gallery: Embeddings,
    relevance: Relevance,
    *,
    adjust: Callable[[Embeddings, int], Floats] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Ranks:
    """Return the ranks under the dot product of `queries` (Q, D) and `gallery` (N, D), both float32.

    Gallery items with equal embeddings get equal scores to the last bit, which a matrix product alone does not
    promise. `adjust(scores, first)` may make other scores (q, N) of those of the queries from row `first` on. Memory
    stays within a few times `block_bytes` besides the embeddings.

    Raises:
        UsageError: shapes or types do not fit, or an embedding holds NaN or infinity.
    """
    for name, embeddings in (("query", queries), ("gallery", gallery)):
        _require_finite_rows(name, embeddings)
    if queries.shape[1] != gallery.shape[1]:
        raise UsageError(
            f"queries have {queries.shape[1]} dimensions and the gallery {gallery.shape[1]}: not one model"
        )
    if len(gallery) != relevance.gallery:
        raise UsageError(f"the gallery has {len(gallery)} embeddings, the relevance speaks of {relevance.gallery}")
    blocks = similarity_blocks(queries, gallery, block_bytes=block_bytes)
    return rank_scores((block if adjust is None else adjust(block, first) for first, block in blocks), relevance)


def rank_scores(scores: Floats | Iterable[Floats], relevance: Relevance) -> Ranks:
    """Return the ranks under `scores` (Q, N), float32 or float64, higher is better, whole or in blocks of whole rows.

    `-inf` means that the system does not return the item for this query.

    Raises:
        UsageError: a score is NaN or +inf (the message names query and item), or shapes or types do not fit.
    """
    collected = _Collector(relevance)
    blocks = (scores,) if isinstance(scores, np.ndarray) else scores
    row = 0
    for block in blocks:
        _require_usable_scores(block, row, relevance)
        for values in block:
            positives = relevance.of(row)
            collected.add(*_positions(values, positives))
            row += 1
    if row != relevance.queries:
        raise UsageError(f"got scores of {row} queries, the relevance speaks of {relevance.queries}")
    return collected.ranks(depth=relevance.gallery)


def rank_lists(lists: Rows, relevance: Relevance, *, scores: Floats | None = None) -> Ranks:
    """Return the ranks in `lists` (Q, depth) of gallery rows, best first, padded with -1 behind the last answer.

    With `scores` (Q, depth) of the listed items ties count against the positives, as everywhere, and -inf is no
    answer; without, the order is taken as it is. A positive outside the list has no known rank: metrics that need more
    than `depth` refuse the result.

    Raises:
        UsageError: a list names an item twice, is not ordered by its scores, or does not fit the relevance.
    """
    if lists.ndim != 2 or len(lists) != relevance.queries:
        raise UsageError(f"lists have the shape {lists.shape}, expected ({relevance.queries}, depth)")
    collected = _Collector(relevance)
    for row, listed in enumerate(lists):
        answers = listed[: _answered(listed, row, relevance.gallery)]
        values = -np.arange(len(answers), dtype=np.float64) if scores is None else scores[row, : len(answers)]
        if not (values < np.inf).all() or (values[1:] > values[:-1]).any():
            raise UsageError(f"the answers to query {row} are not ordered by falling scores: {values[:5].tolist()} ...")
        returned = values > -np.inf
        answers, values = answers[returned], values[returned]
        positives = relevance.of(row)
        places = np.flatnonzero(np.isin(answers, positives))
        positions, tied = _positions(values, places)
        missed = np.full(len(positives) - len(places), relevance.gallery + 1)
        collected.add(np.concatenate((positions, missed)), tied)
    return collected.ranks(depth=min(lists.shape[1], relevance.gallery))


def _answered(listed: Rows, row: int, gallery: int) -> int:
    """Return how many answers stand before the padding."""
    padding = np.flatnonzero(listed < 0)
    count = int(padding[0]) if len(padding) else len(listed)
    if (listed[count:] >= 0).any() or (listed >= gallery).any() or len(np.unique(listed[:count])) != count:
        raise UsageError(f"the answers to query {row} must be distinct gallery rows below {gallery}, then -1: {listed}")
    return count


def _positions(values: Floats, positives: Rows) -> tuple[Rows, bool]:
    """Return the ranks of `positives` among `values` (N,), and whether the best one ties with an item that is none."""
    if not len(positives):
        return np.empty(0, dtype=np.int64), False
    levels = np.sort(values[positives])
    # reached[j]: how many items have a score that reaches exactly the j lowest levels
    reached = np.bincount(np.searchsorted(levels, values, side="right"), minlength=len(levels) + 1)
    at_least = np.cumsum(reached[::-1])[::-1]
    first_equal = np.searchsorted(levels, levels, side="left")
    others = at_least[first_equal + 1] - (len(levels) - first_equal)
    positions = (others + np.arange(len(levels), 0, -1))[::-1]
    positions[levels[::-1] == -np.inf] = len(values) + 1
    best = levels[-1]
    tied = best > -np.inf and np.count_nonzero(values == best) > np.count_nonzero(levels == best)
    return positions, bool(tied)


class _Collector:
    """Gathers the ranks query by query."""

    def __init__(self, relevance: Relevance) -> None:
        self._relevance = relevance
        self._positions: list[Rows] = []
        self._tied: list[bool] = []

    def add(self, positions: Rows, tied: bool) -> None:
        self._positions.append(positions)
        self._tied.append(tied)

    def ranks(self, *, depth: int) -> Ranks:
        counts = self._relevance.counts
        scored = np.flatnonzero(counts)
        return Ranks(
            positions=np.concatenate([np.empty(0, np.int64), *self._positions]).astype(np.int64),
            offsets=np.concatenate(([0], np.cumsum(counts[scored]))).astype(np.int64),
            queries=scored,
            excluded=np.flatnonzero(counts == 0),
            tied=np.array(self._tied, dtype=np.bool_)[scored],
            gallery=self._relevance.gallery,
            depth=depth,
        )


def similarity_blocks(
    queries: Embeddings, gallery: Embeddings, *, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[int, Embeddings]]:
    """Yield float32 scores (rows, N), a few queries at a time, each with the row of its first query."""
    first, copies = equal_rows(gallery)
    rows = max(1, block_bytes // max(4 * len(gallery), 1))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows] @ gallery.T
        # BLAS may sum the same vector in another order at the edge of a tile, and break a tie that is one.
        block[:, copies] = block[:, first]
        yield start, block


def equal_rows(vectors: Embeddings) -> tuple[Rows, Rows]:
    """Return rows (first, copies): `vectors[copies[i]]` equals `vectors[first[i]]`, the lowest such row."""
    weights = np.random.default_rng(0).integers(1, 2**63, vectors.shape[1], dtype=np.uint64)
    hashes = np.empty(len(vectors), dtype=np.uint64)
    step = max(1, BLOCK_BYTES // max(8 * vectors.shape[1], 1))
    for start in range(0, len(vectors), step):
        positive_zeros = np.ascontiguousarray(vectors[start : start + step]) + np.float32(0)
        hashes[start : start + step] = positive_zeros.view(np.uint32) @ weights
    _, representative, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    copies = np.flatnonzero(representative[inverse] != np.arange(len(vectors)))
    first = representative[inverse[copies]]
    equal = np.array(
        [np.array_equal(vectors[a], vectors[b]) for a, b in zip(first, copies, strict=True)], dtype=np.bool_
    )
    return first[equal], copies[equal]


def _require_finite_rows(name: str, embeddings: Embeddings) -> None:
    if embeddings.ndim != 2 or embeddings.dtype != np.float32:
        raise UsageError(
            f"{name} embeddings are {embeddings.dtype} {embeddings.shape}, expected float32 (rows, dimensions)"
        )
    sums = embeddings.sum(axis=1, dtype=np.float64)
    if not np.isfinite(sums).all():
        row = int(np.flatnonzero(~np.isfinite(sums))[0])
        raise UsageError(f"the embedding of {name} {row} holds NaN or infinity: the model is broken, no rank is given")


def _require_usable_scores(block: Floats, first_row: int, relevance: Relevance) -> None:
    if block.ndim != 2 or block.shape[1] != relevance.gallery or block.dtype not in (np.float32, np.float64):
        raise UsageError(
            f"scores are {block.dtype} {block.shape}, expected float32 or float64 (queries, {relevance.gallery}); "
            "half precision manufactures ties"
        )
    if first_row + len(block) > relevance.queries:
        raise UsageError(f"got scores of more than the {relevance.queries} queries of the relevance")
    if not block.size or block.max() < np.inf:  # the maximum of a block with a NaN is NaN, and NaN < inf is false
        return
    row, item = np.argwhere(np.isnan(block) | (block == np.inf))[0]
    raise UsageError(
        f"the score of query {first_row + row} for item {item} is {block[row, item]}, expected a finite number or -inf "
        "(not returned): NumPy and torch would sort it first"
    )
