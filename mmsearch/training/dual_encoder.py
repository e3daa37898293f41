"""The dual encoder: two towers, two heads, one logit scale. Heads turn states into embeddings of the shared space."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmsearch.training.fusion import FusionConfig, MatchHead, TokenProjector
from mmsearch.training.pooling import Pool, PoolKind
from mmsearch.training.towers import EARLY_STAGES, EfficientNetLite, MiniLM
from mmsearch.training.two_towers import TwoTowers


@dataclass(frozen=True)
class HeadConfig:
    """Shape of one head."""

    inputs: int
    width: int
    pool: PoolKind = "mean"
    k: int = 12
    sharpness: float = 1.0
    hidden: int = 512  # of the MLP; 0 for none
    dropout: float = 0.1
    position_drop: float = 0.2
    identity: bool = False  # start as plain mean pooling of the states, to keep the space the tower came with


@dataclass(frozen=True)
class DualConfig:
    """Shape of the whole model apart from its towers."""

    dim: int = 384
    image: HeadConfig = field(default_factory=lambda: HeadConfig(inputs=1280, width=512))
    text: HeadConfig = field(
        default_factory=lambda: HeadConfig(
            inputs=384, width=384, k=4, sharpness=0.0, hidden=0, position_drop=0.0, identity=True
        )
    )
    fusion: FusionConfig | None = field(default_factory=FusionConfig)  # None for a model without an ITM head
    start_scale: float = 20.0
    largest_scale: float = 100.0


def _mlp(config: HeadConfig, dim: int) -> nn.Sequential:
    """Return a one-hidden-layer MLP whose output starts at zero."""
    last = nn.Linear(config.hidden, dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    norm, first = nn.LayerNorm(config.width), nn.Linear(config.width, config.hidden)
    return nn.Sequential(norm, first, nn.GELU(), nn.Dropout(config.dropout), last)


class Head(nn.Module):
    """States (B, N, C) -> projected states -> pooled -> embedding (B, dim), L2-normalised.

    The last step is a linear map (none where the width is `dim` already) plus an MLP beside it.
    """

    def __init__(self, config: HeadConfig, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(config.inputs, config.width)
        self.pool = Pool(config.pool, config.width, k=config.k, sharpness=config.sharpness, drop=config.position_drop)
        self.out = nn.Linear(config.width, dim) if config.width != dim else nn.Identity()
        self.mlp = _mlp(config, dim) if config.hidden else None
        if config.identity:
            nn.init.eye_(self.project.weight)
            nn.init.zeros_(self.project.bias)

    def project_states(self, states: Tensor) -> Tensor:
        """Return the projected states (B, N, width), before pooling."""
        projected: Tensor = self.project(states)
        return projected

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return float32 embeddings (B, dim) of `states` (B, N, C) where the bool `mask` (B, N) holds."""
        if self.pool.kind == "mean":  # the mean of a linear map is the map of the mean, and that is far cheaper
            pooled = self.project(self.pool(states, mask))
        else:
            pooled = self.pool(self.project_states(states), mask)
        embedding = self.out(pooled)
        if self.mlp is not None:
            embedding = embedding + self.mlp(pooled)
        return functional.normalize(embedding.float(), dim=-1)


class DualEncoder(TwoTowers):
    """Image and text towers with their heads, embedding into one space."""

    config: DualConfig

    def __init__(self, image_tower: EfficientNetLite, text_tower: MiniLM, config: DualConfig) -> None:
        super().__init__()
        self.config = config
        self.image_tower, self.text_tower = image_tower, text_tower
        self.image_head = Head(config.image, config.dim)
        self.text_head = Head(config.text, config.dim)
        self.projector = TokenProjector(config.fusion) if config.fusion else None
        self.matcher = MatchHead(config.fusion) if config.fusion else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.start_scale)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))  # only the sigmoid loss learns it

    def embed_image_tokens(self, tokens: Tensor) -> Tensor:
        """Return embeddings (B, dim) of spatial tokens (B, N, 1280)."""
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        embedding: Tensor = self.image_head(tokens, mask)
        return embedding

    def look(self, views: Tensor, *, learn: bool) -> tuple[Tensor, Tensor]:
        """Return embeddings and spatial tokens of early maps (B, C, H/16, W/16)."""
        with nullcontext() if learn else torch.no_grad():
            tower_map = self.image_tower.late(views)
        return self.embed_image_tokens(tower_map), tower_map

    def look_at(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings and spatial tokens of uint8 `pixels` (B, 3, H, W)."""
        tower_map = self.image_tower(pixels)
        return self.embed_image_tokens(tower_map), tower_map

    def read(self, ids: Tensor, mask: Tensor, *, learn: bool) -> tuple[Tensor, Tensor]:
        """Return embeddings and token states of int64 word pieces (B, L)."""
        with nullcontext() if learn else torch.no_grad():
            states = self.text_tower(ids, mask)
        embedding: Tensor = self.text_head(states, mask.bool())
        return embedding, states

    def unlock(self, *, image: bool, text: bool) -> None:
        """Let the late half of the image tower learn, and the text tower but for its word table."""
        self.image_tower.requires_grad_(image)
        self.image_tower.stem.requires_grad_(False)
        self.image_tower.stages[:EARLY_STAGES].requires_grad_(False)
        self.text_tower.requires_grad_(text)
        self.text_tower.word_embeddings.requires_grad_(False)

    def like(self, fusion: FusionConfig | None) -> Self:
        """Return the same towers in a new module, whose heads are new too."""
        return type(self)(self.image_tower, self.text_tower, replace(self.config, fusion=fusion))
