"""How much an index misses of what exact search over the same vectors finds, and how quick it is.

This is about the index, not about the model: `recall_at_k` asks whether the right picture is found, `ann_recall_at_k`
whether the nearest vectors are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsearch.errors import UsageError
from mmsearch.eval.latency import Latency, latency_of, spread
from mmsearch.exact_search import Vectors, exact_similarities, search_exact
from mmsearch.snapshot import Snapshot
from mmsearch.types import Kind
from mmsearch.vector_index import VectorIndex

Ids = npt.NDArray[np.int64]
Similarities = npt.NDArray[np.float32]
Blocks = Iterable[tuple[Ids, Vectors]]

TIE = 1e-6  # an item this close to the k-th best counts as found: otherwise ties look like losses
REPORTED_KS = (10, 16, 32, 100)  # the default page, two depths of reranking, a deep page
MOST_QUERIES = 1000
TIMED_QUERIES = 200


@dataclass(frozen=True, slots=True)
class Truth:
    """What exact search says about the answers of an index, float32 (Q, K) both.

    `best` holds the similarities of the K nearest items, falling, -inf where there are fewer. `found` holds the exact
    similarities of the items that the index named, in its order, -inf for none and for one named twice.
    """

    best: Similarities
    found: Similarities


@dataclass(frozen=True, slots=True)
class AnnReport:
    """What an index reaches on a set of queries.

    `recall` maps k to `ann_recall_at_k`; latencies are of the search alone, for the smallest k. `asked` (Q,) holds
    the rows of the queries that were asked, `found` (Q, K) what the index named, `similarities` (Q, K) how near that
    is, never rising, -inf for no answer. `exact_latency` is that of brute force over the same vectors.
    """

    index: str
    vectors: int
    dim: int
    asked: Ids
    found: Ids
    similarities: Similarities
    recall: dict[int, float]
    latency: Latency
    exact_latency: Latency


def exact_truth(found: Ids, blocks: Blocks, queries: Similarities) -> Truth:
    """Return what brute force over all `blocks` of (ids (B,), vectors (B, D)) says of `found` (Q, K), -1 for none.

    `queries` are float32 (Q, D). Filtered search has its own truth: hand over only the blocks of what the filter lets
    through.
    """
    best = np.full(found.shape, -np.inf, np.float32)
    similarities = np.full(found.shape, -np.inf, np.float32)
    for ids, vectors in blocks:
        nearest, _ = search_exact(vectors, queries, found.shape[1])
        best = -np.sort(-np.concatenate([best, nearest], axis=1), axis=1)[:, : found.shape[1]]
        order = np.argsort(ids)
        for number, named in enumerate(found):
            place = np.minimum(np.searchsorted(ids, named, sorter=order), len(ids) - 1)
            here = np.flatnonzero(ids[order[place]] == named)
            similarities[number, here] = exact_similarities(vectors, order[place[here]], queries[number])
    for number, named in enumerate(found):
        again = np.ones(len(named), np.bool_)
        again[np.unique(named, return_index=True)[1]] = False
        similarities[number, again] = -np.inf
    return Truth(best, similarities)


def ann_recall_at_k(truth: Truth, k: int) -> float:
    """Return the mean over queries of |A_q intersect E_q| / k.

    A_q is what the index named first, E_q the exact top k. An item within 1e-6 of the k-th best counts as one of E_q.
    Where fewer than k items exist, k is their number; a query for which none exists counts 1. Aumüller, Bernhardsson
    and Faithfull 2018, "ANN-Benchmarks", arXiv 1807.05614 (there with a threshold of 1e-3).

    Raises:
        UsageError: k is below 1 or deeper than the index was asked.
    """
    if not 1 <= k <= truth.found.shape[1]:
        raise UsageError(
            f"k = {k} is outside 1 to {truth.found.shape[1]}, the number of answers the index was asked for"
        )
    available = np.minimum(np.isfinite(truth.best).sum(axis=1), k)
    worst = np.take_along_axis(truth.best, np.maximum(available - 1, 0)[:, None], axis=1)
    right = (truth.found[:, :k] >= worst - np.float32(TIE)) & np.isfinite(truth.found[:, :k])
    return float(np.where(available > 0, right.sum(axis=1) / np.maximum(available, 1), 1.0).mean())


def measure_index(
    index: VectorIndex, vectors: Vectors, queries: Similarities, *, ks: Sequence[int] = REPORTED_KS
) -> AnnReport:
    """Return recall and latency of `index` over `vectors` (N, D) on unit `queries` (Q, D), at most 1,000 of them."""
    return _measured(
        index.kind,
        queries,
        _reachable(ks, len(vectors)),
        answer=lambda asked, k: index.search(asked, k)[1],
        blocks=lambda: [(np.arange(len(vectors)), vectors)],
    )


def measure_collection(
    snapshot: Snapshot, queries: Similarities, *, kind: Kind = "image", ks: Sequence[int] = REPORTED_KS
) -> AnnReport:
    """Return recall and latency of a collection's own index on unit `queries` (Q, D), at most 1,000 of them.

    The truth is exact search over what the collection holds, items whose file is missing included.

    Raises:
        UsageError: the collection holds nothing of that kind, or the queries come from another model.
    """
    if queries.shape[1] != snapshot.dim:
        raise UsageError(f"queries have {queries.shape[1]} dimensions, the collection {snapshot.dim}: not one model")
    everywhere = {root.id for root in snapshot.roots}

    def answer(asked: Similarities, k: int) -> Ids:
        found = np.full((len(asked), k), -1, np.int64)
        for row, near in enumerate(snapshot.search(asked, k, kind=kind, include_missing=everywhere)):
            found[row, : len(near)] = [candidate.id for candidate in near]
        return found

    kinds = sorted({segment.index.kind for segment in snapshot.segments if segment.info.kind == kind})
    size = sum(len(snapshot.live_rows(n)) for n, s in enumerate(snapshot.segments) if s.info.kind == kind)
    if not size:
        raise UsageError(f"the collection holds no {kind}, expected at least one to search among")
    return _measured(
        "+".join(kinds), queries, _reachable(ks, size), answer=answer, blocks=lambda: snapshot.blocks(kind)
    )


def _measured(
    index: str,
    queries: Similarities,
    ks: list[int],
    *,
    answer: Callable[[Similarities, int], Ids],
    blocks: Callable[[], Blocks],
) -> AnnReport:
    if not len(queries):
        raise UsageError("there are no queries to measure an index with, expected at least one")
    rows = spread(len(queries), MOST_QUERIES)
    asked = queries[rows]
    found = answer(asked, max(ks))
    truth = exact_truth(found, blocks(), asked)
    timed = asked[spread(len(asked), TIMED_QUERIES)]

    def search_everything(query: Similarities) -> None:
        for _, vectors in blocks():
            search_exact(vectors, query[np.newaxis], ks[0])

    return AnnReport(
        index=index,
        vectors=sum(len(ids) for ids, _ in blocks()),
        dim=asked.shape[1],
        asked=rows,
        found=found,
        similarities=np.minimum.accumulate(truth.found, axis=1),
        recall={k: ann_recall_at_k(truth, k) for k in ks},
        latency=latency_of(lambda query: answer(query[np.newaxis], ks[0]), timed),
        exact_latency=latency_of(search_everything, timed),
    )


def _reachable(ks: Sequence[int], size: int) -> list[int]:
    return sorted({min(k, size) for k in ks})
