"""Pools a set of states (B, N, C) into one vector (B, C); positions with a false mask never count.

What to pool with was the largest lever on Flickr30k in VSE-infinity (Chen et al. 2021, arXiv 2011.04305).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

PoolKind = Literal["mean", "kmax", "soft"]
_NEVER = -1e4  # added to masked positions; finite, so that a float16 or bfloat16 graph holds it too


def drop_positions(mask: Tensor, rate: float) -> Tensor:
    """Return `mask` (B, N) with each position dropped at `rate`, the first position always kept."""
    kept = torch.rand(mask.shape, device=mask.device) >= rate
    kept[:, 0] = True
    return mask & kept


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B, C) over the positions where `mask` (B, N) holds."""
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def kmax_pool(states: Tensor, mask: Tensor, k: int) -> Tensor:
    """Return, channel by channel, the mean (B, C) of the `k` largest values; of all, where fewer positions count."""
    k = min(k, states.shape[1])
    values = states.masked_fill(~mask[..., None], _NEVER).topk(k, dim=1).values
    count = mask.sum(1, keepdim=True).clamp(max=k)
    ranks = torch.arange(k, device=states.device)
    return mean_pool(values, ranks < count)


class SoftPool(nn.Module):
    """Softmax-weighted mean of each channel over its own values, with one learned sharpness a channel.

    out_c = sum_n softmax_n(sharpness_c * x_nc) x_nc: 0 is the mean, +inf the maximum, -inf the minimum. A smooth
    relative of VSE-infinity's learned pooling that needs no sorting and no fixed length.
    """

    def __init__(self, channels: int, sharpness: float) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.full((channels,), sharpness))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return (B, C) of `states` (B, N, C) and a bool `mask` (B, N)."""
        scores = states * self.sharpness + (1.0 - mask.to(states.dtype)[..., None]) * _NEVER
        return (torch.softmax(scores, dim=1) * states).sum(1)


class Pool(nn.Module):
    """One of the poolings above by name, with position drop while training."""

    def __init__(self, kind: PoolKind, channels: int, *, k: int, sharpness: float, drop: float) -> None:
        super().__init__()
        self.kind, self.k, self.drop = kind, k, drop
        self.soft = SoftPool(channels, sharpness) if kind == "soft" else None

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return (B, C) of `states` (B, N, C) and a bool `mask` (B, N)."""
        if self.training and self.drop > 0:
            mask = drop_positions(mask, self.drop)
        if self.soft is not None:
            pooled: Tensor = self.soft(states, mask)
            return pooled
        return mean_pool(states, mask) if self.kind == "mean" else kmax_pool(states, mask, self.k)
