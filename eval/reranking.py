"""The system's second look at a whole set: what hubness and the matching head make of the cosines, by the product's
own functions.

The whole gallery is corrected for hubs, the bias of each item computed once, while a search corrects its best
candidates by cosine; the two agree where nothing from beyond that depth would have come to the front. The best of each
query by corrected cosine then go through the matching head, as in a search. Images and captions that are equal share
one logit, so a tie stays a tie; at the edge of the block a tie counts against the model, as in `mmsearch.eval.ranks`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsearch.errors import UsageError
from mmsearch.eval.embeddings import Embedded, Embeddings
from mmsearch.eval.ranks import equal_rows, similarity_blocks
from mmsearch.eval.relevance import Rows
from mmsearch.eval.sides import Side
from mmsearch.itm import PAIRS_AT_ONCE
from mmsearch.model import Model
from mmsearch.progress import Progress, ProgressCallback
from mmsearch.rerank import Scores, best_block, corrected, rescored
from mmsearch.safe_text import safe_text

CAPTIONS_AT_ONCE = 16
BLOCK_BYTES = 16 * 2**20  # of float32 cosines; the corrected ones take twice as much


@dataclass(frozen=True, slots=True)
class SecondLook:
    """What is known beyond the cosines of one side with Q queries and a gallery of N.

    `biases` float32 (N,) are taken off the cosines. `blocks` int64 (Q, B) are the gallery rows that the matching head
    looked at for each query, `logits` float32 (Q, B) what it said, counting `weight` times; B is 0 without a head.
    """

    biases: npt.NDArray[np.float32] | None
    blocks: Rows
    logits: npt.NDArray[np.float32]
    weight: float

    def scores(self, cosines: Embeddings, first: int) -> Scores:
        """Return the final scores float64 (q, N) of the queries from row `first` on, whose cosines are (q, N)."""
        final = corrected(cosines, self.biases)
        for row in range(len(final)):
            final[row] = rescored(final[row], self.blocks[first + row], self.logits[first + row], self.weight)
        return final


def require_rerank(model: Model) -> None:
    """Refuse a model that has nothing to rerank with, before any work is done for it.

    Raises:
        UsageError: it has neither a matching head nor a bank against hubs.
    """
    if model.manifest.itm is None and not model.manifest.hubness:
        raise UsageError(
            f"rerank is not possible: the model '{safe_text(model.name)}' has no image-text matching head and no bank"
            " against hubs; leave it off"
        )


def look_again(
    embedded: Embedded, sides: Sequence[Side], model: Model, *, progress: ProgressCallback | None = None
) -> list[SecondLook]:
    """Return what the system makes of the cosines of each of `sides`; a pair that several ask for is matched once.

    `embedded` has the tokens of its images, where the model has a matching head.

    Raises:
        ModelError: the model cannot be loaded.
    """
    biases = [_biases(embedded, side, model) for side in sides]
    itm, matcher = model.manifest.itm, model.matcher
    size = 0 if itm is None else itm.candidates
    blocks = [_blocks(embedded, side, bias, size) for side, bias in zip(sides, biases, strict=True)]
    wanted = [_pairs(embedded, side, block) for side, block in zip(sides, blocks, strict=True)]
    pairs, places = np.unique(np.concatenate([each.reshape(-1, 2) for each in wanted]), axis=0, return_inverse=True)
    logits = np.zeros(0, np.float32)
    if matcher is not None and len(pairs):
        logits = _matched(embedded, pairs, model, progress)
    found = np.split(logits[places.reshape(-1)], np.cumsum([block.size for block in blocks])[:-1])
    weight = 0.0 if itm is None else itm.weight
    return [
        SecondLook(bias, block, own.reshape(block.shape), weight)
        for bias, block, own in zip(biases, blocks, found, strict=True)
    ]


def _biases(embedded: Embedded, side: Side, model: Model) -> npt.NDArray[np.float32] | None:
    bank = model.hubness(side.direction)
    if bank is None:
        return None
    gallery = side.embeddings(embedded)[1]
    biases = bank.bias(gallery)
    first, copies = equal_rows(gallery)
    biases[copies] = biases[first]
    return biases


def _blocks(embedded: Embedded, side: Side, biases: npt.NDArray[np.float32] | None, size: int) -> Rows:
    """Return the best gallery rows of each query (Q, B), B the smaller of `size` and the gallery."""
    queries, gallery = side.embeddings(embedded)
    blocks = np.empty((len(queries), min(size, len(gallery))), np.int64)
    if not size:
        return blocks
    for first, cosines in similarity_blocks(queries, gallery, block_bytes=BLOCK_BYTES):
        for row, scores in enumerate(corrected(cosines, biases), start=first):
            right = np.zeros(len(gallery), np.bool_)
            right[side.relevance.of(row)] = True
            blocks[row] = best_block(scores, blocks.shape[1], last=right)
    return blocks


def _pairs(embedded: Embedded, side: Side, blocks: Rows) -> Rows:
    """Return (caption row, image row) of all that `blocks` (Q, B) ask for, (Q, B, 2); of equal ones the first row."""
    asking = np.broadcast_to(side.queries[:, None], blocks.shape)
    among = side.gallery[blocks]
    captions, images = (asking, among) if side.direction == "text_to_image" else (among, asking)
    same_caption, same_image = _first_of_equal(embedded.dataset.captions), _first_of_equal(embedded.image_keys)
    return np.stack([same_caption[captions], same_image[images]], axis=-1)


def _first_of_equal(items: Sequence[Hashable]) -> Rows:
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(item, row) for row, item in enumerate(items)], np.int64)


def _matched(
    embedded: Embedded, pairs: Rows, model: Model, progress: ProgressCallback | None
) -> npt.NDArray[np.float32]:
    """Return the logits float32 (P,) of `pairs` (P, 2), which are sorted. Each caption is encoded once."""
    logits = np.empty(len(pairs), np.float32)
    done = 0
    for rows in _by_caption(embedded.dataset.captions, pairs):
        captions, of_pair = np.unique(pairs[rows, 0], return_inverse=True)
        text = model.encode_texts_with_states([embedded.dataset.captions[row] for row in captions.tolist()])
        for start in range(0, len(rows), PAIRS_AT_ONCE):
            some, own = rows[start : start + PAIRS_AT_ONCE], of_pair[start : start + PAIRS_AT_ONCE]
            logits[some] = _scored(embedded, pairs[some, 1], model, states=text.states[own], mask=text.mask[own])
        done += len(rows)
        if progress is not None:
            progress(Progress("rerank", done, len(pairs)))
    return logits


def _scored(
    embedded: Embedded, images: Rows, model: Model, *, states: npt.NDArray[np.float32], mask: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    if model.matcher is None or embedded.tokens is None:
        raise ValueError("the set was embedded without the tokens that the matching head reads")
    return model.matcher.logits(embedded.tokens[images], states, mask)


def _by_caption(captions: Sequence[str], pairs: Rows) -> Iterator[Rows]:
    """Yield the rows of `pairs`, sorted by caption, those of a few captions at a time and short captions first: texts
    of one length together, because a batch is padded to its longest.
    """
    asked, starts = np.unique(pairs[:, 0], return_index=True)
    ends = np.append(starts[1:], len(pairs))
    order = sorted(range(len(asked)), key=lambda place: len(captions[int(asked[place])]))
    for start in range(0, len(order), CAPTIONS_AT_ONCE):
        places = order[start : start + CAPTIONS_AT_ONCE]
        yield np.concatenate([np.arange(starts[place], ends[place]) for place in places])
