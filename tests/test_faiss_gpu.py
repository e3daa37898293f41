"""FAISS on a device that is none: which kind, from how much memory, and how far its scores may be off."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from gpu_fakes import GpuFaiss

from mmsearch import faiss_gpu
from mmsearch.exact_search import exact_similarities
from mmsearch.faiss_gpu import FaissGpuVectors, choose_gpu_kinds, faiss_gpu_source, gpu_count

GIB = 1 << 30
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def random_units(count: int, seed: int, dim: int = 32) -> Floats:
    found = np.random.default_rng(seed).standard_normal((count, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def with_faiss(monkeypatch: pytest.MonkeyPatch, fake: GpuFaiss) -> GpuFaiss:
    monkeypatch.setattr(faiss_gpu, "faiss_module", lambda: fake)
    faiss_gpu._shared.clear()
    return fake


@pytest.mark.parametrize(
    ("rows", "memory", "lacks", "kinds"),
    [
        (1_000_000, 80 * GIB, (), ("flat",)),
        (10_000_000, 80 * GIB, (), ("flat",)),
        (10_000_000, 24 * GIB, (), ("flat",)),
        (10_000_000, 12 * GIB, (), ()),
        (30_000_000, 80 * GIB, (), ("cagra", "ivf", "flat")),
        (30_000_000, 80 * GIB, ("GpuIndexCagra",), ("ivf", "flat")),
        (30_000_000, 80 * GIB, ("Float16",), ("ivf", "flat")),
        (200_000_000, 80 * GIB, (), ()),
    ],
)
def test_the_kind_follows_the_size_the_memory_and_the_build(
    rows: int, memory: int, lacks: tuple[str, ...], kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_faiss(monkeypatch, GpuFaiss(without=lacks))
    assert choose_gpu_kinds(rows, 384, memory) == kinds


def test_a_kind_that_misses_too_much_is_replaced_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_faiss(monkeypatch, GpuFaiss(without=("GpuIndexCagra",)))
    monkeypatch.setattr(faiss_gpu, "FLAT_MAX_ROWS", 100)
    monkeypatch.setitem(faiss_gpu._DIALS, "ivf", (1,))
    source = faiss_gpu_source(random_units(600, 0, dim=8), memory=GIB)
    assert source is not None and source.place.startswith("flat")
    assert "kind ivf on the GPU reaches recall" in caplog.text


@pytest.mark.parametrize(
    ("fake", "count"),
    [(GpuFaiss(2), 2), (GpuFaiss(0), 0), (GpuFaiss(without=("StandardGpuResources",)), 0)],
)
def test_only_a_build_with_devices_counts(fake: GpuFaiss, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_faiss(monkeypatch, fake)
    assert gpu_count() == count


@pytest.mark.parametrize("kind", ["flat", "ivf", "cagra"])
def test_scores_are_within_the_error_that_faiss_is_given(
    kind: faiss_gpu.GpuKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_faiss(monkeypatch, GpuFaiss())
    # All are rounded alike, and most of them point away from the query, whose numbers float16 holds: where distances
    # are the scores, the lengths count for the most.
    signs = np.where(np.random.default_rng(1).random((600, 8)) < 0.7, -1, 1)
    vectors = (signs * np.float16(8**-0.5)).astype(np.float16)
    query = np.array([[0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0]], np.float32)
    source = FaissGpuVectors(vectors, kind)
    scores, rows = source.propose(query, 600, None)
    named = rows[0] >= 0
    off = np.abs(scores[0][named] - exact_similarities(vectors, rows[0][named], query[0]))
    assert len(off) > 590
    assert 0 < off.max() <= source.error(query)[0] < 1e-3


def test_a_device_is_filled_without_a_second_copy_of_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        def __init__(self, *_: object) -> None:
            self.rows = 0

        def add(self, block: Floats) -> None:
            self.rows += len(block)

    with_faiss(monkeypatch, GpuFaiss()).GpuIndexFlat = Counting  # type: ignore[attr-defined]
    vectors = np.tile(random_units(1, 1, dim=8), (1 << 19, 1))
    tracemalloc.start()
    try:
        source = FaissGpuVectors(vectors, "flat")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert source._codes.rows == len(vectors)
    assert peak < 0.7 * vectors.nbytes, "two blocks of a quarter each, and small change"


def test_sources_share_faiss_memory_on_the_device_as_long_as_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = with_faiss(monkeypatch, GpuFaiss())
    vectors = random_units(300, 1).astype(np.float16)
    sources = [FaissGpuVectors(vectors, "flat") for _ in range(3)]
    assert fake.resources == 1
    sources.clear()
    gc.collect()
    FaissGpuVectors(vectors, "flat")
    assert fake.resources == 2


def test_only_one_thread_at_a_time_searches_with_the_memory_that_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    with_faiss(monkeypatch, GpuFaiss())
    vectors = random_units(300, 1).astype(np.float16)
    both = threading.Barrier(2)
    met: list[bool] = []

    def waits_for_another(self: FaissGpuVectors, queries: Floats, count: int) -> tuple[Floats, Rows]:
        try:
            met.append(both.wait(0.2) >= 0)
        except threading.BrokenBarrierError:
            met.append(False)
        return queries[:, :1], np.zeros((1, 1), np.int64)

    sources = [FaissGpuVectors(vectors, "flat") for _ in range(2)]
    monkeypatch.setattr(FaissGpuVectors, "_scored", waits_for_another)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda source: source.propose(random_units(1, 2), 1, None), sources))
    assert met == [False, False]
