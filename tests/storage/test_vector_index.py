"""Every kind of index against brute force: values, rows, order; and the recall that each kind claims."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_builders import unit_vectors

from mmsearch import exact_search, faiss_codes, vector_index
from mmsearch.exact_search import search_exact, unit_float32
from mmsearch.faiss_codes import ivfpq_codes
from mmsearch.index_recall import found_fraction, sample_queries
from mmsearch.types import IndexKind
from mmsearch.vector_index import INDEX_KINDS, IndexInfo, VectorIndex, build_index, choose_kind, load_index

ROWS, DIM = 12_000, 32
Vectors = npt.NDArray[np.float32]


def brute_force(
    vectors: npt.NDArray[np.floating], query: Vectors, k: int, allowed: npt.NDArray[np.bool_] | None = None
) -> tuple[list[float], list[int]]:
    """The definition, in plain steps: cosine of the normalised vectors, best first, then by row."""
    wide = vectors.astype(np.float32)
    if vectors.dtype == np.float16:
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    cosines = (wide.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    rows = [row for row in range(len(vectors)) if allowed is None or allowed[row]]
    rows = sorted(rows, key=lambda row: (-cosines[row], row))[:k]
    return [float(cosines[row]) for row in rows], rows


@pytest.fixture(scope="module")
def clustered() -> npt.NDArray[np.float16]:
    """Vectors around 300 centres whose variance sits in few components, with 40 copies of each of three of them."""
    random = np.random.default_rng(1)
    spread = (np.arange(1, DIM + 1) ** -0.5).astype(np.float32)
    centres = unit_vectors(300, dim=DIM) * spread
    vectors = centres[random.integers(0, 300, ROWS)] + 0.5 * unit_vectors(ROWS, dim=DIM, seed=2) * spread
    vectors[random.permutation(ROWS)[:120]] = np.repeat(vectors[:3], 40, axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16)


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


def test_copies_are_equal_wherever_they_stand() -> None:
    # A matrix product sums the rows at the edge of its blocks in another order, so copies differ in the last bit there.
    vectors = np.repeat(unit_vectors(1, dim=384), 5003, axis=0)
    _, rows = search_exact(vectors, unit_vectors(40, dim=384, seed=3), 2)
    assert (rows == [0, 1]).all()


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


def test_settings_are_the_quickest_that_reach_what_is_aimed_at(clustered: npt.NDArray[np.float16]) -> None:
    # Directions of their own for all, so that lists tell little: few of them do not do.
    vectors = unit_vectors(3 * ROWS, dim=DIM)
    index = build_index(vectors, kind="ivfpq", threads=1)
    assert (index.kind, index.info.k_factor >= 100, index.info.probes > 100) == ("ivfpq", True, True)
    queries = sample_queries(vectors)
    _, expected = search_exact(vectors, queries, 10)
    assert index.info.recall == round(found_fraction(index.search(queries, 10)[1], expected), 4)
    assert index.info.recall >= 0.995
    assert build_index(clustered, kind="ivfpq", threads=1).info.probes < index.info.probes


def test_half_of_the_sample_queries_are_far_from_all_vectors(clustered: npt.NDArray[np.float16]) -> None:
    best = search_exact(clustered, sample_queries(clustered), 1)[0][:, 0]
    assert np.median(best[128:]) < np.median(best[:128]) - 0.05


def test_threads_of_the_program_around_are_what_they_were(clustered: npt.NDArray[np.float16]) -> None:
    import faiss

    before = faiss.omp_get_max_threads()
    build_index(clustered, kind="ivfpq", threads=before + 1).search(unit_vectors(1, dim=DIM), 5)
    assert faiss.omp_get_max_threads() == before


def test_vectors_that_damage_turned_into_nan_do_not_keep_the_rest_from_being_indexed() -> None:
    vectors = unit_vectors(ROWS, dim=DIM)
    vectors[[3, 700]] = np.nan
    index = build_index(vectors, kind="ivfpq", threads=1)
    _, rows = index.search(unit_vectors(50, dim=DIM, seed=1), 20)
    assert not {3, 700} & set(rows.ravel().tolist())


def test_kind_that_misses_its_recall_is_replaced_and_says_so(
    clustered: npt.NDArray[np.float16], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vector_index, "_K_FACTORS", {"ivfpq": (1,), "sqfp16": (3,)})
    with caplog.at_level(logging.WARNING):
        built = build_index(clustered, kind="ivfpq", threads=1)
    assert built.kind == "sqfp16"
    assert "kind ivfpq reaches recall" in caplog.text
    monkeypatch.setattr(vector_index, "RECALL_WANTED", 1.1)
    assert build_index(clustered, kind="sqfp16", threads=1).kind == "exact"


@pytest.mark.parametrize(
    ("rows", "kind"), [(1, "exact"), (10_000, "exact"), (10_001, "sqfp16"), (100_000, "sqfp16"), (100_001, "ivfpq")]
)
def test_kind_follows_the_size(rows: int, kind: IndexKind) -> None:
    assert choose_kind(rows) == kind


def test_only_what_cannot_be_had_from_the_vectors_needs_a_file() -> None:
    assert [kind for kind in INDEX_KINDS if IndexInfo(kind).needs_file] == ["ivfpq"]


def test_vector_that_damage_turned_into_nan_is_never_found() -> None:
    vectors = unit_vectors(50)
    vectors[3] = np.nan
    similarities, rows = search_exact(vectors, unit_vectors(2, seed=1), 50)
    assert 3 not in rows[:, :49]
    assert np.isfinite(similarities[:, :49]).all()


@pytest.mark.parametrize("share", [None, 0.9, 0.01])
def test_exact_search_in_parts_is_exact_search_at_once(share: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # With copies of one vector in every part, so that ties have to be broken across them.
    vectors = unit_vectors(3000, dim=8)
    vectors[::7] = vectors[0]
    allowed = None if share is None else np.random.default_rng(4).random(3000) < share
    queries = np.concatenate([vectors[:2], unit_vectors(4, dim=8, seed=5)])
    at_once = search_exact(vectors, queries, 40, allowed)
    monkeypatch.setattr(exact_search, "_BLOCK_ROWS", 64)
    monkeypatch.setattr(exact_search, "_SCORES_IN_MEMORY", 500)
    for whole, parts in zip(at_once, search_exact(vectors, queries, 40, allowed), strict=True):
        np.testing.assert_array_equal(parts, whole)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    distinct=st.integers(1, 6),
    k=st.integers(1, 50),
    half=st.booleans(),
    mask=st.none() | st.integers(0, 2**40 - 1),
)
def test_exact_search_is_brute_force(rows: int, distinct: int, k: int, half: bool, mask: int | None) -> None:
    vectors = unit_vectors(distinct, dim=5)[np.arange(rows) % distinct]
    stored = vectors.astype(np.float16) if half else vectors
    allowed = None if mask is None else np.array([mask >> row & 1 for row in range(rows)], bool)
    query = unit_vectors(1, dim=5, seed=7)
    similarities, found = search_exact(stored, query, k, allowed)
    expected_similarities, expected = brute_force(stored, query[0], k, allowed)
    padding = k - len(expected)
    assert found[0].tolist() == expected + [-1] * padding
    assert similarities[0].tolist() == expected_similarities + [-np.inf] * padding
