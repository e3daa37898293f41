"""Retrieval metrics as the field defines them, each a mean over the queries that have a positive.

`q` is a query, `N` the size of the gallery, `P_q` the positives, `R_q` their number, `rel_i` 1 if the item at rank
`i` is a positive, `r_q` the rank of the best positive under the tie rule of `mmsearch.eval.ranks`. All functions take
`Ranks` and return fractions in [0, 1] unless they say otherwise.

They raise `UsageError` when no query has a positive, when k is outside 1 to N, and when the ranks are not known deep
enough.

What papers on image and caption retrieval print as "R@K" is `recall_at_k`, the hit rate. What information retrieval
calls recall is `relevant_fraction_at_k`: with five captions an image it cannot exceed 0.2 at k = 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmsearch.errors import UsageError
from mmsearch.eval import per_query
from mmsearch.eval.ranks import Ranks

RSUM_KS = (1, 5, 10)


def recall_at_k(ranks: Ranks, k: int) -> float:
    """Return the hit rate, the mean of [r_q <= k].

    Hodosh, Young and Hockenmaier 2013, "Framing Image Description as a Ranking Task", JAIR 47 (R@k); called Success@k
    by trec_eval and hit rate by ranx.
    """
    return _mean(per_query.hit_at_k(ranks, k))


def relevant_fraction_at_k(ranks: Ranks, k: int) -> float:
    """Return the mean of sum(rel_1..rel_k) / R_q.

    Manning, Raghavan and Schütze 2008, "Introduction to Information Retrieval", section 8.3 (recall, cut at k).
    """
    return _mean(per_query.relevant_fraction_at_k(ranks, k))


def precision_at_k(ranks: Ranks, k: int) -> float:
    """Return the mean of sum(rel_1..rel_k) / k; the divisor stays k where fewer items were returned.

    Manning, Raghavan and Schütze 2008, section 8.4 (precision at k).
    """
    return _mean(per_query.precision_at_k(ranks, k))


def median_rank(ranks: Ranks) -> float:
    """Return the median of r_q, counted from 1, the mean of the two middle values for an even number of queries.

    A query without an answer has r_q = N + 1. Hodosh, Young and Hockenmaier 2013, JAIR 47 (median rank).
    """
    best = per_query.best_rank(ranks)
    return float(np.median(best)) if len(best) else _mean(best)


def mean_rank(ranks: Ranks) -> float:
    """Return the mean of r_q, counted from 1. The worst queries dominate it; read it next to the median.

    A query without an answer has r_q = N + 1. Faghri et al. 2018, "VSE++", arXiv 1707.05612 (its evaluation prints it
    as meanr).
    """
    return _mean(per_query.best_rank(ranks))


def mrr(ranks: Ranks) -> float:
    """Return the mean reciprocal rank, the mean of 1 / r_q, with 0 for a query without an answer.

    Voorhees 1999, "The TREC-8 Question Answering Track Report", TREC 8.
    """
    return _mean(per_query.reciprocal_rank(ranks))


def mrr_at_k(ranks: Ranks, k: int) -> float:
    """Return the mean of 1 / r_q with 0 where r_q > k.

    Voorhees 1999, TREC 8, which cut at five.
    """
    return _mean(per_query.reciprocal_rank_at_k(ranks, k))


def average_precision(ranks: Ranks) -> float:
    """Return mean average precision: the mean of (1 / R_q) * sum over i of P@i * rel_i.

    Manning, Raghavan and Schütze 2008, equation 8.8 (MAP).
    """
    return _mean(per_query.average_precision(ranks))


def map_at_r(ranks: Ranks) -> float:
    """Return mAP@R: the mean of (1 / R_q) * sum over i = 1..R_q of P@i * rel_i.

    Musgrave, Belongie and Lim 2020, "A Metric Learning Reality Check", arXiv 2003.08505; used for
    captions by Chun et al. 2022, "ECCV Caption", arXiv 2204.03359.
    """
    return _mean(per_query.average_precision_at_r(ranks))


def r_precision(ranks: Ranks) -> float:
    """Return R-precision, the mean of sum(rel_1..rel_R) / R with R = R_q.

    Manning, Raghavan and Schütze 2008, section 8.4 (R-precision).
    """
    return _mean(per_query.r_precision(ranks))


def ndcg_at_k(ranks: Ranks, k: int) -> float:
    """Return nDCG@k, the mean of DCG / IDCG.

    DCG = sum over i <= k of rel_i / log2(i + 1); IDCG is the same for min(k, R_q) ones.

    Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20(4), with the
    discount that trec_eval uses. Linear and exponential gain are the same for binary relevance.
    """
    return _mean(per_query.ndcg_at_k(ranks, k))


def rsum(text_to_image: Ranks, image_to_text: Ranks) -> float:
    """Return R@1 + R@5 + R@10 of both directions in per cent, 0 to 600.

    Summed like this since Karpathy's splits came into use; for example Faghri et al. 2018, "VSE++", arXiv 1707.05612.
    """
    return 100.0 * sum(recall_at_k(ranks, k) for ranks in (text_to_image, image_to_text) for k in RSUM_KS)


def mean_recall(text_to_image: Ranks, image_to_text: Ranks) -> float:
    """Return the mean of the six recalls that `rsum` adds, as a fraction. Also called r_mean or mR."""
    return rsum(text_to_image, image_to_text) / 600.0


def _mean(values: npt.NDArray[np.float64]) -> float:
    if not len(values):
        raise UsageError("no query has a positive in the gallery, expected at least one: there is nothing to average")
    return float(values.mean())
