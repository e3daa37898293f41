"""How long work says how far it is: plain values to a plain callable, so that library code prints nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Phase = Literal[
    "scan",
    "index",
    "publish",
    "embed",
    "rerank",
    "score",
    "check",
    "prepare",
    "train",
    "export",
    "download",
    "tag",
    "verify",
]


@dataclass(frozen=True, slots=True)
class Progress:
    """One sign of life: `done` units of `phase` are finished, out of `total`, None while nobody knows how many there
    will be.

    `done` never falls within a phase, phases never return, and `total` may appear or grow while the phase runs. `note`
    is a few words on how it goes.
    """

    phase: Phase
    done: int
    total: int | None = None
    note: str = ""


ProgressCallback: TypeAlias = Callable[[Progress], None]
"""Called in the thread that does the work, a few times a second. What it raises ends the work."""
