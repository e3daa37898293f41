"""FAISS codes of vectors, and FAISS itself: imported when it is first needed, and by this module alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmsearch.exact_search import Vectors, unit_float32

_TRAINING_ROWS = 20_000
_BLOCK_ROWS = 16_384
_SEED = 20_180


def sqfp16_codes(vectors: Vectors) -> Any:
    """Flat float16 codes of the vectors (N, D)."""
    faiss = faiss_module()
    codes = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    if vectors.dtype == np.float16:
        # The codes are the very bytes of the vectors: copying them is all there is to do when a snapshot is opened.
        codes.add_sa_codes(vectors.view(np.uint8))
    else:
        _add_all(codes, vectors)
    return codes


def rabitq_codes(vectors: Vectors) -> Any:
    """1-bit RaBitQ fast-scan codes (Gao and Long 2024, arXiv 2405.12497) of the vectors, rotated at random and centred.

    One inverted list around the mean serves as the centre: unlike FAISS's flat variant this one can search a selection
    of rows. Without the rotation, vectors whose variance sits in few components lose up to half of their recall.
    """
    faiss = faiss_module()
    dim = vectors.shape[1]
    sample = unit_float32(vectors[:: max(1, len(vectors) // _TRAINING_ROWS)])
    rotation = faiss.RandomRotationMatrix(dim, dim)
    rotation.init(_SEED)
    centre = faiss.IndexFlat(dim, faiss.METRIC_INNER_PRODUCT)
    centre.add(rotation.apply(sample).mean(axis=0, keepdims=True))
    coded = faiss.IndexIVFRaBitQFastScan(centre, dim, 1, faiss.METRIC_INNER_PRODUCT)
    codes = faiss.IndexPreTransform(rotation, coded)
    coded.own_fields = codes.own_fields = True
    for part in (centre, coded, rotation):
        part.this.disown()
    codes.train(sample)
    _add_all(codes, vectors)
    return codes


def _add_all(codes: Any, vectors: Vectors) -> None:
    for start in range(0, len(vectors), _BLOCK_ROWS):
        codes.add(unit_float32(vectors[start : start + _BLOCK_ROWS]))


def set_threads(threads: int | None) -> None:
    """Let FAISS use so many threads; None leaves what it has."""
    if threads is not None:
        faiss_module().omp_set_num_threads(threads)


def faiss_module() -> Any:
    """The package itself."""
    # Imported on first use: 60 ms that a collection of ten thousand photos never pays.
    import faiss

    return faiss
