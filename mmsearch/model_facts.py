"""The parts of a model's manifest: its files, and what it may say beyond its two towers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from mmsearch.manifest_fields import Fields
from mmsearch.types import Preprocess

Direction: TypeAlias = Literal["text_to_image", "image_to_text"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

_LARGEST = 1 << 16
_MAX_FILE_BYTES = 1 << 40
# A separator elsewhere, what ends a name for the system, and what it cannot write at all.
_UNUSABLE = re.compile(r"[\\\0\ud800-\udc7f\udd00-\udfff]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """What a file of a model must be: SHA-256 in hex, and its size in bytes."""

    sha256: str
    bytes: int


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


@dataclass(frozen=True, slots=True)
class EmbedsAs:
    """The claim that a model gives the embeddings of another, to a cosine of at least 0.9999: an export in float32.

    `fingerprint` is the other's, under which it then answers the other's collections; `measured` is its own, of the
    files that were compared. With other files than those the claim is void.

    Like the rest of a manifest it is believed: a model's directory is trusted as the program is. What a false one does:
    a collection, which refuses other weights by their fingerprint, takes them, finds the wrong things, and mixes their
    embeddings with its own where it is indexed with them. It runs nothing and reveals nothing. So only an export that
    was just compared makes a claim, and never one of int8.
    """

    fingerprint: str
    measured: str


def read_files(fields: Fields) -> dict[str, PinnedFile]:
    """All of `fields`, the table of files, by bare name."""
    pinned = {}
    for name in list(fields.rest()):
        if Path(name).name != name or name in ("", "..") or _UNUSABLE.search(name):
            raise fields.complaint(name, "is not the bare name of a file inside the model's directory")
        each = fields.table(name)
        pinned[name] = PinnedFile(each.text("sha256", _SHA256), each.integer("bytes", 0, _MAX_FILE_BYTES))
        each.end()
    return pinned


def read_embeds_as(fields: Fields) -> EmbedsAs | None:
    """The field `embeds_as`, None where there is none."""
    table = fields.optional_table("embeds_as")
    if table is None:
        return None
    claim = EmbedsAs(table.text("fingerprint", _FINGERPRINT), table.text("measured", _FINGERPRINT))
    table.end()
    return claim


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


def read_preprocess(image: Fields) -> Preprocess:
    """What the table `image` says of how pictures become pixels."""
    height, width = image.integers("size", count=2, low=1, high=4096)
    return Preprocess(
        height=height,
        width=width,
        resize=image.choice("resize", ("squash", "crop", "longest")),  # type: ignore[arg-type]
        interpolation=image.choice("interpolation", ("bicubic", "bilinear")),  # type: ignore[arg-type]
        fill=image.integer("fill", 0, 255) if image.has("fill") else 0,
    )
