"""Ranks -> the numbers of a record: metrics with intervals in both directions, and means over folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmsearch.eval.clusters import clusters
from mmsearch.eval.embeddings import Embedded
from mmsearch.eval.metrics import RSUM_KS
from mmsearch.eval.record import DirectionScores, FoldScores
from mmsearch.eval.scores import BothDirections, Direction, both_directions
from mmsearch.eval.sides import Rescoring, fold_sides, rank_side, whole_sides
from mmsearch.eval.significance import FEWEST_CLUSTERS, Interval, interval, resample

DEFAULT_KS = RSUM_KS


@dataclass(frozen=True, slots=True)
class Scores:
    """Both directions and the mean of the six recalls, None where a gallery is too small for R@10."""

    text_to_image: DirectionScores
    image_to_text: DirectionScores
    mean_recall: float | None
    mean_recall_interval: Interval | None


def rank_both(embedded: Embedded, rescoring: Sequence[Rescoring] | None = None) -> BothDirections:
    """Return the ranks in both directions, with the clusters for the bootstrap.

    `rescoring` holds what makes final scores of the cosines in either of `whole_sides`, None for the plain cosine.
    """
    dataset = embedded.dataset
    image_cluster, caption_cluster = clusters(
        dataset.pairs, images=len(dataset.image_ids), captions=len(dataset.captions)
    )
    sides = whole_sides(embedded)
    texts, images = (rank_side(embedded, *each) for each in zip(sides, rescoring or (None, None), strict=True))
    return both_directions(texts, images, caption_cluster=caption_cluster, image_cluster=image_cluster)


def score(ranks: BothDirections, ks: tuple[int, ...] | None, *, resamples: int, seed: int) -> Scores:
    """Return all metrics at `ks`, None for 1, 5 and 10 where the gallery is as large.

    All intervals come from the same resamples.

    Raises:
        UsageError: one of `ks` is larger than a gallery, or no query has anything relevant.
    """
    directions = (ranks.text_to_image, ranks.image_to_text)
    metrics = [direction.metrics(_fitting(ks, direction)) for direction in directions]
    mean_recall = ranks.mean_recall() if ranks.can_have_mean_recall() else None
    found: list[dict[str, Interval]] = [{}, {}]
    mean_recall_interval = None
    if ranks.clusters >= FEWEST_CLUSTERS:
        names = [(side, name) for side in (0, 1) for name in metrics[side]]
        statistics = [directions[side].statistic(name) for side, name in names]
        six = ranks.mean_recall_statistics() if mean_recall is not None else []
        draws = resample([*statistics, *six], clusters=ranks.clusters, resamples=resamples, seed=seed)
        for column, (side, name) in enumerate(names):
            found[side][name] = interval(draws[:, column])
        if six:
            mean_recall_interval = interval(draws[:, len(names) :].mean(axis=1))
    texts, images = (_direction_scores(*each) for each in zip(directions, metrics, found, strict=True))
    return Scores(texts, images, mean_recall, mean_recall_interval)


def score_folds(
    embedded: Embedded, ks: tuple[int, ...] | None, folds: int, rescoring: Sequence[Rescoring] | None = None
) -> FoldScores:
    """Return the metrics on each of `folds` equal parts, in the order of the file, averaged over the parts.

    `rescoring` holds what makes final scores of the cosines on each of `fold_sides`, None for the plain cosine.

    Raises:
        UsageError: the images cannot be split evenly, or a part is smaller than one of `ks`.
    """
    sides = fold_sides(embedded, folds)
    found: dict[str, list[dict[str, float]]] = {"text_to_image": [], "image_to_text": []}
    for number, side in enumerate(sides):
        ranks = rank_side(embedded, side, None if rescoring is None else rescoring[number])
        direction = Direction(ranks, ranks.queries)
        found[side.direction].append(direction.metrics(_fitting(ks, direction)))
    images = len(embedded.dataset.image_ids) // folds
    return FoldScores(folds, images, _mean_of(found["text_to_image"]), _mean_of(found["image_to_text"]))


def _mean_of(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0] if all(name in p for p in parts)}


def _fitting(ks: tuple[int, ...] | None, direction: Direction) -> tuple[int, ...]:
    if ks is not None:
        return tuple(sorted(set(ks)))
    return tuple(k for k in DEFAULT_KS if k <= direction.ranks.gallery)


def _direction_scores(
    direction: Direction, metrics: dict[str, float], intervals: dict[str, Interval]
) -> DirectionScores:
    ranks = direction.ranks
    return DirectionScores(
        metrics=metrics,
        intervals=intervals,
        queries=len(ranks.queries),
        gallery=ranks.gallery,
        excluded=len(ranks.excluded),
        tie_rate=ranks.tie_rate,
    )
