"""Which differences between two runs are real: the paired bootstrap over the images both were measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmsearch.errors import UsageError
from mmsearch.eval.metrics import RSUM_KS
from mmsearch.eval.per_query import Values
from mmsearch.eval.run_file import SavedRun
from mmsearch.eval.scores import LOWER_IS_BETTER, MEDIAN_RANK, Direction
from mmsearch.eval.significance import (
    FEWEST_CLUSTERS,
    RESAMPLES,
    Difference,
    Statistic,
    difference,
    holm,
    resample,
)
from mmsearch.safe_text import safe_text

CLAIM_P = 0.05


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """One metric before and after. `difference` is after minus before, None where there are too few images to tell.

    `p_corrected` is Holm's correction for looking at all metrics of the comparison at once. `won` and `lost` count the
    queries whose own value became better or worse.
    """

    name: str
    before: float
    after: float
    difference: Difference | None
    p_corrected: float | None
    won: int
    lost: int

    @property
    def verdict(self) -> Literal["better", "worse", "no difference shown"]:
        """What may be claimed; a claim needs an interval without 0 and a corrected p below 0.05."""
        found = self.difference
        if found is None or self.p_corrected is None or self.p_corrected >= CLAIM_P:
            return "no difference shown"
        if found.interval.low <= 0 <= found.interval.high:
            return "no difference shown"
        rising = found.estimate > 0
        return "better" if rising != (self.name.rpartition(".")[2] in LOWER_IS_BETTER) else "worse"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed from one run to another on the same data.

    `mean_recall` is the headline, tested alone; `metrics` are the numbers behind it, corrected for their number.
    Names are `text_to_image.recall@1` and so on.
    """

    before: str
    after: str
    images: int
    mean_recall: ComparedMetric | None
    metrics: tuple[ComparedMetric, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as it is printed under "comparison"."""
        return {
            "before": self.before,
            "after": self.after,
            "images": self.images,
            "mean_recall": None if self.mean_recall is None else _as_json(self.mean_recall),
            "metrics": {metric.name: _as_json(metric) for metric in self.metrics},
        }


def compare_runs(before: SavedRun, after: SavedRun, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Return what changed from `before` to `after`, query by query.

    Raises:
        UsageError: the runs were measured on different data.
    """
    _require_same_data(before, after)
    rows = _rows(before, after)
    has_mean_recall = before.ranks.can_have_mean_recall()
    draws = None
    if before.ranks.clusters >= FEWEST_CLUSTERS:
        statistics = [row.old for row in rows] + [row.new for row in rows]
        drawn = resample(statistics, clusters=before.ranks.clusters, resamples=resamples, seed=seed)
        draws = drawn[:, len(rows) :] - drawn[:, : len(rows)]
    changes = [
        None if draws is None else difference(row.after - row.before, draws[:, column])
        for column, row in enumerate(rows)
    ]
    corrected = iter(holm([change.p for change in changes if change is not None]))
    return Comparison(
        before=_system(before),
        after=_system(after),
        images=after.data.images,
        mean_recall=_mean_recall(rows, draws) if has_mean_recall else None,
        metrics=tuple(
            row.compared(change, None if change is None else next(corrected))
            for row, change in zip(rows, changes, strict=True)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """One metric of one direction in both runs."""

    name: str
    metric: str
    old: Statistic
    new: Statistic

    @property
    def before(self) -> float:
        return self._number(self.old)

    @property
    def after(self) -> float:
        return self._number(self.new)

    def compared(self, change: Difference | None, p_corrected: float | None) -> ComparedMetric:
        """Return the row with what the bootstrap says of it."""
        gain = self.new.values - self.old.values
        won, lost = int((gain > 0).sum()), int((gain < 0).sum())
        if self.metric in LOWER_IS_BETTER:
            won, lost = lost, won
        return ComparedMetric(self.name, self.before, self.after, change, p_corrected, won, lost)

    def _number(self, statistic: Statistic) -> float:
        return float(np.median(statistic.values) if self.metric == MEDIAN_RANK else np.mean(statistic.values))


def _rows(before: SavedRun, after: SavedRun) -> list[_Row]:
    """Return the metrics to compare: recalls at the k of both runs and at 1, 5 and 10, median rank and MRR."""
    ks = sorted({*before.system.k, *after.system.k, *RSUM_KS})
    rows = []
    for direction in ("text_to_image", "image_to_text"):
        old: Direction = getattr(before.ranks, direction)
        new: Direction = getattr(after.ranks, direction)
        names = [f"recall@{k}" for k in ks if k <= old.ranks.gallery]
        rows += [
            _Row(f"{direction}.{name}", name, old.statistic(name), new.statistic(name))
            for name in (*names, MEDIAN_RANK, "mrr")
        ]
    return rows


def _mean_recall(rows: list[_Row], draws: Values | None) -> ComparedMetric:
    """Return the mean of the six recalls in both runs; a query's own value is the mean of its hits at 1, 5 and 10."""
    six = [column for column, row in enumerate(rows) if row.metric in {f"recall@{k}" for k in RSUM_KS}]
    before, after = (float(np.mean([getattr(rows[column], side) for column in six])) for side in ("before", "after"))
    change = None if draws is None else difference(after - before, draws[:, six].mean(axis=1))
    won = lost = 0
    for side in (six[: len(RSUM_KS)], six[len(RSUM_KS) :]):
        gain = np.sum([rows[column].new.values - rows[column].old.values for column in side], axis=0)
        won, lost = won + int((gain > 0).sum()), lost + int((gain < 0).sum())
    return ComparedMetric("mean_recall", before, after, change, None if change is None else change.p, won, lost)


def _require_same_data(before: SavedRun, after: SavedRun) -> None:
    if before.data.sha256 == after.data.sha256:
        return
    raise UsageError(
        f"the runs were measured on different data: {_described(before)} before, {_described(after)} now;"
        " evaluate both models on the same images and captions"
    )


def _system(run: SavedRun) -> str:
    return f"{run.system.model} {run.system.fingerprint[:12]}{', reranked' if run.system.rerank else ''}"


def _described(run: SavedRun) -> str:
    data = run.data
    return f"{safe_text(data.name)} ({data.images} images, {data.captions} captions, sha256 {data.sha256[:12]})"


def _as_json(metric: ComparedMetric) -> dict[str, Any]:
    found = metric.difference
    return {
        "before": metric.before,
        "after": metric.after,
        "difference": metric.after - metric.before,
        "interval": None if found is None else [found.interval.low, found.interval.high],
        "p": None if found is None else found.p,
        "p_corrected": metric.p_corrected,
        "won": metric.won,
        "lost": metric.lost,
        "verdict": metric.verdict,
    }
