"""What is near to everything is found by everything: a correction for hubs, one number for each item.

An item's bias is its mean cosine to the few nearest of a bank of typical queries, and is taken off its cosine to a
query. Chowdhury et al. 2024, "Nearest Neighbor Normalization Improves Multimodal Retrieval", arXiv 2410.24114.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import ModelError
from mmsearch.model_facts import Direction
from mmsearch.model_manifest import ModelManifest
from mmsearch.npy_files import read_npy_rows
from mmsearch.safe_text import safe_text

_COSINES_IN_MEMORY = 1 << 23  # 32 MB of float32
_BANK_DTYPE = np.dtype("<f2")
# float16 keeps the length of a unit vector to about one part in two thousand.
_BANK_TOLERANCE = 0.01


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


def read_bank(manifest: ModelManifest, direction: Direction) -> NDArray[np.float32]:
    """The bank (M, dim) of `direction`, which the manifest has, each row of length 1.

    Raises:
        ModelError: the file is not the one that is pinned, or no such bank.
    """
    facts = manifest.hubness[direction]
    try:
        bank = read_npy_rows(manifest.read(facts.bank), _BANK_DTYPE, manifest.dim).astype(np.float32)
        lengths = np.linalg.norm(bank, axis=1, keepdims=True)
        if len(bank) < facts.neighbours:
            raise ValueError(f"it has {len(bank)} rows, fewer than the {facts.neighbours} neighbours asked for")
        # Written so that a length that is not a number fails it too.
        if not np.all(np.abs(lengths - 1) <= _BANK_TOLERANCE):
            raise ValueError("its rows are not all finite and of length 1")
    except ValueError as error:
        raise ModelError(f"model '{safe_text(manifest.name)}': {safe_text(facts.bank)} is no bank: {error}") from error
    return np.asarray(bank / lengths, np.float32)
