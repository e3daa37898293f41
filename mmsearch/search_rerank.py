"""The second look of a search: what the candidates of one query go through between the index and the hits.

Hubness is corrected for the best candidates by cosine alone, from their mapped vectors; the evaluation corrects the
whole gallery. Both give the same order unless something from beyond that depth would have come to the front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import UsageError
from mmsearch.hubness import HubnessBank
from mmsearch.itm import MatchScorer, match_prob
from mmsearch.model import Model, TextStates
from mmsearch.model_facts import Direction
from mmsearch.rerank import below, best_block, by_score, corrected, rescored
from mmsearch.safe_text import safe_text
from mmsearch.snapshot import Candidate, Snapshot

# Candidates by cosine among which the correction may choose: enough that what it brings to the front is among them.
FEWEST_CORRECTED = 100
# Each costs a product with the whole bank, and nobody reads that far.
MOST_CORRECTED = 1000

Match: TypeAlias = Callable[[Sequence[Candidate]], NDArray[np.float32] | None]
"""Logits of the query beside each of some candidates; None where the photos lack the tokens it takes."""


@dataclass(frozen=True, slots=True)
class RerankPlan:
    """What one query is reranked with: a `bank` against hubs, a matching head (`scorer`), or both."""

    direction: Direction
    bank: HubnessBank | None
    scorer: MatchScorer | None

    def depth(self, k: int) -> int:
        """How many candidates by cosine are needed for the best `k`."""
        looked_at = 0 if self.scorer is None else self.scorer.facts.candidates
        return max(k, looked_at) if self.bank is None else max(FEWEST_CORRECTED, 2 * k, looked_at)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate in its final place. `match_prob` is None where the matching head was not asked about it."""

    candidate: Candidate
    score: float
    match_prob: float | None = None


def plan_rerank(
    model: Model, direction: Direction | None, *, asked: bool | None, hubs: bool = True
) -> RerankPlan | None:
    """What to rerank a search in `direction` with, None for nothing; `direction` is None where none can be reranked.

    `asked` is True to insist, False to do without, None for what the model can; without `hubs` only its matching head.

    Raises:
        UsageError: it was insisted on and is not possible; says why.
        ModelError: a file of the model is not what its manifest says.
    """
    if asked is False:
        return None
    if direction is None:
        if asked:
            raise _impossible("only a text that looks for images and an image that looks for texts can be reranked")
        return None
    bank, scorer = model.hubness(direction) if hubs else None, model.matcher
    if bank is None and scorer is None:
        if asked:
            raise _impossible(
                f"the model '{safe_text(model.name)}' has no image-text matching head and no bank against hubs for"
                f" {direction.replace('_', ' ')}"
            )
        return None
    if scorer is not None:
        scorer.load()
    return RerankPlan(direction, bank, scorer)


def match_images(scorer: MatchScorer, text: TextStates, snapshot: Snapshot, *, required: bool) -> Match:
    """How a sentence is matched with photos of `snapshot`; photos without tokens are an error if that is `required`."""

    def logits(candidates: Sequence[Candidate]) -> NDArray[np.float32] | None:
        tokens = snapshot.tokens(candidates)
        if tokens is not None:
            return scorer.logits(tokens, text.states, text.mask)
        if required:
            raise _impossible(
                "some of the photos were indexed without the tokens that the matching head reads; index them into a"
                " new collection"
            )
        return None

    return logits


def match_texts(scorer: MatchScorer, tokens: NDArray[np.int8], snapshot: Snapshot, model: Model) -> Match:
    """How a photo with these `tokens` (1, N, C) is matched with texts of `snapshot`, which are encoded again for it."""

    def logits(candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        texts = model.encode_texts_with_states([snapshot.row(candidate).text or "" for candidate in candidates])
        return scorer.logits(tokens, texts.states, texts.mask)

    return logits


def rerank(
    candidates: Sequence[Candidate], plan: RerankPlan, match: Match | None, *, snapshot: Snapshot
) -> list[Ranked]:
    """All `candidates`, which come by falling cosine, in their final order; `match` looks at the best of them.

    Raises:
        UsageError: `match` is required and not possible.
        CollectionDamaged: the snapshot's files do not fit together.
        ModelError: the model cannot be loaded.
    """
    near, far = candidates[:MOST_CORRECTED], candidates[MOST_CORRECTED:]
    if not near:
        return []
    scores = corrected(_cosines(near), None if plan.bank is None else plan.bank.bias(snapshot.vectors(near)))
    probabilities: dict[int, float] = {}
    if plan.scorer is not None and match is not None:
        block = best_block(scores, plan.scorer.facts.candidates)
        logits = match([near[row] for row in block.tolist()])
        if logits is not None:
            scores = rescored(scores, block, logits, plan.scorer.facts.weight)
            probabilities = dict(zip(block.tolist(), match_prob(logits).tolist(), strict=True))
    ranked = [Ranked(near[row], float(scores[row]), probabilities.get(row)) for row in by_score(scores).tolist()]
    tail = below(ranked[-1].score, _cosines(far).astype(np.float64))
    return ranked + [Ranked(candidate, score) for candidate, score in zip(far, tail.tolist(), strict=True)]


def _cosines(candidates: Sequence[Candidate]) -> NDArray[np.float32]:
    return np.array([candidate.similarity for candidate in candidates], np.float32)


def _impossible(why: str) -> UsageError:
    return UsageError(f"rerank is not possible: {why}; leave it off")
