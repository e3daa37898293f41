"""What a model's manifest may say beyond its two towers: a matching head, and banks against hubs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from mmsearch.manifest_fields import Fields

Direction: TypeAlias = Literal["text_to_image", "image_to_text"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

_LARGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class ItmFacts:
    """The image-text matching head in `file`, and what it works on.

    The image tower gives `tokens` tokens of `token_dim` int8 numbers, the text tower states of `state_dim` numbers for
    each of at most `max_text_tokens` tokens. The best `candidates` of a search are scored anew, and the head's logit
    counts `weight` times beside the cosine.
    """

    file: str
    tokens: int
    token_dim: int
    state_dim: int
    max_text_tokens: int
    candidates: int
    weight: float


@dataclass(frozen=True, slots=True)
class HubnessFacts:
    """A bank of typical queries of one direction, in the file `bank`: .npy, float16 (M, dim), rows of length 1.

    From an item's cosine to a query, `strength` times the mean of its `neighbours` largest cosines to the bank is
    taken off, so that what is near to everything is not found by everything.
    """

    bank: str
    neighbours: int
    strength: float


def read_itm(fields: Fields) -> ItmFacts | None:
    """The field `itm`, None where there is none."""
    itm = fields.optional_table("itm")
    if itm is None:
        return None
    facts = ItmFacts(
        file=itm.text("file"),
        tokens=itm.integer("tokens", 1, _LARGEST),
        token_dim=itm.integer("token_dim", 1, _LARGEST),
        state_dim=itm.integer("state_dim", 1, _LARGEST),
        max_text_tokens=itm.integer("max_text_tokens", 1, _LARGEST),
        candidates=itm.integer("candidates", 1, 10_000),
        weight=itm.number("weight", 0, 1000),
    )
    itm.end()
    return facts


def read_hubness(fields: Fields) -> Mapping[Direction, HubnessFacts]:
    """The field `hubness` by direction, empty where there is none."""
    table = fields.optional_table("hubness")
    if table is None:
        return {}
    found: dict[Direction, HubnessFacts] = {}
    for direction in DIRECTIONS:
        entry = table.optional_table(direction)
        if entry is not None:
            found[direction] = HubnessFacts(
                bank=entry.text("bank", re.compile(r".+\.npy", re.DOTALL)),
                neighbours=entry.integer("neighbours", 1, _LARGEST),
                strength=entry.number("strength", 0, 100),
            )
            entry.end()
    table.end()
    return found
