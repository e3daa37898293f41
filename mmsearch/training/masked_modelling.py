"""Masked modelling, both ways: words told from the photo (MLM), parts of the photo told from the sentence (MIM).

Only for training: these heads do not ship. MLM as in ALBEF (Li et al. 2021, arXiv 2107.07651, Eq. 3); MIM regresses
masked grid features instead of pixels, in the way of MaskVLM (Kwon et al. 2022, arXiv 2208.02131).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmsearch.training.fusion import CrossLayer, FusionConfig, MatchHead

MASK_ID = 103  # BERT's [MASK]
SPECIAL_IDS = (0, 100, 101, 102, 103)  # [PAD] [UNK] [CLS] [SEP] [MASK]: never masked


@dataclass(frozen=True)
class MaskedWords:
    """Word pieces with some hidden: the ids to read (B, L), and which places are asked for, bool (B, L)."""

    ids: Tensor
    asked: Tensor


def mask_words(ids: Tensor, mask: Tensor, rate: float, vocabulary: int, generator: torch.Generator) -> MaskedWords:
    """Return `ids` (B, L) with each ordinary word asked for at `rate`: of these 80 % hidden, 10 % changed, 10 % left.

    Devlin et al. 2018, arXiv 1810.04805, section 3.1. Every row with an ordinary word has at least one asked for.
    """
    special = torch.isin(ids, torch.tensor(SPECIAL_IDS, device=ids.device))
    ordinary = mask.bool() & ~special
    chance = torch.rand(ids.shape, generator=generator).to(ids.device).masked_fill(~ordinary, 2.0)
    asked = (chance < rate) | ((chance == chance.min(1, keepdim=True).values) & ordinary)
    fate = torch.rand(ids.shape, generator=generator).to(ids.device)
    others = torch.randint(0, vocabulary, ids.shape, generator=generator).to(ids.device)
    hidden = torch.where(asked & (fate < 0.8), torch.full_like(ids, MASK_ID), ids)
    return MaskedWords(torch.where(asked & (fate >= 0.9), others, hidden), asked)


def mask_places(tokens: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Return a bool (B, N), true at the round(rate x N) places a photo that are hidden.

    One at least is hidden, and of several one at least is not.
    """
    batch, places = tokens.shape[:2]
    count = max(1, min(places - 1, round(rate * places)))
    order = torch.rand((batch, places), generator=generator).argsort(dim=1)
    return (order < count).to(tokens.device)


def mlm_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Return the cross-entropy of `logits` (M, V) against the ids `words` (M,) of the masked places, a scalar."""
    return functional.cross_entropy(logits.float(), words)


def mim_loss(predicted: Tensor, tokens: Tensor, hidden: Tensor) -> Tensor:
    """Return the smooth L1 distance of `predicted` to `tokens`, both (B, N, C), over the `hidden` (B, N) places."""
    return functional.smooth_l1_loss(predicted.float()[hidden], tokens.detach().float()[hidden])


class MaskedModelling(nn.Module):
    """The two heads. Words come back through the text tower's own word table."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.word_out = nn.Sequential(
            nn.Linear(config.token_dim, config.text_inputs), nn.GELU(), nn.LayerNorm(config.text_inputs)
        )
        self.hidden_token = nn.Parameter(0.02 * torch.randn(config.token_dim))
        self.look_around, self.look_at_words = CrossLayer(config), CrossLayer(config)
        self.token_out = nn.Sequential(nn.LayerNorm(config.token_dim), nn.Linear(config.token_dim, config.token_dim))

    def words(self, fused: Tensor, table: Tensor) -> Tensor:
        """Return logits (M, V) for fused words (M, C) by the word table (V, S)."""
        logits: Tensor = self.word_out(fused) @ table.t()
        return logits

    def tokens(self, matcher: MatchHead, tokens: Tensor, hidden: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Return (B, N, token_dim): what `tokens` may be at the `hidden` (B, N) places, from the rest and the words."""
        image = torch.where(hidden[..., None], self.hidden_token.to(tokens.dtype), tokens) + matcher.places
        words = matcher.read_words(states)
        image = self.look_around(image, image, hidden)
        image = self.look_at_words(image, words, ~mask)
        predicted: Tensor = self.token_out(image)
        return predicted
