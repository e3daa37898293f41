"""An open_clip model as the training loop sees it: its two towers as they are, and the matching head beside them."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmsearch.errors import ModelError
from mmsearch.model_manifest import ModelManifest
from mmsearch.openclip import load_openclip
from mmsearch.openclip_modules import ImageTower, TextTower
from mmsearch.safe_text import safe_text
from mmsearch.training.fusion import FusionConfig, MatchHead, TokenProjector
from mmsearch.training.two_towers import TwoTowers

_START_SCALE, _START_BIAS = 1 / 0.07, -10.0


@dataclass(frozen=True)
class ClipShape:
    """Shape of the whole model apart from its towers; `image_states` and `text_states` are numbers in a state."""

    dim: int
    image_states: int
    text_states: int
    places: int | None  # of a photo that have a state; None for a tower that has none
    fusion: FusionConfig | None = None
    largest_scale: float = 100.0


class ClipDual(TwoTowers):
    """Image and text tower of an open_clip model.

    Batch norm keeps the statistics it came with: an embedding must not depend on its batch, nor on the parts of it.
    """

    config: ClipShape

    def __init__(self, image_tower: ImageTower, text_tower: TextTower, config: ClipShape) -> None:
        super().__init__()
        self.config = config
        self.image_tower, self.text_tower = image_tower, text_tower
        self.projector = TokenProjector(config.fusion) if config.fusion else None
        self.matcher = MatchHead(config.fusion) if config.fusion else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(_START_SCALE)))
        self.logit_bias = nn.Parameter(torch.tensor(_START_BIAS))
        self.checkpointing = False  # while training; set it where `can_checkpoint` says so

    def look(self, views: Tensor, *, learn: bool) -> tuple[Tensor, Tensor]:
        """Return embeddings and states of uint8 pixels (B, 3, H, W)."""
        with nullcontext() if learn else torch.no_grad():
            return self.look_at(views)

    def look_at(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings and states; a tower without places has one state, its embedding."""
        found, states = self.image_tower(pixels)
        embedding = functional.normalize(found.float(), dim=-1)
        return embedding, embedding[:, None] if states is None else states

    def read(self, ids: Tensor, mask: Tensor, *, learn: bool) -> tuple[Tensor, Tensor]:
        """Return embeddings and states of token ids (B, L)."""
        with nullcontext() if learn else torch.no_grad():
            found, states = self.text_tower(ids, mask)
            return functional.normalize(found.float(), dim=-1), states

    def unlock(self, *, image: bool, text: bool) -> None:
        """Let whole towers learn, or nothing of them."""
        self.image_tower.requires_grad_(image)
        self.text_tower.requires_grad_(text)

    def like(self, fusion: FusionConfig | None) -> Self:
        """Return the same towers in a new module."""
        changed = type(self)(self.image_tower, self.text_tower, replace(self.config, fusion=fusion))
        changed.checkpointing = self.checkpointing
        return changed

    def train(self, mode: bool = True) -> Self:
        """Begin or end training; only while training are activations dropped and computed again."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        if self.checkpointing:
            self._checkpoint(mode)
        return self

    def can_checkpoint(self) -> bool:
        """Return whether both towers can compute activations again on the way back instead of keeping them."""
        if hasattr(self.image_tower.visual, "attnpool"):  # open_clip's residual networks ignore it
            return False
        try:
            self._checkpoint(True)
            self._checkpoint(False)
        except (AssertionError, AttributeError, NotImplementedError):  # how timm says that an architecture has none
            return False
        return True

    def _checkpoint(self, enabled: bool) -> None:
        visual: Any = self.image_tower.visual
        getattr(visual, "trunk", visual).set_grad_checkpointing(enabled)
        transformer: Any = self.text_tower.transformer
        transformer.grad_checkpointing = enabled


def take_final_form(tower: nn.Module) -> None:
    """Merge the branches that some convolutional image towers (MobileCLIP's) only have while they learn."""
    from timm.models import reparameterize_model

    reparameterize_model(tower, inplace=True)


def load_clip(manifest: ModelManifest) -> ClipDual:
    """Return the open_clip model of `manifest` in evaluation mode, without a matching head.

    Raises:
        MissingExtra, ModelError: as `load_openclip`; or it is of a kind that cannot be trained.
    """
    clip = load_openclip(manifest)
    preprocess = manifest.preprocess
    image_tower, text_tower = ImageTower(clip, manifest.mean, manifest.std), TextTower(clip)
    if getattr(getattr(clip, "text", clip), "cls_emb", None) is not None:
        raise ModelError(
            f"model '{safe_text(manifest.name)}' cannot be trained: its text tower appends a token of its own (CoCa);"
            " choose another with --from"
        )
    if hasattr(clip.visual, "patch_dropout"):
        clip.visual.patch_dropout = nn.Identity()  # the places of a photo must stay where they are
    with torch.no_grad():
        embedding, states = image_tower(torch.zeros((1, 3, preprocess.height, preprocess.width), dtype=torch.uint8))
        _, words = text_tower(*(torch.ones((1, manifest.max_tokens), dtype=torch.int64) for _ in range(2)))
    shape = ClipShape(
        dim=embedding.shape[1],
        image_states=embedding.shape[1] if states is None else states.shape[2],
        text_states=words.shape[2],
        places=None if states is None else states.shape[1],
    )
    model = ClipDual(image_tower, text_tower, shape)
    with torch.no_grad():
        model.log_scale.copy_(clip.logit_scale.reshape(()))
        if clip.logit_bias is not None:
            model.logit_bias.copy_(clip.logit_bias.reshape(()))
    return model.eval()
