"""The nearest rows of one block of vectors: exact for small blocks, FAISS for large ones; the only importer of faiss.

Whatever the kind, similarities are recomputed from the vectors themselves (`exact_search`), so kinds differ in speed
and in which rows they may miss, never in a number. The codes in a FAISS file only speed things up; they can be made
again from the vectors at any time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from mmsearch.exact_search import (
    PRESELECT_TOLERANCE,
    Vectors,
    best_rows,
    exact_similarities,
    search_exact,
    unit_float32,
)
from mmsearch.index_recall import found_fraction, sample_queries

IndexKind = Literal["exact", "sqfp16", "rabitq"]
INDEX_KINDS: tuple[IndexKind, ...] = get_args(IndexKind)

# One pass over 10k float32 vectors of 512 components takes numpy 1.4 ms, less than importing faiss would.
EXACT_MAX_ROWS = 10_000
SQFP16_MAX_ROWS = 200_000
# Below this, gathering the admitted rows is as quick as any index and misses nothing.
_FEW_ALLOWED = 4096
_TRAINING_ROWS = 20_000
_BLOCK_ROWS = 16_384
_SEED = 20_180

RECALL_K = 10
RECALL_WANTED = 0.99
_K_FACTORS = (3, 10, 30, 100, 300)

# How far the difference of two scores may be from that of their similarities. Rounding to float16 changes a unit vector
# by at most 2^-11 of its length; 1-bit codes are estimates, for which only exact ties are kept together.
_SCORE_ERROR: dict[IndexKind, float] = {"sqfp16": 2.0**-10, "rabitq": PRESELECT_TOLERANCE}

_log = logging.getLogger(__name__)

Similarities = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What one index is: its kind, how many candidates it takes per wanted row, its measured recall at 10."""

    kind: IndexKind
    k_factor: int = 1
    recall: float = 1.0

    @property
    def needs_file(self) -> bool:
        """True when the index cannot be had from the vectors in a moment, so that it is stored."""
        return self.kind == "rabitq"


class VectorIndex(Protocol):
    """Nearest rows among N vectors."""

    @property
    def info(self) -> IndexInfo: ...

    @property
    def kind(self) -> IndexKind: ...

    def search(
        self, queries: Similarities, k: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Similarities, Rows]:
        """The `k` nearest rows to each query (Q, D) float32: similarities (Q, k) float32 and rows (Q, k) int64.

        Similarities are exact dot products. Order: similarity descending, then row ascending; filled up with -inf and
        -1. Only rows that `allowed` (N,) admits are found.
        """
        ...


class ExactIndex:
    """Looks at every row; needs neither a file nor faiss."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors
        self.info = IndexInfo("exact")

    @property
    def kind(self) -> IndexKind:
        return self.info.kind

    def search(
        self, queries: Similarities, k: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Similarities, Rows]:
        return search_exact(self._vectors, queries, k, allowed)


class FaissIndex:
    """FAISS proposes `k * k_factor` candidates; the vectors themselves decide among them."""

    def __init__(self, vectors: Vectors, codes: Any, info: IndexInfo, *, threads: int | None = None) -> None:
        self._vectors = vectors
        self._codes = codes
        self._threads = threads
        self.info = info

    @property
    def kind(self) -> IndexKind:
        return self.info.kind

    def search(
        self, queries: Similarities, k: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Similarities, Rows]:
        admitted = len(self._vectors) if allowed is None else int(np.count_nonzero(allowed))
        similarities = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.int64)
        selection = self._selection(allowed)
        waiting = np.arange(len(queries))
        wanted = max(k, RECALL_K) * self.info.k_factor
        while len(waiting) and wanted * 4 < admitted and admitted > _FEW_ALLOWED:
            complete = self._propose(queries, waiting, wanted, selection, (similarities, rows))
            waiting = waiting[~complete]
            wanted *= 4
        if len(waiting):
            similarities[waiting], rows[waiting] = search_exact(self._vectors, queries[waiting], k, allowed)
        return similarities, rows

    def _propose(
        self, queries: Similarities, asked: Rows, wanted: int, selection: Any, answers: tuple[Similarities, Rows]
    ) -> npt.NDArray[np.bool_]:
        """Answer the queries numbered `asked` from `wanted` candidates each; true where no tie can have been cut."""
        _set_threads(self._threads)
        scores, candidates = self._codes.search(np.ascontiguousarray(queries[asked]), wanted, params=selection)
        complete = np.empty(len(asked), np.bool_)
        k = answers[0].shape[1]
        for place, number in enumerate(asked):
            found = candidates[place] >= 0
            similarities = exact_similarities(self._vectors, candidates[place][found], queries[number])
            best = best_rows(candidates[place][found], similarities, k)
            answers[0][number], answers[1][number] = best
            # Equal vectors have equal codes and so equal scores. A tie with the k-th best is cut off by the end of the
            # candidates only when the worst of all scores is one of its own.
            tied = scores[place][found][similarities == best[0][-1]]
            complete[place] = len(tied) > 0 and scores[place].min() < tied.min() - _SCORE_ERROR[self.kind]
        return complete

    def _selection(self, allowed: npt.NDArray[np.bool_] | None) -> Any:
        if allowed is None:
            return None
        faiss = _faiss()
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if self.kind == "sqfp16":
            return faiss.SearchParameters(sel=selector)
        return faiss.SearchParametersPreTransform(index_params=faiss.SearchParametersIVF(sel=selector, nprobe=1))

    def save(self, path: Path) -> None:
        """Write the codes to `path`, a new file; making it durable is the caller's work."""
        _faiss().write_index(self._codes, str(path))


