"""Searches on a device against brute force, to the last bit: by torch on the CPU, and on CUDA where there is one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gpu_fakes import GpuFaiss
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsearch import faiss_gpu
from mmsearch.cuda_devices import cuda_devices
from mmsearch.exact_search import Vectors, exact_similarities
from mmsearch.faiss_codes import faiss_module
from mmsearch.faiss_gpu import FaissGpuVectors, gpu_count
from mmsearch.index_recall import found_fraction
from mmsearch.refined_index import CandidateSource, RefinedIndex
from mmsearch.vector_index import ExactIndex, VectorIndex

torch = pytest.importorskip("torch")

from mmsearch import device_vectors, torch_index  # noqa: E402
from mmsearch.torch_index import TorchVectors  # noqa: E402

ROWS, DIM = 1500, 32
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

needs_torch_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
needs_faiss_gpu = pytest.mark.skipif(not gpu_count(), reason="faiss finds no CUDA device, or is built without GPU")
needs_cagra = pytest.mark.skipif(not hasattr(faiss_module(), "GpuIndexCagra"), reason="this faiss has no CAGRA")

WAYS = [
    "torch on the cpu",
    "torch, in tiny blocks",
    "torch, streamed",
    "faiss, as if on a device",
    pytest.param("torch on cuda", marks=needs_torch_cuda),
    pytest.param("torch on cuda, streamed", marks=needs_torch_cuda),
    pytest.param("faiss on cuda", marks=needs_faiss_gpu),
]
Open = Callable[[Vectors], RefinedIndex]


def unit(vectors: npt.NDArray[np.floating]) -> Floats:
    wide = vectors.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def random_units(count: int, seed: int, dim: int = DIM) -> Floats:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def brute_force(vectors: Vectors, queries: Floats, k: int, allowed: Mask | None = None) -> tuple[Floats, npt.NDArray]:
    """The definition, in plain steps: cosine of the normalised vectors, best first, then by row, padded."""
    similarities = np.full((len(queries), k), -np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    for number, query in enumerate(queries):
        cosines = exact_similarities(vectors, np.arange(len(vectors)), query)
        whole = np.flatnonzero(np.isfinite(cosines) if allowed is None else np.isfinite(cosines) & allowed)
        best = sorted(whole, key=lambda row: (-cosines[row], row))[:k]
        similarities[number, : len(best)], found[number, : len(best)] = cosines[best], best
    return similarities, found


def assert_same(index: VectorIndex, vectors: Vectors, queries: Floats, k: int, allowed: Mask | None = None) -> None:
    similarities, rows = index.search(queries, k, allowed)
    assert (similarities.dtype, rows.dtype) == (np.float32, np.int64)
    expected = brute_force(vectors, queries, k, allowed)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_array_equal(similarities, expected[0])


@pytest.fixture(params=[np.float16, np.float32], ids=["float16", "float32"])
def stored(request: pytest.FixtureRequest) -> Vectors:
    """Clusters with copies, so that many similarities are equal or nearly so."""
    random = np.random.default_rng(1)
    vectors = random_units(60, 2)[random.integers(0, 60, ROWS)] + 0.02 * random_units(ROWS, 3)
    vectors[random.permutation(ROWS)[:200]] = vectors[7]
    return unit(vectors).astype(request.param)


@pytest.fixture(params=WAYS)
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens an index over vectors in one of the ways."""
    way = str(request.param)
    if "tiny" in way or "streamed" in way:
        monkeypatch.setattr(device_vectors, "BLOCK_ROWS", 390)
        monkeypatch.setattr(torch_index, "_SCORES_IN_MEMORY", 1400)
        monkeypatch.setattr(torch_index, "_FEWEST_ROWS", 140)
    if "as if" in way:
        fake = GpuFaiss()
        monkeypatch.setattr(faiss_gpu, "faiss_module", lambda: fake)
        monkeypatch.setattr(faiss_gpu, "_BLOCK_ROWS", 1024)

    def source(vectors: Vectors) -> CandidateSource:
        if way.startswith("faiss"):
            return FaissGpuVectors(vectors, "flat")
        room = 2 * vectors.shape[1] * 500 if "streamed" in way else None
        return TorchVectors(vectors, device="cuda" if "cuda" in way else "cpu", room=room)

    return lambda vectors: RefinedIndex(vectors, source(vectors), lambda: ExactIndex(vectors))


def test_values_rows_and_order_are_those_of_brute_force(opened: Open, stored: Vectors) -> None:
    queries = np.concatenate([random_units(9, 5), unit(stored[:5])])
    assert_same(opened(stored), stored, queries, 10)


@pytest.mark.parametrize("share", [0.9, 0.3, 0.1, 0.01, 0.0])
def test_only_what_is_allowed_is_found(opened: Open, stored: Vectors, share: float) -> None:
    allowed = np.random.default_rng(6).random(ROWS) < share
    assert_same(opened(stored), stored, random_units(8, 7), 10, allowed)


def test_nothing_is_missed_where_the_nearest_rows_are_not_allowed(opened: Open, stored: Vectors) -> None:
    query = unit(stored[7:8])
    allowed = np.ones(ROWS, bool)
    allowed[brute_force(stored, query, 500)[1][0]] = False
    assert_same(opened(stored), stored, query, 10, allowed)


def test_a_tie_with_more_rows_than_candidates_ends_with_the_lowest_rows(opened: Open, stored: Vectors) -> None:
    # 200 copies, and 64 candidates at first.
    assert_same(opened(stored), stored, unit(stored[7:8]), 10)
    assert_same(opened(stored), stored, unit(stored[7:8]), 120)


def test_more_wanted_than_there_are_is_filled_up(opened: Open, stored: Vectors) -> None:
    few = stored[:400]
    assert_same(opened(few), few, random_units(2, 8), 450)


