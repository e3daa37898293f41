"""Poolings: what they compute, and that padding and the rest of the batch never show."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from mmsearch.training.pooling import Pool, PoolKind, SoftPool, drop_positions, kmax_pool, mean_pool  # noqa: E402


def _pool(kind: PoolKind) -> Pool:
    return Pool(kind, 6, k=3, sharpness=1.5, drop=0.2).eval()


@pytest.mark.parametrize("kind", ["mean", "kmax", "soft"])
def test_padding_never_changes_a_pooled_vector(kind: PoolKind) -> None:
    torch.manual_seed(1)
    states = torch.randn(1, 5, 6)
    alone = _pool(kind)(states, torch.ones(1, 5, dtype=torch.bool))
    padded = torch.cat([states, 100.0 * torch.ones(1, 4, 6)], dim=1)
    mask = torch.tensor([[True] * 5 + [False] * 4])
    assert torch.allclose(_pool(kind)(padded, mask), alone, atol=1e-6)


@pytest.mark.parametrize("kind", ["mean", "kmax", "soft"])
def test_order_of_positions_never_changes_a_pooled_vector(kind: PoolKind) -> None:
    torch.manual_seed(2)
    states, mask = torch.randn(2, 7, 6), torch.ones(2, 7, dtype=torch.bool)
    assert torch.allclose(_pool(kind)(states.flip(1), mask), _pool(kind)(states, mask), atol=1e-6)


def test_kmax_takes_the_mean_of_the_largest_values_of_each_channel() -> None:
    states = torch.tensor([[[1.0, 8.0], [3.0, 2.0], [2.0, 4.0]]])
    assert kmax_pool(states, torch.ones(1, 3, dtype=torch.bool), 2).tolist() == [[2.5, 6.0]]


def test_kmax_of_fewer_positions_than_k_is_their_mean() -> None:
    states, mask = torch.randn(2, 5, 4), torch.tensor([[True] * 2 + [False] * 3, [True] * 5])
    pooled = kmax_pool(states, mask, 5)
    assert torch.allclose(pooled, mean_pool(states, mask), atol=1e-6)


def test_soft_pool_runs_from_the_mean_to_the_maximum() -> None:
    states, mask = torch.randn(3, 8, 4), torch.ones(3, 8, dtype=torch.bool)
    assert torch.allclose(SoftPool(4, 0.0)(states, mask), states.mean(1), atol=1e-6)
    assert torch.allclose(SoftPool(4, 500.0)(states, mask), states.max(1).values, atol=1e-3)


def test_dropped_positions_leave_at_least_one_and_never_add_padding() -> None:
    mask = torch.tensor([[True] * 6 + [False] * 2]).expand(500, 8)
    kept = drop_positions(mask, 0.9)
    assert bool(kept.any(1).all())
    assert not bool(kept[:, 6:].any())
    assert 0.05 < float(kept[:, 1:6].float().mean()) < 0.15
