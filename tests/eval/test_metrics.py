"""Every metric against the worked case, a naive oracle, public implementations, and the identities that must hold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import metrics as naive_metrics
from scoring_cases import Case, hostile_cases, our_metrics, tie_free_cases

from mmsearch.errors import UsageError
from mmsearch.eval import metrics
from mmsearch.eval.folds import split_into_folds
from mmsearch.eval.ranks import Ranks, rank_lists, rank_scores
from mmsearch.eval.relevance import relevance_from_pairs

GOLDENS: dict[str, Any] = json.loads(Path(__file__).with_name("goldens.json").read_text(encoding="utf-8"))


def golden_case(frozen: dict[str, Any]) -> Case:
    positives = tuple(frozenset(items) for items in frozen["positives"])
    return Case(np.array(frozen["scores"]) * GOLDENS["unit"], positives, frozen["k"])


def one_query(scores: list[float], positives: list[int]) -> Ranks:
    relevance = relevance_from_pairs([(0, item) for item in positives], queries=1, gallery=len(scores))
    return rank_scores(np.array([scores]), relevance)


def test_the_worked_case_has_the_values_of_the_definitions() -> None:
    ranks = one_query([0.9, 0.8, 0.8, 0.3, -0.1, -0.2], [1, 4, 5])
    assert ranks.positions.tolist() == [3, 5, 6]
    assert metrics.recall_at_k(ranks, 1) == 0
    assert metrics.recall_at_k(ranks, 3) == 1
    assert metrics.relevant_fraction_at_k(ranks, 3) == pytest.approx(1 / 3)
    assert metrics.precision_at_k(ranks, 5) == pytest.approx(0.4)
    assert metrics.mrr(ranks) == pytest.approx(1 / 3)
    assert metrics.average_precision(ranks) == pytest.approx(0.411111, abs=1e-6)
    assert metrics.map_at_r(ranks) == pytest.approx(0.111111, abs=1e-6)
    assert metrics.r_precision(ranks) == pytest.approx(1 / 3)
    assert metrics.ndcg_at_k(ranks, 5) == pytest.approx(0.416181, abs=1e-6)
    assert ranks.tie_rate == 1


@pytest.mark.parametrize("oracle", ["ranx", "ir_measures", "sklearn", "eccv_caption", "torchmetrics"])
@pytest.mark.parametrize("name", sorted(GOLDENS["cases"]))
def test_public_implementations_agree(name: str, oracle: str) -> None:
    case = golden_case(GOLDENS["cases"][name])
    expected = GOLDENS["cases"][name]["oracles"][oracle]
    found = our_metrics(case.ranks(), case.k)
    # torchmetrics computes in float32 whatever it is given
    tolerance = 1e-6 if oracle == "torchmetrics" else 1e-9
    assert {metric: found[metric] for metric in expected} == pytest.approx(expected, abs=tolerance)


def test_goldens_cover_every_metric_with_two_implementations() -> None:
    names = {m for case in GOLDENS["cases"].values() for values in case["oracles"].values() for m in values}
    by_metric = {m: sum(m in values for values in GOLDENS["cases"]["one_positive"]["oracles"].values()) for m in names}
    assert {metric for metric, oracles in by_metric.items() if oracles >= 2} >= {
        "recall_at_k",
        "relevant_fraction_at_k",
        "precision_at_k",
        "mrr",
        "average_precision",
        "r_precision",
        "ndcg_at_k",
    }


def test_folds_agree_with_the_coco_1k_protocol() -> None:
    frozen = GOLDENS["folds"]
    case = golden_case(frozen)
    pairs = np.array([(image, query) for query, items in enumerate(case.positives) for image in items])
    recalls = []
    for fold in split_into_folds(pairs, np.arange(case.scores.shape[1]), 5):
        own = relevance_from_pairs(fold.pairs[:, ::-1], queries=len(fold.captions), gallery=len(fold.images))
        ranks = rank_scores(case.scores[np.ix_(fold.captions, fold.images)], own)
        recalls.append(metrics.recall_at_k(ranks, case.k))
    assert np.mean(recalls) == pytest.approx(frozen["recall_at_k"], abs=1e-12)
    assert np.mean(recalls) > metrics.recall_at_k(case.ranks(), case.k)


@pytest.mark.parametrize("name", sorted({**tie_free_cases(), **hostile_cases()}))
def test_naive_oracle_agrees(name: str) -> None:
    case = {**tie_free_cases(), **hostile_cases()}[name]
    expected = naive_metrics(case.scores.tolist(), [set(items) for items in case.positives], case.k)
    assert our_metrics(case.ranks(), case.k) == pytest.approx(expected, abs=1e-12)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    gallery = draw(st.integers(1, 9))
    queries = draw(st.integers(1, 5))
    score = st.sampled_from([-math.inf, -1.5, -0.25, 0.0, 0.25, 0.5, 2.0])
    scores = draw(st.lists(st.lists(score, min_size=gallery, max_size=gallery), min_size=queries, max_size=queries))
    item = st.integers(0, gallery - 1)
    positives = draw(st.lists(st.frozensets(item, min_size=1), min_size=queries, max_size=queries))
    return Case(np.array(scores), tuple(positives), draw(st.integers(1, gallery)))


@given(cases())
@settings(deadline=None, max_examples=300)
def test_naive_oracle_agrees_on_anything(case: Case) -> None:
    expected = naive_metrics(case.scores.tolist(), [set(items) for items in case.positives], case.k)
    assert our_metrics(case.ranks(), case.k) == pytest.approx(expected, abs=1e-12)


@given(cases())
@settings(deadline=None)
def test_identities_of_the_definitions_hold(case: Case) -> None:
    ranks, k = case.ranks(), case.k
    recalls = [metrics.recall_at_k(ranks, i) for i in range(1, ranks.gallery + 1)]
    fraction = metrics.relevant_fraction_at_k(ranks, k)
    assert recalls[0] == pytest.approx(metrics.precision_at_k(ranks, 1))
    assert recalls == sorted(recalls)
    assert fraction - 1e-12 <= recalls[k - 1] <= min(1.0, int(ranks.relevant.max()) * fraction + 1e-12)


@given(cases(), st.data())
@settings(deadline=None)
def test_metrics_ignore_gallery_order_and_scale_of_scores(case: Case, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(case.scores.shape[1]))))
    moved = tuple(frozenset(int(np.flatnonzero(order == item)[0]) for item in items) for items in case.positives)
    stretched = Case(np.exp2(case.scores[:, order]) - 7.0, moved, case.k)
    stretched.scores[case.scores[:, order] == -math.inf] = -math.inf
    assert our_metrics(stretched.ranks(), case.k) == pytest.approx(our_metrics(case.ranks(), case.k), abs=1e-12)


@given(cases())
@settings(deadline=None)
def test_with_one_positive_several_metrics_are_one(case: Case) -> None:
    single = Case(case.scores, tuple(frozenset({min(items)}) for items in case.positives), case.k)
    ranks = single.ranks()
    gains = [1 / math.log2(1 + rank) if rank <= case.k else 0.0 for rank in ranks.best.tolist()]
    assert metrics.map_at_r(ranks) == pytest.approx(metrics.recall_at_k(ranks, 1))
    assert metrics.mrr(ranks) == pytest.approx(metrics.average_precision(ranks))
    assert metrics.ndcg_at_k(ranks, case.k) == pytest.approx(np.mean(gains))


def test_constant_scorer_gets_nothing_until_every_wrong_item_is_seen() -> None:
    for first in range(8):
        ranks = one_query([0.5] * 10, [first, first + 1, first + 2])
        assert [metrics.recall_at_k(ranks, k) for k in range(1, 11)] == [0.0] * 7 + [1.0] * 3


def test_unanswered_query_is_a_miss_at_every_k() -> None:
    ranks = one_query([-math.inf] * 4, [2])
    assert metrics.recall_at_k(ranks, 4) == 0
    assert metrics.mrr(ranks) == metrics.average_precision(ranks) == 0
    assert metrics.median_rank(ranks) == metrics.mean_rank(ranks) == 5
    assert ranks.tie_rate == 0


def test_rsum_adds_six_percentages_and_mean_recall_averages_them() -> None:
    texts = rank_scores(np.eye(20), relevance_from_pairs([(i, i) for i in range(20)], queries=20, gallery=20))
    images = rank_scores(np.zeros((20, 20)), relevance_from_pairs([(i, i) for i in range(20)], queries=20, gallery=20))
    assert metrics.rsum(texts, images) == pytest.approx(300.0)
    assert metrics.mean_recall(texts, images) == pytest.approx(0.5)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_outside_the_gallery_is_refused(k: int) -> None:
    ranks = one_query([0.1, 0.2, 0.3, 0.4, 0.5], [0])
    for metric in (
        metrics.recall_at_k,
        metrics.relevant_fraction_at_k,
        metrics.precision_at_k,
        metrics.mrr_at_k,
        metrics.ndcg_at_k,
    ):
        with pytest.raises(UsageError, match=rf"k = {k} is outside 1 to 5"):
            metric(ranks, k)


def test_short_lists_refuse_metrics_that_need_more_depth() -> None:
    relevance = relevance_from_pairs([(0, 1), (1, 5), (1, 6), (1, 7)], queries=2, gallery=9)
    ranks = rank_lists(np.array([[3, 1], [5, 8]]), relevance)
    assert metrics.recall_at_k(ranks, 2) == 1
    assert metrics.mrr_at_k(ranks, 2) == pytest.approx(0.75)
    for metric in (
        metrics.median_rank,
        metrics.mean_rank,
        metrics.mrr,
        metrics.average_precision,
        metrics.map_at_r,
        metrics.r_precision,
    ):
        with pytest.raises(UsageError, match="only the first 2 were returned"):
            metric(ranks)
    with pytest.raises(UsageError, match="only the first 2 were returned"):
        metrics.ndcg_at_k(ranks, 3)


def test_nothing_to_average_is_refused() -> None:
    ranks = rank_scores(np.zeros((2, 3)), relevance_from_pairs([], queries=2, gallery=3))
    with pytest.raises(UsageError, match="no query has a positive"):
        metrics.recall_at_k(ranks, 1)
    with pytest.raises(UsageError, match="no query has a positive"):
        metrics.median_rank(ranks)
    with pytest.raises(UsageError, match="no query has a positive"):
        metrics.map_at_r(ranks)


@pytest.mark.slow
def test_recomputed_goldens_are_the_frozen_ones() -> None:
    for package in ("ranx", "ir_measures", "sklearn.metrics", "eccv_caption", "torchmetrics"):
        pytest.importorskip(package, reason="the oracles of make_goldens.py are not installed")
    make_goldens = pytest.importorskip("make_goldens")
    recomputed = make_goldens.compute()
    for name, case in recomputed["cases"].items():
        for oracle, values in case["oracles"].items():
            assert values == pytest.approx(GOLDENS["cases"][name]["oracles"][oracle], abs=1e-9)
    assert recomputed["folds"]["recall_at_k"] == pytest.approx(GOLDENS["folds"]["recall_at_k"])
