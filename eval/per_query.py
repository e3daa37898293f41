"""The value of every metric for every scored query: what `mmsearch.eval.metrics` averages and the bootstrap resamples.

All take `Ranks` and return float64 (Q,) in [0, 1], in the order of `ranks.queries`. Formulas and sources are in
`metrics`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmsearch.errors import UsageError
from mmsearch.eval.ranks import Ranks

Values = npt.NDArray[np.float64]


def hit_at_k(ranks: Ranks, k: int) -> Values:
    """Return 1 where a positive is among the first `k`, else 0."""
    require_k(ranks, k)
    return (ranks.best <= k).astype(np.float64)


def relevant_fraction_at_k(ranks: Ranks, k: int) -> Values:
    """Return which share of the positives is among the first `k`."""
    return _found_at_k(ranks, k) / ranks.relevant


def precision_at_k(ranks: Ranks, k: int) -> Values:
    """Return which share of the first `k` places holds a positive; places left empty count as wrong."""
    return _found_at_k(ranks, k) / k


def best_rank(ranks: Ranks) -> Values:
    """Return the rank of the best positive, from 1; N + 1 where no positive was returned. Not a fraction."""
    require_depth(ranks, ranks.gallery, "the best rank of every query")
    return ranks.best.astype(np.float64)


def reciprocal_rank(ranks: Ranks) -> Values:
    """Return 1 over the best rank, 0 where no positive was returned."""
    require_depth(ranks, ranks.gallery, "the reciprocal rank")
    return np.where(ranks.best <= ranks.gallery, 1.0 / ranks.best, 0.0)


def reciprocal_rank_at_k(ranks: Ranks, k: int) -> Values:
    """Return 1 over the best rank, 0 where it is beyond `k`."""
    require_k(ranks, k)
    return np.where(ranks.best <= k, 1.0 / ranks.best, 0.0)


def average_precision(ranks: Ranks) -> Values:
    """Return the precision at the rank of each positive, averaged over all positives."""
    require_depth(ranks, ranks.gallery, "average precision")
    returned = ranks.positions <= ranks.gallery
    return _sum_per_query(ranks, np.where(returned, _precision_here(ranks), 0.0)) / ranks.relevant


def average_precision_at_r(ranks: Ranks) -> Values:
    """Return average precision over the first R places, R being the number of positives."""
    require_depth(ranks, int(ranks.relevant.max(initial=0)), "mAP@R")
    within = ranks.positions <= _relevant_of_position(ranks)
    return _sum_per_query(ranks, np.where(within, _precision_here(ranks), 0.0)) / ranks.relevant


def r_precision(ranks: Ranks) -> Values:
    """Return the precision at R, R being the number of positives."""
    require_depth(ranks, int(ranks.relevant.max(initial=0)), "R-precision")
    within = ranks.positions <= _relevant_of_position(ranks)
    return _sum_per_query(ranks, within.astype(np.float64)) / ranks.relevant


def ndcg_at_k(ranks: Ranks, k: int) -> Values:
    """Return the discounted gain of the first `k` places over the best that is possible."""
    require_k(ranks, k)
    gains = np.where(ranks.positions <= k, 1.0 / np.log2(1.0 + ranks.positions), 0.0)
    best_places = min(k, int(ranks.relevant.max(initial=0)))
    ideal = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(np.arange(2, best_places + 2)))))
    return _sum_per_query(ranks, gains) / ideal[np.minimum(ranks.relevant, best_places)]


def require_k(ranks: Ranks, k: int) -> None:
    """Refuse a `k` outside 1 to the size of the gallery, or deeper than the lists that were returned.

    Raises:
        UsageError: with k, and what it may be.
    """
    if not 1 <= k <= ranks.gallery:
        raise UsageError(f"k = {k} is outside 1 to {ranks.gallery}, the size of the gallery; ask for a smaller k")
    require_depth(ranks, k, f"a metric at k = {k}")


def require_depth(ranks: Ranks, depth: int, metric: str) -> None:
    """Refuse ranks that are not known down to `depth`.

    Raises:
        UsageError: naming the metric and both depths.
    """
    if ranks.depth < depth:
        raise UsageError(
            f"{metric} needs ranks down to {depth}, only the first {ranks.depth} were returned; return more per query"
        )


def _found_at_k(ranks: Ranks, k: int) -> Values:
    require_k(ranks, k)
    return _sum_per_query(ranks, (ranks.positions <= k).astype(np.float64))


def _sum_per_query(ranks: Ranks, values: Values) -> Values:
    # Every scored query has a positive, so no segment is empty (reduceat would repeat a value there).
    return np.add.reduceat(values, ranks.offsets[:-1]) if len(ranks.queries) else np.empty(0)


def _precision_here(ranks: Ranks) -> Values:
    """Return the precision at the rank of each positive: how many positives stand there or before, over the rank."""
    within_query = np.arange(len(ranks.positions)) - np.repeat(ranks.offsets[:-1], ranks.relevant)
    return (within_query + 1) / ranks.positions


def _relevant_of_position(ranks: Ranks) -> npt.NDArray[np.int64]:
    return np.repeat(ranks.relevant, ranks.relevant)
