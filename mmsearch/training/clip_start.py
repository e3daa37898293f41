"""Starting from an open_clip model: pixels and its own tokens in, and towers that are unlocked with care."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmsearch.errors import UsageError
from mmsearch.model import Model
from mmsearch.safe_text import safe_text
from mmsearch.training.clip_model import ClipDual, load_clip, take_final_form
from mmsearch.training.eyes import Eyes, PixelEyes
from mmsearch.training.fitting import FitConfig
from mmsearch.training.fusion import FusionConfig
from mmsearch.training.plan import Plan, TrainOptions, fit_config
from mmsearch.training.start import Start
from mmsearch.training.two_towers import TwoTowers
from mmsearch.training.word_pieces import WordPieces


class ClipStart(Start):
    """A model that open_clip builds.

    By default its text tower learns and its image tower does not: with few pairs that is the better half to tune (LiT,
    Zhai et al. 2022, arXiv 2111.07991), and the cheaper one.
    """

    usual_unlock = "text"

    def load(self) -> ClipDual:
        """Return the model of the safetensors file."""
        return load_clip(self.manifest)

    def usual_objectives(self, model: TwoTowers) -> str:
        """Return matching too where the image tower has places to match words with."""
        return "itc,itm" if _matchable(model) else "itc"

    def check(self, options: TrainOptions, model: TwoTowers) -> None:
        """Refuse masked objectives, matching without places, and checkpointing where a tower has none."""
        name, asked = safe_text(self.manifest.name), (options.objectives or "").lower()
        if "mlm" in asked or "mim" in asked:
            raise UsageError(f"'{name}' is an open_clip model: --objective is itc or itc,itm for these")
        if "itm" in asked and not _matchable(model):
            raise UsageError(
                f"'{name}' has no square grid of image tokens for a matching head to look at: --objective is itc for it"
            )
        if options.checkpointing and not _own(model).can_checkpoint():
            raise UsageError(f"'{name}' has a tower without gradient checkpointing; leave out --grad-checkpointing")

    def prepare(self, model: TwoTowers, plan: Plan) -> None:
        """Switch gradient checkpointing on where the run has it."""
        _own(model).checkpointing = plan.checkpointing

    def matching_head(self, model: TwoTowers) -> FusionConfig:
        """Return the usual shape, for the widths of both towers."""
        shape = _own(model).config
        usual = FusionConfig(image_inputs=shape.image_states, text_inputs=shape.text_states)
        return replace(usual, max_text_tokens=min(usual.max_text_tokens, self.manifest.max_tokens))

    def eyes(self, model: TwoTowers, threads: int) -> Eyes:
        """Return plain pixels."""
        return PixelEyes(self.manifest.preprocess)

    def pieces(self, captions: Sequence[str]) -> WordPieces:
        """Return the tokens that the model is given when it is used."""
        ids, mask = Model(self.manifest, threads=1).tokenizer.encode(captions)
        return WordPieces(torch.from_numpy(ids), torch.from_numpy(mask.sum(1)), whole=self.manifest.pad)

    def sentences(self, model: TwoTowers, pieces: WordPieces) -> Tensor | None:
        """Return None: contrastive training alone gives no scale of how alike two sentences are."""
        return None

    def fit_config(self, plan: Plan, *, captions: int, fresh: bool) -> FitConfig:
        """Return what `plan` says; no word is hidden: a tower that reads to the end has no mask to do it with."""
        config = fit_config(plan, captions=captions, fresh=fresh)
        return replace(config, batches=replace(config.batches, word_drop=0.0, teacher_share=0.0))

    def finish(self, model: TwoTowers) -> None:
        """Merge the branches that some convolutional towers (MobileCLIP's) only have while they learn."""
        take_final_form(_own(model).image_tower.visual)

    def logit_scale(self, model: TwoTowers) -> float | None:
        """Return the learned one."""
        return float(model.logit_scale.detach())

    def manifest_fields(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return how the starting model is fed; scaling of pixels is part of the graphs."""
        preprocess = self.manifest.preprocess
        image: dict[str, Any] = {"resize": preprocess.resize, "interpolation": preprocess.interpolation}
        if preprocess.resize == "longest":
            image["fill"] = preprocess.fill
        return image, {"clean": self.manifest.clean, "pad": self.manifest.pad}


def _own(model: TwoTowers) -> ClipDual:
    if not isinstance(model, ClipDual):
        raise TypeError(f"{type(model).__name__} is no open_clip model")
    return model


def _matchable(model: TwoTowers) -> bool:
    places = _own(model).config.places
    return places is not None and math.isqrt(places) ** 2 == places
