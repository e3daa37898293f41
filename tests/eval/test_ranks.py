"""Ranks from scores, from embeddings block by block, and from lists."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from mmsearch.errors import UsageError
from mmsearch.eval.ranks import rank_embeddings, rank_lists, rank_scores
from mmsearch.eval.relevance import Relevance, relevance_from_pairs


def unit_rows(rows: int, dim: int = 24, *, seed: int = 0) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def diagonal(size: int) -> Relevance:
    return relevance_from_pairs([(i, i) for i in range(size)], queries=size, gallery=size)


def test_rank_is_one_plus_the_wrong_items_at_least_as_good() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 6, (50, 30)).astype(np.float32)
    relevance = relevance_from_pairs([(q, q % 30) for q in range(50)], queries=50, gallery=30)
    expected = [1 + sum(scores[q, j] >= scores[q, q % 30] for j in range(30) if j != q % 30) for q in range(50)]
    assert rank_scores(scores, relevance).best.tolist() == expected


@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 26])
def test_blocks_of_any_size_give_the_ranks_of_the_whole_matrix(block_bytes: int) -> None:
    queries, gallery = unit_rows(37, seed=1), unit_rows(23, seed=2)
    pairs = [(q, g) for q in range(37) for g in range(23) if (q + g) % 7 == 0]
    relevance = relevance_from_pairs(pairs, queries=37, gallery=23)
    found = rank_embeddings(queries, gallery, relevance, block_bytes=block_bytes)
    expected = rank_scores((queries.astype(np.float64) @ gallery.T.astype(np.float64)), relevance)
    assert found.positions.tolist() == expected.positions.tolist()
    assert found.offsets.tolist() == expected.offsets.tolist()


def test_equal_embeddings_tie_exactly_wherever_they_stand() -> None:
    for size, dim in itertools.product((7, 33, 130, 519), (16, 100, 384)):
        gallery = unit_rows(size, dim, seed=size)
        gallery[-1] = gallery[0]  # first and last column: the inside and the edge of a tile
        queries = unit_rows(64, dim, seed=size + 1)
        relevance = relevance_from_pairs([(q, 0) for q in range(64)], queries=64, gallery=size)
        for chosen in (gallery, np.asfortranarray(gallery)):
            assert rank_embeddings(queries, chosen, relevance).tied.all()


def test_only_a_wrong_item_makes_a_tie() -> None:
    scores = np.array([[0.5, 0.5, 0.1], [0.5, 0.5, 0.1], [0.9, 0.5, 0.5]])
    relevance = relevance_from_pairs([(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)], queries=3, gallery=3)
    ranks = rank_scores(scores, relevance)
    assert ranks.tied.tolist() == [False, True, False]
    assert ranks.tie_rate == pytest.approx(1 / 3)


def test_queries_without_a_positive_are_excluded_and_named() -> None:
    relevance = relevance_from_pairs([(1, 0), (3, 2)], queries=5, gallery=3)
    ranks = rank_scores(np.tile(np.array([0.3, 0.2, 0.1]), (5, 1)), relevance)
    assert ranks.queries.tolist() == [1, 3]
    assert ranks.excluded.tolist() == [0, 2, 4]
    assert ranks.best.tolist() == [1, 3]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("positive", [True, False])
def test_nan_and_infinity_are_refused_by_query_and_item(value: float, positive: bool) -> None:
    scores = np.zeros((4, 6), dtype=np.float32)
    scores[2, 2 if positive else 5] = value
    with pytest.raises(UsageError, match=f"query 2 for item {2 if positive else 5} is {value}"):
        rank_scores(scores, relevance_from_pairs([(q, q) for q in range(4)], queries=4, gallery=6))


def test_nan_in_a_later_block_is_named_by_its_own_row() -> None:
    bad = np.zeros((2, 5))
    bad[1, 4] = np.nan
    with pytest.raises(UsageError, match="query 4 for item 4"):
        rank_scores([np.zeros((3, 5)), bad], diagonal(5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_embeddings_are_refused_by_row(value: float) -> None:
    good, bad = unit_rows(5), unit_rows(5)
    bad[3, 1] = value
    with pytest.raises(UsageError, match="the embedding of query 3"):
        rank_embeddings(bad, good, diagonal(5))
    with pytest.raises(UsageError, match="the embedding of gallery 3"):
        rank_embeddings(good, bad, diagonal(5))


def test_half_precision_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="half precision"):
        rank_scores(np.zeros((3, 3), dtype=np.float16), diagonal(3))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected float32"):
        rank_embeddings(unit_rows(3).astype(np.float16), unit_rows(3), diagonal(3))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not one model"):
        rank_embeddings(unit_rows(3, 8), unit_rows(3, 9), diagonal(3))
    with pytest.raises(UsageError, match="speaks of 3"):
        rank_embeddings(unit_rows(3), unit_rows(4), diagonal(3))
    with pytest.raises(UsageError, match="scores of 2 queries"):
        rank_scores(np.zeros((2, 3)), diagonal(3))
    with pytest.raises(UsageError, match="more than the 3 queries"):
        rank_scores([np.zeros((2, 3)), np.zeros((2, 3))], diagonal(3))


def test_pairs_outside_the_sets_are_refused() -> None:
    with pytest.raises(UsageError, match="gallery rows 0 to 3, expected 0 to 2"):
        relevance_from_pairs([(0, 0), (0, 3)], queries=1, gallery=3)
    with pytest.raises(UsageError, match="query rows -1 to 0"):
        relevance_from_pairs([(-1, 0), (0, 2)], queries=1, gallery=3)


def test_a_pair_given_twice_counts_once() -> None:
    relevance = relevance_from_pairs([(0, 2), (0, 1), (0, 2)], queries=1, gallery=3)
    assert relevance.of(0).tolist() == [1, 2]
    assert relevance.subset(np.array([0, 0])).counts.tolist() == [2, 2]


def test_lists_give_the_ranks_of_the_scores_they_come_from() -> None:
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 9, (40, 12)).astype(np.float64)
    pairs = [(q, int(g)) for q in range(40) for g in rng.choice(12, 3, replace=False)]
    relevance = relevance_from_pairs(pairs, queries=40, gallery=12)
    order = np.argsort(-scores, axis=1, kind="stable")
    full = rank_lists(order, relevance, scores=np.take_along_axis(scores, order, axis=1))
    assert full.positions.tolist() == rank_scores(scores, relevance).positions.tolist()
    assert full.tied.tolist() == rank_scores(scores, relevance).tied.tolist()


def test_lists_know_what_they_do_not_hold() -> None:
    relevance = relevance_from_pairs([(0, 4), (0, 1), (1, 2), (2, 0)], queries=3, gallery=6)
    ranks = rank_lists(np.array([[3, 1, 0], [5, -1, -1], [-1, -1, -1]]), relevance)
    assert ranks.positions.tolist() == [2, 7, 7, 7]
    assert ranks.depth == 3


def test_listed_item_without_a_score_is_not_returned() -> None:
    relevance = relevance_from_pairs([(0, 1)], queries=1, gallery=6)
    lists, scores = np.array([[0, 1, 2, -1, -1]]), np.array([[0.5, -np.inf, -np.inf, -np.inf, -np.inf]])
    assert rank_lists(lists, relevance, scores=scores).positions.tolist() == [7]
    with pytest.raises(UsageError, match="not ordered by falling scores"):
        rank_lists(lists[:, :1], relevance, scores=np.array([[np.inf]]))


@pytest.mark.parametrize(
    "lists", [[[0, 0]], [[0, 9]], [[-1, 0]]], ids=["an item twice", "no such item", "an answer behind the padding"]
)
def test_impossible_lists_are_refused(lists: list[list[int]]) -> None:
    with pytest.raises(UsageError, match="distinct gallery rows below 3"):
        rank_lists(np.array(lists), relevance_from_pairs([(0, 1)], queries=1, gallery=3))


def test_lists_out_of_order_are_refused() -> None:
    with pytest.raises(UsageError, match="not ordered by falling scores"):
        rank_lists(
            np.array([[0, 1]]),
            relevance_from_pairs([(0, 1)], queries=1, gallery=3),
            scores=np.array([[0.1, 0.2]]),
        )


def test_a_large_gallery_is_scored_in_small_blocks() -> None:
    import tracemalloc

    queries, gallery = unit_rows(400, 8), unit_rows(20_000, 8, seed=9)
    relevance = relevance_from_pairs([(q, q) for q in range(400)], queries=400, gallery=20_000)
    tracemalloc.start()
    rank_embeddings(queries, gallery, relevance, block_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20  # the whole matrix is 32 MB
