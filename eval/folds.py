"""Equal parts of a set, each its own gallery, as the "COCO 1K" protocol wants: five folds of a thousand images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmsearch.errors import UsageError
from mmsearch.eval.relevance import Rows


@dataclass(frozen=True, slots=True)
class Fold:
    """Some images with their captions. `pairs` (P, 2) holds (place in `images`, place in `captions`)."""

    images: Rows
    captions: Rows
    pairs: Rows


def split_into_folds(pairs: Rows, image_order: Rows, folds: int) -> tuple[Fold, ...]:
    """Return `folds` consecutive parts of the images in `image_order`, each with the captions that belong to it.

    Numbers on folds are far higher than on the whole set and never to be compared with those (Karpathy and Fei-Fei
    2015, "Deep Visual-Semantic Alignments for Generating Image Descriptions", arXiv 1412.2306, introduced the 1K
    setting).

    Raises:
        UsageError: the images cannot be divided into that many equal parts.
    """
    if folds < 1 or len(image_order) % folds:
        raise UsageError(f"{len(image_order)} images cannot be split into {folds} equal folds")
    parts = []
    for images in np.split(image_order, folds):
        place = np.full(int(image_order.max(initial=-1)) + 1, -1)
        place[images] = np.arange(len(images))
        own = pairs[place[pairs[:, 0]] >= 0]
        captions, caption_place = np.unique(own[:, 1], return_inverse=True)
        parts.append(Fold(images, captions, np.stack([place[own[:, 0]], caption_place], axis=1)))
    return tuple(parts)
