"""Which queries stand or fall together: the images of a set, with all captions of each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def clusters(pairs: Rows, *, images: int, captions: int) -> tuple[Rows, Rows]:
    """Return the cluster of every image (I,) and of every caption (C,), numbered from 0.

    `pairs` (P, 2) holds (image row, caption row). Normally a cluster is one image with its captions. Where a caption
    belongs to several images, these images are one cluster: the smallest groups that share nothing with each other.
    """
    label = np.arange(images + captions)
    left, right = pairs[:, 0], images + pairs[:, 1]
    while True:
        lowest = np.minimum(label[left], label[right])
        update = label.copy()
        np.minimum.at(update, left, lowest)
        np.minimum.at(update, right, lowest)
        update = update[update]
        if np.array_equal(update, label):
            break
        label = update
    numbered = np.unique(label, return_inverse=True)[1].astype(np.int64)
    return numbered[:images], numbered[images:]
