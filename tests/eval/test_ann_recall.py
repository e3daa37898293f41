"""Recall of an index against brute force: by hand, with ties, with filters, and for a whole collection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_collection import write_small_collection

from mmsearch.errors import UsageError
from mmsearch.eval.ann_recall import ann_recall_at_k, exact_truth, measure_collection, measure_index
from mmsearch.model import load_model
from mmsearch.snapshot import Snapshot
from mmsearch.vector_index import ExactIndex, IndexInfo, build_index

Vectors = npt.NDArray[np.float32]


def unit(rows: int, dim: int = 8, *, seed: int = 0) -> Vectors:
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def recall(found: list[list[int]], vectors: Vectors, queries: Vectors, k: int) -> float:
    return ann_recall_at_k(exact_truth(np.array(found), [(np.arange(len(vectors)), vectors)], queries), k)


def test_recall_is_the_share_of_the_true_nearest_that_was_found() -> None:
    vectors = np.eye(6, dtype=np.float32)
    query = np.array([[6, 5, 4, 3, 2, 1]], np.float32) / np.float32(np.sqrt(91))
    assert recall([[0, 1, 2]], vectors, query, 3) == 1.0
    assert recall([[2, 1, 0]], vectors, query, 3) == 1.0
    assert recall([[0, 4, 5]], vectors, query, 3) == pytest.approx(1 / 3)
    assert recall([[3, 4, 5]], vectors, query, 3) == 0.0
    assert recall([[0, 4, 5]], vectors, query, 1) == 1.0


def test_any_of_several_tied_items_counts() -> None:
    vectors = np.concatenate([np.eye(3, dtype=np.float32)] * 2)
    query = np.array([[1, 0, 0]], np.float32)
    assert recall([[3]], vectors, query, 1) == recall([[0]], vectors, query, 1) == 1.0
    assert recall([[1]], vectors, query, 1) == 0.0


def test_naming_an_item_twice_or_nothing_earns_nothing() -> None:
    vectors, queries = unit(10), unit(1, seed=1)
    best = int(np.argmax(vectors @ queries[0]))
    assert recall([[best, best]], vectors, queries, 2) == 0.5
    assert recall([[best, -1]], vectors, queries, 2) == 0.5
    assert recall([[-1, -1]], vectors, queries, 2) == 0.0


def test_fewer_items_than_k_are_all_there_is_to_find() -> None:
    vectors, queries = unit(3), unit(2, seed=1)
    assert recall([[0, 1, 2, -1, -1]] * 2, vectors, queries, 5) == 1.0
    assert recall([[0, 1, -1, -1, -1]] * 2, vectors, queries, 5) == pytest.approx(2 / 3)


def test_a_filter_has_its_own_truth() -> None:
    vectors, queries = unit(40), unit(5, seed=1)
    allowed = np.arange(40) % 4 == 0
    _, rows = ExactIndex(vectors).search(queries, 3, allowed)
    kept = np.flatnonzero(allowed)
    assert ann_recall_at_k(exact_truth(rows, [(kept, vectors[kept])], queries), 3) == 1.0
    assert ann_recall_at_k(exact_truth(rows, [(np.arange(40), vectors)], queries), 3) < 1.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_recall_is_that_of_a_plain_loop_over_any_blocks(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, queries = unit(30, seed=seed), unit(4, seed=seed + 1)
    found = np.array([rng.permutation(30)[:k] for _ in queries])
    exact = [set(np.argsort(-(vectors @ query))[:k].tolist()) for query in queries]
    expected = np.mean([len(set(named.tolist()) & truth) / k for named, truth in zip(found, exact, strict=True)])
    order = rng.permutation(30)
    blocks = [(part, vectors[part]) for part in np.array_split(order, 4)]
    assert ann_recall_at_k(exact_truth(found, blocks, queries), k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [0, 4])
def test_k_deeper_than_the_index_was_asked_is_refused(k: int) -> None:
    with pytest.raises(UsageError, match=f"k = {k} is outside 1 to 3"):
        recall([[0, 1, 2]], unit(9), unit(1, seed=1), k)


class HalfBlindIndex(ExactIndex):
    """Never finds an odd row."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__(vectors)
        self.info = IndexInfo("exact")
        self._even = np.arange(len(vectors)) % 2 == 0

    def search(
        self, queries: Vectors, k: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Vectors, npt.NDArray[np.int64]]:
        return super().search(queries, k, self._even)


def test_an_index_that_misses_half_is_seen_to_miss_half() -> None:
    vectors, queries = unit(400), unit(300, seed=1)
    blind = measure_index(HalfBlindIndex(vectors), vectors, queries)
    assert blind.recall[100] == pytest.approx(0.5, abs=0.05)
    sighted = measure_index(build_index(vectors), vectors, queries)
    assert set(sighted.recall.values()) == {1.0}
    assert list(sighted.recall) == [10, 16, 32, 100]
    assert 0 < sighted.latency.p50 <= sighted.latency.p95 <= sighted.latency.p99


def test_a_small_gallery_is_measured_at_its_own_size() -> None:
    vectors = unit(7)
    assert measure_index(build_index(vectors), vectors, unit(3, seed=1)).recall == {7: 1.0}


def test_no_queries_are_refused() -> None:
    with pytest.raises(UsageError, match="no queries"):
        measure_index(build_index(unit(7)), unit(7), unit(0))


def test_a_collection_answers_from_its_own_index(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir, threads=1)
    small = write_small_collection(tmp_path, model, missing=("green",))
    with Snapshot.open(small.directory) as snapshot:
        report = measure_collection(snapshot, model.encode_texts(["red", "green dog", "a yellow thing"]))
        assert report.recall == {8: 1.0}
        assert (report.index, report.vectors) == ("exact", 8)
        with pytest.raises(UsageError, match="not one model"):
            measure_collection(snapshot, unit(2, 5))
