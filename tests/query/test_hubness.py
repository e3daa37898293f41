"""Biases against hubs, against a plain sort over the whole bank."""

from __future__ import annotations

import numpy as np
import pytest

from mmsearch import hubness
from mmsearch.hubness import HubnessBank


def unit(count: int, *, dim: int = 12, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("neighbours", "strength"), [(1, 1.0), (4, 0.5), (30, 0.75), (4, 0.0)])
def test_bias_is_the_mean_of_the_nearest_of_the_bank(neighbours: int, strength: float) -> None:
    bank, items = unit(30), unit(7, seed=1)
    expected = [strength * np.mean(sorted((bank @ item).tolist())[-neighbours:]) for item in items]
    biases = HubnessBank(bank, neighbours=neighbours, strength=strength).bias(items)
    assert biases.dtype == np.float32
    np.testing.assert_allclose(biases, expected, atol=1e-6)


def test_blocks_of_items_give_what_all_at_once_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, items = HubnessBank(unit(30), neighbours=5, strength=1), unit(25, seed=1)
    together = bank.bias(items)
    monkeypatch.setattr(hubness, "_COSINES_IN_MEMORY", 90)
    np.testing.assert_allclose(bank.bias(items), together, atol=1e-6)
    assert bank.bias(items[:0]).shape == (0,)


def test_what_is_near_to_every_query_loses_most() -> None:
    queries = unit(50)
    hub = queries.mean(axis=0) / np.linalg.norm(queries.mean(axis=0))
    biases = HubnessBank(queries, neighbours=50, strength=1).bias(np.stack([hub, *unit(20, seed=3)]))
    assert biases.argmax() == 0


@pytest.mark.parametrize("neighbours", [0, 31])
def test_a_bank_with_fewer_rows_than_neighbours_is_refused(neighbours: int) -> None:
    with pytest.raises(ValueError, match="neighbours"):
        HubnessBank(unit(30), neighbours=neighbours, strength=1)
