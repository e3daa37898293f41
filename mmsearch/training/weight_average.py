"""An exponential moving average of a model's weights: free accuracy at the end of a short training."""

from __future__ import annotations

import copy

import torch

from mmsearch.training.two_towers import TwoTowers


def blend(model: TwoTowers, start: TwoTowers, share: float) -> None:
    """Move `model` by `share` of the way back to `start`, where both have a weight; what `start` lacks stays.

    Wortsman et al. 2022, arXiv 2109.01903 (WiSE-FT): tuned weights forget, and the straight line between them and the
    weights they came from gives back much of what was forgotten for little of what was learned.
    """
    before = start.state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and name in before and before[name].shape == value.shape:
                value.lerp_(before[name], share)


class WeightAverage:
    """Follows a model's learning parameters (Polyak averaging), at first as a plain mean, so that the start fades."""

    def __init__(self, model: TwoTowers, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    def update(self, model: TwoTowers) -> None:
        """Move the average towards `model`."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))
        with torch.no_grad():
            for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
                if theirs.requires_grad:
                    mine.lerp_(theirs, 1 - decay)
