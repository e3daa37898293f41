"""Filter: search among a share of the vectors, inside the index, against searching all and dropping what does not fit.

Both ways that a filter comes are measured: a folder (rows that lie together) and a set of rows picked at random. The
plain baseline asks the index for more and more hits until ten of them pass.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmsearch.eval.ann_recall import ann_recall_at_k, exact_truth
from mmsearch.eval.bench.gallery import Grower, real_embeddings
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.eval.bench.result import BenchResult, Cell
from mmsearch.eval.bench.search import gallery_on_disk
from mmsearch.eval.bench.timing import Ratio, alternate, in_process, median_ms, paired_ratio
from mmsearch.eval.latency import spread
from mmsearch.exact_search import Vectors
from mmsearch.model import load_model
from mmsearch.vector_index import VectorIndex, build_index

DEFAULT_SIZE, DEFAULT_ROUNDS = 100_000, 50
QUERIES = 100
K = 10
SHARES = (1.0, 0.5, 0.1, 0.01, 0.001)
_SEED = 1

Mask = npt.NDArray[np.bool_]
Queries = npt.NDArray[np.float32]


def run(request: BenchRequest) -> BenchResult:
    """Return one row a share and kind of filter."""
    size, rounds = request.size or DEFAULT_SIZE, request.rounds or DEFAULT_ROUNDS
    model = load_model(request.model, threads=request.threads)
    real = real_embeddings(model, request.data)
    queries = real.queries[spread(len(real.queries), QUERIES)]
    with request.workplace() as work:
        vectors = gallery_on_disk(work / f"vectors-{size}.npy", Grower(real.images), size)
        index = build_index(vectors, threads=request.threads or 1)
        rows, ratios = [], {}
        for name, mask in _masks(size).items():
            row, ratio = _measured(index, vectors, queries, mask, rounds)
            rows.append((name, *row))
            ratios[f"{name}, inside / search more and drop"] = ratio
    return BenchResult(
        name="filter",
        columns=("admitted", "rows", "recall@10", "inside p50 ms", "search more and drop p50 ms"),
        rows=tuple(rows),
        ratios=ratios,
        notes=(f"{size} vectors grown from {real.source}; index: {index.kind}, {request.threads or 1} thread",),
    )


def _masks(size: int) -> dict[str, Mask]:
    random = np.random.default_rng(_SEED)
    found = {}
    for share in SHARES:
        count = max(1, int(size * share))
        picked, folder = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        picked[random.choice(size, count, replace=False)] = True
        folder[(size - count) // 2 :][:count] = True
        found[f"{100 * share:g} %, picked"] = picked
        if share < 1:
            found[f"{100 * share:g} %, a folder"] = folder
    return found


def _measured(
    index: VectorIndex, vectors: Vectors, queries: Queries, mask: Mask, rounds: int
) -> tuple[tuple[Cell, ...], Ratio]:
    admitted = np.flatnonzero(mask)
    found = np.concatenate([index.search(query[np.newaxis], K, mask)[1] for query in queries])
    truth = exact_truth(found, [(admitted, vectors[admitted])], queries)
    turns = {"inside": iter(np.resize(queries, (rounds + 1, queries.shape[1])))}
    turns["plain"] = iter(np.resize(queries, (rounds + 1, queries.shape[1])))
    samples = alternate(
        {
            "inside": in_process(lambda: index.search(next(turns["inside"])[np.newaxis], K, mask)),
            "plain": in_process(lambda: search_more(index, next(turns["plain"]), mask)),
        },
        rounds,
    )
    recall = round(ann_recall_at_k(truth, min(K, found.shape[1])), 4)
    row = (len(admitted), recall, median_ms(samples["inside"]), median_ms(samples["plain"]))
    return row, paired_ratio(samples["inside"], samples["plain"])


def search_more(index: VectorIndex, query: npt.NDArray[np.float32], mask: Mask) -> npt.NDArray[np.int64]:
    """Return up to 10 rows (K,) that `mask` admits, by asking for four times as many hits until enough of them pass."""
    wanted = K
    while True:
        _, rows = index.search(query[np.newaxis], min(wanted, len(mask)))
        passing: npt.NDArray[np.int64] = rows[0][(rows[0] >= 0) & mask[rows[0]]]
        if len(passing) >= K or wanted >= len(mask):
            return passing[:K]
        wanted *= 4
