"""What a run needs to know of the model it starts from, whatever kind of model that is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmsearch.model_manifest import ModelManifest
from mmsearch.training.eyes import Eyes
from mmsearch.training.fitting import FitConfig
from mmsearch.training.fusion import FusionConfig
from mmsearch.training.plan import Plan, TrainOptions
from mmsearch.training.two_towers import TwoTowers
from mmsearch.training.word_pieces import WordPieces


class Start(ABC):
    """One kind of starting model: how it is loaded, how it is shown photos and captions, how it learns by default."""

    usual_unlock: str  # the towers that learn unless something else is asked for

    def __init__(self, origin: str, manifest: ModelManifest) -> None:
        """Remember the model of `manifest`; `origin` is what finds it again, from anywhere."""
        self.origin, self.manifest = origin, manifest

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its photos, in pixels."""
        return self.manifest.preprocess.height, self.manifest.preprocess.width

    @abstractmethod
    def load(self) -> TwoTowers:
        """Return the model in evaluation mode, on the CPU, with the weights of its files.

        Raises:
            ModelError: it cannot be trained, or its files are not what its manifest pins.
            MissingExtra: a package that it needs is not installed.
        """

    @abstractmethod
    def usual_objectives(self, model: TwoTowers) -> str:
        """Return what `model` learns unless something else is asked for."""

    @abstractmethod
    def check(self, options: TrainOptions, model: TwoTowers) -> None:
        """Return when `model` can be trained as `options` ask.

        Raises:
            UsageError: it cannot.
        """

    @abstractmethod
    def prepare(self, model: TwoTowers, plan: Plan) -> None:
        """Make `model` ready for what `plan` says of it."""

    @abstractmethod
    def matching_head(self, model: TwoTowers) -> FusionConfig:
        """Return the shape of a new matching head for `model`."""

    @abstractmethod
    def eyes(self, model: TwoTowers, threads: int) -> Eyes:
        """Return what makes a photo what `model` looks at while it learns."""

    @abstractmethod
    def pieces(self, captions: Sequence[str]) -> WordPieces:
        """Return `captions` as the model reads them."""

    @abstractmethod
    def sentences(self, model: TwoTowers, pieces: WordPieces) -> Tensor | None:
        """Return what `model` makes of `pieces` as a teacher, float32 (T, D), None where it is none."""

    @abstractmethod
    def fit_config(self, plan: Plan, *, captions: int, fresh: bool) -> FitConfig:
        """Return how the loop is to run `plan`; arguments as of `plan.fit_config`."""

    @abstractmethod
    def finish(self, model: TwoTowers) -> None:
        """Give `model`, which has learned, the form in which it is used."""

    @abstractmethod
    def logit_scale(self, model: TwoTowers) -> float | None:
        """Return what cosines of `model` are multiplied by before a softmax over texts, None where it does not say."""

    @abstractmethod
    def manifest_fields(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the manifest of a model that was trained from this one says of its images, and of its texts."""
