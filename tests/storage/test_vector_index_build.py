"""How an index is built: which kind and settings it gets, and what it says of them."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import pytest
from storage_builders import CLUSTERED_SHAPE, unit_vectors

from mmsearch import vector_index
from mmsearch.exact_search import search_exact
from mmsearch.index_recall import found_fraction, sample_queries
from mmsearch.types import IndexKind
from mmsearch.vector_index import INDEX_KINDS, IndexInfo, build_index, choose_kind

ROWS, DIM = CLUSTERED_SHAPE
Vectors = npt.NDArray[np.float32]


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
