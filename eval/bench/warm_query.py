"""Warm query: a sentence to hits in a process that has the collection and the model open, one query at a time.

The plain baseline is what a program would write itself: the same model, numpy over all vectors in memory, a full sort.
"""

from __future__ import annotations

import numpy as np

import mmsearch
from mmsearch.eval.bench.gallery import Embeddings, Grower, real_embeddings
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.eval.bench.result import BenchResult, Cell
from mmsearch.eval.bench.sample_collection import write_sample_collection
from mmsearch.eval.bench.timing import Sample, Work, alternate, in_process, median_cpu_ms, paired_ratio
from mmsearch.eval.latency import spread
from mmsearch.model import Model, load_model

DEFAULT_SIZE, DEFAULT_ROUNDS = 10_000, 10
QUERIES_A_ROUND = 20
HITS = 10
OURS, ENCODING, PLAIN = "Collection.search", "the model alone", "same model, numpy in memory"


def run(request: BenchRequest) -> BenchResult:
    """Return percentiles over `request.rounds` times 20 queries, each another sentence."""
    size, rounds = request.size or DEFAULT_SIZE, request.rounds or DEFAULT_ROUNDS
    model = load_model(request.model, threads=request.threads)
    real = real_embeddings(model, request.data)
    vectors = Grower(real.images).vectors(size)
    with request.workplace() as work:
        collection = work / f"collection-{size}"
        if not collection.exists():
            write_sample_collection(collection, model, [vectors])
        with mmsearch.open(collection, model=request.model) as opened:
            contestants = _contestants(opened, model, vectors, real.sentences)
            samples = alternate(contestants, rounds * QUERIES_A_ROUND, warm_up=QUERIES_A_ROUND)
    return BenchResult(
        name="warm-query",
        columns=("way", "p50 ms", "p99 ms", "CPU ms"),
        rows=tuple(_row(name, taken) for name, taken in samples.items()),
        ratios={f"{OURS} / {name}": paired_ratio(samples[OURS], samples[name]) for name in (ENCODING, PLAIN)},
        notes=(f"{size} vectors grown from {real.source}",),
    )


def _contestants(
    opened: mmsearch.Collection,
    model: Model,
    vectors: Embeddings,
    sentences: tuple[str, ...],
) -> dict[str, Work]:
    asked = [sentences[int(row)] for row in spread(len(sentences), 997)]
    turns = dict.fromkeys((OURS, ENCODING, PLAIN), 0)

    def next_sentence(name: str) -> str:
        turns[name] += 1
        return asked[turns[name] % len(asked)]

    def plain() -> None:
        similarities = vectors @ model.encode_texts([next_sentence(PLAIN)])[0]
        similarities[np.argsort(-similarities)[:HITS]].tolist()

    return {
        OURS: in_process(lambda: opened.search(next_sentence(OURS), k=HITS)),
        ENCODING: in_process(lambda: model.encode_texts([next_sentence(ENCODING)])),
        PLAIN: in_process(plain),
    }


def _row(name: str, samples: list[Sample]) -> tuple[Cell, ...]:
    p50, p99 = np.percentile([1000 * sample.wall for sample in samples], [50, 99])
    return name, float(p50), float(p99), median_cpu_ms(samples)
