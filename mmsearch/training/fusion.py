"""The image-text matching (ITM) head: image tokens and word states in, one logit out that says whether they belong.

Two views of a pair add up. Alignment: each word takes the cosine of the image token nearest to it, and words count by
a learned importance (late interaction, FILIP, Yao et al. 2021, arXiv 2111.07783); being cheap over all pairs of a
batch, it is trained contrastively, and gives the tokens a space that they share with the words. Fusion: in that space
words look at image tokens by cross-attention, softmax(QK^T / sqrt(d_k))V (Vaswani et al. 2017, arXiv 1706.03762), as
in the fusion encoder of ALBEF (Li et al. 2021, arXiv 2107.07651), and are compared with what they find, product beside
both vectors, as in ESIM (Chen et al. 2017, arXiv 1609.06038). Fusion alone does not get off the ground on a few
thousand photos: with hard negatives it stays at the loss of guessing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

TOKEN_LIMIT = 4.0  # tokens have unit variance; what lies beyond four deviations is cut
TOKEN_STEP = TOKEN_LIMIT / 127  # of an int8 token


@dataclass(frozen=True)
class FusionConfig:
    """Shape of the tokens that are stored with each photo, and of the head that reads them."""

    image_inputs: int = 1280
    text_inputs: int = 384
    grid: int = 4  # the stored tokens are grid x grid averages of the tower's map
    token_dim: int = 128  # also the width of the fusion layers
    layers: int = 2
    attention_heads: int = 4
    hidden: int = 512
    dropout: float = 0.1
    max_text_tokens: int = 40

    @property
    def tokens(self) -> int:
        """Tokens a photo."""
        return self.grid * self.grid


def area_weights(side: int, grid: int) -> Tensor:
    """Return the (grid^2, side^2) matrix that averages a side x side map over grid x grid equal areas, row by row.

    A cell on the border of two areas counts for both, by its share: as area interpolation does.
    """
    edges = torch.arange(grid + 1, dtype=torch.float64) * side / grid
    cells = torch.arange(side, dtype=torch.float64)
    low, high = edges[:-1, None], edges[1:, None]
    overlap = (torch.minimum(high, cells + 1) - torch.maximum(low, cells)).clamp(min=0)
    share = overlap / overlap.sum(1, keepdim=True)
    return torch.kron(share, share).float()


class TokenProjector(nn.Module):
    """The tower's map (B, N, C) -> tokens (B, grid^2, token_dim), zero mean, unit variance, within +-TOKEN_LIMIT."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.project = nn.Linear(config.image_inputs, config.token_dim)

    def forward(self, states: Tensor) -> Tensor:
        """Return float tokens of `states` (B, N, C), N a square."""
        side = math.isqrt(states.shape[1])
        areas = area_weights(side, self.grid).to(states.device, states.dtype)
        projected = self.project(areas @ states)
        tokens: Tensor = functional.layer_norm(projected.float(), projected.shape[-1:])
        return tokens.clamp(-TOKEN_LIMIT, TOKEN_LIMIT)


def quantised_tokens(tokens: Tensor) -> Tensor:
    """Return `tokens` as int8 in steps of TOKEN_STEP, as they are stored."""
    return torch.round(tokens / TOKEN_STEP).to(torch.int8)


