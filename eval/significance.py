"""How far a number may be off, and which differences are real: the cluster bootstrap over images.

The five captions of an image are not five independent observations, so images are resampled, each with all of its
queries, and the gallery stays as it is. Two systems are compared on the same resamples, which removes what they have
in common (Efron and Tibshirani 1993, "An Introduction to the Bootstrap"; Koehn 2004, "Statistical Significance Tests
for Machine Translation Evaluation", EMNLP, for the paired form). The bootstrap does not see the noise of another
training seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsearch.errors import UsageError

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

RESAMPLES = 10_000
FEWEST_CLUSTERS = 10  # below it the percentiles of the bootstrap mean nothing
CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval, by percentiles of the bootstrap."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one system is better than another: `estimate` with its 95 % interval and two-sided p.

    `p` is at least 1 / resamples in truth; 0 says that no resample crossed zero.
    """

    estimate: float
    interval: Interval
    p: float


@dataclass(frozen=True, slots=True)
class MeanOf:
    """A statistic: the mean of `values` (Q,) over queries that belong to the clusters `cluster` (Q,)."""

    values: Values
    cluster: Rows

    def sums(self, clusters: int) -> Values:
        """Return, cluster by cluster, the sum of the values and their number, (clusters, 2)."""
        sums = np.bincount(self.cluster, weights=self.values, minlength=clusters)
        return np.stack([sums, np.bincount(self.cluster, minlength=clusters)], axis=1)


@dataclass(frozen=True, slots=True)
class MedianOf:
    """A statistic: the median of `values` (Q,), computed anew on every resample."""

    values: Values
    cluster: Rows

    def resampled(self, weights: Values) -> Values:
        """Return the median on each resample (B,)."""
        order = np.argsort(self.values, kind="stable")
        below = np.cumsum(weights[:, self.cluster[order]], axis=1)
        drawn = below[:, -1]
        last = len(order) - 1
        lower = np.minimum((below < ((drawn + 1) // 2)[:, None]).sum(axis=1), last)
        upper = np.minimum((below < (drawn // 2 + 1)[:, None]).sum(axis=1), last)
        middle = (self.values[order[lower]] + self.values[order[upper]]) / 2
        return np.where(drawn > 0, middle, np.nan)


Statistic = MeanOf | MedianOf


def resample(
    statistics: Sequence[Statistic], *, clusters: int, resamples: int = RESAMPLES, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Return every statistic on every resample, float64 (resamples, statistics). All share the same resamples.

    Raises:
        UsageError: there are fewer than `FEWEST_CLUSTERS` clusters to draw from.
    """
    if clusters < FEWEST_CLUSTERS:
        raise UsageError(
            f"{clusters} independent images are too few for an interval, expected {FEWEST_CLUSTERS} or more"
        )
    # All means come from one matrix product a chunk; on two busy cores one product each would take five times as long.
    means = [statistic for statistic in statistics if isinstance(statistic, MeanOf)]
    sums = np.concatenate([np.empty((clusters, 0)), *(mean.sums(clusters) for mean in means)], axis=1)
    widest = max([clusters, *(len(statistic.values) for statistic in statistics)])
    step = max(1, CHUNK_BYTES // (8 * widest))
    draws = []
    for weights in _weights(clusters, resamples=resamples, step=step, seed=seed):
        drawn = weights @ sums
        with np.errstate(invalid="ignore"):  # a resample may draw no query of a direction: its mean is NaN
            ratios = iter((drawn[:, 0::2] / drawn[:, 1::2]).T)
        columns = [next(ratios) if isinstance(each, MeanOf) else each.resampled(weights) for each in statistics]
        draws.append(np.stack(columns, axis=1))
    return np.concatenate(draws)


def interval(draws: Values) -> Interval:
    """Return the 95 % interval of the resampled values `draws` (B,)."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Interval(float(low), float(high))


def difference(estimate: float, draws: Values) -> Difference:
    """Return the 95 % interval and two-sided p of a difference, from its resampled values `draws` (B,)."""
    one_sided = min(float((draws <= 0).mean()), float((draws >= 0).mean()))
    return Difference(estimate, interval(draws), min(1.0, 2 * one_sided))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return `p_values` corrected for looking at all of them at once, in the same order.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6(2).

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = largest
    return tuple(corrected)


def _weights(clusters: int, *, resamples: int, step: int, seed: int) -> Iterator[Values]:
    """Yield (rows, clusters): how often each cluster is drawn in each resample."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, clusters, (rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters).astype(np.float64)
