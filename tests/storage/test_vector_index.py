"""Every kind of index against brute force: values, rows, order; and the recall that each kind claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from storage_builders import CLUSTERED_SHAPE, brute_force, unit_vectors

from mmsearch import faiss_codes, vector_index
from mmsearch.exact_search import search_exact, unit_float32
from mmsearch.faiss_codes import ivfpq_codes
from mmsearch.index_recall import found_fraction, sample_queries
from mmsearch.types import IndexKind
from mmsearch.vector_index import INDEX_KINDS, IndexInfo, VectorIndex, build_index, load_index

ROWS, DIM = CLUSTERED_SHAPE
Vectors = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=INDEX_KINDS)
def index(request: pytest.FixtureRequest, clustered: npt.NDArray[np.float16]) -> VectorIndex:
    built = build_index(clustered, kind=request.param, threads=1)
    assert built.kind == request.param
    return built


def test_index_reaches_its_recall_on_other_queries(index: VectorIndex, clustered: npt.NDArray[np.float16]) -> None:
    queries = unit_float32(clustered[5:105]) + 0.7 * unit_vectors(100, dim=DIM, seed=9)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    _, expected = search_exact(clustered, queries, 10)
    _, found = index.search(queries, 10)
    assert found_fraction(found, expected) >= 0.99


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01, 0.0])
def test_only_allowed_rows_are_found_and_recall_holds(
    index: VectorIndex, clustered: npt.NDArray[np.float16], share: float
) -> None:
    allowed = np.random.default_rng(3).random(ROWS) < share
    queries = sample_queries(clustered)[::6]
    similarities, found = index.search(queries, 10, allowed)
    expected = [brute_force(clustered, query, 10, allowed) for query in queries]
    assert allowed[found[found >= 0]].all()
    assert (found >= 0).sum() == sum(len(rows) for _, rows in expected)
    assert np.isneginf(similarities[found < 0]).all()
    right = sum(len(set(rows) & set(line.tolist())) for line, (_, rows) in zip(found, expected, strict=True))
    assert right >= 0.99 * sum(len(rows) for _, rows in expected)


@pytest.mark.parametrize("nearest_gone", [5, 300, 2500])
def test_recall_holds_where_the_rows_left_out_are_the_nearest_of_all(
    index: VectorIndex, clustered: npt.NDArray[np.float16], nearest_gone: int
) -> None:
    right = 0
    for row in range(20):
        query = unit_float32(clustered[row : row + 1])
        allowed = np.ones(ROWS, bool)
        allowed[np.argsort(-unit_float32(clustered) @ query[0])[:nearest_gone]] = False
        _, found = index.search(query, 10, allowed)
        right += len(set(found[0].tolist()) & set(brute_force(clustered, query[0], 10, allowed)[1]))
    # Where a fifth is gone, cut off at a similarity to the query, the best that are left all lie right below the cut,
    # and 4-bit codes tell such rows apart less well. No folder is like that.
    assert right >= (0.7 if nearest_gone == 2500 and index.kind == "ivfpq" else 0.97) * 200


class Recorded:
    """The codes of an index, and for each search of them how many lists were read and how many rows were wanted."""

    def __init__(self, codes: Any) -> None:
        self._codes = codes
        self.nlist = codes.nlist
        self.asked: list[tuple[int, int]] = []

    def search(self, queries: Vectors, k: int, params: Any) -> tuple[Vectors, npt.NDArray[np.int64]]:
        self.asked.append((params.nprobe, k))
        found: tuple[Vectors, npt.NDArray[np.int64]] = self._codes.search(queries, k, params=params)
        return found


@pytest.fixture(scope="module")
def codes(clustered: npt.NDArray[np.float16]) -> Any:
    return ivfpq_codes(clustered)


@pytest.mark.parametrize(("share", "all_lists"), [(None, False), (0.995, False), (0.95, True), (0.5, True)])
def test_every_list_is_read_where_rows_are_left_out(
    codes: Any, clustered: npt.NDArray[np.float16], share: float | None, all_lists: bool
) -> None:
    recorded = Recorded(codes)
    index = vector_index.FaissIndex(clustered, recorded, IndexInfo("ivfpq", 10, probes=20))
    allowed = None if share is None else np.arange(ROWS) < share * ROWS
    index.search(unit_vectors(1, dim=DIM), 10, allowed)
    assert recorded.asked == [(recorded.nlist if all_lists else 20, 100)]


def test_more_is_read_where_the_nearest_lists_hold_too_little(codes: Any, clustered: npt.NDArray[np.float16]) -> None:
    recorded = Recorded(codes)
    index = vector_index.FaissIndex(clustered, recorded, IndexInfo("ivfpq", 30, probes=1))
    _, rows = index.search(unit_vectors(1, dim=DIM), 10)
    assert recorded.asked == [(1, 300), (recorded.nlist, 1200)]
    assert found_fraction(rows, search_exact(clustered, unit_vectors(1, dim=DIM), 10)[1]) == 1


def test_similarities_are_exact_and_in_order(index: VectorIndex, clustered: npt.NDArray[np.float16]) -> None:
    queries = sample_queries(clustered)[:20]
    similarities, rows = index.search(queries, 7)
    assert similarities.dtype == np.float32
    assert rows.dtype == np.int64
    wide = unit_float32(clustered).astype(np.float64)
    for query, line, found in zip(queries, similarities, rows, strict=True):
        np.testing.assert_array_equal(line, (wide[found] @ query.astype(np.float64)).astype(np.float32))
        assert list(zip(-line, found, strict=True)) == sorted(zip(-line, found, strict=True))


def test_copies_are_found_with_equal_similarity_lowest_rows_first(
    index: VectorIndex, clustered: npt.NDArray[np.float16]
) -> None:
    query = unit_float32(clustered[:1])
    copies = np.flatnonzero((clustered == clustered[0]).all(axis=1))
    similarities, rows = index.search(query, 25)
    assert rows[0].tolist() == copies[:25].tolist()
    assert len(set(similarities[0].tolist())) == 1


class LastTiesFirst:
    """Codes that propose the last of equal rows first, as an index with many threads may."""

    nlist = 1

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def search(self, queries: Vectors, k: int, params: object) -> tuple[Vectors, npt.NDArray[np.int64]]:
        scores = np.einsum("qd,nd->qn", queries, self._vectors)
        rows = np.array([np.lexsort((-np.arange(len(line)), -line))[:k] for line in scores])
        return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("kind", ["sqfp16", "ivfpq"])
def test_tie_that_is_larger_than_the_candidates_is_not_cut(kind: IndexKind) -> None:
    vectors = unit_vectors(9000, dim=DIM)
    copies = np.sort(np.random.default_rng(8).permutation(9000)[:1500])
    vectors[copies] = vectors[copies[0]]
    index = vector_index.FaissIndex(vectors, LastTiesFirst(vectors), IndexInfo(kind, 3))
    _, rows = index.search(np.concatenate([vectors[copies[:1]], vectors[:1]]), 5)
    assert rows[0].tolist() == copies[:5].tolist()
    assert rows[1].tolist() == search_exact(vectors, vectors[:1], 5)[1][0].tolist()


def test_k_beyond_the_number_of_rows_is_filled_up(index: VectorIndex, clustered: npt.NDArray[np.float16]) -> None:
    allowed = np.zeros(ROWS, bool)
    allowed[[7, 11_000]] = True
    similarities, rows = index.search(unit_vectors(2, dim=DIM), 5, allowed)
    assert (np.sort(rows[:, :2]) == [7, 11_000]).all()
    assert (rows[:, 2:] == -1).all()
    assert np.isneginf(similarities[:, 2:]).all()


def test_answers_do_not_depend_on_how_many_queries_are_asked(
    index: VectorIndex, clustered: npt.NDArray[np.float16]
) -> None:
    queries = sample_queries(clustered)[:8]
    together = index.search(queries, 10)
    for number, query in enumerate(queries):
        similarities, rows = index.search(query[np.newaxis], 10)
        np.testing.assert_array_equal(similarities[0], together[0][number])
        np.testing.assert_array_equal(rows[0], together[1][number])


def test_saved_index_answers_as_before(tmp_path: Path, clustered: npt.NDArray[np.float16]) -> None:
    built = build_index(clustered, kind="ivfpq", threads=1)
    assert isinstance(built, vector_index.FaissIndex)
    built.save(tmp_path / "index.faiss")
    loaded = load_index(tmp_path / "index.faiss", clustered, built.info, threads=1)
    queries = sample_queries(clustered)
    for before, after in zip(built.search(queries, 10), loaded.search(queries, 10), strict=True):
        np.testing.assert_array_equal(before, after)


def test_file_of_another_index_or_none_is_refused(tmp_path: Path, clustered: npt.NDArray[np.float16]) -> None:
    built = build_index(clustered, kind="ivfpq", threads=1)
    assert isinstance(built, vector_index.FaissIndex)
    built.save(tmp_path / "index.faiss")
    with pytest.raises(ValueError, match="not 11999 x 32"):
        load_index(tmp_path / "index.faiss", clustered[:-1], built.info)
    for info in (IndexInfo("ivfpq", 30), IndexInfo("ivfpq", 0, probes=3), IndexInfo("sqfp16", 3, probes=3)):
        with pytest.raises(ValueError, match="candidates a row from"):
            load_index(tmp_path / "index.faiss", clustered, info)
    flat = faiss_codes.faiss_module().IndexFlat(DIM)
    faiss_codes.faiss_module().write_index(flat, str(tmp_path / "flat"))
    with pytest.raises(ValueError, match="not inverted lists"):
        load_index(tmp_path / "flat", clustered, built.info)
    (tmp_path / "rubbish").write_bytes(b"rubbish" * 100)
    with pytest.raises(ValueError, match="FAISS cannot read it"):
        load_index(tmp_path / "rubbish", clustered, built.info)
