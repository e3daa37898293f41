"""Which queries a report shows: those answered best and worst, each with what was returned for it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmsearch.errors import UnreadableFile
from mmsearch.eval.datasets import Direction as DirectionName
from mmsearch.eval.embeddings import Embedded, Embeddings
from mmsearch.eval.latency import spread
from mmsearch.eval.ranks import Ranks
from mmsearch.eval.relevance import Relevance
from mmsearch.eval.reranking import SecondLook
from mmsearch.eval.sides import Side
from mmsearch.images import load_rgb
from mmsearch.rerank import Scores, by_score, corrected
from mmsearch.safe_text import safe_path, safe_text

SHOWN_ANSWERS = 3
SHOWN_RIGHT = 2
THUMBNAIL_SIDE = 320
JPEG_QUALITY = 82
MOST_CANDIDATES = 2000  # rank-1 queries among which the clearest are looked for


@dataclass(frozen=True, slots=True)
class Item:
    """An image or a caption as it is shown.

    `picture` is a data URI, None for a caption and for a picture that cannot be read.
    """

    text: str
    picture: str | None
    right: bool = False
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One query, the rank of its best right answer, that answer, and what was returned first."""

    query: Item
    rank: int
    expected: tuple[Item, ...]
    returned: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples of one direction, the clearest first."""

    direction: DirectionName
    worst: tuple[Example, ...]
    best: tuple[Example, ...]

    @property
    def sections(self) -> tuple[tuple[str, str, tuple[Example, ...]], ...]:
        """Title, explanation and examples of both parts."""
        if self.direction == "text_to_image":
            return (
                (
                    "Sentences that found the wrong photos",
                    "The worst ranks; framed in green what was wanted.",
                    self.worst,
                ),
                ("Sentences that found theirs", "The first answer is right, by the widest margins.", self.best),
            )
        return (
            ("Photos that found the wrong sentences", "The worst ranks; in green what was wanted.", self.worst),
            ("Photos that found theirs", "The first answer is right, by the widest margins.", self.best),
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """One whole direction with its `ranks`, by the cosine or by what `look` made of it."""

    embedded: Embedded
    ranks: Ranks
    side: Side
    look: SecondLook | None = None


class _Scorer:
    """Scores the whole gallery of one direction for one query at a time."""

    def __init__(self, answered: Answered) -> None:
        self._queries, self._gallery = answered.side.embeddings(answered.embedded)
        self._look = answered.look

    def __call__(self, query: int) -> tuple[Scores, Embeddings]:
        """Return the final scores and the cosines (N,) of one query."""
        cosines: Embeddings = self._gallery @ self._queries[query]
        if self._look is None:
            return corrected(cosines, None), cosines
        return self._look.scores(cosines[np.newaxis], query)[0], cosines


def pick_examples(answered: Answered, *, count: int) -> Examples:
    """Return the `count` queries answered worst, and the `count` answered right with the largest margin.

    No image appears twice among the worst or the best of one direction, so that one odd photo does not fill the page.
    """
    ranks, side = answered.ranks, answered.side
    score = _Scorer(answered)
    margins = _margins(ranks, side, score)
    worst = np.lexsort((ranks.queries, -ranks.best))
    best = np.lexsort((ranks.queries, -margins))
    best = best[np.isfinite(margins[best])]
    view = _View(answered.embedded, side.direction, side.relevance)

    def examples(order: npt.NDArray[np.int64]) -> tuple[Example, ...]:
        found = []
        for place in _of_distinct_images(order, ranks, side, count=count).tolist():
            query = int(ranks.queries[place])
            scores, cosines = score(query)
            rows = by_score(scores)[:SHOWN_ANSWERS]
            found.append(view.example(query, int(ranks.best[place]), rows, cosines[rows]))
        return tuple(found)

    return Examples(side.direction, examples(worst[ranks.best[worst] > 1]), examples(best))


class _View:
    """Shows items of one direction."""

    def __init__(self, embedded: Embedded, direction: DirectionName, relevance: Relevance) -> None:
        self._embedded = embedded
        self._relevance = relevance
        self._query_half, self._gallery_half = direction.split("_to_")
        self._pictures: dict[int, str | None] = {}

    def example(
        self, query: int, rank: int, returned: npt.NDArray[np.int64], similarities: npt.NDArray[np.float32]
    ) -> Example:
        right = set(self._relevance.of(query).tolist())
        # What was wanted needs showing only where none of it came.
        wanted = [] if right & set(returned.tolist()) else sorted(right)
        return Example(
            query=self._item(self._query_half, query),
            rank=rank,
            expected=tuple(self._item(self._gallery_half, row) for row in wanted[:SHOWN_RIGHT]),
            returned=tuple(
                self._item(self._gallery_half, row, right=row in right, similarity=similarity)
                for row, similarity in zip(returned.tolist(), similarities.tolist(), strict=True)
            ),
        )

    def _item(self, half: str, row: int, *, right: bool = False, similarity: float | None = None) -> Item:
        dataset = self._embedded.dataset
        if half == "text":
            return Item(safe_text(dataset.captions[row]), None, right, similarity)
        if row not in self._pictures:
            self._pictures[row] = thumbnail(self._embedded, row)
        return Item(safe_path(dataset.image_ids[row]), self._pictures[row], right, similarity)


def thumbnail(embedded: Embedded, row: int) -> str | None:
    """Return a picture, encoded anew from its pixels alone, as a data URI; None if it cannot be read any more.

    Nothing else of the file gets into the report: no place, no date, no comment.
    """
    try:
        image = load_rgb(embedded.dataset.image_path(row), max_side=THUMBNAIL_SIDE)
    except UnreadableFile:
        return None
    buffer = io.BytesIO()
    # A new picture: Pillow would copy the comment and the colour profile that the old one carries along.
    Image.fromarray(np.asarray(image)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _margins(ranks: Ranks, side: Side, score: _Scorer) -> npt.NDArray[np.float64]:
    """Return by how much the best right answer beats the best wrong one, -inf where it is not the first."""
    margins = np.full(len(ranks.queries), -np.inf)
    first = np.flatnonzero(ranks.best == 1)
    for place in first[spread(len(first), MOST_CANDIDATES)].tolist():
        query = int(ranks.queries[place])
        scores, _ = score(query)
        right = side.relevance.of(query)
        best_right = scores[right].max()
        scores[right] = -np.inf
        margins[place] = best_right - scores.max() if len(right) < len(scores) else -np.inf
    return margins


def _of_distinct_images(order: npt.NDArray[np.int64], ranks: Ranks, side: Side, *, count: int) -> npt.NDArray[np.int64]:
    """Return the first `count` places of `order` whose images differ."""
    seen: set[int] = set()
    chosen: list[int] = []
    for place in order.tolist():
        query = int(ranks.queries[place])
        image = query if side.direction == "image_to_text" else int(side.relevance.of(query)[0])
        if image not in seen:
            seen.add(image)
            chosen.append(place)
        if len(chosen) == count:
            break
    return np.array(chosen, dtype=np.int64)
