"""What a run has to tell, epoch by epoch: losses, recalls, the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mmsearch.training.validation import Recalls


@dataclass(frozen=True)
class Epoch:
    """One pass over the training photos: mean losses by name, and recalls of the averaged weights after it.

    Number 0 is the model before training; it has no losses. `matching` is the loss of the averaged weights' matching
    head on validation photos, None where it was not measured.
    """

    number: int
    losses: Mapping[str, float]
    recalls: Recalls
    matching: float | None = None

    @property
    def loss(self) -> float:
        """The sum of the losses, which is what is learned from."""
        return sum(self.losses.values())


@dataclass
class History:
    """The epochs of one run, and the sums of the one that is running."""

    epochs: list[Epoch] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    def add(self, losses: Mapping[str, float]) -> None:
        """Count one step of the running epoch."""
        self.steps += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Return the mean losses of the running epoch so far."""
        return {name: value / self.steps for name, value in self.sums.items()}

    def close(self, recalls: Recalls, *, matching: float | None = None) -> Epoch:
        """Return the running epoch, ended and kept; the first one to be closed is the model before training."""
        done = Epoch(len(self.epochs), self.means(), recalls, matching)
        self.epochs.append(done)
        self.sums, self.steps = {}, 0
        return done

    @property
    def best(self) -> Epoch | None:
        """The pass with the largest mean recall, of equals the one whose head matches best, of these the latest.

        None before the first one has ended.
        """
        return max(self.epochs[1:], key=_merit, default=None)

    @property
    def kept(self) -> Epoch:
        """`best`, once an epoch has ended.

        Raises:
            ValueError: none has.
        """
        if (best := self.best) is None:
            raise ValueError("no epoch has ended")
        return best

    def as_json(self) -> dict[str, Any]:
        """Return plain values that `history_from_json` reads."""
        return asdict(self)


def _merit(epoch: Epoch) -> tuple[float, float, int]:
    # Recalls stay equal for a whole run where both towers are locked: what was learned longest is then the best guess.
    return epoch.recalls.mean, -math.inf if epoch.matching is None else -epoch.matching, epoch.number


def history_from_json(value: Mapping[str, Any]) -> History:
    """Return the history that `as_json` wrote.

    Raises:
        KeyError, TypeError: it is not one.
    """
    epochs = [
        Epoch(
            each["number"],
            each["losses"],
            Recalls(tuple(each["recalls"]["text_to_image"]), tuple(each["recalls"]["image_to_text"])),
            each.get("matching"),
        )
        for each in value["epochs"]
    ]
    return History(epochs, dict(value["sums"]), value["steps"])
