"""The two towers of an open_clip model as modules: pixels or token ids in, unit embeddings out, and what lies before.

They work on what open_clip built: for encoding, for export and for training alike. Computed is what its own
`encode_image` and `encode_text` compute, except that a sentence need not be padded where padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class ImageTower(nn.Module):
    """uint8 pixels (B, 3, H, W) -> embeddings (B, D) of length 1, and tokens (B, N, C), None where it has no places.

    Tokens are what the tower sees of each place of the picture after its last layer, row by row. `mean` and `std` are
    of the three channels, in units of full scale. Both results have the type of the tower's weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, clip: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.visual: Any = clip.visual
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings and tokens of a batch."""
        # As open_clip does it, in float32 whatever the weights are: the same bits come out.
        normal = ((pixels.float() / 255) - self.mean.float()) / self.std.float()
        features, tokens = self._features(normal.to(next(self.visual.parameters()).dtype))
        return functional.normalize(features, dim=-1), tokens

    def _features(self, normal: Tensor) -> tuple[Tensor, Tensor | None]:
        visual = self.visual
        if hasattr(visual, "trunk"):
            map_or_tokens = visual.trunk.forward_features(normal)
            return visual.head(visual.trunk.forward_head(map_or_tokens)), _places(map_or_tokens, visual.trunk)
        if hasattr(visual, "attnpool"):
            grid = visual.stem(normal)
            for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
                grid = layer(grid)
            return visual.attnpool(grid), grid.flatten(2).transpose(1, 2)
        pooled, tokens = visual._pool(visual.transformer(visual._embeds(normal)))
        return pooled if visual.proj is None else pooled @ visual.proj, tokens


class TextTower(nn.Module):
    """int64 token ids (B, L) and their mask -> embeddings (B, D) of length 1, and states (B, L, S).

    States are what the tower makes of each token in its last layer. The mask is 1 for tokens and 0 for padding; only
    finding the end of a sentence reads it. A model that reads its padding needs L to be its context length.
    """

    attn_mask: Tensor | None

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        # A model either has the parts of its text tower itself, or a module `text` that has them.
        own: Any = getattr(clip, "text", clip)
        self.token_embedding = own.token_embedding
        self.positional_embedding = own.positional_embedding
        self.transformer = own.transformer
        self.ln_final = own.ln_final
        self.text_projection = own.text_projection
        self.register_buffer("attn_mask", own.attn_mask, persistent=False)
        prefix = "text_" if own is clip else ""
        self._pool_type: str = getattr(own, f"{prefix}pool_type")
        self._eos_id: int = getattr(own, f"{prefix}eos_id")
        # CoCa appends a token of its own, whose mask depends on the padding.
        self._appending: Any = own if getattr(own, "cls_emb", None) is not None else None

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and states of a batch."""
        if self._appending is not None:
            embedded, attend = self._appending._embeds(ids)
            found = self.transformer(embedded, attn_mask=attend)
            return self._projected(self.ln_final(found[:, -1])), found[:, :-1]
        length = ids.shape[1]
        kind = self.transformer.get_cast_dtype()
        embedded = self.token_embedding(ids).to(kind) + self.positional_embedding[:length].to(kind)
        attend = None if self.attn_mask is None else self.attn_mask[:length, :length]
        states = self.ln_final(self.transformer(embedded, attn_mask=attend))
        return self._projected(self._pooled(states, ids * mask)), states

    def _pooled(self, states: Tensor, ids: Tensor) -> Tensor:
        if self._pool_type == "first":
            return states[:, 0]
        if self._pool_type == "last":
            return states[:, -1]
        # The end of a sentence has the largest id, or the one that the configuration names.
        end = ids.argmax(dim=-1) if self._pool_type == "argmax" else (ids == self._eos_id).int().argmax(dim=-1)
        return states[torch.arange(states.shape[0], device=states.device), end]

    def _projected(self, pooled: Tensor) -> Tensor:
        if isinstance(self.text_projection, nn.Linear):
            pooled = self.text_projection(pooled)
        elif self.text_projection is not None:
            pooled = pooled @ self.text_projection
        return functional.normalize(pooled, dim=-1)


def _places(features: Tensor, trunk: Any) -> Tensor | None:
    """The tokens (B, N, C) in what a timm model makes before it pools."""
    if features.ndim == 3:
        return features[:, getattr(trunk, "num_prefix_tokens", 0) :]
    if features.ndim != 4:
        return None
    return features.flatten(1, 2) if getattr(trunk, "output_fmt", "NCHW") == "NHWC" else features.flatten(2).mT
