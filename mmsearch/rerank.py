"""From cosines to the final order: take off biases, look again at the best, put everything in one row of scores.

    corrected = cosine - bias
    block     = the best `candidates` by corrected
    score     = corrected + weight x logit                       inside the block
    score     = lowest of the block - (best of the rest - corrected)   below it

So the order follows the score everywhere, nothing outside the block comes before anything inside, and outside it the
differences of the corrected cosines stay what they were. Pure arithmetic in float64; the search and the evaluation
both go through these functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Rows = NDArray[np.int64]


def corrected(cosines: NDArray[np.float32], biases: NDArray[np.float32] | None) -> Scores:
    """`cosines` (..., n) less the `biases` (n,) of the items, float64; None for no correction."""
    wide = cosines.astype(np.float64)
    return wide if biases is None else wide - biases


def best_block(scores: Scores, size: int, *, last: NDArray[np.bool_] | None = None) -> Rows:
    """The rows of the `size` best of `scores` (n,), best first; all where there are fewer.

    Among equal scores the lowest rows come first, those that `last` (n,) marks behind all others.
    """
    size = min(size, len(scores))
    if size == 0:
        return np.empty(0, np.int64)
    edge = np.partition(scores, -size)[-size]
    near = np.flatnonzero(scores >= edge)
    behind = np.zeros(len(near), np.bool_) if last is None else last[near]
    return near[np.lexsort((near, behind, -scores[near]))][:size]


def rescored(scores: Scores, block: Rows, logits: NDArray[np.float32], weight: float) -> Scores:
    """Final scores (n,) of all items: those in `block` (b,) with `weight` times their `logits` (b,), the rest below.

    The order of the rest stays, and so do their distances from each other.
    """
    final = scores.copy()
    if len(block) == 0:
        return final
    final[block] += weight * logits.astype(np.float64)
    rest = np.ones(len(scores), np.bool_)
    rest[block] = False
    final[rest] = below(float(final[block].min()), scores[rest])
    return final


def below(floor: float, scores: Scores) -> Scores:
    """`scores` (n,) moved by one number, so that the best of them comes just under `floor`."""
    if len(scores) == 0:
        return scores
    # Just under, not level: a tie would leave open which of the two comes first.
    moved: Scores = np.nextafter(floor, -np.inf) - (scores.max() - scores)
    return moved


def by_score(scores: Scores) -> Rows:
    """Rows in falling order of `scores` (n,); equal scores keep the order they have."""
    return np.argsort(-scores, kind="stable")
