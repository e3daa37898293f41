"""Search: recall, latency, memory and time to build of index types over one grown gallery, asked with real sentences.

Recall is `ann_recall_at_10` against exact search over the same vectors. Latency is of one query at a time on one
thread, the way ann-benchmarks does it, and each index is timed in turns with exact search, both asked the same in each
round. A row marked `*` is on the Pareto front of recall and latency: no other is better in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsearch.eval.ann_recall import Truth, ann_recall_at_k
from mmsearch.eval.bench.gallery import Grower, real_embeddings
from mmsearch.eval.bench.index_kinds import FAISS_OWN, OURS, Built, built_indexes
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.eval.bench.result import BenchResult, Cell
from mmsearch.eval.bench.serving_memory import serving_mib
from mmsearch.eval.bench.timing import Ratio, Sample, alternate, in_process, median_ms, paired_ratio
from mmsearch.eval.latency import spread
from mmsearch.exact_search import Vectors, exact_similarities, search_exact
from mmsearch.model import load_model

DEFAULT_SIZE, DEFAULT_ROUNDS = 100_000, 50
QUERIES = 200
K = 10
# Beyond, types that take minutes to build or hold all vectors in memory are left out, and numpy takes seconds a query.
SMALL_ENOUGH_FOR_ALL, LARGE_ROUNDS = 200_000, 3
_FLOAT16_FROM = 10_000


def run(request: BenchRequest) -> BenchResult:
    """Return one row an index and setting, over `request.size` vectors."""
    size = request.size or DEFAULT_SIZE
    rounds = request.rounds or (DEFAULT_ROUNDS if size <= SMALL_ENOUGH_FOR_ALL else LARGE_ROUNDS)
    model = load_model(request.model, threads=request.threads)
    real = real_embeddings(model, request.data)
    queries = real.queries[spread(len(real.queries), QUERIES)]
    names = (*OURS, *FAISS_OWN) if size <= SMALL_ENOUGH_FOR_ALL else ("product", FAISS_OWN[0])
    with request.workplace() as work:
        file = work / f"vectors-{size}.npy"
        vectors = gallery_on_disk(file, Grower(real.images), size)
        best, _ = search_exact(vectors, queries, K)
        rows, ratios = [], {}
        for built in built_indexes(vectors, names, request.threads or 1):
            row, ratio = _measured(built, Asked(file, vectors, queries, best), rounds)
            rows.append(row)
            ratios[f"{built.name} / numpy over float32 blocks"] = ratio
    return BenchResult(
        name="search",
        columns=(
            "front",
            "index",
            "recall@10",
            "p50 ms",
            "p99 ms",
            "bytes a vector",
            "anonymous MiB serving",
            "build s",
        ),
        rows=tuple(with_front(rows)),
        ratios=ratios,
        notes=(
            f"{size} vectors of {vectors.shape[1]} {vectors.dtype} grown from {real.source}: for latency and recall of"
            " the index, not for quality",
            f"{len(queries)} sentences, one at a time, {request.threads or 1} thread; {rounds} of them, asked of"
            " numpy in turns, give the ratio",
        ),
    )


def gallery_on_disk(path: Path, grower: Grower, size: int) -> Vectors:
    """Return `size` grown vectors, mapped from `path`: float32 where a collection keeps that, float16 beyond."""
    dtype = np.dtype(np.float32 if size <= _FLOAT16_FROM else np.float16)
    if not path.exists():
        shape = (size, grower.dim)
        written = np.lib.format.open_memmap(path, "w+", dtype, shape)
        start = 0
        for block in grower.blocks(size):
            written[start : start + len(block)] = block
            start += len(block)
        written.flush()
    mapped: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def with_front(rows: list[tuple[Cell, ...]]) -> list[tuple[Cell, ...]]:
    """Return the rows (name, recall, p50, ...) with "*" before those that no other beats in both recall and p50."""

    def beaten(row: tuple[Cell, ...]) -> bool:
        recall, p50 = _number(row[1]), _number(row[2])
        return any(
            _number(other[1]) >= recall
            and _number(other[2]) <= p50
            and (_number(other[1]), _number(other[2])) != (recall, p50)
            for other in rows
        )

    return [("" if beaten(row) else "*", *row) for row in rows]


@dataclass(frozen=True, slots=True)
class Asked:
    """What every index is asked: `queries` (Q, D) among `vectors` (N, D), which lie in `file`; `best` (Q, 10) is how
    near the best are.
    """

    file: Path
    vectors: Vectors
    queries: npt.NDArray[np.float32]
    best: npt.NDArray[np.float32]

    def recall(self, found: npt.NDArray[np.int64]) -> float:
        """Return ann_recall_at_10 of the rows `found` (Q, 10), each named once."""
        near = np.full(found.shape, -np.inf, np.float32)
        for number, query in enumerate(self.queries):
            named = found[number] >= 0
            near[number, named] = exact_similarities(self.vectors, found[number, named], query)
        return ann_recall_at_k(Truth(self.best, near), K)


def _measured(built: Built, asked: Asked, rounds: int) -> tuple[tuple[Cell, ...], Ratio]:
    vectors, queries = asked.vectors, asked.queries
    found = np.concatenate([built.search(query[np.newaxis], K) for query in queries])
    each = iter(queries)
    timed = [in_process(lambda: built.search(next(each)[np.newaxis], K))() for _ in queries]
    in_turns = np.resize(queries, (rounds + 1, queries.shape[1]))
    for_index, for_plain = iter(in_turns), iter(in_turns)
    turns = alternate(
        {
            "index": in_process(lambda: built.search(next(for_index)[np.newaxis], K)),
            "plain": in_process(lambda: search_exact(vectors, next(for_plain)[np.newaxis], K)),
        },
        rounds,
    )
    row = (
        built.name,
        round(asked.recall(found), 4),
        median_ms(timed),
        _p99(timed),
        round(built.bytes_a_vector, 1),
        "" if built.own is None else round(serving_mib(built.own, asked.file, asked.file.parent)),
        built.build_seconds,
    )
    return row, paired_ratio(turns["index"], turns["plain"])


def _p99(samples: list[Sample]) -> float:
    return float(np.percentile([1000 * sample.wall for sample in samples], 99))


def _number(cell: Cell) -> float:
    return float(cell) if isinstance(cell, int | float) else 0.0
