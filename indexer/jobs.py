"""What goes into the decode pool and what comes out of it: plain values, one `Decoded` or `Failed` for every `Job`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmsearch.images import DecodedImage
from mmsearch.passages import Passage
from mmsearch.types import Kind, Reason


@dataclass(frozen=True, slots=True)
class Job:
    """One file to read. `token` is the caller's and comes back with the result; `path` is absolute.

    `known_hashes` are the SHA-256 digests of stored files of this size: a file that has one of them is not decoded.
    """

    token: int
    path: bytes
    kind: Kind
    extension: str
    known_hashes: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoded:
    """One file that was read whole. `hash` is its SHA-256; `size` and `mtime_ns` held before and after the read.

    `checked_ns` is the wall clock when the bytes had been read. `image` goes with the outcome "image", `passages` with
    "passages"; "known" has neither: the file's content is one of the job's `known_hashes`.
    """

    token: int
    hash: bytes
    size: int
    mtime_ns: int
    checked_ns: int
    outcome: Literal["image", "passages", "known"]
    image: DecodedImage | None = None
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """One file that could not be read or decoded. `detail` is a sentence for a person.

    `size`, `mtime_ns` and `hash` are None as far as the attempt did not get there. `errno` is what the operating system
    said, if it was the one that refused.
    """

    token: int
    reason: Reason
    detail: str
    size: int | None = None
    mtime_ns: int | None = None
    hash: bytes | None = None
    errno: int | None = None
