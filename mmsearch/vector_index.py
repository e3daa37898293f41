"""The nearest rows of one block of vectors: exact for small blocks, FAISS for large ones.

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
)
from mmsearch.faiss_codes import faiss_module, rabitq_codes, set_threads, sqfp16_codes
from mmsearch.index_recall import found_fraction, sample_queries

IndexKind = Literal["exact", "sqfp16", "rabitq"]
INDEX_KINDS: tuple[IndexKind, ...] = get_args(IndexKind)

# One pass over 10k float32 vectors of 512 components takes numpy 1.4 ms, less than importing faiss would.
EXACT_MAX_ROWS = 10_000
SQFP16_MAX_ROWS = 200_000
# Below this, gathering the admitted rows is as quick as any index and misses nothing (0.2 ms; float16 rows are slow to
# convert, so that 4,000 of them take ten times as long as FAISS takes to pick them out of 100,000).
_FEW_ALLOWED = 256
# From this share on, searching everything and dropping what is not admitted beats asking FAISS to look at each row's
# admission, which doubles or triples the time: the usual case is a few deleted rows in a large segment.
_MOSTLY_ALLOWED = 0.75

RECALL_K = 10
RECALL_WANTED = 0.99
_K_FACTORS = (3, 10, 30, 100, 300)
# Real sentences are harder than the sample queries: over a million vectors, 1-bit codes that reached 0.99 on those
# found 0.963 of what is nearest to captions.
_MARGIN: dict[IndexKind, int] = {"sqfp16": 1, "rabitq": 3}

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


@dataclass(frozen=True, slots=True)
class _Admission:
    """How a search keeps to what is allowed: FAISS looks at `selection` alone, or at everything, and what the mask
    `dropped` (N,) does not allow is dropped afterwards. At least `enough` candidates are to be left.
    """

    selection: Any
    dropped: npt.NDArray[np.bool_] | None
    enough: int

    def admitted(self, candidates: Rows) -> npt.NDArray[np.bool_]:
        """Which of the `candidates` (C,), -1 for none, may be found."""
        real: npt.NDArray[np.bool_] = candidates >= 0
        return real if self.dropped is None else real & self.dropped[candidates]


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
        enough = max(k, RECALL_K) * self.info.k_factor
        # 1-bit codes are told apart from what is not admitted for next to nothing, and their candidates cost more.
        mostly = self.kind == "sqfp16" and admitted >= _MOSTLY_ALLOWED * len(self._vectors)
        admission = _Admission(None if mostly else self._selection(allowed), allowed if mostly else None, enough)
        waiting = np.arange(len(queries))
        wanted = enough if admission.dropped is None else 2 * enough
        while len(waiting) and wanted * 4 < admitted and admitted > _FEW_ALLOWED:
            complete = self._propose(queries, waiting, wanted, admission, (similarities, rows))
            waiting = waiting[~complete]
            wanted *= 4
        if len(waiting):
            similarities[waiting], rows[waiting] = search_exact(self._vectors, queries[waiting], k, allowed)
        return similarities, rows

    def _propose(
        self,
        queries: Similarities,
        asked: Rows,
        wanted: int,
        admission: _Admission,
        answers: tuple[Similarities, Rows],
    ) -> npt.NDArray[np.bool_]:
        """Answer the queries numbered `asked` from `wanted` candidates each; true where no tie can have been cut, and
        where as many candidates were admitted as the index needs for its recall.
        """
        set_threads(self._threads)
        scores, candidates = self._codes.search(
            np.ascontiguousarray(queries[asked]), wanted, params=admission.selection
        )
        complete = np.empty(len(asked), np.bool_)
        k = answers[0].shape[1]
        for place, number in enumerate(asked):
            found = admission.admitted(candidates[place])
            similarities = exact_similarities(self._vectors, candidates[place][found], queries[number])
            best = best_rows(candidates[place][found], similarities, k)
            answers[0][number], answers[1][number] = best
            # Equal vectors have equal codes and so equal scores. A tie with the k-th best is cut off by the end of the
            # candidates only when the worst of all scores is one of its own.
            tied = scores[place][found][similarities == best[0][-1]]
            cut = len(tied) == 0 or scores[place].min() >= tied.min() - _SCORE_ERROR[self.kind]
            complete[place] = not cut and len(similarities) >= admission.enough
        return complete

    def _selection(self, allowed: npt.NDArray[np.bool_] | None) -> Any:
        if allowed is None:
            return None
        faiss = faiss_module()
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if self.kind == "sqfp16":
            return faiss.SearchParameters(sel=selector)
        return faiss.SearchParametersPreTransform(index_params=faiss.SearchParametersIVF(sel=selector, nprobe=1))

    def save(self, path: Path) -> None:
        """Write the codes to `path`, a new file; making it durable is the caller's work."""
        faiss_module().write_index(self._codes, str(path))


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
        return FaissIndex(vectors, sqfp16_codes(vectors), info, threads=threads)
    faiss = faiss_module()
    try:
        codes = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot read it: {str(error)[:200]}") from error
    if (codes.ntotal, codes.d) != vectors.shape:
        raise ValueError(f"it indexes {codes.ntotal} x {codes.d} vectors, not {vectors.shape[0]} x {vectors.shape[1]}")
    return FaissIndex(vectors, codes, info, threads=threads)


def _build_measured(vectors: Vectors, kind: IndexKind, threads: int | None) -> FaissIndex | None:
    """An index with the smallest k_factor that reaches the wanted recall, or None when none does."""
    set_threads(threads)
    codes = rabitq_codes(vectors) if kind == "rabitq" else sqfp16_codes(vectors)
    queries = sample_queries(vectors)
    _, expected = search_exact(vectors, queries, RECALL_K)
    recall = 0.0
    for k_factor in _K_FACTORS:
        index = FaissIndex(vectors, codes, IndexInfo(kind, k_factor), threads=threads)
        _, found = index.search(queries, RECALL_K)
        recall = found_fraction(found, expected)
        if recall >= RECALL_WANTED:
            index.info = IndexInfo(kind, k_factor * _MARGIN[kind], round(recall, 4))
            return index
    _log.warning(
        "an index of kind %s reaches recall %.3f, not %.2f: a more exact one is used", kind, recall, RECALL_WANTED
    )
    return None
