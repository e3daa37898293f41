"""The nearest rows of one block of vectors: exact for small blocks, FAISS for large ones.

Whatever the kind, similarities are recomputed from the vectors themselves (`exact_search`), so kinds differ in speed
and in which rows they may miss, never in a number. The codes in a FAISS file only speed things up; they can be made
again from the vectors at any time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import numpy.typing as npt

from mmsearch.exact_search import (
    PRESELECT_TOLERANCE,
    Vectors,
    best_rows,
    exact_similarities,
    search_exact,
)
from mmsearch.faiss_codes import faiss_module, faiss_threads, ivf_selection, ivfpq_codes, sqfp16_codes
from mmsearch.index_recall import found_fraction, sample_queries
from mmsearch.types import IndexKind

INDEX_KINDS: tuple[IndexKind, ...] = get_args(IndexKind)

# One pass over 10k float32 vectors of 512 components takes numpy 1.4 ms, less than importing faiss would.
EXACT_MAX_ROWS = 10_000
# Flat float16 codes are copied into memory when a collection is opened, and read as a whole by each search.
SQFP16_MAX_ROWS = 100_000
# Below this, gathering the admitted rows is as quick as any index and misses nothing (0.2 ms; float16 rows are slow to
# convert, so that 4,000 of them take ten times as long as FAISS takes to pick them out of 100,000).
FEW_ALLOWED = 256
# From this share on, searching all flat codes and dropping what is not admitted beats asking FAISS to look at each
# row's admission, which doubles or triples the time: the usual case is a few deleted rows in a large segment.
_MOSTLY_ALLOWED = 0.75
# Below this share, every inverted list is read: what is left out may be all that lies near the query, and the lists
# near it then hold little. With the nearest tenth left out, the usual lists found 0.963 and all of them 0.993.
_NEARLY_ALL_ALLOWED = 0.99

RECALL_K = 10
RECALL_WANTED = 0.99
# Some hundred sample queries tell a recall to within half a percent, so builds aim higher than they promise.
RECALL_AIMED = 0.995
# Sentences need more candidates than sample queries tell, and fewer lists: among a million vectors, 30 candidates a hit
# find 0.998 of what the samples ask for and 0.988 of what captions do, and a hundred find all of both in 1 ms more.
_K_FACTORS: dict[IndexKind, tuple[int, ...]] = {"sqfp16": (3, 10, 30, 100, 300), "ivfpq": (100, 300)}
# Shares of the lists.
_PROBED = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)

# How far the difference of two scores may be from that of their similarities. Rounding to float16 changes a unit vector
# by at most 2^-11 of its length; 4-bit codes are estimates, for which only exact ties are kept together.
_SCORE_ERROR: dict[IndexKind, float] = {"sqfp16": 2.0**-10, "ivfpq": PRESELECT_TOLERANCE}

_log = logging.getLogger(__name__)

Similarities = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What one index is: its kind, how many candidates it takes per wanted row, its measured recall at 10, and how many
    of its inverted lists a search reads (0 where it has none). `instead_of` is the kind that was wanted and fell short
    of its recall, None where this is it.
    """

    kind: IndexKind
    k_factor: int = 1
    recall: float = 1.0
    probes: int = 0
    instead_of: IndexKind | None = None

    @property
    def needs_file(self) -> bool:
        """True when the index cannot be had from the vectors in a moment, so that it is stored."""
        return self.kind == "ivfpq"


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

    def __init__(self, vectors: Vectors, *, instead_of: IndexKind | None = None) -> None:
        self._vectors = vectors
        self.info = IndexInfo("exact", instead_of=instead_of)

    @property
    def kind(self) -> IndexKind:
        return self.info.kind

    def search(
        self, queries: Similarities, k: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Similarities, Rows]:
        return search_exact(self._vectors, queries, k, allowed)


