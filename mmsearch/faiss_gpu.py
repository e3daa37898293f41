"""Candidates from FAISS on a CUDA device: float16 vectors in one array, a graph over them, or inverted lists.

The array ("flat") misses nothing and is the choice as long as one pass over it is quick. The graph (CAGRA, Ootomo et
al. 2023, arXiv 2308.15136) and the lists ("ivf") look at a part; their recall is measured when they are built, and one
that misses too much is not used. Masks are not handed on: the builds that know none ignore them without a word
(facebookresearch/faiss#3114), so what is not allowed is dropped from the candidates.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmsearch.exact_search import Vectors, search_exact, unit_float32
from mmsearch.faiss_codes import faiss_module
from mmsearch.float16_rounding import Rounding, float16_error
from mmsearch.index_recall import found_fraction, sample_queries
from mmsearch.vector_index import RECALL_K, RECALL_WANTED

GpuKind = Literal["flat", "cagra", "ivf"]

# A pass over 20 million vectors of 384 numbers reads 15 GB: 5 to 10 ms on a data-centre card.
FLAT_MAX_ROWS = 20_000_000
# 200 MB of 384 numbers as float32, made a piece at a time; two blocks are in memory at once.
_BLOCK_ROWS, _PIECE_ROWS = 1 << 17, 1 << 12
_MEMORY_SHARE = 0.8
_GRAPH_DEGREE = 64
_LIST_POINTS = 64  # that train one centre
_ID_BYTES = 8
# FAISS selects at most 2048 on a device, without cuVS and for the graph less: facebookresearch/faiss#2103.
_MOST_SELECTED = 2048
_MOST_BY_GRAPH = 512
_DIALS: dict[GpuKind, tuple[int, ...]] = {"flat": (), "cagra": (128, 256, 512), "ivf": (16, 64, 256, 1024)}

Similarities = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_log = logging.getLogger(__name__)

# FAISS's scratch memory on the device, up to 1.5 GB, for all sources of a process: it goes with the last of them. Only
# one thread at a time may use it.
_shared: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_turn = threading.RLock()


def gpu_count() -> int:
    """How many devices the installed FAISS can use: none for a build without GPU."""
    faiss = faiss_module()
    if not all(hasattr(faiss, name) for name in ("get_num_gpus", "StandardGpuResources", "GpuIndexFlat")):
        return 0
    return int(faiss.get_num_gpus())


def choose_gpu_kinds(rows: int, dim: int, memory: int) -> tuple[GpuKind, ...]:
    """The kinds to try, in order, for that many vectors on a device with `memory` bytes, of those this FAISS has."""
    faiss, room = faiss_module(), _MEMORY_SHARE * memory
    vector_bytes = 2 * rows * dim
    # While the array grows, its old and its new place are both taken.
    flat_fits = 2 * vector_bytes <= room
    # Twice as many neighbours are looked for as are kept.
    graph_known = hasattr(faiss, "GpuIndexCagra") and hasattr(faiss, "Float16")
    graph_fits = graph_known and vector_bytes + 3 * 4 * _GRAPH_DEGREE * rows <= room
    lists_fit = 2 * (vector_bytes + _ID_BYTES * rows) <= room and hasattr(faiss, "GpuIndexIVFScalarQuantizer")
    partial: list[GpuKind] = []
    if rows > FLAT_MAX_ROWS or not flat_fits:
        partial += ["cagra"] if graph_fits else []
        partial += ["ivf"] if lists_fit else []
    return (*partial, "flat") if flat_fits else tuple(partial)


def faiss_gpu_source(vectors: Vectors, *, memory: int) -> FaissGpuVectors | None:
    """The first of the kinds for `vectors` (N, D) that reaches a recall of 0.99; None where none fits the device.

    Raises:
        RuntimeError: the device failed, most likely for want of memory.
    """
    rows, dim = vectors.shape
    for kind in choose_gpu_kinds(rows, dim, memory):
        source = FaissGpuVectors(vectors, kind)
        if source.recall >= RECALL_WANTED:
            return source
        _log.warning("an index of kind %s on the GPU reaches recall %.3f: another one is used", kind, source.recall)
    return None


class FaissGpuVectors:
    """A CandidateSource over `vectors` (N, D), of one kind, on the first device that FAISS sees.

    Raises:
        RuntimeError: the device failed, most likely for want of memory.
    """

    masks = False

    def __init__(self, vectors: Vectors, kind: GpuKind) -> None:
        self._kind = kind
        self._rows = len(vectors)
        halved = _Halved(vectors)
        with _turn:
            # FAISS asks it for memory as long as the index lives.
            self._resources = _resources()
            self._codes = _BUILDERS[kind](halved, self._resources)
        self.odd, self._deviation = halved.rounding.odd, halved.rounding.deviation
        self._dial, self.recall = 0, 1.0
        if kind != "flat":
            self._turn_up(vectors)

    @property
    def place(self) -> str:
        """What it is and where it runs, in words."""
        return f"{self._kind} float16 by faiss on cuda:0"

    @property
    def most(self) -> int:
        """How many candidates it can name for one query."""
        return _MOST_BY_GRAPH if self._kind == "cagra" else _MOST_SELECTED

    def error(self, queries: Similarities) -> npt.NDArray[np.float64]:
        """How far a score may be from the similarity, for each query (Q,)."""
        # In a squared distance the lengths of both vectors count too, which rounding has changed as much.
        return float16_error(queries, self._deviation) * (2 if self._kind == "cagra" else 1)

    def propose(self, queries: Similarities, count: int, allowed: Mask | None) -> tuple[Similarities, Rows]:
        """The `count` best rows for each query (Q, D): scores (Q, count), falling, and rows; -inf and -1 for none."""
        with _turn:
            scores, rows = self._scored(queries, count)
        real = (rows >= 0) & (rows < self._rows)
        scores = np.where(real, scores, -np.inf).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")
        rows = np.where(real, rows, -1).astype(np.int64)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _scored(self, queries: Similarities, count: int) -> tuple[Similarities, Rows]:
        """What FAISS finds, as scores and rows (Q, count): each row once, and numbers that are no rows."""
        faiss = faiss_module()
        if self._kind == "cagra":
            parameters = faiss.SearchParametersCagra()
            parameters.itopk_size = max(self._dial, count)
            distances, rows = self._codes.search(queries, count, params=parameters, numeric_type=faiss.Float16)
            return 1 - distances / 2, _each_once(rows)
        parameters = faiss.SearchParametersIVF(nprobe=self._dial) if self._kind == "ivf" else None
        scores, rows = self._codes.search(queries, count, params=parameters)
        return scores, rows

    def _turn_up(self, vectors: Vectors) -> None:
        """Turn the dial up until the recall is reached; the recall is that of the last setting."""
        queries = sample_queries(vectors)
        _, expected = search_exact(vectors, queries, RECALL_K)
        for setting in _DIALS[self._kind]:
            self._dial = setting
            self.recall = found_fraction(self.propose(queries, RECALL_K, None)[1], expected)
            if self.recall >= RECALL_WANTED:
                return


class _Halved:
    """`vectors` (N, D) as a device gets them, and, once all have been read, how far that is from the vectors."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors
        self.rounding = Rounding()

    @property
    def shape(self) -> tuple[int, int]:
        return self._vectors.shape

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """All of them in order: float32 (B, D) of numbers that float16 holds; zeros where the length is not 1."""
        for start in range(0, len(self._vectors), _BLOCK_ROWS):
            stored = self._vectors[start : start + _BLOCK_ROWS]
            block = np.empty(stored.shape, np.float32)
            for first in range(0, len(stored), _PIECE_ROWS):
                block[first : first + _PIECE_ROWS] = self._held(stored[first : first + _PIECE_ROWS], start + first)
            yield block

    def _held(self, stored: Vectors, first: int) -> npt.NDArray[np.float32]:
        with np.errstate(over="ignore", invalid="ignore"):
            wide = stored.astype(np.float32)
            held = stored.astype(np.float16).astype(np.float32)
            distances = None if stored.dtype == np.float16 else np.linalg.norm(wide - held, axis=1)
            odd = self.rounding.seen(first, lengths=np.linalg.norm(wide, axis=1), distances=distances)
        held[odd] = 0
        return held

    def sample(self, count: int) -> npt.NDArray[np.float32]:
        """About `count` of them, evenly spread, float32."""
        picked = self._vectors[:: max(1, len(self._vectors) // count)]
        return np.nan_to_num(unit_float32(picked))


def _each_once(rows: Rows) -> Rows:
    """`rows` (Q, C) with -1 for those that stood in their line before: a graph may be walked in circles."""
    order = np.argsort(rows, axis=1, kind="stable")
    ascending = np.take_along_axis(rows, order, axis=1)
    ascending[:, 1:][ascending[:, 1:] == ascending[:, :-1].copy()] = -1
    once = np.empty_like(rows)
    np.put_along_axis(once, order, ascending, axis=1)
    return once


def _resources() -> Any:
    """What every index on the device shares; the caller has its turn."""
    found = _shared.get("device")
    if found is None:
        found = _shared["device"] = faiss_module().StandardGpuResources()
    return found


def _build_flat(vectors: _Halved, resources: Any) -> Any:
    faiss = faiss_module()
    config = faiss.GpuIndexFlatConfig()
    config.device, config.useFloat16 = 0, True
    codes = faiss.GpuIndexFlat(resources, vectors.shape[1], faiss.METRIC_INNER_PRODUCT, config)
    for block in vectors.blocks():
        codes.add(block)
    return codes


def _build_ivf(vectors: _Halved, resources: Any) -> Any:
    faiss, (rows, dim) = faiss_module(), vectors.shape
    lists = 1 << max(4, int(np.log2(4 * rows**0.5)))
    config = faiss.GpuIndexIVFScalarQuantizerConfig()
    config.device = 0
    kind, metric, of_residuals = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    codes = faiss.GpuIndexIVFScalarQuantizer(resources, dim, lists, kind, metric, of_residuals, config)
    codes.train(vectors.sample(_LIST_POINTS * lists))
    for block in vectors.blocks():
        codes.add(block)
    return codes


def _build_cagra(vectors: _Halved, resources: Any) -> Any:
    faiss, (rows, dim) = faiss_module(), vectors.shape
    config = faiss.GpuIndexCagraConfig()
    config.device, config.graph_degree, config.intermediate_graph_degree = 0, _GRAPH_DEGREE, 2 * _GRAPH_DEGREE
    # Among unit vectors distances have the order of cosines, and they are the metric that graphs are built for first.
    codes = faiss.GpuIndexCagra(resources, dim, faiss.METRIC_L2, config)
    everything = np.empty((rows, dim), np.float16)
    start = 0
    for block in vectors.blocks():
        everything[start : start + len(block)] = block
        start += len(block)
    codes.train(everything, numeric_type=faiss.Float16)
    return codes


_BUILDERS: dict[GpuKind, Callable[[_Halved, Any], Any]] = {
    "flat": _build_flat,
    "ivf": _build_ivf,
    "cagra": _build_cagra,
}
