"""All metrics of one direction by the names that JSON uses, each with the per-query values behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmsearch.eval import metrics, per_query
from mmsearch.eval.per_query import Values
from mmsearch.eval.ranks import Ranks
from mmsearch.eval.relevance import Rows
from mmsearch.eval.significance import MeanOf, MedianOf, Statistic

MEDIAN_RANK = "median_rank"
LOWER_IS_BETTER = frozenset({MEDIAN_RANK, "mean_rank"})

_AT_K: Mapping[str, tuple[Callable[[Ranks, int], float], Callable[[Ranks, int], Values]]] = {
    "recall": (metrics.recall_at_k, per_query.hit_at_k),
    "relevant_fraction": (metrics.relevant_fraction_at_k, per_query.relevant_fraction_at_k),
    "precision": (metrics.precision_at_k, per_query.precision_at_k),
    "ndcg": (metrics.ndcg_at_k, per_query.ndcg_at_k),
}
_WHOLE: Mapping[str, tuple[Callable[[Ranks], float], Callable[[Ranks], Values]]] = {
    MEDIAN_RANK: (metrics.median_rank, per_query.best_rank),
    "mean_rank": (metrics.mean_rank, per_query.best_rank),
    "mrr": (metrics.mrr, per_query.reciprocal_rank),
    "average_precision": (metrics.average_precision, per_query.average_precision),
    "map_at_r": (metrics.map_at_r, per_query.average_precision_at_r),
    "r_precision": (metrics.r_precision, per_query.r_precision),
}


@dataclass(frozen=True, slots=True)
class Direction:
    """The ranks of one direction; `cluster` (Q,) says which queries stand or fall together."""

    ranks: Ranks
    cluster: Rows

    def metrics(self, ks: Sequence[int]) -> dict[str, float]:
        """Return every metric: fractions, and ranks counted from 1. Keys are `recall@5`, `median_rank` and so on."""
        at_k = {f"{name}@{k}": metric(self.ranks, k) for name, (metric, _) in _AT_K.items() for k in ks}
        return at_k | {name: metric(self.ranks) for name, (metric, _) in _WHOLE.items()}

    def statistic(self, name: str) -> Statistic:
        """Return what the bootstrap resamples for the metric called `name`."""
        kind, _, k = name.partition("@")
        values = _AT_K[kind][1](self.ranks, int(k)) if k else _WHOLE[kind][1](self.ranks)
        return (MedianOf if name == MEDIAN_RANK else MeanOf)(values, self.cluster)


@dataclass(frozen=True, slots=True)
class BothDirections:
    """The ranks of one system in both directions; clusters are numbered from 0 to `clusters` - 1 across both."""

    text_to_image: Direction
    image_to_text: Direction
    clusters: int

    def can_have_mean_recall(self) -> bool:
        """Return whether both galleries are large enough for R@10."""
        return min(self.text_to_image.ranks.gallery, self.image_to_text.ranks.gallery) >= max(metrics.RSUM_KS)

    def mean_recall(self) -> float:
        """Return the mean of the six recalls."""
        return metrics.mean_recall(self.text_to_image.ranks, self.image_to_text.ranks)

    def mean_recall_statistics(self) -> list[Statistic]:
        """Return the six recalls whose mean it is."""
        directions = (self.text_to_image, self.image_to_text)
        return [direction.statistic(f"recall@{k}") for direction in directions for k in metrics.RSUM_KS]


def both_directions(
    text_to_image: Ranks, image_to_text: Ranks, *, caption_cluster: Rows, image_cluster: Rows
) -> BothDirections:
    """Return the two together; `caption_cluster` (C,) and `image_cluster` (I,) are of all captions and images.

    Clusters without any scored query are left out, so that resampling does not draw them.
    """
    of_texts, of_images = caption_cluster[text_to_image.queries], image_cluster[image_to_text.queries]
    names, numbers = np.unique(np.concatenate([of_texts, of_images]), return_inverse=True)
    return BothDirections(
        Direction(text_to_image, numbers[: len(of_texts)]),
        Direction(image_to_text, numbers[len(of_texts) :]),
        len(names),
    )
