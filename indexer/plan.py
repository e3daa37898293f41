"""Found files + what the tables know -> the files to read; everything else is settled here with a look at its stat.

Whether a new path is a moved or a copied file cannot be told before its bytes are hashed: `settle` does that.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mmsearch.indexer.discover import Found
from mmsearch.indexer.known import KnownIndex, Stored
from mmsearch.indexer.lookup import NO_ROWS, Rows
from mmsearch.types import Reason

# What may pass without a trace in size or mtime, and costs next to nothing to try again.
_PASSING = frozenset({Reason.PERMISSION, Reason.CHANGED})


class Step(enum.Enum):
    """What a found file needs. CHECK: it looks the same, and its bytes decide."""

    NEW = enum.auto()
    CHANGED = enum.auto()
    CHECK = enum.auto()
    UNCHANGED = enum.auto()
    FAILED_BEFORE = enum.auto()


@dataclass(frozen=True, slots=True)
class Policy:
    """What the caller asked for: `verify` hashes what looks unchanged, `retry_failed` reads again what failed."""

    verify: bool = False
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """A file to read. `rows` are the rows that its path has in `KnownIndex`, by part; none for a new path.

    `known_hashes` are contents for which nothing needs decoding. `planned_ns` is the wall clock when it was planned.
    """

    found: Found
    step: Step
    rows: Rows
    known_hashes: tuple[bytes, ...]
    planned_ns: int


@dataclass(slots=True)
class Seen:
    """What planning came across in one scope, in files; `known` are those whose path was known before."""

    files: int = 0
    known: int = 0
    unchanged: int = 0
    failed_before: int = 0

    @property
    def settled(self) -> int:
        """Files that need no reading."""
        return self.unchanged + self.failed_before


def classify(found: Found, stored: Stored | None, policy: Policy) -> Step:
    """What `found` needs, given what is stored for its path."""
    if stored is None:
        return Step.NEW
    if (found.size, found.mtime_ns) != (stored.size, stored.mtime_ns) or not stored.whole:
        return Step.CHANGED
    if stored.reason is not None and (policy.retry_failed or stored.reason in _PASSING):
        return Step.CHANGED
    if found.obstacle is None and (policy.verify or stored.may_have_raced):
        return Step.CHECK
    return Step.UNCHANGED if stored.reason is None else Step.FAILED_BEFORE


def plan(files: Iterable[Found], known: KnownIndex, policy: Policy, seen: Seen) -> Iterator[Planned]:
    """Those of `files` that have to be read, lazily; notes in `known` and `seen` what it came across."""
    for found in files:
        stored = known.stored(found.root_id, found.path)
        step = classify(found, stored, policy)
        if step is Step.CHANGED and stored and stored.reason is Reason.PERMISSION and not policy.retry_failed:
            step = step if os.access(found.absolute, os.R_OK) else Step.FAILED_BEFORE
        seen.files += 1
        rows = NO_ROWS
        if stored is not None:
            rows = stored.rows
            seen.known += 1
            known.seen[rows] = True
        if step is Step.UNCHANGED:
            seen.unchanged += 1
            known.returned[rows] = known.missing[rows]
        elif step is Step.FAILED_BEFORE:
            seen.failed_before += 1
            known.returned[rows] = known.missing[rows]
        else:
            yield Planned(found, step, rows, _known_hashes(found, step, rows, known), time.time_ns())


def _known_hashes(found: Found, step: Step, rows: Rows, known: KnownIndex) -> tuple[bytes, ...]:
    if step is Step.CHECK:
        digest = known.digest(rows)
        return () if digest is None else (digest,)
    return known.hashes_of_size(found.size, found.extension)
