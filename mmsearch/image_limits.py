"""What one picture may cost, in pixels, bytes and shape."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_MIB = 1024 * 1024
_PIXELS = 128_000_000  # the largest phone sensors reach 200 MP, but as JPEG, which is scaled down while it is decoded
_BYTES = 512 * _MIB
_RATIO = 20.0  # the longest panoramas and screenshots anyone looks at as one picture
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # the word "max" when there is none
_BYTES_PER_PIXEL = 16  # peak of the worst usual path: decoder planes, RGBA, a white canvas and the composite


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What one picture may cost. `max_pixels` bounds what is decoded, `max_bytes` the file.

    A picture whose longer side exceeds `max_ratio` times the shorter keeps only its centre.
    """

    max_pixels: int = _PIXELS
    max_bytes: int = _BYTES
    max_ratio: float = _RATIO

    @classmethod
    def for_machine(cls, workers: int) -> DecodeLimits:
        """Return limits under which `workers` pictures at a time take at most half of this machine's memory."""
        share = _machine_memory() // 2 // max(1, workers)
        return cls(max_pixels=min(_PIXELS, share // _BYTES_PER_PIXEL), max_bytes=min(_BYTES, share // 2))

    @property
    def peak_bytes(self) -> int:
        """Return the memory that one picture within these limits may take while it is decoded."""
        return self.max_pixels * _BYTES_PER_PIXEL + self.max_bytes


def _machine_memory() -> int:
    memory = 2 * (_PIXELS * _BYTES_PER_PIXEL + 2 * _BYTES)  # enough for one worker, where nobody can say
    with contextlib.suppress(AttributeError, OSError, ValueError):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, int(_CONTAINER_LIMIT.read_text()))
    return memory