def test_damaged_rows_are_found_with_what_they_are_or_not_at_all(opened: Open, stored: Vectors) -> None:
    damaged = np.array(stored)
    damaged[3, 5] = np.nan
    damaged[[700, 1400]] = [[np.inf], [0.0]]
    damaged[11] = 60_000 * damaged[11]
    queries = np.concatenate([unit(stored[[3, 11, 700]]), random_units(3, 4)])
    with np.errstate(invalid="ignore"):
        assert_same(opened(damaged), damaged, queries, 10)
        assert_same(opened(damaged), damaged, queries[:1], 10, np.arange(ROWS) % 5 > 0)


def test_one_query_is_answered_as_in_a_batch(opened: Open, stored: Vectors) -> None:
    queries, index = random_units(10, 9), opened(stored)
    together = index.search(queries, 10)
    for number in range(len(queries)):
        for one, of_all in zip(index.search(queries[number : number + 1], 10), together, strict=True):
            np.testing.assert_array_equal(one[0], of_all[number])


def test_a_mapped_file_that_cannot_be_written_is_searched(opened: Open, stored: Vectors, tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", stored)
    assert_same(opened(np.load(tmp_path / "vectors.npy", mmap_mode="r")), stored, random_units(3, 2), 5)


def test_a_failure_is_said_and_the_other_index_goes_on(
    opened: Open, stored: Vectors, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = opened(stored)
    place = index.place

    def out_of_memory(*_: object) -> None:
        raise RuntimeError("CUDA out of memory\nand how it came to that")

    for source in (TorchVectors, FaissGpuVectors):
        monkeypatch.setattr(source, "propose", out_of_memory)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_same(index, stored, random_units(2, 3), 5)
    assert [each.getMessage() for each in caplog.records] == [
        f"{place} failed (CUDA out of memory); going on without it"
    ]
    assert index.place == "exact on the CPU"


def test_torch_names_only_whole_rows_that_are_allowed_and_measures_what_it_rounds(stored: Vectors) -> None:
    damaged = np.array(stored)
    damaged[3, 5] = np.nan
    damaged[700] *= 3
    allowed = np.arange(ROWS) % 3 > 0
    source = TorchVectors(damaged, device="cpu")
    queries = random_units(4, 2)
    scores, rows = source.propose(queries, ROWS, allowed)
    assert source.odd.tolist() == [3, 700]
    assert set(rows[0].tolist()) == {-1, *np.flatnonzero(allowed).tolist()} - {3, 700}
    assert (np.diff(scores[:, :900]) <= 0).all()
    for number, error in enumerate(source.error(queries)):
        named = rows[number, :900]
        off = np.abs(scores[number, :900] - exact_similarities(damaged, named, queries[number]))
        assert off.max() <= error < 2e-3


def test_only_part_is_resident_where_there_is_little_room() -> None:
    vectors = random_units(500, 1).astype(np.float16)
    memory = TorchVectors(vectors, device="cpu", room=2 * DIM * 123)
    assert memory.place == "exact float16 by torch on cpu, 123 rows resident"


def test_pinned_memory_is_kept_only_where_vectors_are_streamed() -> None:
    vectors = random_units(500, 1).astype(np.float16)
    for room, streams in ((None, False), (2 * DIM * 123, True)):
        memory = device_vectors.DeviceVectors(vectors, torch.device("cpu"), room=room)
        assert (memory._staging is not None) == streams
        assert sum(len(block) for _, block in memory.blocks(100)) == 500


@settings(max_examples=25)
@given(
    rows=st.integers(257, 600),
    distinct=st.integers(1, 300),
    k=st.integers(1, 700),
    half=st.booleans(),
    mask=st.none() | st.integers(0, 2**32 - 1),
)
def test_torch_is_brute_force(rows: int, distinct: int, k: int, half: bool, mask: int | None) -> None:
    vectors = random_units(distinct, 3, dim=6)[np.arange(rows) % distinct].astype(np.float16 if half else np.float32)
    allowed = None if mask is None else np.random.default_rng(mask).random(rows) < 0.9
    index = RefinedIndex(vectors, TorchVectors(vectors, device="cpu"), lambda: ExactIndex(vectors))
    assert_same(index, vectors, random_units(2, 4, dim=6), k, allowed)


@pytest.mark.parametrize(
    ("kind", "marks"),
    [
        ("ivf", ()),
        ("cagra", ()),
        pytest.param("ivf", ("real",), marks=needs_faiss_gpu),
        pytest.param("cagra", ("real",), marks=[needs_faiss_gpu, needs_cagra]),
    ],
)
def test_what_looks_at_a_part_keeps_its_recall_and_exact_numbers(
    kind: faiss_gpu.GpuKind, marks: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not marks:
        fake = GpuFaiss()
        monkeypatch.setattr(faiss_gpu, "faiss_module", lambda: fake)
    vectors = random_units(ROWS, 1).astype(np.float16)
    source = FaissGpuVectors(vectors, kind)
    index = RefinedIndex(vectors, source, lambda: ExactIndex(vectors))
    assert source.recall >= 0.99
    assert index.info.recall == source.recall
    queries = random_units(40, 8)
    similarities, rows = index.search(queries, 10)
    assert found_fraction(rows, brute_force(vectors, queries, 10)[1]) >= 0.98
    for query, line, found in zip(queries, similarities, rows, strict=True):
        assert len(set(found.tolist())) == 10
        np.testing.assert_array_equal(line, exact_similarities(vectors, found, query))


@needs_torch_cuda
def test_the_driver_names_the_devices_that_torch_finds() -> None:
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    assert [device.name for device in cuda_devices()] == names
