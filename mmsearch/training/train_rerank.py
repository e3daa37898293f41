"""What comes after the cosine in a newly trained model: a weight for its matching head, and banks against hubs.

Chosen on validation photos: each is kept where the right item moves up by it (mean reciprocal rank, both directions),
and left out where it does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsearch.hubness import HubnessBank
from mmsearch.itm import MatchScorer
from mmsearch.model import Model, TextStates
from mmsearch.model_facts import DIRECTIONS, Direction
from mmsearch.rerank import best_block, corrected, rescored
from mmsearch.training.captions import CaptionedImages

MOST_PHOTOS = 200  # to choose on: two hundred queries each way take some seconds
WEIGHTS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reranking:
    """The weight of the matching head's logit, 0 for leaving the head out, and the directions with a bank."""

    weight: float
    hubness: tuple[Direction, ...]


@dataclass(frozen=True)
class Sample:
    """N validation photos and one caption of each, in the eyes of the model that is to be written."""

    images: Floats
    tokens: npt.NDArray[np.int8] | None
    texts: Floats
    states: TextStates | None

    @classmethod
    def of(cls, model: Model, validation: CaptionedImages) -> Sample:
        """Return at most `MOST_PHOTOS` of `validation`, evenly spread."""
        count = min(MOST_PHOTOS, len(validation.paths))
        rows = np.linspace(0, len(validation.paths) - 1, count).astype(np.int64)
        owned = validation.captions_of()
        captions = [validation.captions[owned[row][0]] for row in rows]
        images, tokens = model.encode_images_with_tokens([validation.paths[row] for row in rows])
        if tokens is None:
            return cls(images, None, model.encode_texts(captions), None)
        states = model.encode_texts_with_states(captions)
        return cls(images, tokens, states.embeddings, states)

    def cosines(self, direction: Direction) -> Floats:
        """Return (query, item) cosines."""
        found: Floats = self.images @ self.texts.T
        return found.T if direction == "text_to_image" else found

    def items(self, direction: Direction) -> Floats:
        """Return the embeddings that are searched."""
        return self.images if direction == "text_to_image" else self.texts

    def logits(self, matcher: MatchScorer, direction: Direction, query: int, items: npt.NDArray[np.int64]) -> Floats:
        """Return the matching head's logits of `query` beside each of `items`."""
        if self.tokens is None or self.states is None:
            raise ValueError("the model has no matching head")
        one = slice(query, query + 1)
        photos, words = (items, one) if direction == "text_to_image" else (one, items)
        return matcher.logits(self.tokens[photos], self.states.states[words], self.states.mask[words])


def chosen(
    model: Model, validation: CaptionedImages, banks: Mapping[Direction, HubnessBank], *, usual: float
) -> Reranking:
    """Return what helps `model` on `validation`; among equal weights the one nearest to `usual`."""
    sample = Sample.of(model, validation)
    biases: dict[Direction, Floats | None] = {}
    for direction in DIRECTIONS:
        bank = banks.get(direction)
        bias = None if bank is None else bank.bias(sample.items(direction))
        plain, less = (_mean_reciprocal(corrected(sample.cosines(direction), each)) for each in (None, bias))
        biases[direction] = bias if less > plain else None
    weight = 0.0
    if (matcher := model.matcher) is not None:
        gains = np.sum([_gains(sample, matcher, direction, biases[direction]) for direction in DIRECTIONS], axis=0)
        weight = max(zip(WEIGHTS, gains, strict=True), key=lambda pair: (round(pair[1], 9), -abs(pair[0] - usual)))[0]
    return Reranking(weight, tuple(direction for direction, bias in biases.items() if bias is not None))


def _gains(sample: Sample, matcher: MatchScorer, direction: Direction, bias: Floats | None) -> npt.NDArray[np.float64]:
    """Return the summed reciprocal ranks of the right items for each of `WEIGHTS`."""
    scores = corrected(sample.cosines(direction), bias)
    summed: npt.NDArray[np.float64] = np.sum(list(_reciprocals(sample, matcher, direction, scores)), axis=0)
    return summed


def _reciprocals(
    sample: Sample, matcher: MatchScorer, direction: Direction, scores: npt.NDArray[np.float64]
) -> Iterator[list[float]]:
    for query, row in enumerate(scores):
        block = best_block(row, matcher.facts.candidates)
        logits = sample.logits(matcher, direction, query, block)
        finals = [rescored(row, block, logits, weight) for weight in WEIGHTS]
        yield [1.0 / int((final >= final[query]).sum()) for final in finals]


def _mean_reciprocal(scores: npt.NDArray[np.float64]) -> float:
    """Return the mean reciprocal rank of the diagonal; ties count against it."""
    return float((1.0 / (scores >= np.diagonal(scores)[:, None]).sum(1)).mean())