class CrossLayer(nn.Module):
    """Words (B, L, C) look at image tokens (B, N, C) and are compared with what they find; pre-norm.

    Attention starts as the identity: words and tokens share a space already.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width = config.token_dim
        self.attention_heads = config.attention_heads
        self.query_norm, self.mix_norm = nn.LayerNorm(width), nn.LayerNorm(3 * width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attention_out = nn.Linear(width, width)
        for linear in (self.query, self.key, self.value, self.attention_out):
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.expand, self.contract = nn.Linear(3 * width, config.hidden), nn.Linear(config.hidden, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, words: Tensor, image: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return the words after this layer; `hidden` (B, N), true where an image token must not be seen."""
        batch, length, width = words.shape
        heads = (self.attention_heads, width // self.attention_heads)
        asking = self.query_norm(words)
        query = self.query(asking).view(batch, length, *heads).transpose(1, 2)
        key = self.key(image).view(batch, -1, *heads).transpose(1, 2)
        value = self.value(image).view(batch, -1, *heads).transpose(1, 2)
        scores = (query @ key.transpose(-1, -2)).float() / math.sqrt(heads[1])
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None, None, :], -1e4)
        found = (torch.softmax(scores, dim=-1).to(value.dtype) @ value).transpose(1, 2).reshape(batch, length, width)
        found = self.attention_out(found)
        mixed = self.mix_norm(torch.cat([words, found, asking * found], dim=-1))
        changed: Tensor = words + self.contract(self.dropout(functional.gelu(self.expand(mixed))))
        return changed


class MatchHead(nn.Module):
    """Tokens of a photo and states of a sentence -> aligned and fused words, and the logit of their match."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.token_dim
        self.align = nn.Linear(config.text_inputs, width)
        self.importance = nn.Linear(config.text_inputs, 1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))  # of alignments, for the contrastive loss
        self.weight = nn.Parameter(torch.tensor(10.0))  # of an alignment, in the logit
        self.places = nn.Parameter(0.02 * torch.randn(config.tokens, width))
        self.layers = nn.ModuleList(CrossLayer(config) for _ in range(config.layers))
        self.out_norm = nn.LayerNorm(width)
        self.match = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(width, 1))
        self.dropout = nn.Dropout(config.dropout)

    def cut(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return `states` (B, L, S) and `mask` (B, L) of the first tokens alone: of as many as a search keeps."""
        return states[:, : self.config.max_text_tokens], mask[:, : self.config.max_text_tokens]

    def readable(self, mask: Tensor) -> Tensor:
        """Return the bool `mask` (B, L) without the tokens that `cut` leaves out."""
        within = torch.arange(mask.shape[1], device=mask.device) < self.config.max_text_tokens
        return mask & within

    def read_words(self, states: Tensor) -> Tensor:
        """Return (B, L, token_dim) of word states (B, L, text_inputs), of unit variance as image tokens are."""
        aligned = self.align(states).float()
        return functional.layer_norm(aligned, aligned.shape[-1:])

    def shares(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return how much each word counts, (B, L), each row of sum 1, 0 where the bool `mask` does not hold."""
        return torch.softmax(self.importance(states).squeeze(-1).float().masked_fill(~mask, -1e4), dim=-1)

    def alignments(self, tokens: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Return the alignment (I, T), in [-1, 1], of all photos' tokens (I, N, C) with all states (T, L, S)."""
        words = functional.normalize(self.read_words(states), dim=-1)
        places = functional.normalize(tokens.float(), dim=-1)
        cosines = words.flatten(0, 1) @ places.flatten(0, 1).t()
        nearest = cosines.view(*words.shape[:2], *places.shape[:2]).amax(-1)  # (T, L, I)
        return torch.einsum("tl,tli->it", self.shares(states, mask), nearest.float())

    def fuse(self, tokens: Tensor, words: Tensor) -> Tensor:
        """Return words (B, L, C), of `read_words`, that have seen the photo whose tokens are (B, N, C)."""
        image, words = self.dropout(tokens + self.places), self.dropout(words)
        for layer in self.layers:
            words = layer(words, image)
        fused: Tensor = self.out_norm(words)
        return fused

    def forward(self, tokens: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Return float32 logits (B,) of tokens (B, N, C) and states (B, L, S) where the bool `mask` holds."""
        words, shares = self.read_words(states), self.shares(states, mask)
        cosines = functional.normalize(words, dim=-1) @ functional.normalize(tokens.float(), dim=-1).transpose(1, 2)
        alignment = (shares * cosines.amax(-1).float()).sum(-1)
        fused = self.fuse(tokens, words)
        pooled = (shares.to(fused.dtype)[..., None] * fused).sum(1)
        logits: Tensor = self.weight * alignment + self.match(pooled).squeeze(-1).float()
        return logits
