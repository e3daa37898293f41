"""The product's own search inside an evaluation: its index against exact search, and how long a whole query takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmsearch.errors import CollectionMismatch
from mmsearch.eval.ann_recall import AnnReport, measure_collection, measure_index
from mmsearch.eval.embeddings import Embedded
from mmsearch.eval.latency import Latency, latency_of, spread
from mmsearch.eval.per_query import hit_at_k
from mmsearch.eval.ranks import rank_lists
from mmsearch.eval.record import AnnScores
from mmsearch.eval.scores import BothDirections
from mmsearch.model import Model
from mmsearch.rerank import Scores, best_block, corrected, rescored
from mmsearch.search_rerank import RerankPlan, plan_rerank
from mmsearch.snapshot import Snapshot
from mmsearch.types import IndexKind
from mmsearch.vector_index import VectorIndex, build_index

TIMED_QUERIES = 200
HITS = 10  # of a timed query, the default page


@dataclass(frozen=True, slots=True)
class ProductSearch:
    """What the product's index reaches over the images, and the latency of whole queries."""

    ann: AnnScores
    query: Latency


def measure_product_search(
    embedded: Embedded, model: Model, ranks: BothDirections, *, kind: IndexKind | None, rerank: bool = False
) -> ProductSearch:
    """Return recall of the index the product builds over the images (or of `kind`), and the latency of text queries.

    `ranks` are those by the cosine alone, which is what an index searches by. `rerank` counts into the latency.
    """
    index = build_index(embedded.images, kind=kind)
    report = measure_index(index, embedded.images, embedded.captions)
    ann = _ann_scores(report, _hit_rates(report, embedded, ranks))
    plan = plan_rerank(model, "text_to_image", asked=None if rerank else False)
    return ProductSearch(ann, _query_latency(embedded, model, index, plan))


def measure_own_collection(directory: Path, embedded: Embedded, model: Model) -> AnnScores:
    """Return recall and latency of the index of the collection in `directory`, asked with the captions of the dataset.

    Raises:
        CollectionMismatch: another model built the collection.
        CollectionNotFound, CollectionDamaged: there is none, or its files do not fit together.
        UsageError: it holds no images.
    """
    with Snapshot.open(directory) as snapshot:
        if snapshot.fingerprint != model.fingerprint:
            raise CollectionMismatch(
                f"the collection was built by the model '{snapshot.model_name}' ({snapshot.fingerprint[:12]}), not by"
                f" '{model.name}' ({model.fingerprint[:12]}): evaluate with --model for the one that built it"
            )
        return _ann_scores(measure_collection(snapshot, embedded.captions), {})


def _hit_rates(report: AnnReport, embedded: Embedded, ranks: BothDirections) -> dict[int, tuple[float, float]]:
    """Return recall_at_k of exact and of indexed search over the captions that were asked and have an image."""
    asked = np.intersect1d(report.asked, ranks.text_to_image.ranks.queries)
    if not len(asked):
        return {}
    exact_places = np.searchsorted(ranks.text_to_image.ranks.queries, asked)
    relevance = embedded.dataset.relevance("text_to_image").subset(asked)
    rows = np.searchsorted(report.asked, asked)
    # With scores ties count against both: copies of one photo must not make an index look better than exact search.
    indexed = rank_lists(report.found[rows], relevance, scores=report.similarities[rows])
    return {
        k: (
            float(hit_at_k(ranks.text_to_image.ranks, k)[exact_places].mean()),
            float(hit_at_k(indexed, k).mean()),
        )
        for k in report.recall
    }


def _ann_scores(report: AnnReport, hit_rate: dict[int, tuple[float, float]]) -> AnnScores:
    return AnnScores(
        index=report.index,
        vectors=report.vectors,
        queries=len(report.asked),
        recall=report.recall,
        hit_rate=hit_rate,
        search=report.latency,
        exact=report.exact_latency,
    )


def _query_latency(embedded: Embedded, model: Model, index: VectorIndex, plan: RerankPlan | None) -> Latency:
    texts = [embedded.dataset.captions[row] for row in spread(len(embedded.dataset.captions), TIMED_QUERIES)]
    hits = min(HITS, len(embedded.images))
    if plan is None:
        return latency_of(lambda text: index.search(model.encode_texts([text]), hits), texts)
    return latency_of(lambda text: _reranked_query(text, embedded, model, index, plan=plan), texts)


def _reranked_query(text: str, embedded: Embedded, model: Model, index: VectorIndex, *, plan: RerankPlan) -> Scores:
    """Return the scores of the nearest images, through the same steps as a search in a collection."""
    depth = min(plan.depth(HITS), len(embedded.images))
    states = None if plan.scorer is None else model.encode_texts_with_states([text])
    cosines, rows = index.search(model.encode_texts([text]) if states is None else states.embeddings, depth)
    biases = None if plan.bank is None else plan.bank.bias(embedded.images[rows[0]])
    scores = corrected(cosines[0], biases)
    if plan.scorer is None or states is None or embedded.tokens is None:
        return scores
    block = best_block(scores, plan.scorer.facts.candidates)
    logits = plan.scorer.logits(embedded.tokens[rows[0][block]], states.states, states.mask)
    return rescored(scores, block, logits, plan.scorer.facts.weight)
