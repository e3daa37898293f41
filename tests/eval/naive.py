"""Every metric straight from its definition, query by query, item by item: slow and obvious."""

from __future__ import annotations

import math
from collections.abc import Sequence

Number = float | None


def ranking(scores: Sequence[float], positives: set[int]) -> list[int]:
    """Return the items as the system returns them: falling scores, in a tie the wrong ones first, then by row."""
    returned = [item for item in range(len(scores)) if scores[item] != -math.inf]
    return sorted(returned, key=lambda item: (-scores[item], item in positives, item))


def query_metrics(scores: Sequence[float], positives: set[int], k: int) -> dict[str, float]:
    """Return every metric of one query."""
    order = ranking(scores, positives)
    relevant = [1 if item in positives else 0 for item in order]
    best = next((i + 1 for i, rel in enumerate(relevant) if rel), None)
    count = len(positives)

    def precision(i: int) -> float:
        return sum(relevant[:i]) / i

    def averaged(depth: int) -> float:
        return sum(precision(i + 1) * rel for i, rel in enumerate(relevant[:depth])) / count

    gain = sum(rel / math.log2(i + 2) for i, rel in enumerate(relevant[:k]))
    ideal = sum(1 / math.log2(i + 2) for i in range(min(k, count)))
    return {
        "recall_at_k": float(best is not None and best <= k),
        "relevant_fraction_at_k": sum(relevant[:k]) / count,
        "precision_at_k": sum(relevant[:k]) / k,
        "rank": float(len(scores) + 1 if best is None else best),
        "mrr": 0.0 if best is None else 1 / best,
        "mrr_at_k": 0.0 if best is None or best > k else 1 / best,
        "average_precision": averaged(len(relevant)),
        "map_at_r": averaged(count),
        "r_precision": sum(relevant[:count]) / count,
        "ndcg_at_k": gain / ideal,
        "tied": float(is_tied(scores, positives)),
    }


def is_tied(scores: Sequence[float], positives: set[int]) -> bool:
    """Return whether the best positive shares its score with an item that is none."""
    best = max(scores[item] for item in positives)
    return best != -math.inf and any(scores[item] == best for item in range(len(scores)) if item not in positives)


def metrics(scores: Sequence[Sequence[float]], positives: Sequence[set[int]], k: int) -> dict[str, float]:
    """Return every metric over the queries that have a positive."""
    rows = [query_metrics(s, p, k) for s, p in zip(scores, positives, strict=True) if p]
    result = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    ranks = sorted(row["rank"] for row in rows)
    middle = len(ranks) // 2
    result["mean_rank"] = result.pop("rank")
    result["tie_rate"] = result.pop("tied")
    result["median_rank"] = ranks[middle] if len(ranks) % 2 else (ranks[middle - 1] + ranks[middle]) / 2
    return result
