"""What storage tests share: a disk that is not waited for (tests that are about syncing watch the calls), vectors in
bunches, a snapshot with a FAISS file.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from storage_builders import CLUSTERED_SHAPE, publish, segment_row, unit_vectors

from mmsearch import segment_writer


@pytest.fixture(autouse=True)
def unsynced_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync that returns at once: durability is not what a test can see, and waiting for it takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def clustered() -> npt.NDArray[np.float16]:
    """Vectors around 300 centres whose variance sits in few components, with 40 copies of each of three of them."""
    rows, dim = CLUSTERED_SHAPE
    random = np.random.default_rng(1)
    spread = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    centres = unit_vectors(300, dim=dim) * spread
    vectors = centres[random.integers(0, 300, rows)] + 0.5 * unit_vectors(rows, dim=dim, seed=2) * spread
    vectors[random.permutation(rows)[:120]] = np.repeat(vectors[:3], 40, axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16)


@pytest.fixture
def indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One segment with a FAISS file."""
    monkeypatch.setattr("mmsearch.vector_index.EXACT_MAX_ROWS", 100)
    monkeypatch.setattr("mmsearch.vector_index.SQFP16_MAX_ROWS", 100)
    monkeypatch.setattr(segment_writer, "FLOAT32_MAX_ROWS", 100)
    publish(tmp_path, [segment_row(id) for id in range(1, 2001)])
    return tmp_path
