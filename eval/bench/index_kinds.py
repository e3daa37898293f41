"""Index types side by side: the product's own, and what FAISS offers besides, each along its own dial.

All answers are refined from the float16 vectors as the product does it, so that only the candidates differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmsearch.exact_search import Vectors, best_rows, exact_similarities, unit_float32
from mmsearch.faiss_codes import ivf_parts
from mmsearch.vector_index import IndexInfo, VectorIndex, build_index

# By FAISS's names, with numbers that follow from how many vectors of how many numbers there are.
FAISS_OWN = ("PQ{parts}x4fs", "SQ8", "HNSW32", "IVF{lists},Flat", "IVF{lists},PQ{half}x4fs")
OURS = ("exact", "sqfp16", "ivfpq")

_BLOCK = 32_768
_TRAINING_ROWS = 65_536

Queries = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Search = Callable[[Queries, int], Rows]


@dataclass(frozen=True, slots=True)
class Built:
    """One index at one setting of its dial: a name, how it searches, seconds to build, bytes a vector beside the
    vectors themselves; `own` is the product's index, None for FAISS's own.
    """

    name: str
    search: Search
    build_seconds: float
    bytes_a_vector: float
    own: VectorIndex | None = None


def built_indexes(vectors: Vectors, names: tuple[str, ...], threads: int) -> Iterator[Built]:
    """Yield the indexes called `names` over `vectors` (N, D), each at every setting of its dial; builds one at a time.

    "product" is what `mmsearch` chooses for that many vectors.
    """
    _faiss().omp_set_num_threads(threads)
    for name in names:
        if name in ("product", *OURS):
            yield _ours(name, vectors, threads)
        else:
            yield from _faiss_own(name, vectors)


def _ours(name: str, vectors: Vectors, threads: int) -> Built:
    started = time.perf_counter()
    index = build_index(vectors, kind=None if name == "product" else name, threads=threads)  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    dim = vectors.shape[1]
    size = {"exact": 0.0, "sqfp16": 2.0 * dim, "ivfpq": ivf_parts(dim) / 2 + 8}[index.kind]
    probes = f", {index.info.probes} lists" if index.info.probes else ""
    dial = f", k_factor {index.info.k_factor}{probes}" if index.info != IndexInfo("exact") else ""
    label = index.kind if name in ("product", index.kind) else f"{name} -> {index.kind}"
    return Built(f"{label} (ours{dial})", lambda queries, k: index.search(queries, k)[1], seconds, size, index)


def _faiss_own(name: str, vectors: Vectors) -> Iterator[Built]:
    dim = vectors.shape[1]
    parts = ivf_parts(dim)
    name = name.format(lists=int(4 * len(vectors) ** 0.5), parts=parts, half=parts // 2)
    started = time.perf_counter()
    codes = _faiss().index_factory(dim, name, _faiss().METRIC_INNER_PRODUCT)
    codes.train(unit_float32(vectors[:: max(1, len(vectors) // _TRAINING_ROWS)]))
    for start in range(0, len(vectors), _BLOCK):
        codes.add(unit_float32(vectors[start : start + _BLOCK]))
    size = len(_faiss().serialize_index(codes)) / len(vectors)
    built = Built(name, _unset, time.perf_counter() - started, size)
    for dial, setting, k_factor in _dials(codes):
        search = _refined(vectors, codes, setting, k_factor)
        yield replace(built, name=f"{built.name} ({dial})", search=search)


def _dials(codes: Any) -> Iterator[tuple[str, Any, int]]:
    """What can be turned after building: words for it, FAISS's parameters, candidates per wanted row."""
    inverted = _faiss().try_extract_index_ivf(codes)
    if inverted is not None:
        for probes in (4, 16, 64):
            yield f"nprobe {probes}", _faiss().SearchParametersIVF(nprobe=probes), 10
    elif isinstance(codes, _faiss().IndexHNSW):
        for width in (32, 128, 512):
            yield f"efSearch {width}", _faiss().SearchParametersHNSW(efSearch=width), 1
    else:
        for k_factor in (3, 10, 30, 100):
            yield f"k_factor {k_factor}", None, k_factor


def _unset(queries: Queries, k: int) -> Rows:
    raise AssertionError("searching depends on the dial, which is not set yet")


def _refined(vectors: Vectors, codes: Any, setting: Any, k_factor: int) -> Search:
    def search(queries: Queries, k: int) -> Rows:
        _, candidates = codes.search(queries, k * k_factor, params=setting)
        found = np.empty((len(queries), k), np.int64)
        for number, rows in enumerate(candidates):
            rows = rows[rows >= 0]
            found[number] = best_rows(rows, exact_similarities(vectors, rows, queries[number]), k)[1]
        return found

    return search


def _faiss() -> Any:
    # Untyped on purpose: its type stubs lag behind what it offers.
    import faiss

    return faiss
