"""GPU: one query and batches of 256 over a large gallery, by torch and by FAISS on a device, beside the CPU.

The limit is the time in which the device reads all vectors once, as float16, at the speed at which it copies memory.
One query cannot be answered exactly in less; of a batch, the matrix product takes more. Run it for one million vectors
and, with --size, for ten. Where there is no GPU it says so, and the rows of the CPU are all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmsearch.errors import MMSearchError
from mmsearch.eval.bench.gallery import Grower, real_embeddings
from mmsearch.eval.bench.gpu_kinds import Opened, copy_bandwidth, device_names, opened_indexes
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.eval.bench.result import BenchResult, Cell
from mmsearch.eval.bench.search import gallery_on_disk
from mmsearch.eval.bench.timing import Ratio, alternate, in_process, median_ms, paired_ratio
from mmsearch.eval.latency import spread
from mmsearch.exact_search import Vectors, search_exact
from mmsearch.index_recall import found_fraction
from mmsearch.model import load_model

DEFAULT_SIZE, DEFAULT_ROUNDS = 1_000_000, 3
BATCH = 256
K = 10
_SINGLE_ON_GPU = 100

Queries = npt.NDArray[np.float32]


def run(request: BenchRequest) -> BenchResult:
    """Return one row for each way to search `request.size` vectors, one million where it is not said."""
    size = request.size or DEFAULT_SIZE
    rounds = request.rounds or DEFAULT_ROUNDS
    real = real_embeddings(load_model(request.model, threads=request.threads), request.data)
    queries = sample_of(real.queries)
    rows, ratios, notes = [], {}, [f"devices: {device_names()}"]
    with request.workplace() as work:
        vectors = gallery_on_disk(work / f"vectors-{size}.npy", Grower(real.images), size)
        truth = search_exact(vectors, queries, K)[1]
        for opened in opened_indexes(vectors, request.threads or 1):
            if isinstance(opened, str):
                notes.append(opened)
                continue
            try:
                row, ratio = _measured(opened, vectors, queries, truth, rounds=rounds)
            except MMSearchError as error:  # by the CPU its times would mean nothing
                notes.append(f"{opened.name} is not measured: {error}")
                continue
            rows.append(row)
            ratios[f"{opened.name} / numpy over float32 blocks, one query"] = ratio
    gigabytes = 2 * vectors.size / 1e9
    notes.append(
        f"{size} vectors of {vectors.shape[1]} numbers grown from {real.source}: {gigabytes:.2f} GB a pass as float16;"
        f" one query: p50; batch: {BATCH} queries at once, median of {rounds}"
    )
    columns = (
        "index",
        "recall@10",
        "one query ms",
        "limit ms",
        "of the limit",
        f"batch {BATCH} ms",
        "queries/s",
        "open s",
    )
    return BenchResult("gpu", columns, tuple(rows), ratios, tuple(notes))


def sample_of(captions: Queries) -> Queries:
    """A batch (256, D) of the embeddings `captions` (N, D), evenly spread: those of one photo stand together."""
    return np.resize(captions[spread(len(captions), BATCH)], (BATCH, captions.shape[1]))


def _measured(
    opened: Opened, vectors: Vectors, queries: Queries, truth: npt.NDArray[np.int64], *, rounds: int
) -> tuple[tuple[Cell, ...], Ratio]:
    """One row, and how many times as long as numpy one query takes."""
    index = opened.index
    recall = found_fraction(index.search(queries, K)[1], truth)
    asked = np.resize(queries, (rounds + 1, queries.shape[1]))
    own, same = iter(asked), iter(asked)
    turns = alternate(
        {
            "index": in_process(lambda: index.search(next(own)[np.newaxis], K)),
            "plain": in_process(lambda: search_exact(vectors, next(same)[np.newaxis], K)),
        },
        rounds,
    )
    single = turns["index"]
    if opened.device == "cuda":
        each = iter(queries)
        single = [in_process(lambda: index.search(next(each)[np.newaxis], K))() for _ in range(_SINGLE_ON_GPU)]
    batch_ms = median_ms([in_process(lambda: index.search(queries, K))() for _ in range(rounds)])
    limit_ms = 1000 * 2 * vectors.size / copy_bandwidth(opened.device)
    row = (
        opened.name,
        round(recall, 4),
        median_ms(single),
        limit_ms,
        f"{100 * limit_ms / median_ms(single):.0f} %",
        batch_ms,
        round(1000 * BATCH / batch_ms),
        opened.seconds,
    )
    return row, paired_ratio(turns["index"], turns["plain"])
