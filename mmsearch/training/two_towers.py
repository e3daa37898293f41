"""What the loop trains: an image side, a text side, one logit scale, and maybe a matching head on what they see.

Each side gives an embedding of the shared space and states, on which the matching head works: spatial tokens of a
photo, token states of a sentence. How a side computes them is its model's own affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Protocol, Self, TypeAlias

from torch import Tensor, nn

from mmsearch.training.fusion import FusionConfig, MatchHead, TokenProjector

Side: TypeAlias = Literal["image", "text"]
_SIDES: dict[str, Side] = {"image_tower": "image", "text_tower": "text"}  # the attributes that hold them


class Shape(Protocol):
    """What the loop has to know of a model's shape."""

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""

    @property
    def fusion(self) -> FusionConfig | None:
        """Shape of the matching head, None without one."""

    @property
    def largest_scale(self) -> float:
        """The logit scale is never more than this."""


class TwoTowers(nn.Module, ABC):
    """Image and text side, embedding into one space; embeddings are float32 (B, dim), L2-normalised."""

    config: Shape
    projector: TokenProjector | None
    matcher: MatchHead | None
    log_scale: nn.Parameter
    logit_bias: nn.Parameter  # only the sigmoid loss learns it

    @abstractmethod
    def look(self, views: Tensor, *, learn: bool) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, dim) and states (B, N, C) of photos as `Dataset.views` keeps them.

        Without `learn` no gradient reaches the tower; heads after it learn all the same.
        """

    @abstractmethod
    def look_at(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, dim) and states (B, N, C) of uint8 `pixels` (B, 3, H, W)."""

    @abstractmethod
    def read(self, ids: Tensor, mask: Tensor, *, learn: bool) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, dim) and states (B, L, S) of int64 `ids` (B, L) where `mask` (B, L) holds; as `look`.

        States where it does not hold are meaningless.
        """

    @abstractmethod
    def unlock(self, *, image: bool, text: bool) -> None:
        """Let the towers that are named learn, and stop gradients in the others; heads always learn."""

    @abstractmethod
    def like(self, fusion: FusionConfig | None) -> Self:
        """Return the same towers in a new module of the same shape but for its matching head, or without one.

        What is not a tower is fresh.
        """

    def side_of(self, parameter: str) -> Side | None:
        """Return the tower that the parameter of that name is in, None for one of heads and scales."""
        return _SIDES.get(parameter.split(".")[0])

    @property
    def logit_scale(self) -> Tensor:
        """exp of the learned log-temperature, at most `largest_scale`."""
        return self.log_scale.exp().clamp(max=self.config.largest_scale)

    def match_tokens(self, states: Tensor) -> Tensor:
        """Return the tokens (B, N, token_dim) that the matching head reads, of a photo's states (B, M, C).

        Raises:
            ValueError: the model has no matching head.
        """
        if self.projector is None:
            raise ValueError("the model has no matching head: give its config a fusion")
        tokens: Tensor = self.projector(states)
        return tokens

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return embeddings (B, dim) of int64 word pieces (B, L)."""
        return self.read(ids, mask, learn=True)[0]
