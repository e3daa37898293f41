"""The adversarial cases that our metrics, a naive oracle and public implementations are compared on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsearch.eval.metrics import (
    average_precision,
    map_at_r,
    mean_rank,
    median_rank,
    mrr,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    r_precision,
    recall_at_k,
    relevant_fraction_at_k,
)
from mmsearch.eval.ranks import Ranks, rank_scores
from mmsearch.eval.relevance import Relevance, relevance_from_pairs


@dataclass(frozen=True)
class Case:
    """Scores float64 (Q, N), the positives of every query, and the k to cut at."""

    scores: npt.NDArray[np.float64]
    positives: tuple[frozenset[int], ...]
    k: int

    def relevance(self) -> Relevance:
        pairs = [(query, item) for query, items in enumerate(self.positives) for item in items]
        return relevance_from_pairs(pairs, queries=len(self.positives), gallery=self.scores.shape[1])

    def ranks(self) -> Ranks:
        return rank_scores(self.scores, self.relevance())


def our_metrics(ranks: Ranks, k: int) -> dict[str, float]:
    """Return what the product computes, under the names the oracle uses."""
    return {
        "recall_at_k": recall_at_k(ranks, k),
        "relevant_fraction_at_k": relevant_fraction_at_k(ranks, k),
        "precision_at_k": precision_at_k(ranks, k),
        "mean_rank": mean_rank(ranks),
        "median_rank": median_rank(ranks),
        "mrr": mrr(ranks),
        "mrr_at_k": mrr_at_k(ranks, k),
        "average_precision": average_precision(ranks),
        "map_at_r": map_at_r(ranks),
        "r_precision": r_precision(ranks),
        "ndcg_at_k": ndcg_at_k(ranks, k),
        "tie_rate": ranks.tie_rate,
    }


def tie_free_cases() -> dict[str, Case]:
    """Return the cases public implementations can be compared on: no ties, and a copy with all scores above zero.

    Scores are whole multiples of 1/1024 in random order, exact in every precision an implementation may choose.
    """
    cases = {
        "one_positive": _case(seed=1, queries=60, gallery=40, counts=(1, 1), k=5),
        "five_positives": _case(seed=2, queries=30, gallery=60, counts=(5, 5), k=10),
        "ragged_positives": _case(seed=3, queries=40, gallery=35, counts=(1, 7), k=5),
        "k_is_the_gallery": _case(seed=4, queries=20, gallery=12, counts=(1, 4), k=12),
        "k_is_one": _case(seed=5, queries=40, gallery=30, counts=(1, 5), k=1),
        "good_scorer": _case(seed=6, queries=50, gallery=50, counts=(1, 3), k=10, favour=30),
    }
    negative = _case(seed=7, queries=30, gallery=30, counts=(1, 3), k=5)
    return {**cases, "negative_scores": Case(negative.scores - 1.0, negative.positives, negative.k)}


def caption_case(*, images: int, captions_each: int, k: int) -> Case:
    """Return captions as queries over images, each caption right for one image, the captions of an image adjacent."""
    rng = np.random.default_rng(8)
    queries = images * captions_each
    scores = rng.permuted(np.tile(np.arange(images), (queries, 1)), axis=1) / 1024.0
    own = np.arange(queries) // captions_each
    scores[np.arange(queries), own] += 20 / 1024.0 + 1 / 4096.0
    return Case(scores, tuple(frozenset({int(image)}) for image in own), k)


def hostile_cases() -> dict[str, Case]:
    """Return the cases only a definition can settle: ties, duplicated items, unanswered queries, no positive at all."""
    rng = np.random.default_rng(11)
    positives = _positives(rng, queries=30, gallery=20, counts=(1, 4))
    coarse = rng.integers(0, 4, (30, 20)) / 4.0
    doubled = np.repeat(rng.permuted(np.tile(np.arange(10) / 8.0, (30, 1)), axis=1), 2, axis=1)
    unanswered = rng.permuted(np.tile(np.arange(20) / 8.0, (30, 1)), axis=1)
    unanswered[::3] = -np.inf
    partly = np.where(rng.random((30, 20)) < 0.6, -np.inf, unanswered)
    some_without = tuple(frozenset() if i % 4 == 0 else items for i, items in enumerate(positives))
    return {
        "constant_scorer": Case(np.zeros((30, 20)), positives, 5),
        "coarse_ties": Case(coarse, positives, 3),
        "doubled_gallery_items": Case(doubled, positives, 5),
        "unanswered_queries": Case(unanswered, positives, 5),
        "partly_unanswered": Case(partly, positives, 20),
        "queries_without_positives": Case(coarse, some_without, 5),
        "everything_is_right": Case(coarse, (frozenset(range(20)),) * 30, 20),
        "one_item": Case(np.ones((3, 1)), (frozenset({0}),) * 3, 1),
    }


def _case(*, seed: int, queries: int, gallery: int, counts: tuple[int, int], k: int, favour: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    positives = _positives(rng, queries=queries, gallery=gallery, counts=counts)
    scores = rng.permuted(np.tile(np.arange(1, gallery + 1), (queries, 1)), axis=1) / 1024.0
    for row, items in enumerate(positives):
        for item in items:
            scores[row, item] += favour / 1024.0 + 1 / 4096.0  # off the grid of the others: no new tie
    return Case(scores, positives, k)


def _positives(
    rng: np.random.Generator, *, queries: int, gallery: int, counts: tuple[int, int]
) -> tuple[frozenset[int], ...]:
    low, high = counts
    return tuple(
        frozenset(rng.choice(gallery, size=int(rng.integers(low, high + 1)), replace=False).tolist())
        for _ in range(queries)
    )
