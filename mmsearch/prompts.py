"""Labels -> embeddings: each label in several sentences, and the mean of what the model makes of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import ModelError, UsageError
from mmsearch.model import Model
from mmsearch.progress import Progress, ProgressCallback
from mmsearch.safe_text import plain_text, safe_text

PLACE = "{}"
# Things, what there is only one of, and what cannot be counted (sand, friends, New York); from near and from afar.
TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of {}.",
    "a picture of a {}.",
    "a close-up photo of a {}.",
)
# The label alone, as a template.
BARE: tuple[str, ...] = (PLACE,)

_MAX_CHARACTERS = 500
_LABELS_AT_ONCE = 256
# Sentences in one call of the model: larger batches are slower on a CPU, and small ones hardly wake a GPU.
_TEXTS_AT_ONCE, _GPU_TEXTS_AT_ONCE = 16, 256
_TELL_EVERY_S = 0.2
# Means of unit vectors this short have no direction worth the name.
_SHORTEST_MEAN = 1e-3


@dataclass(frozen=True, slots=True)
class LabelEmbeddings:
    """Labels as a model sees them: `names`, and one row of `embeddings`, float32 (L, dim), of length 1 for each."""

    names: tuple[str, ...]
    embeddings: NDArray[np.float32]


def checked_templates(templates: Iterable[str]) -> tuple[str, ...]:
    """`templates`, every one a sentence with `{}` where the label goes.

    Raises:
        UsageError: there is none, or one is not text, has no `{}`, or is absurdly long.
    """
    if isinstance(templates, str | bytes) or not isinstance(templates, Iterable):
        raise UsageError(f"templates is {type(templates).__name__}: expected a list of str")
    found = []
    for template in templates:
        shown = safe_text(repr(template))
        if not isinstance(template, str) or PLACE not in template:
            raise UsageError(f"the template {shown} has no {PLACE}: expected a sentence with {PLACE} for the label")
        if len(template) > _MAX_CHARACTERS:
            raise UsageError(f"a template has {len(template):,} characters: expected at most {_MAX_CHARACTERS}")
        found.append(plain_text(template))
    if not found:
        raise UsageError(f"there are no templates: give at least one, such as '{TEMPLATES[0]}', or '{PLACE}'")
    return tuple(found)


def embed_labels(
    labels: Sequence[str],
    model: Model,
    *,
    templates: Sequence[str] = TEMPLATES,
    progress: ProgressCallback | None = None,
) -> LabelEmbeddings:
    """The embedding of each label: the mean of the unit embeddings of its sentences, made of length 1 again.

    That is the prompt ensemble in embedding space of Radford et al. 2021 (arXiv 2103.00020, section 3.1.4). Memory
    beyond the result does not grow with the number of labels. What exceeds the model's limit of tokens is not read.

    Raises:
        ModelError: the model cannot be loaded, or the sentences of a label cancel each other out.
    """
    embeddings = np.empty((len(labels), model.dim), np.float32)
    # Of like lengths together: a batch is padded to its longest sentence.
    order = sorted(range(len(labels)), key=lambda number: len(labels[number]))
    told = -_TELL_EVERY_S
    for start in range(0, len(order), _LABELS_AT_ONCE):
        rows = order[start : start + _LABELS_AT_ONCE]
        if progress is not None and time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            progress(Progress("embed", start, len(order)))
        embeddings[rows] = _ensembles([labels[row] for row in rows], model, templates)
    if progress is not None:
        progress(Progress("embed", len(order), len(order)))
    return LabelEmbeddings(tuple(labels), embeddings)


def _ensembles(labels: Sequence[str], model: Model, templates: Sequence[str]) -> NDArray[np.float32]:
    """The unit mean (B, dim) over `templates` for each of `labels`."""
    total = np.zeros((len(labels), model.dim), np.float64)
    at_once = _GPU_TEXTS_AT_ONCE if model.encoder.on_gpu else _TEXTS_AT_ONCE
    for template in templates:
        total += model.encode_texts([template.replace(PLACE, label) for label in labels], batch_size=at_once)
    lengths = np.linalg.norm(total, axis=1, keepdims=True)
    if len(weak := np.flatnonzero(lengths[:, 0] < _SHORTEST_MEAN * len(templates))):
        label = safe_text(labels[int(weak[0])])
        raise ModelError(f"the sentences of the label '{label}' cancel each other out: give fewer templates")
    return np.asarray(total / lengths, np.float32)
