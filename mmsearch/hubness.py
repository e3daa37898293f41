"""What is near to everything is found by everything: a correction for hubs, one number for each item.

An item's bias is its mean cosine to the few nearest of a bank of typical queries, and is taken off its cosine to a
query. Chowdhury et al. 2024, "Nearest Neighbor Normalization Improves Multimodal Retrieval", arXiv 2410.24114.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_COSINES_IN_MEMORY = 1 << 23  # 32 MB of float32


class HubnessBank:
    """A bank of typical queries `vectors` float32 (M, D), rows of length 1.

    The mean is over the `neighbours` nearest of them, and counts `strength` times.
    """

    def __init__(self, vectors: NDArray[np.float32], *, neighbours: int, strength: float) -> None:
        if vectors.ndim != 2 or not 1 <= neighbours <= len(vectors):
            raise ValueError(f"a bank of shape {vectors.shape} has no {neighbours} neighbours")
        self._vectors = vectors
        self._neighbours = neighbours
        self._strength = strength

    def bias(self, items: NDArray[np.float32]) -> NDArray[np.float32]:
        """What to take off the cosines of `items` float32 (n, D), rows of length 1: float32 (n,)."""
        biases = np.empty(len(items), np.float32)
        block = max(1, _COSINES_IN_MEMORY // len(self._vectors))
        for start in range(0, len(items), block):
            cosines = items[start : start + block] @ self._vectors.T
            nearest = np.partition(cosines, -self._neighbours, axis=1)[:, -self._neighbours :]
            biases[start : start + block] = nearest.mean(axis=1, dtype=np.float64) * self._strength
        return biases
