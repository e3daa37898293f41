"""What a reader of a dataset file hands over: pairs as listed, and what was wrong with others."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """One caption of one image as a file lists it; `caption` None lists an image without captions.

    `image` is relative to the data root with '/'. Two pairs with the same `caption_id` are one caption of two images.
    `where` is the place for a person, such as "line 12".
    """

    image: str
    caption: str | None
    caption_id: str
    where: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that `--allow-missing` may leave out. `kind` is a plural noun, such as "blank captions"."""

    kind: str
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The content of one dataset file, in its own order."""

    format: str
    split: str | None
    sha256: str
    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


def plain_name(name: str) -> str:
    """Return `name` without '.' and doubled '/', so that one file has one id. A leading '..' stays, to be refused."""
    return posixpath.normpath(name)
