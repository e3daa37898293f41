"""One direction of a search inside a set: who asks, and among what.

for side in whole_sides(embedded):
    ranks = rank_side(embedded, side)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mmsearch.eval.datasets import Direction
from mmsearch.eval.embeddings import Embedded, Embeddings
from mmsearch.eval.folds import split_into_folds
from mmsearch.eval.ranks import Floats, Ranks, rank_embeddings
from mmsearch.eval.relevance import Relevance, Rows, relevance_from_pairs


@dataclass(frozen=True, slots=True)
class Side:
    """The `queries` (Q,) and the `gallery` (N,) as rows of the captions and images of a set, and what is right."""

    direction: Direction
    queries: Rows
    gallery: Rows
    relevance: Relevance

    def embeddings(self, embedded: Embedded) -> tuple[Embeddings, Embeddings]:
        """Return the embeddings of queries (Q, D) and gallery (N, D)."""
        asking, among = embedded.captions, embedded.images
        if self.direction == "image_to_text":
            asking, among = among, asking
        return asking[self.queries], among[self.gallery]


class Rescoring(Protocol):
    """What makes final scores of cosines."""

    def scores(self, cosines: Embeddings, first: int) -> Floats:
        """Return the final scores (q, N) of the queries from row `first` on, whose cosines are (q, N)."""


def whole_sides(embedded: Embedded) -> tuple[Side, Side]:
    """Return all captions asking for all images, and the other way round."""
    dataset = embedded.dataset
    images, captions = np.arange(len(dataset.image_ids)), np.arange(len(dataset.captions))
    return (
        Side("text_to_image", captions, images, dataset.relevance("text_to_image")),
        Side("image_to_text", images, captions, dataset.relevance("image_to_text")),
    )


def fold_sides(embedded: Embedded, folds: int) -> list[Side]:
    """Return both directions of each of `folds` equal parts of the set, in the order of the file.

    Raises:
        UsageError: the images cannot be split evenly.
    """
    dataset = embedded.dataset
    sides = []
    for fold in split_into_folds(dataset.pairs, dataset.file_order, folds):
        images, captions = len(fold.images), len(fold.captions)
        forward = relevance_from_pairs(fold.pairs[:, ::-1], queries=captions, gallery=images)
        back = relevance_from_pairs(fold.pairs, queries=images, gallery=captions)
        sides.append(Side("text_to_image", fold.captions, fold.images, forward))
        sides.append(Side("image_to_text", fold.images, fold.captions, back))
    return sides


def rank_side(embedded: Embedded, side: Side, rescoring: Rescoring | None = None) -> Ranks:
    """Return the ranks of one side, by cosine or by what `rescoring` makes of it."""
    queries, gallery = side.embeddings(embedded)
    adjust = None if rescoring is None else rescoring.scores
    return rank_embeddings(queries, gallery, side.relevance, adjust=adjust)
