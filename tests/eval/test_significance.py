"""Intervals and differences: against a plain loop, against theory, and in the cases that fool a bootstrap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.errors import UsageError
from mmsearch.eval.clusters import clusters
from mmsearch.eval.significance import MeanOf, MedianOf, difference, holm, interval, resample

Values = npt.NDArray[np.float64]


def plain_bootstrap(values: Values, cluster: npt.NDArray[np.int64], statistic: str, *, resamples: int) -> list[float]:
    """The same draws as the product's, one resample and one image at a time."""
    images = int(cluster.max()) + 1
    rng = np.random.default_rng(0)
    by_image = [values[cluster == image] for image in range(images)]
    draws = []
    for _ in range(resamples):
        queries = np.concatenate([by_image[image] for image in rng.integers(0, images, images)])
        draws.append(float(np.mean(queries) if statistic == "mean" else np.median(queries)))
    return draws


def ragged(images: int, *, seed: int) -> tuple[Values, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(images), rng.integers(1, 7, images))
    return rng.integers(1, 30, len(cluster)).astype(np.float64), rng.permutation(cluster)


def test_resamples_are_those_of_a_plain_loop_over_images() -> None:
    values, cluster = ragged(25, seed=1)
    draws = resample([MeanOf(values, cluster), MedianOf(values, cluster)], clusters=25, resamples=200)
    assert draws[:, 0].tolist() == pytest.approx(plain_bootstrap(values, cluster, "mean", resamples=200))
    assert draws[:, 1].tolist() == pytest.approx(plain_bootstrap(values, cluster, "median", resamples=200))


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values, cluster = ragged(12, seed=2)
    whole = resample([MedianOf(values, cluster)], clusters=12, resamples=100)
    monkeypatch.setattr("mmsearch.eval.significance.CHUNK_BYTES", 8 * len(values) * 7)
    assert np.array_equal(resample([MedianOf(values, cluster)], clusters=12, resamples=100), whole)


def test_interval_of_independent_queries_has_the_width_of_the_binomial() -> None:
    hits = (np.arange(1000) < 550).astype(np.float64)
    found = interval(resample([MeanOf(hits, np.arange(1000))], clusters=1000)[:, 0])
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(0.55 * 0.45 / 1000), rel=0.05)
    assert found.low < 0.55 < found.high


def test_captions_that_agree_widen_the_interval() -> None:
    cluster = np.repeat(np.arange(200), 5)
    together = np.repeat(np.arange(200) % 2, 5).astype(np.float64)
    apart = ((np.arange(1000) + cluster) % 2).astype(np.float64)
    draws = resample([MeanOf(together, cluster), MeanOf(apart, cluster)], clusters=200, resamples=2000)
    wide, narrow = interval(draws[:, 0]), interval(draws[:, 1])
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_pairing_sees_a_small_gain_that_two_intervals_would_hide() -> None:
    cluster = np.repeat(np.arange(300), 5)
    before = (np.random.default_rng(4).random(1500) < 0.5).astype(np.float64)
    after = before.copy()
    after[np.flatnonzero(before == 0)[::25]] = 1
    draws = resample([MeanOf(before, cluster), MeanOf(after, cluster)], clusters=300)
    gain = difference(float(after.mean() - before.mean()), draws[:, 1] - draws[:, 0])
    assert interval(draws[:, 0]).high > interval(draws[:, 1]).low
    assert gain.interval.low > 0
    assert gain.p < 0.01


def test_no_difference_has_p_one_and_noise_is_not_significant() -> None:
    rng = np.random.default_rng(6)
    cluster = np.repeat(np.arange(200), 5)
    a, b = ((rng.random(1000) < 0.5).astype(np.float64) for _ in range(2))
    draws = resample([MeanOf(a, cluster), MeanOf(b, cluster)], clusters=200)
    same = difference(0.0, draws[:, 0] - draws[:, 0])
    assert (same.p, same.interval.low, same.interval.high) == (1.0, 0.0, 0.0)
    noise = difference(float(a.mean() - b.mean()), draws[:, 0] - draws[:, 1])
    assert noise.interval.low < 0 < noise.interval.high
    assert noise.p > 0.05


def test_p_counts_both_sides() -> None:
    draws = np.concatenate([np.full(97, 0.2), np.full(3, -0.1)])
    assert difference(0.2, draws).p == pytest.approx(0.06)
    assert difference(-0.2, -draws).p == pytest.approx(0.06)
    assert difference(0.0, np.array([-1.0, 0.0, 1.0])).p == 1.0


def test_claims_are_as_rare_as_promised_when_nothing_differs() -> None:
    rng = np.random.default_rng(7)
    cluster = np.repeat(np.arange(60), 3)
    claims = 0
    for seed in range(100):
        a, b = ((rng.random(180) < 0.5).astype(np.float64) for _ in range(2))
        draws = resample([MeanOf(a, cluster), MeanOf(b, cluster)], clusters=60, resamples=400, seed=seed)
        claims += difference(0.0, draws[:, 0] - draws[:, 1]).p < 0.05
    assert claims <= 13  # 5 expected; more than 13 has a chance below 1 in 1000


def test_same_seed_same_interval_and_another_seed_another_one() -> None:
    values, cluster = ragged(30, seed=3)
    first, again, other = (resample([MeanOf(values, cluster)], clusters=30, seed=s) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UsageError, match="9 independent images are too few"):
        resample([MeanOf(np.ones(9), np.arange(9))], clusters=9)


def test_holm_multiplies_the_smallest_p_by_all_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_a_p_and_keeps_ranks(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    by_p = [q for _, q in sorted(zip(p_values, corrected, strict=True))]
    assert by_p == sorted(by_p)


def test_a_cluster_is_an_image_with_its_captions() -> None:
    pairs = np.array([(0, 0), (0, 3), (1, 1), (2, 2)])
    images, captions = clusters(pairs, images=4, captions=4)
    assert images.tolist() == [0, 1, 2, 3]
    assert captions.tolist() == [0, 1, 2, 0]


def test_images_that_share_a_caption_are_one_cluster_even_along_a_chain() -> None:
    links = [(i, i) for i in range(30)] + [(i, i + 1) for i in range(29)]
    images, captions = clusters(np.array(links)[::-1], images=32, captions=30)
    assert set(images[:30].tolist()) == set(captions.tolist()) == {0}
    assert images[30:].tolist() == [1, 2]
