"""Zero-shot labels: how likely each of some labels is for a photo, from the embeddings of both.

The classifier of Radford et al. 2021 (arXiv 2103.00020, section 3.1.2): its weights are the embeddings of the labels,
and its probabilities a softmax over the cosines, times the model's logit scale.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import UsageError
from mmsearch.model import Model
from mmsearch.progress import Progress, ProgressCallback
from mmsearch.prompts import LabelEmbeddings
from mmsearch.safe_text import safe_text
from mmsearch.search import notes_on_place, unhealthy_roots
from mmsearch.snapshot import Candidate, Snapshot
from mmsearch.snapshot_filter import admitted_rows, places_under
from mmsearch.types import PhotoTags, Tag

# For a model whose manifest names no scale, as the bundled one's does not: measured on it. The scale that makes the
# caption of a photo likeliest among 5 to 1000 (Flickr8k val) is 22 to 24. But names of things lie closer together than
# captions: in the default templates, ImageNet's classes are likeliest at 47 to 51 for photos of that set that a
# classifier is sure of, and at 32 to 41 for labelled ImageNet photos, over lists of 5 to 1000 names. In between, both
# come near what they promise: of 100 names the first has 0.68 and is right for 73 %, or 0.35 and 42 %.
DEFAULT_LOGIT_SCALE = 40.0

# Of a matrix of photos and labels, float64: 16 MB, and a few times that while it is worked on.
_SCORES_AT_ONCE = 2**21
_PHOTOS_AT_ONCE = 1024
_TELL_EVERY_S = 0.2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TagOptions:
    """At most `k` labels a photo, and only those with a probability of at least `min_probability`.

    Raises:
        UsageError: a value is out of range.
    """

    k: int = 5
    min_probability: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise UsageError(f"k is {safe_text(repr(self.k))}: expected a whole number, at least 1")
        # Written so that a value that is not a number fails it too.
        lowest = self.min_probability
        if not (isinstance(lowest, int | float) and 0 <= lowest <= 1):
            raise UsageError(f"min_probability is {safe_text(repr(lowest))}: expected a probability, from 0 to 1")


def logit_scale(model: Model) -> float:
    """What the cosines of `model` are multiplied by before a softmax: its manifest's, or `DEFAULT_LOGIT_SCALE`."""
    scale = model.manifest.logit_scale
    return DEFAULT_LOGIT_SCALE if scale is None else scale


class Tagger:
    """The labels of photos, from their embeddings."""

    def __init__(self, labels: LabelEmbeddings, *, scale: float, options: TagOptions) -> None:
        self._labels = labels
        self._scale = scale
        self._options = options
        self._at_once = max(1, _SCORES_AT_ONCE // len(labels.names))

    def tags(self, embeddings: NDArray[np.float32]) -> list[tuple[Tag, ...]]:
        """For each unit row of `embeddings` (N, dim) its likeliest labels, best first; of equals the one given first.

        Memory beyond the result does not grow with N.
        """
        found: list[tuple[Tag, ...]] = []
        for start in range(0, len(embeddings), self._at_once):
            similarities = embeddings[start : start + self._at_once] @ self._labels.embeddings.T
            found += self._likeliest(similarities)
        return found

    def _likeliest(self, similarities: NDArray[np.float32]) -> Iterator[tuple[Tag, ...]]:
        logits = self._scale * similarities.astype(np.float64)
        highest = logits.max(axis=1, keepdims=True)
        log_total = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
        count = min(self._options.k, logits.shape[1])
        lowest = np.partition(similarities, -count, axis=1)[:, -count]
        for row, own in enumerate(similarities):
            enough = np.flatnonzero(own >= lowest[row])
            best = enough[np.argsort(-own[enough], kind="stable")[:count]]
            probabilities = np.exp(logits[row, best] - log_total[row])
            yield tuple(
                Tag(self._labels.names[label], probability, similarity)
                for label, probability, similarity in zip(
                    best.tolist(), probabilities.tolist(), own[best].tolist(), strict=True
                )
                if probability >= self._options.min_probability
            )


def tag_stored(snapshot: Snapshot, tagger: Tagger, *, under: bytes | None = None) -> Iterator[PhotoTags]:
    """The photos of `snapshot`, in and below the absolute directory `under` where it is given, in the order in which
    they are stored. No photo is read. The snapshot is closed when the last has been given.

    As in a search, photos that are missing are left out unless their root cannot be believed about it. That `under`
    was never indexed is logged as a warning.

    Raises:
        CollectionDamaged: a row's strings or its root cannot be found.
    """
    for sentence in () if under is None else notes_on_place(under, snapshot):
        _log.warning("%s", sentence)
    with snapshot:
        for candidates in _stored_photos(snapshot, under):
            for candidate, tags in zip(candidates, tagger.tags(snapshot.vectors(candidates)), strict=True):
                row = snapshot.row(candidate)
                yield PhotoTags(os.fsdecode(row.path), tags, id=row.id, missing=row.missing)


def stored_count(snapshot: Snapshot) -> int:
    """How many photos `snapshot` holds, missing ones and all folders included."""
    return sum(
        len(snapshot.live_rows(number))
        for number, segment in enumerate(snapshot.segments)
        if segment.info.kind == "image"
    )


def _stored_photos(snapshot: Snapshot, under: bytes | None) -> Iterator[list[Candidate]]:
    """What `tag_stored` goes through, some hundreds at a time. Their similarity is to nothing: 0."""
    places = None if under is None else places_under(snapshot.roots, under)
    visible = unhealthy_roots(snapshot)
    for number, segment in enumerate(snapshot.segments):
        if segment.info.kind != "image":
            continue
        every = np.arange(segment.info.rows)
        dead = np.setdiff1d(every, snapshot.live_rows(number), assume_unique=True)
        admitted = admitted_rows(segment, dead, roots=snapshot.roots, places=places, include_missing=visible)
        rows = every if admitted is None else np.flatnonzero(admitted)
        for start in range(0, len(rows), _PHOTOS_AT_ONCE):
            block = rows[start : start + _PHOTOS_AT_ONCE]
            ids = segment.ids[block]
            yield [Candidate(number, row, id, 0.0) for row, id in zip(block.tolist(), ids.tolist(), strict=True)]


def told(
    photos: Iterator[PhotoTags], progress: ProgressCallback | None, *, total: int | None = None
) -> Iterator[PhotoTags]:
    """`photos`, while `progress` hears of their number a few times a second."""
    if progress is None:
        yield from photos
        return
    done, due = 0, 0.0
    for done, photo in enumerate(photos, start=1):
        if time.monotonic() >= due:
            due = time.monotonic() + _TELL_EVERY_S
            progress(Progress("tag", done, total))
        yield photo
    progress(Progress("tag", done, done))
