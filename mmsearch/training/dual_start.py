"""Starting from `mini`, or from what was trained from it: ONNX graphs whose weights become modules again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmsearch.errors import UsageError
from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.eyes import EarlyEyes, Eyes
from mmsearch.training.fitting import FitConfig, encode_captions
from mmsearch.training.fusion import FusionConfig
from mmsearch.training.plan import Plan, TrainOptions, fit_config
from mmsearch.training.start import Start
from mmsearch.training.stored_weights import load_stored
from mmsearch.training.two_towers import TwoTowers
from mmsearch.training.word_pieces import WordPieces, load_tokenizer, word_pieces


class DualStart(Start):
    """A dual encoder of mmsearch's own."""

    usual_unlock = "both"

    def load(self) -> DualEncoder:
        """Return the model that the graphs hold."""
        return load_stored(self.manifest.directory)

    def usual_objectives(self, model: TwoTowers) -> str:
        """Return matching too where the model has learned it."""
        return "itc" if model.config.fusion is None else "itc,itm"

    def check(self, options: TrainOptions, model: TwoTowers) -> None:
        """Refuse what only large towers need."""
        if options.checkpointing:
            raise UsageError(
                f"--grad-checkpointing is for open_clip models; '{self.manifest.name}' needs little memory without it"
            )

    def prepare(self, model: TwoTowers, plan: Plan) -> None:
        """Do nothing."""

    def matching_head(self, model: TwoTowers) -> FusionConfig:
        """Return the usual shape, for the width of the text tower."""
        return FusionConfig(text_inputs=_own(model).text_tower.config.width)

    def eyes(self, model: TwoTowers, threads: int) -> Eyes:
        """Return the early half of the image tower."""
        return EarlyEyes(_own(model), self.size, threads)

    def pieces(self, captions: Sequence[str]) -> WordPieces:
        """Return word pieces by the model's own tokenizer."""
        return word_pieces(load_tokenizer(self.manifest.directory / self.manifest.tokenizer_file), captions)

    def sentences(self, model: TwoTowers, pieces: WordPieces) -> Tensor | None:
        """Return the model's embeddings: captions that say nearly the same are no hard negatives."""
        return torch.from_numpy(encode_captions(model, pieces))

    def fit_config(self, plan: Plan, *, captions: int, fresh: bool) -> FitConfig:
        """Return what `plan` says."""
        return fit_config(plan, captions=captions, fresh=fresh)

    def finish(self, model: TwoTowers) -> None:
        """Do nothing."""

    def logit_scale(self, model: TwoTowers) -> float | None:
        """Return None: the scale of a run with a teacher and a matching head is no measure of how sure a cosine is."""
        return None

    def manifest_fields(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what every dual encoder of mmsearch's own has."""
        return {"resize": "squash", "interpolation": "bicubic"}, {"lowercase": False}


def _own(model: TwoTowers) -> DualEncoder:
    if not isinstance(model, DualEncoder):
        raise TypeError(f"{type(model).__name__} is no dual encoder")
    return model
