"""Filter: search among a share of the vectors, inside the index, against searching all and dropping what does not fit.

Three kinds of filter are measured: rows picked at random; rows that are alike, as the photos of a folder are (those
nearest to one stored photo); and all rows but such alike ones. The plain baseline asks the index for more and more hits
until ten of them pass.

Two more follow the query. One leaves out what is alike to its best answer, as when the folder that is left out is the
one about what is asked for. The other is the worst that a filter can do: it leaves out exactly what is nearest to the
query itself, so that the best of the rest all lie right below the cut. The baseline would end where that cut is, and is
not timed there.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

import numpy as np
import numpy.typing as npt

from mmsearch.eval.ann_recall import Truth, ann_recall_at_k, exact_truth
from mmsearch.eval.bench.gallery import Grower, real_embeddings
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.eval.bench.result import BenchResult, Cell
from mmsearch.eval.bench.search import SMALL_ENOUGH_FOR_ALL, gallery_on_disk
from mmsearch.eval.bench.timing import Ratio, Sample, alternate, in_process, median_ms, paired_ratio
from mmsearch.eval.latency import spread
from mmsearch.exact_search import Vectors, unit_float32
from mmsearch.model import load_model
from mmsearch.vector_index import VectorIndex, build_index

# The baseline takes seconds a query where few of many vectors are admitted.
DEFAULT_SIZE, DEFAULT_ROUNDS, LARGE_ROUNDS = 100_000, 50, 8
QUERIES, FOLLOWED = 100, 20
K = 10
SHARES = (0.5, 0.1, 0.01, 0.001)
_SEED = 1
_BLOCK_ROWS = 16_384

Mask = npt.NDArray[np.bool_]
Queries = npt.NDArray[np.float32]


def run(request: BenchRequest) -> BenchResult:
    """Return one row a share and kind of filter."""
    size = request.size or DEFAULT_SIZE
    rounds = request.rounds or (DEFAULT_ROUNDS if size <= SMALL_ENOUGH_FOR_ALL else LARGE_ROUNDS)
    model = load_model(request.model, threads=request.threads)
    real = real_embeddings(model, request.data)
    queries = real.queries[spread(len(real.queries), QUERIES)]
    with request.workplace() as work:
        vectors = gallery_on_disk(work / f"vectors-{size}.npy", Grower(real.images), size)
        index = build_index(vectors, threads=request.threads or 1)
        rows: list[tuple[Cell, ...]] = []
        ratios = {}
        for name, mask in masks(vectors):
            row, ratio = _measured(index, vectors, queries, mask, rounds)
            rows.append((name, *row))
            ratios[f"{name}, inside / search more and drop"] = ratio
        rows += rows_that_follow(index, vectors, queries[spread(len(queries), FOLLOWED)])
    return BenchResult(
        name="filter",
        columns=("admitted", "rows", "recall@10", "inside p50 ms", "search more and drop p50 ms"),
        rows=tuple(rows),
        ratios=ratios,
        notes=(
            f"{size} vectors grown from {real.source}; index: {index.kind}, {request.threads or 1} thread;"
            f" recall over {len(queries)} sentences, {min(FOLLOWED, len(queries))} where the filter follows the"
            f" query; {rounds} timed in turns",
        ),
    )


def masks(vectors: Vectors) -> Iterator[tuple[str, Mask]]:
    """Yield filters over `vectors` (N, D), each as its name and what it admits (N,)."""
    size = len(vectors)
    random = np.random.default_rng(_SEED)
    photo = unit_float32(vectors[size // 2 :][:1])[0]
    falling = np.argsort(-similarities_to(photo, vectors), kind="stable")
    yield "all", np.ones(size, np.bool_)
    for share in SHARES:
        count = _count(size, share)
        picked, alike = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        picked[random.choice(size, count, replace=False)] = True
        alike[falling[:count]] = True
        yield f"{100 * share:g} %, picked", picked
        yield f"{100 * share:g} %, alike", alike
        yield f"all but {100 * share:g} % alike", ~alike


def similarities_to(one: Queries, vectors: Vectors) -> npt.NDArray[np.float32]:
    """Return the similarity (N,) of each of `vectors` (N, D) to `one` unit vector (D,)."""
    starts = range(0, len(vectors), _BLOCK_ROWS)
    return np.concatenate([unit_float32(vectors[start : start + _BLOCK_ROWS]) @ one for start in starts])


def rows_that_follow(index: VectorIndex, vectors: Vectors, queries: Queries) -> list[tuple[Cell, ...]]:
    """Return the rows of the filters among `vectors` (N, D) that depend on the query, without the baseline's time."""
    found: dict[str, list[tuple[int, float, Sample]]] = {}
    for query in queries:
        similarities = similarities_to(query, vectors)
        for name, mask in _following(vectors, similarities):
            found.setdefault(name, []).append((int(mask.sum()), *_one(index, query, mask, similarities)))
    return [
        (
            name,
            taken[0][0],
            round(mean(recall for _, recall, _ in taken), 4),
            median_ms([each[2] for each in taken]),
            None,
        )
        for name, taken in found.items()
    ]


def _following(vectors: Vectors, similarities: npt.NDArray[np.float32]) -> Iterator[tuple[str, Mask]]:
    best = unit_float32(vectors[similarities.argmax()][np.newaxis])[0]
    near = {"alike to its best answer": similarities_to(best, vectors), "nearest to the query": similarities}
    for what, nearness in near.items():
        falling = np.argsort(-nearness, kind="stable")
        for share in SHARES:
            mask = np.ones(len(vectors), np.bool_)
            mask[falling[: _count(len(vectors), share)]] = False
            yield f"all but {100 * share:g} % {what}", mask


def _count(size: int, share: float) -> int:
    return max(1, int(size * share))


def _one(
    index: VectorIndex, query: npt.NDArray[np.float32], mask: Mask, similarities: npt.NDArray[np.float32]
) -> tuple[float, Sample]:
    """Recall and time of one `query` (D,) whose `similarities` (N,) are known."""
    sample = in_process(lambda: index.search(query[np.newaxis], K, mask))()
    _, rows = index.search(query[np.newaxis], K, mask)
    named = rows[0][rows[0] >= 0]
    near = np.full((1, K), -np.inf, np.float32)
    near[0, : len(named)] = similarities[named]
    best = np.full((1, K), -np.inf, np.float32)
    rest = -np.sort(-similarities[mask])[:K]
    best[0, : len(rest)] = rest
    return ann_recall_at_k(Truth(best, near), K), sample


def _measured(
    index: VectorIndex, vectors: Vectors, queries: Queries, mask: Mask, rounds: int
) -> tuple[tuple[Cell, ...], Ratio]:
    admitted = np.flatnonzero(mask)
    found = np.concatenate([index.search(query[np.newaxis], K, mask)[1] for query in queries])
    truth = exact_truth(found, [(admitted, vectors[admitted])], queries)
    in_turns = np.resize(queries, (rounds + 1, queries.shape[1]))
    for_inside, for_plain = iter(in_turns), iter(in_turns)
    samples = alternate(
        {
            "inside": in_process(lambda: index.search(next(for_inside)[np.newaxis], K, mask)),
            "plain": in_process(lambda: search_more(index, next(for_plain), mask)),
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
