"""Writes goldens.json: what public implementations say about the tie-free cases of scoring_cases.py.

    python -m venv oracles oracles/bin/pip install numpy ranx==0.3.21 ir_measures==0.4.3 pytrec_eval-terrier==0.5.11
    scikit-learn==1.9.1 eccv_caption==0.1.0 PYTHONPATH=. oracles/bin/python tests/eval/make_goldens.py

None of these is a dependency of the project. The file holds the scores too, as whole multiples of 1/4096, so that it
does not depend on a random generator. Where an implementation names or defines a metric differently, the mapping says
so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scoring_cases import Case, caption_case, tie_free_cases

GOLDENS = Path(__file__).with_name("goldens.json")
UNITS = 4096  # every score of the cases is a whole multiple of 1 / UNITS

FOLD_CASE = caption_case(images=50, captions_each=5, k=5)
FOLDS = [list(range(start, start + 10)) for start in range(0, 50, 10)]

Values = dict[str, float]


def from_ranx(case: Case) -> Values:
    """ranx: its hit_rate is recall_at_k, its recall the relevant fraction."""
    from ranx import Qrels, Run, evaluate

    names = {
        f"hit_rate@{case.k}": "recall_at_k",
        f"recall@{case.k}": "relevant_fraction_at_k",
        f"precision@{case.k}": "precision_at_k",
        f"mrr@{case.k}": "mrr_at_k",
        "mrr": "mrr",
        "map": "average_precision",
        "r-precision": "r_precision",
        f"ndcg@{case.k}": "ndcg_at_k",
    }
    found = evaluate(Qrels(_qrels(case)), Run(_run(case)), list(names))
    return {ours: float(found[theirs]) for theirs, ours in names.items()}


def from_ir_measures(case: Case) -> Values:
    """ir_measures over trec_eval: its Success is recall_at_k, its R the relevant fraction."""
    import ir_measures

    measures = {
        ir_measures.Success @ case.k: "recall_at_k",
        ir_measures.R @ case.k: "relevant_fraction_at_k",
        ir_measures.P @ case.k: "precision_at_k",
        ir_measures.RR: "mrr",
        ir_measures.AP: "average_precision",
        ir_measures.Rprec: "r_precision",
        ir_measures.nDCG @ case.k: "ndcg_at_k",
    }
    found = ir_measures.pytrec_eval.calc_aggregate(list(measures), _qrels(case), _run(case))
    return {ours: float(found[theirs]) for theirs, ours in measures.items()}


def from_sklearn(case: Case) -> Values:
    """scikit-learn, one query at a time."""
    from sklearn.metrics import average_precision_score, ndcg_score

    truth = np.zeros(case.scores.shape, dtype=np.int64)
    for query, items in enumerate(case.positives):
        truth[query, sorted(items)] = 1
    precision = [average_precision_score(t, s) for t, s in zip(truth, case.scores, strict=True)]
    values = {"average_precision": float(np.mean(precision))}
    if (case.scores >= 0).all():  # it refuses negative scores in one of its paths
        values["ndcg_at_k"] = float(ndcg_score(truth, case.scores, k=case.k))
    return values


def from_eccv_caption(case: Case) -> Values:
    """eccv_caption, the code behind the ECCV Caption paper's mAP@R. It takes ordered lists."""
    from eccv_caption._metrics import compute_eccv_metrics, compute_r_at_k

    lists = {q: np.argsort(-scores).tolist() for q, scores in enumerate(case.scores)}
    truth = {q: sorted(items) for q, items in enumerate(case.positives)}
    found = compute_eccv_metrics(lists, truth)
    return {
        "map_at_r": float(found["eccv_map_at_r"]),
        "r_precision": float(found["eccv_rprecision"]),
        "recall_at_k": float(compute_r_at_k(lists, truth, K=case.k)),
    }


def from_torchmetrics(case: Case) -> Values:
    """torchmetrics, with all scores moved above zero: it takes positives scored 0 or less for irrelevant."""
    import torch
    from torchmetrics import retrieval

    target = np.zeros(case.scores.shape, dtype=np.int64)
    for query, items in enumerate(case.positives):
        target[query, sorted(items)] = 1
    shifted = torch.tensor(case.scores - case.scores.min() + 1.0, dtype=torch.float64).flatten()
    indexes = torch.arange(len(target)).repeat_interleave(target.shape[1])
    metrics = {
        "recall_at_k": retrieval.RetrievalHitRate(top_k=case.k),
        "relevant_fraction_at_k": retrieval.RetrievalRecall(top_k=case.k),
        "precision_at_k": retrieval.RetrievalPrecision(top_k=case.k),
        "mrr": retrieval.RetrievalMRR(),
        "average_precision": retrieval.RetrievalMAP(),
        "r_precision": retrieval.RetrievalRPrecision(),
    }
    return {
        name: float(metric.double()(shifted, torch.tensor(target).flatten(), indexes=indexes))
        for name, metric in metrics.items()
    }


def folds_from_eccv_caption(case: Case, folds: list[list[int]]) -> float:
    """The mean over folds of recall_at_k with the gallery and the queries of each fold alone (the COCO 1K protocol)."""
    from eccv_caption._metrics import compute_coco1k_r_at_k

    lists = {q: np.argsort(-scores).tolist() for q, scores in enumerate(case.scores)}
    truth = {q: sorted(items) for q, items in enumerate(case.positives)}
    recalls = []
    for images in folds:
        own = {q: items for q, items in truth.items() if items[0] in images}
        recalls.append(float(compute_coco1k_r_at_k(lists, own, images, K=case.k)))
    return float(np.mean(recalls))


ORACLES: dict[str, Callable[[Case], Values]] = {
    "ranx": from_ranx,
    "ir_measures": from_ir_measures,
    "sklearn": from_sklearn,
    "eccv_caption": from_eccv_caption,
    "torchmetrics": from_torchmetrics,
}


def compute() -> dict[str, Any]:
    """Return the content of goldens.json, computed anew."""
    return {
        "unit": 1 / UNITS,
        "cases": {name: _frozen(case) for name, case in tie_free_cases().items()},
        "folds": {
            **_frozen_scores(FOLD_CASE),
            "fold_images": FOLDS,
            "recall_at_k": folds_from_eccv_caption(FOLD_CASE, FOLDS),
        },
    }


def main() -> None:
    GOLDENS.write_text(json.dumps(compute(), indent=None, separators=(",", ":")) + "\n", encoding="utf-8")


def _frozen(case: Case) -> dict[str, Any]:
    return {**_frozen_scores(case), "oracles": {name: oracle(case) for name, oracle in ORACLES.items()}}


def _frozen_scores(case: Case) -> dict[str, Any]:
    whole = np.rint(case.scores * UNITS).astype(np.int64)
    assert np.array_equal(whole / UNITS, case.scores), "a score is off the grid"
    return {"scores": whole.tolist(), "positives": [sorted(items) for items in case.positives], "k": case.k}


def _qrels(case: Case) -> dict[str, dict[str, int]]:
    return {f"q{q}": {f"d{item}": 1 for item in sorted(items)} for q, items in enumerate(case.positives)}


def _run(case: Case) -> dict[str, dict[str, float]]:
    return {f"q{q}": {f"d{i}": float(s) for i, s in enumerate(scores)} for q, scores in enumerate(case.scores)}


if __name__ == "__main__":
    main()