def choose_kind(rows: int) -> IndexKind:
    """The kind for that many rows: exact while that is quicker than importing faiss, then float16, then 1-bit codes."""
    if rows <= EXACT_MAX_ROWS:
        return "exact"
    return "sqfp16" if rows <= SQFP16_MAX_ROWS else "rabitq"


def build_index(vectors: Vectors, *, kind: IndexKind | None = None, threads: int | None = None) -> VectorIndex:
    """An index over `vectors` (N, D), unit length, of the wanted kind or the one for N, that reaches a recall of 0.99.

    Recall is measured against exact search for sample queries. A kind that misses it is replaced by the next more exact
    one, which is logged; `info` of the result says what it became.
    """
    kind = choose_kind(len(vectors)) if kind is None else kind
    for candidate in ("rabitq", "sqfp16"):
        if INDEX_KINDS.index(candidate) > INDEX_KINDS.index(kind):
            continue
        index = _build_measured(vectors, candidate, threads)
        if index is not None:
            return index
    return ExactIndex(vectors)


def load_index(path: Path, vectors: Vectors, info: IndexInfo, *, threads: int | None = None) -> VectorIndex:
    """The index that `info` describes over `vectors`; reads `path` only for kinds that need a file.

    The file format is not safe against forged bytes: size and sha256 of `path` are the caller's to check first.

    Raises:
        ValueError: the file is no index over vectors of this number and dimension.
    """
    if info.kind == "exact":
        return ExactIndex(vectors)
    if info.kind == "sqfp16":
        return FaissIndex(vectors, _sqfp16_codes(vectors), info, threads=threads)
    faiss = _faiss()
    try:
        codes = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot read it: {str(error)[:200]}") from error
    if (codes.ntotal, codes.d) != vectors.shape:
        raise ValueError(f"it indexes {codes.ntotal} x {codes.d} vectors, not {vectors.shape[0]} x {vectors.shape[1]}")
    return FaissIndex(vectors, codes, info, threads=threads)


def _build_measured(vectors: Vectors, kind: IndexKind, threads: int | None) -> FaissIndex | None:
    """An index with the smallest k_factor that reaches the wanted recall, or None when none does."""
    _set_threads(threads)
    codes = _rabitq_codes(vectors) if kind == "rabitq" else _sqfp16_codes(vectors)
    queries = sample_queries(vectors)
    _, expected = search_exact(vectors, queries, RECALL_K)
    recall = 0.0
    for k_factor in _K_FACTORS:
        index = FaissIndex(vectors, codes, IndexInfo(kind, k_factor), threads=threads)
        _, found = index.search(queries, RECALL_K)
        recall = found_fraction(found, expected)
        if recall >= RECALL_WANTED:
            index.info = IndexInfo(kind, k_factor, round(recall, 4))
            return index
    _log.warning(
        "an index of kind %s reaches recall %.3f, not %.2f: a more exact one is used", kind, recall, RECALL_WANTED
    )
    return None


def _sqfp16_codes(vectors: Vectors) -> Any:
    faiss = _faiss()
    codes = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    if vectors.dtype == np.float16:
        # The codes are the very bytes of the vectors: copying them is all there is to do when a snapshot is opened.
        codes.add_sa_codes(vectors.view(np.uint8))
    else:
        _add_all(codes, vectors)
    return codes


def _rabitq_codes(vectors: Vectors) -> Any:
    """1-bit RaBitQ fast-scan codes (Gao and Long 2024, arXiv 2405.12497) of the vectors, rotated at random and centred.

    One inverted list around the mean serves as the centre: unlike FAISS's flat variant this one can search a selection
    of rows. Without the rotation, vectors whose variance sits in few components lose up to half of their recall.
    """
    faiss = _faiss()
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


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        _faiss().omp_set_num_threads(threads)


def _faiss() -> Any:
    # Imported on first use: 60 ms that a collection of ten thousand photos never pays.
    import faiss

    return faiss
