"""FAISS codes of vectors, and FAISS itself: imported when it is first needed, and by this module alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from mmsearch.exact_search import Vectors, unit_float32

_TRAINING_ROWS_A_LIST = 40
# Components that may share one 4-bit code, the preferred number first: three of 384 are 64 bytes a vector; two would
# find more and take longer. Of short vectors fewer share one, so that there are about a hundred codes of each.
_PART_WIDTHS = (3, 4, 2, 1)
_FEWEST_PARTS = 96
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


def ivfpq_codes(vectors: Vectors) -> Any:
    """Product-quantised codes of the vectors (N, D), 4 bits for each two to four components, in inverted lists.

    FAISS's fast-scan form (André, Kermarrec and Le Scouarnec 2017, "Quicker ADC", arXiv 1704.07355): a few hundred
    lists are read in the time that picking them takes, and a search can keep to a selection of rows. Codes are of the
    vectors themselves, not of what is left of them beside their list's centre: that found more of the truth.
    """
    faiss = faiss_module()
    dim = vectors.shape[1]
    lists = ivf_lists(len(vectors))
    centres = faiss.IndexFlat(dim, faiss.METRIC_INNER_PRODUCT)
    parts = ivf_parts(dim)
    codes = faiss.IndexIVFPQFastScan(centres, dim, lists, parts, 4, faiss.METRIC_INNER_PRODUCT)
    codes.own_fields = True
    centres.this.disown()
    codes.by_residual = False
    codes.cp.seed = codes.pq.cp.seed = _SEED
    # FAISS takes this many rows a list and warns below 39.
    codes.train(_finite(vectors[:: max(1, len(vectors) // (lists * _TRAINING_ROWS_A_LIST))]))
    _add_all(codes, vectors)
    return codes


def ivf_lists(rows: int) -> int:
    """How many inverted lists serve that many rows: a list and the list of lists then take about as long to read."""
    return max(1, round(2 * math.sqrt(rows)))


def ivf_parts(dim: int) -> int:
    """How many 4-bit codes stand for a vector of `dim` numbers."""
    widest = max(1, dim // _FEWEST_PARTS)
    return dim // next(width for width in _PART_WIDTHS if width <= widest and dim % width == 0)


def ivf_selection(selector: Any, probes: int) -> Any:
    """Search parameters: read the `probes` nearest lists, keep to what `selector` admits (None: everything)."""
    return faiss_module().SearchParametersIVF(sel=selector, nprobe=probes)


def _add_all(codes: Any, vectors: Vectors) -> None:
    for start in range(0, len(vectors), _BLOCK_ROWS):
        codes.add(_finite(vectors[start : start + _BLOCK_ROWS]))


def _finite(vectors: Vectors) -> npt.NDArray[np.float32]:
    """Unit vectors for FAISS, which refuses NaN; a row that only damage can explain is found by no search anyhow."""
    return np.nan_to_num(unit_float32(vectors), posinf=0.0, neginf=0.0)


@contextmanager
def faiss_threads(threads: int | None) -> Iterator[None]:
    """FAISS on so many threads, and on as many as before afterwards: they belong to the program around us, too."""
    if threads is None:
        yield
        return
    faiss = faiss_module()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def faiss_module() -> Any:
    """The package itself."""
    # Imported on first use: 60 ms that a collection of ten thousand photos never pays.
    import faiss

    return faiss