@dataclass(frozen=True, slots=True)
class _Admission:
    """How a search keeps to what is allowed: FAISS looks at what `selector` admits alone, or at everything, and what
    the mask `dropped` (N,) does not allow is dropped afterwards. `probes` inverted lists are read, 0 where there are
    none; at least `enough` candidates are to be left.
    """

    selector: Any
    dropped: npt.NDArray[np.bool_] | None
    probes: int
    enough: int

    def parameters(self) -> Any:
        """What FAISS calls search parameters, None for its own."""
        if self.probes:
            return ivf_selection(self.selector, self.probes)
        return None if self.selector is None else faiss_module().SearchParameters(sel=self.selector)

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
        admission = self._admission(allowed, admitted, enough)
        waiting = np.arange(len(queries))
        wanted = enough if admission.dropped is None else 2 * enough
        while len(waiting) and wanted * 4 < admitted and admitted > FEW_ALLOWED:
            complete = self._propose(queries, waiting, wanted, admission, (similarities, rows))
            waiting = waiting[~complete]
            wanted *= 4
            admission = replace(admission, probes=self._lists)
        if len(waiting):
            similarities[waiting], rows[waiting] = search_exact(self._vectors, queries[waiting], k, allowed)
        return similarities, rows

    @property
    def _lists(self) -> int:
        return int(self._codes.nlist) if self.kind == "ivfpq" else 0

    def _admission(self, allowed: npt.NDArray[np.bool_] | None, admitted: int, enough: int) -> _Admission:
        if allowed is None:
            return _Admission(None, None, self.info.probes, enough)
        share = admitted / len(self._vectors)
        if self.kind == "sqfp16" and share >= _MOSTLY_ALLOWED:
            return _Admission(None, allowed, 0, enough)
        selector = faiss_module().IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        return _Admission(selector, None, self.info.probes if share >= _NEARLY_ALL_ALLOWED else self._lists, enough)

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
        with faiss_threads(self._threads):
            scores, candidates = self._codes.search(
                np.ascontiguousarray(queries[asked]), wanted, params=admission.parameters()
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

    def save(self, path: Path) -> None:
        """Write the codes to `path`, a new file; making it durable is the caller's work."""
        faiss_module().write_index(self._codes, str(path))


def choose_kind(rows: int, asked: IndexKind | None = None) -> IndexKind:
    """The kind for that many rows: exact while that is quicker than importing faiss, then what is `asked` for, or by
    itself float16, then 4-bit codes.
    """
    if rows <= EXACT_MAX_ROWS:
        return "exact"
    if asked is not None:
        return asked
    return "sqfp16" if rows <= SQFP16_MAX_ROWS else "ivfpq"


def build_index(vectors: Vectors, *, kind: IndexKind | None = None, threads: int | None = None) -> VectorIndex:
    """An index over `vectors` (N, D), unit length, of the wanted kind or the one for N, that reaches a recall of 0.99.

    Recall is measured against exact search for sample queries. A kind that misses it is replaced by the next more exact
    one, which is logged; `info` of the result says what it became.
    """
    kind = choose_kind(len(vectors)) if kind is None else kind
    for candidate in ("ivfpq", "sqfp16"):
        if INDEX_KINDS.index(candidate) > INDEX_KINDS.index(kind):
            continue
        index = _build_measured(vectors, candidate, threads)
        if index is not None:
            index.info = replace(index.info, instead_of=None if candidate == kind else kind)
            return index
    return ExactIndex(vectors, instead_of=None if kind == "exact" else kind)


def load_index(path: Path, vectors: Vectors, info: IndexInfo, *, threads: int | None = None) -> VectorIndex:
    """The index that `info` describes over `vectors`; reads `path` only for kinds that need a file.

    The file format is not safe against forged bytes: size and sha256 of `path` are the caller's to check first.

    Raises:
        ValueError: the file is no index over vectors of this number and dimension.
    """
    if info.kind == "exact":
        return ExactIndex(vectors, instead_of=info.instead_of)
    if info.k_factor < 1 or (info.probes < 1) != (info.kind == "sqfp16"):
        raise ValueError(f"it would take {info.k_factor} candidates a row from {info.probes} lists")
    if info.kind == "sqfp16":
        return FaissIndex(vectors, sqfp16_codes(vectors), info, threads=threads)
    faiss = faiss_module()
    try:
        codes = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot read it: {str(error)[:200]}") from error
    if not hasattr(codes, "nlist"):
        raise ValueError(f"it is a {type(codes).__name__}, not inverted lists")
    if (codes.ntotal, codes.d) != vectors.shape:
        raise ValueError(f"it indexes {codes.ntotal} x {codes.d} vectors, not {vectors.shape[0]} x {vectors.shape[1]}")
    return FaissIndex(vectors, codes, info, threads=threads)


def _build_measured(vectors: Vectors, kind: IndexKind, threads: int | None) -> FaissIndex | None:
    """An index with the quickest settings that reach the recall aimed at, or else the best that reaches the wanted
    one; None when none does.
    """
    with faiss_threads(threads):
        codes = ivfpq_codes(vectors) if kind == "ivfpq" else sqfp16_codes(vectors)
    queries = sample_queries(vectors)
    _, expected = search_exact(vectors, queries, RECALL_K)

    def first_that_reaches_it(choices: list[IndexInfo]) -> FaissIndex:
        best = FaissIndex(vectors, codes, IndexInfo(kind, recall=-1.0), threads=threads)
        for info in choices:
            index = FaissIndex(vectors, codes, info, threads=threads)
            _, found = index.search(queries, RECALL_K)
            index.info = replace(info, recall=round(found_fraction(found, expected), 4))
            if index.info.recall > best.info.recall:
                best = index
            if best.info.recall >= RECALL_AIMED:
                break
        return best

    # Enough candidates for all lists first: a search that may find only some rows reads them all. Then fewer lists.
    lists = codes.nlist if kind == "ivfpq" else 0
    best = first_that_reaches_it([IndexInfo(kind, k_factor, probes=lists) for k_factor in _K_FACTORS[kind]])
    if lists and best.info.recall >= RECALL_AIMED:
        probes = sorted({max(1, round(share * lists)) for share in _PROBED})
        best = first_that_reaches_it([replace(best.info, probes=each) for each in probes])
    if best.info.recall >= RECALL_WANTED:
        return best
    _log.warning(
        "an index of kind %s reaches recall %.3f, not %.2f: a more exact one is used",
        kind,
        best.info.recall,
        RECALL_WANTED,
    )
    return None
