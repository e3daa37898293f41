"""Large batches in little memory: the towers run on parts of a batch, the loss sees the whole of it.

GradCache (Gao et al. 2021, arXiv 2101.06983): parts go through the towers without a gradient, the loss over all pairs
gives the gradient of what came out, and each part goes through once more and carries its share of it back. The
gradients are those of the whole batch; plain accumulation would compare a photo with the captions of its part alone.
A side in which nothing learns goes through once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

Side = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Random:
    """Where the random numbers of torch were."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls) -> _Random:
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None)

    def go_back(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)


@dataclass(frozen=True)
class _Part:
    """One part of a batch: how it was run, and the rows of `given` (what the loss was computed from) that it gave."""

    side: Side
    inputs: tuple[Tensor, ...]
    random: _Random
    given: tuple[Tensor, Tensor]
    rows: slice


class CachedGradients:
    """One step: `run` the sides, go backward from the loss of what they gave, then `backward`."""

    def __init__(self, size: int, context: Callable[[], AbstractContextManager[object]]) -> None:
        """Prepare to run parts of `size` rows, each inside a new `context()` (autocast)."""
        self.size, self.context = size, context
        self._parts: list[_Part] = []

    def run(self, side: Side, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `side` gives for the rows of `inputs`, as tensors of their own that collect gradients."""
        starts = range(0, len(inputs[0]), self.size)
        moments, found, learns = [], [], (False, False)
        for start in starts:
            moments.append(_Random.now())
            # The first part tells whether there is anything to carry back: a locked side gives what needs no gradient.
            with torch.set_grad_enabled(start == 0), self.context():
                first, second = side(*(each[start : start + self.size] for each in inputs))
            if start == 0:
                learns = first.requires_grad, second.requires_grad
            found.append((first.detach(), second.detach()))
        # In older versions of torch autocast keeps what it has converted here, without a way back to the weights.
        torch.clear_autocast_cache()
        given = tuple(torch.cat([pair[place] for pair in found]).requires_grad_(learns[place]) for place in range(2))
        if any(learns):
            for start, moment in zip(starts, moments, strict=True):
                rows = slice(start, start + self.size)
                self._parts.append(
                    _Part(side, tuple(each[rows] for each in inputs), moment, (given[0], given[1]), rows)
                )
        return given[0], given[1]

    def backward(self) -> None:
        """Carry the gradients of what `run` returned to the weights; random numbers are drawn as in `run` again."""
        present = _Random.now()
        for part in self._parts:
            part.random.go_back()
            with self.context():
                found = part.side(*part.inputs)
            pairs = [
                (output, given.grad[part.rows])
                for output, given in zip(found, part.given, strict=True)
                if output.requires_grad and given.grad is not None
            ]
            if pairs:
                torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
        self._parts.clear()
        present.go_back()
